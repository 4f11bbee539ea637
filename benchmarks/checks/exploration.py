"""Every way a playbook can go, walked by the executor itself.

The walker of production performs every visit, on a store that is a value: templates are evaluated, guards decided, names
handed on and joins fired as in a run. Only what actions do outside is replaced by what they may give (`samples.py`) and by
failures; every alternative is explored, and so is every order in which visits can end.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Self, cast
from unittest.mock import patch

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call
from noetl.executor.engine import attempts, loop, perform
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.json_values import write_json
from noetl.executor.model.run import Claim, Commit, Lease, Run, RunStatus, Visit, VisitStatus
from noetl.executor.model.special_visits import FINALLY_CLOCK, end_visit, finally_visit_id
from noetl.executor.model.sql import Bind, Sql
from noetl.executor.model.transition import MAX_CLAIMS, final_status
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.plan import MAX_COUNTED_VISITS, Action, Header, Loop, Plan, Step, Task, Work
from noetl.planner.templates.template import EvaluationError, Lookup, has_template, parse_template

from benchmarks.checks.samples import MOST_BEGINNINGS, Samples
from tests.state_space import RunState, StateSpaceExplorer

MOST_WORLDS = 2_000
"""How many states are looked at in all orders, and how many more in one order when that is not enough."""
MOST_VISITS = 40
"""A run with more visits has no bound, where its plan names none."""
MOST_ROUNDS = 2
MOST_COMPARED = 200
LONGEST_CYCLE = 12
LOST = (-1,)
"""What is done by a visit whose workers die, among the scripts of choices."""
CHOSEN = "it was chosen to fail"
WRONG = frozenset(
    {"UndefinedName", "TemplateError", "ParameterError", "LimitExceeded", "Misquoted", "UnknownTask"}
)
"""Failures that are the playbook's own fault."""
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_PLACEHOLDER = "\x00"


@dataclass(frozen=True, order=True)
class Mistake:
    """A failure that is the playbook's own fault: where it was met, of which type, and what it says."""

    step: str | None
    type: str
    message: str

    @property
    def name(self) -> str | None:
        """The undefined name."""
        found = re.search(r"`([^`]+)` is undefined(?! in )", self.message)
        return found and found[1]

    @property
    def word(self) -> str | None:
        """The undefined name or attribute."""
        found = re.search(r"`([^`]+)` is undefined in ", self.message)
        return self.name or (found and found[1])


Behind = frozenset[tuple[str, bool]]
"""Steps that were visited before something, each with whether it failed."""


@dataclass(frozen=True)
class Ending:
    """How one run went: its visits with the cases they took, what it gave, what it did outside, in no order."""

    beginning: str
    deeds: frozenset[tuple[Any, Any]]
    status: str
    result: str
    visits: tuple[tuple[str, int], ...]
    effects: tuple[str, ...]


@dataclass
class Explored:
    """What all runs of a plan have shown. `is_whole` is false where there were too many states to look at, `all_beginnings` where
    there were too many inputs to begin with.

    `first` are the mistakes that were met where none had been before: others may follow from those. `met` tells, of names without
    a value at a step, which visits had ended before, and whether they had failed. `writers` are two steps that saved one name at
    one time, `races` those that saved different values.
    """

    mistakes: set[Mistake] = field(default_factory=set)
    first: set[Mistake] = field(default_factory=set)
    met: dict[tuple[str | None, str | None], set[Behind]] = field(default_factory=dict)
    visited: set[str] = field(default_factory=set)
    taken: set[tuple[str, int]] = field(default_factory=set)
    missing: set[tuple[str, str]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    races: set[tuple[str, str, str]] = field(default_factory=set)
    writers: set[tuple[str, str, str]] = field(default_factory=set)
    endings: set[Ending] = field(default_factory=set)
    most_visits: int = 0
    is_endless: bool = False
    is_whole: bool = True
    all_orders: bool = True
    all_beginnings: bool = True
    rejected: set[str] = field(default_factory=set)
    worlds: int = 0

    @property
    def depends_on_order(self) -> bool:
        """Whether runs differ that begin alike, do not fail and in which every visit that both have goes the same way."""
        alike: dict[str, list[Ending]] = {}
        for run in self.endings:
            if run.status != "failed":
                alike.setdefault(run.beginning, []).append(run)
        return any(
            (one.visits, one.result) != (other.visits, other.result) and _agree(one.deeds, other.deeds)
            for endings in alike.values()
            for one, other in combinations(endings[:MOST_COMPARED], 2)
        )

    @property
    def outcomes(self) -> set[tuple[str, str, tuple[str, ...]]]:
        return {(ending.status, ending.result, ending.effects) for ending in self.endings}


def _agree(one: frozenset[tuple[Any, Any]], other: frozenset[tuple[Any, Any]]) -> bool:
    differ = one ^ other
    return len({at for at, _ in differ}) == len(differ)


@dataclass
class Choices:
    """The alternatives taken so far while something is performed: those of a script, then the first of each."""

    script: tuple[int, ...]
    sizes: list[int] = field(default_factory=list)

    def choose(self, size: int) -> int:
        at = len(self.sizes)
        self.sizes.append(size)
        return self.script[at] if at < len(self.script) else 0

    @property
    def taken(self) -> tuple[int, ...]:
        return (*self.script, *(0 for _ in self.sizes[len(self.script) :]))

    def alternatives(self) -> Iterator[tuple[int, ...]]:
        """The scripts that differ from this one behind its end."""
        taken = self.taken
        for at in range(len(self.script), len(self.sizes)):
            yield from ((*taken[:at], other) for other in range(1, self.sizes[at]))


@dataclass(frozen=True)
class Performed:
    """One way in which a visit can go: the choices made, what it commits, what it did outside, what was wrong with it."""

    script: tuple[int, ...]
    commit: Commit
    effects: tuple[str, ...]
    mistakes: frozenset[Mistake]


class _Inline:
    """A pool of threads that does at once what it is given, so that choices are made in one order."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Callable[[Any], Any], items: Any) -> list[Any]:
        return [function(item) for item in items]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Inline:
        function(*arguments)
        return self

    def result(self) -> None: ...


class _WorldStore:
    """What a walker asks its store for, answered from one world."""

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan_ = plan
        self.run_ = run
        self.world = RunState()
        self.commits: list[Commit] = []
        self.results: list[tuple[RunStatus, Any, Sequence[Any]]] = []

    def plan_header(self, plan_hash: str) -> Header:
        return self.plan_.header

    def plan_step(self, plan_hash: str, name: str) -> Step:
        return self.plan_.steps[name]

    def plan_task(self, plan_hash: str, name: str) -> Task:
        if name not in self.plan_.tasks:
            raise ActionError("UnknownTask", f"there is no task `{name}`", retryable=False)
        return self.plan_.tasks[name]

    def run(self, tenant: str, run_id: str) -> Run:
        return replace(self.run_, stop=self.world.stop, failed_branches=self.world.failed_branches)

    def visits(self, run_id: str) -> list[Visit]:
        return list(self.world.visits.values())

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        found = self.world.visits
        return list(found.values()) if visit_ids is None else [found[id] for id in visit_ids if id in found]

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        return []

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> None:
        self.commits.append(commit)

    def finish(self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[Any], now: float) -> None:
        self.results.append((status, result, errors))


class Walks(StateSpaceExplorer):
    """The worlds of one plan that begin with one input.

    With `loses`, every visit may also fail because its workers die. With `mends`, an action whose parameters read what has no
    value may also go on as if it had one, so that what lies behind is seen too.
    """

    def __init__(
        self,
        plan: Plan,
        samples: Samples,
        beginning: Mapping[str, Any],
        found: Explored,
        *,
        loses: bool = False,
        mends: bool = False,
    ) -> None:
        super().__init__(plan, concurrent=frozenset(plan.steps))
        self.samples = samples
        self.found = found
        self.loses = loses
        self.mends = mends
        self.sites = _sites(plan)
        self.beginning = beginning
        self.run, _ = new_run(plan.header, "plan", beginning, now=1_000.0, id="run")
        self.store = _WorldStore(plan, self.run)
        self.walker = VisitExecutor(
            cast("Store", self.store), Lease("explorer", 30.0), service_capabilities({}), lambda: 2_000.0
        )
        self.choices = Choices(())
        self.at: tuple[str, Work | None] = ("", None)
        self.effects: list[str] = []
        self.effects_of: dict[tuple[str, int], tuple[str, ...]] = {}
        counted = plan.header.statistics["most_visits"]
        self.longest = MOST_VISITS if counted == MAX_COUNTED_VISITS else max(MOST_VISITS, counted)
        self.most = MOST_WORLDS if found.all_orders else 3 * MOST_WORLDS
        self.together: set[frozenset[str]] = set()
        """Visits that were ready at one time: neither of two came before the other."""
        self.savers: set[tuple[frozenset[str], tuple[str, str, str], bool]] = set()
        self.known: dict[Any, tuple[list[Performed], list[Visit | None]]] = {}
        self.mistakes: set[Mistake] = set()

    # What is done with each world.

    def walk(self, *, all_orders: bool) -> bool:
        """Look at every world; false when there are too many."""
        is_whole = self.look(all_orders=all_orders)
        self.note_races()
        return is_whole

    def look(self, *, all_orders: bool) -> bool:
        first = self.initial_state()
        seen = {first.key()}
        stack = [first]
        while stack:
            world = stack.pop()
            self.found.worlds += 1
            if world.is_final:
                self.end(world)
                continue
            if len(world.visits) > self.longest:
                self.found.is_endless = True
                self.found.most_visits = max(self.found.most_visits, len(world.visits))
                continue
            for following in self.following(world, all_orders=all_orders):
                key = following.key()
                if key not in seen:
                    seen.add(key)
                    stack.append(following)
            if self.found.worlds > self.most:
                return False
        return True

    def following(self, world: RunState, *, all_orders: bool) -> Iterator[RunState]:
        ready = world.visits_with_status(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)
        self.together.update(frozenset((one.id, other.id)) for one, other in combinations(ready, 2))
        if self.plan.header.sequential:
            ready = [visit for visit in ready if visit.id == world.sequence[0]]
        for visit in ready if all_orders else ready[:1]:
            at = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for done in self.performances(world, visit):
                self.effects_of[visit.id, hash(done.script)] = done.effects
                self.note_met(done.mistakes, world)
                deeds = {**world.choices, at: ("walk", hash(done.script))}
                try:
                    yield self.commit(replace(world, choices=deeds), done.commit)
                    if self.plan.header.sequential and len(world.joins) > 1:
                        yield self.commit(replace(world, choices=deeds), done.commit, backwards=True)
                except AssertionError as broken:
                    self.found.broken.add(str(broken) or "a join has fewer branches than none")

    def performances(self, world: RunState, visit: Visit) -> list[Performed]:
        """Every way in which a visit can go. What it can see is in the visits that it points at."""
        seen = [world.visits.get(pointer[1]) for pointer in visit.names.values()]
        held = tuple(
            sorted((name, id(world.visits.get(pointer[1]))) for name, pointer in visit.names.items())
        )
        key = (visit.id, visit.step, visit.number, visit.clock, visit.progress and visit.progress.round, held)
        if key not in self.known:
            # Whoever is pointed at stays, so that nobody else gets its place in memory.
            self.known[key] = (list(self.performed(world, visit)), seen)
        return self.known[key][0]

    def performed(self, world: RunState, visit: Visit) -> Iterator[Performed]:
        running = replace(
            visit, status=VisitStatus.RUNNING, claims=1, fence=1, started_at=0.0, segment_started_at=0.0
        )
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            self.choices = Choices(scripts.pop())
            yield self.walked(world, running)
            scripts += self.choices.alternatives()
        if self.loses:
            self.choices = Choices(LOST)
            yield self.walked(world, replace(running, claims=MAX_CLAIMS + 1))

    def walked(self, world: RunState, visit: Visit) -> Performed:
        """What the walker makes of a visit that is claimed."""
        self.effects, self.mistakes = [], set()
        self.at = (visit.step, None)
        self.store.world = replace(world, visits={**world.visits, visit.id: visit})
        self.walker.execute(Claim(self.run, visit))
        commit = self.store.commits.pop()
        self.note(visit.step, commit)
        return Performed(
            self.choices.taken, replace(commit, events=()), tuple(self.effects), frozenset(self.mistakes)
        )

    def note(self, step: str, commit: Commit) -> None:
        """Remember what was wrong, and which way the visit went."""
        error = commit.visit.error
        while error is not None:
            self.mistake(step, error["type"], error["message"])
            details = error["details"]
            error = details.get("error") if isinstance(details, dict) else None
        self.found.visited.add(step)
        if commit.visit.case is not None:
            self.found.taken.add((step, commit.visit.case))

    def note_met(self, mistakes: Iterable[Mistake], world: RunState) -> None:
        """Remember behind which visits mistakes were met."""
        if not any(v.error is not None and _is_wrong(v.error["type"]) for v in world.visits.values()):
            self.found.first.update(mistakes)
        if self.mends and mistakes:
            behind = frozenset(
                (v.step, v.failure is not None) for v in world.visits.values() if v.finished_at is not None
            )
            for mistake in mistakes:
                self.found.met.setdefault((mistake.step, mistake.word), set()).add(behind)

    def mistake(self, step: str | None, type: str, message: str) -> None:
        if CHOSEN in message:
            return
        if _is_wrong(type):
            found = Mistake(step, type, message)
            self.found.mistakes.add(found)
            self.mistakes.add(found)

    def end(self, world: RunState) -> None:
        """Perform the last step and work out the result."""
        if world.stop is None and (
            world.live or any(live for live, _ in world.joins.values()) or any(world.arrivals.values())
        ):
            self.found.broken.add("a branch is left over when the run has ended")
        self.found.most_visits = max(
            self.found.most_visits, len(world.visits) + (self.plan.header.finally_step is not None)
        )
        if not self.plan.header.sequential:
            self.note_savers(world)
        last = self.plan.header.finally_step
        if last is None or last not in self.plan.steps:
            self.finish(world)
            return
        visit = Visit(finally_visit_id(0), "run", last, VisitStatus.READY, FINALLY_CLOCK, {})
        for done in self.performed(world, visit):
            self.note_met(done.mistakes, world)
            self.effects_of[visit.id, hash(done.script)] = done.effects
            deeds = {**world.choices, (last, 1, 2): ("walk", hash(done.script))}
            self.finish(replace(world, visits={**world.visits, visit.id: done.commit.visit}, choices=deeds))

    def note_savers(self, world: RunState) -> None:
        """Remember which visits of one run saved one name, and whether they saved different values."""
        savers: dict[str, list[Visit]] = {}
        for visit in world.visits.values():
            for name in () if visit.has_ended_branch else visit.saved:
                savers.setdefault(name, []).append(visit)
        for name, visits in savers.items():
            for one, other in combinations(visits, 2):
                first, second = sorted((one.step, other.step))
                differ = one.saved[name] != other.saved[name]
                self.savers.add((frozenset((one.id, other.id)), (name, first, second), differ))

    def note_races(self) -> None:
        """Remember which names were saved by visits neither of which came before the other."""
        for visits, writers, differ in self.savers:
            if visits in self.together:
                self.found.writers.add(writers)
                if differ:
                    self.found.races.add(writers)

    def finish(self, world: RunState) -> None:
        self.store.world = world
        self.walker.execute(Claim(self.run, end_visit("run", 0, 0.0)))
        _, result, errors = self.store.results.pop()
        self.mistakes = set()
        for error in errors:
            if error["step"] is None:
                self.mistake(None, error["type"], error["message"])
        self.note_met(self.mistakes, world)
        shown = write_json(_sorted(result))
        visits = tuple(
            sorted(
                (v.step, -1 if v.case is None else v.case)
                for v in world.visits.values()
                if v.finished_at is not None
            )
        )
        effects = tuple(sorted(e for v in world.visits.values() for e in self.effects_at(world, v)))
        self.found.endings.add(
            Ending(
                write_json(self.beginning),
                frozenset(world.choices.items()),
                final_status(world.stop, world.failed_branches).value,
                shown,
                visits,
                effects,
            )
        )

    def effects_at(self, world: RunState, visit: Visit) -> Iterator[str]:
        for piece in (2, 3):
            deed = world.choices.get((visit.step, visit.number, piece))
            if deed is not None:
                yield from self.effects_of.get((visit.id, deed[1]), ())

    # What takes the place of the outside world.

    def render(
        self, declaration: ActionDeclaration, parameters: Mapping[str, Any], lookup: Lookup
    ) -> dict[str, Any]:
        """The parameters as production renders them; those that only a made-up value spoils are left out."""
        self.at = (self.at[0], self.sites.get(id(parameters)))
        self.is_later_item = _is_later_item(lookup)
        try:
            rendered = render_parameters(declaration, parameters, lookup)
        except ActionError as problem:
            if problem.type in WRONG:
                self.mistake(self.at[0], problem.type, problem.message)
            if self.mends and problem.type == "UndefinedName":
                self.note_names(parameters, lookup)
                if self.choices.choose(2):
                    return dict(parameters)
            raise
        if declaration.type == "shell" and isinstance(rendered.get("command"), str):
            _check_words(str(parameters["command"]), rendered["command"], lookup)
        return rendered

    def note_names(self, value: Any, lookup: Lookup) -> None:
        """Remember every name without a value, of which production only tells the first."""
        if isinstance(value, Mapping | list):
            for item in value.values() if isinstance(value, Mapping) else value:
                self.note_names(item, lookup)
        elif isinstance(value, str) and has_template(value):
            made_up: dict[str, Any] = {}
            while (
                name := _missing(value, lambda name: made_up[name] if name in made_up else lookup(name))
            ) not in (
                None,
                *made_up,
            ):
                self.mistake(self.at[0], "UndefinedName", f"`{name}` is undefined")
                made_up[str(name)] = "made up"

    def handler(self, type: str) -> Callable[[Call], Any]:
        return lambda call: self.act(type, call)

    def act(self, type: str, call: Call) -> Any:
        step, site = self.at
        if type in ("set", "fail"):
            return handler(type)(call)
        if type == "callback" and "notify" in call.parameters and call.perform_action is not None:
            call.perform_action(
                call.parameters["notify"], {"callback": {"url": "https://noetl.test/c", "token": "t"}}
            )
        for value in call.parameters.values():
            for statement in value if isinstance(value, list) else [value]:
                if isinstance(statement, Sql):
                    _check_statement(statement)
        self.effects.append(f"{type} {_shown(call.parameters)}")
        if type in ("log", "wait") or site is None or not isinstance(site, Action):
            return None
        results = self.samples.results(site, self.samples.path_of(step, site))
        failures = self.samples.failures(catalogue()[type])
        if self.is_later_item:
            return results[-1]
        chosen = self.choices.choose(len(results) + len(failures))
        if chosen < len(results):
            return results[chosen]
        failure = failures[chosen - len(results)]
        raise ActionError(
            failure.type, CHOSEN, retryable=False, status=failure.status, details=failure.details
        )

    is_later_item = False


def _is_wrong(type: str) -> bool:
    return type == "GuardError" or type in WRONG


def _missing(text: str, lookup: Lookup) -> str | None:
    """The first name of a text that has no value."""
    try:
        parse_template(text).evaluate(lookup)
    except EvaluationError as problem:
        return Mistake(None, problem.type, problem.message).name
    return None


def _is_later_item(lookup: Lookup) -> bool:
    try:
        return bool(lookup("loop")["index0"])
    except KeyError:
        return False


def _sites(plan: Plan) -> dict[int, Work]:
    runs = [step.run for step in plan.steps.values()] + [c.work for s in plan.steps.values() for c in s.cases]
    runs += [task.run for task in plan.tasks.values()]
    return {id(work.parameters): work for run in runs for work in run if isinstance(work, Action)}


def _check_statement(statement: Sql) -> None:
    """Raises ActionError where a placeholder stands in quotes or in a comment: a server finds fewer than are bound."""
    text = "".join(
        part if isinstance(part, str) else _PLACEHOLDER if isinstance(part, Bind) else "x"
        for part in statement.parts
    )
    if _PLACEHOLDER in text and _QUOTED.sub("", text).count(_PLACEHOLDER) < text.count(_PLACEHOLDER):
        raise ActionError("Misquoted", "`query`: a value is bound inside quotes", retryable=False)


def _check_words(template: str, command: str, lookup: Lookup) -> None:
    """Raises ActionError where a value of a command does not arrive as a part of one of its words."""
    if not has_template(template) or parse_template(template).is_expression or "raw" in template:
        return
    try:
        words = shlex.split(command)
        values = [value for value in parse_template(template).values(lookup) if isinstance(value, str)]
    except (ValueError, EvaluationError):
        return
    if any(not any(value in word for word in words) for value in values):
        raise ActionError("Misquoted", "`command`: a value is quoted twice", retryable=False)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return "late" if callable(value) else repr(value)


def _sorted(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def shortened(plan: Plan) -> Plan:
    """The plan with all that repeats cut short: rounds, long cycles, batches and retries, which change no name."""
    steps = {}
    for name, step in plan.steps.items():
        repeat = (
            None
            if step.repeat is None
            else replace(step.repeat, max_rounds=min(step.repeat.max_rounds, MOST_ROUNDS))
        )
        bound = None if step.max_visits is None else min(step.max_visits, LONGEST_CYCLE)
        cases = tuple(replace(case, work=tuple(map(_unbatched, case.work))) for case in step.cases)
        run = tuple(map(_unbatched, step.run))
        steps[name] = replace(
            step, repeat=repeat, max_visits=bound, cases=cases, run=run, loop=_in_one(step.loop)
        )
    tasks = {name: replace(task, run=tuple(map(_unbatched, task.run))) for name, task in plan.tasks.items()}
    return replace(plan, steps=steps, tasks=tasks)


def _unbatched(work: Work) -> Work:
    return replace(work, loop=_in_one(work.loop))


def _in_one(loop: Loop | None) -> Loop | None:
    return None if loop is None else replace(loop, batch=None)


def explored(
    plan: Plan, *, loses: bool = False, mends: bool = False, most_beginnings: int = MOST_BEGINNINGS
) -> Explored:
    """All runs of a plan: every beginning, every outcome, every order; `loses` and `mends` as `Walks` says. Where there are more
    beginnings than `most_beginnings`, those that differ from the first in one input.
    """
    plan = shortened(plan)
    samples = Samples(plan)
    beginnings, all_beginnings = samples.beginnings(most_beginnings)
    found = Explored(all_beginnings=all_beginnings)
    with _secrets(plan):
        for beginning in beginnings:
            try:
                walks = Walks(plan, samples, beginning, found, loses=loses, mends=mends)
            except RejectedError as problem:
                found.rejected.add(str(problem))
                continue
            with replaced(walks):
                if not walks.walk(all_orders=found.all_orders):
                    found.all_orders = False
                    walks.most = 3 * MOST_WORLDS
                    # Of runs without an end there are as many more as anyone cares to look at.
                    found.is_whole = not found.is_endless and walks.walk(all_orders=False)
            if not found.is_whole:
                break
    for step, at in found.taken:
        for target in plan.steps[step].cases[at].targets if step in plan.steps else ():
            if target not in plan.steps:
                found.missing.add((step, target))
    return found


@contextmanager
def replaced(walks: Walks) -> Iterator[None]:
    """The outside world, replaced by choices."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(attempts, "handler", walks.handler))
        stack.enter_context(patch.object(attempts, "render_parameters", walks.render))
        stack.enter_context(patch.object(perform, "ThreadPoolExecutor", _Inline))
        stack.enter_context(patch.object(loop, "ThreadPoolExecutor", _Inline))
        yield


@contextmanager
def _secrets(plan: Plan) -> Iterator[None]:
    names = set(re.findall(r"secrets\.(\w+)", plan.source))
    with patch.dict(os.environ, {f"NOETL_SECRET_{name}": f"the secret value of {name}" for name in names}):
        yield
