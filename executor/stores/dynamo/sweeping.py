"""Runs that nobody would go on with: found among those that have not ended, and put right."""

from __future__ import annotations

import logging

from executor.records import SERVICE, VisitStatus
from executor.stores.dynamo import keys
from executor.stores.dynamo.attributes import attributes
from executor.stores.dynamo.change import Change
from executor.stores.dynamo.endings import Endings
from executor.stores.dynamo.runs import is_over
from executor.stores.dynamo.visits import Record
from executor.stores.dynamo.whole import Whole, is_pseudo, read_whole
from executor.stores.store import Swept

GRACE_SECONDS = 120.0
"""How long something may be overdue before it counts as lost: messages and workers have their time."""

MOST_SWEPT = 200
"""How many runs one sweep looks at; the next one goes on behind them."""

_PLACE = keys.Key("S#sweep", "S")

logger = logging.getLogger("noetl.executor")


class Sweeping(Endings):
    """The part of the store that looks for what was lost."""

    def sweep(self, now: float, *, queue: str = SERVICE, limit: int = MOST_SWEPT) -> Swept:
        """Look at so many of the runs of a queue that have not ended, and let workers know again of what is long overdue. Sweeps
        follow each other through all of the runs; two at a time do no harm.
        """
        place = (self.table.get(_PLACE) or {}).get("behind")
        asked = {
            "KeyConditionExpression": "#o = :q" + (" AND created > :c" if place else ""),
            "ExpressionAttributeNames": {"#o": "open"},
            "ExpressionAttributeValues": attributes({":q": queue, ":c": place}),
            "Limit": limit,
        }
        page = self.table.index("open", **asked)
        found = [(item["pk"]["S"][2:], item["created"]["S"]) for item in page["Items"]]
        repaired = sum(self.in_parallel(lambda one: self._sweep_run(one[0], now), found))
        behind = found[-1][1] if found and "LastEvaluatedKey" in page else None
        if behind != place:
            self.table.update(Change(_PLACE, {"behind": behind}))
        return Swept(len(found), repaired)

    def _sweep_run(self, run_id: str, now: float) -> int:
        whole = read_whole(self, run_id)
        if whole is None or is_over(whole.head):
            return 0
        lost = self._lost(whole, now)
        if lost:
            names = ", ".join(sorted({record.visit.step for record in lost}))
            logger.warning("run %s was found without a message for: %s", run_id, names)
            self.dispatch(whole.head, lost, now)
        return len(lost)

    def _lost(self, whole: Whole, now: float) -> list[Record]:
        """The visits that nobody would go on with, after what had been left half done is done."""
        head = whole.head
        run_id = head["pk"][2:]
        if "reopening" in head:
            self.resume(run_id, now, deadline_at=head.get("deadline"), values={})
            return []
        active = whole.active
        for record in active:
            if record.visit.status is VisitStatus.WAITING:
                self.wake_if_answered(run_id, record.visit.id, now)
        overdue = [record for record in active if record.visit.due_at < now - GRACE_SECONDS]
        if any(record.visit.due_at >= now - GRACE_SECONDS and not is_pseudo(record) for record in active):
            # Somebody is at it: what follows from that is not for us.
            return overdue
        if overdue and not all(is_pseudo(record) for record in overdue) and "stop" not in head:
            return overdue
        if max(record.way.entered for record in whole.records) > now - GRACE_SECONDS:
            return overdue
        if "stop" in head:
            return [*overdue, *self.settle_stop(run_id, now)]
        fired, counts = self.fire_joins(head, None, now)
        if not fired and self.plans.header(head["plan"]).sequential:
            fired = self.take_turn(head, None, now)
        if not fired and counts.live <= 0:
            fired = self.end(head, now)
        return [*overdue, *fired]
