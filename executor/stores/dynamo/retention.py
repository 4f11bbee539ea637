"""Runs that have ended expire: DynamoDB deletes items whose time is over."""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.run_items import spread_of
from noetl.executor.stores.retention import DAY_SECONDS


class DynamoRetention(DynamoContext):
    """The part of the store that lets runs expire."""

    def let_expire(self, head: Item, now: float) -> None:
        """Say when the items of a run that has ended may be deleted: the head, without which there is no run, a day before the
        rest. One write for each of them.
        """
        if self.retention_seconds is not None:
            self._say(head, int(now + self.retention_seconds))

    def keep(self, head: Item) -> None:
        """Let a run not expire after all."""
        if "expires" in head:
            self._say(head, None)

    def _say(self, head: Item, at: int | None) -> None:
        run_id = head["pk"][2:]
        found: list[keys.ItemKey] = []
        for number in range(spread_of(head)):
            for item in self.table.query(keys.partition_key(run_id, number), ""):
                found.append(keys.ItemKey(item["pk"], item["sk"]))
                found += [keys.token(token) for token in item.get("tokens", ())]
        if "key" in head:
            found.append(keys.ItemKey(head["key"], "I"))

        def say(key: keys.ItemKey) -> None:
            later = None if at is None else at if key == keys.head(run_id) else at + DAY_SECONDS
            try:
                self.table.update(Update(key, {"expires": later}, when=(PRESENT,)))
            except ConditionFailed:
                return  # it is gone

        self.in_parallel(say, found)
