"""Maintenance of a SQL store: find runs that no worker would continue, repair them, and delete old runs.

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
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run import NEVER
from noetl.executor.model.run_transition import lose_branch
from noetl.executor.model.special_visits import FINALLY_CLOCK, deadline_visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.visit_transition import MAX_LEASE_SECONDS
from noetl.executor.stores.damage import naming_run
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.plan_uses import MAX_DELETED_PLANS, UNUSED_SECONDS
from noetl.executor.stores.sql.branches import BranchTransaction, insert_visit, read_run
from noetl.executor.stores.sql.cascade_completion import SqlCascades
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.damaged_runs import set_aside
from noetl.executor.stores.sql.facts import SqlFacts
from noetl.executor.stores.sql.outbox import delete_expired_entries
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.run_deletion import complete_some, delete_old_runs, delete_tree
from noetl.executor.stores.sql.triggers import delete_old_firings

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding

MAX_DELETED_RUNS = 20
"""Number of runs that one transaction deletes at most, so that commits of SQLite wait for milliseconds."""

MAX_DELETED_COUNTS = 500
"""Number of counts of child runs that one transaction deletes at most."""

MAX_DELETED_GATES = 1000
"""Number of unused gates that one transaction deletes at most."""

MAX_DELETED_RESULTS = 500
"""Number of results of the cache that one transaction deletes at most."""

MAX_DELETIONS = 250
"""Number of deletions of one sweep at most."""

logger = logging.getLogger("noetl.executor")


class _Damage(NamedTuple):
    """A kind of damage: a query for `run_id`, its values, and the function that repairs a run.

    The function returns a description of the repair, or None if nothing was to be repaired.
    """

    query: str
    values: Mapping[str, Any]
    repair: Callable[[BranchTransaction], str | None]


class SqlMaintenance:
    """The maintenance of a SQL store."""

    def __init__(self, context: SqlContext, plans: SqlPlans, facts: SqlFacts) -> None:
        self._context = context
        self._plans = plans
        self._facts = facts
        self._cascades = SqlCascades(context, plans)

    def probe(self) -> None:
        self._context.database.probe()

    def check_consistency(self) -> list[Finding]:
        # Only `noetl doctor` needs it, and a function that executes a step starts faster without it.
        from noetl.executor.stores.sql.consistency import check_consistency

        return check_consistency(self._context.database)

    def delete_run(self, tenant: str, run_id: str) -> bool:
        return delete_tree(self._context, tenant, run_id)

    def write_log_back(self) -> None:
        """Return at once."""

    def sweep(self, now: float, *, limit: int = 200) -> SweepResult:
        """Repair up to `limit` runs of each kind of damage, fold facts, and delete runs that are older than
        the retention.

        Concurrent sweeps of several workers are safe.
        """
        longest = {"longest": now + MAX_LEASE_SECONDS}
        kinds = (
            _Damage("consistency.stuck", {}, _continue_stuck),
            _Damage("consistency.waits_in_vain", {"never": NEVER}, _wake),
            _Damage("sweep.find_endless_leases", longest, _end_leases),
            _Damage("sweep.find_missing_deadlines", {}, _set_deadline),
        )
        repaired = 0
        for damage in kinds:
            for row in self._context.database.fetch_all(damage.query, limit=limit, **damage.values):
                repaired += self._repair(row["run_id"], damage, now)
        if repaired:
            self._context.announce_due()
        self._facts.fold()
        self._delete_idle_gates(now)
        for _ in range(MAX_DELETIONS):
            if not self.delete_old(now):
                break
        return SweepResult(self._context.database.fetch_one("sweep.count_open_runs")["open"], repaired)

    def set_aside(self, run_id: str, reason: str) -> bool:
        return set_aside(self._context, run_id, reason)

    def put_back(self, now: float) -> list[str]:
        run_ids = [row["run_id"] for row in self._context.database.fetch_all("damage.find")]
        for run_id in run_ids:
            with self._context.transaction() as db:
                db.lock_run(run_id)
                db.execute("damage.remove", run_id=run_id)
                db.execute("damage.show_visits", run_id=run_id, now=now)
                db.mark_run_written(run_id)
        self._context.announce_due()
        return run_ids

    def _repair(self, run_id: str, damage: _Damage, now: float) -> bool:
        """Lock a run, check it again and repair it; return whether there was something to repair."""
        repair = None
        try:
            with naming_run(run_id), self._context.transaction() as db:
                db.lock_run(run_id)
                damaged = db.execute(damage.query, run_id=run_id, limit=1, **damage.values)
                if damaged.fetchone() is not None:
                    run = db.execute("sweep.next_seq", run_id=run_id).fetchone()
                    repair = damage.repair(BranchTransaction(db, self._plans, run, now))
        except DamagedRunError as error:
            self.set_aside(run_id, error.message)
        if repair is None:
            return False
        fields = {"workflow_id": run_id, "repaired": repair}
        logger.warning("run %s was repaired: %s", run_id, repair, extra={"fields": fields})
        return True

    def delete_old(self, now: float) -> bool:
        """Delete some runs that are older than the retention, and some unused plans.

        Continue deletions, and commands to child runs, that other processes have left. Return whether more
        may be left.
        """
        self._delete_cached_results(now)
        delete_expired_entries(self._context, now)
        has_commands = self._cascades.complete_some(now)
        has_more_rows = complete_some(self._context) or has_commands
        if self._context.retention_seconds is None:
            return has_more_rows
        has_more_runs = self._delete_runs(now - self._context.retention_seconds)
        return self._delete_plans(now) or has_more_runs or has_more_rows

    def _delete_cached_results(self, now: float) -> None:
        """Delete the results in the cache that have expired."""
        database = self._context.database
        if database.fetch_all("cache.find_expired", now=now):
            with database.transaction() as db:
                db.execute("cache.delete_expired", now=now, limit=MAX_DELETED_RESULTS)

    def _delete_idle_gates(self, now: float) -> None:
        """Delete the gates of playbooks' and steps' own rates whose units have all left the window.

        Postgres keeps unused gates of their own limits until then, too.
        """
        database = self._context.database
        deleted = MAX_DELETED_GATES if database.fetch_all("gates.find_idle", now=now) else 0
        while deleted == MAX_DELETED_GATES:
            with database.transaction() as db:
                deleted = db.execute("gates.delete_idle", now=now, limit=MAX_DELETED_GATES).rowcount

    def _delete_runs(self, before: float) -> bool:
        """Delete some runs of a time before another, and what they have left for triggers and parents.

        Return whether more may be left.
        """
        if not self._context.database.fetch_all("sweep.find_old", before=before):
            return False
        has_more_runs = delete_old_runs(self._context, before, MAX_DELETED_RUNS)
        with self._context.database.transaction() as db:
            counts = db.execute("sweep.delete_child_run_counts", before=before, limit=MAX_DELETED_COUNTS)
            has_more_firings = delete_old_firings(db, before)
            has_more_counts = counts.rowcount == MAX_DELETED_COUNTS
        return has_more_runs or has_more_counts or has_more_firings

    def _delete_plans(self, now: float) -> bool:
        """Delete some unused plans, each in transactions of its own. Return whether more may be left."""
        before = now - UNUSED_SECONDS
        found = self._context.database.fetch_all("plans.find_unused", before=before, limit=MAX_DELETED_PLANS)
        for row in found:
            self._plans.delete_unused(row["hash"], before, now)
        return len(found) == MAX_DELETED_PLANS


def _continue_stuck(branches: BranchTransaction) -> str:
    """Continue a run without an active visit."""
    db, run = branches.db, branches.run
    if run["stop"] is not None:
        # Earlier commits parked a finally step that waited for a limit.
        only = {"clock": FINALLY_CLOCK}
        if db.execute("sweep.unpark", run_id=run["id"], now=branches.now, **only).rowcount:
            return "its finally step is due"
        branches.stop_run()
        return "its end is due"
    last = db.execute("branches.find_last_begun", run_id=run["id"]).fetchone()
    # In sequential mode only the visit that began last is performed. Others wait for their turn.
    only = {"clock": last["clock"]} if branches.header.sequential and last is not None else {}
    if db.execute("sweep.unpark", run_id=run["id"], now=branches.now, **only).rowcount:
        return "its parked steps are due"
    joins = db.execute("sweep.find_joins", run_id=run["id"]).fetchall()
    branches.fire_joins(row["step"] for row in joins)
    if branches.count:
        return "a join has fired"
    if run["live"] <= 0:
        branches.end_run()
        return "its end is due"
    failing = lose_branch(read_run(db, run["id"]))
    stopping = db.execute("sweep.fail_run", run_id=run["id"], error=encode_json(failing.error)).fetchone()
    BranchTransaction(db, branches.plans, stopping, branches.now).stop_run()
    return "a branch was lost, and the run fails"


def _wake(branches: BranchTransaction) -> str | None:
    """Make visits due that wait for an answer that cannot arrive."""
    woken = branches.db.execute("sweep.wake", run_id=branches.run["id"], now=branches.now, never=NEVER)
    return "its steps that wait in vain are due" if woken.rowcount else None


def _end_leases(branches: BranchTransaction) -> str:
    """Make visits due whose lease ends later than any lease may."""
    longest = branches.now + MAX_LEASE_SECONDS
    branches.db.execute("sweep.end_leases", run_id=branches.run["id"], now=branches.now, longest=longest)
    return "a lease that exceeded the limit has ended"


def _set_deadline(branches: BranchTransaction) -> str | None:
    """Add the missing deadline of a run, unless its finally step has begun, which has its own timeout."""
    run, finally_step = read_run(branches.db, branches.run["id"]), branches.header.finally_step
    if finally_step is not None:
        entered = branches.db.execute("sweep.has_entered", run_id=run.id, step=finally_step)
        if entered.fetchone() is not None:
            return None
    deadline = deadline_visit(run.id, run.resumes, run.deadline_at or branches.now)
    insert_visit(branches.db, deadline, run.queue, position=0)
    return "its deadline is set"
