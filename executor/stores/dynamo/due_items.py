"""Items that are due some time, in a partition of the index `due` that many processes read.

What the index returns is read again from the table, since the index is behind it.

Cost: a visit of the index is one query, and one read for each 100 items that are due. Further pages are
read only if items are passed, or if more keys are requested than a page has. A visit has at most MAX_PAGES
pages.

Limits: a partition of the index accepts 1,000 writes in a second. Items behind some 10,000 that are passed
are found when those have another time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.table import DynamoTable

PAGE_ITEMS = 1000
"""The items of each page after the first."""

MAX_PAGES = 11


def find_due_items(
    table: DynamoTable, partition: str, now: float, limit: int, is_passed: Callable[[keys.ItemKey], bool]
) -> list[Item]:
    """Return items of a partition that are due at `now`, those that are due longest first.

    Items whose keys are passed are left out.
    """
    places = find_due_places(table, partition, now, limit, is_passed)
    return sorted(read_due_items(table, partition, now, places), key=lambda item: float(item["due"]))


def find_due_places(
    table: DynamoTable, partition: str, now: float, limit: int, is_passed: Callable[[keys.ItemKey], bool]
) -> list[keys.ItemKey]:
    """Return the keys that the index has of these items, those that are due longest first."""
    request: dict[str, Any] = {
        "KeyConditionExpression": "wakes = :partition AND due <= :now",
        "ExpressionAttributeValues": encode_item({":partition": partition, ":now": now}),
        "Limit": limit,
    }
    places: list[keys.ItemKey] = []
    for _ in range(MAX_PAGES):
        page = table.query_index("due", **request)
        found = [keys.ItemKey(place["pk"], place["sk"]) for place in map(decode_item, page["Items"])]
        places += [place for place in found if not is_passed(place)]
        if "LastEvaluatedKey" not in page or len(places) >= limit:
            break
        request["Limit"] = PAGE_ITEMS
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
    return places[:limit]


def read_due_items(
    table: DynamoTable, partition: str, now: float, places: Sequence[keys.ItemKey]
) -> list[Item]:
    """Return the items with these keys that are still due, in their order."""
    items = table.get_many(places)
    read = [items[place] for place in places if place in items]
    return [item for item in read if item.get("wakes") == partition and item["due"] <= now]
