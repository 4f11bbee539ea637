"""The precedence of short work over long work of the same process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial

import pytest

from noetl.executor import precedence
from noetl.executor.engine.item_threads import HelperCount, ItemCrew
from noetl.executor.precedence import (
    MAX_CREDIT_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_SLICE_SECONDS,
    MIN_CREDIT_RATE,
    BackgroundOperations,
    CreditAccounts,
    ForegroundWork,
    PrecedenceLock,
    StoreOperation,
    TimeSlices,
    end_slice,
    is_background,
    wait_for_slice,
    working_for,
)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until another thread has reached a state."""
    pause = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("the other thread did not reach the state")


@pytest.fixture
def spent_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose tenants have used all of their credit."""
    monkeypatch.setattr(precedence, "ACCOUNTS", CreditAccounts(lambda: 0.0))
    monkeypatch.setattr(precedence, "SLICES", TimeSlices())
    monkeypatch.setattr(precedence, "MAX_CREDIT_SECONDS", 0.0)


def test_a_tenant_that_has_used_its_credit_is_in_the_background_until_it_has_some_again() -> None:
    clock = Clock()
    accounts = CreditAccounts(clock)
    account = accounts.find("busy")
    assert not accounts.charge(account, MAX_CREDIT_SECONDS / 2)
    assert accounts.charge(account, 100.0)
    assert not accounts.find("other").is_spent
    clock.now += 60.0
    assert not accounts.charge(accounts.find("busy"), 0.0)


@pytest.mark.parametrize(("workers", "is_spent"), [(1, False), (2, False), (4, True), (20, True)])
def test_a_tenant_gains_credit_at_its_fair_share_of_the_tenants_that_work(
    workers: int, is_spent: bool
) -> None:
    """A tenant that uses a fifth of a processor, next to others."""
    clock = Clock()
    accounts = CreditAccounts(clock)
    account = accounts.find("0")
    for number in range(workers):
        accounts.add_thread(accounts.find(str(number)), 1)
    for _ in range(100):
        clock.now += 0.04
        accounts.charge(account, 0.008)
    assert account.is_spent is is_spent


def test_a_tenant_that_no_longer_works_has_no_share() -> None:
    clock = Clock()
    accounts = CreditAccounts(clock)
    account = accounts.find("0")
    for number in range(1, 20):
        for change in (1, 1, -1, -1):
            accounts.add_thread(accounts.find(str(number)), change)
    accounts.add_thread(account, 1)
    accounts.charge(account, 2 * MAX_CREDIT_SECONDS)
    clock.now += 0.25
    accounts.charge(account, 0.0)
    assert account.balance > MAX_CREDIT_SECONDS / 2


def test_a_tenant_with_low_use_has_credit_however_many_tenants_work() -> None:
    clock = Clock()
    accounts = CreditAccounts(clock)
    for number in range(1000):
        accounts.add_thread(accounts.find(str(number)), 1)
    account = accounts.find("0")
    for _ in range(100):
        clock.now += 0.1
        accounts.charge(account, 0.1 * MIN_CREDIT_RATE)
    assert not account.is_spent


def test_a_tenant_with_several_threads_is_in_the_background() -> None:
    with working_for("parallel"):
        assert not is_background()
        account = precedence.ACCOUNTS.find("parallel")
        precedence.ACCOUNTS.add_thread(account, 1)
        assert is_background()
        precedence.ACCOUNTS.add_thread(account, -1)


def test_one_thread_of_the_background_runs_at_a_time(spent_credit: None) -> None:
    running, most, finished = 0, 0, []
    lock = threading.Lock()

    def work() -> None:
        nonlocal running, most
        with working_for("a"):
            for _ in range(20):
                wait_for_slice()
                with lock:
                    running += 1
                    most = max(most, running)
                with lock:
                    running -= 1
                end_slice()
        finished.append(True)

    threads = [start(work) for _ in range(8)]
    for thread in threads:
        thread.join(60)
    assert (len(finished), most) == (8, 1)


def test_tenants_get_slices_in_turn_whatever_the_number_of_their_threads() -> None:
    slices = TimeSlices()
    first = slices.take("many")
    order: list[str] = []

    def work(tenant: str) -> None:
        taken = slices.take(tenant)
        order.append(tenant)
        slices.end(taken)

    threads = []
    for tenant in ("many", "many", "many", "many", "few"):
        threads.append(start(lambda tenant=tenant: work(tenant)))  # type: ignore[misc]
        wait_for(lambda: len(slices._waiting) == len(threads))
    slices.end(first)
    for thread in threads:
        thread.join(60)
    assert "few" in order[:2]


def test_a_slice_begins_after_the_operations_of_the_foreground_but_does_not_wait_for_ever() -> None:
    clock = Clock()
    slices = TimeSlices(clock)
    slices.enter_foreground()
    begun: list[bool] = []
    thread = start(lambda: begun.append(bool(slices.take("a"))))
    wait_for(lambda: slices._paused_since is not None)
    assert not begun
    clock.now += 2 * MAX_PAUSE_SECONDS
    thread.join(60)
    assert begun
    second = start(lambda: begun.append(bool(slices.take("a"))))
    clock.now += MAX_SLICE_SECONDS
    wait_for(lambda: slices._paused_since is not None or len(begun) == 2)
    slices.leave_foreground()
    second.join(60)
    assert len(begun) == 2


def test_a_thread_that_blocks_keeps_its_slice_for_a_limited_time() -> None:
    clock = Clock()
    slices = TimeSlices(clock)
    blocked = slices.take("a")
    begun: list[bool] = []
    thread = start(lambda: begun.append(bool(slices.take("b"))))
    wait_for(lambda: bool(slices._waiting))
    clock.now += 2 * MAX_SLICE_SECONDS
    thread.join(60)
    assert begun
    slices.end(blocked)
    assert slices._slice is not None, "the end of a slice that is over ends no other"


def test_an_interrupted_thread_leaves_the_queue() -> None:
    class WatchdogSignal(BaseException):
        pass

    calls = 0

    def clock() -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise WatchdogSignal
        return 0.0

    slices = TimeSlices(clock)
    first = slices.take("a")
    with pytest.raises(WatchdogSignal):
        slices.take("b")
    slices.end(first)
    assert slices.take("c").checked_at > 0.0


def test_a_slice_ends_early_for_the_foreground(spent_credit: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "SLICE_SECONDS", 3600.0)
    with working_for("a"):
        wait_for_slice()
        first = precedence.SLICES._slice
        wait_for_slice()
        assert precedence.SLICES._slice is first
        precedence.SLICES.enter_foreground()
        wait_for_slice()
        assert precedence.SLICES._slice is not first
        precedence.SLICES.leave_foreground()


def test_a_slice_that_has_waited_for_the_foreground_does_not_end_early_for_it(
    spent_credit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "SLICE_SECONDS", 3600.0)
    monkeypatch.setattr(precedence, "MAX_PAUSE_SECONDS", 0.0)
    with working_for("a"), ForegroundWork():
        wait_for_slice()
        first = precedence.SLICES._slice
        assert first is not None
        wait_for_slice()
        assert precedence.SLICES._slice is first


def test_a_short_visit_is_in_the_foreground_until_it_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "SLICES", TimeSlices())
    counts = []
    with working_for("short"):
        for step in (wait_for_slice, end_slice, end_slice, wait_for_slice):
            step()
            counts.append(precedence.SLICES.foreground)
    counts.append(precedence.SLICES.foreground)
    assert counts == [1, 0, 0, 1, 0]


def test_a_helper_ends_its_slice(spent_credit: None) -> None:
    slices: list[object] = []

    def perform_next() -> bool:
        if threading.current_thread().name == "noetl-item":
            wait_for_slice()
            slices.append(precedence.SLICES._slice)
            return False
        return True

    with working_for("a"):
        ItemCrew(perform_next, 2, HelperCount(1)).run()
        assert slices[0] is not None
        assert precedence.SLICES._slice is None


def test_work_of_no_tenant_never_waits() -> None:
    wait_for_slice()
    end_slice()
    assert not is_background()


def test_a_read_without_precedence_pauses_no_work() -> None:
    counts = []
    with precedence.without_precedence(), StoreOperation():
        counts.append(precedence.SLICES.foreground)
    with StoreOperation():
        counts.append(precedence.SLICES.foreground)
    assert (counts, precedence.SLICES.foreground) == ([0, 1], 0)


def test_a_store_operation_of_the_background_ends_its_slice(spent_credit: None) -> None:
    with working_for("a"):
        wait_for_slice()
        had_slice = precedence.SLICES._slice is not None
        with StoreOperation():
            has_slice = precedence.SLICES._slice is not None
            assert (had_slice, has_slice, precedence.SLICES.foreground) == (True, False, 0)
    with StoreOperation():
        assert precedence.SLICES.foreground == 1
    assert precedence.SLICES.foreground == 0


def test_while_requests_come_the_background_has_one_store_operation_at_a_time(
    spent_credit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "MAX_OPERATION_WAIT_SECONDS", 60.0)
    now = 100.0
    monkeypatch.setattr(precedence, "OPERATIONS", BackgroundOperations(lambda: now))
    running = threading.Barrier(2)

    def meet(_: int) -> bool:
        with working_for("a"), StoreOperation():
            try:
                running.wait(timeout=0.2)
            except threading.BrokenBarrierError:
                return False
        return True

    def operations_meet() -> set[bool]:
        running.reset()
        with ThreadPoolExecutor(2) as threads:
            return set(threads.map(meet, range(2)))

    assert operations_meet() == {True}
    with ForegroundWork():
        assert operations_meet() == {False}
    assert operations_meet() == {False}
    now += precedence.REQUEST_MEMORY_SECONDS + 0.01
    assert operations_meet() == {True}


def test_a_store_operation_of_the_background_waits_for_a_bounded_time(
    spent_credit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "OPERATIONS", BackgroundOperations())
    monkeypatch.setattr(precedence, "MAX_OPERATION_WAIT_SECONDS", 0.01)
    precedence.OPERATIONS.note_request()
    with ThreadPoolExecutor(1) as threads, working_for("a"), StoreOperation():
        assert not threads.submit(precedence.OPERATIONS.begin).result(timeout=60.0)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(precedence.OPERATIONS.begin).result(timeout=60.0)


def test_a_store_operation_of_the_background_contains_others(
    spent_credit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "OPERATIONS", BackgroundOperations())
    monkeypatch.setattr(precedence, "MAX_OPERATION_WAIT_SECONDS", 0.0)
    precedence.OPERATIONS.note_request()
    with working_for("a"), StoreOperation(), StoreOperation(), ThreadPoolExecutor(1) as threads:
        assert not threads.submit(precedence.OPERATIONS.begin).result(timeout=60.0)
    assert precedence.OPERATIONS.begin()


def test_only_operations_of_tenants_without_credit_are_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precedence, "OPERATIONS", BackgroundOperations())
    monkeypatch.setattr(precedence, "ACCOUNTS", CreditAccounts())
    precedence.OPERATIONS.note_request()
    account = precedence.ACCOUNTS.find("a")
    account.threads = 1  # Another thread of the tenant.
    with working_for("a"):
        for balance, is_alone in ((1.0, False), (-1.0, True)):
            account.balance = balance
            assert is_background()
            assert precedence._is_busy() is is_alone
            with StoreOperation():
                assert not precedence._is_busy()


def test_a_store_operation_does_not_wait_for_a_slice(spent_credit: None) -> None:
    with working_for("a"), StoreOperation():
        wait_for_slice()
        assert precedence.SLICES._slice is None
    with working_for("a"):
        wait_for_slice()
        assert precedence.SLICES._slice is not None


@pytest.mark.parametrize(
    ("share", "arrivals", "order"),
    [
        (8, "background foreground foreground", "foreground foreground background"),
        (1, "foreground foreground background", "foreground background foreground"),
    ],
)
def test_the_foreground_writes_first_but_the_background_after_some_of_its_writers(
    share: int, arrivals: str, order: str, spent_credit: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precedence, "FOREGROUND_SHARE", share)
    lock = PrecedenceLock()
    written: list[str] = []

    def write(level: str) -> None:
        with working_for("a") if level == "background" else nullcontext(), lock:
            written.append(level)

    threads = []
    with lock:
        for level in arrivals.split():
            threads.append(start(partial(write, level)))
            wait_for(lambda: sum(map(len, lock._waiting.values())) == len(threads))
    for thread in threads:
        thread.join(60)
    assert written == order.split()


def test_a_thread_that_waits_too_long_gets_no_lock_and_keeps_none() -> None:
    lock = PrecedenceLock()
    with lock:
        assert not lock.acquire(timeout=0.01)
    assert lock.acquire(timeout=0.01)
    lock.__exit__(None, None, None)
