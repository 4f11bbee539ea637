"""The overview of a run: its status, and the latest visit of each of its steps.

Problem: a status is read often, and a run may have thousands of visits of a few steps on cycles. Visits are
stored under their ids, so the latest of a step is one of many.

Algorithm: an index in the sort key. Source: Amazon DynamoDB Developer Guide, "Best practices for using sort
keys". The id of a visit on a cycle begins with its step and its clock (`Step.has_ordered_visits`). So a query
in descending order begins with the latest visit of a step. Its number says how many came before. After a
fork, branches have clocks of their own. Then the item that numbers the visits of a step names the latest.

Cost: one query of the other visits, and one query of each step on a cycle. If a run has few visits on cycles,
one query reads all of them. The cost does not grow with the number of visits on cycles.

Limits: a run with several partitions, or whose plan was compiled by an earlier version, is read as a whole. A
visit that no worker has claimed is missing if a later visit of its cause's step exists in another branch.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.errors import DamagedRunError
from noetl.executor.model.ids import ORDERED, ordered_prefix
from noetl.executor.model.run import RunStatus, Visit
from noetl.executor.model.run_summary import RunOverview, StepVisits, has_started, latest_visits
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.run_items import (
    SUMMARY_ATTRIBUTES,
    decode_summary,
    run_id_of,
    spread_of,
    status_of,
    sum_counters,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, assemble_visits, read_snapshot_of
from noetl.executor.stores.dynamo.visit_items import without_outputs
from noetl.planner.frozen import replace

MIN_READ_VISITS = 8
"""Number of visits on cycles that are read before each step is queried by itself."""

_FIRST, _LAST = "V#", "V#~"
"""Bounds of the sort keys of visits; `_ORDERED` is the first of those on cycles."""

_ORDERED = f"V#{ORDERED}"


def read_overview(context: DynamoContext, head: Item) -> RunOverview:
    """Return the overview of the run of a head, which has at least SUMMARY_ATTRIBUTES."""
    damage = head.get("damage")
    try:
        with reading_run(run_id_of(head)):
            return replace(_read_overview(context, head), damage=damage)
    except DamagedRunError:
        if damage is None:
            raise
        error = context.blobs.load_if_kept(head.get("error"))
        return RunOverview(decode_summary(head, RunStatus(head["status"])), error, {}, damage)


def _read_overview(context: DynamoContext, head: Item) -> RunOverview:
    steps = context.plans.ordered_steps(head["plan"])
    if not steps or spread_of(head) > 1 or "waits" in head:
        return _read_all(context, head)
    run_id = run_id_of(head)
    pk, table = keys.partition_key(run_id), context.table
    counter = table.get(keys.counter(run_id, 0))
    bounds = ((_FIRST, _ORDERED, None), (_ORDERED, _LAST, max(2 * len(steps), MIN_READ_VISITS)))
    (plain, _), (ordered, is_complete) = context.in_parallel(
        lambda bound: table.query_range(pk, bound[0], bound[1], limit=bound[2]), bounds
    )
    if not is_complete:
        ordered = _read_latest(context, head, steps, has_counter=counter is not None)
    snapshot = _assemble(context, head, counter, [*plain, *ordered])
    current = [without_outputs(item.visit) for item in snapshot.current_items]
    overviews = latest_visits(current)
    if not is_complete:
        latest = {visit.step: visit for visit in current}
        overviews |= {
            step: StepVisits(overviews[step].latest, _count_started(snapshot, visit))
            for step, visit in latest.items()
            if visit.id.startswith(ORDERED)
        }
    status = status_of(head, [] if counter is None else [counter])
    return RunOverview(decode_summary(head, status), context.blobs.load_if_kept(head.get("error")), overviews)


def _read_all(context: DynamoContext, head: Item) -> RunOverview:
    """Return the overview of a run from all of its visits."""
    snapshot = read_snapshot_of(context, head, attributes=SUMMARY_ATTRIBUTES)
    visits = [without_outputs(item.visit) for item in snapshot.current_items]
    error = context.blobs.load_if_kept(snapshot.head.get("error"))
    return RunOverview(decode_summary(snapshot.head, snapshot.status()), error, latest_visits(visits))


def _read_latest(
    context: DynamoContext, head: Item, steps: Sequence[str], *, has_counter: bool
) -> list[Item]:
    """Return the latest visit of each step on a cycle, with the visits before them that tell their origin."""
    run_id, table = run_id_of(head), context.table
    pk = keys.partition_key(run_id)
    # A run that has not forked has no numbers in items.
    numbers = list(table.query(pk, "N#")) if has_counter else []
    named = {item["sk"][2:]: (item["latest"], item["cause"]) for item in numbers if "latest" in item}
    rest = [f"V#{ordered_prefix(step)}" for step in steps if step not in named]
    pages = context.in_parallel(
        lambda prefix: table.query_range(pk, prefix, f"{prefix}~", limit=2, backward=True)[0], rest
    )
    ids = {id for pair in named.values() for id in pair if id}
    items = table.get_many([keys.visit(run_id, id, 1) for id in sorted(ids)])
    return [*(item for page in pages for item in page), *items.values()]


def _assemble(context: DynamoContext, head: Item, counter: Item | None, items: list[Item]) -> RunSnapshot:
    """Return the visits of items, and those that follow. Causes are read if an item has no origin."""
    run_id, read_ids = run_id_of(head), {item["sk"][2:] for item in items}
    causes = {item.get("cause", "") for item in items if "clock" not in item} - read_ids - {""}
    if causes:
        items += context.table.get_many([keys.visit(run_id, id, 1) for id in sorted(causes)]).values()
    visits, _ = assemble_visits(context, head, items, with_outputs=False)
    counters = [] if counter is None else [counter]
    counts = sum_counters(head, counters, context.step_of(head))
    return RunSnapshot(head, counts, sorted(visits, key=lambda item: item.sort_key), counter or {})


def _count_started(snapshot: RunSnapshot, latest: Visit) -> int:
    """Return how many visits of a step have started, also of those not read, by the latest of them.

    All visits before the latest have started. Visits without ordered ids were read. Of these, all but those
    of an earlier run have a number of this run.
    """
    plain = [
        item
        for item in snapshot.current_items
        if item.visit.step == latest.step and not item.visit.id.startswith(ORDERED)
    ]
    numbered = sum("history" not in item.attributes for item in plain)
    started = sum(has_started(item.visit) for item in plain) + has_started(latest)
    return started + latest.number - 1 - numbered
