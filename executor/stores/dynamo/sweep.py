"""The sweep of a DynamoDB store: find open runs that no worker would continue, and repair them.

Problem: a message may be lost, and a worker may die between an outcome and what follows from it.

Algorithm: a reconciliation loop. Source: the controller pattern of Kubernetes. A sweep reads a page of the
index of open runs, from the place where the last sweep stopped. For each run it takes a snapshot. It
completes followups that are missing, and announces visits that have been overdue for GRACE_SECONDS. All
repairs are idempotent, so concurrent sweeps are safe.

Cost: a query of each index partition, and one read of each of the runs of a page.

Limits: a run with a commit in the last GRACE_SECONDS is not repaired, because its worker may still be active.

The item `S#sweep` of an index partition stores `behind`, the sort key of the last run that was examined.
"""

from __future__ import annotations

import logging

from noetl.executor.model.run import NEVER, SERVICE_QUEUE, VisitStatus
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, encode_item
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.lifecycle import DynamoLifecycle
from noetl.executor.stores.dynamo.run_items import has_ended, run_id_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, is_pseudo_step, read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS

MAX_RUNS_PER_SWEEP = 200
"""Number of runs that one sweep examines. The next sweep starts after them."""

logger = logging.getLogger("noetl.executor")


class DynamoSweep(DynamoLifecycle):
    """The part of the DynamoDB store that repairs runs that no worker would continue."""

    def sweep(
        self, now: float, *, queue: str = SERVICE_QUEUE, limit: int = MAX_RUNS_PER_SWEEP
    ) -> SweepResult:
        """Examine up to `limit` open runs of a queue, repair them, and announce overdue visits.

        Successive sweeps go through all runs.
        """
        shards = keys.open_shards(queue)
        page_size = max(limit // len(shards), 1)
        pages = self.in_parallel(lambda shard: self._next_page(shard, page_size), shards)
        run_ids = [run_id for page in pages for run_id in page]
        repaired = self.in_parallel(lambda run_id: self._sweep_run(run_id, now), run_ids)
        return SweepResult(len(run_ids), sum(repaired))

    def _next_page(self, shard: str, limit: int) -> list[str]:
        """Return the ids of the next open runs of an index partition, and remember where they end."""
        key = keys.ItemKey("S#sweep", f"S#{shard}")
        after = (self.table.get(key) or {}).get("behind")
        request = {
            "KeyConditionExpression": "#o = :q" + (" AND created > :c" if after else ""),
            "ExpressionAttributeNames": {"#o": "open"},
            "ExpressionAttributeValues": encode_item({":q": shard, ":c": after}),
            "Limit": limit,
        }
        page = self.table.query_index("open", **request)
        entries = [(item["pk"]["S"][2:], item["created"]["S"]) for item in page["Items"]]
        end = entries[-1][1] if entries and "LastEvaluatedKey" in page else None
        if end != after:
            self.table.update(Update(key, {"behind": end}))
        return [run_id for run_id, _ in entries]

    def _sweep_run(self, run_id: str, now: float) -> int:
        """Repair a run, announce its overdue visits, and return how many visits were announced."""
        snapshot = read_snapshot(self, run_id)
        if snapshot is None or has_ended(snapshot.head):
            return 0
        due = self._overdue_and_repaired(snapshot, now)
        if due:
            names = ", ".join(sorted({item.visit.step for item in due}))
            logger.warning("run %s had no message for due steps: %s", run_id, names)
            self.announce(snapshot.head, due, now)
        return len(due)

    def _overdue_and_repaired(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """Return the overdue visits, and those that a repair has made due."""
        since = now - GRACE_SECONDS
        overdue = [item for item in snapshot.active_items if item.visit.due_at < since]
        steps = (item for item in snapshot.items if not is_pseudo_step(item))
        if any(item.attributes.get("at", item.origin.entered_at) > since for item in steps):
            # A worker is active, and completes the followups itself.
            return overdue
        overdue_ids = {item.visit.id for item in overdue}
        repaired = self.repair(snapshot, now)
        return [*overdue, *(item for item in repaired if item.visit.id not in overdue_ids)]

    def repair(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        head = snapshot.head
        run_id = run_id_of(head)
        if has_ended(head):
            return []
        if "reopening" in head:
            self.resume(run_id, now, deadline_at=head.get("deadline"), values={})
            return []
        active = [item for item in snapshot.active_items if not is_pseudo_step(item)]
        for item in active:
            if item.visit.status is VisitStatus.WAITING and item.visit.due_at > now:
                self.wake_if_answered(run_id, item.visit.id, now)
        due: list[VisitItem] = []
        is_empty = False
        if snapshot.counts.joins_to_fire or snapshot.counts.live <= 0:
            # The counters of a snapshot are not as of one moment, so they are read again.
            due, counts = self.fire_joins(head, None, now)
            is_empty = counts.live <= 0
        if "stop" in head:
            return due if self._is_settled(snapshot, active) else self.settle_stop(run_id, now)
        return self._repair_running(snapshot, active, due, now, is_empty=is_empty)

    def _is_settled(self, snapshot: RunSnapshot, active: list[VisitItem]) -> bool:
        """Return whether a stopping run waits for a running visit or its finally step, and has nothing to
        park.
        """
        is_running = any(
            item.visit.status is VisitStatus.RUNNING or self.is_final_step(item, snapshot.head)
            for item in active
        )
        return is_running and not self.parkable_items(snapshot)

    def _repair_running(
        self,
        snapshot: RunSnapshot,
        active: list[VisitItem],
        fired: list[VisitItem],
        now: float,
        *,
        is_empty: bool,
    ) -> list[VisitItem]:
        """Return the visits that are due in a run that is not stopping; `fired` are those of joins that
        fired.
        """
        head: Item = snapshot.head
        due = fired
        if self.is_sequential(head):
            is_any_activated = any(item.visit.due_at < NEVER for item in active)
            last = snapshot.last_finished_item
            due = [] if is_any_activated else self.activate_next_visit(head, last, now)
        is_ending = any(self.is_final_step(item, head) for item in snapshot.active_items)
        if not due and is_empty and not is_ending:
            due = self.end_run(head, now)
        return due
