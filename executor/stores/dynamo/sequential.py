"""Sequential mode: of all branches of a run, one visit at a time is due."""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.run import NEVER, VisitStatus
from noetl.executor.model.transition import names_after
from noetl.executor.model.visit_transition import activate
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Put, Update
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem, encode_unclaimed


def activate_next_visit(
    context: DynamoContext, head: Item, finished: VisitItem | None, now: float
) -> list[VisitItem]:
    """Make the next visit of a sequential run due, and return it, or nothing if another visit is active.

    It reads the names of the visits before it; `finished` was the last of them.
    """
    run_id = run_id_of(head)
    snapshot = read_snapshot(context, run_id, with_outputs=True)
    if snapshot is None:
        return []
    active = [item for item in snapshot.active_items if context.is_branch_visit(item.visit, head)]
    is_any_activated = any(
        item.visit.status is not VisitStatus.READY or item.visit.due_at < NEVER for item in active
    )
    if is_any_activated or not active:
        return []
    # Visits of the last commit come first, in the order written; then those of earlier commits.
    chosen = min(active, key=lambda item: (-item.origin.parent_clock, *item.sibling_key))
    clock = 0 if finished is None else finished.visit.clock
    names = {} if finished is None else names_after(finished.visit)
    visit = activate(chosen.visit, clock, names, now)
    key = keys.visit(run_id, visit.id, spread_of(head))
    item = encode_unclaimed(visit, chosen.origin)
    try:
        if not chosen.is_written:
            context.table.write([Put(key, item, (ABSENT,))])
            return [VisitItem(visit, chosen.origin, {**item, "pk": key.pk, "sk": key.sk})]
        when: tuple[Condition, ...] = (("status", "=", VisitStatus.READY.value), ("due", "=", NEVER))
        sets = {name: value for name, value in item.items() if value is not None}
        item = context.table.update(Update(key, sets, when=when))
    except ConditionFailed:
        return []
    return [VisitItem(visit, chosen.origin, item)]
