"""Random valid playbooks that read names only where they are assigned.

They nest sequences, forks with joins, choices, bounded cycles, loops, error cases and tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import yaml

Data = dict[str, Any]


@dataclass
class KnownNames:
    """The names that are assigned or may be assigned at a position of a branch.

    `may_end` is true if the branch may have ended before the position.
    """

    assigned: list[str]
    maybe_assigned: list[str] = field(default_factory=list)
    may_end: bool = False

    def copy(self) -> KnownNames:
        return KnownNames(list(self.assigned), list(self.maybe_assigned), may_end=False)


MAX_STEPS = 13


def generate_playbook(seed: int) -> str:
    """Return the valid playbook of a seed, with at most `MAX_STEPS` steps."""
    for attempt in count():
        generator = PlaybookGenerator(seed * 1_000 + attempt, 1 + seed % 4)
        text = generator.playbook()
        if len(generator.steps) <= MAX_STEPS:
            return text
    raise AssertionError


class PlaybookGenerator:
    """A generator of one playbook with about `size` blocks."""

    def __init__(self, seed: int, size: int = 4) -> None:
        self.random = Random(seed)
        self.size = size
        self.steps: list[Data] = []
        self.tasks: list[Data] = []
        self.count = 0
        self.is_forgiving = self.random.random() < 0.25
        self.data: Data = {"name": f"generated_{seed}"}

    def playbook(self) -> str:
        """Return the text of the playbook."""
        self.data["input"] = {
            "user": "integer",
            "limit": {"type": "integer", "default": 10},
            "items": "array",
        }
        self.data["environment"] = {"base": "https://api.example.com"}
        self.data["variables"] = {"round": 0}
        if self.is_forgiving:
            self.data["on_error"] = "continue"
        known = KnownNames([])
        first = self.sequence(self.size, known, None, depth=0, in_fork=False)
        self.data["start"] = first
        if self.random.random() < 0.3:
            last = self.fresh("tidy")
            self.steps.append({"name": last, "run": [_log("{{ run.status }}")]})
            self.data["finally"] = last
        self.random.shuffle(self.steps)
        if self.tasks:
            self.data["tasks"] = self.tasks
        self.data["steps"] = self.steps
        self.data["output"] = {
            name: f"{{{{ {name} | default(none) }}}}"
            for name in dict.fromkeys((*known.assigned[-2:], *known.maybe_assigned[-1:]))
        } or {"user": "{{ input.user }}"}
        return yaml.safe_dump(self.data, sort_keys=False, width=10_000, allow_unicode=True)

    def fresh(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def step(self, name: str, run: list[Data] | None, rule: Sequence[Data] = (), **more: Any) -> None:
        self.steps.append(
            {"name": name, **({"run": run} if run else {}), **({"rule": list(rule)} if rule else {}), **more}
        )

    def sequence(
        self, size: int, known: KnownNames, next_step: str | None, *, depth: int, in_fork: bool
    ) -> str:
        """Add a sequence of blocks that leads to `next_step`. Return its first step."""
        kinds: list[Callable[..., None]] = [
            self.work,
            self.choice,
            self.cycle,
            self.loop,
            self.error,
            self.call,
            self.ending,
        ]
        if depth < 2:
            kinds += [self.fork, self.fork, self.choice]
        names = [self.fresh("s") for _ in range(size)]
        for index, name in enumerate(names):
            following = names[index + 1] if index + 1 < size else next_step
            self.random.choice(kinds)(name, known, following, depth=depth, in_fork=in_fork)
        return names[0]

    # Blocks. Each adds steps that start with the named one and lead to `next_step`.

    def work(self, name: str, known: KnownNames, next_step: str | None, **_: Any) -> None:
        run, saved = self.actions(known)
        self.step(name, run, _go_to(next_step))
        known.assigned += saved

    def fork(self, name: str, known: KnownNames, next_step: str | None, *, depth: int, in_fork: bool) -> None:
        join = self.fresh("join")
        branches = []
        ends = []
        for _ in range(self.random.choice([2, 2, 3])):
            inside = known.copy()
            branches.append(
                self.sequence(self.random.choice([1, 1, 2]), inside, join, depth=depth + 1, in_fork=True)
            )
            ends.append(inside)
        self.step(name, None, [{"case": "default", "run": branches}])
        before = set(known.assigned)
        is_sure = not self.is_forgiving and not any(end.may_end for end in ends)
        for end in ends:
            new = [n for n in end.assigned if n not in before]
            known.maybe_assigned += [n for n in end.maybe_assigned if n not in known.maybe_assigned]
            if is_sure:
                known.assigned += new
            else:
                known.maybe_assigned += new
        if not is_sure and in_fork:
            known.may_end = True
        run, saved = self.actions(known)
        self.step(join, run, _go_to(next_step))
        known.assigned += saved

    def choice(
        self, name: str, known: KnownNames, next_step: str | None, *, depth: int, in_fork: bool
    ) -> None:
        request, guards = self.request_with_guards(known)
        common = self.fresh("v")
        end = next_step
        if end is None:
            end = self.fresh("end")
            self.step(end, [_log(f"{{{{ {common} }}}}")])
        rule = []
        before = set(known.assigned)
        for guard in [*guards, "default"]:
            inside = known.copy()
            if self.random.random() < 0.6 and depth < 2:
                leg = self.fresh("leg")
                first = self.sequence(1, inside, leg, depth=depth + 1, in_fork=in_fork)
            else:
                first = leg = self.fresh("leg")
            self.step(leg, [_set(common, self.value(inside))], _go_to(end))
            known.maybe_assigned += [
                n
                for n in (*inside.assigned, *inside.maybe_assigned)
                if n not in before and n not in known.maybe_assigned
            ]
            known.may_end |= inside.may_end
            rule.append({"case": guard, "run": [first]})
        known.assigned.append(common)
        self.step(name, [request], rule)

    def cycle(self, name: str, known: KnownNames, next_step: str | None, **_: Any) -> None:
        counter = self.fresh("n")
        out = next_step or self.fresh("end")
        if next_step is None:
            self.step(out, [_log("enough")])
        bound = self.random.choice([1, 2, 3])
        saved = self.fresh("v")
        run = [self.request(known, saved), _set(counter, "{{ step.visit }}")]
        rule: list[Data] = [{"case": "error", "run": [out]}]
        guard = f"{{{{ {saved}.body.more }}}}"
        if self.random.random() < 0.5:
            body = self.fresh("again")
            self.step(body, [_log(f"{{{{ {counter} }}}}")], [{"case": "default", "run": [name]}])
            rule.append({"case": guard, "run": [body]})
        else:
            rule.append({"case": guard, "run": [name]})
        rule.append({"case": "default", "run": [out]})
        self.step(name, run, rule, max_visits=bound)
        known.maybe_assigned += [saved, counter]

    def loop(self, name: str, known: KnownNames, next_step: str | None, **_: Any) -> None:
        local = self.fresh("each")
        run = [
            {"action": "http", "url": f"{{{{ environment.base }}}}/{{{{ {local} }}}}", "as": "reply"},
            _set("seen", "{{ reply.status }}"),
        ]
        self.step(name, run, _go_to(next_step), loop={"items": "{{ input.items }}", "as": local})

    def error(self, name: str, known: KnownNames, next_step: str | None, **_: Any) -> None:
        saved, common = self.fresh("v"), self.fresh("v")
        good, bad = self.fresh("good"), self.fresh("bad")
        guard = self.random.choice(["error", "{{ error }}", "{{ error is not none }}"])
        self.step(
            name,
            [self.request(known, saved)],
            [{"case": guard, "run": [bad]}, {"case": "default", "run": [good]}],
        )
        self.step(good, [_set(common, f"{{{{ {saved}.body.id }}}}")], _go_to(next_step))
        self.step(
            bad,
            [_log(f"{{{{ steps['{name}'].error.message }}}}"), _set(common, "none at all")],
            _go_to(next_step),
        )
        known.maybe_assigned.append(saved)
        known.assigned.append(common)

    def call(self, name: str, known: KnownNames, next_step: str | None, **_: Any) -> None:
        task, saved = self.fresh("task"), self.fresh("v")
        run = [
            {"action": "shell", "command": "echo {{ args.what }}", "as": saved},
            {
                "action": "postgres",
                "connection": "{{ secrets.DSN }}",
                "query": "select {{ args.what }}",
                "fetch": "none",
            },
        ]
        self.tasks.append({"name": task, "run": run[: self.random.choice([1, 2])]})
        self.step(name, [{"task": task, "with": {"what": self.value(known)}}], _go_to(next_step))
        known.assigned.append(saved)

    def ending(self, name: str, known: KnownNames, next_step: str | None, *, in_fork: bool, **_: Any) -> None:
        """Add a choice of which one case ends the branch, with or without work."""
        request, guards = self.request_with_guards(known)
        last = self.random.choice([[], [_log(self.value(known))]])
        rule: list[Data] = [{"case": guards[0], "run": last}, {"case": "default", "run": [next_step]}]
        self.step(name, [request], rule if next_step else [])
        known.may_end |= in_fork and next_step is not None

    # Contents of steps.

    def actions(self, known: KnownNames) -> tuple[list[Data], list[str]]:
        """Return work that saves one name or two, and the names."""
        run: list[Data] = []
        saved: list[str] = []
        inside = KnownNames(list(known.assigned), list(known.maybe_assigned))
        for _ in range(self.random.choice([1, 1, 2])):
            name = self.fresh("v")
            kind = self.random.randrange(5)
            if kind == 0:
                run.append(self.request(inside, name))
            elif kind == 1:
                run.append({"action": "shell", "command": f"echo {self.value(inside)}", "as": name})
            elif kind == 2:
                query = f"select * from users where id = {self.value(inside)}"
                run.append(
                    {"action": "postgres", "connection": "{{ secrets.DSN }}", "query": query, "as": name}
                )
            else:
                run.append(_set(name, self.value(inside)))
            saved.append(name)
            inside.assigned.append(name)
        if self.random.random() < 0.3 and inside.maybe_assigned:
            name = self.random.choice(inside.maybe_assigned)
            run.append(_log(f"{{{{ {name} | default('nothing') }}}}"))
        return run, saved

    def request(self, known: KnownNames, saved: str) -> Data:
        return {"action": "http", "url": f"{{{{ environment.base }}}}/users/{self.value(known)}", "as": saved}

    def value(self, known: KnownNames) -> str:
        """Return a template that reads an assigned name, an input or the name of the step."""
        if known.assigned and self.random.random() < 0.8:
            return f"{{{{ {self.random.choice(known.assigned)} }}}}"
        return self.random.choice(["{{ input.user }}", "{{ input.limit }}", "{{ step.name }}"])

    def request_with_guards(self, known: KnownNames) -> tuple[Data, list[str]]:
        """Return a request, and one or two guards over its response that may be true."""
        name = self.fresh("v")
        request = self.request(known, name)
        known.assigned.append(name)
        kind = self.random.randrange(4)
        if kind == 0:
            return request, [f"{{{{ {name}.body.kind == 'a' }}}}", f"{{{{ {name}.body.kind == 'b' }}}}"]
        if kind == 1:
            return request, [f"{{{{ {name}.body.number > 20 }}}}", f"{{{{ {name}.body.number > 10 }}}}"]
        if kind == 2:
            return request, [
                f"{{{{ {name}.body.ready and {self.random.choice(known.assigned)} is defined }}}}"
            ]
        return request, [f"{{{{ not {name}.body.ready }}}}"]


def _go_to(next_step: str | None) -> list[Data]:
    return [] if next_step is None else [{"case": "default", "run": [next_step]}]


def _set(name: str, value: str) -> Data:
    return {"action": "set", "set": {name: value}}


def _log(message: str) -> Data:
    return {"action": "log", "message": message}
