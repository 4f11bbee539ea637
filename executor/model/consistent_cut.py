"""The state of a run before a visit: what its other branches had done, and where they stood.

Problem: a new run starts at a step between a fork and its join. It needs the branches that stood next to it,
and the joins where they had arrived. A store keeps the present state of a run only.

Algorithm: a consistent cut of a causal history (Mattern 1989). The visit and all that it has caused are left
out: the visits of its branches, and the joins that waited for it. The rest is closed under causes, so it was
a state of the run. Branches that leave a visit which is kept, and whose next visit is not, stand there or
have arrived.

Cost: linear in the visits times the cases that they took.

Limits: which branch was the first at a `join: any` is not recorded. Its visit is kept if a branch that is
kept may have made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import Branch, Visit
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.special_visits import is_branch_visit
from noetl.executor.model.transition import branches_after
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import enter_step
from noetl.planner.frozen import replace
from noetl.planner.plan import Plan


def cut_before(records: RunRecords, plan: Plan, visit: Visit) -> RunRecords:
    """Return the records of a run as they were before a visit of a branch, next to all that is independent.

    `records` has the visits of the run with the names that they saved. Its arrivals are not needed.
    """
    return _Cut(records, plan).cut(visit)


def cut_at_start(records: RunRecords, plan: Plan) -> RunRecords:
    """Return the records of a run that continues another one, as they were when it began."""
    return _Cut(records, plan).cut_at_start()


def keep_branch(records: RunRecords, plan: Plan, visit: Visit) -> RunRecords:
    """Return the records without the branches next to one that stands at a visit, or waits at its join.

    What they have done is kept. They do not arrive any more.
    """
    arrivals = {join: arrived for join, arrived in records.arrivals.items() if join == visit.step}
    dropped = {
        branch.id for join, arrived in records.arrivals.items() if join not in arrivals for branch in arrived
    }
    visits = [
        replace(other, case=None) if _has_sent(other, dropped, plan) else other
        for other in records.visits
        if other.id == visit.id or not records.is_live(other)
    ]
    return replace(records, visits=visits, arrivals=arrivals)


def _has_sent(visit: Visit, arrived: set[str], plan: Plan) -> bool:
    """Return whether a finished visit has sent one of the branches that wait at joins."""
    if visit.status not in FINISHED or visit.step not in plan.steps:
        return False
    branches = branches_after(visit, plan.steps[visit.step], plan.steps.__getitem__)
    return any(branch.id in arrived for branch in branches)


class _Cut:
    """The branches that have left the visits of a run, by the visits that sent them."""

    def __init__(self, records: RunRecords, plan: Plan) -> None:
        finally_step = plan.header.finally_step
        self.records = records
        self.plan = plan
        self.visits = {v.id: v for v in records.visits if is_branch_visit(v, finally_step)}
        origin = records.run.resumed_from
        first_ids = {derived_id("from", origin, step) for step in plan.steps} if origin is not None else set()
        self.copied_until = max((v.clock for v in self.visits.values() if v.id in first_ids), default=0)
        """The clock of the one visit with which the run began, or 0. Copies before it have new ids."""
        self.branches: dict[str, tuple[Branch, ...]] = {
            visit.id: self.leave(visit) for visit in self.visits.values()
        }

    def leave(self, visit: Visit) -> tuple[Branch, ...]:
        """Return the branches that have left a visit. Those of a copied visit stand in this run, or ended."""
        if visit.status not in FINISHED or visit.step not in self.plan.steps:
            return ()
        branches = branches_after(visit, self.plan.steps[visit.step], self.plan.steps.__getitem__)
        if self.copied_until and self.is_copied(visit):
            return ()
        if self.records.run.resumed_from is None:
            return branches
        return tuple(branch for branch in branches if branch.is_arrival or branch.id in self.visits)

    def is_copied(self, visit: Visit) -> bool:
        """Return whether another run has finished a visit."""
        run = self.records.run
        if self.copied_until:
            return visit.clock < self.copied_until
        is_earlier = visit.finished_at is not None and visit.finished_at < run.created_at
        return run.resumed_from is not None and is_earlier

    def cut_at_start(self) -> RunRecords:
        """Return the records at the start. The branches stood at the visits that have the least clock."""
        run = self.records.run
        kept = {id: visit for id, visit in self.visits.items() if self.is_copied(visit)}
        later = [visit for id, visit in self.visits.items() if id not in kept]
        clock = min((visit.clock for visit in later), default=1)
        entered = {
            visit.id: enter_step(
                Branch(visit.id, visit.step, clock - 1, visit.names), run.id, run.created_at, visit.number
            )
            for visit in later
            if visit.clock == clock
        }
        arrivals, waves = (
            self.find_arrivals(kept),
            count_waves(self.plan, self.visits.values(), kept.values()),
        )
        fired = {visit.step for visit in entered.values()} & arrivals.keys()
        return replace(
            self.records,
            visits=[*kept.values(), *entered.values()],
            arrivals={join: arrived for join, arrived in arrivals.items() if join not in fired},
            waves=waves | {join: waves.get(join, 0) + 1 for join in fired},
            events=(),
        )

    def enter_steps(self, kept: Mapping[str, Visit], due_at: float) -> dict[str, Visit]:
        """Return the visits of the branches that have left the kept visits, and stand at a step."""
        return {
            branch.id: enter_step(branch, self.records.run.id, due_at, self.number_of(branch))
            for id in kept
            for branch in self.branches[id]
            if not branch.is_arrival and branch.id not in kept
        }

    def cut(self, visit: Visit) -> RunRecords:
        dropped = self.find_effects(visit)
        kept = {id: other for id, other in self.visits.items() if id not in dropped}
        entered = self.enter_steps(kept, visit.due_at)
        if visit.id not in entered and not self.is_arrival_at(visit, kept):
            branch = Branch(visit.id, visit.step, visit.clock, visit.names)
            entered[visit.id] = enter_step(branch, visit.run_id, visit.due_at, visit.number)
        return replace(
            self.records,
            visits=[*kept.values(), *entered.values()],
            arrivals=self.find_arrivals(kept),
            waves=count_waves(self.plan, self.visits.values(), kept.values()),
            events=(),
        )

    def number_of(self, branch: Branch) -> int:
        return self.visits[branch.id].number if branch.id in self.visits else 1

    def is_arrival_at(self, visit: Visit, kept: Mapping[str, Visit]) -> bool:
        """Return whether a visit is that of a join which waits for branches that are kept."""
        return any(
            branch.is_arrival
            and branch.step == visit.step
            and not self.is_consumed(self.visits[id], branch, kept)
            for id in kept
            for branch in self.branches[id]
        )

    def find_effects(self, visit: Visit) -> set[str]:
        """Return the ids of a visit and of the visits that it has caused."""
        dropped = {visit.id}
        queue = [visit]
        while queue:
            cause = queue.pop()
            for effect in self.effects_of(cause, dropped):
                if effect.id not in dropped:
                    dropped.add(effect.id)
                    queue.append(effect)
        return dropped

    def effects_of(self, cause: Visit, dropped: set[str]) -> Iterable[Visit]:
        """Yield the visits that follow from one: its branches, and the joins that waited for it."""
        joins = set(self.plan.steps[cause.step].regions) if cause.step in self.plan.steps else set()
        for branch in self.branches[cause.id]:
            if branch.is_arrival:
                joins.add(branch.step)
            elif branch.id in self.visits and not (
                branch.is_absorbed and self.has_other_cause(branch.id, dropped)
            ):
                yield self.visits[branch.id]
        for visit in self.visits.values():
            if visit.step in joins and visit.clock > cause.clock and not self.is_any_join(visit.step):
                yield visit

    def is_any_join(self, step: str) -> bool:
        join = self.plan.steps[step].join
        return join is not None and join.mode == "any"

    def has_other_cause(self, id: str, dropped: set[str]) -> bool:
        """Return whether a branch that is kept may have made a visit at a `join: any`."""
        visit = self.visits[id]
        if any(holder in dropped for _, holder in visit.names.values()):
            return False
        return any(
            branch.id == id and self.visits[cause].clock + 1 == visit.clock
            for cause, branches in self.branches.items()
            if cause not in dropped
            for branch in branches
        )

    def find_arrivals(self, kept: Mapping[str, Visit]) -> dict[str, Sequence[Branch]]:
        """Return the branches that wait at each join."""
        arrivals: dict[str, list[Branch]] = {}
        for id, visit in kept.items():
            for branch in self.branches[id]:
                if branch.is_arrival and not self.is_consumed(visit, branch, kept):
                    arrivals.setdefault(branch.step, []).append(branch)
        return {join: tuple(arrived) for join, arrived in arrivals.items()}

    def is_consumed(self, cause: Visit, branch: Branch, kept: Mapping[str, Visit]) -> bool:
        """Return whether a visit of the join that is kept has merged an arrival.

        After a resume, a branch may arrive at a join that has fired before with a greater clock.
        """
        return any(
            visit.step == branch.step
            and visit.clock >= branch.clock
            and (
                visit.started_at is None or cause.finished_at is None or cause.finished_at <= visit.started_at
            )
            for visit in kept.values()
        )


def count_waves(plan: Plan, visits: Iterable[Visit], kept: Iterable[Visit]) -> dict[str, int]:
    """Return how often each join has fired, from the visits that are kept of all visits of a run.

    An earlier visit of a join may be left out, when the join has fired again after a resume. The next one
    must not get the id of a visit that is kept.
    """
    fired = Counter(visit.step for visit in visits)
    ids: dict[str, set[str]] = {}
    for visit in kept:
        if plan.steps[visit.step].join is not None:
            ids.setdefault(visit.step, set()).add(visit.id)
    waves = {
        join: max(
            (wave for wave in range(1, fired[join] + 1) if derived_id("join", join, wave) in known),
            default=0,
        )
        for join, known in ids.items()
    }
    return {join: wave for join, wave in waves.items() if wave}
