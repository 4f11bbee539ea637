"""The claims of a process whose leases are late. The tests set the clock."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import LEASE_SECONDS, FakeClock

SECONDS = 30.0


@pytest.mark.parametrize(("seconds", "may_claim"), [(19, True), (21, False), (3600, False), (-3600, True)])
def test_nothing_is_claimed_before_late_leases_are_renewed(
    monkeypatch: pytest.MonkeyPatch, seconds: int, may_claim: bool
) -> None:
    monkeypatch.setattr("noetl.executor.runtime.lease_keeper.CANCEL_POLL_SECONDS", 0.01)
    monkeypatch.setattr("noetl.executor.runtime.lease_keeper.LATE_PAUSE_SECONDS", 0.0)
    clock = FakeClock()
    lease_keeper = LeaseKeeper(MemoryStore(), LEASE_SECONDS, clock)
    clock.advance(seconds)
    assert lease_keeper.may_claim is may_claim
    if not may_claim:
        finished, is_renewed = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lease_keeper.renew_until, finished, is_renewed.set)
            assert is_renewed.wait(SECONDS)
            finished.set()
        assert lease_keeper.may_claim


def test_other_processes_of_the_machine_have_time_to_renew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noetl.executor.runtime.lease_keeper.LATE_PAUSE_SECONDS", 3600.0)
    clock = FakeClock()
    lease_keeper = LeaseKeeper(MemoryStore(), 3600.0, clock)
    clock.advance(3600)
    finished, is_renewed = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lease_keeper.renew_until, finished, is_renewed.set)
        assert is_renewed.wait(SECONDS)
        finished.set()
    assert not lease_keeper.may_claim
