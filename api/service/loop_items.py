"""The service of the items of loops: pages of items by state, with the counts of all states.

Problem: a loop may have 10,000 items, and a page of them must cost no more than that of a loop with 100.

Algorithm: `noetl.api.service.item_states` derives the counts and the states from records of the visit. The
failed items of a loop that continued are stored with the visit as JSON. A page decodes only its own part of
this text, and its cursor has the place where the next page begins. A cursor names its visit, loop and state.
What is recorded of the loops of a finished visit does not change, so a process remembers it (memoization).

Cost: one read of the visit without its outputs. One more for each part of the failed items, whose length is
that of a usual page. A page reads MAX_PAGE_CHARACTERS of them, or one item. One read of the events, unless
they are remembered.

Limits: a store in DynamoDB without a bucket reads all failures of the visit for each part. The journal of a
paused loop without `batch` grows with the items that have begun. The events of a visit that has not finished
are read for each page.
"""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from functools import partial
from itertools import chain
from typing import Any, cast

from noetl.api.service.data_views import LoopItem, LoopItems, RunDetails
from noetl.api.service.errors import NotFoundError
from noetl.api.service.item_states import FindLoop, KnownItem, LoopFacts, read_loops, with_error
from noetl.api.service.loop_states import ItemState
from noetl.api.service.plan_loops import find_loop, has_loop
from noetl.api.service.run_data import RunDataService
from noetl.api.service.step_reports import item_waits, visit_state
from noetl.api.service.views import ForgivenItem, RunReport, StepReport, StepState
from noetl.executor.engine.kept_data import shorten_error
from noetl.executor.engine.preview import preview
from noetl.executor.errors import RejectedError
from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.run import ErrorRecord, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Step
from noetl.planner.weighted_cache import WeightedCache

ITEMS_PER_PAGE = 100
MAX_ITEMS_PER_PAGE = 1000
MAX_PAGE_CHARACTERS = 1 << 19
"""How much of the stored failures a page decodes. A page may have fewer items than its limit."""

_ITEM_CHARACTERS = 256
_MIN_PART_CHARACTERS = 1 << 14
_PART_CHARACTERS = 1 << 16
"""A part of the stored failures has _ITEM_CHARACTERS for each item of the page, between these lengths."""

_LOOP_BYTES = 24 << 20
"""How many bytes the records of finished loops use together that a process remembers, by an estimate."""
_BYTES_PER_CHARACTER = 4
_BYTES_PER_ITEM = 300

_EVENT_TYPES = ("step.started", "loop.progress", "loop.item_failed")
"""The events that tell the states of items."""

_MAX_FORGIVEN_ITEMS = 5
_MAX_FORGIVING_STEPS = 20
"""How many failed items of a step, and of how many steps, a run at a glance has."""

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


class FinishedLoops:
    """The records of the loops of finished visits that a process has read lately."""

    def __init__(self) -> None:
        self._cache: WeightedCache[tuple[object, ...], dict[str, LoopFacts]] = WeightedCache(
            _LOOP_BYTES, _LOOP_BYTES // 2
        )

    def get(
        self, run: RunSummary, visit: Visit, read: Callable[[], dict[str, LoopFacts]]
    ) -> dict[str, LoopFacts]:
        """Return what is recorded of the loops of a visit. `read()` reads it."""
        if visit.finished_at is None:
            return read()
        key = run.id, visit.id, visit.fence, visit.finished_at, run.status
        known = self._cache.find(key)
        if known is None:
            known = read()
            self._cache.add(key, known, sum(map(_weigh, known.values())))
        return known


def _weigh(facts: LoopFacts) -> int:
    """Return an estimate of the bytes of the records of a loop."""
    return sum(
        _BYTES_PER_ITEM + _BYTES_PER_CHARACTER * (json_size(item.failure) if item.failure else 0)
        for item in facts.known.values()
    )


@frozen
class LoopItemService:
    """The items of the loops of one tenant. `loops` may be shared by all tenants."""

    data: RunDataService
    loops: FinishedLoops = field(default_factory=FinishedLoops)

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
        return self._page_of(self.data.runs.summary(run_id), query)

    def _page_of(self, run: RunSummary, query: ItemQuery) -> LoopItems:
        visit = self.data.find_visit(run, query.step, query.visit).visit
        step = self._store.plans.step(run.plan_hash, visit.step)
        tasks = partial(self._store.plans.task, run.plan_hash)
        if not has_loop(step, tasks):
            raise RejectedError("no_loop", f"step `{abbreviate(step.name)}` has no loop")
        loop_visit = _LoopVisit(run, visit, step, partial(find_loop, step, tasks))
        loops = self._read_loops(loop_visit)
        position = _choose_loop(loops, query.loop)
        facts = None if position is None else loops[position]
        page = _NO_ITEMS if facts is None else self._find_items(loop_visit, query, facts, loops)
        return _describe_page(loop_visit, loops, facts, page)

    def details(self, run_id: str) -> RunDetails:
        """Return a run at a glance, with the first failed items of the loops that continued.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        details = self.data.details(run_id)
        names = [
            name for name, step in details.steps.items() if any(loop.failed for loop in step.loops or ())
        ]
        if not names:
            return details
        steps = self._with_failed_items(self.data.runs.summary(run_id), details.steps, names)
        return RunDetails(**{**vars(details), "steps": steps})

    def report(self, run_id: str) -> RunReport:
        """Return the status of a run, with the first failed items of the loops that continued.

        Raises:
            NotFoundError: the tenant has no such run.
        """
        overview = self.data.runs.overview(run_id)
        report, run = self.data.runs.describe(overview), overview.summary
        if overview.damage is not None or not any(map(_may_forgive, report.steps.values())):
            return report
        names = sorted(self.data.context.loop_steps(run.plan_hash))
        return RunReport(**{**vars(report), "steps": self._with_failed_items(run, report.steps, names)})

    def _with_failed_items(
        self, run: RunSummary, steps: Mapping[str, StepReport], names: Sequence[str]
    ) -> dict[str, StepReport]:
        """Return reports of steps, with the failed items of those of `names` that have succeeded."""
        forgiving = [name for name in names if _may_forgive(steps[name])]
        changed = dict(steps)
        for name in forgiving[:_MAX_FORGIVING_STEPS]:
            page = self._page_of(run, ItemQuery(name, state=ItemState.FAILED, limit=_MAX_FORGIVEN_ITEMS))
            items = [
                ForgivenItem(number=item.number, value=item.value, error=item.error) for item in page.items
            ]
            if items:
                changed[name] = StepReport(
                    **{**vars(steps[name]), "failed_items": items, "failed_item_count": page.counts["failed"]}
                )
        return changed

    def _read_loops(self, loop_visit: _LoopVisit) -> dict[str, LoopFacts]:
        """Return what is recorded of the loops of a visit."""
        return self.loops.get(loop_visit.run, loop_visit.visit, lambda: self._read_recorded_loops(loop_visit))

    def _read_recorded_loops(self, loop_visit: _LoopVisit) -> dict[str, LoopFacts]:
        run, visit = loop_visit.run, loop_visit.visit
        events = self._store.visits.events(run.id, visit.step, visit.number, _EVENT_TYPES)
        loops = read_loops(visit, events, loop_visit.find, is_cancelled=run.status is RunStatus.CANCELLED)
        if not loops:
            self.data.runs.summary(run.id)  # The run may have been deleted meanwhile.
        elif visit.finished_at is not None:
            last = list(loops)[-1]
            loops[last] = with_error(loops[last], visit.error)
        return loops

    def _find_items(
        self, loop_visit: _LoopVisit, query: ItemQuery, facts: LoopFacts, loops: Iterable[str]
    ) -> _ItemPage:
        if query.state is not None and query.state not in facts.counts():
            return _NO_ITEMS
        visit, scope = loop_visit.visit, loop_visit.scope(facts, query)
        after, start = _read_cursor(query.cursor, scope)
        failures: Iterator[StoredEntry] = iter(())
        if (
            visit.status is VisitStatus.SUCCEEDED
            and facts.failed
            and loop_visit.stores_failures(facts, loops)
        ):
            read = partial(self._store.visits.failures_text, visit.run_id, visit.id)
            wanted = max(query.limit * _ITEM_CHARACTERS, _MIN_PART_CHARACTERS)
            failures = read_entries(read, start, min(wanted, _PART_CHARACTERS))
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
class _LoopVisit:
    """A visit of a step that has a loop. `find` returns the loop of the plan at a position of its work."""

    run: RunSummary
    visit: Visit
    step: Step
    find: FindLoop

    def scope(self, facts: LoopFacts, query: ItemQuery) -> str:
        """Return a text that differs for each list, to which a cursor belongs."""
        visit = self.visit
        return f"{visit.run_id} {visit.id} {visit.fence} {facts.position} {query.state}"

    def stores_failures(self, facts: LoopFacts, loops: Iterable[str]) -> bool:
        """Return whether the visit stores the failed items of a loop: of its last work, in the last round."""
        step = self.step
        pattern = r"run(~\d+)?" if step.loop is not None else rf"run(~\d+)?\.{len(step.run) - 1}"
        matching = [loop for loop in loops if re.fullmatch(pattern, loop)]
        is_parallel = step.loop is None and step.parallel
        return not is_parallel and bool(matching) and matching[-1] == facts.position


def _may_forgive(step: StepReport) -> bool:
    """Return whether the latest visit of a step may have failed items, although it has succeeded."""
    return step.status is StepState.SUCCEEDED and step.visits > 0


def _describe_page(
    loop_visit: _LoopVisit, loops: Mapping[str, LoopFacts], facts: LoopFacts | None, page: _ItemPage
) -> LoopItems:
    run, visit = loop_visit.run, loop_visit.visit
    unlisted = {} if facts is None or page.is_complete else facts.unlisted()
    return LoopItems(
        workflow_id=run.id,
        step=visit.step,
        visit=visit.number,
        status=visit_state(run.status, visit),
        loop=None if facts is None else facts.position,
        loops=[entry.report for entry in loops.values()] if len(loops) > 1 else None,
        total=None if facts is None else facts.total,
        counts={} if facts is None else {state.value: count for state, count in facts.counts().items()},
        unlisted={state.value: count for state, count in unlisted.items()} or None,
        items=page.items,
        next_cursor=page.next_cursor,
    )


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
        is_wanted = state in (None, ItemState.FAILED)
        yield _Entry(number, place, _describe_stored(stored, facts.known) if is_wanted else None)
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


def _describe_stored(stored: StoredEntry, known: Mapping[int, KnownItem]) -> LoopItem:
    """Return an item that is stored as failed, with what its event says of its attempts and its input."""
    members = stored.members
    event = known.get(members["index"], KnownItem(ItemState.FAILED)).failure
    return LoopItem(
        number=members["index"],
        state=ItemState.FAILED,
        value=preview(members["item"]),
        error=cast("ErrorRecord", shorten_error(members["error"])),
        attempts=event.get("attempts"),
        input=event.get("input"),
        cut=event.get("cut"),
    )


@frozen
class StoredEntry:
    """A failed item in the text of all: its members, its place, and that of the next one."""

    begin: int
    end: int
    members: Mapping[str, Any]


def read_entries(
    read: Callable[[int, int], str], start: int, part: int = _PART_CHARACTERS
) -> Iterator[StoredEntry]:
    """Yield the failed items of a visit from a place in their text on.

    `read(start, length)` returns a part of the text, usually of `part` characters. It is read again with more
    characters if its last object is not complete.

    >>> text = '[{"index":1,"item":0,"error":{}},{"index":7,"item":0,"error":{}}]'
    >>> [(entry.begin, entry.end) for entry in read_entries(lambda at, n: text[at : at + n], 0)]
    [(1, 33), (33, 65)]

    Raises:
        RejectedError: `invalid_cursor`, if no failed item begins at `start`.
    """
    place, length = max(start, 1), part
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
            place, length = base + end + 1, part
            if text[end : end + 1] == "]":
                return
            if place - base < len(text):
                continue
        base, text = place, read(place, length)


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
