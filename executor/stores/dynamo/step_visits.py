"""One visit of a step: found by its number, or as the latest, without reading the others.

Problem: a run may have thousands of visits of a step on a cycle. Visits are stored under their ids, and a
page shows one of them.

Algorithm: interpolation search (Peterson 1957). The ids of the visits of a step on a cycle are in the order
of their clocks (`Step.has_ordered_visits`), and so are their numbers. The clocks of a cycle grow evenly, so
the first guess is nearly always right. Bisection limits the number of guesses in any other case.

Cost: the head, the count of visits, the first and the last visit, and a query of one visit for each guess. A
step that is not on a cycle costs a query of its run that returns its visits only.

Limits: parallel branches on one cycle, or a copied history, may have numbers in another order. If a visit is
not found then, and in runs of earlier versions, all visits of the step are read.
"""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.model.ids import ordered_prefix
from noetl.executor.model.run_summary import has_started
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.run_items import SUMMARY_ATTRIBUTES, run_id_of, spread_of
from noetl.executor.stores.dynamo.run_overview import assemble, count_started, is_indexed
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.visit_items import (
    VISIT_ATTRIBUTES,
    VisitItem,
    VisitOrigin,
    decode_lease,
    decode_visit,
)
from noetl.planner.frozen import frozen, replace

MAX_GUESSES = 64
"""How many visits a search reads. Bisection of 32 bits needs half of them."""


@frozen
class FoundVisit:
    """A visit of a step, and how many visits of the step have started."""

    item: VisitItem
    started: int


def find_visit(
    context: DynamoContext, run_id: str, step: str, number: int | None = None, *, started_only: bool = True
) -> FoundVisit | None:
    """Return the visit of a step with a number, or the latest, or None if there is none.

    Visits that have not started are left out, unless `started_only` is false. Then those without an item are.
    """
    head = context.table.get(keys.head(run_id), SUMMARY_ATTRIBUTES)
    if head is None:
        return None
    context.heads.remember(head)
    is_wanted = _has_started if started_only else _is_written
    if is_indexed(context, head, step) and "resumed" not in head:
        found = _OrderedVisits(context, head, step).find(number, is_wanted)
        if found is not None:
            return found
    return _choose(_read_all(context, head, step), step, number, is_wanted)


def read_visit(context: DynamoContext, run_id: str, step: str, number: int) -> VisitItem | None:
    """Return the visit of a step with a number, to read its events.

    One that was found before takes one read.
    """
    id = context.visit_ids.get(run_id, step, number)
    item = None if id is None else context.table.get(context.heads.visit_key(run_id, id), VISIT_ATTRIBUTES)
    if item is not None and item["step"] == step and item.get("number", number) == number:
        lease = replace(decode_lease(run_id, item["sk"][2:], item), number=number)
        known = VisitItem(lease, VisitOrigin())
        decoded = decode_visit(run_id, item, context.blobs, known, with_outputs=False)
        if decoded is not None and decoded.visit.number == number:
            return decoded
    found = find_visit(context, run_id, step, number, started_only=False)
    return None if found is None else found.item


class _OrderedVisits:
    """The visits of a step on a cycle, whose ids are in the order of their clocks."""

    def __init__(self, context: DynamoContext, head: Item, step: str) -> None:
        self._context = context
        self._head = head
        self._step = step
        self._pk = keys.partition_key(run_id_of(head))
        self._prefix = f"V#{ordered_prefix(step)}"

    def find(self, number: int | None, is_wanted: Callable[[VisitItem], bool]) -> FoundVisit | None:
        """Return a visit, or None if it is not among those that were read."""
        first, snapshot = self._read_ends()
        visits = [item for item in snapshot.current_items if item.visit.step == self._step]
        if not visits:
            return None
        total = count_started(snapshot, visits[-1].visit)
        chosen = [item for item in visits if is_wanted(item) and number in (None, item.visit.number)]
        if chosen:
            return FoundVisit(chosen[-1], total)
        if number is None or first is None or "clock" not in first:
            return None
        ends = (first["clock"], first.get("number", 1)), (visits[-1].visit.clock, visits[-1].visit.number)
        item = self._search(number, *ends)
        found = (
            None
            if item is None
            else decode_visit(run_id_of(self._head), item, self._context.blobs, with_outputs=False)
        )
        return None if found is None else FoundVisit(found, total)

    def _read_ends(self) -> tuple[Item | None, RunSnapshot]:
        """Return the first ordered visit, and the last two with the visits that tell their origin.

        The latest visit in a run that has forked is the one that the item of its count names.
        """
        context, run_id, table = self._context, run_id_of(self._head), self._context.table
        bounds = self._prefix, f"{self._prefix}~"
        first_page, last_page = context.in_parallel(
            lambda backward: table.query_range(
                self._pk,
                bounds,
                limit=2 if backward else 1,
                backward=backward,
                attributes=VISIT_ATTRIBUTES,
            )[0],
            (False, True),
        )
        count = keys.visit_count(run_id, self._step)
        first_id, first_step = self._head["first"][:2]
        wanted = [count, *([keys.visit(run_id, first_id, 1)] if first_step == self._step else [])]
        items = table.get_many(wanted)
        numbers = items.pop(count, {})
        named: set[str] = {id for name in ("latest", "cause") if (id := numbers.get(name))}
        items |= table.get_many([keys.visit(run_id, id, 1) for id in sorted(named)])
        read = {item["sk"]: item for item in (*items.values(), *first_page, *last_page)}
        return first_page[0] if first_page else None, assemble(
            context, self._head, None, list(read.values()), without_outputs=True
        )

    def _search(self, number: int, low: tuple[int, int], high: tuple[int, int]) -> Item | None:
        """Return the item of a visit between two others, each given by its clock and its number."""
        for tries in range(MAX_GUESSES):
            if high[0] - low[0] < 2 or not low[1] < number < high[1]:
                return None
            if tries % 2:
                guess = (low[0] + high[0]) // 2
            else:
                share = (number - low[1]) / (high[1] - low[1])
                guess = low[0] + round(share * (high[0] - low[0]))
            clock = min(max(guess, low[0] + 1), high[0] - 1)
            page, _ = self._context.table.query_range(
                self._pk,
                (f"{self._prefix}{clock:08x}", f"{self._prefix}~"),
                limit=1,
                attributes=VISIT_ATTRIBUTES,
            )
            item = page[0] if page else {}
            if "clock" not in item:
                high = clock, high[1]
            elif item.get("number", 1) == number:
                return item
            elif item.get("number", 1) < number:
                low = item["clock"], item.get("number", 1)
            else:
                high = clock, item["number"]
        return None


def _read_all(context: DynamoContext, head: Item, step: str) -> RunSnapshot:
    """Return all visits of a step, with the visits that tell their origin."""
    run_id = run_id_of(head)
    pages = context.in_parallel(
        lambda number: list(
            context.table.query(
                keys.partition_key(run_id, number), "V#", where=("step", step), attributes=VISIT_ATTRIBUTES
            )
        ),
        range(spread_of(head)),
    )
    return assemble(context, head, None, [item for page in pages for item in page], without_outputs=True)


def _choose(
    snapshot: RunSnapshot, step: str, number: int | None, is_wanted: Callable[[VisitItem], bool]
) -> FoundVisit | None:
    visits = [item for item in snapshot.current_items if item.visit.step == step]
    chosen = [item for item in visits if is_wanted(item) and number in (None, item.visit.number)]
    return FoundVisit(chosen[-1], sum(map(_has_started, visits))) if chosen else None


def _has_started(item: VisitItem) -> bool:
    return has_started(item.visit) or item.visit.finished_at is not None


def _is_written(item: VisitItem) -> bool:
    return item.is_written
