"""Branches of a run in the store in memory: they enter steps, arrive at joins, and end the run.

Problem: a join must fire exactly once for each wave of arrivals, when no branch can reach it any more.

Algorithm: reference counting (Collins 1960). `live` counts the branches that can still reach a join, and
`arrivals` holds those that wait there. The write that brings a counter to zero fires the join.

Cost: linear in the visits of the run for each commit.

Limits: commits of one run must be serial. The author of a store locks the run, or uses atomic counters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from noetl.executor.errors import RejectedError
from noetl.executor.model.branch_stack import (
    BranchStack,
    Turn,
    find_last_begun,
    finish_turn,
    next_turn,
    put_resumed_visits,
    resume_visit,
)
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    Branch,
    Commit,
    FailureState,
    Lease,
    RunStatus,
    Visit,
    VisitStatus,
    WaitKey,
)
from noetl.executor.model.run_transition import (
    entered_finally_step,
    pause_run,
    run_paused,
    run_unpaused,
    stop_run,
    unpause_run,
)
from noetl.executor.model.special_visits import (
    end_visit,
    finally_visit,
    finally_visit_id,
    is_branch_visit,
    is_pseudo_step,
)
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.model.visit_states import PARKABLE
from noetl.executor.model.visit_transition import claim, enter_step, park, reopen, start_events, unpause
from noetl.executor.stores.memory.gates import give_back_parked
from noetl.executor.stores.memory.state import MemoryState, RunRecord
from noetl.planner.frozen import replace


class MemoryBranches:
    """The branches of a run during one write. With a lease, the first visit that becomes due is claimed.

    `claimed` is the visit that was claimed, and `events` says so. `entered` is the number of visits that were
    added, and `absorbed` that of branches that ended because their visit existed. The caller holds the lock.
    """

    def __init__(
        self, state: MemoryState, record: RunRecord, now: float, claim_for: Lease | None = None
    ) -> None:
        self.state = state
        self.record = record
        self.now = now
        self.claim_for = claim_for
        self.plan = state.plan(record.run.plan_hash)
        self.claimed: Visit | None = None
        self.events: tuple[Event, ...] = ()
        self.entered = 0
        self.absorbed = 0

    @property
    def is_sequential(self) -> bool:
        return self.plan.header.sequential

    def move_branches(self, commit: Commit) -> None:
        """Let branches enter steps or arrive at joins, and change the live counters of joins.

        Joins that no branch can reach any more fire before a branch enters a step.
        """
        changes, branches = dict(commit.counter_changes), commit.branches
        for branch in branches:
            if branch.is_arrival:
                changes.setdefault(branch.step, 0)
                self.record.arrivals.setdefault(branch.step, {})[branch.id] = branch
            elif branch.is_absorbed and branch.id in self.record.visits:
                self.absorbed += 1
                for join in self.plan.steps[branch.step].regions:
                    changes[join] = changes.get(join, 0) - 1
        self.change_live(-self.absorbed, changes)
        for join, change in changes.items():
            if change < 0:
                self.record.clocks[join] = max(self.record.clocks[join], commit.left_clock)
        self.fire_joins(changes)
        for branch in branches:
            if not branch.is_arrival:
                self.enter(branch)

    def change_live(self, change: int, joins: Mapping[str, int]) -> None:
        """Add to the numbers of live branches: of the run, and of the branches that can reach joins."""
        self.record.run = replace(self.record.run, live=self.record.run.live + change)
        for join, delta in joins.items():
            self.record.live[join] += delta

    def fire_joins(self, joins: Iterable[str]) -> None:
        """Fire the joins that have arrivals and that no branch can reach any more."""
        for join in joins:
            self._fire(join)

    def enter(self, branch: Branch) -> None:
        """Let a branch enter a step, unless its visit exists: the id of a visit follows from its cause."""
        if branch.id in self.record.visits:
            return
        if branch.is_counted:
            self.record.visit_counts[branch.step] += 1
        number = self.record.visit_counts[branch.step] or 1
        self._enter_as(branch, number)

    def stop_run(self) -> None:
        """Park visits that are not running, cancel child runs, and end the run if no visit is running."""
        active = [visit for visit in self.record.find_active() if not is_pseudo_step(visit.step)]
        self._park_visits()
        finally_id = finally_visit_id(self.record.run.resumes)
        self._cancel_children(lambda parent: parent.visit_id != finally_id)
        if not any(visit.status is VisitStatus.RUNNING for visit in active):
            self.end_run()

    @property
    def is_ending(self) -> bool:
        """True if the finally step has begun, or the visit that ends the run exists."""
        final_steps = {END, self.plan.header.finally_step}
        return any(visit.step in final_steps for visit in self.record.visits.values())

    def pause_run(self, caller: str | None) -> None:
        """Pause the run and the child runs that it waits for, unless it is paused.

        Raises:
            RejectedError: as `run_transition.pause_run`.
        """
        paused = pause_run(self.record.run, is_ending=self.is_ending)
        if paused is self.record.run:
            return
        self.record.run = paused
        self.record.has_own_pause = False  # of a pause that a stop has replaced
        self.record.append([run_paused(self.now, caller)])
        self._park_visits()
        self._pause_children(None, caller)

    def stay_paused(self, visit: Visit) -> None:
        """Park what the commit of a visit has made due, and pause the child runs that the visit waits for."""
        self._park_visits()
        self._pause_children(lambda parent: parent.visit_id == visit.id, None)

    def unpause_run(self, caller: str | None) -> None:
        """Let a paused run continue, and its child runs that were paused with it.

        Raises:
            RejectedError: as `run_transition.unpause_run`.
        """
        run = unpause_run(self.record.run)
        if run is self.record.run:
            return
        self.record.run = run
        self.record.has_own_pause = False
        self.record.append([run_unpaused(self.now, caller)])
        waiting_ids = frozenset() if self.record.stack is None else self.record.stack.resumed_ids
        parked = [visit for visit in self.record.visits.values() if visit.status is VisitStatus.PARKED]
        self.record.put(*(unpause(visit, self.now) for visit in parked if visit.id not in waiting_ids))
        for child in self._open_children(None):
            if not child.has_own_pause:
                MemoryBranches(self.state, child, self.now).unpause_run(caller)
        if run.live == 0:
            self.end_run()

    def _park_visits(self) -> None:
        finally_step = self.plan.header.finally_step
        parked = [
            park(visit)
            for visit in self.record.find_active()
            if visit.status in PARKABLE and is_branch_visit(visit, finally_step)
        ]
        self.record.put(*parked)
        give_back_parked(self.state, self.record, parked, self.now)

    def _pause_children(self, condition: Callable[[WaitKey], bool] | None, caller: str | None) -> None:
        for child in self._open_children(condition):
            with suppress(RejectedError):  # it is ending
                MemoryBranches(self.state, child, self.now).pause_run(caller)

    def _open_children(self, condition: Callable[[WaitKey], bool] | None) -> list[RunRecord]:
        """Return the child runs that have not ended, of visits that fulfil a condition, or of all visits."""
        return [
            child
            for child in self.state.runs.values()
            if (parent := child.run.parent) is not None
            and parent.run_id == self.record.run.id
            and child.run.finished_at is None
            and (condition is None or condition(parent))
        ]

    def cancel_children_of(self, visit_id: str) -> None:
        """Cancel the runs that a visit has started and no longer waits for."""
        self._cancel_children(lambda parent: parent.visit_id == visit_id)

    def _cancel_children(self, condition: Callable[[WaitKey], bool]) -> None:
        for child in self._open_children(condition):
            if child.run.ending is None and child.damage is None:
                child.run = stop_run(child.run, RunStatus.CANCELLED)
                MemoryBranches(self.state, child, self.now).stop_run()

    def end_run(self) -> None:
        """Enter the finally step if the run has one, and after it the visit that ends the run."""
        run, visits = self.record.run, self.record.visits
        finally_step = entered_finally_step(run.stop, self.plan.header.finally_step)
        if finally_step is not None:
            last = finally_visit(run.id, finally_step, run.resumes, self.now)
            if last.id not in visits:
                self.record.delete_visits(DEADLINE)
                self._add(last)
                return
            if visits[last.id].finished_at is None:
                return
        end = end_visit(run.id, run.resumes, self.now)
        if end.id not in visits:
            self._add(end)

    def finish_turn(self, visit: Visit) -> bool:
        """Let the next branch of a sequential run get its turn, and return whether there is one."""
        return self._begin_turn(finish_turn(self._stack, visit, self.plan.steps.__getitem__))

    def resume(self, visits: Sequence[Visit]) -> bool:
        """Continue failed and parked visits of a resumed run, and return whether any visit is active.

        In sequential mode they are put on the stack, and the one on top continues.
        """
        if self.is_sequential:
            return self._resume_stack(visits)
        for visit in visits:
            if visit.failure is FailureState.ENDED:
                self.record.live.update(self.plan.steps[visit.step].regions)
            self.record.put(reopen(visit, self.now) or visit)
        return bool(visits)

    def _resume_stack(self, visits: Sequence[Visit]) -> bool:
        step_of = self.plan.steps.__getitem__
        stack = put_resumed_visits(self._stack, visits, step_of)
        branch_visits = [visit for visit in self.record.visits.values() if not is_pseudo_step(visit.step)]
        return self._begin_turn(next_turn(stack, find_last_begun(branch_visits), step_of))

    @property
    def _stack(self) -> BranchStack:
        assert self.record.stack is not None
        return self.record.stack

    def _begin_turn(self, turn: Turn) -> bool:
        """Write the stack after a turn, and the visit that begins or continues."""
        branch, self.record.stack = turn.branch, turn.stack
        self.record.run = replace(self.record.run, live=turn.stack.branches)
        if branch is None:
            return False
        if not turn.is_resumed:
            self._enter_as(branch, turn.number)
            return True
        visit = resume_visit(self.record.visits[branch.id], branch, self.now)
        self._claim_or_put(visit if self.record.run.stop is None else park(visit))
        return True

    def _enter_as(self, branch: Branch, number: int) -> None:
        """Let a branch enter a step with the visit of a number, parked if the run stops or is paused."""
        is_stopping = self.record.run.stop is not None
        self._add(enter_step(branch, self.record.run.id, self.now, number, is_stopping=is_stopping))

    def _add(self, visit: Visit) -> None:
        self.entered += 1
        self.record.entered_at[visit.id] = self.now
        self._claim_or_put(visit)

    def _claim_or_put(self, visit: Visit) -> None:
        """Write a visit. If it is the first that is due, claim it for the worker that commits."""
        is_due = visit.status is VisitStatus.READY and visit.due_at <= self.now
        if self.claim_for is not None and self.claimed is None and is_due:
            self.claimed = claim(visit, self.claim_for, self.now)
            self.events = start_events(visit, self.claimed)
            visit = self.claimed
        self.record.put(visit)

    def _fire(self, join: str) -> None:
        """Continue the arrivals at a join as one branch, unless another branch can still arrive."""
        record = self.record
        if record.live[join] > 0 or join not in record.arrivals:
            return
        arrivals = list(record.arrivals.pop(join).values())
        record.waves[join] += 1
        step = self.plan.steps[join]
        earlier = Branch("", join, record.clocks[join], record.names_of_joins.get(join, {}))
        branch, changes, merged = merge_arrivals(step, record.waves[join], arrivals, earlier)
        record.clocks[join], record.names_of_joins[join] = branch.clock, branch.names
        self.change_live(merged, changes)
        self.enter(branch)
