"""What is asked of runs: how they stand, which there are, what their visits saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import PayloadTooLargeError, RejectedError, StoreError
from noetl.executor.model.run import Run, RunStatus, Visit
from noetl.executor.stores.cursors import read_cursor, write_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item, encode_item
from noetl.executor.stores.dynamo.claims import DynamoClaims
from noetl.executor.stores.dynamo.expressions import Put, Write
from noetl.executor.stores.dynamo.run_items import (
    counts_of,
    deadline_of,
    first_of,
    head_item,
    run_of,
    spread_of,
    tenant_of,
)
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitOrigin, outcome, self_contained
from noetl.executor.stores.sqs.due_message import DueMessage

MOST_PAGES = 4
"""How many pages of each part of the index of runs are looked through for one page of answers."""

_OPEN = (RunStatus.QUEUED, RunStatus.RUNNING)


class DynamoQueries(DynamoClaims):
    """The part of the store that starts runs and tells of them."""

    def create_run(
        self,
        run: Run,
        first: Visit,
        idempotency: tuple[str, str] | None = None,
        history: Sequence[Visit] = (),
    ) -> Run:
        spread = self.plans.spread(run.plan_hash)
        head = head_item(run, first, len(history), spread, self.blobs)
        writes: list[Write] = [Put(keys.head(run.id), head)]
        if idempotency is not None:
            name, request_hash = idempotency
            told = {"run": run.id, "tenant": run.tenant, "request": request_hash}
            writes.append(Put(keys.idempotency(run.tenant, name), told))
            head["key"] = keys.idempotency(run.tenant, name).pk
        if run.parent is not None:
            child = keys.child(run.parent.run_id, run.parent.visit_id, run.id)
            writes.append(Put(child, {"wait": run.parent.id}, when=()))
        if history:
            self._keep_history(run, history, spread)
        try:
            self.table.write(writes)
        except PayloadTooLargeError as problem:
            raise RejectedError("too_large", f"the run cannot be kept: {problem}") from None
        except ConditionFailed as refused:
            if idempotency is not None and len(writes) > 1 and refused.failed[1]:
                return self._earlier(run.tenant, *idempotency)
            found = self.head(run.id)
            self._begin(found, run.created_at)
            return self.told_run(found)
        key = keys.head(run.id)
        head |= {"pk": key.pk, "sk": key.sk}
        self.note_head(head)
        self._begin(head, run.created_at)
        self.changes.notify()
        return run

    def _begin(self, head: Item, now: float) -> None:
        """Let workers know of the first visit of a run, unless somebody has begun it, and of the end of its time."""
        if head["status"] != RunStatus.QUEUED:
            return
        first, deadline = first_of(head, self.step_of(head["plan"])), deadline_of(head)
        self.dispatch(head, [first, *([] if deadline is None else [deadline])], now)

    def _earlier(self, tenant: str, key: str, request_hash: str) -> Run:
        found = self.table.get(keys.idempotency(tenant, key))
        if found is None or found["request"] != request_hash:
            message = "the idempotency key was used with another request before"
            raise RejectedError("idempotency_key_reused", message)
        head = self.head(found["run"])
        # Whoever started it may have died before anybody knew of it.
        self._begin(head, head["at"])
        return self.told_run(head)

    def _keep_history(self, run: Run, history: Sequence[Visit], spread: int) -> None:
        """Keep visits that another run has finished, before there is a run that knows of them."""
        for position, visit in enumerate(history):
            way = VisitOrigin(entered=run.created_at, index=position)
            done = {
                name: value for name, value in outcome(visit, (), self.blobs).items() if value is not None
            }
            item = {**self_contained(replace(visit, run_id=run.id), way), **done, "history": True}
            self.table.write([Put(keys.visit(run.id, visit.id, spread), item, when=())])

    def run(self, tenant: str, run_id: str) -> Run | None:
        first = [keys.head(run_id), keys.counter(run_id, 0)]
        found = self.table.get_many(first)
        head = found.get(first[0])
        if head is None or tenant_of(head) != tenant:
            return None
        self.note_head(head)
        return self._stands(head, found.get(first[1]))

    def _stands(self, head: Item, counter: Item | None) -> Run:
        """A run with its counts, and whether it is waiting."""
        run_id = head["pk"][2:]
        others = [keys.counter(run_id, number) for number in range(1, spread_of(head))]
        counters = [*([] if counter is None else [counter]), *self.table.get_many(others).values()]
        run = run_of(head, self.blobs, counts_of(head, counters, self.step_of(head["plan"])))
        if run.status.is_final or "waits" not in head:
            return run
        snapshot = read_snapshot(self, run_id)
        if snapshot is None:
            return run
        # It may have ended since its head was read.
        return replace(run_of(snapshot.head, self.blobs, snapshot.counts), status=snapshot.status())

    def told_run(self, head: Item) -> Run:
        run_id = head["pk"][2:]
        found = self.table.get_many([keys.counter(run_id, number) for number in range(spread_of(head))])
        return run_of(head, self.blobs, counts_of(head, list(found.values()), self.step_of(head["plan"])))

    def runs(
        self,
        tenant: str,
        *,
        status: RunStatus | None = None,
        playbook: str | None = None,
        tag: str | None = None,
        since: float | None = None,
        queue: str | None = None,
        parent: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> tuple[list[Run], str | None]:
        behind = None if cursor is None else keys.creation_sort_key(*read_cursor(cursor))
        more: str | None = None
        if parent is not None:
            page = self._children(parent, behind)
        else:
            places, end = self._listed(tenant, status, playbook, tag, since, queue, limit + 1, behind)
            page = [place.partition("#")[2] for place in places[:limit]]
            more = places[limit - 1] if len(places) > limit else end
        found: list[Run] = []
        wanted_items = [key for run_id in page for key in (keys.head(run_id), keys.counter(run_id, 0))]
        items = self.table.get_many(wanted_items)
        heads = {key: item for key, item in items.items() if key.sk == "H"}
        for head in sorted(heads.values(), key=lambda head: str(head["created"]), reverse=True):
            if tenant_of(head) != tenant:
                continue
            run = self._stands(head, items.get(keys.counter(head["pk"][2:], 0)))
            wanted = (
                (status is None or run.status is status)
                and (playbook is None or run.playbook == playbook)
                and (tag is None or tag in run.tags)
                and (since is None or run.created_at >= since)
                and (queue is None or run.queue == queue)
                and (behind is None or str(head["created"]) < behind)
            )
            if wanted:
                found.append(run)
        if parent is not None:
            last = found[limit - 1] if len(found) > limit else None
            return found[:limit], None if last is None else write_cursor(last.created_at, last.id)
        if more is None:
            return found, None
        at, _, run_id = more.partition("#")
        return found, write_cursor(float(at), run_id)

    def _children(self, parent: str, behind: str | None) -> list[str]:
        items = self.table.query(keys.partition_key(parent), "K#")
        return [item["sk"].split("#", 2)[2] for item in items]

    def _listed(
        self,
        tenant: str,
        status: RunStatus | None,
        playbook: str | None,
        tag: str | None,
        since: float | None,
        queue: str | None,
        wanted: int,
        behind: str | None,
    ) -> tuple[list[str], str | None]:
        """The places of runs in the index, the newest first, and where it has been looked through for long enough."""
        values: dict[str, Any] = {
            ":from": keys.creation_sort_key(max(since or 0.0, 0.0), ""),
            ":to": behind or "~",
        }
        filters: list[str] = []
        names = {"#s": "status", "#q": "queue", "#g": "tags"}
        used: dict[str, str] = {}
        if status is not None:
            states = _OPEN if status is RunStatus.WAITING else [status]
            # A run that waits may be looked for under the status that it has in its head.
            states = [*states, RunStatus.RUNNING] if status is RunStatus.QUEUED else states
            values |= {f":s{index}": state.value for index, state in enumerate(states)}
            filters.append(f"#s IN ({', '.join(f':s{index}' for index in range(len(states)))})")
            used["#s"] = names["#s"]
        for name, clause, value in (
            (":p", "playbook = :p", playbook),
            (":q", "#q = :q", queue),
            (":g", "contains(#g, :g)", tag),
        ):
            if value is not None:
                values[name] = value
                filters.append(clause)
                used |= {short: name for short, name in names.items() if short in clause}
        asked: dict[str, Any] = {
            "KeyConditionExpression": "tenant = :t AND created BETWEEN :from AND :to",
            "ScanIndexForward": False,
        }
        asked |= {"FilterExpression": " AND ".join(filters)} if filters else {"Limit": wanted + 1}
        asked |= {"ExpressionAttributeNames": used} if used else {}

        def look(shard: str) -> tuple[list[str], str | None]:
            given = encode_item(values | {":t": shard})
            return self._listed_in(asked | {"ExpressionAttributeValues": given}, wanted, behind)

        return merged(self.in_parallel(look, keys.shards(tenant)), wanted)

    def _listed_in(
        self, asked: dict[str, Any], wanted: int, behind: str | None
    ) -> tuple[list[str], str | None]:
        """The places of the newest runs of a shard, and where it has been looked through for long enough, if there are more."""
        found: list[str] = []
        for _ in range(MOST_PAGES):
            page = self.table.query_index("runs", **asked)
            found += [item["created"]["S"] for item in page["Items"] if item["created"]["S"] != behind]
            if len(found) >= wanted or "LastEvaluatedKey" not in page:
                return found[:wanted], None
            asked = asked | {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        return found, str(page["LastEvaluatedKey"]["created"]["S"])

    def visits(self, run_id: str) -> list[Visit]:
        snapshot = read_snapshot(self, run_id)
        return [] if snapshot is None else [_without_saved(record.visit) for record in snapshot.current_items]

    def visits_with_outputs(self, run_id: str, visit_ids: Sequence[str] | None = None) -> list[Visit]:
        if visit_ids is not None:
            found = self._saved_of(run_id, visit_ids)
            if found is not None:
                return sorted(found, key=lambda visit: (visit.clock, visit.id))
        snapshot = read_snapshot(self, run_id, saved=True)
        visits = [] if snapshot is None else [record.visit for record in snapshot.current_items]
        wanted = None if visit_ids is None else frozenset(visit_ids)
        chosen = [v for v in visits if (not v.step.startswith("@") if wanted is None else v.id in wanted)]
        return sorted(chosen, key=lambda visit: (visit.clock, visit.id))

    def _saved_of(self, run_id: str, visit_ids: Sequence[str]) -> list[Visit] | None:
        """The visits with these ids, as far as they are done; None when some are not."""
        spread = self.spread(run_id)
        at = [keys.visit(run_id, id, spread) for id in visit_ids]
        found = self.table.get_many(at)
        records = [self._whole_record(run_id, found[key]) if key in found else None for key in at]
        done = [record.visit for record in records if record is not None]
        return done if len(done) == len(records) else None

    def loop_parts(self, run_id: str, visit_id: str, loop: str) -> list[Sequence[Any]]:
        spread = self.spread(run_id)
        pk = keys.partition_key(run_id, keys.partition_of_visit(visit_id, spread))
        prefix = f"P#{visit_id}#{loop}#"
        found = [item for item in self.table.query(pk, prefix) if "#" not in item["sk"][len(prefix) :]]
        return [self.blobs.load(item["body"]) for item in found]

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        heads = self.table.get_many([keys.head(run_id) for run_id in run_ids])
        return {head["pk"][2:] for head in heads.values() if head.get("stop") == RunStatus.CANCELLED}

    def decode_origin(self, head: Item, item: Item) -> VisitOrigin:
        run_id, spread = head["pk"][2:], spread_of(head)
        cause = self.table.get(keys.visit(run_id, item["cause"], spread)) if "cause" in item else None
        record = self._record(
            DueMessage(run_id, item["sk"][2:], item["step"], 0.0, spread), item, head, cause, None
        )
        if record is None:
            raise StoreError(
                f"The store in DynamoDB is damaged: nothing leads to visit {item['sk'][2:]} of run {run_id}."
            )
        return record.way


def _without_saved(visit: Visit) -> Visit:
    return replace(visit, saved={}, result=None)


def merged(shards: Sequence[tuple[Sequence[str], str | None]], wanted: int) -> tuple[list[str], str | None]:
    """The newest of what shards have found, each of them the newest first, and how far all of them were looked through, where
    more may be behind that. What is older than where one of them has ended waits: that one may have something newer.
    """
    end = max((end for _, end in shards if end is not None), default=None)
    found = sorted((one for part, _ in shards for one in part if end is None or one >= end), reverse=True)[
        :wanted
    ]
    return found, None if len(found) == wanted else end
