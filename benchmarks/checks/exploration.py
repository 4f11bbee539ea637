"""Exhaustive exploration of the runs of a plan by the executor itself.

Problem: find everything that runs of a plan can do, without the analyses of the compiler under test.

Algorithm: explicit-state model checking by depth-first search over run states (Holzmann, "The SPIN Model
Checker", 2003). `VisitExecutor` of production executes each visit on a store that is an immutable value.
Results of actions are replaced by samples (`samples.py`) and by failures. Every sample, every failure and
every order in which visits end is explored.

Cost: exponential in the number of branches and choices. At most `MAX_STATES_IN_ALL_ORDERS` states are
explored in all orders, and then up to three times as many states in one order.

Limits: a plan with more states is reported by `is_complete=False`, a plan with more inputs by
`all_inputs=False`. Rounds, batches and long cycles are shortened (`shorten_plan`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast
from unittest.mock import patch

from benchmarks.checks.samples import MAX_INPUTS, Samples
from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call
from noetl.executor.engine import attempts, item_threads
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.item_threads import HelperCount
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.engine.start import new_run
from noetl.executor.errors import ActionError, RejectedError
from noetl.executor.model.gates import GateKey
from noetl.executor.model.json_values import write_json
from noetl.executor.model.outbox import Subscribers
from noetl.executor.model.run import (
    Claim,
    Commit,
    CommitResult,
    Lease,
    Run,
    RunEnding,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.special_visits import end_visit, finally_visit
from noetl.executor.model.sql import Bind, Sql
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.transition import final_status
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.security.capabilities import service_capabilities
from noetl.executor.security.secret_access import SecretAccess
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.plan import MAX_COUNTED_VISITS, Action, Header, Loop, Plan, Step, Task, Work
from noetl.planner.templates.template import EvaluationError, Lookup, has_template, parse_template
from tests.state_space import RunState, StateSpaceExplorer

MAX_STATES_IN_ALL_ORDERS = 2_000
"""The maximum number of states explored in all orders. If a plan has more, one order is explored."""
MIN_VISIT_LIMIT = 40
"""A run with more visits counts as endless if its plan has no bound of visits."""
MAX_ROUNDS = 2
MAX_COMPARED_ENDINGS = 200
MAX_VISITS_OF_STEP = 12
LOST_WORKERS = (-1,)
"""The script of choices of a visit whose workers are lost."""
CHOSEN_FAILURE = "it was chosen to fail"
PLAYBOOK_FAULTS = frozenset(
    {"UndefinedName", "TemplateError", "ParameterError", "LimitExceeded", "Misquoted", "UnknownTask"}
)
"""The types of failures that the playbook itself causes."""
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|\$(\w*)\$.*?\$\1\$", re.DOTALL)
_PLACEHOLDER = "\x00"


@dataclass(frozen=True, order=True)
class Mistake:
    """A failure that the playbook itself causes at a step. A `step` of None is the result of the run."""

    step: str | None
    type: str
    message: str

    @property
    def name(self) -> str | None:
        """The undefined name."""
        match = re.search(r"`([^`]+)` is undefined(?! in )", self.message)
        return match and match[1]

    @property
    def word(self) -> str | None:
        """The undefined name or attribute."""
        match = re.search(r"`([^`]+)` is undefined in ", self.message)
        return self.name or (match and match[1])


EndedVisits = frozenset[tuple[str, bool]]
"""The steps whose visits have ended, each with whether it failed."""


@dataclass(frozen=True)
class Ending:
    """A finished run: its visits with the cases they took, its result and its actions, in no order."""

    run_input: str
    choices: frozenset[tuple[Any, Any]]
    status: str
    result: str
    visits: tuple[tuple[str, int], ...]
    effects: tuple[str, ...]


@dataclass
class Exploration:
    """The observations of all runs of a plan.

    `is_complete` is false if there are too many states, `all_inputs` if there are too many inputs.

    `first` contains the mistakes before which a run had none, because others may follow from them.
    `ended_before` maps a step and an undefined name to the sets of visits that had ended by then. `writers`
    contains pairs of steps that saved one name in parallel, `races` those that saved different values.
    """

    mistakes: set[Mistake] = field(default_factory=set)
    first: set[Mistake] = field(default_factory=set)
    ended_before: dict[tuple[str | None, str | None], set[EndedVisits]] = field(default_factory=dict)
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
    all_inputs: bool = True
    rejected: set[str] = field(default_factory=set)
    states: int = 0

    @property
    def depends_on_order(self) -> bool:
        """The claim that two runs with the same input and the same choices end differently."""
        endings_by_input: dict[str, list[Ending]] = {}
        for run in self.endings:
            if run.status != "failed":
                endings_by_input.setdefault(run.run_input, []).append(run)
        return any(
            (first.visits, first.result) != (second.visits, second.result)
            and _choices_agree(first.choices, second.choices)
            for endings in endings_by_input.values()
            for first, second in combinations(endings[:MAX_COMPARED_ENDINGS], 2)
        )

    @property
    def outcomes(self) -> set[tuple[str, str, tuple[str, ...]]]:
        return {(ending.status, ending.result, ending.effects) for ending in self.endings}


def _choices_agree(first: frozenset[tuple[Any, Any]], second: frozenset[tuple[Any, Any]]) -> bool:
    different = first ^ second
    return len({visit for visit, _ in different}) == len(different)


@dataclass
class Choices:
    """The alternatives chosen during a visit: those of a script, then the first one of each choice."""

    script: tuple[int, ...]
    sizes: list[int] = field(default_factory=list)

    def choose(self, size: int) -> int:
        index = len(self.sizes)
        self.sizes.append(size)
        return self.script[index] if index < len(self.script) else 0

    @property
    def taken(self) -> tuple[int, ...]:
        return (*self.script, *(0 for _ in self.sizes[len(self.script) :]))

    def alternatives(self) -> Iterator[tuple[int, ...]]:
        """Yield the scripts that continue this one with another choice."""
        taken = self.taken
        for index in range(len(self.script), len(self.sizes)):
            yield from ((*taken[:index], choice) for choice in range(1, self.sizes[index]))


@dataclass(frozen=True)
class VisitOutcome:
    """A possible outcome of a visit: the choices, the commit, the executed actions and the mistakes."""

    script: tuple[int, ...]
    commit: Commit
    effects: tuple[str, ...]
    mistakes: frozenset[Mistake]


class StoredPlan:
    """A stand-in for the plans of a store, which holds one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def header(self, plan_hash: str) -> Header:
        return self._plan.header

    def step(self, plan_hash: str, name: str) -> Step:
        return self._plan.steps[name]

    def task(self, plan_hash: str, name: str) -> Task:
        if name not in self._plan.tasks:
            raise ActionError("UnknownTask", f"there is no task `{name}`", retryable=False)
        return self._plan.tasks[name]


class RunStateStore:
    """A stand-in for a store that answers the executor from one run state."""

    takes_slots = False

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plans = StoredPlan(plan)
        self.runs = self.queue = self.outbox = self
        self.run_ = run
        self.state = RunState()
        self.commits: list[Commit] = []
        self.results: list[tuple[RunStatus, Any, Sequence[Any]]] = []

    def get(self, tenant: str, run_id: str) -> Run:
        return replace(self.run_, stop=self.state.stop, failed_branches=self.state.failed_branches)

    def visits(self, run_id: str) -> list[Visit]:
        return list(self.state.visits.values())

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        visits = self.state.visits
        return (
            list(visits.values()) if visit_ids is None else [visits[id] for id in visit_ids if id in visits]
        )

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        return []

    def add_bytes(self, run_id: str, kind: str, size: int) -> int:
        return size

    def subscribers(self, tenant: str, playbook: str) -> Subscribers:
        return Subscribers()

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        self.commits.append(commit)
        return CommitResult()

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        self.results.append((ending.status, ending.result, ending.errors))
        return ()


@dataclass(frozen=True)
class FaultModel:
    """The faults that are explored in addition to failures of actions.

    With `loses_workers`, every visit may also fail because its workers are lost. With `ignores_undefined`, an
    action whose parameters read an undefined name may also succeed, so that later steps are explored too.
    """

    loses_workers: bool = False
    ignores_undefined: bool = False


FAULTLESS = FaultModel()


class PlanExplorer(StateSpaceExplorer):
    """An explorer of the states of one plan that start with one input."""

    def __init__(
        self, samples: Samples, run_input: Mapping[str, Any], exploration: Exploration, faults: FaultModel
    ) -> None:
        plan = samples.plan
        super().__init__(plan, concurrent=frozenset(plan.steps))
        self.samples = samples
        self.exploration = exploration
        self.faults = faults
        self.sites = _actions_by_parameters(plan)
        self.run_input = run_input
        self.run, _ = new_run(plan.header, "plan", StartRequest(run_input, run_id="run"), now=1_000.0)
        self.store = RunStateStore(plan, self.run)
        self.executor = VisitExecutor(
            cast("Store", self.store), Lease("explorer", 30.0), service_capabilities({}), lambda: 2_000.0
        )
        self.decisions = Choices(())
        self.position: tuple[str, Work | None] = ("", None)
        self.effects: list[str] = []
        self.effects_by_outcome: dict[tuple[str, int], tuple[str, ...]] = {}
        counted = plan.header.statistics["most_visits"]
        self.max_visits = MIN_VISIT_LIMIT if counted == MAX_COUNTED_VISITS else max(MIN_VISIT_LIMIT, counted)
        self.max_states = MAX_STATES_IN_ALL_ORDERS if exploration.all_orders else 3 * MAX_STATES_IN_ALL_ORDERS
        self.together: set[frozenset[str]] = set()
        """Pairs of visits that were ready at the same time, so that their order is not fixed."""
        self.savers: set[tuple[frozenset[str], tuple[str, str, str], bool]] = set()
        self.known: dict[Any, tuple[list[VisitOutcome], list[Visit | None]]] = {}
        self.mistakes: set[Mistake] = set()

    # Exploration of states.

    def explore(self, *, all_orders: bool) -> bool:
        """Explore every state. Return false if there are too many."""
        is_complete = self.explore_states(all_orders=all_orders)
        self.record_races()
        return is_complete

    def explore_states(self, *, all_orders: bool) -> bool:
        first = self.initial_state()
        seen = {first.key()}
        stack = [first]
        while stack:
            state = stack.pop()
            self.exploration.states += 1
            if state.is_final:
                self.end_run(state)
                continue
            if len(state.visits) > self.max_visits:
                self.exploration.is_endless = True
                self.exploration.most_visits = max(self.exploration.most_visits, len(state.visits))
                continue
            for successor_states in self.successor_states(state, all_orders=all_orders):
                key = successor_states.key()
                if key not in seen:
                    seen.add(key)
                    stack.append(successor_states)
            if self.exploration.states > self.max_states:
                return False
        return True

    def successor_states(self, state: RunState, *, all_orders: bool) -> Iterator[RunState]:
        ready = state.visits_with_status(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)
        self.together.update(frozenset((first.id, second.id)) for first, second in combinations(ready, 2))
        for visit in ready if all_orders else ready[:1]:
            choice_key = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for done in self.visit_outcomes(state, visit):
                self.effects_by_outcome[visit.id, hash(done.script)] = done.effects
                self.record_context(done.mistakes, state)
                choices = {**state.choices, choice_key: ("visit", hash(done.script))}
                try:
                    yield self.commit(replace(state, choices=choices), done.commit)
                except AssertionError as broken:
                    self.exploration.broken.add(str(broken) or "a join has fewer branches than none")

    def visit_outcomes(self, state: RunState, visit: Visit) -> list[VisitOutcome]:
        """Return all outcomes of a visit. They depend only on the visit and on the visits it points to."""
        seen = [state.visits.get(pointer[1]) for pointer in visit.names.values()]
        held = tuple(
            sorted((name, id(state.visits.get(pointer[1]))) for name, pointer in visit.names.items())
        )
        key = (visit.id, visit.step, visit.number, visit.clock, visit.progress and visit.progress.round, held)
        if key not in self.known:
            # The visits that it points to stay alive, so that no other object gets their `id`.
            self.known[key] = (list(self.explore_visit(state, visit)), seen)
        return self.known[key][0]

    def explore_visit(self, state: RunState, visit: Visit) -> Iterator[VisitOutcome]:
        running = replace(
            visit, status=VisitStatus.RUNNING, claims=1, fence=1, started_at=0.0, segment_started_at=0.0
        )
        scripts: list[tuple[int, ...]] = [()]
        while scripts:
            self.decisions = Choices(scripts.pop())
            yield self.execute_visit(state, running)
            scripts += self.decisions.alternatives()
        if self.faults.loses_workers:
            self.decisions = Choices(LOST_WORKERS)
            yield self.execute_visit(state, replace(running, claims=MAX_CLAIMS + 1))

    def execute_visit(self, state: RunState, visit: Visit) -> VisitOutcome:
        """Execute a claimed visit with the present decisions."""
        self.effects, self.mistakes = [], set()
        self.position = (visit.step, None)
        self.store.state = replace(state, visits={**state.visits, visit.id: visit})
        self.executor.execute(Claim(self.run, visit))
        commit = self.store.commits.pop()
        self.record_commit(visit.step, commit)
        return VisitOutcome(
            self.decisions.taken, replace(commit, events=()), tuple(self.effects), frozenset(self.mistakes)
        )

    def record_commit(self, step: str, commit: Commit) -> None:
        """Record the mistakes of a visit, its step and its case."""
        error = commit.visit.error
        while error is not None:
            self.record_mistake(step, error["type"], error["message"])
            details = error["details"]
            error = details.get("error") if isinstance(details, dict) else None
        self.exploration.visited.add(step)
        if commit.visit.case is not None:
            self.exploration.taken.add((step, commit.visit.case))

    def record_context(self, mistakes: Iterable[Mistake], state: RunState) -> None:
        """Record which visits had ended before the mistakes."""
        if not any(
            v.error is not None and _is_playbook_fault(v.error["type"]) for v in state.visits.values()
        ):
            self.exploration.first.update(mistakes)
        if self.faults.ignores_undefined and mistakes:
            ended_visits = frozenset(
                (v.step, v.failure is not None) for v in state.visits.values() if v.finished_at is not None
            )
            for mistake in mistakes:
                contexts = self.exploration.ended_before.setdefault((mistake.step, mistake.word), set())
                contexts.add(ended_visits)

    def record_mistake(self, step: str | None, type: str, message: str) -> None:
        if CHOSEN_FAILURE in message:
            return
        if _is_playbook_fault(type):
            mistake = Mistake(step, type, message)
            self.exploration.mistakes.add(mistake)
            self.mistakes.add(mistake)

    def end_run(self, state: RunState) -> None:
        """Execute the `finally` step and evaluate the result."""
        if state.stop is None and (
            state.live
            or any(live for live, _ in state.joins.values())
            or any(state.arrivals.values())
            or state.stack.arrived
            or state.stack.waited_for
        ):
            self.exploration.broken.add("a branch is left over when the run has ended")
        self.exploration.most_visits = max(
            self.exploration.most_visits, len(state.visits) + (self.plan.header.finally_step is not None)
        )
        if not self.plan.header.sequential:
            self.record_savers(state)
        last = self.plan.header.finally_step
        if last is None or last not in self.plan.steps:
            self.finish_run(state)
            return
        visit = finally_visit("run", last, 0, 0.0)
        for done in self.explore_visit(state, visit):
            self.record_context(done.mistakes, state)
            self.effects_by_outcome[visit.id, hash(done.script)] = done.effects
            choices = {**state.choices, (last, 1, 2): ("visit", hash(done.script))}
            self.finish_run(
                replace(state, visits={**state.visits, visit.id: done.commit.visit}, choices=choices)
            )

    def record_savers(self, state: RunState) -> None:
        """Record the pairs of visits of a run that saved one name, and whether the values differ."""
        savers: dict[str, list[Visit]] = {}
        for visit in state.visits.values():
            for name in () if visit.has_ended_branch else visit.saved:
                savers.setdefault(name, []).append(visit)
        for name, visits in savers.items():
            for first, second in combinations(visits, 2):
                steps = sorted((first.step, second.step))
                differ = first.saved[name] != second.saved[name]
                self.savers.add((frozenset((first.id, second.id)), (name, steps[0], steps[1]), differ))

    def record_races(self) -> None:
        """Record the names that visits without a fixed order saved."""
        for visits, writers, differ in self.savers:
            if visits in self.together:
                self.exploration.writers.add(writers)
                if differ:
                    self.exploration.races.add(writers)

    def finish_run(self, state: RunState) -> None:
        self.store.state = state
        self.executor.execute(Claim(self.run, end_visit("run", 0, 0.0)))
        _, result, errors = self.store.results.pop()
        self.mistakes = set()
        for error in errors:
            if error["step"] is None:
                self.record_mistake(None, error["type"], error["message"])
        self.record_context(self.mistakes, state)
        shown = write_json(_sort_keys(result))
        visits = tuple(
            sorted(
                (v.step, -1 if v.case is None else v.case)
                for v in state.visits.values()
                if v.finished_at is not None
            )
        )
        effects = tuple(sorted(e for v in state.visits.values() for e in self.visit_effects(state, v)))
        self.exploration.endings.add(
            Ending(
                write_json(self.run_input),
                frozenset(state.choices.items()),
                final_status(state.stop, state.failed_branches).value,
                shown,
                visits,
                effects,
            )
        )

    def visit_effects(self, state: RunState, visit: Visit) -> Iterator[str]:
        for segment in (2, 3):
            choice = state.choices.get((visit.step, visit.number, segment))
            if choice is not None:
                yield from self.effects_by_outcome.get((visit.id, choice[1]), ())

    # Stand-ins for actions.

    def render_or_skip(
        self,
        declaration: ActionDeclaration,
        parameters: Mapping[str, Any],
        lookup: Lookup,
        secrets: SecretAccess,
    ) -> dict[str, Any]:
        """Render parameters. If faults ignore undefined names, parameters may stay as they are."""
        self.position = (self.position[0], self.sites.get(id(parameters)))
        self.is_later_item = _is_later_item(lookup)
        try:
            rendered = render_parameters(declaration, parameters, lookup, secrets)
        except ActionError as problem:
            if problem.type in PLAYBOOK_FAULTS:
                self.record_mistake(self.position[0], problem.type, problem.message)
            if self.faults.ignores_undefined and problem.type == "UndefinedName":
                self.record_undefined_names(parameters, lookup)
                if self.decisions.choose(2):
                    return dict(parameters)
            raise
        if declaration.type == "shell" and isinstance(rendered.get("command"), str):
            _check_words(str(parameters["command"]), rendered["command"], lookup)
        return rendered

    def record_undefined_names(self, value: Any, lookup: Lookup) -> None:
        """Record every undefined name. Production reports only the first."""
        if isinstance(value, Mapping | list):
            for item in value.values() if isinstance(value, Mapping) else value:
                self.record_undefined_names(item, lookup)
        elif isinstance(value, str) and has_template(value):
            made_up: dict[str, Any] = {}
            while (
                name := _first_undefined(
                    value, lambda name: made_up[name] if name in made_up else lookup(name)
                )
            ) not in (
                None,
                *made_up,
            ):
                self.record_mistake(self.position[0], "UndefinedName", f"`{name}` is undefined")
                made_up[str(name)] = "made up"

    def handler(self, type: str) -> Callable[[Call], Any]:
        return lambda call: self.perform_action(type, call)

    def perform_action(self, type: str, call: Call) -> Any:
        step, site = self.position
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
        self.effects.append(f"{type} {_describe(call.parameters)}")
        if type in ("log", "wait") or site is None or not isinstance(site, Action):
            return None
        results = self.samples.results(site, self.samples.result_path(step, site))
        failures = self.samples.failures(catalogue()[type])
        if self.is_later_item:
            return results[-1]
        chosen = self.decisions.choose(len(results) + len(failures))
        if chosen < len(results):
            return results[chosen]
        failure = failures[chosen - len(results)]
        raise ActionError(
            failure.type, CHOSEN_FAILURE, retryable=False, status=failure.status, details=failure.details
        )

    is_later_item = False


def _is_playbook_fault(type: str) -> bool:
    return type == "GuardError" or type in PLAYBOOK_FAULTS


def _first_undefined(text: str, lookup: Lookup) -> str | None:
    """Return the first undefined name of a template."""
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


def _actions_by_parameters(plan: Plan) -> dict[int, Work]:
    runs = [step.run for step in plan.steps.values()] + [c.work for s in plan.steps.values() for c in s.cases]
    runs += [task.run for task in plan.tasks.values()]
    return {id(work.parameters): work for run in runs for work in run if isinstance(work, Action)}


def _check_statement(statement: Sql) -> None:
    """Raise ActionError if a placeholder is in quotes or in a comment: the server would find too few."""
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


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_describe(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_describe, value)) + "]"
    return "late" if callable(value) else repr(value)


def _sort_keys(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def shorten_plan(plan: Plan) -> Plan:
    """Return the plan with fewer rounds, shorter cycles and no batches. This changes no name."""
    steps = {}
    for name, step in plan.steps.items():
        repeat = (
            None
            if step.repeat is None
            else replace(step.repeat, max_rounds=min(step.repeat.max_rounds, MAX_ROUNDS))
        )
        bound = None if step.max_visits is None else min(step.max_visits, MAX_VISITS_OF_STEP)
        cases = tuple(replace(case, work=tuple(map(_work_without_batches, case.work))) for case in step.cases)
        run = tuple(map(_work_without_batches, step.run))
        steps[name] = replace(
            step, repeat=repeat, max_visits=bound, cases=cases, run=run, loop=_without_batches(step.loop)
        )
    tasks = {
        name: replace(task, run=tuple(map(_work_without_batches, task.run)))
        for name, task in plan.tasks.items()
    }
    return replace(plan, steps=steps, tasks=tasks)


def _work_without_batches(work: Work) -> Work:
    return replace(work, loop=_without_batches(work.loop))


def _without_batches(loop: Loop | None) -> Loop | None:
    return None if loop is None else replace(loop, batch=None)


def explore_plan(plan: Plan, faults: FaultModel = FAULTLESS, *, max_inputs: int = MAX_INPUTS) -> Exploration:
    """Explore all runs of a plan: every input, every outcome of visits and every order.

    If a plan has more than `max_inputs` inputs, only those are tried that differ from the first in one name.
    """
    plan = shorten_plan(plan)
    samples = Samples(plan)
    inputs, all_inputs = samples.inputs(max_inputs)
    exploration = Exploration(all_inputs=all_inputs)
    with _secrets(plan):
        for run_input in inputs:
            try:
                explorer = PlanExplorer(samples, run_input, exploration, faults)
            except RejectedError as problem:
                exploration.rejected.add(str(problem))
                continue
            with replaced_actions(explorer):
                if not explorer.explore(all_orders=exploration.all_orders):
                    exploration.all_orders = False
                    explorer.max_states = 3 * MAX_STATES_IN_ALL_ORDERS
                    # An endless run has more states than can be explored in one order.
                    exploration.is_complete = not exploration.is_endless and explorer.explore(
                        all_orders=False
                    )
            if not exploration.is_complete:
                break
    for step, index in exploration.taken:
        for target in plan.steps[step].cases[index].targets if step in plan.steps else ():
            if target not in plan.steps:
                exploration.missing.add((step, target))
    return exploration


@contextmanager
def replaced_actions(explorer: PlanExplorer) -> Iterator[None]:
    """Replace the actions of the executor by those of the explorer, and perform parallel items serially."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(attempts, "handler", explorer.handler))
        stack.enter_context(patch.object(attempts, "render_parameters", explorer.render_or_skip))
        # Without helpers, parallel items are performed in order, so that the order of choices is fixed.
        stack.enter_context(patch.object(item_threads, "process_helpers", lambda: HelperCount(0)))
        yield


@contextmanager
def _secrets(plan: Plan) -> Iterator[None]:
    names = set(re.findall(r"secrets\.(\w+)", plan.source))
    with patch.dict(os.environ, {f"NOETL_SECRET_{name}": f"the secret value of {name}" for name in names}):
        yield
