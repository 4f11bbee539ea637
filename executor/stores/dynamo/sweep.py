"""Runs that nobody would go on with: found among those that have not ended, and put right."""

from __future__ import annotations

import logging

from noetl.executor.model.run import NEVER, SERVICE_QUEUE, VisitStatus
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import encode_item
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.lifecycle import DynamoLifecycle
from noetl.executor.stores.dynamo.run_items import is_over
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, is_pseudo, read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.executor.stores.interface import SweepResult
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS

MAX_RUNS_PER_SWEEP = 200
"""How many runs one sweep looks at; the next one goes on behind them."""

logger = logging.getLogger("noetl.executor")


class DynamoSweep(DynamoLifecycle):
    """The part of the store that looks for what was lost."""

    def sweep(
        self, now: float, *, queue: str = SERVICE_QUEUE, limit: int = MAX_RUNS_PER_SWEEP
    ) -> SweepResult:
        """Look at so many of the runs of a queue that have not ended, and let workers know again of what is long overdue. Sweeps
        follow each other through all of the runs; two at a time do no harm.
        """
        shards = keys.open_shards(queue)
        most = max(limit // len(shards), 1)
        pages = self.in_parallel(lambda shard: self._open_page(shard, most), shards)
        found = [run_id for page in pages for run_id in page]
        return SweepResult(
            len(found), sum(self.in_parallel(lambda run_id: self._sweep_run(run_id, now), found))
        )

    def _open_page(self, shard: str, limit: int) -> list[str]:
        """So many of the open runs of a shard, behind those that were looked at before."""
        at = keys.ItemKey("S#sweep", f"S#{shard}")
        place = (self.table.get(at) or {}).get("behind")
        asked = {
            "KeyConditionExpression": "#o = :q" + (" AND created > :c" if place else ""),
            "ExpressionAttributeNames": {"#o": "open"},
            "ExpressionAttributeValues": encode_item({":q": shard, ":c": place}),
            "Limit": limit,
        }
        page = self.table.query_index("open", **asked)
        found = [(item["pk"]["S"][2:], item["created"]["S"]) for item in page["Items"]]
        behind = found[-1][1] if found and "LastEvaluatedKey" in page else None
        if behind != place:
            self.table.update(Update(at, {"behind": behind}))
        return [run_id for run_id, _ in found]

    def _sweep_run(self, run_id: str, now: float) -> int:
        snapshot = read_snapshot(self, run_id)
        if snapshot is None or is_over(snapshot.head):
            return 0
        lost = self._lost(snapshot, now)
        if lost:
            names = ", ".join(sorted({record.visit.step for record in lost}))
            logger.warning("run %s was found without a message for: %s", run_id, names)
            self.dispatch(snapshot.head, lost, now)
        return len(lost)

    def _lost(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """The visits that nobody would go on with, after what had been left half done is done."""
        since = now - GRACE_SECONDS
        overdue = [record for record in snapshot.active_items if record.visit.due_at < since]
        if any(
            record.item.get("at", record.way.entered) > since
            for record in snapshot.items
            if not is_pseudo(record)
        ):
            # Somebody is at it, and does what follows.
            return overdue
        known = {record.visit.id for record in overdue}
        return [*overdue, *(one for one in self.mend(snapshot, now) if one.visit.id not in known)]

    def mend(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        head = snapshot.head
        run_id = head["pk"][2:]
        if is_over(head):
            return []
        if "reopening" in head:
            self.resume(run_id, now, deadline_at=head.get("deadline"), values={})
            return []
        active = [one for one in snapshot.active_items if not is_pseudo(one)]
        for record in active:
            if record.visit.status is VisitStatus.WAITING and record.visit.due_at > now:
                self.wake_if_answered(run_id, record.visit.id, now)
        mended: list[VisitItem] = []
        is_empty = False
        if snapshot.joins_to_fire or snapshot.counts.live <= 0:
            # What the whole counts was not read at one moment.
            mended, counts = self.fire_joins(head, None, now)
            is_empty = counts.live <= 0
        if "stop" in head:
            at_work = any(
                one.visit.status is VisitStatus.RUNNING or self.is_last(one, head) for one in active
            )
            return mended if at_work and not self.parkable(snapshot) else self.settle_stop(run_id, now)
        if self.plans.header(head["plan"]).sequential:
            has_turn = any(one.visit.due_at < NEVER for one in active)
            mended = [] if has_turn else self.take_turn(head, snapshot.last_done, now)
        is_ending = any(self.is_last(one, head) for one in snapshot.active_items)
        if not mended and is_empty and not is_ending:
            mended = self.end(head, now)
        return mended
