"""The service of the items of loops: pages of items by state, with the counts of all states.

Problem: a loop may have 10,000 items, and a page of them must cost no more than that of a loop with 100.

Algorithm: `noetl.api.service.item_states` derives the counts and the states from records of the visit. The
failed items of a loop that continued are stored with the visit as JSON. A page decodes only its own part of
this text, and its cursor has the place where the next page begins. A cursor names its visit, loop and state.

Cost: one read of the visits without their outputs, and one of the events of the visit. One more for each
part of 65,536 characters of the failed items. A page reads MAX_PAGE_CHARACTERS of them, or one item.

Limits: a store in DynamoDB reads the outputs of the visit for each part, and all events of the run. The
journal of a paused loop without `batch` grows with the items that have begun.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, cast

from noetl.api.service.data_views import LoopItem, LoopItems
from noetl.api.service.errors import NotFoundError
from noetl.api.service.item_states import FindLoop, KnownItem, LoopFacts, read_loops, with_error
from noetl.api.service.loop_states import ItemState
from noetl.api.service.plan_loops import find_loop, has_loop
from noetl.api.service.run_data import RunDataService
from noetl.api.service.step_reports import item_waits, visit_state
from noetl.executor.engine.kept_data import shorten_error
from noetl.executor.engine.preview import preview
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import ErrorRecord, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step

ITEMS_PER_PAGE = 100
MAX_ITEMS_PER_PAGE = 1000
MAX_PAGE_CHARACTERS = 1 << 19
"""How much of the stored failures a page decodes. A page may have fewer items than its limit."""

_PART_CHARACTERS = 1 << 16
_DECODER = json.JSONDecoder()
_MAX_PLACE = 1 << 40
_MEMBERS = {"index", "item", "error"}
_MAX_SHOWN_LOOPS = 20


@frozen
class ItemQuery:
    """The items to return: those of a loop of a visit of a step, with a state or any, after a cursor."""

    step: str
    visit: int | None = None
    loop: str | None = None
    state: ItemState | None = None
    cursor: str | None = None
    limit: int = ITEMS_PER_PAGE


@frozen
class LoopItemService:
    """The items of the loops of one tenant."""

    data: RunDataService

    @property
    def _store(self) -> Store:
        return self.data.context.store

    def page(self, run_id: str, query: ItemQuery) -> LoopItems:
        """Return one page of the items of a loop, by default of the last loop of the latest visit.

        Raises:
            NotFoundError: the tenant has no such run, the run has no such step, the step no such visit or
                loop.
            RejectedError: `no_loop`, the step has no loop; `invalid_cursor`.
        """
        run = self.data.runs.summary(run_id)
        visit = self.data.find_visit(run, query.step, query.visit).visit
        step = self._store.plans.step(run.plan_hash, visit.step)
        tasks = partial(self._store.plans.task, run.plan_hash)
        if not has_loop(step, tasks):
            raise RejectedError("no_loop", f"step `{abbreviate(step.name)}` has no loop")
        loops = self._read_loops(run, visit, partial(find_loop, step, tasks))
        position = _choose_loop(loops, query.loop)
        facts = None if position is None else loops[position]
        page = _NO_ITEMS if facts is None else self._find_items(visit, step, facts, loops, query)
        unlisted = {} if facts is None or page.is_complete else facts.unlisted()
        return LoopItems(
            workflow_id=run.id,
            step=visit.step,
            visit=visit.number,
            status=visit_state(run.status, visit),
            loop=position,
            loops=[entry.report for entry in loops.values()] if len(loops) > 1 else None,
            total=None if facts is None else facts.total,
            counts={} if facts is None else {state.value: count for state, count in facts.counts().items()},
            unlisted={state.value: count for state, count in unlisted.items()} or None,
            items=page.items,
            next_cursor=page.next_cursor,
        )

    def _read_loops(self, run: RunSummary, visit: Visit, find: FindLoop) -> dict[str, LoopFacts]:
        events = self._store.runs.visit_events(run.id, visit.step, visit.number)
        loops = read_loops(visit, events, find, is_cancelled=run.status is RunStatus.CANCELLED)
        if not loops:
            self.data.runs.summary(run.id)  # The run may have been deleted meanwhile.
        elif visit.finished_at is not None:
            last = list(loops)[-1]
            loops[last] = with_error(loops[last], visit.error)
        return loops

    def _find_items(
        self, visit: Visit, step: Step, facts: LoopFacts, loops: Iterable[str], query: ItemQuery
    ) -> _ItemPage:
        if query.state is not None and query.state not in facts.counts():
            return _NO_ITEMS
        scope = f"{visit.run_id} {visit.id} {visit.fence} {facts.position} {query.state}"
        after, start = _read_cursor(query.cursor, scope)
        read = partial(self._store.runs.failures_text, visit.run_id, visit.id)
        failures: Iterator[StoredEntry] = iter(())
        if visit.status is VisitStatus.SUCCEEDED and facts.failed and _is_last_loop(step, facts, loops):
            failures = read_entries(read, start)
        first = next(failures, None)
        if first is None and start == 0:
            entries: Iterable[_Entry] = (
                _Entry(number, 0, _describe_item(number, state, facts.known.get(number)))
                for number, state in facts.states(after, query.state)
            )
            return _fill_page(entries, after, 0, query.limit, scope)
        stored = chain([] if first is None else [first], failures)
        merged = _merge_failures(stored, facts, (after, start), query.state)
        return replace(_fill_page(merged, after, start, query.limit, scope), is_complete=True)


@frozen
class _ItemPage:
    """Items, and the cursor of the next page. With `is_complete` every item of the loop has a known state."""

    items: Sequence[LoopItem]
    next_cursor: str | None
    is_complete: bool = False


_NO_ITEMS = _ItemPage((), None)


@frozen
class _Entry:
    """An item by its number, or None if its state is not wanted.

    `place` is where the text of the failures must be read to find this entry and those after it.
    """

    number: int
    place: int
    item: LoopItem | None


def _fill_page(entries: Iterable[_Entry], after: int, start: int, limit: int, scope: str) -> _ItemPage:
    items: list[LoopItem] = []
    for entry in entries:
        if len(items) == limit or entry.place - max(start, 1) >= MAX_PAGE_CHARACTERS:
            return _ItemPage(items, _write_cursor(after, entry.place, scope))
        after = entry.number
        if entry.item is not None:
            items.append(entry.item)
    return _ItemPage(items, None)


def _merge_failures(
    failures: Iterable[StoredEntry], facts: LoopFacts, start: tuple[int, int], state: ItemState | None
) -> Iterator[_Entry]:
    """Yield the failed items, and those between them, which have succeeded.

    `start` is the number after which they begin, and the place of the first of the failures.
    """
    wants_succeeded = state in (None, ItemState.SUCCEEDED)
    after, place = start
    for stored in failures:
        number, place = stored.members["index"], stored.begin
        for succeeded in range(after + 1, number) if wants_succeeded else ():
            yield _Entry(succeeded, place, LoopItem(number=succeeded, state=ItemState.SUCCEEDED))
        item = None
        if state in (None, ItemState.FAILED):
            known = facts.known.get(number, KnownItem(ItemState.FAILED))
            item = _describe_item(number, ItemState.FAILED, replace(known, error=stored.members["error"]))
            item = LoopItem(**{**vars(item), "value": preview(stored.members["item"])})
        yield _Entry(number, place, item)
        after, place = number, stored.end
    for succeeded in range(after + 1, facts.total + 1) if wants_succeeded else ():
        yield _Entry(succeeded, place, LoopItem(number=succeeded, state=ItemState.SUCCEEDED))


def _describe_item(number: int, state: ItemState, known: KnownItem | None) -> LoopItem:
    if known is None:
        return LoopItem(number=number, state=state)
    error, item = known.error, known.failure.get("item")
    tries = [entry["attempt"] for entry in known.entries.values()]
    return LoopItem(
        number=number,
        state=state,
        value=item["value"] if item is not None else None,
        attempts=max(tries) if tries else known.failure.get("attempts"),
        error=None if error is None else cast("ErrorRecord", shorten_error(error)),
        input=known.failure.get("input"),
        cut=known.failure.get("cut"),
        waiting_for=item_waits(known.entries) if tries else None,
    )


@frozen
class StoredEntry:
    """A failed item in the text of all: its members, its place, and that of the next one."""

    begin: int
    end: int
    members: Mapping[str, Any]


def read_entries(read: Callable[[int, int], str], start: int) -> Iterator[StoredEntry]:
    """Yield the failed items of a visit from a place in their text on.

    `read(start, length)` returns a part of the text. A part is read again with more characters if its last
    object is not complete.

    >>> text = '[{"index":1,"item":0,"error":{}},{"index":7,"item":0,"error":{}}]'
    >>> [(entry.begin, entry.end) for entry in read_entries(lambda at, n: text[at : at + n], 0)]
    [(1, 33), (33, 65)]

    Raises:
        RejectedError: `invalid_cursor`, if no failed item begins at `start`.
    """
    place, length = max(start, 1), _PART_CHARACTERS
    base, text = place, read(place, length)
    while text:
        try:
            members, end = _DECODER.raw_decode(text, place - base)
        except ValueError:
            if base == place and len(text) < length:
                raise _invalid_cursor() from None
            length = 4 * length if base == place else length
        else:
            if not isinstance(members, dict) or not members.keys() >= _MEMBERS:
                raise _invalid_cursor()
            yield StoredEntry(place, base + end + 1, members)
            place, length = base + end + 1, _PART_CHARACTERS
            if text[end : end + 1] == "]":
                return
            if place - base < len(text):
                continue
        base, text = place, read(place, length)


def _is_last_loop(step: Step, facts: LoopFacts, loops: Iterable[str]) -> bool:
    """Return whether the visit stores the failed items of a loop: of its last work, in the last round."""
    pattern = r"run(~\d+)?" if step.loop is not None else rf"run(~\d+)?\.{len(step.run) - 1}"
    matching = [position for position in loops if re.fullmatch(pattern, position)]
    is_parallel = step.loop is None and step.parallel
    return not is_parallel and bool(matching) and matching[-1] == facts.position


def _choose_loop(loops: Mapping[str, LoopFacts], position: str | None) -> str | None:
    """Return the position of the loop that was asked for, or of the last. It is None if none has begun.

    Raises:
        NotFoundError: no loop has begun at this position.
    """
    if position is None:
        return list(loops)[-1] if loops else None
    if position not in loops:
        names = ", ".join(f"`{name}`" for name in list(loops)[:_MAX_SHOWN_LOOPS])
        known = f"; the visit has {names}" if loops else "; none has begun"
        raise NotFoundError(f"unknown loop `{abbreviate(position)}`{known}")
    return position


def _write_cursor(after: int, place: int, scope: str) -> str:
    text = json.dumps([after, place, zlib.crc32(scope.encode(errors="surrogatepass"))])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_cursor(cursor: str | None, scope: str) -> tuple[int, int]:
    """Return the number of the last item before a page, and the place of the next failed item.

    Raises:
        RejectedError: `invalid_cursor`, also if it belongs to another list.
    """
    if cursor is None:
        return 0, 0
    try:
        after, place, checksum = json.loads(base64.urlsafe_b64decode(cursor))
    except (ValueError, TypeError, RecursionError):
        raise _invalid_cursor() from None
    is_valid = all(type(number) is int and 0 <= number < _MAX_PLACE for number in (after, place))
    if not is_valid or checksum != zlib.crc32(scope.encode(errors="surrogatepass")):
        raise _invalid_cursor()
    return after, place


def _invalid_cursor() -> RejectedError:
    return RejectedError("invalid_cursor", "the cursor does not belong to this list")
