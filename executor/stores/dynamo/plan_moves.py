"""Moves of runs to other plans that one transaction cannot hold.

Problem: a change of the plan gives an item to each visit that goes on. A run may have a thousand branches,
and a transaction has MAX_TRANSACTION_ITEMS items. No reader may see a run between two plans.

Algorithm: locks and one commit point, as in Percolator (Peng and Dabek 2010). The head gets the number of the
plan that follows (`moving`). Then each visit that goes on gets the same number, and what it has in that plan
(`moved`), in as many transactions as needed. Each requires that the visit is as it was judged, and that the
head still has the number. Such a visit is held: no worker claims it. One transaction then changes the plan in
the head, with all counters and joins. From there on, a visit with the number of the plan counts as it will
be. At last the visits are written as they are.

A process that dies before the commit point leaves the run in its earlier plan. After HOLD_SECONDS, a claim, a
sweep or another change gives the move up; a stop, a pause and a resume do it at once. The number is
not used again. A process that dies after it leaves visits that any claim, sweep or call completes.

Cost: two writes of each visit, in transactions. A run that has never moved has none of these attributes, and
a claim looks for them in an item that it has read anyway.

Limits: the transaction of the head has an item for each counter and each join. So has each step on a cycle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import StoreError
from noetl.executor.model.events import Event
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import era_of, has_ended, run_id_of, spread_of
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS, fits_transaction
from noetl.executor.stores.dynamo.visit_items import encode_events_item
from noetl.planner.frozen import frozen

HOLD_SECONDS = 60.0
"""How long a move may take before its commit point. Others give it up later."""


@frozen
class VisitMove:
    """The change of one visit.

    `write` changes the visit at once, with `events`. `staged` are the attributes that it has in the other
    plan; None removes one. `earlier` is its item in the earlier plan, which is not stored if `is_new`.
    """

    write: Put | Update
    staged: Item
    earlier: Item
    is_new: bool = False
    events: Sequence[Write] = field(default_factory=tuple)

    def hold(self, era: int) -> Put | Update:
        """Return the write that holds a visit until it moves to a plan. Its fence grows at once."""
        staged = {name: value for name, value in self.staged.items() if name != "fence"}
        kept = {name: value for name, value in staged.items() if value is not None}
        removed = [name for name, value in staged.items() if value is None]
        before = [self.earlier.get("fence", 0), self.earlier["due"]]
        held: Item = {"moving": era, "moved": [*before, removed, list(kept), list(kept.values())]}
        if "fence" in self.staged:
            held["fence"] = self.staged["fence"]
        if self.is_new:
            return Put(self.write.key, {**self.earlier, **held})
        return Update(self.write.key, held, when=(*self.write.when, ("moving", "absent", None)))


def next_era(head: Item) -> int:
    """Return the number of the next plan of a run. Numbers of moves that were given up are not used again."""
    return max(era_of(head), int(head.get("moving", 0))) + 1


def is_moving(head: Item) -> bool:
    """Return whether a run is to move to another plan, or has moved and visits are not yet written."""
    return "moving_since" in head


def current_item(item: Item, head: Item) -> Item:
    """Return the item of a visit as it is in the plan of its run, whose head was read before."""
    if item.get("moving") is None or item["moving"] != era_of(head):
        return item
    return {name: value for name, value in {**item, **_decode_moved(item)}.items() if value is not None}


def begin_move(context: DynamoContext, head: Item, now: float, when: tuple[Condition, ...]) -> Item | None:
    """Write that a run is to move, and return its head. Return None if a condition does not hold."""
    run_id = run_id_of(head)
    sets: Item = {"moving": next_era(head), "moving_since": now}
    if not has_ended(head):  # A sweep must find it.
        context.plan_uses.require(head["plan"])
        sets["open"] = keys.open_shard(head["queue"], run_id)
    try:
        return context.table.update(Update(keys.head(run_id), sets, when=when))
    except ConditionFailed:
        return None


def hold_visits(context: DynamoContext, head: Item, moves: Iterable[VisitMove]) -> bool:
    """Write that visits are held. Return False if one has changed, or the move was given up.

    Raises:
        PayloadTooLargeError: the item of a visit would be too large.
    """
    era = head["moving"]
    is_same_move = ConditionCheck(keys.head(run_id_of(head)), _is_same_move(head))
    try:
        for batch in _split([[move.hold(era)] for move in moves]):
            context.table.write([is_same_move, *batch])
    except ConditionFailed:
        return False
    return True


def settle_move(context: DynamoContext, head: Item, now: float, *, is_forced: bool = False) -> bool:
    """Complete a move of the run of `head`, or give it up. Return False if it is under way.

    With `is_forced`, a move that has not reached its commit point is given up at once.
    """
    for _ in range(MAX_CONFLICTS):
        if not is_moving(head):
            return True
        key, era = keys.head(run_id_of(head)), head["moving"]
        has_moved = era == era_of(head)
        if not (has_moved or is_forced or now >= head["moving_since"] + HOLD_SECONDS):
            return False
        if has_moved:
            settle_visits(context, head)
        try:
            context.table.update(Update(key, {"moving_since": None}, when=_is_same_move(head)))
        except ConditionFailed as refusal:
            current = refusal.items[0] or context.table.get(key)
            if current is None:  # it was deleted
                return True
            head = current
            continue
        if not has_moved:
            settle_visits(context, head)
        return True
    raise StoreError(f"Run {run_id_of(head)} could not be moved: too many concurrent writers.")


def settle_visits(context: DynamoContext, head: Item) -> None:
    """Write the visits of a run that are held as they are in its plan. No move may be under way."""
    for _ in range(MAX_CONFLICTS):
        partitions = context.in_parallel(
            lambda number: list(context.table.query(keys.partition_key(run_id_of(head), number), "V#")),
            range(spread_of(head)),
        )
        held = [item for partition in partitions for item in partition if "moving" in item]
        # A later move may have begun since the head was read.
        settled = [_settle_writes(context, head, item) for item in held if item["moving"] <= head["moving"]]
        if all(_is_written(context, batch) for batch in _split(settled)):
            return
    raise StoreError(f"Run {run_id_of(head)} could not be moved: too many concurrent writers.")


def settle_visit(context: DynamoContext, item: Item, head: Item, now: float) -> bool:
    """Write a visit that is held as it is in the plan of its run. Return False if a move is under way.

    `head` was read after the item.
    """
    if is_moving(head) and head["moving"] == item["moving"] != era_of(head):
        return settle_move(context, head, now)
    _is_written(context, _settle_writes(context, head, item))
    return True


def _is_same_move(head: Item) -> tuple[Condition, ...]:
    """Return the condition that a run is still to move as its head says, or that it has moved."""
    era: Condition = ("era", "=", head["era"]) if "era" in head else ("era", "absent", None)
    return (("moving", "=", head["moving"]), ("moving_since", "=", head["moving_since"]), era)


def _is_written(context: DynamoContext, writes: Sequence[Write]) -> bool:
    """Apply writes, and return whether their conditions hold."""
    try:
        context.table.write(writes)
    except ConditionFailed:
        return False
    return True


def _settle_writes(context: DynamoContext, head: Item, item: Item) -> list[Write]:
    """Return the writes of a visit that is held: as it was before, if its run has not moved with it."""
    key, fence = keys.ItemKey(item["pk"], item["sk"]), item["moved"][0]
    is_held: Condition = ("moving", "=", item["moving"])
    if item["moving"] != era_of(head):
        return [Update(key, {"fence": fence or None, "moving": None, "moved": None}, when=(is_held,))]
    sets = _decode_moved(item)
    writes: list[Write] = [Update(key, sets, when=(is_held, ("due", "=", item["due"])))]
    run_id, blobs = run_id_of(head), context.blobs
    events = (blobs.load_if_kept(item.get("told")) or {}).get("h") if "status" in sets else None
    if events:
        # The visit is done again, so the events of its outcome move to an item of their own.
        events_key = keys.claim_events(run_id, item["sk"][2:], fence, spread_of(head))
        events_item = encode_events_item([Event(*event) for event in events], blobs, run_id)
        writes.append(Put(events_key, events_item, when=()))
    return writes


def _decode_moved(item: Item) -> dict[str, Any]:
    """Return the attributes that a visit gets in the plan to which it moves. None removes an attribute."""
    _, due, removed, names, values = item["moved"]
    sets = {**dict.fromkeys(removed), **dict(zip(names, values, strict=True)), "moving": None, "moved": None}
    if item["due"] != due:  # an answer has made it due since
        sets.pop("due", None)
    return sets


def _split(groups: Iterable[Sequence[Write]]) -> Iterator[list[Write]]:
    """Yield the groups of writes in batches, each of which fits into a transaction with one more item."""
    batch: list[Write] = []
    for group in groups:
        if batch and not fits_transaction([*batch, *group], more=1):
            yield batch
            batch = []
        batch += group
    if batch:
        yield batch
