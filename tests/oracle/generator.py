"""A generator of random playbooks, with the inputs of one run.

Problem: find playbooks for which the executor and the reference disagree. Most playbooks must compile, and
the values of names must show what a step sees.

Algorithm: a random grammar (Purdom 1972). First a flow is drawn: nested chains, choices, forks and rounds,
with some edges that leave them, or a loose graph. Then each step gets work that records what it reads in a
name of its own. Steps also write a few shared names.

Cost: a millisecond for a playbook.

Limits: `MAX_STEPS` steps. Values stay small: a step records shared names, which hold numbers and words, and
never the record of another step.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.oracle.run_case import RunCase

Data = dict[str, Any]

MAX_STEPS = 14
SHARED_NAMES = ("a", "b", "c")
CHILD_NAME = "child"
CHILD: Data = {
    "name": CHILD_NAME,
    "input": {"x": {"type": "integer", "default": 0}},
    "steps": [
        {
            "name": "only",
            "run": [
                {"action": "fail", "if": "{{ input.x > 1 }}", "message": "no", "type": "Small"},
                {"action": "set", "set": {"y": "{{ input.x + 1 }}"}},
            ],
        }
    ],
    "output": {"y": "{{ y }}"},
}


def generate(seed: int, max_steps: int = MAX_STEPS) -> RunCase:
    """Return the playbook of a seed."""
    random = Random(seed)
    flow = _Flow(random, max_steps)
    return _Writer(random, flow).write(f"random_{seed}")


class _Flow:
    """Steps and their cases: for each step a list of (kind of guard, targets)."""

    def __init__(self, random: Random, max_steps: int) -> None:
        self.random = random
        self.cases: dict[str, list[tuple[str, list[str]]]] = {}
        self.limits: dict[str, int] = {}
        self.rounds: list[tuple[str, str]] = []
        size = random.randint(2, max_steps)
        if random.random() < 0.75:
            self._block(size)
            self._add_exits()
        else:
            self._loose(min(size, 9))

    def _step(self) -> str:
        name = f"s{len(self.cases)}"
        self.cases[name] = []
        return name

    def _block(self, size: int) -> tuple[str, str]:
        """Draw a block of about `size` steps, and return its first and its last step."""
        random = self.random
        if size <= 2:
            return self._chain(size)
        draw: Callable[[int], tuple[str, str]] = random.choices(
            [self._chain, self._choice, self._fork, self._round], [2, 2, 5, 2]
        )[0]
        return draw(size)

    def _chain(self, size: int) -> tuple[str, str]:
        first = last = self._step()
        if size > 1:
            following, last = self._block(size - 1)
            self.cases[first].append(("default", [following]))
        return first, last

    def _sides(self, size: int) -> list[tuple[str, str]]:
        count = self.random.choice([2, 2, 2, 3]) if size > 4 else 2
        return [self._block(max(1, size // count)) for _ in range(count)]

    def _choice(self, size: int) -> tuple[str, str]:
        first = self._step()
        sides = self._sides(size - 2)
        last = self._step()
        for index, (start, end) in enumerate(sides):
            self.cases[first].append(("input" if index < len(sides) - 1 else "default", [start]))
            self.cases[end].append(("default", [last]))
        return first, last

    def _fork(self, size: int) -> tuple[str, str]:
        first = self._step()
        sides = self._sides(size - 2)
        targets = [start for start, _ in sides]
        last = self._step()
        if self.random.random() < 0.15:
            targets.append(last)
        self.random.shuffle(targets)
        self.cases[first].append(("default", targets))
        for _, end in sides:
            self.cases[end].append(("default", [last]))
        return first, last

    def _round(self, size: int) -> tuple[str, str]:
        first, end = self._block(size - 2)
        last = self._step()
        self.limits[first] = self.random.choice([1, 2, 2, 3])
        self.rounds.append((first, end))
        guard = self.random.choice(["again", "again", "input"])
        self.cases[end] = [*self.cases[end], (guard, [first]), ("default", [last])]
        return first, last

    def _add_exits(self) -> None:
        """Add cases before others, which end a branch or lead to a later step."""
        random = self.random
        names = list(self.cases)
        for _ in range(random.choice([0, 0, 1, 1, 2, 3])):
            name = random.choice(names)
            later = names[names.index(name) + 1 :]
            pool: list[list[str]] = [[]]
            if later:
                pool += [[random.choice(later)], random.sample(later, min(2, len(later)))]
            self.cases[name].insert(0, (random.choice(["input", "input", "name"]), random.choice(pool)))

    def _loose(self, size: int) -> None:
        random = self.random
        names = [self._step() for _ in range(size)]
        for index, name in enumerate(names):
            later = names[index + 1 :]
            for kind in random.choice([["default"], ["default"], ["input", "default"], ["name", "default"]]):
                count = min(random.choice([0, 1, 1, 2, 2, 3]), len(later))
                near = later[: count + 2]
                self.cases[name].append((kind, random.sample(near, min(count, len(near)))))
        if random.random() < 0.3:
            start, end = sorted(random.choices(range(size), k=2))
            self.limits[names[start]] = random.choice([1, 2, 3])
            self.cases[names[end]].insert(0, ("again", [names[start]]))


class _Writer:
    """The writer of one playbook: it gives the steps of a flow their work, guards and options."""

    def __init__(self, random: Random, flow: _Flow) -> None:
        self.random = random
        self.flow = flow
        self.names = list(flow.cases)
        self.inputs: dict[str, Any] = {}
        self.variables: dict[str, Any] = {}
        self.tasks: list[Data] = []
        self.joins = {name: random.choice(["any", "each"]) for name in self.names if random.random() < 0.08}
        self.writers = self._choose_writers()
        self.written = sorted({name for shared in self.writers.values() for name in shared})
        self.has_child = False

    def _choose_writers(self) -> dict[str, list[str]]:
        """Return for each step the shared names that it writes."""
        random = self.random
        writers: dict[str, list[str]] = {}
        for name in random.sample(SHARED_NAMES, random.choice([1, 1, 2, 3])):
            pool = self._draw_path() if random.random() < 0.9 else self.names
            for step in random.sample(pool, min(len(pool), random.choice([1, 2, 2, 3]))):
                writers.setdefault(step, []).append(name)
        return writers

    def _draw_path(self) -> list[str]:
        """Draw a path from the first step. Its steps are rarely active at the same time."""
        path = [self.names[0]]
        while True:
            targets = [name for _, case in self.flow.cases[path[-1]] for name in case if name not in path]
            if not targets:
                return path
            path.append(self.random.choice(targets))

    def write(self, name: str) -> RunCase:
        random = self.random
        self.variables |= {shared: 0 for shared in SHARED_NAMES if random.random() < 0.3}
        self.assigned = sorted({*self.written, *self.variables})
        steps = [self._step(step) for step in self.names]
        playbook: Data = {"name": name, **self._header()}
        if random.random() < 0.15:
            steps.append(self._finally_step())
            playbook["finally"] = "tidy"
        output = self._output() if random.random() < 0.6 else None
        if random.random() < 0.1:
            playbook["start"] = self.names[0]
            random.shuffle(steps)
        playbook["input"], given = self._declare_inputs()
        sections = {"variables": self.variables, "tasks": self.tasks, "steps": steps}
        playbook |= {section: value for section, value in sections.items() if value}
        if output is not None:
            playbook["output"] = output
        return RunCase(playbook, (CHILD,) if self.has_child else (), given)

    def _header(self) -> Data:
        """Return options of the whole playbook."""
        random = self.random
        header: Data = {}
        if random.random() < 0.35:
            header["mode"] = "sequential"
        if random.random() < 0.5:
            header["on_error"] = "continue"
        if random.random() < 0.1:
            header["retry"] = {"attempts": 2, "delay": 20, "jitter": False}
        return header

    def _declare_inputs(self) -> tuple[Data, Data]:
        """Return the declarations of inputs, and the inputs of the run. Some are left to their defaults."""
        random = self.random
        declared: Data = {}
        given: Data = {}
        for name, value in self.inputs.items():
            has_default = random.random() < 0.5
            declared[name] = {"type": "integer", "default": value} if has_default else "integer"
            if not has_default or random.random() < 0.5:
                given[name] = random.choice([0, 1, 2])
        return declared, given

    def _step(self, name: str) -> Data:
        random = self.random
        step: Data = {"name": name}
        saves = self.joins.get(name) != "each" or random.random() < 0.1
        items = self._items(name) if saves else [self._failure()] if random.random() < 0.2 else []
        if items:
            step["run"] = items
        if saves:
            self._add_options(name, step)
        rule = self._rule(name)
        if rule:
            step["rule"] = rule
        if "run" not in step and not rule:
            step["run"] = [{"action": "log", "message": "nothing"}]
        if name in self.flow.limits:
            step["max_visits"] = self.flow.limits[name]
        if name in self.joins:
            step["join"] = self.joins[name]
        if random.random() < 0.08:
            step["on_error"] = random.choice(["abort", "continue"])
        return step

    def _add_options(self, name: str, step: Data) -> None:
        """Add at most one of the options that change how often the work of a step is performed."""
        random = self.random
        items = step.get("run", [])
        kind = random.choices(["", "parallel", "retry", "repeat", "loop"], [14, 2, 2, 1, 1])[0]
        if kind == "parallel" and len(items) > 1:
            step["parallel"] = True
        elif kind == "retry":
            enough = random.choice([2, 2, 3])
            command = f"exit {{{{ 1 if step.attempt < {enough} else 0 }}}}"
            items.append({"action": "shell", "command": command})
            step["run"] = items
            step["retry"] = self._retry()
        elif kind == "repeat":
            count = f"r_{name}"
            self.variables[count] = 0
            items.append({"action": "set", "set": {count: f"{{{{ {count} + 1 }}}}"}})
            step["run"] = items
            until = f"{{{{ {count} >= {random.choice([1, 2, 3])} }}}}"
            step["repeat"] = {"until": until, "every": random.choice([0, 30]), "max": 2}
        elif kind == "loop":
            self.tasks = [task for task in self.tasks if task["name"] != f"t_{name}"]
            step["loop"] = self._loop_options()
            step["run"] = [
                {"action": "fail", "if": "{{ item > 2 }}", "message": "no", "type": "Item"},
                {"action": "set", "set": {f"l_{name}": "{{ item + loop.index }}"}},
            ]

    def _loop_options(self) -> Data:
        random = self.random
        options: Data = {"items": random.choice([[], [1], [1, 2], [1, 3, 2], "{{ [1, 2] }}"])}
        if random.random() < 0.5:
            options["on_error"] = "continue"
        if random.random() < 0.4:
            options["batch"] = random.choice([1, 2])
        if random.random() < 0.3:
            options["concurrency"] = 2
        return options

    def _items(self, name: str) -> list[Data]:
        random = self.random
        items: list[Data] = []
        if random.random() < 0.6:
            items.append({"action": "set", "set": {f"v_{name}": self._record()}})
            if random.random() < 0.05:
                items[-1]["set"][f"y_{name}"] = "{{ step.visit }}"
        items += [self._write_shared(name, shared) for shared in self.writers.get(name, [])]
        makers = [
            (3, self._failure),
            (2, lambda: {"action": "wait", "seconds": random.choice([1, 5, 60])}),
            (2, lambda: self._task_call(name)),
            (2, lambda: self._item_loop(name)),
            (1, lambda: self._child_call(name)),
            (1, lambda: {"action": "log", "message": f"{{{{ {random.choice(self.assigned)} }}}}"}),
        ]
        if random.random() < 0.3:
            maker = random.choices([maker for _, maker in makers], [weight for weight, _ in makers])[0]
            items.insert(random.randint(0, len(items)), maker())
        return items

    def _write_shared(self, name: str, shared: str) -> Data:
        random = self.random
        number = int(name[1:])
        value = random.choice([number, number, f"{{{{ ({shared} | default(0)) | int + 1 }}}}"])
        item: Data = {"action": "set", "set": {shared: value}}
        if random.random() < 0.2:
            item["if"] = self._condition()
        return item

    def _record(self) -> str:
        """Return a template that shows what a step or `output` reads."""
        reads = [self._read() for _ in range(self.random.choice([1, 2, 2, 3]))]
        return f"{{{{ [{', '.join(reads)}] }}}}"

    def _read(self) -> str:
        random = self.random
        step = random.choice(self.names)
        return random.choices(
            [
                f"{random.choice(SHARED_NAMES)} | default('none')",
                f"v_{step} is defined",
                f"steps.{step}.status",
                f"steps.{step}.visits",
                f"(steps.{step}.result | default('none')) is none",
                f"(steps.{step}.error | default(none)) is none",
            ],
            [12, 2, 2, 0.4, 1, 1],
        )[0]

    def _failure(self) -> Data:
        random = self.random
        item: Data = {"action": "fail", "message": "no", "type": random.choice(["Boom", "Bang"])}
        if random.random() < 0.2:
            item = {"action": "shell", "command": "exit 3"}
        if random.random() < 0.7:
            item["if"] = self._condition()
        if random.random() < 0.2:
            item["on_error"] = "continue"
        if random.random() < 0.2:
            item["retry"] = self._retry()
        return item

    def _retry(self) -> Data:
        random = self.random
        retry: Data = {"attempts": random.choice([2, 2, 3]), "delay": 30, "jitter": False}
        if random.random() < 0.2:
            retry["if"] = random.choice(["{{ error.type == 'CommandFailed' }}", "{{ error.attempt > 1 }}"])
        return retry

    def _task_call(self, name: str) -> Data:
        random = self.random
        task = f"t_{name}"
        self.tasks.append(
            {
                "name": task,
                "run": [
                    {"action": "set", "set": {f"w_{name}": "{{ args.x + 1 }}"}},
                    {"action": "fail", "if": "{{ args.x > 1 }}", "message": "no", "type": "InTask"},
                    {"action": "set", "set": {f"w_{name}": f"{{{{ w_{name} + 1 }}}}"}},
                ][: random.choice([1, 2, 3])],
            }
        )
        call: Data = {"task": task, "with": {"x": f"{{{{ input.{self._input()} }}}}"}}
        if random.random() < 0.4:
            call["as"] = f"u_{name}"
        if random.random() < 0.2:
            call["on_error"] = "continue"
        if random.random() < 0.2:
            call["if"] = self._condition()
        return call

    def _item_loop(self, name: str) -> Data:
        random = self.random
        options = self._loop_options()
        options.pop("batch", None)
        if random.random() < 0.5:
            return {"action": "set", "set": {"n": "{{ item * 2 }}"}, "loop": options, "as": f"x_{name}"}
        return {
            "action": "fail",
            "if": "{{ item > 2 }}",
            "message": "no",
            "type": "Item",
            "loop": options,
            "as": f"x_{name}",
        }

    def _child_call(self, name: str) -> Data:
        self.has_child = True
        input = {"x": f"{{{{ input.{self._input()} }}}}"}
        return {"action": "workflow", "playbook": CHILD_NAME, "input": input, "as": f"c_{name}"}

    def _input(self) -> str:
        name = self.random.choice(["i", "j", "k", "l"])
        self.inputs.setdefault(name, self.random.choice([0, 1, 2]))
        return name

    def _condition(self) -> str:
        """Return a guard over an input."""
        return f"{{{{ input.{self._input()} {self.random.choice(['==', '>', '<'])} 1 }}}}"

    def _rule(self, name: str) -> list[Data]:
        random = self.random
        cases = self.flow.cases[name]
        rule: list[Data] = []
        if random.random() < 0.15:
            rule.append(self._error_case(name))
        if random.random() < 0.05:
            self.inputs.setdefault("zero", 0)
            rule.append({"case": "{{ 1 // (input.zero * 0) > 0 }}", "run": []})
        for kind, targets in cases:
            if kind == "default" and any(case["case"] == "default" for case in rule):
                # A second `default` becomes a second guard: the first one that is true is taken.
                continue
            rule.append({"case": self._guard(kind), "run": list(targets)})
        if random.random() < 0.06:
            rule.insert(
                random.randint(0, len(rule)),
                {"case": self._condition(), "run": [{"action": "set", "set": {f"p_{name}": self._record()}}]},
            )
        return rule

    def _error_case(self, name: str) -> Data:
        random = self.random
        guard = random.choice(
            ["error", "{{ error }}", "{{ not result.success }}", "{{ error and error.type == 'Boom' }}"]
        )
        later = self.names[self.names.index(name) + 1 :]
        targets = [random.choice(later)] if later and random.random() < 0.6 else []
        return {"case": guard, "run": targets}

    def _guard(self, kind: str) -> str:
        random = self.random
        if kind == "default":
            return "default"
        if kind == "input":
            return self._condition()
        if kind == "name":
            shared = random.choice(SHARED_NAMES)
            return random.choice(
                [
                    f"{{{{ {random.choice(self.assigned)} is defined }}}}",
                    f"{{{{ {shared} | default(0) == {random.choice([0, 1, 2])} }}}}",
                    "{{ result.skipped }}",
                ]
            )
        if random.random() < 0.4:
            return "{{ true }}" if random.random() < 0.3 else "{{ step.visit < 3 }}"
        shared = random.choice(SHARED_NAMES)
        return f"{{{{ {shared} | default(0) | int < {random.choice([2, 3])} }}}}"

    def _finally_step(self) -> Data:
        random = self.random
        run: list[Data] = [{"action": "set", "set": {"v_tidy": f"{{{{ [run.status, {self._read()}] }}}}"}}]
        if random.random() < 0.3:
            run.append(self._failure())
        return {"name": "tidy", "run": run}

    def _output(self) -> Data:
        random = self.random
        output: Data = {"o": self._record()}
        for name in random.sample(self.names, min(len(self.names), 3)):
            output[f"o_{name}"] = f"{{{{ v_{name} | default('none') }}}}"
        if random.random() < 0.2:
            output["bare"] = f"{{{{ {random.choice(self.assigned)} }}}}"
        return output
