"""The end of a run: the visit of its finally step, and the visit after whose commit it has ended."""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.run_transition import entered_finally_step
from noetl.executor.model.special_visits import FINALLY_CLOCK, end_visit, finally_visit
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Put
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of, stop_of
from noetl.executor.stores.dynamo.visit_items import VisitItem, VisitOrigin, decode_visit, encode_unclaimed


def end_run(context: DynamoContext, head: Item, now: float, *, is_repeated: bool = False) -> list[VisitItem]:
    """Create the visit of the finally step, or after it the visit that ends the run; return it if it is due.

    The ids are derived, so a repetition finds the visits that exist. It also returns a running visit: its
    worker may have died, and has claimed it without a message. It is due at the end of its lease.
    """
    statuses = (VisitStatus.READY, VisitStatus.RUNNING) if is_repeated else (VisitStatus.READY,)
    run_id, resumes = run_id_of(head), head.get("resumes", 0)
    finally_step = entered_finally_step(stop_of(head), context.finally_step(head))
    if finally_step is not None:
        visit = finally_visit(run_id, finally_step, resumes, now)
        item, is_new = _create(context, head, visit, now)
        if is_new or item.visit.finished_at is None:
            return [item] if item.visit.status in statuses else []
    item, _ = _create(context, head, end_visit(run_id, resumes, now), now)
    return [item] if item.visit.status in statuses else []


def _create(context: DynamoContext, head: Item, visit: Visit, now: float) -> tuple[VisitItem, bool]:
    """Create a visit unless it exists, and return it and whether it is new."""
    key = keys.visit(visit.run_id, visit.id, spread_of(head))
    origin = VisitOrigin(entered_at=now, parent_clock=FINALLY_CLOCK)
    item = encode_unclaimed(visit, origin) | {"resumes": head.get("resumes", 0)}
    try:
        context.table.write([Put(key, item)])
    except ConditionFailed as refusal:
        existing = refusal.items[0] or context.table.get(key)
        decoded = None if existing is None else decode_visit(visit.run_id, existing, context.blobs)
        assert decoded is not None
        return decoded, False
    return VisitItem(visit, origin, {**item, "pk": key.pk, "sk": key.sk}), True
