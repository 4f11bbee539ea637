"""The expiry of runs that ended, and of plans that were used, while no retention was set.

Problem: a run gets its time to live at its end. Without a retention it gets none, and its plan is needed for
ever. If a retention is set later, both would stay. No index finds them.

Algorithm: a walk through the index of all runs, which begins a week after the last one has ended. Ended runs
without a time to live get that which they would have. After the walk no ended run stays for ever, so no plan
has to. A plan that was needed for ever is then needed until the ended runs have expired for certain. A
process without a retention looks once a day whether its plans are still needed for ever (`plan_uses.py`).

Cost: once a week half a read unit for each 4 KB of the index. The head of each ended run is read, too, which
costs 0.13 dollars for a million heads of up to 4 KB. A run without a time takes one write for each of its
items, as at its end. A sweep between two walks makes no request.

Limits: a call examines MAX_PAGES pages of the index, and gives MAX_EXPIRED runs their times. The next call
continues, also in another process.

The item `S#expiry` stores `next`, when a walk begins, and `after`, where a walk continues. `plans` says that
a walk has seen all runs, and that plans are left.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Update
from noetl.executor.stores.dynamo.plan_uses import EXPIRY_DELAY_SECONDS, FOR_EVER
from noetl.executor.stores.dynamo.retention import Retention
from noetl.executor.stores.dynamo.run_items import has_ended
from noetl.executor.stores.retention import DAY_SECONDS

PAUSE_SECONDS = 7 * DAY_SECONDS
"""How long after a walk the next one begins. It finds runs that a process without a retention has ended."""

PAGE_SIZE = 100
MAX_PAGES = 50
MAX_EXPIRED = 200
"""Number of runs of a page, of pages that a call examines, and of runs that it gives their times."""

MAX_PLANS = 200
"""Number of plans that a call examines after a walk."""

_INDEX_KEYS = ("pk", "sk", "tenant", "created")
_HEAD_ATTRIBUTES = (
    "pk", "sk", "tenant", "owner", "status", "finished", "resumes", "spread", "expires", "requests", "key",
)  # fmt: skip


class LateExpiry:
    """The expiry of runs and plans of a table that have none, since there was no retention."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context
        self._retention = Retention(context)
        self._next_at = 0.0

    def set_some(self) -> bool:
        """Let some runs and plans expire. Return whether more may be left."""
        table, now = self._context.table, self._context.table.clock()
        seconds = self._context.plan_uses.retention_seconds
        if seconds is None or now < self._next_at:
            return False
        state = table.get(keys.LATE_EXPIRY) or {}
        self._next_at = state.get("next", 0.0)
        if now < self._next_at:
            return False
        if "plans" not in state:
            if not self._walk(state.get("after"), seconds, now):
                return True
            table.update(Update(keys.LATE_EXPIRY, {"after": None, "plans": True}))
        if self._end_uses(seconds, now):
            return True
        self._next_at = now + PAUSE_SECONDS
        table.update(Update(keys.LATE_EXPIRY, {"next": self._next_at, "plans": None}))
        return False

    def _walk(self, after: list[str] | None, seconds: float, now: float) -> bool:
        """Let the runs of the next pages expire, and return whether the walk is over."""
        expired = 0
        for _ in range(MAX_PAGES):
            page = self._scan(after)
            entries = [decode_item(item) for item in page["Items"]]
            run_keys = [keys.ItemKey(entry["pk"], entry["sk"]) for entry in entries]
            heads = self._context.table.get_many(run_keys, _HEAD_ATTRIBUTES)
            for head in heads.values():
                if has_ended(head) and "finished" in head and "expires" not in head:
                    # DynamoDB ignores times that are over since years.
                    self._retention.expire_at(head, int(max(head["finished"] + seconds, now)))
                    expired += 1
            if "LastEvaluatedKey" not in page:
                return True
            last = decode_item(page["LastEvaluatedKey"])
            after = [last[name] for name in _INDEX_KEYS]
            self._context.table.update(Update(keys.LATE_EXPIRY, {"after": after}))
            if expired >= MAX_EXPIRED:
                break
        return False

    def _scan(self, after: list[str] | None) -> dict[str, Any]:
        """Return the page of the index behind a key, with its entries of ended runs."""
        final = [status.value for status in RunStatus if status.is_final]
        values: dict[str, Any] = {f":s{number}": value for number, value in enumerate(final)}
        request: dict[str, Any] = {
            "FilterExpression": f"#s IN ({', '.join(values)})",
            "ExpressionAttributeNames": {"#s": "status"},
            "ExpressionAttributeValues": encode_item(values),
            "Limit": PAGE_SIZE,
        }
        if after is not None:
            request["ExclusiveStartKey"] = encode_item(dict(zip(_INDEX_KEYS, after, strict=True)))
        return self._context.table.scan_index("runs", **request)

    def _end_uses(self, seconds: float, now: float) -> bool:
        """Let some plans not be needed for ever any more, and return whether there were any.

        A run that a process without a retention has ended during the walk is found by the next one.
        """
        table = self._context.table
        until = int(now + seconds + EXPIRY_DELAY_SECONDS + PAUSE_SECONDS)
        request = {"KeyConditionExpression": "wakes = :shard AND due >= :ever"}

        def query(shard: str) -> list[Item]:
            values = encode_item({":shard": shard, ":ever": FOR_EVER})
            page = table.query_index(
                "due", **request, ExpressionAttributeValues=values, Limit=MAX_PLANS // keys.SHARDS
            )
            return [decode_item(item) for item in page["Items"]]

        def end(use: Item) -> None:
            key = keys.ItemKey(use["pk"], use["sk"])
            try:
                table.update(Update(key, {"due": until}, when=(PRESENT, ("due", "=", FOR_EVER))))
            except ConditionFailed:
                return  # the index was out of date

        pages = self._context.in_parallel(query, keys.plan_shards())
        uses = [use for page in pages for use in page]
        self._context.in_parallel(end, uses)
        return bool(uses)
