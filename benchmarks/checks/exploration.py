"""Exhaustive exploration of the runs of a playbook, executed by the executor itself.

Problem: find every outcome of a playbook, to compare it with the diagnostics of the compiler.

Algorithm: explicit-state model checking (Clarke, Emerson and Sistla 1986). A state is an immutable run with
its visits. The production executor performs every visit against a store that is a value: it evaluates
templates, decides guards and fires joins. Only the effects of actions are replaced, by samples of their
results (`samples.py`) and by failures. Every alternative and every order of the visits is explored. States
that are equal are visited once.

Cost: exponential in the number of branches and alternatives.

Limits: the number of states and of inputs is limited. `Explored` says whether a limit was reached.
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
    """A failure that the playbook itself causes: its place, its type and its message."""

    step: str | None
    type: str
    message: str

    @property
    def name(self) -> str | None:
        """Name that is undefined."""
        found = re.search(r"`([^`]+)` is undefined(?! in )", self.message)
        return found and found[1]

    @property
    def word(self) -> str | None:
        """Undefined name or attribute."""
        found = re.search(r"`([^`]+)` is undefined in ", self.message)
        return self.name or (found and found[1])


PriorVisits = frozenset[tuple[str, bool]]
"""Steps that were visited before something, each with whether it failed."""


@dataclass(frozen=True)
class Ending:
    """The outcome of one run: its visits with their cases, its result, and its external effects, in no
    particular order.
    """

    beginning: str
    deeds: frozenset[tuple[Any, Any]]
    status: str
    result: str
    visits: tuple[tuple[str, int], ...]
    effects: tuple[str, ...]


@dataclass
class Explored:
    """Observations over all runs of a plan.

    `is_complete` is false if there were too many states, and `all_beginnings` is false if there were too many
    inputs.

    `first` are the mistakes with no earlier mistake, because others may be consequences. `met` maps an
    undefined name at a step to the visits that had ended before, and whether they had failed. `writers` are
    pairs of steps that saved one name concurrently. `races` are those that saved different values.
    """

    mistakes: set[Mistake] = field(default_factory=set)
    first: set[Mistake] = field(default_factory=set)
    met: dict[tuple[str | None, str | None], set[PriorVisits]] = field(default_factory=dict)
    visited: set[str] = field(default_factory=set)
    taken: set[tuple[str, int]] = field(default_factory=set)
    missing: set[tuple[str, str]] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    races: set[tuple[str, str, str]] = field(default_factory=set)
    writers: set[tuple[str, str, str]] = field(default_factory=set)
    endings: set[Ending] = field(default_factory=set)
    most_visits: int = 0
    is_endless: bool = False
    is_complete: bool = True
    all_orders: bool = True
    all_beginnings: bool = True
    rejected: set[str] = field(default_factory=set)
    worlds: int = 0

    @property
    def depends_on_order(self) -> bool:
        """True if runs with the same input and the same outcomes of their common visits differ."""
        alike: dict[str, list[Ending]] = {}
        for run in self.endings:
            if run.status != "failed":
                alike.setdefault(run.beginning, []).append(run)
        return any(
            (first.visits, first.result) != (second.visits, second.result)
            and _agree(first.deeds, second.deeds)
            for endings in alike.values()
            for first, second in combinations(endings[:MOST_COMPARED], 2)
        )

    @property
    def outcomes(self) -> set[tuple[str, str, tuple[str, ...]]]:
        return {(ending.status, ending.result, ending.effects) for ending in self.endings}


def _agree(first: frozenset[tuple[Any, Any]], second: frozenset[tuple[Any, Any]]) -> bool:
    differ = first ^ second
    return len({position for position, _ in differ}) == len(differ)


@dataclass
class Choices:
    """The alternatives chosen during an execution: first those of a script, then always the first one."""

    script: tuple[int, ...]
    sizes: list[int] = field(default_factory=list)

    def choose(self, size: int) -> int:
        position = len(self.sizes)
        self.sizes.append(size)
        return self.script[position] if position < len(self.script) else 0

    @property
    def taken(self) -> tuple[int, ...]:
        return (*self.script, *(0 for _ in self.sizes[len(self.script) :]))

    def alternatives(self) -> Iterator[tuple[int, ...]]:
        """Return the scripts that differ from this one after its end."""
        taken = self.taken
        for position in range(len(self.script), len(self.sizes)):
            yield from ((*taken[:position], other) for other in range(1, self.sizes[position]))


@dataclass(frozen=True)
class Performed:
    """One outcome of a visit: the choices, the commit, the external effects and the mistakes."""

    script: tuple[int, ...]
    commit: Commit
    effects: tuple[str, ...]
    mistakes: frozenset[Mistake]


class _Inline:
    """A thread pool that runs each task immediately, so that choices have a fixed order."""

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
    """The methods of a store that the executor calls, answered from one state."""

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


class StateExplorer(StateSpaceExplorer):
    """The states of one plan for one input.

    With `loses`, every visit may also fail because its workers die. With `repairs`, an action that reads an
    undefined name may also continue with a made-up value, so that later steps are explored as well.
    """

    def __init__(
        self,
        plan: Plan,
        samples: Samples,
        beginning: Mapping[str, Any],
        found: Explored,
        *,
        loses: bool = False,
        repairs: bool = False,
    ) -> None:
        super().__init__(plan, concurrent=frozenset(plan.steps))
        self.samples = samples
        self.found = found
        self.loses = loses
        self.repairs = repairs
        self.sites = _sites(plan)
        self.beginning = beginning
        self.run, _ = new_run(plan.header, "plan", beginning, now=1_000.0, id="run")
        self.store = _WorldStore(plan, self.run)
        self.walker = VisitExecutor(
            cast("Store", self.store), Lease("explorer", 30.0), service_capabilities({}), lambda: 2_000.0
        )
        self.chosen = Choices(())
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
        """Explore every state. Return false if there are too many."""
        is_complete = self.explore_states(all_orders=all_orders)
        self.note_races()
        return is_complete

    def explore_states(self, *, all_orders: bool) -> bool:
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
        self.together.update(frozenset((first.id, second.id)) for first, second in combinations(ready, 2))
        if self.plan.header.sequential:
            ready = [visit for visit in ready if visit.id == world.sequence[0]]
        for visit in ready if all_orders else ready[:1]:
            position = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for done in self.performances(world, visit):
                self.effects_of[visit.id, hash(done.script)] = done.effects
                self.note_met(done.mistakes, world)
                deeds = {**world.choices, position: ("walk", hash(done.script))}
                try:
                    yield self.commit(replace(world, choices=deeds), done.commit)
                    if self.plan.header.sequential and len(world.joins) > 1:
                        yield self.commit(replace(world, choices=deeds), done.commit, backwards=True)
                except AssertionError as broken:
                    self.found.broken.add(str(broken) or "a join has fewer branches than none")

    def performances(self, world: RunState, visit: Visit) -> list[Performed]:
        """Return every outcome of a visit. It depends only on the visits that its pointers name."""
        seen = [world.visits.get(pointer[1]) for pointer in visit.names.values()]
        held = tuple(
            sorted((name, id(world.visits.get(pointer[1]))) for name, pointer in visit.names.items())
        )
        key = (visit.id, visit.step, visit.number, visit.clock, visit.progress and visit.progress.round, held)
        if key not in self.known:
            # The key contains memory addresses, so the visits must stay alive.
            self.known[key] = (list(self.performed(world, visit)), seen)
        return self.known[key][0]

    def performed(self, world: RunState, visit: Visit) -> Iterator[Performed]:
        running = replace(
            visit, status=VisitStatus.RUNNING, claims=1, fence=1, started_at=0.0, segment_started_at=0.0
        )
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            self.chosen = Choices(scripts.pop())
            yield self.walked(world, running)
            scripts += self.chosen.alternatives()
        if self.loses:
            self.chosen = Choices(LOST)
            yield self.walked(world, replace(running, claims=MAX_CLAIMS + 1))

    def walked(self, world: RunState, visit: Visit) -> Performed:
        """Execute a claimed visit, and return its outcome."""
        self.effects, self.mistakes = [], set()
        self.at = (visit.step, None)
        self.store.world = replace(world, visits={**world.visits, visit.id: visit})
        self.walker.execute(Claim(self.run, visit))
        commit = self.store.commits.pop()
        self.note(visit.step, commit)
        return Performed(
            self.chosen.taken, replace(commit, events=()), tuple(self.effects), frozenset(self.mistakes)
        )

    def note(self, step: str, commit: Commit) -> None:
        """Record the mistakes and the case of a visit."""
        error = commit.visit.error
        while error is not None:
            self.mistake(step, error["type"], error["message"])
            details = error["details"]
            error = details.get("error") if isinstance(details, dict) else None
        self.found.visited.add(step)
        if commit.visit.case is not None:
            self.found.taken.add((step, commit.visit.case))

    def note_met(self, mistakes: Iterable[Mistake], world: RunState) -> None:
        """Record after which visits mistakes occurred."""
        if not any(v.error is not None and _is_wrong(v.error["type"]) for v in world.visits.values()):
            self.found.first.update(mistakes)
        if self.repairs and mistakes:
            prior_visits = frozenset(
                (v.step, v.failure is not None) for v in world.visits.values() if v.finished_at is not None
            )
            for mistake in mistakes:
                self.found.met.setdefault((mistake.step, mistake.word), set()).add(prior_visits)

    def mistake(self, step: str | None, type: str, message: str) -> None:
        if CHOSEN in message:
            return
        if _is_wrong(type):
            found = Mistake(step, type, message)
            self.found.mistakes.add(found)
            self.mistakes.add(found)

    def end(self, world: RunState) -> None:
        """Execute the last step, and compute the result."""
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
        """Record which visits of one run saved the same name, and whether their values differ."""
        savers: dict[str, list[Visit]] = {}
        for visit in world.visits.values():
            for name in () if visit.has_ended_branch else visit.saved:
                savers.setdefault(name, []).append(visit)
        for name, visits in savers.items():
            for visit, second_visit in combinations(visits, 2):
                steps = sorted((visit.step, second_visit.step))
                differ = visit.saved[name] != second_visit.saved[name]
                visit_ids = frozenset((visit.id, second_visit.id))
                self.savers.add((visit_ids, (name, steps[0], steps[1]), differ))

    def note_races(self) -> None:
        """Record the names that concurrent visits saved."""
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
        for segment in (2, 3):
            deed = world.choices.get((visit.step, visit.number, segment))
            if deed is not None:
                yield from self.effects_of.get((visit.id, deed[1]), ())

    # What takes the place of the outside world.

    def render(
        self, declaration: ActionDeclaration, parameters: Mapping[str, Any], lookup: Lookup
    ) -> dict[str, Any]:
        """Render parameters as the executor does. Omit those that fail only because of a made-up value."""
        self.at = (self.at[0], self.sites.get(id(parameters)))
        self.is_later_item = _is_later_item(lookup)
        try:
            rendered = render_parameters(declaration, parameters, lookup)
        except ActionError as problem:
            if problem.type in WRONG:
                self.mistake(self.at[0], problem.type, problem.message)
            if self.repairs and problem.type == "UndefinedName":
                self.note_names(parameters, lookup)
                if self.chosen.choose(2):
                    return dict(parameters)
            raise
        if declaration.type == "shell" and isinstance(rendered.get("command"), str):
            _check_words(str(parameters["command"]), rendered["command"], lookup)
        return rendered

    def note_names(self, value: Any, lookup: Lookup) -> None:
        """Record every undefined name. The executor reports only the first one."""
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
        chosen = self.chosen.choose(len(results) + len(failures))
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
    """Return the first undefined name of a text."""
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
    """Raise ActionError if a placeholder is inside quotes or a comment, where a server ignores it."""
    text = "".join(
        part if isinstance(part, str) else _PLACEHOLDER if isinstance(part, Bind) else "x"
        for part in statement.parts
    )
    if _PLACEHOLDER in text and _QUOTED.sub("", text).count(_PLACEHOLDER) < text.count(_PLACEHOLDER):
        raise ActionError("Misquoted", "`query`: a value is bound inside quotes", retryable=False)


def _check_words(template: str, command: str, lookup: Lookup) -> None:
    """Raise ActionError if a value of a command is not a part of one of its words."""
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
    """Return the plan with fewer repetitions: rounds, long cycles, batches and retries, which change no
    names.
    """
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
    plan: Plan, *, loses: bool = False, repairs: bool = False, most_beginnings: int = MOST_BEGINNINGS
) -> Explored:
    """Explore all runs of a plan: every input, every outcome, every order.

    `loses` and `repairs` are those of `StateExplorer`. If there are more inputs than `most_beginnings`, only
    those that differ from the first one in one value are used.
    """
    plan = shortened(plan)
    samples = Samples(plan)
    beginnings, all_beginnings = samples.beginnings(most_beginnings)
    found = Explored(all_beginnings=all_beginnings)
    with _secrets(plan):
        for beginning in beginnings:
            try:
                walks = StateExplorer(plan, samples, beginning, found, loses=loses, repairs=repairs)
            except RejectedError as problem:
                found.rejected.add(str(problem))
                continue
            with replaced(walks):
                if not walks.walk(all_orders=found.all_orders):
                    found.all_orders = False
                    walks.most = 3 * MOST_WORLDS
                    # Of runs without an end there are as many more as anyone cares to explore_states at.
                    found.is_complete = not found.is_endless and walks.walk(all_orders=False)
            if not found.is_complete:
                break
    for step, position in found.taken:
        for target in plan.steps[step].cases[position].targets if step in plan.steps else ():
            if target not in plan.steps:
                found.missing.add((step, target))
    return found


@contextmanager
def replaced(walks: StateExplorer) -> Iterator[None]:
    """Replace the external effects of actions by choices, for the duration of the block."""
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
