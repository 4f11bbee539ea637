"""The event buffer of a claim: events that happened and are not in the history of the run yet.

Problem: many threads of a visit record events. The thread that commits and the thread that renews the claim
write them. Each event must be written once, in order, and without secrets.

Algorithm: a bounded-batch outbox with two locks. `_append_lock` guards the list of events; `_write_lock`
admits one writer. The renewal (`flush_batch`) skips its turn if another writer is active; the commit
(`flush_all`) waits for it. Events leave the buffer only when the store has confirmed them. The store receives
the number of events already written, so it can number the new ones. A full buffer spills: the thread that
records the next event first writes batches until the buffer is half empty. Only then a batch may be one long
event. Source: the transactional outbox pattern
(https://microservices.io/patterns/data/transactional-outbox.html).

Cost: one append for each event; a batch has at most `MAX_BATCH_EVENTS` events.

Limits: if the store fails without saying whether it wrote a batch, the same events are written again, and a
reader may see them twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeVar

from noetl.executor.model.events import Event
from noetl.executor.model.memory_budget import json_size
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.frozen import replace

MAX_BUFFERED_EVENTS = 5_000
"""The number of events that are not written yet at which a thread that records an event writes a batch first.
"""

MAX_BATCH_EVENTS = 200
MAX_BATCH_CHARACTERS = 32 * 1024
"""The limits of one batch that is written while a visit is running: events, and characters of JSON payload.
"""

_KEPT_EVENTS = ("action.log", "loop.item_failed")
"""The events that only keep data: what they report is counted elsewhere."""

T = TypeVar("T")


class EventBuffer:
    """The events of one claim, from the moment they happen until they are written.

    They are redacted on writing. `spill` writes a batch of this buffer when it is full.
    """

    drops_events = False

    def __init__(self, spill: Callable[[EventBuffer], object] | None = None) -> None:
        self._spill = spill
        self._events: list[Event] = []
        self._written = 0
        self._progress: dict[str, Callable[[], Event]] = {}
        self._append_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def append(self, event: Event) -> None:
        """Add an event. If the buffer is full, write batches first."""
        with self._append_lock:
            self._events.append(event)
            count = len(self._events)
        if count >= MAX_BUFFERED_EVENTS and self._spill is not None:
            while len(self._events) > MAX_BUFFERED_EVENTS // 2 and self._written_by(self._spill):
                pass

    def _written_by(self, spill: Callable[[EventBuffer], object]) -> bool:
        """Return whether a spill has written events. Only one thread writes; the others go on."""
        before = self._written
        spill(self)
        return self._written > before

    def drop_kept_data(self) -> bool:
        """Drop the lines, the failed items and the inputs in the events. Return whether there were any.

        A store that cannot keep them together with the outcome of a step keeps the outcome.
        """
        with self._append_lock:
            before = list(self._events)
            self._events = [_without_input(event) for event in before if event.type not in _KEPT_EVENTS]
            return self._events != before

    def report_progress(self, loop: str, event: Callable[[], Event], *, is_final: bool) -> None:
        """Set the progress event of the loop at a position. It replaces the previous one of this loop.

        The final progress is always written. Progress that is not final is written only with the next batch;
        the event is created then.
        """
        with self._append_lock:
            self._progress.pop(loop, None)
            if is_final:
                self._events.append(event())
            else:
                self._progress[loop] = event

    @property
    def has_progress(self) -> bool:
        """True if a loop has reported progress that is not written."""
        return bool(self._progress)

    def flush_batch(self, write: Callable[[Sequence[Event], int], bool]) -> None:
        """Call write(events, already_written) with the next batch, and drop the batch if it returns true.

        If `write` raises, the events stay. While another thread writes, the batch is empty.
        """
        is_only_writer = self._write_lock.acquire(blocking=False)
        try:
            events = self._next_batch() if is_only_writer else []
            if write(_redacted(events), self._written):
                self._drop(len(events))
        finally:
            if is_only_writer:
                self._write_lock.release()

    def flush_all(self, write: Callable[[Sequence[Event]], T]) -> T:
        """Return write(events) with all events, after a write in progress has ended.

        If `write` raises, the events stay.
        """
        with self._write_lock:
            with self._append_lock:
                self._progress.clear()
                events = list(self._events)
            result = write(_redacted(events))
            self._drop(len(events))
            return result

    def _next_batch(self) -> list[Event]:
        with self._append_lock:
            self._events += [event() for event in self._progress.values()]
            self._progress.clear()
            # Long events wait for the commit. They must not hold up the events of a buffer that is full.
            may_be_long = len(self._events) > MAX_BUFFERED_EVENTS // 2
            batch: list[Event] = []
            characters = 0
            for event in islice(self._events, MAX_BATCH_EVENTS):
                characters += json_size(event.payload)
                if characters > MAX_BATCH_CHARACTERS and (batch or not may_be_long):
                    break
                batch.append(event)
            return batch

    def _drop(self, count: int) -> None:
        with self._append_lock:
            del self._events[:count]
            self._written += count


class NullEventBuffer(EventBuffer):
    """A buffer that drops its events: those of the items of a loop."""

    drops_events = True

    def append(self, event: Event) -> None:
        """Drop the event."""

    def report_progress(self, loop: str, event: Callable[[], Event], *, is_final: bool) -> None:
        """Drop the event."""


def _without_input(event: Event) -> Event:
    if "input" not in event.payload:
        return event
    payload = {name: value for name, value in event.payload.items() if name not in ("input", "cut")}
    return replace(event, payload=payload)


def _redacted(events: Sequence[Event]) -> tuple[Event, ...]:
    payloads = [redact_for_storage(event.payload) for event in events]
    return tuple(
        event if event.payload is payload else replace(event, payload=payload)
        for event, payload in zip(events, payloads, strict=True)
    )
