"""Runs that sleep: they only wait, for longer than a message can be delayed, so no sweep reads them.

Problem: a sweep finds open runs whose messages were lost. Reading thousands of runs that wait for days costs
more than all of their steps.

Algorithm: a run whose visits all wait moves to a partition of the index of open runs that no sweep reads. Its
visits are in the index `due`, from which the sweep sends messages, or only an answer makes them due. The
claim of a visit moves the run back. A paused run moves, too, when none of its visits is at work. Both sides
write before they read, as in Dekker's mutual exclusion (Dijkstra 1965). A claim writes the visit with its
counter, and then reads the head. A sweep writes the head, and then reads the counters. The suspension of the
only branch of a run writes both in one transaction.

Cost: one write of the head at the begin and at the end of such a wait.

Limits: a worker that dies between its claim and the write of the head leaves a running visit in a run that
sleeps. The message of the visit arrives again.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.run_items import (
    has_ended,
    is_paused,
    run_id_of,
    spread_of,
    starts_nothing,
    status_of,
    sum_counters,
)
from noetl.executor.stores.dynamo.table import MAX_READ_ITEMS


def can_sleep(context: DynamoContext, head: Item) -> bool:
    """Return whether a run may sleep whose visits all wait long.

    The message of a deadline that the index `due` does not have may be lost, so its run stays awake.
    """
    is_external = context.announcer.external_queue(head["queue"]) is not None
    is_unfinished = not has_ended(head) and not starts_nothing(head) and "reopening" not in head
    return is_external and is_unfinished and ("deadline" not in head or "wakes" in head)


def can_sleep_paused(context: DynamoContext, head: Item) -> bool:
    """Return whether a paused run without a visit at work may sleep until it is unpaused or stopped."""
    is_external = context.announcer.external_queue(head["queue"]) is not None
    is_settled = is_paused(head) and "reopening" not in head and not is_asleep(head)
    return is_external and is_settled and ("deadline" not in head or "wakes" in head)


def put_paused_to_sleep(context: DynamoContext, head: Item) -> bool:
    """Put a paused run to sleep unless it was unpaused or stopped meanwhile, and return whether it sleeps."""
    context.plan_uses.require(head["plan"])
    run_id = run_id_of(head)
    is_held = (("open", "present", None), ("stop", "absent", None), ("held", "present", None))
    try:
        context.table.update(Update(keys.head(run_id), {"open": keys.asleep_shard(run_id)}, when=is_held))
    except ConditionFailed:
        return False
    return True


def is_quiet(context: DynamoContext, head: Item, counters: Sequence[Item]) -> bool:
    """Return whether all active visits of a run wait long, and no join can fire, by its counters."""
    paused = sum(counter.get("paused", 0) for counter in counters)
    long = sum(counter.get("long", 0) for counter in counters)
    is_ending = any(counter.get("ending", 0) for counter in counters)
    if is_ending or not 0 < paused <= long or status_of(head, counters) is not RunStatus.WAITING:
        return False
    return not sum_counters(head, counters, context.step_of(head)).joins_to_fire


def put_quiet_to_sleep(context: DynamoContext, run_ids: Sequence[str]) -> list[str]:
    """Put the runs to sleep that only wait long, and return the others. Only heads and counters are read."""
    awake = []
    for start in range(0, len(run_ids), MAX_READ_ITEMS):
        page = run_ids[start : start + MAX_READ_ITEMS]
        heads = context.table.get_many([keys.head(run_id) for run_id in page])
        counters = _read_counters(context, list(heads.values()))
        ids = {run_id_of(head): head for head in heads.values()}
        awake += [id for id, head in ids.items() if not _sleeps(context, head, counters[id])]
    return awake


def _sleeps(context: DynamoContext, head: Item, counters: Sequence[Item]) -> bool:
    """Put a run to sleep if it may, and return whether it sleeps. A damaged run is left to its sweep."""
    try:
        with reading_run(run_id_of(head)):
            is_candidate = can_sleep(context, head) and is_quiet(context, head, counters)
            return is_candidate and _put_to_sleep(context, head)
    except DamagedRunError:
        return False


def _put_to_sleep(context: DynamoContext, head: Item) -> bool:
    """Put a run to sleep, unless a visit is claimed meanwhile, and return whether it sleeps."""
    context.plan_uses.require(head["plan"])
    try:
        context.table.update(sleep_update(head))
    except ConditionFailed:
        return False
    if is_quiet(context, head, _read_counters(context, [head])[run_id_of(head)]):
        return True
    wake_run(context, head)
    return False


def _read_counters(context: DynamoContext, heads: Sequence[Item]) -> dict[str, list[Item]]:
    """Return the counters of each run."""
    groups = {
        run_id_of(head): [keys.counter(run_id_of(head), number) for number in range(spread_of(head))]
        for head in heads
    }
    items = context.table.get_many([key for group in groups.values() for key in group])
    return {run_id: [items[key] for key in group if key in items] for run_id, group in groups.items()}


def is_asleep(head: Item) -> bool:
    """Return whether a run sleeps."""
    return bool(head.get("open") == keys.asleep_shard(run_id_of(head)))


def sleep_update(head: Item) -> Update:
    """Return the write that puts a run to sleep, unless it stops or is paused."""
    run_id = run_id_of(head)
    return Update(
        keys.head(run_id),
        {"open": keys.asleep_shard(run_id)},
        when=(("open", "present", None), ("stop", "absent", None), ("held", "absent", None)),
    )


def wake_run(context: DynamoContext, head: Item) -> Item:
    """Let a run that sleeps be read by sweeps again, and return its head."""
    run_id = run_id_of(head)
    context.plan_uses.require(head["plan"])
    awake = Update(
        keys.head(run_id),
        {"open": keys.open_shard(head["queue"], run_id)},
        when=(("open", "=", keys.asleep_shard(run_id)),),
    )
    try:
        return context.table.update(awake)
    except ConditionFailed as refusal:
        return refusal.items[0] or head
