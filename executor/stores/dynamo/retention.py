"""Retention in DynamoDB: items of ended runs get a time to live, and DynamoDB deletes them.

Problem: a run must not be half deleted while it can still be read or resumed, and DynamoDB deletes items in
any order. A run may be resumed while its items get their times.

Algorithm: the attribute `expires` of the head is one day earlier than that of the other items. Without its
head, a run does not exist, so no reader sees the rest. The head is written last, and only if the run has the
same end as before. So a resume finds all times, or none counts: they are removed again. Runs that ended
without a retention get their times later (`late_expiry.py`).

Cost: one write for each item of a run at its end, and again at a resume.

Limits: DynamoDB deletes an expired item within a few days. Objects in the bucket need a lifecycle rule of S3.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Update
from noetl.executor.stores.dynamo.run_items import linked_keys, run_id_of, spread_of
from noetl.executor.stores.retention import DAY_SECONDS


class Retention:
    """The expiry of ended runs, which are kept for `retention_seconds`, or for ever."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def set_expiry(self, head: Item, now: float) -> None:
        """Set the time from which the items of a run that ends now may be deleted."""
        seconds = self._context.plan_uses.retention_seconds
        if seconds is not None:
            self.expire_at(head, int(now + seconds))

    def expire_at(self, head: Item, expires_at: int) -> None:
        """Set the time at which an ended run expires, unless it was resumed since its head was read."""
        item_keys = self._item_keys(head)
        later = expires_at + DAY_SECONDS
        self._write(item_keys, later)
        # The head may have been read before the end of the run. Each resume has a number.
        resumes: Condition = (
            ("resumes", "=", head["resumes"]) if "resumes" in head else ("resumes", "absent", None)
        )
        is_same_end = (("finished", "present", None), resumes)
        key = keys.head(run_id_of(head))
        try:
            self._context.table.update(Update(key, {"expires": expires_at}, when=is_same_end))
        except ConditionFailed:
            # A later end may have set another time meanwhile, which stays.
            self._write(item_keys, None, (("expires", "=", later),))

    def clear_expiry(self, head: Item) -> None:
        """Remove the time from which the items of a run may be deleted."""
        if "expires" in head:
            self._write([keys.head(run_id_of(head)), *self._item_keys(head)], None)

    def _item_keys(self, head: Item) -> list[keys.ItemKey]:
        """Return the keys of all items of a run except its head."""
        run_id = run_id_of(head)
        item_keys: list[keys.ItemKey] = []
        for number in range(spread_of(head)):
            for item in self._context.table.query(keys.partition_key(run_id, number), ""):
                item_keys.append(keys.ItemKey(item["pk"], item["sk"]))
                item_keys += linked_keys(item)
        requests = [*head.get("requests", ()), *([head["key"]] if "key" in head else [])]
        item_keys += [keys.ItemKey(request, "I") for request in requests]
        return [key for key in item_keys if key != keys.head(run_id)]

    def _write(
        self, item_keys: Sequence[keys.ItemKey], expires_at: int | None, when: tuple[Condition, ...] = ()
    ) -> None:
        """Write the time at which items expire, or remove it."""

        def write(key: keys.ItemKey) -> None:
            try:
                self._context.table.update(Update(key, {"expires": expires_at}, when=(PRESENT, *when)))
            except ConditionFailed:
                return  # the item was deleted since it was read, or has another time

        self._context.in_parallel(write, item_keys)
