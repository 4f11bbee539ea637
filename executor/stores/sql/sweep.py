"""The sweep of a SQL store: find runs that no worker would continue, repair them, and delete old runs.

Problem: a commit and everything that follows from it are one transaction here, and an expired lease makes
its visit due again. So only damage from outside blocks a run. Examples are rows changed by hand, a
backup that was restored in part, and a clock that was far ahead when it wrote a lease.

Algorithm: a reconciliation loop. Source: the controller pattern of Kubernetes. A query for each kind of
damage finds candidates without a lock. Each candidate is locked, checked again by the same query, and
repaired in its own transaction.

Cost: four queries over the unfinished runs, and one transaction for each repaired run.

Limits: a sweep repairs up to `limit` runs of each kind. If a branch was lost, its position is unknown, so
the run fails and may be resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from noetl.executor.model.run import DEADLINE, NEVER, RunStatus
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sql.branches import ACTIVE, BranchTransaction, enter_deadline
from noetl.executor.stores.sql.consistency import ANSWERABLE, RUN_TABLES, STUCK, WAITING_IN_VAIN
from noetl.executor.stores.sql.database import Database, Writer
from noetl.executor.stores.sql.rows import Row, encode_json, run_from_row

MAX_LEASE_SECONDS = 2 * 3600.0
"""Longest time until the end of a lease, even if two clocks differ by an hour."""

_ENDLESS_LEASE = f"select distinct run_id from visits where {ACTIVE} and status = 'running' and due_at > ?"
_WITHOUT_DEADLINE = (
    "select id as run_id from runs where finished_at is null and stop is null and deadline_at is not null"
    f" and not exists (select 1 from visits where run_id = runs.id and step = '{DEADLINE}')"
)

MAX_DELETED_RUNS = 1_000
"""Number of runs that one sweep deletes at most."""

_DELETE_OLD = """
    delete from runs where id in (
        select id from runs as old where finished_at < ?
        and not exists (select 1 from runs as child where child.parent_run = old.id)
        and not exists (
            select 1 from runs as parent
            where parent.id = old.parent_run and coalesce(parent.finished_at >= ?, true)
        )
        order by finished_at limit ?
    ) and finished_at < ? returning id
"""

logger = logging.getLogger("noetl.executor")


class _Damage(NamedTuple):
    """A kind of damage: a query for `run_id`, its values, and the function that repairs a run.

    The function returns a description of the repair, or None if nothing was to be repaired.
    """

    query: str
    values: tuple[Any, ...]
    repair: Callable[[Writer, Row, float], str | None]


class SqlSweep:
    """The part of a SQL store that repairs runs that no worker would continue, and deletes old runs."""

    database: Database
    retention_seconds: float | None

    def announce_due(self, count: int | None = None) -> None: ...

    def _branches(self, db: Writer, run: Row, now: float) -> BranchTransaction:
        raise NotImplementedError

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair up to `limit` runs of each kind of damage, and delete runs that are older than the
        retention.

        Concurrent sweeps of several workers are safe.
        """
        kinds = (
            _Damage(STUCK, (), self._continue_stuck),
            _Damage(WAITING_IN_VAIN, (), self._wake),
            _Damage(_ENDLESS_LEASE, (now + MAX_LEASE_SECONDS,), self._end_leases),
            _Damage(_WITHOUT_DEADLINE, (), self._set_deadline),
        )
        repaired = 0
        for damage in kinds:
            for row in self.database.fetch_all(f"{damage.query} limit ?", *damage.values, limit):
                repaired += self._repair(row["run_id"], damage, now)
        if repaired:
            self.announce_due()
        if self.retention_seconds is not None:
            self._delete_old(now - self.retention_seconds)
        runs = self.database.fetch_one("select count(*) as open from runs where finished_at is null")["open"]
        return SweepResult(runs, repaired)

    def _repair(self, run_id: str, damage: _Damage, now: float) -> bool:
        """Lock a run, check it again and repair it; return whether there was something to repair."""
        with self.database.transaction() as db:
            self.database.lock_run(db, run_id)
            recheck = f"select 1 from ({damage.query}) as damaged where run_id = ?"
            repair = None
            if db.execute(recheck, (*damage.values, run_id)).fetchone() is not None:
                run = db.execute(
                    "update runs set seq = seq + 1 where id = ? returning *", (run_id,)
                ).fetchone()
                repair = damage.repair(db, run, now)
        if repair is None:
            return False
        fields = {"workflow_id": run_id, "repaired": repair}
        logger.warning("run %s was repaired: %s", run_id, repair, extra={"fields": fields})
        return True

    def _continue_stuck(self, db: Writer, run: Row, now: float) -> str:
        """Continue a run without an active visit."""
        branches = self._branches(db, run, now)
        if run["stop"] is not None:
            branches.stop_run()
            return "its end is due"
        unpark = "update visits set status = 'ready', due_at = ? where run_id = ? and status = 'parked'"
        if db.execute(unpark, (now, run["id"])).rowcount:
            return "its parked steps are due"
        arrivals = db.execute("select distinct step from arrivals where run_id = ?", (run["id"],)).fetchall()
        branches.move_branches((), {row["step"]: 0 for row in arrivals})
        if branches.count:
            return "a join has fired"
        if run["live"] <= 0:
            branches.end_run()
            return "its end is due"
        # The position of the lost branch is unknown. The failed run may be resumed from its failed visits.
        message = "a branch of the run was lost"
        error = {
            "type": "WorkerLost", "message": message, "action": None, "step": None, "attempt": 1,
            "retryable": False, "status": None, "details": None,
        }  # fmt: skip
        query = "update runs set stop = ?, error = coalesce(error, ?) where id = ? returning *"
        stopping = db.execute(query, (RunStatus.FAILED, encode_json(error), run["id"])).fetchone()
        self._branches(db, stopping, now).stop_run()
        return "a branch was lost, and the run fails"

    def _wake(self, db: Writer, run: Row, now: float) -> str | None:
        """Make visits due that wait for an answer that cannot arrive."""
        branches = self._branches(db, run, now)
        if branches.header.sequential:
            branches.activate_next_visit()
        wake = (
            "update visits set due_at = ? where run_id = ? and status = 'waiting' and due_at >= ?"
            f" and not ({ANSWERABLE})"
        )
        if db.execute(wake, (now, run["id"], NEVER)).rowcount:
            return "its steps that wait in vain are due"
        return "its next step in sequential mode is due" if branches.header.sequential else None

    def _end_leases(self, db: Writer, run: Row, now: float) -> str:
        """Make visits due whose lease ends later than any lease may."""
        query = (
            f"update visits set due_at = ? where run_id = ? and {ACTIVE} and status = 'running'"
            " and due_at > ?"
        )
        db.execute(query, (now, run["id"], now + MAX_LEASE_SECONDS))
        return "a lease that exceeded the limit has ended"

    def _set_deadline(self, db: Writer, run: Row, now: float) -> str | None:
        """Add the missing deadline of a run, unless its finally step has begun, which has its own timeout."""
        finally_step = self._branches(db, run, now).header.finally_step
        query = "select 1 from visits where run_id = ? and step = ?"
        if finally_step is not None and db.execute(query, (run["id"], finally_step)).fetchone() is not None:
            return None
        record = run_from_row(run)
        enter_deadline(db, record, record.deadline_at or now)
        return "its deadline is set"

    def _delete_old(self, before: float) -> None:
        """Delete runs that ended before a time, with all of their rows.

        A run is kept while its parent is kept, which may ask for it, and while it has children.
        """
        with self.database.transaction() as db:
            rows = db.execute(_DELETE_OLD, (before, before, MAX_DELETED_RUNS, before)).fetchall()
            ids = [row["id"] for row in rows]
            for table in RUN_TABLES if ids else ():
                db.execute(f"delete from {table} where run_id in ({', '.join('?' * len(ids))})", ids)
