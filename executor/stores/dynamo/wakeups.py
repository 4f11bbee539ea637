"""Wakeups: a suspended visit becomes due because one of its waits was answered.

`waits.py` says why the order of reads and writes matters.
"""

from __future__ import annotations

from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import UnknownRunError
from noetl.executor.model.run import VisitStatus
from noetl.executor.model.visit_states import WAKEABLE
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, Update
from noetl.executor.stores.dynamo.run_items import has_ended, run_id_of, tenant_of
from noetl.executor.stores.sqs.due_message import DueMessage


class Wakeups:
    """Changes of suspended visits to due visits, which are announced at once."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def make_due(self, run_id: str, visit_id: str, now: float) -> None:
        """Make a suspended visit due now, or a parked visit when its run resumes."""
        head = self._context.heads.read(run_id)
        key = self._context.heads.visit_key(run_id, visit_id)
        states = tuple(status.value for status in WAKEABLE)
        sets = self._due_now(head, now)
        try:
            item = self._context.table.update(Update(key, sets, when=(("status", "in", states),)))
        except ConditionFailed:
            return  # it is running, and reads its waits when it is suspended
        if item["status"] == VisitStatus.WAITING and not has_ended(head):
            self._announce(head, visit_id, item["step"], now)

    def due_update(self, head: Item, item: Item, now: float) -> Update:
        """Return the write that makes a suspended or parked visit due, if it is as it was read."""
        sets = self._due_now(head, now) if item["status"] == VisitStatus.WAITING else {"due": now}
        when: tuple[Condition, ...] = (("status", "=", item["status"]), ("fence", "=", item["fence"]))
        return Update(keys.ItemKey(item["pk"], item["sk"]), sets, when=when)

    def announce_due(self, head: Item, item: Item, now: float) -> None:
        """Announce a suspended visit that is due now. A parked visit is due when its run resumes."""
        if item["status"] == VisitStatus.WAITING:
            self._announce(head, item["sk"][2:], item["step"], now)

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
        head = self._context.heads.read(run_id)
        when: tuple[Condition, ...] = (
            ("status", "=", VisitStatus.WAITING.value),
            ("fence", "=", item["fence"]),
            ("due", "=", item["due"]),
        )
        try:
            table.update(Update(key, self._due_now(head, now), when=when))
        except ConditionFailed:
            return False
        self._announce(head, visit_id, item["step"], now)
        return True

    def _due_now(self, head: Item, now: float) -> Item:
        """Return the attributes of a visit that is due now. If its message is lost, the index `due` has it.

        Its run may sleep, and then no sweep reads the run.
        """
        is_external = self._context.announcer.external_queue(head["queue"]) is not None
        return {"due": now} | ({"wakes": keys.due_shard(run_id_of(head))} if is_external else {})

    def wake_parent(self, head: Item, now: float) -> None:
        """Wake the visit of the parent run that waits for a run that has ended."""
        if "parent" in head:
            run_id, visit_id, _ = head["parent"]
            with suppress(UnknownRunError):  # the parent was deleted
                self.make_due(run_id, visit_id, now)

    def _announce(self, head: Item, visit_id: str, step: str, now: float) -> None:
        run_id = head["pk"][2:]
        spread = self._context.heads.spread(run_id)
        message = DueMessage(run_id, visit_id, step, now, spread, tenant=tenant_of(head))
        self._context.announcer.send(head["queue"], [message], now)
