"""Visits of claimed items: an item holds the origin of its visit, or the origin follows from its cause."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.run_items import (
    derive_initial_visits,
    derive_next_visits,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.visit_items import VisitItem, VisitOrigin, decode_visit

logger = logging.getLogger("noetl.executor")


def decode_claimed_visit(
    context: DynamoContext, head: Item, item: Item, cause: Item | None, known: VisitItem | None = None
) -> VisitItem | None:
    """Return the visit of a claimed item, or None if nothing in its run leads to such a visit.

    `cause` is the item of the visit before it. `known` is the visit as it follows from its cause, if the
    caller has just derived it.
    """
    run_id, visit_id = run_id_of(head), item["sk"][2:]
    if "clock" in item or known is not None:
        return decode_visit(run_id, item, context.blobs, known)
    candidates = _derive_candidates(context, head, item, cause)
    derived = next((visit for visit in candidates if visit.visit.id == visit_id), None)
    if derived is None or derived.visit.step != item["step"]:
        logger.warning("message about a visit without a cause: run %s, visit %s", run_id, visit_id)
        return None
    return decode_visit(run_id, item, context.blobs, derived)


def _derive_candidates(
    context: DynamoContext, head: Item, item: Item, cause: Item | None
) -> Sequence[VisitItem]:
    """Return the visits that follow from the cause of a claimed item, or from the start of its run."""
    step_of = context.step_of(head)
    if item.get("cause", "") == "":
        return derive_initial_visits(head, step_of)
    decoded = (
        None if cause is None else decode_visit(run_id_of(head), cause, context.blobs, with_outputs=False)
    )
    if decoded is None:
        return []
    return derive_next_visits(head, decoded, step_of)


def read_claimed_visit(context: DynamoContext, head: Item, item: Item) -> VisitItem | None:
    """Return the visit of a claimed item, reading the item of its cause, or None if nothing leads to it."""
    run_id, spread = run_id_of(head), spread_of(head)
    cause = context.table.get(keys.visit(run_id, item["cause"], spread)) if "cause" in item else None
    return decode_claimed_visit(context, head, item, cause)


def read_origin(context: DynamoContext, head: Item, item: Item) -> VisitOrigin:
    """Return the origin of a claimed visit, reading the item of its cause."""
    run_id, visit = run_id_of(head), read_claimed_visit(context, head, item)
    if visit is None:
        raise StoreError(
            f"The store in DynamoDB is damaged: visit {item['sk'][2:]} of run {run_id} has no cause."
        )
    return visit.origin
