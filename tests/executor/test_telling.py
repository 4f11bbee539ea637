"""What a visit has to tell: each event once and in order, whoever writes at one time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
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
from noetl.executor.runtime.lease_keeper import CANCEL_POLL_SECONDS, LeaseKeeper
from noetl.executor.security.redaction import CallbackTokens
from noetl.executor.stores.interface import Store


class Page:
    """Where events are written, all of them with how many were written before, as a store would be told."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.writes: list[tuple[str, int | None]] = []

    def some(self, events: Sequence[Event], told: int) -> bool:
        return self._write(events, told)

    def rest(self, events: Sequence[Event]) -> bool:
        return self._write(events, None)

    def _write(self, events: Sequence[Event], told: int | None) -> bool:
        names = [event.type for event in events]
        self.written += names
        self.writes.append(("".join(names), told))
        return True


def noted(*names: str) -> EventBuffer:
    telling = EventBuffer()
    for name in names:
        telling.append(Event(name, 0.0))
    return telling


@pytest.fixture
def page() -> Page:
    return Page()


def test_what_was_told_is_not_told_again(page: Page) -> None:
    telling = noted("a", "b")
    telling.flush_batch(page.some)
    telling.append(Event("c", 0.0))
    telling.flush_batch(page.some)
    telling.flush_batch(page.some)
    telling.append(Event("d", 0.0))
    assert telling.flush_all(page.rest)
    telling.flush_batch(page.some)
    assert page.writes == [("ab", 0), ("c", 2), ("", 3), ("d", None), ("", 4)]


def test_what_may_not_have_been_written_is_told_again(page: Page) -> None:
    telling = noted("a")

    def fails(*_: object) -> bool:
        raise StoreError("The store is away.")

    with pytest.raises(StoreError):
        telling.flush_batch(fails)
    telling.append(Event("b", 0.0))
    telling.flush_batch(lambda *_: False)  # the claim is lost
    with pytest.raises(StoreError):
        telling.flush_all(fails)
    telling.flush_batch(page.some)
    assert page.writes == [("ab", 0)]


def test_a_commit_that_is_refused_loses_and_repeats_nothing(page: Page) -> None:
    telling = noted("a", "b")
    telling.flush_batch(page.some)
    telling.append(Event("c", 0.0))

    def refuses(events: Sequence[Event]) -> None:
        telling.flush_batch(page.some)  # by whoever renews meanwhile
        raise PayloadTooLargeError("it is too large")

    with pytest.raises(PayloadTooLargeError):
        telling.flush_all(refuses)
    telling.append(Event("d", 0.0))
    telling.flush_all(page.rest)
    assert page.writes == [("ab", 0), ("", 2), ("cd", None)]


def test_who_renews_does_not_wait_for_a_commit(page: Page) -> None:
    telling = noted("a")

    def commits(events: Sequence[Event]) -> bool:
        renewing = threading.Thread(target=telling.flush_batch, args=(page.some,))
        renewing.start()
        renewing.join()
        return page.rest(events)

    telling.flush_all(commits)
    assert page.writes == [("", 0), ("a", None)]


def test_a_commit_waits_for_a_renewal_that_tells(page: Page) -> None:
    telling = noted("a", "b")
    committing = threading.Thread(target=telling.flush_all, args=(page.rest,))

    def renews(events: Sequence[Event], told: int) -> bool:
        telling.append(Event("c", 0.0))
        committing.start()
        assert page.writes == []
        return page.some(events, told)

    telling.flush_batch(renews)
    committing.join()
    assert page.writes == [("ab", 0), ("c", None)]


def test_threads_that_note_while_others_write(page: Page) -> None:
    telling = EventBuffer()
    names = [[f"{thread}.{number} " for number in range(400)] for thread in range(4)]
    over = threading.Event()

    def note(own: list[str]) -> None:
        for name in own:
            telling.append(Event(name, 0.0))

    def renew() -> None:
        while not over.is_set():
            telling.flush_batch(page.some)

    noting = [threading.Thread(target=note, args=(own,)) for own in names]
    renewing = threading.Thread(target=renew)
    for thread in (renewing, *noting):
        thread.start()
    for thread in noting:
        thread.join()
    telling.flush_all(page.rest)
    over.set()
    renewing.join()
    assert len(page.written) == 1600
    assert [[name for name in page.written if name.startswith(f"{thread}.")] for thread in range(4)] == names


def test_one_renewal_writes_so_much(page: Page) -> None:
    telling = noted(*(f"{number} " for number in range(MAX_BATCH_EVENTS + 1)))
    telling.flush_batch(page.some)
    assert len(page.written) == MAX_BATCH_EVENTS
    telling.flush_batch(page.some)
    assert page.writes[1] == (f"{MAX_BATCH_EVENTS} ", MAX_BATCH_EVENTS)
    half = {"text": "x" * (MAX_BATCH_CHARACTERS // 2)}
    for name in ("a", "b"):
        telling.append(Event(name, 0.0, payload=half))
    telling.flush_batch(page.some)
    telling.flush_batch(page.some)
    assert [names for names, _ in page.writes[2:]] == ["a", "b"]


def test_what_is_too_long_waits_for_the_commit_with_all_that_comes_behind(page: Page) -> None:
    telling = noted("a")
    telling.append(Event("b", 0.0, payload={"text": "x" * MAX_BATCH_CHARACTERS}))
    telling.append(Event("c", 0.0))
    telling.flush_batch(page.some)
    telling.flush_batch(page.some)
    telling.flush_all(page.rest)
    assert page.writes == [("a", 0), ("", 1), ("bc", None)]


def test_how_far_a_loop_has_come(page: Page) -> None:
    """What is not final is told when something is written by then, and is made then."""
    telling = EventBuffer()
    made: list[str] = []

    def count(name: str, *, is_final: bool = False) -> None:
        def event() -> Event:
            made.append(name)
            return Event(name, 0.0)

        telling.report_progress("run", event, is_final=is_final)

    count("1 ")
    count("2 ")
    telling.flush_batch(page.some)
    telling.flush_batch(page.some)
    count("3 ")
    count("4 ", is_final=True)
    telling.flush_batch(page.some)
    count("5 ")
    telling.flush_all(page.rest)
    assert page.writes == [("2 ", 0), ("", 1), ("4 ", 1), ("", None)]
    assert made == ["2 ", "4 "]


def test_silence(page: Page) -> None:
    silence = NullEventBuffer()
    silence.append(Event("a", 0.0))
    silence.report_progress("run", lambda: Event("b", 0.0), is_final=True)
    silence.flush_all(page.rest)
    assert page.writes == [("", None)]


def test_tokens_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = CallbackTokens()
    monkeypatch.setattr("noetl.executor.security.redaction.CALLBACK_TOKENS", tokens)
    telling = EventBuffer()
    token = tokens.create()
    clean, dirty = (
        Event("a", 0.0, payload={"x": 1}),
        Event("b", 0.0, payload={"error": {"message": f"at /{token}"}}),
    )
    telling.append(clean)
    telling.append(dirty)
    found: list[Event] = []
    telling.flush_batch(lambda events, _: not found.extend(events))
    assert found[0] is clean
    assert token not in str(found)
    assert found[1] == replace(dirty, payload={"error": {"message": "at /***"}})


class Renewals(Store):
    """A store that is only asked to renew."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], int]] = []

    def cancelled_runs(self, run_ids: Sequence[str]) -> set[str]:
        return set()

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        self.asked.append((visit_id, [event.type for event in events], events_already_written))
        return True


class Looks(threading.Event):
    """A wait that passes at once, and moves a clock by as much. What is to happen at a look is done before."""

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
    """Works until it is told to stop, and has told by then that it has begun."""

    def __init__(self) -> None:
        self.telling: EventBuffer
        self.has_begun = threading.Event()
        self.may_stop = threading.Event()

    def execute(self, claim: Claim, cancelled: object = None, telling: EventBuffer | None = None) -> None:
        assert telling is not None
        self.telling = telling
        telling.append(Event(f"{claim.visit.id} begins", 0.0))
        self.has_begun.set()
        self.may_stop.wait()


def test_only_work_that_goes_on_for_a_third_of_a_lease_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("noetl.executor.runtime.lease_keeper.time.monotonic", lambda: now[0])
    store = Renewals()
    keeper = LeaseKeeper(store, 6 * CANCEL_POLL_SECONDS, lambda: 0.0)  # type: ignore[abstract]
    run = Run("r", "default", "p", None, "h", RunStatus.RUNNING, "local", "q", {}, {}, {}, (), None, 0.0)
    long, short = Working(), Working()
    threads = []

    def begin(working: Working, id: str) -> None:
        claim = Claim(run, Visit(id, "r", "s", VisitStatus.RUNNING, 1, {}, fence=1))
        threads.append(threading.Thread(target=keeper.execute, args=(working, claim)))
        threads[-1].start()
        working.has_begun.wait()

    def go_on() -> None:
        begin(short, "short")
        long.telling.append(Event("long goes on", 0.0))

    begin(long, "long")
    nothing: Callable[[], object] = lambda: None  # noqa: E731
    keeper.renew_until(Looks(now, nothing, nothing, go_on, nothing, nothing))
    for working, thread in zip((long, short), threads, strict=True):
        working.may_stop.set()
        thread.join()
    assert store.asked == [("long", ["long begins"], 0), ("long", ["long goes on"], 1), ("short", [], 0)]
