"""The switch of a run to another plan, as a pure function on its records.

Problem: the counters of joins, the numbers of visits and the pointers of branches belong to the plan under
which they were written. Under another plan they are wrong: a join would fire early, twice or never.

Algorithm: recomputation from the visits instead of translation. Visits keep their ids, and so their
idempotency keys. The live counter of a join is the number of branches that stand in its region. Pointers come
from the history (`noetl.executor.model.run_history`). The clocks of live branches are raised above those of
all visits, because the switch is later than each of them (Lamport 1978). Joins that then wait for no branch
fire at once.

Cost: linear in the visits times the names of the run.

Fences of live visits grow, so a late commit under the old plan is refused.

Limits: it does not judge whether the run may continue. `noetl.executor.model.run_switch` adds the evaluated
environment and variables, and the statuses with which the visits continue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.model.branch_stack import BranchStack
from noetl.executor.model.ids import derived_id, ordered_id
from noetl.executor.model.run import Branch, Pointers, Visit, VisitStatus
from noetl.executor.model.run_history import RunRecords, find_new_place, names_of_branches
from noetl.executor.model.special_visits import SWITCH_STEP, is_branch_visit
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.model.visit_transition import enter_step
from noetl.planner.continuation.switch_state import Switch, rename_pointers
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan, Step

UNDONE_STEP = "@undone"
"""The pseudo-step of such a visit after the switch was undone. Nothing reads its values any more."""


@frozen
class CarriedRun:
    """A run in its new plan.

    Attributes:
        visits: all visits that change or are new: the live ones, and those of joins that fire.
        arrivals: the branches that wait at each join.
        joins: the live counter and the wave of each join.
        clocks: the clock of each join, which is greater than all clocks before the switch.
        counts: the number of visits of each step that is on a cycle.
        live: the number of branches.
        stack: the branches in sequential mode.
        input: the input with given values and defaults.
        variables: the variables, with the first values of new ones.
        deadline_at: when the time of the run is over.
    """

    visits: tuple[Visit, ...]
    arrivals: Mapping[str, tuple[Branch, ...]] = field(default_factory=dict)
    joins: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    clocks: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    live: int = 0
    stack: BranchStack = field(default_factory=BranchStack)
    input: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    deadline_at: float | None = None


def carry(old: Plan, new: Plan, records: RunRecords, switch: Switch, now: float) -> CarriedRun:
    """Return the run in the plan `new`. The verdict on the switch must be yes."""
    return _Carrier(old, new, records, switch, now).carry()


def count_given(visits: Iterable[Visit]) -> int:
    """Return for how many switches values were given. The next visit with such values has it in its id."""
    return sum(visit.step in (SWITCH_STEP, UNDONE_STEP) for visit in visits)


def given_visit(records: RunRecords, given: Mapping[str, Any], now: float) -> Visit:
    """Return the visit that holds given values. Every other write of such a name is later."""
    return Visit(
        derived_id(SWITCH_STEP, count_given(records.visits)),
        records.run.id,
        SWITCH_STEP,
        VisitStatus.SUCCEEDED,
        0,
        {},
        finished_at=now,
        saved=given,
    )


class _Carrier:
    """The computation of one switch."""

    def __init__(self, old: Plan, new: Plan, records: RunRecords, switch: Switch, now: float) -> None:
        self.old = old
        self.new = new
        self.records = records
        self.switch = switch
        self.now = now
        self.history = dict(names_of_branches(records, old))
        self.place = None if switch.renamed else find_new_place(records, old, new)
        if self.place is not None:
            self.history[self.place.visit_id] = self.place.names
        self.visits = [
            replace(visit, step=self.rename(visit.step))
            for visit in records.visits
            if is_branch_visit(visit, old.header.finally_step)
        ]
        waiting = (branch.clock for arrived in records.arrivals.values() for branch in arrived)
        self.clock = max([*(visit.clock for visit in self.visits), *waiting], default=0)
        self.counts = dict(
            Counter(v.step for v in self.visits if v.step in new.steps and new.steps[v.step].cyclic)
        )
        self.given_id = derived_id(SWITCH_STEP, count_given(records.visits))
        self.joins: dict[str, list[int]] = {}
        self.arrivals: dict[str, list[Branch]] = {}
        self.live = 0
        self.released: list[Visit] = []

    def rename(self, step: str) -> str:
        return self.switch.renamed.get(step, step)

    def carry(self) -> CarriedRun:
        given = self.given_names()
        written = (given_visit(self.records, given, self.now),) if given else ()
        live = tuple(self.carry_visit(visit, given) for visit in self.visits if self.records.is_live(visit))
        renamed = tuple(
            visit
            for visit, before in zip(self.visits, self.branch_visits(), strict=True)
            if visit.step != before.step and not self.records.is_live(visit)
        )
        for step, arrived in self.records.arrivals.items():
            self.carry_arrivals(self.new.steps[self.rename(step)], arrived, given)
        live += tuple(self.released)
        fired = () if self.new.header.sequential else self.fire_joins()
        return CarriedRun(
            (*written, *renamed, *live, *fired),
            {join: tuple(arrived) for join, arrived in self.arrivals.items() if arrived},
            {join: (waiting, self.wave(join)) for join, waiting in self.waiting_counts().items()},
            dict.fromkeys((step.name for step in self.new.steps.values() if step.join), self.clock),
            self.counts,
            self.live if self.place is None else self.place.stack.branches,
            self.build_stack(live),
            self.carry_input(),
            {**self.new.header.variables, **self.records.run.variables},
            self.find_deadline(),
        )

    def branch_visits(self) -> list[Visit]:
        finally_step = self.old.header.finally_step
        return [visit for visit in self.records.visits if is_branch_visit(visit, finally_step)]

    def given_names(self) -> dict[str, Any]:
        inputs = self.new.header.inputs
        return {name: value for name, value in self.switch.given.items() if name not in inputs}

    def names_for(self, id: str, target: Step, given: Mapping[str, Any]) -> Pointers:
        """Return the pointers that a branch carries to a step: those of names that are read from there."""
        pointer = (0, self.given_id)
        names = {**dict.fromkeys(given, pointer), **rename_pointers(self.history[id], self.switch.renamed)}
        return {name: pointer for name, pointer in names.items() if name in target.live_names}

    def carry_visit(self, visit: Visit, given: Mapping[str, Any]) -> Visit:
        step = self.new.steps[visit.step]
        self.count_branch(step)
        number = visit.number
        if step.cyclic and not self.is_counted_before(visit.step):
            number = self.counts[step.name]
        names = self.names_for(visit.id, step, given)
        return replace(visit, clock=self.clock + 1, names=names, number=number, fence=visit.fence + 1)

    def is_counted_before(self, step: str) -> bool:
        """Return whether the old plan has counted the visits of a step."""
        names = {self.rename(name): name for name in self.switch.renamed}
        before = self.old.steps.get(names.get(step, step))
        return before is not None and before.cyclic

    def carry_arrivals(self, join: Step, arrived: Sequence[Branch], given: Mapping[str, Any]) -> None:
        """Move the branches that wait at a join. If it is none in the new plan, they enter the step."""
        for branch in arrived:
            self.count_branch(join)
            if join.join is None:
                self.release(join, branch, given)
                continue
            carried = replace(
                branch, step=join.name, names=self.names_for(branch.id, join, given), is_counted=join.cyclic
            )
            self.arrivals.setdefault(join.name, []).append(carried)

    def release(self, step: Step, branch: Branch, given: Mapping[str, Any]) -> None:
        number = 1
        if step.cyclic:
            number = self.counts[step.name] = self.counts.get(step.name, 0) + 1
        clock = self.clock + 1
        id = ordered_id(step.name, clock, branch.id) if step.has_ordered_visits else branch.id
        names = self.names_for(branch.id, step, given)
        entered = Branch(id, step.name, clock, names, is_counted=step.cyclic)
        self.released.append(enter_step(entered, self.records.run.id, self.now, number))

    def count_branch(self, step: Step) -> None:
        self.live += 1
        self.count(dict.fromkeys(step.regions, 1))

    def count(self, changes: Mapping[str, int]) -> None:
        for join, change in changes.items():
            self.joins.setdefault(join, [0, self.earlier_wave(join)])[0] += change

    def earlier_wave(self, join: str) -> int:
        return next((wave for step, wave in self.records.waves.items() if self.rename(step) == join), 0)

    def wave(self, join: str) -> int:
        return self.joins[join][1] if join in self.joins else self.earlier_wave(join)

    def waiting_counts(self) -> dict[str, int]:
        waves = {self.rename(step) for step in self.records.waves}
        joins = {*self.joins, *self.arrivals, *(waves & self.new.steps.keys())}
        return {join: self.joins[join][0] if join in self.joins else 0 for join in joins}

    def fire_joins(self) -> tuple[Visit, ...]:
        """Return the visits of the joins that wait for no branch."""
        fired: list[Visit] = []
        while True:
            ready = (j for j, arrived in self.arrivals.items() if arrived and not self.waiting_counts()[j])
            join = next(ready, None)
            if join is None:
                return tuple(fired)
            step, wave = self.new.steps[join], self.wave(join) + 1
            earlier = Branch("", join, self.clock, {})
            branch, changes, merged = merge_arrivals(step, wave, self.arrivals.pop(join), earlier)
            self.joins[join] = [0, wave]
            self.live += merged
            self.count(changes)
            number = self.counts.get(join, 0) + 1 if step.cyclic else 1
            if step.cyclic:
                self.counts[join] = number
            fired.append(enter_step(branch, self.records.run.id, self.now, number))

    def build_stack(self, live: Sequence[Visit]) -> BranchStack:
        """Return the stack of a run in sequential mode: that of the same visits, or of one branch."""
        if self.place is not None:
            return self.place.stack
        if not self.new.header.sequential or len(live) != 1:
            return BranchStack()
        step = self.new.steps[live[0].step]
        waves = {self.rename(join): wave for join, wave in self.records.waves.items()}
        return BranchStack((), 1, dict.fromkeys(step.regions, 1), (), waves, {}, self.counts)

    def carry_input(self) -> dict[str, Any]:
        """Return the input with given values and the defaults of new inputs."""
        inputs = self.new.header.inputs
        defaults = {name: declared.default for name, declared in inputs.items() if not declared.required}
        given = {name: value for name, value in self.switch.given.items() if name in inputs}
        return {**defaults, **self.records.run.input, **given}

    def find_deadline(self) -> float | None:
        """Return when the time of the run is over. A resumed run has all of its time again."""
        seconds, run, before = self.new.header.timeout_seconds, self.records.run, self.old.header
        if seconds is None:
            return None
        if self.records.resumes_ended:
            return self.now + seconds
        if run.deadline_at is None or before.timeout_seconds is None:
            return run.created_at + seconds
        return run.deadline_at - before.timeout_seconds + seconds
