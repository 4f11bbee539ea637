"""Every way a small playbook can go, through the functions that production uses.

A state is what a store would hold. From it, every visit that is ready may start, every visit that has started may end in
every way its step allows, in any order. What a visit does is fixed by step, number and attempt once it has been chosen,
so that all orders of the same deeds can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from noetl.executor.model.ids import derived_id
from noetl.executor.model.outcome import Outcome, Suspension, error_record
from noetl.executor.model.run import Branch, Commit, FailureState, Progress, RunStatus, Visit, VisitStatus
from noetl.executor.model.transition import (
    GuardError,
    build_commit,
    choose_case,
    find_refusal,
    merge_arrivals,
    start_next_sequential,
    suspend,
)
from noetl.planner.plan import Case, Plan

MAX_STATES = 60_000
VisitChoice = tuple[str, int]
"""What happens at a visit: `case` and the index of the guard that is true (-1: none), `fail` and the same, `broken`
when the first guard has no value, `retry` for a failure that is tried again.
"""


@dataclass(frozen=True)
class RunState:
    """All that a store holds of one run. `line` are the visits that wait for their turn, where branches go one after
    another; the first is the one whose turn it is.
    """

    visits: Mapping[str, Visit] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    joins: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    arrivals: Mapping[str, Mapping[str, Branch]] = field(default_factory=dict)
    live: int = 1
    failed_branches: int = 0
    stop: RunStatus | None = None
    resumed: bool = False
    sequence: tuple[str, ...] = ()
    choices: Mapping[tuple[str, int, int], VisitChoice] = field(default_factory=dict)

    def key(self) -> Any:
        return (
            tuple(sorted((v.id, v.status, v.attempt, v.number) for v in self.visits.values())),
            tuple(sorted(self.joins.items())),
            self.live,
            self.stop,
            self.resumed,
            self.sequence,
            tuple(sorted(self.choices.items())),
        )

    def visits_with_status(self, *statuses: VisitStatus) -> list[Visit]:
        return [visit for visit in self.visits.values() if visit.status in statuses]

    @property
    def is_final(self) -> bool:
        return not self.visits_with_status(
            VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.RETRYING, VisitStatus.WAITING
        )


class StateSpaceExplorer:
    """`failing` are the steps that may fail, `waiting` those that may pause, `concurrent` those at which several branches may
    stand at once.
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
        """The state of a run that has been started."""
        start = self.plan.steps[self.plan.header.start]
        joins = dict.fromkeys(start.regions, (1, 0))
        branch = Branch(derived_id("start"), start.name, 1, {}, is_counted=start.cyclic)
        first = self.enter(RunState(joins=joins), branch)
        return replace(first, sequence=tuple(first.visits))

    def final_states(self) -> list[RunState]:
        """The states in which nothing is left to do."""
        first = self.initial_state()
        seen = {first.key()}
        stack = [first]
        found = []
        while stack:
            world = stack.pop()
            if world.is_final:
                found.append(world)
            for following in self.successors(world):
                if following.key() not in seen:
                    seen.add(following.key())
                    stack.append(following)
            assert len(seen) < MAX_STATES
        return found

    def successors(self, world: RunState) -> Iterator[RunState]:
        for visit in world.visits_with_status(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING):
            if self.plan.header.sequential and visit.id != world.sequence[0]:
                continue
            running = replace(
                visit, status=VisitStatus.RUNNING, claims=1, fence=visit.fence + 1, started_at=0.0
            )
            yield replace(world, visits={**world.visits, visit.id: running})
        for visit in world.visits_with_status(VisitStatus.RUNNING):
            at = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for deed in [world.choices[at]] if at in world.choices else self.choices(world, visit):
                commit = self.perform(visit, deed)
                yield self.commit(replace(world, choices={**world.choices, at: deed}), commit)
        if world.is_final and world.stop is not None and not world.resumed:
            yield self.resume(world)

    def choices(self, world: RunState, visit: Visit) -> Iterator[VisitChoice]:
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
        if visit.step in self.failing and not world.resumed:
            yield from (("fail", index) for index in [*aware, -1])
            if visit.attempt < step.retry.attempts:
                yield "retry", -1

    def perform(self, visit: Visit, deed: VisitChoice) -> Commit:
        step = self.plan.steps[visit.step]
        what, index = deed
        if what == "wait":
            return suspend(visit, Suspension(Progress(journal={"run": {"at": 0}}), 1.0), 0.0)
        refused = find_refusal(step, visit)
        error = refused or error_record(visit, "Failed", "no", retryable=what == "retry")
        saved = dict.fromkeys(step.saves, f"{visit.step} {visit.number}")
        failed = refused is not None or what in ("fail", "retry")
        outcome = Outcome(False, None, error) if failed else Outcome(saved=saved)

        def test(case: Case, found: Outcome) -> bool:
            if what == "broken" and found.error is None:
                raise GuardError("no value")
            return step.cases.index(case) == index

        choice = choose_case(step, visit, outcome, test, lambda _: True, 0.0)
        return build_commit(step, self.plan.steps.__getitem__, visit, choice, choice.outcome, 0.0)

    def commit(self, world: RunState, commit: Commit, *, backwards: bool = False) -> RunState:
        """What a store makes of a commit. Which of several joins fires first is up to it: `backwards` it is the last."""
        stop = world.stop or commit.stop
        visit = commit.visit
        if stop is not None and visit.status in (VisitStatus.RETRYING, VisitStatus.WAITING):
            visit = replace(visit, status=VisitStatus.PARKED)
        before = world.visits.keys()
        world = replace(
            world,
            visits={**world.visits, visit.id: visit},
            live=world.live + commit.branches_change,
            failed_branches=world.failed_branches + commit.failed_branches,
            stop=stop,
        )
        touched = dict.fromkeys(commit.counter_changes)
        for branch in commit.branches:
            if branch.is_arrival:
                touched[branch.step] = None
                arrivals = {**world.arrivals.get(branch.step, {}), branch.id: branch}
                world = replace(world, arrivals={**world.arrivals, branch.step: arrivals})
            elif branch.is_absorbed and branch.id in world.visits:
                regions = self.plan.steps[branch.step].regions
                touched |= dict.fromkeys(regions)
                world = replace(self.count(world, dict.fromkeys(regions, -1)), live=world.live - 1)
        world = self.count(world, commit.counter_changes)
        for join in reversed(touched) if backwards else touched:
            waiting, wave = world.joins.get(join, (0, 0))
            assert waiting >= 0
            if waiting == 0 and world.arrivals.get(join):
                arrived = list(world.arrivals[join].values())
                branch, live, merged = merge_arrivals(self.plan.steps[join], wave + 1, arrived)
                world = replace(
                    world,
                    arrivals={**world.arrivals, join: {}},
                    joins={**world.joins, join: (0, wave + 1)},
                    live=world.live + merged,
                )
                world = self.enter(self.count(world, live), branch)
        for branch in commit.branches:
            if not branch.is_arrival and branch.id not in world.visits:
                world = self.enter(world, branch)
        if self.plan.header.sequential:
            world = self.start_next(world, commit, [id for id in world.visits if id not in before])
        if stop is not None:
            parked = {
                v.id: replace(v, status=VisitStatus.PARKED)
                for v in world.visits_with_status(
                    VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING
                )
            }
            world = replace(world, visits={**world.visits, **parked})
        return world

    def start_next(self, world: RunState, commit: Commit, entered: list[str]) -> RunState:
        """The new visits go before those that waited before; the first sees what the visit that has ended saw and saved."""
        if commit.visit.finished_at is None:
            return world
        if commit.visit.failure is FailureState.OPEN:
            return replace(world, sequence=(commit.visit.id, *entered, *world.sequence[1:]))
        line = (*entered, *world.sequence[1:])
        if line and world.stop is None:
            first = start_next_sequential(world.visits[line[0]], commit.visit.clock, commit.next_names or {})
            world = replace(world, visits={**world.visits, first.id: first})
        return replace(world, sequence=line)

    def count(self, world: RunState, live: Mapping[str, int]) -> RunState:
        joins = dict(world.joins)
        for join, delta in live.items():
            waiting, wave = joins.get(join, (0, 0))
            joins[join] = (waiting + delta, wave)
        return replace(world, joins=joins)

    def enter(self, world: RunState, branch: Branch) -> RunState:
        assert branch.id not in world.visits
        number = world.counts.get(branch.step, 0) + 1
        step = self.plan.steps[branch.step]
        assert step.cyclic or number == 1, f"{branch.step} is visited twice"
        standing = world.visits_with_status(
            VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.RETRYING, VisitStatus.PARKED
        )
        assert branch.step in self.concurrent or branch.step not in {visit.step for visit in standing}
        visit = Visit(branch.id, "r", branch.step, VisitStatus.READY, branch.clock, branch.names, number)
        return replace(
            world,
            visits={**world.visits, visit.id: visit},
            counts={**world.counts, branch.step: number},
        )

    def resume(self, world: RunState) -> RunState:
        again = {
            v.id: replace(
                v, status=VisitStatus.READY, attempt=9, claims=0, error=None, failure=None, case=None
            )
            for v in world.visits.values()
            if v.status is VisitStatus.PARKED or v.failure is FailureState.OPEN
        }
        return replace(world, visits={**world.visits, **again}, stop=None, resumed=True)
