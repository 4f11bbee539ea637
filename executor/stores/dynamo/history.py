"""The history of a run: the events of its visits, in one order on which all readers agree.

Problem: workers write events into the items of their visits, without any common order. A reader pages
through the history while it grows, and must miss no event and see none twice. No effect may come before its
cause.

Algorithm: a topological merge by time (Kahn 1962, with a heap). The events of a visit are one stream. It
becomes ready when the streams of its causes are complete. Of the ready streams, the earliest event is next.
The first reader that finds new events appends a page with their order, by a put that fails if another reader
was faster. Pages never change, so a place in the pages remains the same place in the history.

Cost: a reader reads the run, its pages and its event items; merging n events takes O(n log n).

Limits: the history of a run that is never read has no pages. Clocks of workers affect only the order of
events that do not depend on each other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import NOTIFICATION_EVENT, Event
from noetl.executor.model.run import END, VisitStatus
from noetl.executor.model.visit_transition import started_event
from noetl.executor.stores.cursors import (
    BEFORE_ALL_EVENTS,
    EventPlace,
    read_event_id,
    read_visit_event_id,
    write_event_id,
    write_visit_event_id,
)
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Put
from noetl.executor.stores.dynamo.run_items import decode_shift, run_id_of, spread_of
from noetl.executor.stores.dynamo.run_overview import ranges_from
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, read_snapshot
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.planner.frozen import frozen, replace

PAGE_SIZE = 1000
_START_EVENTS = ("workflow.started", "workflow.resumed")
_START, _RENEWAL, _OUTCOME = range(3)
"""Order of the events of one claim."""

RUN_STREAM = ""
"""Name of the stream of events of the run; streams of visits are named by the ids of the visits."""

PAUSE_STREAM = "#pauses"
"""Name of the stream of the pauses of the run, and of its notifications that were not delivered.

It is apart, so that each stream only grows at its end.
"""


@frozen
class EventStream:
    """The events of one visit or of the run, in order.

    No event comes before the streams of the causes are complete. `rank` orders events of the same time.
    """

    name: str
    events: tuple[Event, ...]
    causes: tuple[str, ...] = ()
    is_done: bool = False
    rank: tuple[int, int] = (0, 0)

    def sort_key(self, index: int, latest: float) -> tuple[float, int, tuple[int, int]]:
        """Return the place of an event among the next events of other streams; `latest` is the time of the
        last event, without notifications.

        The end of a run comes after all events until `latest`, until the run is resumed.
        """
        event = self.events[index]
        if self.name != RUN_STREAM:
            return (event.at, 0, self.rank)
        if event.type in _START_EVENTS:
            return (event.at, -1, self.rank)
        is_end = index + 1 == len(self.events) and event.type != "workflow.migrated"
        return (latest if is_end else event.at, 1, self.rank)


class RunHistory:
    """The histories of runs."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        place, named = _read_cursor(run_id, after)
        for _ in range(MAX_CONFLICTS):
            # Pages are read first, so the events that they name are in the visits that are read after them.
            pages = [
                list(item["streams"]) for item in self._context.table.query(keys.partition_key(run_id), "E#")
            ]
            streams = self._streams(run_id)
            ordered = dict.fromkeys(streams, 0)
            for name in (name for page in pages for name in page):
                ordered[name] = ordered.get(name, 0) + 1
            new = list(merge_streams(streams, ordered))
            if not self._append_pages(run_id, len(pages), new):
                continue
            pages += [new[start : start + PAGE_SIZE] for start in range(0, len(new), PAGE_SIZE)]
            break
        if named is not None:
            place = _find_place(pages, streams, *named)
        events = islice(_events_after(pages, streams, place), limit)
        return [replace(event, id=write_event_id(run_id, place)) for place, event in events]

    def all_events(self, snapshot: RunSnapshot) -> list[Event]:
        """Return the events of a run that was just read, in the order of their streams."""
        streams = self._streams_of(run_id_of(snapshot.head), snapshot)
        return [event for stream in streams.values() for event in stream.events]

    def events_from(self, snapshot: RunSnapshot, clock: int) -> list[Event]:
        """Return the events of visits that were just read: of those on cycles, the ones from a clock on."""
        table, pk = self._context.table, keys.partition_key(run_id_of(snapshot.head))
        pages = self._context.in_parallel(
            lambda bounds: table.query_range(pk, bounds)[0],
            ranges_from(self._context, snapshot.head, "X#", clock),
        )
        streams = self._visit_streams(snapshot, (item for page in pages for item in page))
        return [event for stream in streams for event in stream.events]

    def visit_events(self, item: VisitItem) -> list[Event]:
        """Return the events of a visit that was just read, in order.

        Their ids are cursors as those of the history are, although they have another form.
        """
        visit = item.visit
        pk = self._context.heads.visit_key(visit.run_id, visit.id).pk
        stream = self._stream(item, self._context.table.query(pk, f"X#{visit.id}#"))
        events = () if stream is None else stream.events
        return [
            replace(event, id=write_visit_event_id(visit.run_id, visit.id, index))
            for index, event in enumerate(events)
        ]

    def _append_pages(self, run_id: str, number: int, names: list[str]) -> bool:
        """Append pages to the history after page `number`; return False if another reader was faster."""
        for start in range(0, len(names), PAGE_SIZE):
            number += 1
            page = {"streams": names[start : start + PAGE_SIZE]}
            try:
                self._context.table.write([Put(keys.history_page(run_id, number), page)])
            except ConditionFailed:
                return False
        return True

    def _streams(self, run_id: str) -> dict[str, EventStream]:
        """Return the streams of a run by name, that of the run first."""
        snapshot = read_snapshot(self._context, run_id)
        return {} if snapshot is None else self._streams_of(run_id, snapshot)

    def _streams_of(self, run_id: str, snapshot: RunSnapshot) -> dict[str, EventStream]:
        """Return the streams of a run that was just read."""
        partitions = (keys.partition_key(run_id, number) for number in range(spread_of(snapshot.head)))
        event_items = (item for pk in partitions for item in self._context.table.query(pk, "X#"))
        run_events = self._context.blobs.load_if_kept(snapshot.head.get("told")) or []
        run_stream = EventStream(RUN_STREAM, tuple(_decode_event(event) for event in run_events))
        streams = self._visit_streams(snapshot, event_items)
        shifts = snapshot.head.get("shifts", ())
        pause_stream = EventStream(PAUSE_STREAM, tuple(decode_shift(shift) for shift in shifts))
        return {RUN_STREAM: run_stream, PAUSE_STREAM: pause_stream} | {
            stream.name: stream for stream in streams
        }

    def _visit_streams(self, snapshot: RunSnapshot, event_items: Iterable[Item]) -> list[EventStream]:
        """Return the streams of the visits of a snapshot, whose event items were read after it."""
        items_of: dict[str, list[Item]] = {}
        for item in event_items:
            items_of.setdefault(item["sk"].split("#")[1], []).append(item)
        streams = [self._stream(item, items_of.get(item.visit.id, ())) for item in snapshot.items]
        return [stream for stream in streams if stream is not None]

    def _stream(self, item: VisitItem, event_items: Iterable[Item]) -> EventStream | None:
        """Return the events of a visit: starts of attempts, events of renewals, and outcomes of claims.

        `event_items` were read after the visit. Items of later claims are left out, since the visit does not
        hold the starts of those.
        """
        visit, origin = item.visit, item.origin
        if not item.attributes or item.attributes.get("history"):
            return None
        entries: dict[tuple[int, int, int], Sequence[Event]] = {}
        for fence, time, worker, attempt in item.attributes.get("begun", ()):
            claimed = replace(visit, started_at=time, worker=worker, attempt=attempt)
            entries[fence, _START, 0] = [started_event(claimed)]
        for event_item in event_items:
            _, _, fence, *first = event_item["sk"].split("#")
            place = (int(fence), _RENEWAL, int(first[0])) if first else (int(fence), _OUTCOME, 0)
            if place[0] <= visit.fence:
                entries[place] = [
                    _decode_event(event)
                    for event in self._context.blobs.load_if_kept(event_item["told"]) or ()
                ]
        if outcome_events := (self._context.blobs.load_if_kept(item.attributes.get("told")) or {}).get("h"):
            entries[visit.fence, _OUTCOME, 0] = [_decode_event(event) for event in outcome_events]
        events = tuple(event for place in sorted(entries) for event in entries[place])
        causes = origin.causes or ((origin.cause,) if origin.cause else ())
        is_done = visit.finished_at is not None or visit.status is VisitStatus.PARKED
        return EventStream(visit.id, events, causes, is_done, (int(visit.step == END), visit.clock))


def merge_streams(streams: Mapping[str, EventStream], ordered: Mapping[str, int]) -> Iterable[str]:
    """Yield the stream name of each new event, in an order in which causes come before effects.

    `ordered` is the number of events of each stream that already have a place. Of the events that may be
    next, the earliest is first.

    >>> first = EventStream("a", (Event("x", 5.0),), is_done=True)
    >>> second = EventStream("b", (Event("y", 1.0),), causes=("a",))
    >>> list(merge_streams({"b": second, "a": first}, {}))
    ['a', 'b']
    """
    next_index = {name: ordered.get(name, 0) for name in streams}
    events = (event for stream in streams.values() for event in stream.events)
    # A notification may be given up long after the end of the run.
    latest = max((event.at for event in events if event.type != NOTIFICATION_EVENT), default=0.0)
    ready: list[tuple[tuple[float, int, tuple[int, int]], int, str]] = []
    waiting: dict[str, list[str]] = {}
    tie_breaker = count()

    def is_complete(name: str) -> bool:
        stream = streams.get(name)
        return stream is None or (stream.is_done and next_index[name] >= len(stream.events))

    def offer(name: str) -> None:
        stream = streams[name]
        if next_index[name] >= len(stream.events):
            return
        incomplete = next((cause for cause in stream.causes if not is_complete(cause)), None)
        if incomplete is not None and next_index[name] == 0:
            waiting.setdefault(incomplete, []).append(name)
            return
        heapq.heappush(ready, (stream.sort_key(next_index[name], latest), next(tie_breaker), name))

    for name in streams:
        offer(name)
    while ready:
        *_, name = heapq.heappop(ready)
        yield name
        next_index[name] += 1
        offer(name)
        if is_complete(name):
            for waiting_name in waiting.pop(name, ()):
                offer(waiting_name)


def _read_cursor(run_id: str, after: str | None) -> tuple[EventPlace, tuple[str, int] | None]:
    """Return the place of an event in the history, or the visit that an id names, and the index there.

    Raises:
        RejectedError: `invalid_cursor`.
    """
    named = read_visit_event_id(run_id, after)
    return (read_event_id(run_id, after), None) if named is None else (BEFORE_ALL_EVENTS, named)


def _find_place(
    pages: list[list[str]], streams: Mapping[str, EventStream], name: str, index: int
) -> EventPlace:
    """Return the place of an event of a stream.

    Raises:
        RejectedError: `invalid_cursor`, if there is no such event.
    """
    if name in streams:
        places = (place for place, _ in _events_after(pages, {name: streams[name]}, BEFORE_ALL_EVENTS))
        place = next(islice(places, index, None), None)
        if place is not None:
            return place
    raise RejectedError("invalid_cursor", "the run has no such event")


def _events_after(
    pages: list[list[str]], streams: Mapping[str, EventStream], after: EventPlace
) -> Iterator[tuple[EventPlace, Event]]:
    """Yield the events after a place (page, index), each with its place."""
    next_index: dict[str, int] = {}
    for number, page in enumerate(pages, 1):
        for index, name in enumerate(page):
            nth = next_index.get(name, 0)
            next_index[name] = nth + 1
            stream = streams.get(name)
            if (number, index) > after and stream is not None and nth < len(stream.events):
                yield (number, index), stream.events[nth]


def _decode_event(encoded: Sequence[object]) -> Event:
    type, time, step, visit, attempt, duration, payload = encoded
    return Event(type, time, step, visit, attempt, duration, payload)  # type: ignore[arg-type]
