"""Exhaustive exploration of the states of small runs, with the functions that production uses.

Problem: check that all orders of concurrent events lead to the same result, and that no counter is lost.

Algorithm: explicit-state model checking by depth-first search (Clarke, Emerson and Sistla 1986). A state is
what a store would hold of a run. Each ready visit may start, and each running visit may end in every way that
its step allows. The choice at a visit is fixed by step, number and attempt, so that all orders of the same
choices can be compared.

Cost: exponential in the number of concurrent visits.

Limits: `MAX_STATES` states.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noetl.executor.model.branch_stack import (
    BranchStack,
    Turn,
    find_last_begun,
    finish_turn,
    first_stack,
    is_turn_over,
    next_turn,
    put_resumed_visits,
    resume_visit,
)
from noetl.executor.model.ids import derived_id
from noetl.executor.model.outcome import Outcome, Suspension, error_record
from noetl.executor.model.run import (
    Branch,
    Commit,
    FailureState,
    Lease,
    Progress,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import (
    GuardError,
    RuleTests,
    build_commit,
    choose_case,
    find_refusal,
    merge_arrivals,
    suspend,
)
from noetl.executor.model.visit_states import ACTIVE, PARKABLE
from noetl.executor.model.visit_transition import claim, enter_step, park, reopen
from noetl.planner.plan import Case, Plan

_log = logging.getLogger("noetl.state_space")

MAX_STATES = 60_000
ATTEMPT_AFTER_RESUME = 9
VisitChoice = tuple[str, int]
"""The event at a visit, and the index of the guard that is true (-1: none).

The events: `case` is a success, `fail` a failure, `retry` a failure that is retried, `wait` a suspension, and
`broken` a success after which the first guard has no value.
"""


@dataclass(frozen=True)
class RunState:
    """The state of one run, as a store would hold it.

    In sequential mode, `stack` has the branches, and the joins have nothing.
    """

    visits: Mapping[str, Visit] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    joins: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    arrivals: Mapping[str, Mapping[str, Branch]] = field(default_factory=dict)
    clocks: Mapping[str, int] = field(default_factory=dict)
    live: int = 1
    failed_branches: int = 0
    stop: RunStatus | None = None
    resumed: bool = False
    stack: BranchStack = field(default_factory=BranchStack)
    choices: Mapping[tuple[str, int, int], VisitChoice] = field(default_factory=dict)

    def key(self) -> Any:
        return (
            tuple(sorted((v.id, v.status, v.attempt, v.number) for v in self.visits.values())),
            tuple(sorted(self.joins.items())),
            tuple(sorted(self.clocks.items())),
            self.live,
            self.stop,
            self.resumed,
            repr(self.stack),
            tuple(sorted(self.choices.items())),
        )

    def visits_with_status(self, *statuses: VisitStatus) -> list[Visit]:
        return [visit for visit in self.visits.values() if visit.status in statuses]

    @property
    def is_final(self) -> bool:
        return not self.visits_with_status(*ACTIVE)


class StateSpaceExplorer:
    """An explorer of all states of a plan's run.

    `failing` are the steps that may fail, `waiting` those that may be suspended, and `concurrent` those that
    several branches may visit at once.
    """

    def __init__(
        self,
        plan: Plan,
        failing: frozenset[str] = frozenset(),
        waiting: frozenset[str] = frozenset(),
        concurrent: frozenset[str] = frozenset(),
    ) -> None:
        self.plan = plan
        self.failing = failing
        self.waiting = waiting
        self.concurrent = concurrent

    def initial_state(self) -> RunState:
        """Return the state of a new run."""
        start = self.plan.steps[self.plan.header.start]
        joins = dict.fromkeys(start.regions, (1, 0))
        branch = Branch(derived_id("start"), start.name, 1, {}, is_counted=start.cyclic)
        return self.enter(RunState(joins=joins, stack=first_stack(start)), branch)

    def final_states(self) -> list[RunState]:
        """Return the states without unfinished visits."""
        first = self.initial_state()
        seen = {first.key()}
        stack = [first]
        found = []
        transitions = 0
        while stack:
            state = stack.pop()
            if state.is_final:
                found.append(state)
            for following in self.successors(state):
                transitions += 1
                if following.key() not in seen:
                    seen.add(following.key())
                    stack.append(following)
            assert len(seen) < MAX_STATES
        _log.info("%d states, %d transitions, %d ends", len(seen), transitions, len(found))
        return found

    def successors(self, state: RunState) -> Iterator[RunState]:
        for visit in state.visits_with_status(*PARKABLE):
            running = claim(visit, Lease("worker", 1.0), 0.0)
            yield replace(state, visits={**state.visits, visit.id: running})
        for visit in state.visits_with_status(VisitStatus.RUNNING):
            key = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for choice in [state.choices[key]] if key in state.choices else self.choices(state, visit):
                commit = self.perform(visit, choice)
                yield self.commit(replace(state, choices={**state.choices, key: choice}), commit)
        if state.is_final and state.stop is not None and not state.resumed:
            yield self.resume(state)

    def choices(self, state: RunState, visit: Visit) -> Iterator[VisitChoice]:
        step = self.plan.steps[visit.step]
        guarded = [index for index, case in enumerate(step.cases) if case.guard is not None]
        aware = [index for index in guarded if step.cases[index].error_aware]
        if find_refusal(step, visit) is not None:
            yield from (("fail", index) for index in [*aware, -1])
            return
        yield from (("case", index) for index in [*guarded, -1])
        if guarded:
            yield "broken", -1
        if visit.step in self.waiting and visit.progress is None:
            yield "wait", -1
        if visit.step in self.failing and not state.resumed:
            yield from (("fail", index) for index in [*aware, -1])
            if visit.attempt < step.retry.attempts:
                yield "retry", -1

    def perform(self, visit: Visit, choice: VisitChoice) -> Commit:
        step = self.plan.steps[visit.step]
        visit = replace(visit, status=VisitStatus.RUNNING)
        event, index = choice
        if event == "wait":
            return suspend(visit, Suspension(Progress(journal={"run": {"at": 0}}), 1.0), 0.0)
        refused = find_refusal(step, visit)
        error = refused or error_record(visit, "Failed", "no", retryable=event == "retry")
        saved = dict.fromkeys(step.saves, f"{visit.step} {visit.number}")
        failed = refused is not None or event in ("fail", "retry")
        outcome = Outcome(False, None, error) if failed else Outcome(saved=saved)

        def test(case: Case, found: Outcome) -> bool:
            if event == "broken" and found.error is None:
                raise GuardError("no value")
            return step.cases.index(case) == index

        decision = choose_case(step, visit, outcome, RuleTests(test, lambda _: True), 0.0)
        return build_commit(self.plan.steps.__getitem__, visit, decision, decision.outcome, 0.0)

    def commit(self, state: RunState, commit: Commit) -> RunState:
        """Return the state after a commit, as a store would write it."""
        stop = state.stop or commit.stop
        visit = commit.visit
        if stop is not None and visit.status in (VisitStatus.RETRYING, VisitStatus.WAITING):
            visit = park(visit)
        state = replace(
            state,
            visits={**state.visits, visit.id: visit},
            failed_branches=state.failed_branches + commit.failed_branches,
            stop=stop,
        )
        if not self.plan.header.sequential:
            state = self.move_branches(state, commit)
        elif is_turn_over(visit):
            state = self.begin_turn(state, finish_turn(state.stack, visit, self.plan.steps.__getitem__))
        if stop is not None:
            parked = {visit.id: park(visit) for visit in state.visits_with_status(*PARKABLE)}
            state = replace(state, visits={**state.visits, **parked})
        return state

    def move_branches(self, state: RunState, commit: Commit) -> RunState:
        """Return the state after the branches of a commit have moved, and joins have fired."""
        state = replace(state, live=state.live + commit.branches_change)
        touched = dict.fromkeys(commit.counter_changes)
        for branch in commit.branches:
            if branch.is_arrival:
                touched[branch.step] = None
                arrivals = {**state.arrivals.get(branch.step, {}), branch.id: branch}
                state = replace(state, arrivals={**state.arrivals, branch.step: arrivals})
            elif branch.is_absorbed and branch.id in state.visits:
                regions = self.plan.steps[branch.step].regions
                touched |= dict.fromkeys(regions)
                state = replace(self.count(state, dict.fromkeys(regions, -1)), live=state.live - 1)
        state = self.count(state, commit.counter_changes)
        left = {join: commit.left_clock for join in touched if commit.counter_changes.get(join, -1) < 0}
        state = self.raise_clocks(state, left)
        for join in touched:
            waiting, wave = state.joins.get(join, (0, 0))
            assert waiting >= 0
            if waiting == 0 and state.arrivals.get(join):
                arrived = list(state.arrivals[join].values())
                earlier = Branch("", join, state.clocks.get(join, 0), {})
                branch, live, merged = merge_arrivals(self.plan.steps[join], wave + 1, arrived, earlier)
                state = self.raise_clocks(state, {join: branch.clock})
                state = replace(
                    state,
                    arrivals={**state.arrivals, join: {}},
                    joins={**state.joins, join: (0, wave + 1)},
                    live=state.live + merged,
                )
                state = self.enter(self.count(state, live), branch)
        for branch in commit.branches:
            if not branch.is_arrival and branch.id not in state.visits:
                state = self.enter(state, branch)
        return state

    def begin_turn(self, state: RunState, turn: Turn) -> RunState:
        """Return the state after a turn in sequential mode. Only one visit is unfinished at a time."""
        state, branch = replace(state, stack=turn.stack, live=turn.stack.branches), turn.branch
        assert not state.visits_with_status(*ACTIVE)
        if branch is None:
            return state
        if not turn.is_resumed:
            entered = self.enter(state, branch)
            assert entered.visits[branch.id].number == turn.number
            return entered
        again = resume_visit(state.visits[branch.id], branch, 0.0)
        again = replace(again, attempt=ATTEMPT_AFTER_RESUME)
        return replace(state, visits={**state.visits, again.id: again})

    def raise_clocks(self, state: RunState, clocks: Mapping[str, int]) -> RunState:
        """Return the state in which joins have at least these clocks."""
        greater = {join: max(clock, state.clocks.get(join, 0)) for join, clock in clocks.items()}
        return replace(state, clocks={**state.clocks, **greater})

    def count(self, state: RunState, live: Mapping[str, int]) -> RunState:
        joins = dict(state.joins)
        for join, delta in live.items():
            waiting, wave = joins.get(join, (0, 0))
            joins[join] = (waiting + delta, wave)
        return replace(state, joins=joins)

    def enter(self, state: RunState, branch: Branch) -> RunState:
        assert branch.id not in state.visits
        number = state.counts.get(branch.step, 0) + 1
        step = self.plan.steps[branch.step]
        assert step.cyclic or number == 1, f"{branch.step} is visited twice"
        active = state.visits_with_status(
            VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.RETRYING, VisitStatus.PARKED
        )
        may_overlap = step.runs_per_branch or branch.step in self.concurrent
        assert may_overlap or branch.step not in {visit.step for visit in active}
        visit = enter_step(branch, "r", 0.0, number)
        return replace(
            state,
            visits={**state.visits, visit.id: visit},
            counts={**state.counts, branch.step: number},
        )

    def resume(self, state: RunState) -> RunState:
        """Return the state after a resume. Its attempts have another number, so they choose anew."""
        if self.plan.header.sequential:
            step_of, resumed = self.plan.steps.__getitem__, replace(state, stop=None, resumed=True)
            stopped = [visit for visit in state.visits.values() if reopen(visit, 0.0) is not None]
            stack = put_resumed_visits(state.stack, stopped, step_of)
            return self.begin_turn(resumed, next_turn(stack, find_last_begun(state.visits.values()), step_of))
        again = {
            id: replace(reopened, attempt=ATTEMPT_AFTER_RESUME)
            for id, visit in state.visits.items()
            if visit.failure is not FailureState.ENDED and (reopened := reopen(visit, 0.0)) is not None
        }
        return replace(state, visits={**state.visits, **again}, stop=None, resumed=True)
