"""The event buffer writes each event once and in order, also with concurrent writers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from noetl.executor.engine import event_buffer
from noetl.executor.engine.event_buffer import (
    MAX_BATCH_CHARACTERS,
    MAX_BATCH_EVENTS,
    EventBuffer,
    NullEventBuffer,
)
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import PayloadTooLargeError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import Claim, Run, RunStatus, Visit, VisitStatus
from noetl.executor.runtime.lease_keeper import CANCEL_POLL_SECONDS, HeldClaim, LeaseKeeper
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.security.redaction import CallbackTokens
from noetl.executor.stores.interface import Store


class FakeHistory:
    """A history that records each write with the number of events already written."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.writes: list[tuple[str, int | None]] = []

    def write_batch(self, events: Sequence[Event], already_written: int) -> bool:
        return self._write(events, already_written)

    def write_all(self, events: Sequence[Event]) -> bool:
        return self._write(events, None)

    def _write(self, events: Sequence[Event], already_written: int | None) -> bool:
        names = [event.type for event in events]
        self.written += names
        self.writes.append(("".join(names), already_written))
        return True


def buffer_with(*names: str) -> EventBuffer:
    buffer = EventBuffer()
    for name in names:
        buffer.append(Event(name, 0.0))
    return buffer


@pytest.fixture
def history() -> FakeHistory:
    return FakeHistory()


def test_written_events_are_not_written_again(history: FakeHistory) -> None:
    buffer = buffer_with("a", "b")
    buffer.flush_batch(history.write_batch)
    buffer.append(Event("c", 0.0))
    buffer.flush_batch(history.write_batch)
    buffer.flush_batch(history.write_batch)
    buffer.append(Event("d", 0.0))
    assert buffer.flush_all(history.write_all)
    buffer.flush_batch(history.write_batch)
    assert history.writes == [("ab", 0), ("c", 2), ("", 3), ("d", None), ("", 4)]


def test_events_of_a_failed_write_are_written_again(history: FakeHistory) -> None:
    buffer = buffer_with("a")

    def fails(*_: object) -> bool:
        raise StoreError("The store is away.")

    with pytest.raises(StoreError):
        buffer.flush_batch(fails)
    buffer.append(Event("b", 0.0))
    buffer.flush_batch(lambda *_: False)  # the claim is lost
    with pytest.raises(StoreError):
        buffer.flush_all(fails)
    buffer.flush_batch(history.write_batch)
    assert history.writes == [("ab", 0)]


def test_a_refused_commit_loses_and_repeats_no_event(history: FakeHistory) -> None:
    buffer = buffer_with("a", "b")
    buffer.flush_batch(history.write_batch)
    buffer.append(Event("c", 0.0))

    def refuses(events: Sequence[Event]) -> None:
        buffer.flush_batch(history.write_batch)  # a renewal during the commit
        raise PayloadTooLargeError("it is too large")

    with pytest.raises(PayloadTooLargeError):
        buffer.flush_all(refuses)
    buffer.append(Event("d", 0.0))
    buffer.flush_all(history.write_all)
    assert history.writes == [("ab", 0), ("", 2), ("cd", None)]


def test_a_renewal_does_not_wait_for_a_commit(history: FakeHistory) -> None:
    buffer = buffer_with("a")

    def commits(events: Sequence[Event]) -> bool:
        renewal = threading.Thread(target=buffer.flush_batch, args=(history.write_batch,))
        renewal.start()
        renewal.join()
        return history.write_all(events)

    buffer.flush_all(commits)
    assert history.writes == [("", 0), ("a", None)]


def test_a_commit_waits_for_a_renewal_that_writes_events(history: FakeHistory) -> None:
    buffer = buffer_with("a", "b")
    commit_thread = threading.Thread(target=buffer.flush_all, args=(history.write_all,))

    def renews(events: Sequence[Event], already_written: int) -> bool:
        buffer.append(Event("c", 0.0))
        commit_thread.start()
        assert history.writes == []
        return history.write_batch(events, already_written)

    buffer.flush_batch(renews)
    commit_thread.join()
    assert history.writes == [("ab", 0), ("c", None)]


def test_threads_append_while_others_write(history: FakeHistory) -> None:
    buffer = EventBuffer()
    names = [[f"{thread}.{number} " for number in range(400)] for thread in range(4)]
    over = threading.Event()

    def append(names: list[str]) -> None:
        for name in names:
            buffer.append(Event(name, 0.0))

    def renew() -> None:
        while not over.is_set():
            buffer.flush_batch(history.write_batch)

    appenders = [threading.Thread(target=append, args=(names,)) for names in names]
    renewal = threading.Thread(target=renew)
    for thread in (renewal, *appenders):
        thread.start()
    for thread in appenders:
        thread.join()
    buffer.flush_all(history.write_all)
    over.set()
    renewal.join()
    assert len(history.written) == 1600
    assert [
        [name for name in history.written if name.startswith(f"{thread}.")] for thread in range(4)
    ] == names


def test_one_renewal_writes_a_bounded_batch(history: FakeHistory) -> None:
    buffer = buffer_with(*(f"{number} " for number in range(MAX_BATCH_EVENTS + 1)))
    buffer.flush_batch(history.write_batch)
    assert len(history.written) == MAX_BATCH_EVENTS
    buffer.flush_batch(history.write_batch)
    assert history.writes[1] == (f"{MAX_BATCH_EVENTS} ", MAX_BATCH_EVENTS)
    half = {"text": "x" * (MAX_BATCH_CHARACTERS // 2)}
    for name in ("a", "b"):
        buffer.append(Event(name, 0.0, payload=half))
    buffer.flush_batch(history.write_batch)
    buffer.flush_batch(history.write_batch)
    assert [names for names, _ in history.writes[2:]] == ["a", "b"]


def test_an_event_that_is_too_long_and_all_later_ones_wait_for_the_commit(history: FakeHistory) -> None:
    buffer = buffer_with("a")
    buffer.append(Event("b", 0.0, payload={"text": "x" * MAX_BATCH_CHARACTERS}))
    buffer.append(Event("c", 0.0))
    buffer.flush_batch(history.write_batch)
    buffer.flush_batch(history.write_batch)
    buffer.flush_all(history.write_all)
    assert history.writes == [("a", 0), ("", 1), ("bc", None)]


def test_a_long_event_does_not_hold_up_a_full_buffer(
    history: FakeHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_buffer, "MAX_BUFFERED_EVENTS", 4)
    buffer = EventBuffer(lambda full: full.flush_batch(history.write_batch))
    for name in "abcdefgh":
        is_long = name in "bcf"
        buffer.append(Event(name, 0.0, payload={"text": "x" * MAX_BATCH_CHARACTERS} if is_long else {}))
        assert len(buffer._events) <= 4
    buffer.flush_all(history.write_all)
    assert "".join(history.written) == "abcdefgh"


def test_progress_of_a_loop_replaces_its_previous_progress(history: FakeHistory) -> None:
    """Progress that is not final is created and written with the next batch."""
    buffer = EventBuffer()
    made: list[str] = []

    def count(name: str, *, is_final: bool = False) -> None:
        def event() -> Event:
            made.append(name)
            return Event(name, 0.0)

        buffer.report_progress("run", event, is_final=is_final)

    count("1 ")
    count("2 ")
    buffer.flush_batch(history.write_batch)
    buffer.flush_batch(history.write_batch)
    count("3 ")
    count("4 ", is_final=True)
    buffer.flush_batch(history.write_batch)
    count("5 ")
    buffer.flush_all(history.write_all)
    assert history.writes == [("2 ", 0), ("", 1), ("4 ", 1), ("", None)]
    assert made == ["2 ", "4 "]


def test_a_null_buffer_drops_its_events(history: FakeHistory) -> None:
    null_buffer = NullEventBuffer()
    null_buffer.append(Event("a", 0.0))
    null_buffer.report_progress("run", lambda: Event("b", 0.0), is_final=True)
    null_buffer.flush_all(history.write_all)
    assert history.writes == [("", None)]


def test_callback_tokens_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = CallbackTokens()
    monkeypatch.setattr("noetl.executor.security.redaction.CALLBACK_TOKENS", tokens)
    buffer = EventBuffer()
    token = tokens.create()
    clean, dirty = (
        Event("a", 0.0, payload={"x": 1}),
        Event("b", 0.0, payload={"error": {"message": f"at /{token}"}}),
    )
    buffer.append(clean)
    buffer.append(dirty)
    found: list[Event] = []

    def write(events: Sequence[Event], _: int) -> bool:
        found.extend(events)
        return True

    buffer.flush_batch(write)
    assert found[0] is clean
    assert token not in str(found)
    assert found[1] == replace(dirty, payload={"error": {"message": "at /***"}})


class Renewals:
    """A store that only records renewals."""

    def __init__(self) -> None:
        self.runs = self.queue = self
        self.checked: list[tuple[str, list[str], int]] = []

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        return set()

    def renew(self, claimed: Visit, until: float, *batch: Any) -> bool:
        events, events_already_written = batch or ((), 0)
        self.checked.append((claimed.id, [event.type for event in events], events_already_written))
        return True


class ScriptedClock(threading.Event):
    """An event whose wait returns at once and advances a clock.

    Each wait first runs the action for its round.
    """

    def __init__(self, clock: list[float], *deeds: Callable[[], object]) -> None:
        super().__init__()
        self._clock = clock
        self._deeds = list(deeds)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == CANCEL_POLL_SECONDS
        self._clock[0] += timeout
        if not self._deeds:
            return True
        self._deeds.pop(0)()
        return False


class Working(VisitExecutor):
    """An executor that signals its start and runs until it is stopped."""

    def __init__(self) -> None:
        self.buffer: EventBuffer
        object.__setattr__(self, "capabilities", Capabilities())
        self.has_begun = threading.Event()
        self.may_stop = threading.Event()

    def execute(self, claim: Claim, cancelled: object = None, buffer: EventBuffer | None = None) -> None:
        assert buffer is not None
        self.buffer = buffer
        buffer.append(Event(f"{claim.visit.id} begins", 0.0))
        self.has_begun.set()
        self.may_stop.wait()


def test_only_events_of_work_older_than_a_third_of_a_lease_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr("noetl.executor.runtime.lease_keeper.time.monotonic", lambda: now[0])
    store = Renewals()
    lease_keeper = LeaseKeeper(cast("Store", store), 6 * CANCEL_POLL_SECONDS, lambda: 0.0)
    run = Run("r", "default", "p", None, "h", RunStatus.RUNNING, "local", "q", {}, {}, {}, (), None, 0.0)
    long, short = Working(), Working()
    threads = []

    def begin(working: Working, id: str) -> None:
        claim = Claim(run, Visit(id, "r", "s", VisitStatus.RUNNING, 1, {}, fence=1))
        threads.append(threading.Thread(target=lease_keeper.execute, args=(working, claim)))
        threads[-1].start()
        working.has_begun.wait()

    def continues() -> None:
        begin(short, "short")
        long.buffer.append(Event("long goes on", 0.0))

    begin(long, "long")
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    lease_keeper.renew_until(ScriptedClock(now, nothing, nothing, continues, nothing, nothing))
    for working, thread in zip((long, short), threads, strict=True):
        working.may_stop.set()
        thread.join()
    assert store.checked == [("long", ["long begins"], 0), ("long", ["long goes on"], 1), ("short", [], 0)]


@pytest.mark.parametrize(("origin", "is_written"), [("local", True), ("service", False)])
def test_the_progress_of_a_loop_of_a_local_run_is_written_before_a_renewal(
    origin: str, is_written: bool
) -> None:
    """A person is watching. Its age doubles from one write to the next."""
    held = HeldClaim(
        cast("Claim", SimpleNamespace(run=SimpleNamespace(origin=origin))), time.monotonic() - 1.1
    )
    assert not held.takes_progress()
    held.events.report_progress("run", lambda: cast("Event", None), is_final=False)
    assert held.takes_progress() is is_written
    assert not held.takes_progress()
