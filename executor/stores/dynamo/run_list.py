"""Lists of runs in the order of their creation, and their counts.

Problem: a list of runs must be sorted by time of creation. The index spreads the runs of a tenant over
several partitions (shards), so that they can be written fast. A filter may match few of many runs.

Algorithm: k-way merge (Knuth 1973). Each shard is read in the order of the list, up to MAX_PAGES pages, and
the results are merged. If a shard was not read to its end, only runs that come before its last one are
returned. Heads are read without payloads, and the counters of runs that have not ended say whether all of
their visits wait. If a filter or a status excludes runs, the index is read on until the page is full.

Cost: one query of each shard, one batch read of a hundred heads, and one of a hundred counters. A run has one
counter for each of its partitions. A count is as many pages of a list.

Limits: the index is read on up to MAX_ROUNDS times. A filter that excludes the newest million runs may end a
page early; its cursor continues there. A count ends after MAX_COUNTED runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from noetl.executor.model.run import SERVICE_QUEUE, Run, RunStatus
from noetl.executor.model.run_filter import RunCounts, RunFilter, may_have_text
from noetl.executor.model.run_summary import RunOverview, RunSummary
from noetl.executor.model.run_tags import has_tag
from noetl.executor.stores.cursors import read_cursor, write_cursor
from noetl.executor.stores.damage import decode_readable, reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.open_runs import list_open_runs
from noetl.executor.stores.dynamo.run_items import (
    SUMMARY_ATTRIBUTES,
    decode_run,
    decode_summary,
    has_ended,
    run_id_of,
    spread_of,
    status_of,
    sum_counters,
    tenant_of,
)
from noetl.executor.stores.dynamo.run_overview import read_overview
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.planner.frozen import frozen, replace

MAX_PAGES = 4
"""Number of pages of each index partition that are read at once."""

MAX_ROUNDS = 10
"""Number of times that the index is read on to fill a page."""

MIN_CANDIDATES = 100
"""Number of runs that are read at once to find those with an open status, which no index has."""

MAX_COUNTED = 2_000
"""Number of runs that a count reads at most."""

_STORED_OPEN = (RunStatus.QUEUED, RunStatus.RUNNING)
_NEVER_STORED = (RunStatus.WAITING, RunStatus.PAUSED)


@frozen
class RunIndexQuery:
    """A query of the index for the runs of a filter.

    `last` is the sort key of the run where the page before has ended.
    """

    run_filter: RunFilter
    last: str | None

    def matches(self, run: RunSummary, sort_key: str) -> bool:
        """Return whether a run is in the list; the index may be out of date."""
        if not self.run_filter.matches(run) or sort_key == self.last:
            return False
        return self.last is None or (sort_key > self.last) is self.run_filter.is_oldest_first

    def may_match(self, entry: Item) -> bool:
        """Return whether the run of an entry of the index may be in the list, as far as the entry says."""
        wanted, status = self.run_filter, RunStatus(entry["status"])
        run_id = entry["created"].partition("#")[2]
        if not run_id.startswith(wanted.id_prefix or ""):
            return False
        if wanted.text is not None and not may_have_text(run_id, entry["playbook"], status, wanted.text):
            return False
        return all(has_tag(entry.get("tags", ()), tag) for tag in wanted.tags)

    @property
    def is_filtered_later(self) -> bool:
        """Return whether entries are compared after they were read, so that more of them are read."""
        return bool(self.run_filter.text or self.run_filter.tags or self.run_filter.id_prefix)

    def parameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters of a query of the index, and its values without that of the partition."""
        wanted = self.run_filter
        first = keys.creation_sort_key(max(wanted.since or 0.0, 0.0), "")
        end = "~" if wanted.until is None else keys.creation_sort_key(max(wanted.until, 0.0), "")
        if self.last is not None and wanted.is_oldest_first:
            first = max(first, self.last)
        elif self.last is not None:
            end = min(end, self.last)
        values: dict[str, Any] = {":from": first, ":to": max(first, end)}
        names: dict[str, str] = {}
        conditions: list[str] = []
        statuses = self._index_statuses()
        if statuses:
            names["#s"] = "status"
            values |= {f":s{index}": status.value for index, status in enumerate(statuses)}
            conditions.append(f"#s IN ({', '.join(f':s{index}' for index in range(len(statuses)))})")
        if wanted.playbook is not None:
            values[":p"] = wanted.playbook
            conditions.append("playbook = :p")
        if wanted.queue is not None:
            names["#q"], values[":q"] = "queue", wanted.queue
            conditions.append("#q = :q")
        for index, tag in enumerate(tag for tag in wanted.tags if "=" in tag):
            # The key of a tag is in no attribute: `may_match` compares it.
            names["#g"], values[f":g{index}"] = "tags", tag
            conditions.append(f"contains(#g, :g{index})")
        query: dict[str, Any] = {
            "KeyConditionExpression": "tenant = :t AND created BETWEEN :from AND :to",
            "ScanIndexForward": wanted.is_oldest_first,
        }
        query |= {"FilterExpression": " AND ".join(conditions)} if conditions else {}
        query |= {"ExpressionAttributeNames": names} if names else {}
        return query, values

    def _index_statuses(self) -> list[RunStatus]:
        """Return the statuses in the index that a run of the list may have."""
        wanted = set(self.run_filter.statuses)
        if not wanted.isdisjoint(_NEVER_STORED):
            wanted |= {*_STORED_OPEN}
        if RunStatus.QUEUED in wanted:
            # A resumed run is queued again, and the index may still show it as running.
            wanted.add(RunStatus.RUNNING)
        return [status for status in RunStatus if status in wanted and status not in _NEVER_STORED]


class RunList:
    """The runs of a table, alone and in pages, each with its counts."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def get(self, tenant: str, run_id: str) -> Run | None:
        """Return a run of a tenant, or None if the tenant has no such run."""
        item_keys = [keys.head(run_id), keys.counter(run_id, 0)]
        items = self._context.table.get_many(item_keys)
        head = items.get(item_keys[0])
        if head is None or tenant_of(head) != tenant:
            return None
        self._context.heads.remember(head)
        with reading_run(run_id):
            return self._current_run(head, items.get(item_keys[1]))

    def summary(self, tenant: str, run_id: str) -> RunSummary | None:
        """Return the summary of a run of a tenant, or None if the tenant has no such run."""
        head = self._context.table.get(keys.head(run_id), SUMMARY_ATTRIBUTES)
        if head is None or tenant_of(head) != tenant:
            return None
        with reading_run(run_id):
            return self._decode(head, self._read_counters([head]))

    def overview(self, tenant: str, run_id: str) -> RunOverview | None:
        """Return what the status of a run shows, or None if the tenant has no such run."""
        head = self._context.table.get(keys.head(run_id), SUMMARY_ATTRIBUTES)
        if head is None or tenant_of(head) != tenant:
            return None
        return read_overview(self._context, head)

    def find(self, run_filter: RunFilter) -> tuple[list[RunSummary], str | None]:
        """Return a page of runs, and the cursor of the next page or None."""
        cursor, limit = run_filter.cursor, run_filter.limit
        last = None if cursor is None else keys.creation_sort_key(*read_cursor(cursor))
        if run_filter.parent is not None:
            query = RunIndexQuery(run_filter, last)
            return _cut(self._load_matching(query, self._child_ids(run_filter.parent)), limit, None)
        is_open = any(not status.is_final for status in run_filter.statuses)
        count = max(limit, MIN_CANDIDATES) if is_open or run_filter.text else limit
        runs: list[RunSummary] = []
        for _ in range(MAX_ROUNDS):
            query = RunIndexQuery(run_filter, last)
            sort_keys, end = self._list_sort_keys(query, count + 1)
            last = sort_keys[count - 1] if len(sort_keys) > count else end
            runs += self._load_matching(query, [key.partition("#")[2] for key in sort_keys[:count]])
            if last is None or len(runs) >= limit:
                break
        return _cut(runs, limit, last)

    def count(self, run_filter: RunFilter, step_seconds: float | None, limit: int) -> RunCounts:
        """Return the numbers of the runs of a filter, up to MAX_COUNTED or `limit`."""
        limit = min(limit, MAX_COUNTED)
        page = replace(run_filter, text=None, is_oldest_first=False, limit=min(limit, 1000), cursor=None)
        numbers: Counter[tuple[int, RunStatus]] = Counter()
        while True:
            runs, cursor = self.find(page)
            numbers.update(
                (int(run.created_at // step_seconds) if step_seconds else 0, run.status) for run in runs
            )
            if cursor is None or numbers.total() >= limit:
                return RunCounts(numbers, is_complete=cursor is None)
            page = replace(page, cursor=cursor)

    def live_runs(self, tenant: str, playbook: str, plan_hashes: Sequence[str], limit: int) -> list[str]:
        """Return the ids of runs of a service that have not ended and have one of the plans, oldest first."""
        run_ids = {
            *list_open_runs(self._context, SERVICE_QUEUE),
            *self._context.heads.open_runs(SERVICE_QUEUE),
        }
        items = self._context.table.get_many([keys.head(id) for id in sorted(run_ids)], SUMMARY_ATTRIBUTES)
        live = [
            head
            for head in items.values()
            if not has_ended(head)
            and (tenant_of(head), head["playbook"]) == (tenant, playbook)
            and head["plan"] in plan_hashes
        ]
        return [run_id_of(head) for head in sorted(live, key=lambda head: str(head["created"]))][:limit]

    def _load_matching(self, query: RunIndexQuery, run_ids: Sequence[str]) -> list[RunSummary]:
        """Return the runs that match the query, in its order."""
        items = self._context.table.get_many([keys.head(id) for id in run_ids], SUMMARY_ATTRIBUTES)
        heads = [head for head in items.values() if tenant_of(head) == query.run_filter.tenant]
        heads.sort(key=lambda head: str(head["created"]), reverse=not query.run_filter.is_oldest_first)
        counters = self._read_counters(heads)
        pairs = decode_readable(heads, lambda head: self._decode(head, counters), run_id_of)
        return [run for head, run in pairs if query.matches(run, str(head["created"]))]

    def _decode(self, head: Item, counters: Mapping[str, Sequence[Item]]) -> RunSummary:
        return decode_summary(head, self._find_status(head, counters.get(run_id_of(head), ())))

    def _read_counters(self, heads: Sequence[Item]) -> dict[str, list[Item]]:
        """Return the counters of all runs that have not ended, by run. They are read at once."""
        counter_keys = {
            run_id_of(head): [keys.counter(run_id_of(head), number) for number in range(spread_of(head))]
            for head in heads
            if not has_ended(head)
        }
        items = self._context.table.get_many([key for group in counter_keys.values() for key in group])
        return {
            run_id: [items[key] for key in group if key in items] for run_id, group in counter_keys.items()
        }

    def _find_status(self, head: Item, counters: Sequence[Item]) -> RunStatus:
        """Return the status of a run. Its visits are read only if an earlier version has suspended one."""
        if "waits" not in head or has_ended(head):
            return status_of(head, counters)
        snapshot = read_snapshot(self._context, run_id_of(head), attributes=SUMMARY_ATTRIBUTES)
        return status_of(head, counters) if snapshot is None else snapshot.status()

    def _current_run(self, head: Item, first_counter: Item | None) -> Run:
        """Return a run with its counts, and with the status that readers see."""
        run_id = run_id_of(head)
        other_keys = [keys.counter(run_id, number) for number in range(1, spread_of(head))]
        counters = [*([] if first_counter is None else [first_counter])]
        counters += self._context.table.get_many(other_keys).values()
        run = decode_run(head, self._context.blobs, sum_counters(head, counters, self._context.step_of(head)))
        return replace(run, status=self._find_status(head, counters))

    def _child_ids(self, parent: str) -> list[str]:
        items = self._context.table.query(keys.partition_key(parent), "K#")
        return [item["sk"].split("#", 2)[2] for item in items]

    def _list_sort_keys(self, query: RunIndexQuery, count: int) -> tuple[list[str], str | None]:
        """Return the first index sort keys of the list, and where the index was read to if there may be
        more.
        """
        parameters, values = query.parameters()
        if "FilterExpression" not in parameters and not query.is_filtered_later:
            parameters["Limit"] = count + 1

        def list_shard(shard: str) -> tuple[list[str], str | None]:
            encoded = encode_item(values | {":t": shard})
            return self._list_shard(parameters | {"ExpressionAttributeValues": encoded}, count, query)

        shards = self._context.in_parallel(list_shard, keys.shards(query.run_filter.tenant))
        return merge_shards(shards, count, is_ascending=query.run_filter.is_oldest_first)

    def _list_shard(
        self, parameters: dict[str, Any], count: int, query: RunIndexQuery
    ) -> tuple[list[str], str | None]:
        """Return the first sort keys of a shard, and where it was read to if there may be more."""
        sort_keys: list[str] = []
        for _ in range(MAX_PAGES):
            page = self._context.table.query_index("runs", **parameters)
            entries = map(decode_item, page["Items"])
            sort_keys += [
                entry["created"]
                for entry in entries
                if entry["created"] != query.last and query.may_match(entry)
            ]
            if len(sort_keys) >= count or "LastEvaluatedKey" not in page:
                return sort_keys[:count], None
            parameters = parameters | {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        return sort_keys, str(page["LastEvaluatedKey"]["created"]["S"])


def _cut(runs: list[RunSummary], limit: int, next_key: str | None) -> tuple[list[RunSummary], str | None]:
    """Return at most `limit` runs, and the cursor after them. `next_key` is where the index was read to."""
    if len(runs) > limit:
        return runs[:limit], write_cursor(runs[limit - 1].created_at, runs[limit - 1].id)
    if next_key is None:
        return runs, None
    created_at, _, run_id = next_key.partition("#")
    return runs, write_cursor(float(created_at), run_id)


def merge_shards(
    shards: Sequence[tuple[Sequence[str], str | None]], count: int, *, is_ascending: bool = False
) -> tuple[list[str], str | None]:
    """Return the first sort keys of all shards, and up to where all shards were read if there may be more.

    Each shard has its sort keys, the newest first or the oldest. It also has where it was read to, or None at
    its end. A key after that is left out, since the shard may have one before it.

    >>> merge_shards([(["9", "4"], None), (["7"], "7")], 10)
    (['9', '7'], '7')
    >>> merge_shards([(["4", "9"], None), (["7"], "7")], 10, is_ascending=True)
    (['4', '7'], '7')
    """
    ends = [end for _, end in shards if end is not None]
    end = (min if is_ascending else max)(ends) if ends else None
    merged = sorted((key for sort_keys, _ in shards for key in sort_keys), reverse=not is_ascending)
    if end is not None:
        merged = [key for key in merged if (key <= end if is_ascending else key >= end)]
    return merged[:count], None if len(merged) >= count else end
