"""Cached results of work in the table: an item for each key.

Problem: of concurrent requests one must become the holder, and a list of a tenant must read no other items.

Algorithm: optimistic concurrency (Kung and Robinson 1981). A request reads the item of its key, and names
itself as the holder if the item is still as it was read. A sparse index lists entries. An item with a result
has a place in the index `due`: the partition is one of its tenant, and the key is its creation.

Cost: one read for a hit. A miss costs a read and two writes, and that of the holder's visit if there is one.

Limits: DynamoDB deletes an expired item within a few days, and readers ignore it. The object of a long result
stays in the bucket until its lifecycle rule deletes it; a hit whose object is gone is a miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import NotJsonError, PayloadLostError, StoreError
from noetl.executor.model.cached_results import (
    HOLD_SECONDS,
    CachedResult,
    CacheEntry,
    CacheFilter,
    CacheHolder,
    CacheRequest,
    is_usable,
)
from noetl.executor.model.run import VisitStatus
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Update
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS

MAX_PLACES = 10_000
"""Number of entries of a partition of the index that a list reads at most."""

_SHOWN = ("pk", "sk", "digest", "playbook", "step", "label", "run", "at", "until", "size")
"""Attributes of an item without its result."""

_PAGE = 100


class DynamoCache:
    """The cached results of a DynamoDB store."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def claim(self, request: CacheRequest, now: float) -> CachedResult | CacheHolder | None:
        key = keys.cached_result(request.tenant, request.digest)
        item = self._context.table.get(key)
        for _ in range(MAX_CONFLICTS):
            result = None if item is None else self._find_result(item, request, now)
            if result is not None:
                return result
            holder = None if item is None or "holder" not in item else CacheHolder.from_list(item["holder"])
            if holder is not None and holder != request.holder and self._is_computing(holder, now):
                return holder
            try:
                self._context.table.update(self._hold(key, item, request, now))
            except ConditionFailed as refusal:
                item = refusal.items[0]
                continue
            return None
        raise StoreError("The store in DynamoDB is overloaded: a key of the cache is claimed too often.")

    def save(self, request: CacheRequest, value: Any, expires_at: float, now: float) -> bool:
        try:
            size = len(encode_json(value))
        except (TypeError, ValueError) as error:
            raise NotJsonError(f"a result cannot be written as JSON: {error}") from error
        key = keys.cached_result(request.tenant, request.digest)
        values = {
            **_shown_attributes(request, now),
            "until": expires_at,
            "expires": int(expires_at) + 1,
            "size": size,
            "value": self._context.blobs.store(f"cache-{key.pk[2:]}", value),
            "holder": None,
            "wakes": keys.cache_shard(request.tenant, request.digest),
            "due": now,
        }
        try:
            self._context.table.update(Update(key, values, when=(_held_by(request),)))
        except ConditionFailed:
            return False
        return True

    def release(self, request: CacheRequest) -> None:
        key = keys.cached_result(request.tenant, request.digest)
        try:
            self._context.table.update(Update(key, {"holder": None}, when=(_held_by(request),)))
        except ConditionFailed:
            return

    def find(self, cache_filter: CacheFilter, now: float, limit: int) -> list[CacheEntry]:
        items = (item for item in self._find_items(cache_filter) if now < item["until"])
        return [_entry_of(item) for item in islice(items, limit)]

    def clear(self, cache_filter: CacheFilter) -> int:
        found = list(self._find_items(cache_filter))
        for item in found:
            self._context.blobs.delete_run(f"cache-{item['pk'][2:]}")
        self._context.table.delete([keys.ItemKey(item["pk"], item["sk"]) for item in found])
        return len(found)

    def _hold(self, key: keys.ItemKey, item: Item | None, request: CacheRequest, now: float) -> Update:
        """Return the write that names the visit of a request as the holder. A current result stays."""
        values: dict[str, Any] = {"holder": request.holder.to_list()}
        if item is None or "value" not in item or item["until"] <= now:
            values |= _shown_attributes(request, now)
            values |= {"expires": int(now + HOLD_SECONDS), "value": None, "wakes": None, "until": None}
        if item is None:
            return Update(key, values, when=(ABSENT,))
        unchanged: tuple[Condition, ...] = tuple(
            (name, "=", item[name]) if name in item else (name, "absent", None)
            for name in ("holder", "until")
        )
        return Update(key, values, when=unchanged)

    def _find_result(self, item: Item, request: CacheRequest, now: float) -> CachedResult | None:
        if "value" not in item or not is_usable(item["at"], item["until"], request.since, now):
            return None
        try:
            return CachedResult(self._context.blobs.load(item["value"]), item["run"], item["at"])
        except PayloadLostError:
            return None

    def _is_computing(self, holder: CacheHolder, now: float) -> bool:
        """Return whether the visit of a holder is claimed as it was."""
        spread = self._context.heads.spread(holder.run_id)
        key = keys.visit(holder.run_id, holder.visit_id, spread)
        item = self._context.table.get(key, ("status", "fence", "due")) or {}
        is_claimed = item.get("status") == VisitStatus.RUNNING and item["fence"] == holder.fence
        return is_claimed and now < item["due"]

    def _find_items(self, cache_filter: CacheFilter) -> Iterator[Item]:
        """Yield the items of a filter that have a result, newest first."""
        shards = keys.cache_shards(cache_filter.tenant)
        places = [place for found in self._context.in_parallel(self._list_shard, shards) for place in found]
        places.sort(key=lambda place: (-place["due"], place["pk"]))
        for start in range(0, len(places), _PAGE):
            page = [keys.ItemKey(place["pk"], place["sk"]) for place in places[start : start + _PAGE]]
            items = self._context.table.get_many(page, _SHOWN)
            for key in page:
                item = items.get(key)
                if item is not None and "until" in item and cache_filter.accepts(_entry_of(item)):
                    yield item

    def _list_shard(self, shard: str) -> list[Item]:
        """Return the newest places of a partition of the index."""
        request: dict[str, Any] = {
            "KeyConditionExpression": "wakes = :shard",
            "ExpressionAttributeValues": encode_item({":shard": shard}),
            "ScanIndexForward": False,
        }
        places: list[Item] = []
        while len(places) < MAX_PLACES:
            page = self._context.table.query_index("due", **request)
            places += map(decode_item, page["Items"])
            if "LastEvaluatedKey" not in page:
                break
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
        return places


def _held_by(request: CacheRequest) -> Condition:
    return ("holder", "=", request.holder.to_list())


def _shown_attributes(request: CacheRequest, now: float) -> dict[str, Any]:
    return {
        "digest": request.digest,
        "playbook": request.playbook,
        "step": request.step,
        "label": request.label,
        "run": request.holder.run_id,
        "at": now,
    }


def _entry_of(item: Item) -> CacheEntry:
    return CacheEntry(
        item["digest"],
        item["playbook"],
        item["step"],
        item["label"],
        item["run"],
        item["at"],
        item["until"],
        item["size"],
    )
