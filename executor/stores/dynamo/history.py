"""The history of a run: what has happened to its visits, in an order that readers agree on.

Events lie in the records of visits, in the order of each. The first reader that finds new ones puts them in an order in
which no effect comes before its cause, and appends a page which says so, unless another reader was faster. Pages are never
changed, so a place in them is a place in the history for good, and who goes on from there misses nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.events import Event
from noetl.executor.model.run import END, VisitStatus
from noetl.executor.stores.cursors import read_event_id
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import MOST_RACES, DynamoContext
from noetl.executor.stores.dynamo.expressions import Put
from noetl.executor.stores.dynamo.run_items import spread_of
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.planner.frozen import frozen

PAGE = 1000
_BEGINNINGS = ("workflow.started", "workflow.resumed")
_BEGAN, _TOLD, _ENDED = range(3)
"""What comes first of a claim."""
HEAD = ""
"""The stream of what happens to the run as a whole; those of visits have their ids."""


@frozen
class EventStream:
    """What has happened to one visit, or to the run, in order; behind the streams of its causes. `rank` tells streams apart
    whose events happened at the same time.
    """

    name: str
    events: tuple[Event, ...]
    causes: tuple[str, ...] = ()
    is_done: bool = False
    rank: tuple[int, int] = (0, 0)

    def key(self, index: int, latest: float) -> tuple[float, int, tuple[int, int]]:
        """Where an event stands among those of other streams that could be next. The end of a run comes behind all that there
        is, until the run goes on.
        """
        event = self.events[index]
        if self.name != HEAD:
            return (event.at, 0, self.rank)
        if event.type in _BEGINNINGS:
            return (event.at, -1, self.rank)
        return (latest if index + 1 == len(self.events) else event.at, 1, self.rank)


class DynamoHistory(DynamoContext):
    """The part of the store that tells what has happened."""

    def events(self, run_id: str, after: str | None = None, limit: int = 1000) -> list[Event]:
        place = read_event_id(after)
        for _ in range(MOST_RACES):
            # The pages first: what they name is there when the visits are read after them.
            pages = [list(item["streams"]) for item in self.table.query(keys.partition_key(run_id), "E#")]
            streams = self._streams(run_id)
            told = dict.fromkeys(streams, 0)
            for name in (name for page in pages for name in page):
                told[name] = told.get(name, 0) + 1
            new = list(ordered(streams, told))
            if not self._append(run_id, len(pages), new):
                continue
            pages += [new[at : at + PAGE] for at in range(0, len(new), PAGE)]
            return _page(pages, streams, place, limit)
        return _page(pages, streams, place, limit)

    def _append(self, run_id: str, number: int, streams: list[str]) -> bool:
        """Append pages to the history; False when another reader was faster."""
        for at in range(0, len(streams), PAGE):
            number += 1
            try:
                self.table.write(
                    [Put(keys.history_page(run_id, number), {"streams": streams[at : at + PAGE]})]
                )
            except ConditionFailed:
                return False
        return True

    def _streams(self, run_id: str) -> dict[str, EventStream]:
        snapshot = read_snapshot(self, run_id)
        if snapshot is None:
            return {}
        past: dict[str, list[Item]] = {}
        for number in range(spread_of(snapshot.head)):
            for item in self.table.query(keys.partition_key(run_id, number), "X#"):
                past.setdefault(item["sk"].split("#")[1], []).append(item)
        told = self.blobs.load(snapshot.head.get("told")) or []
        run = EventStream(HEAD, tuple(_event(one) for one in told))
        streams = [self._stream(record, past.get(record.visit.id, ())) for record in snapshot.items]
        return {HEAD: run} | {stream.name: stream for stream in streams if stream is not None}

    def _stream(self, record: VisitItem, past: Iterable[Item]) -> EventStream | None:
        """What has happened to a visit: claims that began an attempt, what was told while they were at work, and their outcomes.
        `past` was read after the record. It may know of later claims, of which the record does not say how they began.
        """
        item, visit, way = record.item, record.visit, record.way
        if not item or item.get("history"):
            return None
        entries: dict[tuple[int, int, int], Sequence[Event]] = {}
        for fence, at, worker, attempt in item.get("begun", ()):
            begun = Event("step.started", at, visit.step, visit.number, attempt, payload={"worker": worker})
            entries[fence, _BEGAN, 0] = [begun]
        for one in past:
            _, _, fence, *first = one["sk"].split("#")
            place = (int(fence), _TOLD, int(first[0])) if first else (int(fence), _ENDED, 0)
            if place[0] <= visit.fence:
                entries[place] = [_event(event) for event in self.blobs.load(one["told"]) or ()]
        if told := (self.blobs.load(item.get("told")) or {}).get("h"):
            entries[visit.fence, _ENDED, 0] = [_event(event) for event in told]
        happened = tuple(event for place in sorted(entries) for event in entries[place])
        causes = way.causes or ((way.cause,) if way.cause else ())
        is_done = visit.finished_at is not None or visit.status is VisitStatus.PARKED
        return EventStream(visit.id, happened, causes, is_done, (int(visit.step == END), visit.clock))


def ordered(streams: Mapping[str, EventStream], told: Mapping[str, int]) -> Iterable[str]:
    """The streams of the events that are not told yet, one name for each, in an order in which causes come first: of those
    that may be next, the one that happened first. Nothing is told of a stream before all of its causes.
    """
    left = {name: told.get(name, 0) for name in streams}
    latest = max((event.at for stream in streams.values() for event in stream.events), default=0.0)
    ready: list[tuple[tuple[float, int, tuple[int, int]], int, str]] = []
    waiting: dict[str, list[str]] = {}
    tick = count()

    def is_told(name: str) -> bool:
        stream = streams.get(name)
        return stream is None or (stream.is_done and left[name] >= len(stream.events))

    def offer(name: str) -> None:
        stream = streams[name]
        if left[name] >= len(stream.events):
            return
        missing = next((cause for cause in stream.causes if not is_told(cause)), None)
        if missing is not None and left[name] == 0:
            waiting.setdefault(missing, []).append(name)
            return
        heapq.heappush(ready, (stream.key(left[name], latest), next(tick), name))

    for name in streams:
        offer(name)
    while ready:
        *_, name = heapq.heappop(ready)
        yield name
        left[name] += 1
        offer(name)
        if is_told(name):
            for other in waiting.pop(name, ()):
                offer(other)


def _page(
    pages: list[list[str]], streams: Mapping[str, EventStream], place: tuple[int, int], limit: int
) -> list[Event]:
    """The events behind a place, at most so many."""
    told: dict[str, int] = {}
    found: list[Event] = []
    for number, page in enumerate(pages, 1):
        for index, name in enumerate(page):
            nth = told.get(name, 0)
            told[name] = nth + 1
            stream = streams.get(name)
            if (number, index) > place and stream is not None and nth < len(stream.events):
                found.append(replace(stream.events[nth], id=f"{number}-{index}"))
                if len(found) == limit:
                    return found
    return found


def _event(told: list[object]) -> Event:
    type, at, step, visit, attempt, duration, payload = told
    return Event(type, at, step, visit, attempt, duration, payload)  # type: ignore[arg-type]
