"""The list of the open waits of a tenant: what an answer from outside would end now.

Problem: a list of what waits for persons must not read all runs, and opening a wait must cost no further
request.

Algorithm: a sparse index. Source: Amazon DynamoDB Developer Guide. A wait has a place in the index `due`. Its
partition `wakes` is one of its tenant, and its key `due` is its rank. The write that opens the wait has both.
The write that answers or closes it removes `wakes`. Pages are a k-way merge (Knuth 1973) of the partitions. A
run that ends leaves the places of its waits. A reader that finds one removes it, unless the run is resumed at
the same time. A resume writes the places again.

Cost: a page takes one query of each of the SHARDS partitions. Then it reads three items for each wait, until
the page is full. Two requests read those of MAX_READ waits, since the item of a visit may have its journal.
Opening and answering write a place of the index each, one write unit.

Limits: a reader skips the waits of ended runs MAX_ROUNDS times at most, and its page may end early then.
Waits that were opened by an earlier version have no place. A journal that is in the bucket is one more read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.open_waits import measure_journal
from noetl.executor.model.run import Claim, ListedWait, RunStatus, Visit, VisitStatus, WaitKey
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.stores.cursors import WaitPlace, write_wait_cursor
from noetl.executor.stores.damage import decode_readable
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, ConditionCheck, Update
from noetl.executor.stores.dynamo.run_items import (
    SUMMARY_ATTRIBUTES,
    has_ended,
    run_id_of,
    spread_of,
    stop_of,
    tenant_of,
)
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_suspended
from noetl.planner.frozen import frozen

MAX_ROUNDS = 5
"""Number of times that the index is read on to fill a page."""

MIN_CANDIDATES = 100
"""Number of places that are read at once at least, because some may be of runs that have ended."""

MIN_READ = 10
"""Number of waits that are read with their visits at once at least."""

MAX_READ = 50
"""Number of waits that are read with their visits at once at most: one request for their items."""

MAX_PAGES = 4
"""Number of pages of a partition that are read at once."""


def listing_attributes(claim: Claim, rank: float) -> Item:
    """Return the attributes of a wait that are its place in the list, and those of its visit."""
    visit = claim.visit
    number = {"number": visit.number} if visit.number != 1 else {}
    shard = keys.wait_shard(claim.run.tenant, visit.run_id)
    return {"wakes": shard, "due": rank, "step": visit.step, **number}


@frozen
class WaitSearch:
    """The waits that a page has: those of a tenant, up to a number of them and of bytes of their journals."""

    tenant: str
    limit: int
    journal_bytes: int


def find_open_waits(
    context: DynamoContext, search: WaitSearch, after: WaitPlace | None
) -> tuple[list[ListedWait], str | None]:
    """Return a page of the waits of a tenant that an answer ends now, and the cursor of the next page."""
    count, limit = max(search.limit, MIN_CANDIDATES), search.limit
    waits: list[ListedWait] = []
    free = search.journal_bytes
    for _ in range(MAX_ROUNDS):
        places = _list_places(context, search.tenant, count + 1, after)
        is_end = len(places) <= count
        for wait in _read_waits(context, search.tenant, places[:count], limit + 1 - len(waits)):
            free -= measure_journal(wait.visit)
            if waits and (free < 0 or len(waits) == limit):
                return waits, write_wait_cursor(waits[-1].rank, waits[-1].key)
            waits.append(wait)
        if len(waits) == limit and not is_end:
            return waits, write_wait_cursor(waits[-1].rank, waits[-1].key)
        if is_end:
            return waits, None
        after = places[count - 1]
    assert after is not None
    rank, *ids = after
    return waits, write_wait_cursor(rank, WaitKey(*ids))


def relist_waits(context: DynamoContext, head: Item, items: Sequence[VisitItem]) -> None:
    """Write the places of the open waits of visits that a resume continues."""
    run_id, spread = run_id_of(head), spread_of(head)
    place = {"wakes": keys.wait_shard(tenant_of(head), run_id)}
    is_open = (("tokens", "present", None), ("answered", "absent", None), ("closed", "absent", None))
    for item in items:
        for wait_id in item.attributes.get("awaits", ()):
            with suppress(ConditionFailed):  # a child run answers it, or it is not open
                context.table.update(
                    Update(keys.wait(run_id, item.visit.id, wait_id, spread), place, when=is_open)
                )


def _list_places(context: DynamoContext, tenant: str, count: int, after: WaitPlace | None) -> list[WaitPlace]:
    """Return the next places of the list, `count` unless it ends before."""
    shards = context.in_parallel(
        lambda shard: _list_shard(context, shard, count, after), keys.wait_shards(tenant)
    )
    return sorted(place for places in shards for place in places)[:count]


def _list_shard(context: DynamoContext, shard: str, count: int, after: WaitPlace | None) -> list[WaitPlace]:
    """Return the next places of a partition. Those with the rank of `after` are read, and compared by key."""
    values = {":shard": shard} | ({} if after is None else {":rank": after[0]})
    request: dict[str, Any] = {
        "KeyConditionExpression": "wakes = :shard" + ("" if after is None else " AND due >= :rank"),
        "ExpressionAttributeValues": encode_item(values),
        "Limit": count + 1,
    }
    places: list[WaitPlace] = []
    for _ in range(MAX_PAGES):
        page = context.table.query_index("due", **request)
        read = (_place_of(decode_item(item)) for item in page["Items"])
        places += [place for place in read if after is None or place > after]
        is_complete = len(places) > count and places[count][0] > places[count - 1][0]
        if "LastEvaluatedKey" not in page or is_complete:
            break
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]
    return sorted(places)[:count]


def _place_of(item: Item) -> WaitPlace:
    """Return the place of an entry of the index."""
    _, visit_id, wait_id = item["sk"].split("#", 2)
    return float(item["due"]), item["pk"].split("#")[1], visit_id, wait_id


def _read_waits(
    context: DynamoContext, tenant: str, places: Sequence[WaitPlace], wanted: int
) -> Iterator[ListedWait]:
    """Yield the waits at places that an answer ends now. The index may be out of date.

    They are read by chunks, with as many waits as are `wanted`, up to MAX_READ.
    """
    size = min(max(wanted, MIN_READ), MAX_READ)
    for begin in range(0, len(places), size):
        yield from _read_chunk(context, tenant, places[begin : begin + size])


def _read_chunk(context: DynamoContext, tenant: str, places: Sequence[WaitPlace]) -> Iterator[ListedWait]:
    """Yield the waits of a chunk. A journal in the bucket is read when its wait is next."""
    table = context.table
    head_keys = {place: keys.head(place[1]) for place in places}
    heads = table.get_many(list(set(head_keys.values())), SUMMARY_ATTRIBUTES)
    found = [(place, heads[key]) for place, key in head_keys.items() if key in heads]
    wait_keys = {place: keys.wait(*place[1:], spread_of(head)) for place, head in found}
    visit_keys = {place: keys.visit(*place[1:3], spread_of(head)) for place, head in found}
    items = table.get_many(list({*wait_keys.values(), *visit_keys.values()}))
    for place, head in found:
        rank, *ids = place
        wait = items.get(wait_keys[place], {})
        if tenant_of(head) != tenant or not _is_open(wait):
            continue
        entry = (head, wait, items.get(visit_keys[place], {}))
        find = partial(_find_suspended, context)
        for _, suspended in decode_readable([entry], find, lambda entry: run_id_of(entry[0])):
            if suspended is not None:
                yield ListedWait(WaitKey(*ids), rank, suspended, head["playbook"], head["plan"])
            elif has_ended(head):
                _unlist(context, head, wait_keys[place])


def _is_open(wait: Item) -> bool:
    return bool(wait) and not ("answered" in wait or "closed" in wait)


def _find_suspended(context: DynamoContext, entry: tuple[Item, Item, Item]) -> Visit | None:
    """Return the visit of an open wait, unless it has not been suspended or will not continue.

    `entry` has the items of its run, of the wait and of the visit.
    """
    head, wait, item = entry
    if has_ended(head) or not item or "finished" in item:
        return None
    status = VisitStatus(item["status"])
    is_paused = status is VisitStatus.PARKED and stop_of(head) is RunStatus.PAUSED
    if status not in ACTIVE and not is_paused:
        return None
    visit = decode_suspended(run_id_of(head), item, wait.get("number", 1), context.blobs)
    return None if visit.progress is None else visit


def _unlist(context: DynamoContext, head: Item, wait_key: keys.ItemKey) -> None:
    """Remove the place of a wait of a run that has ended, unless the run is resumed meanwhile."""
    head_key = keys.head(run_id_of(head))
    is_same_end = ConditionCheck(head_key, (("finished", "=", head["finished"]),))
    with suppress(ConditionFailed):
        context.table.write([is_same_end, Update(wait_key, {"wakes": None}, when=(PRESENT,))])
