"""Every way a small playbook can go, through the functions that production uses.

A state is what a store would hold. From it, every visit that is ready may start, every visit that has started may end in
every way its step allows, in any order. What a visit does is fixed by step, number and attempt once it has been chosen,
so that all orders of the same deeds can be compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from textwrap import dedent
from typing import Any

import pytest

from executor.records import Branch, Commit, Failure, Progress, RunStatus, Visit, VisitStatus
from executor.transition import (
    GuardFailed,
    Outcome,
    Pause,
    arrive,
    choose,
    derived_id,
    ending,
    error_record,
    merge_names,
    next_in_line,
    pause,
    refusal,
    settle,
)
from planner.plan import Case, Plan
from tests.plays import compiled

MAX_STATES = 60_000
Deed = tuple[str, int]
"""What happens at a visit: `case` and the index of the guard that is true (-1: none), `fail` and the same, `broken`
when the first guard has no value, `retry` for a failure that is tried again.
"""


@dataclass(frozen=True)
class World:
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
    line: tuple[str, ...] = ()
    deeds: Mapping[tuple[str, int, int], Deed] = field(default_factory=dict)

    def key(self) -> Any:
        return (
            tuple(sorted((v.id, v.status, v.attempt, v.number) for v in self.visits.values())),
            tuple(sorted(self.joins.items())),
            self.live,
            self.stop,
            self.resumed,
            self.line,
            tuple(sorted(self.deeds.items())),
        )

    def standing(self, *statuses: VisitStatus) -> list[Visit]:
        return [visit for visit in self.visits.values() if visit.status in statuses]

    @property
    def is_final(self) -> bool:
        return not self.standing(VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.RETRYING, VisitStatus.WAITING)


class Explorer:
    """`failing` are the steps that may fail, `waiting` those that may pause, `shared` those at which several branches may
    stand at once.
    """

    def __init__(
        self,
        plan: Plan,
        failing: frozenset[str] = frozenset(),
        waiting: frozenset[str] = frozenset(),
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self.plan = plan
        self.failing = failing
        self.waiting = waiting
        self.shared = shared

    def begin(self) -> World:
        """The state of a run that has been started."""
        start = self.plan.steps[self.plan.header.start]
        joins = dict.fromkeys(start.regions, (1, 0))
        branch = Branch(derived_id("start"), start.name, 1, {}, counted=start.cyclic)
        first = self.enter(World(joins=joins), branch)
        return replace(first, line=tuple(first.visits))

    def endings(self) -> list[World]:
        """The states in which nothing is left to do."""
        first = self.begin()
        seen = {first.key()}
        stack = [first]
        found = []
        while stack:
            world = stack.pop()
            if world.is_final:
                found.append(world)
            for following in self.events(world):
                if following.key() not in seen:
                    seen.add(following.key())
                    stack.append(following)
            assert len(seen) < MAX_STATES
        return found

    def events(self, world: World) -> Iterator[World]:
        for visit in world.standing(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING):
            if self.plan.header.sequential and visit.id != world.line[0]:
                continue
            running = replace(visit, status=VisitStatus.RUNNING, claims=1, fence=visit.fence + 1, started_at=0.0)
            yield replace(world, visits={**world.visits, visit.id: running})
        for visit in world.standing(VisitStatus.RUNNING):
            at = (visit.step, visit.number, visit.attempt * 2 + (visit.progress is not None))
            for deed in [world.deeds[at]] if at in world.deeds else self.deeds(world, visit):
                commit = self.perform(visit, deed)
                yield self.commit(replace(world, deeds={**world.deeds, at: deed}), commit)
        if world.is_final and world.stop is not None and not world.resumed:
            yield self.resume(world)

    def deeds(self, world: World, visit: Visit) -> Iterator[Deed]:
        step = self.plan.steps[visit.step]
        guarded = [index for index, case in enumerate(step.cases) if case.guard is not None]
        aware = [index for index in guarded if step.cases[index].error_aware]
        if refusal(step, visit) is not None:
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

    def perform(self, visit: Visit, deed: Deed) -> Commit:
        step = self.plan.steps[visit.step]
        what, index = deed
        if what == "wait":
            return pause(visit, Pause(Progress(journal={"run": {"at": 0}}), 1.0), 0.0)
        refused = refusal(step, visit)
        error = refused or error_record(visit, "Failed", "no", retryable=what == "retry")
        saved = dict.fromkeys(step.saves, f"{visit.step} {visit.number}")
        failed = refused is not None or what in ("fail", "retry")
        outcome = Outcome(False, None, error) if failed else Outcome(saved=saved)

        def test(case: Case, found: Outcome) -> bool:
            if what == "broken" and found.error is None:
                raise GuardFailed("no value")
            return step.cases.index(case) == index

        choice = choose(step, visit, outcome, test, lambda _: True, 0.0)
        return settle(step, self.plan.steps.__getitem__, visit, choice, choice.outcome, 0.0)

    def commit(self, world: World, commit: Commit) -> World:
        """What a store makes of a commit."""
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
        touched = dict.fromkeys(commit.live)
        for branch in commit.branches:
            if branch.joins:
                touched[branch.step] = None
                arrivals = {**world.arrivals.get(branch.step, {}), branch.id: branch}
                world = replace(world, arrivals={**world.arrivals, branch.step: arrivals})
            elif branch.is_absorbed and branch.id in world.visits:
                regions = self.plan.steps[branch.step].regions
                touched |= dict.fromkeys(regions)
                world = replace(self.count(world, dict.fromkeys(regions, -1)), live=world.live - 1)
        world = self.count(world, commit.live)
        for join in touched:
            waiting, wave = world.joins.get(join, (0, 0))
            assert waiting >= 0
            if waiting == 0 and world.arrivals.get(join):
                arrived = list(world.arrivals[join].values())
                branch, live, merged = arrive(self.plan.steps[join], wave + 1, arrived)
                world = replace(
                    world,
                    arrivals={**world.arrivals, join: {}},
                    joins={**world.joins, join: (0, wave + 1)},
                    live=world.live + merged,
                )
                world = self.enter(self.count(world, live), branch)
        for branch in commit.branches:
            if not branch.joins and branch.id not in world.visits:
                world = self.enter(world, branch)
        if self.plan.header.sequential:
            world = self.in_turn(world, commit, [id for id in world.visits if id not in before])
        if stop is not None:
            parked = {
                v.id: replace(v, status=VisitStatus.PARKED)
                for v in world.standing(VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)
            }
            world = replace(world, visits={**world.visits, **parked})
        return world

    def in_turn(self, world: World, commit: Commit, entered: list[str]) -> World:
        """The new visits go before those that waited before; the first sees what the visit that has ended saw and saved."""
        if commit.visit.finished_at is None:
            return world
        if commit.visit.failure is Failure.OPEN:
            return replace(world, line=(commit.visit.id, *entered, *world.line[1:]))
        line = (*entered, *world.line[1:])
        if line and world.stop is None:
            first = next_in_line(world.visits[line[0]], commit.visit.clock, commit.seen or {})
            world = replace(world, visits={**world.visits, first.id: first})
        return replace(world, line=line)

    def count(self, world: World, live: Mapping[str, int]) -> World:
        joins = dict(world.joins)
        for join, delta in live.items():
            waiting, wave = joins.get(join, (0, 0))
            joins[join] = (waiting + delta, wave)
        return replace(world, joins=joins)

    def enter(self, world: World, branch: Branch) -> World:
        assert branch.id not in world.visits
        number = world.counts.get(branch.step, 0) + 1
        step = self.plan.steps[branch.step]
        assert step.cyclic or number == 1, f"{branch.step} is visited twice"
        standing = world.standing(VisitStatus.READY, VisitStatus.RUNNING, VisitStatus.RETRYING, VisitStatus.PARKED)
        assert branch.step in self.shared or branch.step not in {visit.step for visit in standing}
        visit = Visit(branch.id, "r", branch.step, VisitStatus.READY, branch.clock, branch.names, number)
        return replace(
            world,
            visits={**world.visits, visit.id: visit},
            counts={**world.counts, branch.step: number},
        )

    def resume(self, world: World) -> World:
        again = {
            v.id: replace(v, status=VisitStatus.READY, attempt=9, claims=0, error=None, failure=None, case=None)
            for v in world.visits.values()
            if v.status is VisitStatus.PARKED or v.failure is Failure.OPEN
        }
        return replace(world, visits={**world.visits, **again}, stop=None, resumed=True)


CHAIN = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {n: 2}}], retry: 2, rule: [{case: "{{ n }}", run: [c]}, {case: error, run: [c]}]}
    - {name: c, run: [{action: log, message: "{{ n }}"}]}
"""
DIAMOND = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {n: 2}}], rule: [{case: "{{ n }}", run: [d]}]}
    - {name: c, run: [{action: set, set: {m: 2}}], retry: 2, rule: [{case: error, run: [d]}, {case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: "{{ n }}"}], rule: [{case: default, run: [e]}]}
    - {name: e, run: [{action: set, set: {o: 1}}]}
"""
NESTED = """
    on_error: continue
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [d, e]}]}
    - {name: c, run: [{action: set, set: {x: 1}}], rule: [{case: "{{ run.id }}", run: [g]}]}
    - {name: d, run: [{action: set, set: {y: 1}}], rule: [{case: "{{ run.id }}", run: [f]}]}
    - {name: e, rule: [{case: "{{ run.id }}", run: [f]}, {case: default, run: [g]}]}
    - {name: f, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [g]}]}
    - {name: g, run: [{action: log, message: "{{ y }}"}]}
"""
CYCLE = """
    steps:
    - name: a
      run: [{action: set, set: {n: 1}}]
      max_visits: 2
      rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]
    - {name: b, run: [{action: set, set: {k: 1}}], rule: [{case: default, run: [d]}]}
    - {name: c, rule: [{case: "{{ n }}", run: [d]}]}
    - {name: d, rule: [{case: "{{ k }}", run: [a]}, {case: default, run: [e]}]}
    - {name: e, run: [{action: log, message: "{{ n }} {{ k }}"}]}
"""
LATE = """
    steps:
    - {name: a, max_visits: 2, rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {k: 1}}], rule: [{case: "{{ run.id }}", run: [d]}, {case: default, run: [x]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, rule: [{case: "{{ k }}", run: [a]}, {case: default, run: [y]}]}
    - {name: x, run: [{action: set, set: {z: 1}}], rule: [{case: default, run: [w]}]}
    - {name: y, rule: [{case: default, run: [w]}]}
    - {name: w, run: [{action: log, message: "{{ k }} {{ z }}"}]}
"""
LOOP_INSIDE = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, max_visits: 3, run: [{action: set, set: {n: 1}}], rule: [{case: "{{ n }}", run: [b]}, {case: default, run: [d]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: "{{ n }}"}]}
"""

SEQUENTIAL = "mode: sequential\n" + dedent(DIAMOND)


FIRST = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: "{{ x }}", run: [j]}]}
    - {name: c, rule: [{case: default, run: [j]}]}
    - {name: d, rule: [{case: default, run: [k]}]}
    - {name: j, join: any, rule: [{case: default, run: [k]}]}
    - {name: k, run: [{action: log, message: x}]}
"""
FIRST_OF_EACH_ROUND = """
    steps:
    - {name: a, max_visits: 2, rule: [{case: error, run: []}, {case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [j]}]}
    - {name: c, rule: [{case: "{{ run.id }}", run: [j]}]}
    - {name: j, join: any, rule: [{case: default, run: [a]}]}
"""
EACH = """
    on_error: continue
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
    - {name: c, rule: [{case: "{{ run.id }}", run: [e]}]}
    - {name: d, rule: [{case: default, run: [f]}]}
    - {name: e, join: each, rule: [{case: "{{ run.id }}", run: [f]}]}
    - {name: f, run: [{action: log, message: x}]}
"""


@pytest.mark.parametrize(
    ("text", "failing", "shared"),
    [
        pytest.param(FIRST, "", "", id="first"),
        pytest.param(FIRST, "b", "", id="first with a failure"),
        pytest.param(FIRST_OF_EACH_ROUND, "", "bcj", id="first of each round"),
        pytest.param(EACH, "", "e", id="each"),
        pytest.param(EACH, "b", "e", id="each with a failure"),
    ],
)
def test_every_way_that_branches_can_race(text: str, failing: str, shared: str) -> None:
    """Who is first is chance; how many branches are left over, and where, is not."""
    explorer = Explorer(compiled(text), frozenset(failing), shared=frozenset(shared))
    endings = explorer.endings()
    assert len(endings) > 1
    for world in endings:
        if world.stop is None:
            assert world.live == 0
            assert not any(live for live, _ in world.joins.values())
            assert not any(world.arrivals.values())
        else:
            left = [v for v in world.visits.values() if v.failure is Failure.OPEN]
            parked, arrived = world.standing(VisitStatus.PARKED), sum(map(len, world.arrivals.values()))
            assert world.live == len(left) + len(parked) + arrived


@pytest.mark.parametrize(
    ("text", "failing", "waiting", "endings"),
    [
        pytest.param(CHAIN, "abc", "", {"succeeded", "failed"}, id="chain"),
        pytest.param(CHAIN, "b", "abc", {"succeeded", "failed"}, id="chain that waits"),
        pytest.param(DIAMOND, "bc", "", {"succeeded", "failed"}, id="diamond"),
        pytest.param(DIAMOND, "b", "cd", {"succeeded", "failed"}, id="diamond that waits"),
        pytest.param(NESTED, "d", "", {"succeeded", "completed_with_errors"}, id="nested"),
        pytest.param(CYCLE, "", "", {"succeeded", "failed"}, id="cycle"),
        pytest.param(LATE, "", "", {"succeeded", "failed"}, id="late"),
        pytest.param(LOOP_INSIDE, "c", "", {"succeeded", "failed"}, id="loop inside a region"),
        pytest.param(SEQUENTIAL, "bc", "d", {"succeeded", "failed"}, id="one after another"),
    ],
)
def test_every_way_a_playbook_can_go(text: str, failing: str, waiting: str, endings: set[str]) -> None:
    explorer = Explorer(compiled(text), frozenset(failing), frozenset(waiting))
    found: dict[Any, set[Any]] = defaultdict(set)
    statuses = set()
    for world in explorer.endings():
        statuses.add(ending(world.stop, world.failed_branches).value)
        left = world.standing(VisitStatus.PARKED) + [v for v in world.visits.values() if v.failure is Failure.OPEN]
        if world.stop is None:
            assert world.live == 0
            assert not any(live for live, _ in world.joins.values())
            assert not any(world.arrivals.values())
            assert not left
            names = merge_names([(v.clock, v.id, v.saved) for v in world.visits.values()])
            visits = Counter(v.step for v in world.visits.values())
            found[tuple(sorted(world.deeds.items()))].add((tuple(sorted(names.items())), tuple(sorted(visits.items()))))
        else:
            arrived = sum(map(len, world.arrivals.values()))
            assert world.live == len(left) + arrived
    assert statuses == endings
    assert all(len(ways) == 1 for ways in found.values())
    assert len(found) > 1
