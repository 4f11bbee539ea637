"""Pending runs of playbooks with `debounce` in a DynamoDB store, and the starts that join them.

Problem: several processes start runs of one key at once, while a worker claims the first visit.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). An item for each key names its run. The
first visit of such a run has an item from the begin, which a claim requires to be as it was read. One
transaction writes this item and the head of the pending run, and requires both as they were read. So a start
joins before the claim, or its transaction is refused, and it reads again.

Cost: a start takes one read for the key, and one of two items if the key has a run. A new run is two writes
more than without `debounce`.

Limits: the item of a key accepts 1,000 write units in a second. It expires KEPT_SECONDS after the latest due
time of its run. A run that no worker has begun until then is joined by no further start.

The item of a key has `run` and `expires`. The head of its run has `debounced`, the key. The
partition of the run has a link to the idempotency key of each start that has joined it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.debounce import is_pending, join_run
from noetl.executor.model.postponement import Postponement
from noetl.executor.model.run import Branch, Run, Visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    derive_first_visit,
    encode_given,
    era_of,
    put_request,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import VisitItem, VisitOrigin, decode_visit, encode_unclaimed
from noetl.planner.frozen import frozen, replace

KEPT_SECONDS = 30 * 86_400.0
"""How long after the latest due time of its run the item of a key is kept."""

_HEAD_STATE = ("status", "stop", "held", "resumes", "era", "moving", "plan", "damage", "starts")
"""Attributes of a head that show whether its run is pending, and how many starts share it.

A join requires them as they were read.
"""


class ConflictingStartError(Exception):
    """Another start has changed the run of a key, or a worker has begun it."""


@frozen
class PendingRun:
    """A run that a start may join: its head and its first visit as they were read."""

    head: Item
    first: VisitItem
    run: Run


@frozen
class KeyPlace:
    """The item of a key as it was read: the id of its run, or None; and the run if it is pending."""

    postponement: Postponement
    run_id: str | None
    pending: PendingRun | None


def read_place(context: DynamoContext, start: Run) -> KeyPlace:
    """Read the item of the key of a start, and its run."""
    assert start.debounce is not None
    item = context.table.get(keys.debounced(start.debounce.key))
    if item is None:
        return KeyPlace(start.debounce, None, None)
    head = context.table.get(keys.head(item["run"]))
    if head is None or "damage" in head or era_of(head):
        return KeyPlace(start.debounce, item["run"], None)
    pending = _read_pending(context, head, start)
    return KeyPlace(start.debounce, item["run"], pending)


def _read_pending(context: DynamoContext, head: Item, start: Run) -> PendingRun | None:
    first, run = read_first_visit(context, head), decode_run(head, context.blobs)
    return PendingRun(head, first, run) if first is not None and is_pending(run, first.visit, start) else None


def read_first_visit(context: DynamoContext, head: Item) -> VisitItem | None:
    """Return the first visit of a run that has an item from the begin, or None if the item was deleted."""
    derived, run_id = derive_first_visit(head, context.step_of(head)), run_id_of(head)
    item = context.table.get(keys.visit(run_id, derived.visit.id, spread_of(head)))
    return None if item is None else decode_visit(run_id, item, context.blobs, derived)


def creating_writes(context: DynamoContext, place: KeyPlace, run: Run, first: Visit) -> list[Write]:
    """Return the writes that a new run of a key comes with: the item of its first visit, and that of the key.

    The latter is refused if another start was faster.
    """
    postponement = place.postponement
    is_cyclic = context.plans.step(run.plan_hash, first.step).cyclic
    branch = Branch(first.id, first.step, first.clock, first.names)
    origin = VisitOrigin(entered_at=run.created_at, counts={first.step: 1} if is_cyclic else {})
    unclaimed = encode_unclaimed(enter_step(branch, run.id, first.due_at), origin)
    item = {**unclaimed, **_due_row(context, run, first.due_at)}
    stored = {name: value for name, value in item.items() if value is not None}
    expires = int(run.created_at + postponement.max_seconds + KEPT_SECONDS)
    is_same: Condition = ABSENT if place.run_id is None else ("run", "=", place.run_id)
    spread = context.plans.spread(run.plan_hash)
    return [
        Put(keys.visit(run.id, first.id, spread), stored),
        Put(keys.debounced(postponement.key), {"run": run.id, "expires": expires}, when=(is_same,)),
    ]


def join_pending(
    context: DynamoContext,
    pending: PendingRun,
    start: Run,
    idempotency: tuple[str, str] | None,
    writes: Sequence[Write],
) -> tuple[Run, Item, VisitItem]:
    """Let a start join a pending run. Return the run, its head and its first visit.

    `writes` are in the same transaction, after all others.

    Raises:
        ConditionFailed: a write is refused. The first two are those of the head and of the visit. The third
            is that of the idempotency key, if there is one.
        PayloadTooLargeError: the input cannot be stored.
    """
    assert start.debounce is not None
    joined, head, first = join_run(pending.run, start), pending.head, pending.first
    due_at = start.debounce.due_at(start.created_at, joined.created_at)
    changed: dict[str, Any] = {
        "given": encode_given(joined, context.blobs),
        "trigger": None if joined.trigger is None else encode_json(dict(joined.trigger)),
        "starts": joined.starts,
    }
    requests = [] if idempotency is None else [put_request(joined, idempotency)]
    links = [Put(keys.joined_request(joined.id, put.key), {"joined": put.key.pk}) for put in requests]
    head_update = Update(
        keys.head(joined.id),
        changed,
        when=_is_unchanged(head, _HEAD_STATE),
    )
    row = _due_row(context, joined, due_at)
    visit_update = Update(
        keys.visit(joined.id, first.visit.id, spread_of(head)),
        {"due": due_at, **row},
        when=_is_unchanged(first.attributes, ("status", "due", "fence")),
    )
    context.table.write([head_update, visit_update, *requests, *links, *writes])
    attributes = {
        name: value for name, value in {**first.attributes, "due": due_at, **row}.items() if value is not None
    }
    moved = replace(first, visit=replace(first.visit, due_at=due_at), attributes=attributes)
    return joined, head_update.applied_to(head), moved


def forget_run(table: DynamoTable, record: Item) -> None:
    """Delete the item of the key of a deleted run, unless another run has the key now."""
    if "debounced" in record:
        is_same: Condition = ("run", "=", record["pk"][2:])
        with suppress(ConditionFailed):
            table.write([Delete(keys.debounced(record["debounced"]), when=(is_same,))])


def _due_row(context: DynamoContext, run: Run, due_at: float) -> Mapping[str, Any]:
    """Return the place of a visit in the index `due`, if a message cannot be delayed so long."""
    is_long = context.announcer.is_long_wait(run.queue, due_at, context.table.clock())
    return {"wakes": keys.due_shard(run.id) if is_long else None}


def _is_unchanged(item: Item, names: Sequence[str]) -> tuple[Condition, ...]:
    return tuple((name, "=", item[name]) if name in item else (name, "absent", None) for name in names)
