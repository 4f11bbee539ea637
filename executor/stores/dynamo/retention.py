"""Retention in DynamoDB: items of ended runs get a time to live, and DynamoDB deletes them.

Problem: a run must not be half deleted while it can still be read or resumed, and DynamoDB deletes items in
any order.

Algorithm: the attribute `expires` of the head is one day earlier than that of the other items. Without its
head, a run does not exist, so no reader sees the rest.

Cost: one write for each item of a run at its end, and again at a resume.

Limits: DynamoDB deletes an expired item within a few days. Objects in the bucket need a lifecycle rule of S3.
"""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of
from noetl.executor.stores.retention import DAY_SECONDS


class Retention:
    """The expiry of ended runs, which are kept for `retention_seconds`, or for ever."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def set_expiry(self, head: Item, now: float) -> None:
        """Set the time from which the items of an ended run may be deleted."""
        seconds = self._context.plan_uses.retention_seconds
        if seconds is not None:
            self._write_expiry(head, int(now + seconds))

    def clear_expiry(self, head: Item) -> None:
        """Remove the time from which the items of a run may be deleted."""
        if "expires" in head:
            self._write_expiry(head, None)

    def _write_expiry(self, head: Item, expires_at: int | None) -> None:
        """Write the time at which the head of a run expires to all of its items, or remove it."""
        run_id = run_id_of(head)
        item_keys: list[keys.ItemKey] = []
        for number in range(spread_of(head)):
            for item in self._context.table.query(keys.partition_key(run_id, number), ""):
                item_keys.append(keys.ItemKey(item["pk"], item["sk"]))
                item_keys += [keys.token(token) for token in item.get("tokens", ())]
        requests = [*head.get("requests", ()), *([head["key"]] if "key" in head else [])]
        item_keys += [keys.ItemKey(request, "I") for request in requests]

        def write(key: keys.ItemKey) -> None:
            delay = 0 if key == keys.head(run_id) else DAY_SECONDS
            expires = None if expires_at is None else expires_at + delay
            try:
                self._context.table.update(Update(key, {"expires": expires}, when=(PRESENT,)))
            except ConditionFailed:
                return  # the item was deleted since it was read

        self._context.in_parallel(write, item_keys)
