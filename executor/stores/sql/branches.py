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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import DEADLINE, END, NEVER, Branch, Lease, Pointers, Run, Visit, VisitStatus
from noetl.executor.model.special_visits import FINALLY_CLOCK, end_visit, finally_visit_id
from noetl.executor.model.transition import merge_arrivals, start_next_sequential
from noetl.executor.stores.sql.database import Result, Writer
from noetl.executor.stores.sql.rows import Row, encode_json, visit_from_row
from noetl.planner.plan import Header, Step

ACTIVE = "(status = 'ready' or status = 'running' or status = 'waiting' or status = 'retrying')"
"""Condition on a visit that is not finished, exactly as the partial indexes of SQLite write it.

A query for some of these states adds a condition, so that the index is still used.
"""
_FIRE_JOIN = """
    insert into joins (run_id, step, wave, clock, names) values (?, ?, 1, ?, ?)
    on conflict (run_id, step) do update
        set wave = joins.wave + 1, clock = excluded.clock, names = excluded.names
"""
_INSERT_VISIT = f"""
    insert into visits (run_id, id, step, queue, status, position, clock, names, number, claims, fence,
        worker, due_at, started_at, piece_at)
    values ({", ".join("?" * 15)}) on conflict do nothing
"""

HEAD = (
    "run_id, id, step, status, clock, names, number, attempt, claims, fence, worker, due_at, started_at,"
    ' piece_at, finished_at, "case", error, failure, progress'
)
"""Columns of a visit without its outputs."""

CLAIM_NEXT = f"""
    update visits set status = 'running', claims = claims + 1, fence = fence + 1, worker = ?, due_at = ?,
        started_at = ?, piece_at = ?
    where run_id = ? and (run_id, id) = (
        select run_id, id from visits where queue = ? and {ACTIVE} and due_at <= ?
        order by due_at, position limit 1
    ) and status = 'ready' and started_at is null and progress is null and substr(step, 1, 1) <> '@'
    returning {HEAD}, saved
"""
"""Claim of the visit that has been due longest in a queue, if it is a visit of this run that has not started.
"""


class BranchTransaction:
    """The branches of a run within one transaction. With a lease, the first visit that becomes due is
    claimed.

    `run` is the row of the run in the transaction, `header` that of its plan. `cancel` cancels another run.
    `claimed` is the visit that was claimed, and `count` the number of visits that were added. `absorbed` is
    the number of branches that ended because their visit existed. In sequential mode, added visits wait
    until they are activated.
    """

    def __init__(
        self,
        db: Writer,
        run: Row,
        header: Header,
        step_of: Callable[[str], Step],
        cancel: Callable[[str], None],
        now: float,
        claim_for: Lease | None = None,
    ) -> None:
        self.db = db
        self.run = run
        self.header = header
        self.step_of = step_of
        self.cancel = cancel
        self.now = now
        self.claim_for = claim_for
        self.claimed: Visit | None = None
        self.count = 0
        self.absorbed = 0

    def move_branches(self, branches: Sequence[Branch], live: Mapping[str, int]) -> None:
        """Let branches enter steps or arrive at joins, and change the counters of joins by `live`.

        Joins that no branch can reach any more fire before a branch enters a step.
        """
        change = dict(live)
        for branch in branches:
            if branch.is_arrival:
                change.setdefault(branch.step, 0)
                row = (self.run["id"], branch.step, branch.id, branch.clock, encode_json(branch.names))
                self.db.execute("insert into arrivals values (?, ?, ?, ?, ?) on conflict do nothing", row)
            elif branch.is_absorbed and self._visit_exists(branch):
                self.absorbed += 1
                for join in self.step_of(branch.step).regions:
                    change[join] = change.get(join, 0) - 1
        if self.absorbed:
            self.db.execute("update runs set live = live - ? where id = ?", (self.absorbed, self.run["id"]))
        count_live(self.db, self.run["id"], {join: delta for join, delta in change.items() if delta})
        for join in change:
            self._fire(join)
        for branch in branches:
            if not branch.is_arrival and not (branch.is_absorbed and self._visit_exists(branch)):
                self.enter(branch)

    def _visit_exists(self, branch: Branch) -> bool:
        query = "select 1 from visits where run_id = ? and id = ?"
        return self.db.execute(query, (self.run["id"], branch.id)).fetchone() is not None

    def enter(self, branch: Branch) -> None:
        """Let a branch enter a step; in a stopping run its visit is parked."""
        self._add(branch, parked=self.run["stop"] is not None)

    def stop_run(self) -> None:
        """Park visits that are not running, cancel child runs, and end the run if no visit is running."""
        finally_visit = finally_visit_id(self.run["resumes"])
        self.db.execute(
            "update visits set status = 'parked', due_at = case when status = 'ready' then ? else due_at end"
            f" where run_id = ? and {ACTIVE} and status <> 'running' and substr(step, 1, 1) <> '@'"
            " and id <> ?",
            (self.now, self.run["id"], finally_visit),
        )
        self._cancel_runs("parent_visit <> ?", finally_visit)
        query = (
            f"select 1 from visits where run_id = ? and {ACTIVE} and status = 'running'"
            " and substr(step, 1, 1) <> '@'"
        )
        if self.db.execute(query, (self.run["id"],)).fetchone() is None:
            self.end_run()

    def cancel_child_runs(self, visit_id: str) -> None:
        """Cancel the runs that a visit has started and no longer waits for."""
        self._cancel_runs("parent_visit = ?", visit_id)

    def _cancel_runs(self, condition: str, visit_id: str) -> None:
        query = (
            f"select id from runs where parent_run = ? and {condition}"
            " and finished_at is null and stop is null"
        )
        for child in self.db.execute(query, (self.run["id"], visit_id)).fetchall():
            self.cancel(child["id"])

    def end_run(self) -> None:
        """Enter the finally step if the run has one, and after it the visit that ends the run."""
        if self.header.finally_step is not None:
            branch = Branch(
                finally_visit_id(self.run["resumes"]), self.header.finally_step, FINALLY_CLOCK, {}
            )
            if not self._visit_exists(branch):
                self._add(branch)
                values = (self.run["id"], DEADLINE)
                self.db.execute("delete from visits where run_id = ? and step = ?", values)
                return
            query = "select finished_at from visits where run_id = ? and id = ?"
            if self.db.execute(query, (self.run["id"], branch.id)).fetchone()["finished_at"] is None:
                return
        visit = end_visit(self.run["id"], self.run["resumes"], self.now)
        end = Branch(visit.id, visit.step, visit.clock, visit.names)
        if not self._visit_exists(end):
            self._add(end)

    def deactivate_ready_visits(self) -> None:
        """Let all ready visits of a resumed sequential run wait, and activate one unless a visit is
        suspended.
        """
        self.db.execute(
            f"update visits set due_at = ? where run_id = ? and {ACTIVE} and status = 'ready'"
            " and substr(step, 1, 1) <> '@'",
            (NEVER, self.run["id"]),
        )
        query = f"select 1 from visits where run_id = ? and {ACTIVE} and status = 'waiting'"
        if self.db.execute(query, (self.run["id"],)).fetchone() is None:
            self.activate_next_visit()

    def activate_next_visit(self, clock: int = 0, seen: Pointers | None = None) -> None:
        """Make the next visit of a sequential run due: a visit of the last commit first, in the order
        written.

        It reads the names in `seen`, which the visits before it left; `clock` is their clock.
        """
        query = (
            f"select {HEAD}, saved from visits where run_id = ? and {ACTIVE} and status = 'ready'"
            " and due_at = ? order by position >> 12 desc, position limit 1"
        )
        row = self.db.execute(query, (self.run["id"], NEVER)).fetchone()
        if row is None:
            return
        visit = start_next_sequential(visit_from_row(row), clock, seen or {})
        lease = self.claim_for if self.claimed is None else None
        if lease is not None:
            self.claimed = visit = self._claim(visit, lease)
        self.db.execute(
            "update visits set clock = ?, names = ?, status = ?, claims = ?, fence = ?, worker = ?,"
            " started_at = ?, piece_at = ?, due_at = ? where run_id = ? and id = ?",
            (
                visit.clock, encode_json(visit.names), visit.status, visit.claims, visit.fence, visit.worker,
                visit.started_at, visit.segment_started_at,
                self.now + (lease.seconds if lease is not None else 0), visit.run_id, visit.id,
            ),
        )  # fmt: skip

    def claim_next_due(self) -> None:
        """Claim the first due visit of the queue, if it is a visit of this run that has not started.

        The worker that has ended a branch then needs no claim of its own.
        """
        lease = self.claim_for
        if lease is None or self.claimed is not None or self.run["stop"] is not None:
            return
        values = (lease.worker, self.now + lease.seconds, self.now, self.now)
        row = self.db.execute(CLAIM_NEXT, (*values, self.run["id"], self.run["queue"], self.now)).fetchone()
        self.claimed = None if row is None else visit_from_row(row)

    def _claim(self, visit: Visit, lease: Lease) -> Visit:
        """Return the visit as the claim leaves it."""
        return replace(
            visit,
            status=VisitStatus.RUNNING,
            claims=visit.claims + 1,
            fence=visit.fence + 1,
            worker=lease.worker,
            started_at=visit.started_at or self.now,
            segment_started_at=self.now,
        )

    def started_events(self) -> list[Event]:
        """Return the event of the step that was claimed, or none."""
        return [] if self.claimed is None or self.claimed.step == END else [started_event(self.claimed)]

    def _fire(self, join: str) -> None:
        """Continue the arrivals at a join as one branch, unless another branch can still arrive."""
        db, run_id = self.db, self.run["id"]
        counter = db.execute("select * from joins where run_id = ? and step = ?", (run_id, join)).fetchone()
        if counter is not None and counter["live"] > 0:
            return
        query = "delete from arrivals where run_id = ? and step = ? returning id, clock, names"
        rows = db.execute(query, (run_id, join)).fetchall()
        if not rows:
            return
        wave = 1 if counter is None else counter["wave"] + 1
        earlier = None if wave == 1 else Branch("", join, counter["clock"], json.loads(counter["names"]))
        arrivals = [Branch(row["id"], join, row["clock"], json.loads(row["names"])) for row in rows]
        branch, live, merged = merge_arrivals(self.step_of(join), wave, arrivals, earlier)
        db.execute(_FIRE_JOIN, (run_id, join, branch.clock, encode_json(branch.names)))
        count_live(db, run_id, live)
        db.execute("update runs set live = live + ? where id = ?", (merged, run_id))
        self.enter(branch)

    def _add(self, branch: Branch, *, parked: bool = False) -> None:
        """Add the visit of a branch, unless it exists."""
        is_step = not branch.step.startswith("@") and branch.step != self.header.finally_step
        is_inactive = self.header.sequential and is_step
        lease = None if parked or is_inactive or self.claimed is not None else self.claim_for
        position = (self.run["seq"] << 12) + self.count
        run_id, queue, due_at = self.run["id"], self.run["queue"], NEVER if is_inactive else self.now
        visit, result = enter(self.db, run_id, queue, branch, due_at, position, lease=lease, parked=parked)
        self.count += 1
        if lease is not None and result.rowcount == 1:
            self.claimed = visit


def enter(
    db: Writer,
    run_id: str,
    queue: str,
    branch: Branch,
    due_at: float,
    position: int,
    *,
    lease: Lease | None = None,
    parked: bool = False,
) -> tuple[Visit, Result]:
    """Add the visit of a branch, unless it exists, and return it. With a lease, it is claimed."""
    number = 1
    if branch.is_counted:
        upsert = (
            "insert into visit_counts values (?, ?, 1)"
            " on conflict (run_id, step) do update set visits = visit_counts.visits + 1 returning visits"
        )
        number = db.execute(upsert, (run_id, branch.step)).fetchone()["visits"]
    visit = Visit(
        id=branch.id,
        run_id=run_id,
        step=branch.step,
        status=VisitStatus.PARKED if parked else VisitStatus.READY if lease is None else VisitStatus.RUNNING,
        clock=branch.clock,
        names=branch.names,
        number=number,
        claims=0 if lease is None else 1,
        fence=0 if lease is None else 1,
        worker=None if lease is None else lease.worker,
        due_at=due_at if lease is None else due_at + lease.seconds,
        started_at=None if lease is None else due_at,
        segment_started_at=None if lease is None else due_at,
    )
    row = (
        run_id, visit.id, visit.step, queue, visit.status, position, visit.clock, encode_json(visit.names),
        number, visit.claims, visit.fence, visit.worker, visit.due_at, visit.started_at,
        visit.segment_started_at,
    )  # fmt: skip
    return visit, db.execute(_INSERT_VISIT, row)


def enter_deadline(db: Writer, run: Run, due_at: float) -> None:
    """Add the visit that is due when the time of the run is over."""
    branch = Branch(derived_id(DEADLINE, run.resumes), DEADLINE, 0, {})
    enter(db, run.id, run.queue, branch, due_at, 0)


def count_live(db: Writer, run_id: str, live: Mapping[str, int]) -> None:
    """Change the numbers of branches that can still reach joins."""
    upsert = (
        "insert into joins (run_id, step, live) values (?, ?, ?)"
        " on conflict (run_id, step) do update set live = joins.live + excluded.live"
    )
    db.executemany(upsert, [(run_id, step, delta) for step, delta in live.items()])


def started_event(visit: Visit) -> Event:
    """Return the event of an attempt that starts."""
    payload = {"worker": visit.worker}
    return Event(
        "step.started", visit.started_at or 0.0, visit.step, visit.number, visit.attempt, payload=payload
    )
