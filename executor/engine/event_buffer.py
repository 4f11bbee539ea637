"""What a visit at work has to tell: events that are not in the history of its run yet.

The threads that work note them. Two write them, and never at one time: the thread that commits, at the end, and before
that, now and then, the one that renews the claim. So each event is written once, in the order in which they were noted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from noetl.executor.model.events import Event
from noetl.executor.model.memory_budget import json_size
from noetl.executor.security.redaction import redact_for_storage

MAX_BATCH_EVENTS = 200
MAX_BATCH_CHARACTERS = 32 * 1024
"""What is told while a visit is at work, at once: so many events, whose payloads have so many characters as JSON."""

T = TypeVar("T")


class EventBuffer:
    """The events of one claim, from when they are noted until they are written. Secrets are gone from what is written."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._told = 0
        self._counts: dict[str, Callable[[], Event]] = {}
        self._noting = threading.Lock()
        self._writing = threading.Lock()

    def append(self, event: Event) -> None:
        """Have one event more to tell."""
        with self._noting:
            self._events.append(event)

    def report_progress(self, loop: str, event: Callable[[], Event], *, is_final: bool) -> None:
        """Say how far the loop at a position has come. What is not final is told if something is written before the loop comes
        further; the event is made then.
        """
        with self._noting:
            self._counts.pop(loop, None)
            if is_final:
                self._events.append(event())
            else:
                self._counts[loop] = event

    def flush_batch(self, write: Callable[[Sequence[Event], int], bool]) -> None:
        """Let the next events be written, no more of them than one write should hold. `write` is told how many were written
        before, and answers whether it has written these; where it raises they are told again. While somebody writes the rest,
        there is nothing left to tell.
        """
        is_alone = self._writing.acquire(blocking=False)
        try:
            events = self._next() if is_alone else []
            if write(_scrubbed(events), self._told):
                self._forget(len(events))
        finally:
            if is_alone:
                self._writing.release()

    def flush_all(self, write: Callable[[Sequence[Event]], T]) -> T:
        """Let all that is left be written, once a write at work is done; what `write` gives. Where it raises, all of it is left
        still.
        """
        with self._writing:
            with self._noting:
                self._counts.clear()
                events = list(self._events)
            given = write(_scrubbed(events))
            self._forget(len(events))
            return given

    def _next(self) -> list[Event]:
        with self._noting:
            self._events += [event() for event in self._counts.values()]
            self._counts.clear()
            found: list[Event] = []
            characters = 0
            for event in islice(self._events, MAX_BATCH_EVENTS):
                characters += json_size(event.payload)
                if characters > MAX_BATCH_CHARACTERS:
                    break
                found.append(event)
            return found

    def _forget(self, count: int) -> None:
        with self._noting:
            del self._events[:count]
            self._told += count


class NullEventBuffer(EventBuffer):
    """What nobody wants to be told: the events of the items of a loop."""

    def append(self, event: Event) -> None:
        """Forget it."""

    def report_progress(self, loop: str, event: Callable[[], Event], *, is_final: bool) -> None:
        """Forget it."""


def _scrubbed(events: Sequence[Event]) -> tuple[Event, ...]:
    clean = [redact_for_storage(event.payload) for event in events]
    return tuple(
        event if event.payload is payload else replace(event, payload=payload)
        for event, payload in zip(events, clean, strict=True)
    )
