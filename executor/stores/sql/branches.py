"""Branches of a run in a SQL store: they enter steps, arrive at joins, and end the run.

Problem: a join must fire exactly once for each wave of arrivals, when no branch can reach it any more. Many
workers commit at the same time.

Algorithm: reference counting (Collins 1960). `joins.live` counts the branches that can still reach a join,
and `arrivals` holds those that wait there. The transaction that brings a counter to zero fires the join: it
deletes the arrivals, merges their pointers, and enters one visit. The id of a visit follows from its cause,
so a repetition inserts nothing. All transactions of a run hold the lock of its row, so they are serial.

Cost: a constant number of statements for each branch that a commit starts, ends or lets arrive, and for each
join that it changes. The other branches of the run cost nothing.

Limits: commits of one run are serial. Runs do not block each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.branch_stack import (
    BranchStack,
    Turn,
    finish_turn,
    next_turn,
    put_resumed_visits,
    resume_visit,
)
from noetl.executor.model.events import Event
from noetl.executor.model.plan_switch import CarriedRun
from noetl.executor.model.run import Branch, Commit, FailureState, Lease, Pointers, Run, RunStatus, Visit
from noetl.executor.model.run_transition import (
    entered_finally_step,
    pause_run,
    run_paused,
    run_unpaused,
    unknown_run,
    unpause_run,
)
from noetl.executor.model.special_visits import end_visit, finally_visit, finally_visit_id
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.transition import merge_arrivals
from noetl.executor.model.visit_transition import (
    claim,
    enter_step,
    is_due,
    park,
    reopen,
    start_events,
    unpause,
)
from noetl.executor.stores.damage import decoding
from noetl.executor.stores.sql.cascades import Cascade, ChildCommand, ChildSelection
from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.due_floor import NO_FLOOR
from noetl.executor.stores.sql.history import append_events
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.rows import Row, claim_values, run_from_row, visit_from_row, visit_values
from noetl.executor.stores.sql.slots import take_slots
from noetl.planner.frozen import replace
from noetl.planner.plan import Step


class BranchTransaction:
    """The branches of a run within one transaction. With a lease, the first visit that becomes due is
    claimed.

    `run` is the row of the run in the transaction, `header` that of its plan. `claimed` is the visit that was
    claimed, and `count` the number of visits that were added. `started` are the events of the claim.
    No visit that was due before `claims_since` is claimed. `absorbed` is the number of branches that ended
    because their visit existed.
    """

    def __init__(
        self, db: Writer, plans: SqlPlans, run: Row, now: float, claim_for: Lease | None = None
    ) -> None:
        self.db = db
        self.plans = plans
        self.run = run
        self.header = plans.header(run["plan_hash"])
        self.now = now
        self.claim_for = claim_for
        self.cascade = Cascade(db, now)
        self.claims_since = NO_FLOOR
        self.claimed: Visit | None = None
        self.started: tuple[Event, ...] = ()
        self.count = 0
        self.absorbed = 0

    @classmethod
    def of_command(cls, cascade: Cascade, plans: SqlPlans, run: Row) -> BranchTransaction:
        """Return the branches of a run that a command changes, with what its transaction may still change."""
        branches = cls(cascade.db, plans, run, cascade.now)
        branches.cascade = cascade
        return branches

    def move_branches(self, commit: Commit) -> None:
        """Let branches enter steps or arrive at joins, and change the counters of joins.

        Joins that no branch can reach any more fire before a branch enters a step.
        """
        change, branches = dict(commit.counter_changes), commit.branches
        for branch in branches:
            if branch.is_arrival:
                change.setdefault(branch.step, 0)
                self.db.execute(
                    "branches.add_arrival",
                    run_id=self.run["id"],
                    step=branch.step,
                    id=branch.id,
                    clock=branch.clock,
                    names=encode_json(branch.names),
                )
            elif branch.is_absorbed and self._visit_exists(branch.id):
                self.absorbed += 1
                for join in self._step(branch.step).regions:
                    change[join] = change.get(join, 0) - 1
        if self.absorbed:
            self.db.execute("branches.change_live", run_id=self.run["id"], change=-self.absorbed)
        nonzero = {join: delta for join, delta in change.items() if delta}
        count_live(self.db, self.run["id"], nonzero, commit.left_clock)
        self.fire_joins(change)
        for branch in branches:
            if not branch.is_arrival and not (branch.is_absorbed and self._visit_exists(branch.id)):
                self.enter(branch)

    def fire_joins(self, joins: Iterable[str]) -> None:
        """Fire the joins that have arrivals and that no branch can reach any more."""
        for join in joins:
            self._fire(join)

    def enter(self, branch: Branch) -> None:
        """Let a branch enter a step; if the run stops or is paused, its visit is parked."""
        self._enter_as(branch, count_visit(self.db, self.run["id"], branch))

    def stop_run(self) -> None:
        """Park visits that are not running, cancel child runs, and end the run if no visit is running.

        The stop replaces a pause. A run with many child runs ends after they have been cancelled.
        """
        self.db.execute("branches.forget_own_pause", run_id=self.run["id"])
        self._park_visits()
        finally_id = finally_visit_id(self.run["resumes"])
        selection = ChildSelection(self.run["id"], ChildCommand.CANCEL, except_visit=finally_id)
        if self.cascade.send(selection, self._cancel_child):
            self._end_if_idle()

    def _end_if_idle(self) -> None:
        """End a run that stops, if no visit is running."""
        if self.db.execute("branches.is_any_running", run_id=self.run["id"]).fetchone() is None:
            self.end_run()

    def pause(self) -> None:
        """Park visits that are not running, and pause the child runs of the run."""
        self._park_visits()
        self._pause_children()

    def stay_paused(self, visit: Visit) -> None:
        """Park what the commit of a visit has made due, and pause the child runs that the visit waits for.

        Those of a visit that has ended are cancelled.
        """
        self._park_visits()
        if visit.finished_at is None:
            self._pause_children(visit.id)

    def unpause(self) -> None:
        """Let parked visits continue, and end the run if no branch is left."""
        rows = self.db.execute("branches.find_parked", run_id=self.run["id"]).fetchall()
        waiting_ids = self.stack.resumed_ids if self.header.sequential else frozenset[str]()
        visits = [unpause(visit_from_row(row), self.now) for row in rows if row["id"] not in waiting_ids]
        values = [
            {"run_id": visit.run_id, "visit_id": visit.id, "status": visit.status, "due_at": visit.due_at}
            for visit in visits
        ]
        self.db.executemany("branches.unpause_visit", values)
        self.cascade.spend(len(values))
        if self.run["live"] == 0:
            self.end_run()

    def _park_visits(self) -> None:
        finally_id = finally_visit_id(self.run["resumes"])
        parked = self.db.execute(
            "branches.park_visits", run_id=self.run["id"], now=self.now, finally_visit=finally_id
        )
        take_slots(self.db, "gates.take_of_parked", run_id=self.run["id"])
        self.cascade.spend(parked.rowcount)

    def _pause_children(self, visit_id: str = "") -> None:
        """Pause the child runs of a visit, or of all visits."""
        self.cascade.send(ChildSelection(self.run["id"], ChildCommand.PAUSE, visit_id), self._pause_child)

    def unpause_children(self) -> None:
        """Let the child runs continue that were paused with the run."""
        self.cascade.send(ChildSelection(self.run["id"], ChildCommand.UNPAUSE), self._unpause_child)

    def cancel_child_runs(self, visit_id: str) -> None:
        """Cancel the runs that a visit has started and no longer waits for."""
        self.cascade.send(ChildSelection(self.run["id"], ChildCommand.CANCEL, visit_id), self._cancel_child)

    def resume_cascade(self, selection: ChildSelection) -> None:
        """Let further child runs follow a command. After the last one, a run that stops may end."""
        follow = {
            ChildCommand.PAUSE: self._pause_child,
            ChildCommand.UNPAUSE: self._unpause_child,
            ChildCommand.CANCEL: self._cancel_child,
        }
        is_complete = self.cascade.resume(selection, follow[selection.command])
        is_stopping = self.run["stop"] not in (None, RunStatus.PAUSED)
        if is_complete and is_stopping and not selection.visit_id:
            self.run = self.db.execute("sweep.next_seq", run_id=self.run["id"]).fetchone()
            self._end_if_idle()

    def _pause_child(self, run_id: str) -> None:
        with suppress(RejectedError):  # it is ending
            pause_branches(self.cascade, self.plans, run_id)

    def _unpause_child(self, run_id: str) -> None:
        unpause_branches(self.cascade, self.plans, run_id)

    def _cancel_child(self, run_id: str) -> None:
        stop_branches(self.cascade, self.plans, run_id, RunStatus.CANCELLED)

    def end_run(self) -> None:
        """Enter the finally step if the run has one, and after it the visit that ends the run."""
        run_id, resumes = self.run["id"], self.run["resumes"]
        stop = None if self.run["stop"] is None else RunStatus(self.run["stop"])
        finally_step = entered_finally_step(stop, self.header.finally_step)
        if finally_step is not None:
            last = finally_visit(run_id, finally_step, resumes, self.now)
            entered = self.db.execute("branches.get_finished_at", run_id=run_id, visit_id=last.id).fetchone()
            if entered is None:
                self._add(last)
                self.db.execute("branches.delete_deadline", run_id=run_id)
                return
            if entered["finished_at"] is None:
                return
        end = end_visit(run_id, resumes, self.now)
        if not self._visit_exists(end.id):
            self._add(end)

    @property
    def stack(self) -> BranchStack:
        """The branches of a run in sequential mode whose turn is to come."""
        with decoding():
            return BranchStack.from_json(json.loads(self.run["stack"]))

    def finish_turn(self, visit: Visit) -> bool:
        """Let the next branch of a sequential run get its turn, and return whether there is one."""
        return self._begin_turn(finish_turn(self.stack, visit, self._step))

    def resume(self, visits: Sequence[Visit]) -> bool:
        """Continue failed and parked visits of a resumed run, and return whether any visit is active.

        In sequential mode they are put on the stack, and the one on top continues.
        """
        if self.header.sequential:
            last = self.db.execute("branches.find_last_begun", run_id=self.run["id"]).fetchone()
            stack = put_resumed_visits(self.stack, visits, self._step)
            return self._begin_turn(next_turn(stack, visit_from_row(last), self._step))
        for visit in visits:
            if visit.failure is FailureState.ENDED:
                count_live(self.db, self.run["id"], dict.fromkeys(self._step(visit.step).regions, 1))
        reopened = (reopen(visit, self.now) for visit in visits)
        self.db.executemany(
            "branches.reopen_visit", [_reopened_values(visit) for visit in reopened if visit is not None]
        )
        return bool(visits)

    def _begin_turn(self, turn: Turn) -> bool:
        """Write the stack after a turn, and the visit that begins or continues."""
        run_id, branch, stack = self.run["id"], turn.branch, turn.stack
        text = encode_json(stack.to_json())
        self.db.execute("branches.write_turn", run_id=run_id, stack=text, live=stack.branches)
        if branch is None:
            return False
        if not turn.is_resumed:
            self._enter_as(branch, turn.number)
            return True
        row = self.db.execute("branches.read_visit", run_id=run_id, visit_id=branch.id).fetchone()
        visit = resume_visit(visit_from_row(row), branch, self.now)
        if self.run["stop"] is not None:
            visit = park(visit)
        if self.claim_for is not None and self.claimed is None and is_due(visit, self.now):
            visit = self._claim(visit, self.claim_for)
        self.db.execute("branches.reopen_visit", **_reopened_values(visit))
        return True

    def _enter_as(self, branch: Branch, number: int) -> None:
        """Let a branch enter a step with the visit of a number."""
        is_stopping = self.run["stop"] is not None
        visit = enter_step(branch, self.run["id"], self.now, number, is_stopping=is_stopping)
        self._add(visit, may_claim=not is_stopping)

    def claim_next_due(self) -> None:
        """Claim the first due visit of the queue, if it is a visit of this run that has not started.

        The worker that has ended a branch then needs no claim of its own.
        """
        lease = self.claim_for
        if lease is None or self.claimed is not None or self.run["stop"] is not None:
            return
        row = self.db.execute(
            "branches.claim_next_due",
            run_id=self.run["id"],
            queue=self.run["queue"],
            worker=lease.worker,
            leased_until=self.now + lease.seconds,
            since=self.claims_since,
            now=self.now,
        ).fetchone()
        if row is not None:
            self.claimed = visit_from_row(row)
            self.started = start_events(replace(self.claimed, started_at=None), self.claimed)

    def _claim(self, visit: Visit, lease: Lease) -> Visit:
        """Return the visit as the claim leaves it, and remember it."""
        self.claimed = claim(visit, lease, self.now)
        self.started = start_events(visit, self.claimed)
        return self.claimed

    def _fire(self, join: str) -> None:
        """Continue the arrivals at a join as one branch, unless another branch can still arrive."""
        db, run_id = self.db, self.run["id"]
        counter = db.execute("branches.read_join", run_id=run_id, step=join).fetchone()
        if counter is not None and counter["live"] > 0:
            return
        rows = db.execute("branches.take_arrivals", run_id=run_id, step=join).fetchall()
        if not rows:
            return
        wave = 1 if counter is None else counter["wave"] + 1
        earlier = (
            None if counter is None else Branch("", join, counter["clock"], _decode_names(counter["names"]))
        )
        arrivals = [Branch(row["id"], join, row["clock"], _decode_names(row["names"])) for row in rows]
        branch, live, merged = merge_arrivals(self._step(join), wave, arrivals, earlier)
        db.execute(
            "branches.fire_join",
            run_id=run_id,
            step=join,
            clock=branch.clock,
            names=encode_json(branch.names),
        )
        count_live(db, run_id, live)
        db.execute("branches.change_live", run_id=run_id, change=merged)
        self.enter(branch)

    def _add(self, visit: Visit, *, may_claim: bool = True) -> None:
        """Add a visit, unless it exists. The first one is claimed."""
        claimed = None
        if may_claim and self.claim_for is not None and self.claimed is None:
            claimed = claim(visit, self.claim_for, self.now)
        position = (self.run["seq"] << 12) + self.count
        added = insert_visit(self.db, claimed or visit, self.run["queue"], position)
        self.count += 1
        if claimed is not None and added.rowcount == 1:
            self.claimed, self.started = claimed, start_events(visit, claimed)

    def _visit_exists(self, visit_id: str) -> bool:
        found = self.db.execute("branches.visit_exists", run_id=self.run["id"], visit_id=visit_id)
        return found.fetchone() is not None

    def _step(self, name: str) -> Step:
        return self.plans.step(self.run["plan_hash"], name)


def stop_branches(cascade: Cascade, plans: SqlPlans, run_id: str, status: RunStatus) -> RunStatus:
    """Let a run end with `status`, unless an earlier stop has determined another, and return that status."""
    cascade.db.mark_run_written(run_id)
    run = cascade.db.execute("runs.stop", run_id=run_id, stop=status).fetchone()
    BranchTransaction.of_command(cascade, plans, run).stop_run()
    return RunStatus(run["stop"])


def read_run(db: Writer, run_id: str) -> Run:
    """Return a run.

    Raises:
        UnknownRunError: it does not exist, or was deleted.
    """
    row = db.execute("runs.read", run_id=run_id).fetchone()
    if row is None:
        raise unknown_run(run_id)
    return run_from_row(row)


def resume_cascade(cascade: Cascade, plans: SqlPlans, selection: ChildSelection) -> None:
    """Let further child runs of a locked run follow a command of an earlier transaction."""
    run = cascade.db.execute("queue.read_run", run_id=selection.run_id).fetchone()
    if run is None or selection.run_id in cascade.skipped or not selection.is_current(run["stop"]):
        cascade.forget(selection)  # The run was deleted, is damaged, or has another command.
    else:
        BranchTransaction.of_command(cascade, plans, run).resume_cascade(selection)


def pause_branches(cascade: Cascade, plans: SqlPlans, run_id: str) -> Run:
    """Pause a run and its child runs, unless it is paused, and return it.

    Raises:
        RejectedError: as `run_transition.pause_run`.
    """
    db = cascade.db
    db.lock_run(run_id)
    run = read_run(db, run_id)
    finally_id = finally_visit_id(run.resumes)
    ending = db.execute("branches.is_ending", run_id=run_id, finally_visit=finally_id).fetchone()
    paused = pause_run(run, is_ending=ending is not None)
    if paused is not run:
        db.execute("branches.forget_own_pause", run_id=run_id)  # that a stop by an earlier commit left
        row = _write_pause(db, paused, run_paused(cascade.now, cascade.caller))
        BranchTransaction.of_command(cascade, plans, row).pause()
    return paused


def unpause_branches(cascade: Cascade, plans: SqlPlans, run_id: str) -> Run:
    """Let a run continue that is paused, and its child runs that were paused with it, and return it.

    Raises:
        RejectedError: as `run_transition.unpause_run`.
    """
    db = cascade.db
    db.lock_run(run_id)
    run = read_run(db, run_id)
    unpaused = unpause_run(run)
    if unpaused is run:
        return run
    db.execute("branches.forget_own_pause", run_id=run_id)
    row = _write_pause(db, unpaused, run_unpaused(cascade.now, cascade.caller))
    branches = BranchTransaction.of_command(cascade, plans, row)
    branches.unpause()
    branches.unpause_children()
    return unpaused


def _write_pause(db: Writer, run: Run, event: Event) -> Row:
    """Write that a run is paused or not, with the event, and return the columns that its branches need."""
    row: Row = db.execute("runs.pause", run_id=run.id, stop=run.stop).fetchone()
    append_events(db, run.id, row["seq"], [event])
    return row


def count_visit(db: Writer, run_id: str, branch: Branch) -> int:
    """Return the number of a visit among those of its step; only visits of steps on cycles are counted."""
    if not branch.is_counted:
        return 1
    number: int = db.execute("branches.count_visit", run_id=run_id, step=branch.step).fetchone()["visits"]
    return number


def insert_visit(db: Writer, visit: Visit, queue: str, position: int) -> Result:
    """Add a visit, unless it exists."""
    return db.execute("branches.insert_visit", queue=queue, position=position, **visit_values(visit))


def _reopened_values(visit: Visit) -> dict[str, Any]:
    """Return the values of a visit that continues."""
    names = encode_json(visit.names)
    return {"clock": visit.clock, "names": names, "attempt": visit.attempt, **claim_values(visit)}


def count_live(db: Writer, run_id: str, live: Mapping[str, int], left_clock: int = 0) -> None:
    """Change the numbers of branches that can still reach joins.

    A join that fewer branches can reach fires with a clock greater than `left_clock`.
    """
    rows = [
        {"run_id": run_id, "step": step, "change": change, "clock": left_clock if change < 0 else 0}
        for step, change in live.items()
    ]
    db.executemany("branches.count_live", rows)


def add_joins(db: Writer, run_id: str, carried: CarriedRun) -> None:
    """Add the joins of a run that continues another one: counters, waiting branches, visit counts."""
    counters: dict[str, tuple[int, int]] = {**dict.fromkeys(carried.clocks, (0, 0)), **carried.joins}
    joins = [
        {"run_id": run_id, "step": join, "live": live, "wave": wave, "clock": carried.clocks.get(join, 0)}
        for join, (live, wave) in counters.items()
    ]
    arrivals = [
        {
            "run_id": run_id,
            "step": join,
            "id": branch.id,
            "clock": branch.clock,
            "names": encode_json(branch.names),
        }
        for join, arrived in carried.arrivals.items()
        for branch in arrived
    ]
    counts = [{"run_id": run_id, "step": step, "visits": visits} for step, visits in carried.counts.items()]
    db.executemany("branches.add_join", joins)
    db.executemany("branches.add_arrival", arrivals)
    db.executemany("branches.add_count", counts)


@decoding()
def _decode_names(text: str) -> Pointers:
    return {name: (clock, id) for name, (clock, id) in json.loads(text).items()}
