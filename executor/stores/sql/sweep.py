"""Runs in an SQL store that nothing would go on with: found, and put right.

A commit and what follows from it are one transaction here, and a visit is due again when its lease is over. So a run is left
behind only by what is not of the store's making: a hand that changed rows, a backup that was restored in part, a clock that
was far ahead when it wrote a lease, or a bug.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from noetl.executor.model.run import DEADLINE, NEVER, RunStatus
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sql.branches import ACTIVE, BranchTransaction, enter_deadline
from noetl.executor.stores.sql.consistency import AWAITED, IN_VAIN, OF_RUNS, STUCK
from noetl.executor.stores.sql.database import Database, Writer
from noetl.executor.stores.sql.rows import Row, encode_json, run_from_row

LONGEST_LEASE_SECONDS = 2 * 3600.0
"""No lease is longer, even where two clocks are an hour apart."""

_ENDLESS = f"select distinct run_id from visits where {ACTIVE} and status = 'running' and due_at > ?"
_UNTIMED = (
    "select id as run_id from runs where finished_at is null and stop is null and deadline_at is not null"
    f" and not exists (select 1 from visits where run_id = runs.id and step = '{DEADLINE}')"
)

MOST_FORGOTTEN = 1_000
"""How many runs one sweep deletes at most."""

_FORGET = """
    delete from runs where id in (
        select id from runs as old where finished_at < ?
        and not exists (select 1 from runs as child where child.parent_run = old.id)
        and not exists (
            select 1 from runs as parent where parent.id = old.parent_run and coalesce(parent.finished_at >= ?, true)
        )
        order by finished_at limit ?
    ) and finished_at < ? returning id
"""

logger = logging.getLogger("noetl.executor")


class SqlSweep:
    """The part of a store that looks for what was left behind, and forgets what ended long ago."""

    database: Database
    retention_seconds: float | None

    def announce_due(self, pieces: int | None = None) -> None: ...

    def _branches(self, db: Writer, run: Row, now: float) -> BranchTransaction:
        raise NotImplementedError

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Put right what would never be due, of so many runs of each kind, and delete runs that have been kept for long enough.
        Sweeps of several workers do no harm.
        """
        latest = now + LONGEST_LEASE_SECONDS
        kinds: tuple[tuple[str, tuple[Any, ...], Callable[[Writer, Row, float], str | None]], ...] = (
            (STUCK, (), self._unstick),
            (IN_VAIN, (), self._wake),
            (_ENDLESS, (latest,), self._end_leases),
            (_UNTIMED, (), self._set_deadline),
        )
        repaired = 0
        for query, values, repair in kinds:
            for row in self.database.fetch_all(f"{query} limit ?", *values, limit):
                repaired += self._repair(row["run_id"], query, values, repair, now)
        if repaired:
            self.announce_due()
        if self.retention_seconds is not None:
            self._forget(now - self.retention_seconds)
        runs = self.database.fetch_one("select count(*) as open from runs where finished_at is null")["open"]
        return SweepResult(runs, repaired)

    def _repair(
        self,
        run_id: str,
        query: str,
        values: tuple[Any, ...],
        repair: Callable[[Writer, Row, float], str | None],
        now: float,
    ) -> bool:
        """Whether there was something to put right, now that nobody else is at the run."""
        with self.database.transaction() as db:
            self.database.lock_run(db, run_id)
            still = db.execute(
                f"select 1 from ({query}) as found where run_id = ?", (*values, run_id)
            ).fetchone()
            done = None
            if still is not None:
                run = db.execute(
                    "update runs set seq = seq + 1 where id = ? returning *", (run_id,)
                ).fetchone()
                done = repair(db, run, now)
        if done is None:
            return False
        about = {"workflow_id": run_id, "repaired": done}
        logger.warning("run %s was left behind: %s", run_id, done, extra={"fields": about})
        return True

    def _unstick(self, db: Writer, run: Row, now: float) -> str:
        """Go on with a run of which no visit is left that could be due."""
        branches = self._branches(db, run, now)
        if run["stop"] is not None:
            branches.stop()
            return "its end is due"
        parked = "update visits set status = 'ready', due_at = ? where run_id = ? and status = 'parked'"
        if db.execute(parked, (now, run["id"])).rowcount:
            return "steps that were parked are due"
        arrived = db.execute("select distinct step from arrivals where run_id = ?", (run["id"],)).fetchall()
        branches.move((), {row["step"]: 0 for row in arrived})
        if branches.count:
            return "a join has fired"
        if run["live"] <= 0:
            branches.end()
            return "its end is due"
        # A branch is gone, and nobody knows where it stood: the run fails, and may be resumed from what has failed.
        message = "a branch of the run was lost"
        error = {"type": "WorkerLost", "message": message, "action": None, "step": None, "attempt": 1, "retryable": False, "status": None, "details": None}  # fmt: skip
        query = "update runs set stop = ?, error = coalesce(error, ?) where id = ? returning *"
        stopped = db.execute(query, (RunStatus.FAILED, encode_json(error), run["id"])).fetchone()
        self._branches(db, stopped, now).stop()
        return "a branch was lost, and the run fails"

    def _wake(self, db: Writer, run: Row, now: float) -> str | None:
        """Let go on what waits for nothing that could come."""
        branches = self._branches(db, run, now)
        if branches.header.sequential:
            branches.take_turn()
        woken = f"update visits set due_at = ? where run_id = ? and status = 'waiting' and due_at >= ? and not ({AWAITED})"
        if db.execute(woken, (now, run["id"], NEVER)).rowcount:
            return "steps that wait in vain are due"
        return "a branch has its turn" if branches.header.sequential else None

    def _end_leases(self, db: Writer, run: Row, now: float) -> str:
        """Let those be due whose lease ends later than any may."""
        query = f"update visits set due_at = ? where run_id = ? and {ACTIVE} and status = 'running' and due_at > ?"
        db.execute(query, (now, run["id"], now + LONGEST_LEASE_SECONDS))
        return "a lease without an end is over"

    def _set_deadline(self, db: Writer, run: Row, now: float) -> str | None:
        """Let the run end in time, unless its last step has begun, which has a time of its own."""
        last = self._branches(db, run, now).header.finally_step
        query = "select 1 from visits where run_id = ? and step = ?"
        if last is not None and db.execute(query, (run["id"], last)).fetchone() is not None:
            return None
        found = run_from_row(run)
        enter_deadline(db, found, found.deadline_at or now)
        return "its deadline is set"

    def _forget(self, before: float) -> None:
        """Delete runs that had ended before a time, with all that belongs to them; not one whose parent is kept, which may ask
        for it, nor one whose children are.
        """
        with self.database.transaction() as db:
            ids = [
                row["id"] for row in db.execute(_FORGET, (before, before, MOST_FORGOTTEN, before)).fetchall()
            ]
            for table in OF_RUNS if ids else ():
                db.execute(f"delete from {table} where run_id in ({', '.join('?' * len(ids))})", ids)
