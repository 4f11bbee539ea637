"""The overview of a run: its status, and the latest visit of each of its steps.

Problem: a status is read often, and a run may have thousands of visits of a few steps on cycles. Visits are
stored under their ids, so the latest of a step is one of many.

Algorithm: an index in the sort key. Source: Amazon DynamoDB Developer Guide, "Best practices for using sort
keys". The id of a visit on a cycle begins with its step and its clock (`Step.has_ordered_visits`). So a query
in descending order begins with the latest visit of a step. Its number says how many came before. After a
fork, branches have clocks of their own. Then the item that numbers the visits of a step names the latest.

Cost: one query of the other visits, and one query of each step on a cycle. If a run has few visits on cycles,
one query reads all of them. The cost does not grow with the number of visits on cycles.

Limits: a run with several partitions, or whose plan was compiled by an earlier version, is read as a whole.
So is a run that has changed its plan, since visits keep their ids when their step gets another name. A visit
that no worker has claimed is missing if a later visit of its cause's step exists in another branch.
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

MIN_READ_VISITS = 4
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


def is_indexed(context: DynamoContext, head: Item, step: str | None = None) -> bool:
    """Return whether visits of a step of a run, or of any step, can be found in the order of their clocks."""
    if spread_of(head) != 1 or "waits" in head or "era" in head:
        return False
    steps = context.plans.ordered_steps(head["plan"])
    return bool(steps) and (step is None or step in steps)


def read_latest_visits(context: DynamoContext, head: Item, attributes: Sequence[str]) -> RunSnapshot:
    """Return the visits of a run, of most steps on cycles only the latest, with the named attributes.

    The head must have at least SUMMARY_ATTRIBUTES.
    """
    if not is_indexed(context, head):
        return read_snapshot_of(context, head, attributes=tuple(head))
    pk, table = keys.partition_key(run_id_of(head)), context.table
    counter = table.get(keys.counter(run_id_of(head), 0))
    plain, _ = table.query_range(pk, (_FIRST, _ORDERED), attributes=attributes)
    ordered = _read_latest(context, head, attributes, has_counter=counter is not None)
    return assemble(context, head, counter, [*plain, *ordered], without_outputs=True)


def _read_few(context: DynamoContext, head: Item) -> tuple[RunSnapshot, bool]:
    """Return the visits of a run, all if they are few, and whether these are all."""
    run_id, steps = run_id_of(head), context.plans.ordered_steps(head["plan"])
    pk, table = keys.partition_key(run_id), context.table
    counter = table.get(keys.counter(run_id, 0))
    ranges = (((_FIRST, _ORDERED), None), ((_ORDERED, _LAST), max(2 * len(steps), MIN_READ_VISITS)))
    (plain, _), (ordered, is_complete) = context.in_parallel(
        lambda bounds: table.query_range(pk, bounds[0], limit=bounds[1]), ranges
    )
    if not is_complete:
        ordered = _read_latest(context, head, (), has_counter=counter is not None)
    return assemble(context, head, counter, [*plain, *ordered]), is_complete


def _read_overview(context: DynamoContext, head: Item) -> RunOverview:
    if not is_indexed(context, head):
        return _read_all(context, head)
    snapshot, is_complete = _read_few(context, head)
    _remember_ids(context, snapshot)
    current = [without_outputs(item.visit) for item in snapshot.current_items]
    overviews = latest_visits(current)
    if not is_complete:
        latest = {visit.step: visit for visit in current}
        overviews |= {
            step: StepVisits(overviews[step].latest, count_started(snapshot, visit))
            for step, visit in latest.items()
            if visit.id.startswith(ORDERED)
        }
    status = status_of(head, [snapshot.counter] if snapshot.counter else [])
    return RunOverview(decode_summary(head, status), context.blobs.load_if_kept(head.get("error")), overviews)


def _read_all(context: DynamoContext, head: Item) -> RunOverview:
    """Return the overview of a run from all of its visits."""
    snapshot = read_snapshot_of(context, head, attributes=SUMMARY_ATTRIBUTES)
    _remember_ids(context, snapshot)
    visits = [without_outputs(item.visit) for item in snapshot.current_items]
    error = context.blobs.load_if_kept(snapshot.head.get("error"))
    return RunOverview(decode_summary(snapshot.head, snapshot.status()), error, latest_visits(visits))


def _remember_ids(context: DynamoContext, snapshot: RunSnapshot) -> None:
    """Remember the ids of visits, so that their events can be read without a search."""
    latest = {item.visit.step: item.visit for item in snapshot.current_items}
    for visit in latest.values():
        context.visit_ids.remember(visit)


def _read_latest(
    context: DynamoContext, head: Item, attributes: Sequence[str], *, has_counter: bool
) -> list[Item]:
    """Return the latest visit of each step on a cycle, with the visits before them that tell their origin."""
    run_id, table, steps = run_id_of(head), context.table, context.plans.ordered_steps(head["plan"])
    pk = keys.partition_key(run_id)
    # A run that has not forked has no numbers in items.
    numbers = list(table.query(pk, "N#")) if has_counter else []
    named = {item["sk"][2:]: (item["latest"], item["cause"]) for item in numbers if "latest" in item}
    rest = [f"V#{ordered_prefix(step)}" for step in steps if step not in named]
    pages = context.in_parallel(
        lambda prefix: table.query_range(
            pk, (prefix, f"{prefix}~"), limit=2, backward=True, attributes=attributes
        )[0],
        rest,
    )
    ids = {id for pair in named.values() for id in pair if id}
    items = table.get_many([keys.visit(run_id, id, 1) for id in sorted(ids)], attributes)
    return [*(item for page in pages for item in page), *items.values()]


def assemble(
    context: DynamoContext,
    head: Item,
    counter: Item | None,
    items: list[Item],
    *,
    without_outputs: bool = False,
) -> RunSnapshot:
    """Return the visits of items, and those that follow. Causes are read if an item has no origin.

    So are those that were read without their outputs, since the names of these belong to the origin.
    """
    run_id, read = run_id_of(head), {item["sk"][2:]: item for item in items}
    named = {item.get("cause", "") for item in items if "clock" not in item} - {""}
    causes = named if without_outputs else named - read.keys()
    if causes:
        spread = spread_of(head)
        cause_keys = [keys.visit(run_id, id, spread) for id in sorted(causes)]
        found = context.table.get_many(cause_keys)
        items = [*(read | {key.sk[2:]: item for key, item in found.items()}).values()]
    visits, _ = assemble_visits(context, head, items, with_outputs=False)
    counters = [] if counter is None else [counter]
    counts = sum_counters(head, counters, context.step_of(head))
    return RunSnapshot(head, counts, sorted(visits, key=lambda item: item.sort_key), counter or {})


def count_by_step(snapshot: RunSnapshot) -> dict[str, int]:
    """Return about how many visits of each step on a cycle have started, also of those that were not read."""
    latest = {item.visit.step: item.visit for item in snapshot.current_items}
    return {
        step: count_started(snapshot, visit) for step, visit in latest.items() if visit.id.startswith(ORDERED)
    }


def ranges_from(context: DynamoContext, head: Item, kind: str, clock: int) -> list[tuple[str, str]]:
    """Return the bounds of sort keys of a kind: of visits on cycles from a clock on, and of all others."""
    prefixes = [f"{kind}{ordered_prefix(step)}" for step in context.plans.ordered_steps(head["plan"])]
    return [(kind, f"{kind}{ORDERED}"), *((f"{prefix}{clock:08x}", f"{prefix}~") for prefix in prefixes)]


def read_visits_from(context: DynamoContext, head: Item, clock: int) -> RunSnapshot:
    """Return the visits of a run, of those on cycles the ones from a clock on. Their ids must be ordered."""
    run_id, table = run_id_of(head), context.table
    counter = table.get(keys.counter(run_id, 0))
    pages = context.in_parallel(
        lambda bounds: table.query_range(keys.partition_key(run_id), bounds)[0],
        ranges_from(context, head, _FIRST, clock),
    )
    snapshot = assemble(context, head, counter, [item for page in pages for item in page])
    # Older followers of visits that were read have items, too, which were not read.
    items = [
        item
        for item in snapshot.items
        if item.is_written or item.visit.clock >= clock or not item.visit.id.startswith(ORDERED)
    ]
    return replace(snapshot, items=items)


def count_started(snapshot: RunSnapshot, latest: Visit) -> int:
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
