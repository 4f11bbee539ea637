"""Wakeups: a suspended visit becomes due because one of its waits was answered.

`waits.py` says why the order of reads and writes matters.
"""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.run import VisitStatus
from noetl.executor.model.visit_states import WAKEABLE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, Update
from noetl.executor.stores.dynamo.run_items import has_ended, tenant_of
from noetl.executor.stores.sqs.due_message import DueMessage


class Wakeups:
    """Changes of suspended visits to due visits, which are announced at once."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def make_due(self, run_id: str, visit_id: str, now: float) -> None:
        """Make a suspended visit due now, or a parked visit when its run resumes."""
        key = self._context.heads.visit_key(run_id, visit_id)
        states = tuple(status.value for status in WAKEABLE)
        try:
            item = self._context.table.update(Update(key, {"due": now}, when=(("status", "in", states),)))
        except ConditionFailed:
            return  # it is running, and reads its waits when it is suspended
        head = self._context.heads.read(run_id)
        if item["status"] == VisitStatus.WAITING and not has_ended(head):
            self._announce(head, visit_id, item["step"], now)

    def wake_if_answered(self, run_id: str, visit_id: str, now: float) -> bool:
        """Make a suspended visit due if one of its waits has an answer, and return whether it was."""
        table = self._context.table
        key = self._context.heads.visit_key(run_id, visit_id)
        item = table.get(key)
        if item is None or item["status"] != VisitStatus.WAITING or item["due"] <= now:
            return False
        spread = self._context.heads.spread(run_id)
        waits = [keys.wait(run_id, visit_id, id, spread) for id in item.get("awaits", ())]
        if not any("answered" in wait for wait in table.get_many(waits).values()):
            return False
        when: tuple[Condition, ...] = (
            ("status", "=", VisitStatus.WAITING.value),
            ("fence", "=", item["fence"]),
            ("due", "=", item["due"]),
        )
        try:
            table.update(Update(key, {"due": now}, when=when))
        except ConditionFailed:
            return False
        self._announce(self._context.heads.read(run_id), visit_id, item["step"], now)
        return True

    def wake_parent(self, head: Item, now: float) -> None:
        """Wake the visit of the parent run that waits for a run that has ended."""
        if "parent" in head:
            run_id, visit_id, _ = head["parent"]
            self.make_due(run_id, visit_id, now)

    def _announce(self, head: Item, visit_id: str, step: str, now: float) -> None:
        run_id = head["pk"][2:]
        spread = self._context.heads.spread(run_id)
        message = DueMessage(run_id, visit_id, step, now, spread, tenant=tenant_of(head))
        self._context.announcer.send(head["queue"], [message], now)
