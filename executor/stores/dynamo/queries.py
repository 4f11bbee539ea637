"""Queries of a DynamoDB store: runs, their visits and their outputs; and the start of a run.

Problem: a list of runs must be sorted by time of creation. The index spreads the runs of a tenant over
several partitions (shards), so that they can be written fast. A filter may match few of many runs.

Algorithm: k-way merge (Knuth 1973). Each shard is read from the newest run on, up to MAX_PAGES pages, and
the results are merged. If a shard was not read to its end, only runs that are newer than its last one are
returned, and the cursor is there.

Cost: one query of each shard, and one batch read of the heads and counters of the runs on the page.

Limits: a page may have fewer runs than `limit`, or none, although the cursor says that there are more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import PayloadTooLargeError, RejectedError, StoreError
from noetl.executor.model.run import Run, RunStatus, Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.cursors import read_cursor, write_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, encode_item
from noetl.executor.stores.dynamo.claims import DynamoClaims
from noetl.executor.stores.dynamo.expressions import Put, Write
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    derive_deadline_visit,
    derive_first_visit,
    encode_head,
    run_id_of,
    spread_of,
    sum_counters,
    tenant_of,
)
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import (
    VisitOrigin,
    decode_visit,
    encode_origin,
    encode_outcome,
)
from noetl.planner.frozen import frozen

MAX_PAGES = 4
"""Number of pages of each index partition that are read for one page of runs."""

_OPEN = (RunStatus.QUEUED, RunStatus.RUNNING)


@frozen
class RunIndexQuery:
    """A query of the index for the runs of a filter.

    `before` is the sort key of the run where the page before has ended.
    """

    run_filter: RunFilter
    before: str | None

    def matches(self, run: Run, sort_key: str) -> bool:
        """Return whether a run is in the list; the index may be out of date."""
        return self.run_filter.matches(run) and (self.before is None or sort_key < self.before)

    def parameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the parameters of a query of the index, and its values without that of the partition."""
        wanted = self.run_filter
        earliest = keys.creation_sort_key(max(wanted.since or 0.0, 0.0), "")
        values: dict[str, Any] = {":from": earliest, ":to": self.before or "~"}
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
        if wanted.tag is not None:
            names["#g"], values[":g"] = "tags", wanted.tag
            conditions.append("contains(#g, :g)")
        query: dict[str, Any] = {
            "KeyConditionExpression": "tenant = :t AND created BETWEEN :from AND :to",
            "ScanIndexForward": False,
        }
        query |= {"FilterExpression": " AND ".join(conditions)} if conditions else {}
        query |= {"ExpressionAttributeNames": names} if names else {}
        return query, values

    def _index_statuses(self) -> list[RunStatus]:
        """Return the statuses in the index that a run of the list may have. `waiting` is never stored."""
        if self.run_filter.status is None:
            return []
        if self.run_filter.status is RunStatus.WAITING:
            return list(_OPEN)
        # A resumed run is queued again, and the index may still show it as running.
        return [
            self.run_filter.status,
            *([RunStatus.RUNNING] if self.run_filter.status is RunStatus.QUEUED else []),
        ]


class DynamoQueries(DynamoClaims):
    """The part of the DynamoDB store that starts runs and answers queries."""

    # Start of a run

    def create(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
    ) -> Run:
        spread = self.plans.spread(run.plan_hash)
        head = encode_head(run, first, len(history), spread, self.blobs)
        writes: list[Write] = [Put(keys.head(run.id), head)]
        if idempotency is not None:
            name, request_hash = idempotency
            request = {"run": run.id, "tenant": run.tenant, "request": request_hash}
            writes.append(Put(keys.idempotency(run.tenant, name), request))
            head["key"] = keys.idempotency(run.tenant, name).pk
        if run.parent is not None:
            child = keys.child(run.parent.run_id, run.parent.visit_id, run.id)
            writes.append(Put(child, {"wait": run.parent.id}, when=()))
        if history:
            self._copy_history(run, history, spread)
        try:
            self.table.write(writes)
        except PayloadTooLargeError as problem:
            raise RejectedError("too_large", f"the run cannot be stored: {problem}") from None
        except ConditionFailed as refusal:
            if idempotency is not None and len(writes) > 1 and refusal.failed[1]:
                return self._earlier_run(run.tenant, *idempotency)
            existing = self.read_head(run.id)
            self._announce_first(existing, run.created_at)
            return self.load_run(existing)
        head |= keys.head(run.id)._asdict()
        self.cache_head(head)
        self._announce_first(head, run.created_at)
        self.changes.notify()
        return run

    def _announce_first(self, head: Item, now: float) -> None:
        """Announce the first visit and the deadline of a run, unless a worker has started the run."""
        if head["status"] != RunStatus.QUEUED:
            return
        first, deadline = derive_first_visit(head, self.step_of(head["plan"])), derive_deadline_visit(head)
        self.announce(head, [first, *([] if deadline is None else [deadline])], now)

    def _earlier_run(self, tenant: str, key: str, request_hash: str) -> Run:
        """Return the run that an idempotency key has started before."""
        item = self.table.get(keys.idempotency(tenant, key))
        if item is None or item["request"] != request_hash:
            message = "the idempotency key was used with another request before"
            raise RejectedError("idempotency_key_reused", message)
        head = self.read_head(item["run"])
        # The process that started the run may have died before it announced the first visit.
        self._announce_first(head, head["at"])
        return self.load_run(head)

    def _copy_history(self, run: Run, history: Sequence[Visit], spread: int) -> None:
        """Copy finished visits of another run, before the head of the new run exists."""
        for position, visit in enumerate(history):
            origin = VisitOrigin(entered_at=run.created_at, index=position)
            outcome = encode_outcome(visit, (), self.blobs)
            item = {
                **encode_origin(replace(visit, run_id=run.id), origin),
                **{name: value for name, value in outcome.items() if value is not None},
                "history": True,
            }
            self.table.write([Put(keys.visit(run.id, visit.id, spread), item, when=())])

    # Runs

    def get(self, tenant: str, run_id: str) -> Run | None:
        item_keys = [keys.head(run_id), keys.counter(run_id, 0)]
        items = self.table.get_many(item_keys)
        head = items.get(item_keys[0])
        if head is None or tenant_of(head) != tenant:
            return None
        self.cache_head(head)
        return self._current_run(head, items.get(item_keys[1]))

    def _current_run(self, head: Item, first_counter: Item | None) -> Run:
        """Return a run with its counts, and with the status `waiting` if all of its active visits wait."""
        run_id = run_id_of(head)
        other_keys = [keys.counter(run_id, number) for number in range(1, spread_of(head))]
        counters = [*([] if first_counter is None else [first_counter])]
        counters += self.table.get_many(other_keys).values()
        run = decode_run(head, self.blobs, sum_counters(head, counters, self.step_of(head["plan"])))
        if run.status.is_final or "waits" not in head:
            return run
        snapshot = read_snapshot(self, run_id)
        if snapshot is None:
            return run
        # The run may have ended since its head was read.
        return replace(decode_run(snapshot.head, self.blobs, snapshot.counts), status=snapshot.status())

    def load_run(self, head: Item) -> Run:
        run_id = run_id_of(head)
        items = self.table.get_many([keys.counter(run_id, number) for number in range(spread_of(head))])
        counts = sum_counters(head, list(items.values()), self.step_of(head["plan"]))
        return decode_run(head, self.blobs, counts)

    def find(self, run_filter: RunFilter) -> tuple[list[Run], str | None]:
        cursor, limit = run_filter.cursor, run_filter.limit
        before = None if cursor is None else keys.creation_sort_key(*read_cursor(cursor))
        query = RunIndexQuery(run_filter, before)
        if run_filter.parent is not None:
            runs = self._load_matching(query, self._child_ids(run_filter.parent))
            last = runs[limit - 1] if len(runs) > limit else None
            return runs[:limit], None if last is None else write_cursor(last.created_at, last.id)
        sort_keys, end = self._list_sort_keys(query, limit + 1)
        page = [sort_key.partition("#")[2] for sort_key in sort_keys[:limit]]
        next_key = sort_keys[limit - 1] if len(sort_keys) > limit else end
        runs = self._load_matching(query, page)
        if next_key is None:
            return runs, None
        created_at, _, run_id = next_key.partition("#")
        return runs, write_cursor(float(created_at), run_id)

    def _load_matching(self, query: RunIndexQuery, run_ids: Sequence[str]) -> list[Run]:
        """Return the runs that match the query, newest first."""
        item_keys = [key for run_id in run_ids for key in (keys.head(run_id), keys.counter(run_id, 0))]
        items = self.table.get_many(item_keys)
        heads = [item for key, item in items.items() if key.sk == "H"]
        runs: list[Run] = []
        for head in sorted(heads, key=lambda head: str(head["created"]), reverse=True):
            if tenant_of(head) != query.run_filter.tenant:
                continue
            run = self._current_run(head, items.get(keys.counter(run_id_of(head), 0)))
            if query.matches(run, str(head["created"])):
                runs.append(run)
        return runs

    def _child_ids(self, parent: str) -> list[str]:
        items = self.table.query(keys.partition_key(parent), "K#")
        return [item["sk"].split("#", 2)[2] for item in items]

    def _list_sort_keys(self, query: RunIndexQuery, count: int) -> tuple[list[str], str | None]:
        """Return the index sort keys of the newest runs, and where the index was read to if there may be
        more.
        """
        parameters, values = query.parameters()
        if "FilterExpression" not in parameters:
            parameters["Limit"] = count + 1

        def list_shard(shard: str) -> tuple[list[str], str | None]:
            encoded = encode_item(values | {":t": shard})
            return self._list_shard(parameters | {"ExpressionAttributeValues": encoded}, count, query.before)

        return merge_shards(self.in_parallel(list_shard, keys.shards(query.run_filter.tenant)), count)

    def _list_shard(
        self, query: dict[str, Any], count: int, before: str | None
    ) -> tuple[list[str], str | None]:
        """Return sort keys of the newest runs of a shard, and where it was read to if there may be more."""
        sort_keys: list[str] = []
        for _ in range(MAX_PAGES):
            page = self.table.query_index("runs", **query)
            sort_keys += [item["created"]["S"] for item in page["Items"] if item["created"]["S"] != before]
            if len(sort_keys) >= count or "LastEvaluatedKey" not in page:
                return sort_keys[:count], None
            query = query | {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        return sort_keys, str(page["LastEvaluatedKey"]["created"]["S"])

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        heads = self.table.get_many([keys.head(run_id) for run_id in run_ids])
        return {run_id_of(head) for head in heads.values() if head.get("stop") == RunStatus.CANCELLED}

    # Visits

    def visits(self, run_id: str) -> list[Visit]:
        snapshot = read_snapshot(self, run_id)
        return [] if snapshot is None else [_without_outputs(item.visit) for item in snapshot.current_items]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is not None:
            stored = self._stored_visits(run_id, visit_ids)
            if stored is not None:
                return sorted(stored, key=lambda visit: (visit.clock, visit.id))
        snapshot = read_snapshot(self, run_id, with_outputs=True)
        visits = [] if snapshot is None else [item.visit for item in snapshot.current_items]
        if visit_ids is None:
            chosen = [visit for visit in visits if not visit.step.startswith("@")]
        else:
            wanted_ids = frozenset(visit_ids)
            chosen = [visit for visit in visits if visit.id in wanted_ids]
        return sorted(chosen, key=lambda visit: (visit.clock, visit.id))

    def _stored_visits(self, run_id: str, visit_ids: Sequence[str]) -> list[Visit] | None:
        """Return the visits with these ids, or None if an item of them does not hold its origin."""
        spread = self.spread(run_id)
        visit_keys = [keys.visit(run_id, id, spread) for id in visit_ids]
        items = self.table.get_many(visit_keys)
        decoded = [
            decode_visit(run_id, items[key], self.blobs) if key in items else None for key in visit_keys
        ]
        visits = [item.visit for item in decoded if item is not None]
        return visits if len(visits) == len(decoded) else None

    def batch_results(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        pk = self.visit_key(run_id, visit_id).pk
        prefix = f"P#{visit_id}#{loop}#"
        items = self.table.query(pk, prefix)
        # Positions of inner loops begin with that of the outer loop.
        return [self.blobs.load(item["body"]) for item in items if "#" not in item["sk"][len(prefix) :]]

    def origin_of_claim(self, head: Item, item: Item) -> VisitOrigin:
        run_id, spread = run_id_of(head), spread_of(head)
        cause = self.table.get(keys.visit(run_id, item["cause"], spread)) if "cause" in item else None
        visit = self._claimed_visit(item["sk"][2:], item, head, cause)
        if visit is None:
            raise StoreError(
                f"The store in DynamoDB is damaged: visit {item['sk'][2:]} of run {run_id} has no cause."
            )
        return visit.origin


def _without_outputs(visit: Visit) -> Visit:
    return replace(visit, saved={}, result=None)


def merge_shards(
    shards: Sequence[tuple[Sequence[str], str | None]], count: int
) -> tuple[list[str], str | None]:
    """Return the newest sort keys of all shards, and up to where all shards were read if there may be more.

    Each shard has its sort keys, newest first, and where it was read to, or None if it was read to its end.
    An older key than that is left out, since the shard may have a newer one.

    >>> merge_shards([(["9", "4"], None), (["7"], "7")], 10)
    (['9', '7'], '7')
    """
    end = max((end for _, end in shards if end is not None), default=None)
    candidates = (key for sort_keys, _ in shards for key in sort_keys if end is None or key >= end)
    merged = sorted(candidates, reverse=True)[:count]
    return merged, None if len(merged) == count else end
