"""The sweep of a DynamoDB store: find open runs that no worker would continue, and repair them.

Problem: a message may be lost, and a worker may die between an outcome and what follows from it.

Algorithm: a reconciliation loop. Source: the controller pattern of Kubernetes. A sweep reads a page of the
index of open runs, from the place where the last sweep stopped. For each run it takes a snapshot. It
completes followups that are missing, and announces visits that have been overdue for GRACE_SECONDS. All
repairs are idempotent, so concurrent sweeps are safe. A run whose visits all wait long is then left out
(`sleeping_runs.py`). Visits that are due soon are found in an index (`due_index.py`). So are deletions of
runs that were interrupted (`run_deletion.py`). Once a day, unused plans are deleted (`plan_deletion.py`).
Once a week, runs are found that ended without a retention (`late_expiry.py`).

Cost: a query of each index partition and one of deletions, and one read of each of the runs of a page. A run
that sleeps costs nothing.

Limits: a run with a commit in the last GRACE_SECONDS is not repaired, because its worker may still be active.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import DamagedRunError, StoreError
from noetl.executor.model.run import DEADLINE, SERVICE_QUEUE
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.visit_states import PARKABLE
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.damaged_runs import put_back, set_aside
from noetl.executor.stores.dynamo.due_index import DueIndex
from noetl.executor.stores.dynamo.expressions import ABSENT, PRESENT, Put
from noetl.executor.stores.dynamo.late_expiry import LateExpiry
from noetl.executor.stores.dynamo.open_runs import next_open_runs
from noetl.executor.stores.dynamo.plan_deletion import PlanDeletion
from noetl.executor.stores.dynamo.repairs import Repairs
from noetl.executor.stores.dynamo.run_deletion import RunDeletion
from noetl.executor.stores.dynamo.run_items import has_ended, is_paused, run_id_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, read_snapshot
from noetl.executor.stores.dynamo.sleeping_runs import (
    can_sleep_paused,
    put_paused_to_sleep,
    put_quiet_to_sleep,
    wake_run,
)
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding

MAX_RUNS_PER_SWEEP = 200
"""Number of runs that one sweep examines. The next sweep starts after them."""

logger = logging.getLogger("noetl.executor")


class DynamoMaintenance:
    """The consistency check of a DynamoDB store, and the sweep of its open runs."""

    def __init__(self, context: DynamoContext, repairs: Repairs, run_deletion: RunDeletion) -> None:
        self._context = context
        self._repairs = repairs
        self._run_deletion = run_deletion
        self._due_index = DueIndex(context)
        self.plan_deletion = PlanDeletion(context)
        self.late_expiry = LateExpiry(context)

    def delete_run(self, tenant: str, run_id: str) -> bool:
        """Delete a run that has ended, with all runs that it has started."""
        return self._run_deletion.delete(tenant, run_id)

    def set_aside(self, run_id: str, reason: str) -> bool:
        """Let no worker claim visits of a damaged run. Return False if it was set aside before."""
        return set_aside(self._context, run_id, reason)

    def put_back(self, now: float) -> list[str]:
        """Let workers claim the visits of all runs that were set aside, and return the ids of these runs."""
        return put_back(self._context, now)

    def probe(self) -> None:
        """Return if the table answers to the read of an item, and accepts writes.

        The condition of the write never holds, so nothing is written.
        """
        self._context.table.get(keys.SCHEMA)
        with suppress(ConditionFailed):
            self._context.table.write([Put(keys.SCHEMA, when=(ABSENT, PRESENT))])

    def check_consistency(self) -> list[Finding]:
        """Return the inconsistencies of the table, the bucket and the queue, without changing them."""
        from noetl.executor.stores.dynamo.consistency import ConsistencyCheck

        return ConsistencyCheck(self._context).check_consistency()

    def delete_old(self, now: float) -> bool:
        """Delete some unused plans, and let old runs expire. Return whether more may be left.

        DynamoDB itself deletes runs whose time to live is over. Times are those of its clock.
        """
        del now
        is_left = self.plan_deletion.delete_some()
        return self.late_expiry.set_some() or is_left

    def write_log_back(self) -> None:
        """Return at once."""

    def sweep(
        self, now: float, *, queue: str = SERVICE_QUEUE, limit: int = MAX_RUNS_PER_SWEEP
    ) -> SweepResult:
        """Send messages about visits that are due soon, and examine up to `limit` open runs of a queue.

        These are repaired, and their overdue visits announced. Successive sweeps go through all runs, except
        those that sleep.
        """
        lost = self._due_index.send_messages(queue, now)
        run_ids = next_open_runs(self._context, queue, limit)
        awake = put_quiet_to_sleep(self._context, run_ids)
        repaired = self._context.in_parallel(lambda run_id: self._sweep_run(run_id, now), awake)
        self._complete_deletions(now)
        self._set_late_expiry()
        self._delete_plans()
        return SweepResult(len(run_ids), lost + sum(repaired))

    def _complete_deletions(self, now: float) -> None:
        """Complete deletions of runs. A failure is only logged, since runs do not depend on it."""
        try:
            self._run_deletion.complete_some(now)
        except StoreError as error:
            logger.warning("runs could not be deleted; a later sweep tries again: %s", error)

    def _set_late_expiry(self) -> None:
        """Let some old runs expire. A failure is only logged, since runs do not depend on it."""
        try:
            self.late_expiry.set_some()
        except StoreError as error:
            logger.warning("old runs have no time to live yet; a later sweep tries again: %s", error)

    def _delete_plans(self) -> None:
        """Delete some unused plans. A failure is only logged, since runs do not depend on it."""
        try:
            self.plan_deletion.delete_some()
        except StoreError as error:
            logger.warning("unused plans could not be deleted; a later sweep tries again: %s", error)

    def _sweep_run(self, run_id: str, now: float) -> int:
        """Repair a run, announce its overdue visits, and return how many visits were announced."""
        try:
            with reading_run(run_id):
                snapshot = read_snapshot(self._context, run_id)
                if snapshot is None or has_ended(snapshot.head) or "damage" in snapshot.head:
                    return 0
                due = self._overdue_and_repaired(snapshot, now)
        except DamagedRunError as error:
            self.set_aside(run_id, error.message)
            return 0
        if due:
            names = ", ".join(sorted({item.visit.step for item in due}))
            logger.warning("run %s had no message for due steps: %s", run_id, names)
            self._context.announcer.announce(snapshot.head, due, now)
        elif can_sleep_paused(self._context, snapshot.head) and _is_at_rest(snapshot):
            self._put_paused_to_sleep(snapshot)
        return len(due)

    def _put_paused_to_sleep(self, snapshot: RunSnapshot) -> None:
        """Put a paused run to sleep. A visit that was claimed since the snapshot was read wakes it."""
        if put_paused_to_sleep(self._context, snapshot.head):
            again = read_snapshot(self._context, run_id_of(snapshot.head))
            if again is not None and not _is_at_rest(again):
                wake_run(self._context, again.head)

    def _is_held(self, item: VisitItem, snapshot: RunSnapshot) -> bool:
        """Return whether a visit is due only when its paused run is unpaused. A repair parks it."""
        is_branch_visit = self._context.is_branch_visit(item.visit, snapshot.head)
        return is_paused(snapshot.head) and is_branch_visit and item.visit.status in PARKABLE

    def _overdue_and_repaired(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """Return the overdue visits, and those that a repair has made due."""
        since = now - GRACE_SECONDS
        overdue = [
            item
            for item in snapshot.active_items
            if item.visit.due_at < since and not self._is_held(item, snapshot)
        ]
        steps = (item for item in snapshot.items if not is_pseudo_step(item.visit.step))
        if any(item.attributes.get("at", item.origin.entered_at) > since for item in steps):
            # A worker is active, and completes the followups itself.
            return overdue
        overdue_ids = {item.visit.id for item in overdue}
        repaired = self._repairs.repair(snapshot, now)
        return [*overdue, *(item for item in repaired if item.visit.id not in overdue_ids)]


def _is_at_rest(snapshot: RunSnapshot) -> bool:
    """Return whether no visit of a run is active except that of its deadline, and no join can fire."""
    is_active = any(item.visit.step != DEADLINE for item in snapshot.active_items)
    return not is_active and not snapshot.counts.joins_to_fire
