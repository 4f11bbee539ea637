"""Full collections of garbage wait for moments without requests."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest

from noetl.executor.runtime import quiet_collections
from noetl.executor.runtime.quiet_collections import (
    MAX_GROWTH_BYTES,
    MAX_WAIT_SECONDS,
    MIN_COLLECTIONS,
    PAUSE_FACTOR,
    QuietCollections,
    resident_bytes,
)


@dataclass
class Process:
    """A process whose requests, time, memory and young collections are set."""

    has_requests: bool = False
    now: float = 100.0
    memory: int = 0
    young: int = 0


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    process = Process()
    monkeypatch.setattr(quiet_collections, "young_collections", lambda: process.young)
    return process


@pytest.fixture
def collections(process: Process) -> QuietCollections:
    return QuietCollections(lambda: process.has_requests, lambda: process.now, lambda: process.memory)


def test_nothing_is_collected_before_objects_were_created(
    process: Process, collections: QuietCollections
) -> None:
    process.now += 2 * MAX_WAIT_SECONDS
    assert not collections.collect_if_due()
    process.young += MIN_COLLECTIONS
    assert collections.collect_if_due()
    assert not collections.collect_if_due()


@pytest.mark.parametrize(
    ("later", "is_due"),
    [
        (Process(has_requests=False), True),
        (Process(has_requests=True), False),
        (Process(has_requests=True, now=100.0 + MAX_WAIT_SECONDS + 1.0), True),
        (Process(has_requests=True, memory=MAX_GROWTH_BYTES + 1), True),
        (Process(has_requests=True, now=100.0 + MAX_WAIT_SECONDS - 1.0, memory=MAX_GROWTH_BYTES), False),
    ],
)
def test_a_collection_waits_for_a_pause_of_requests(
    later: Process, is_due: bool, process: Process, collections: QuietCollections
) -> None:
    vars(process).update(vars(later), young=MIN_COLLECTIONS)
    assert collections.collect_if_due() is is_due


def test_a_collection_that_takes_long_is_rare(
    process: Process, collections: QuietCollections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect() -> None:
        process.now += 1.0

    monkeypatch.setattr(gc, "collect", collect)
    process.young = MIN_COLLECTIONS
    assert collections.collect_if_due()
    process.young += MIN_COLLECTIONS
    process.now += PAUSE_FACTOR - 1.0
    assert not collections.collect_if_due()
    process.now += 2.0
    assert collections.collect_if_due()


def test_cycles_are_freed(process: Process, collections: QuietCollections) -> None:
    freed: list[str] = []

    class Node:
        def __init__(self) -> None:
            self.other: object = self

        def __del__(self) -> None:
            freed.append("node")

    gc.disable()
    try:
        Node()
        process.young = MIN_COLLECTIONS
        assert collections.collect_if_due()
    finally:
        gc.enable()
    assert freed == ["node"]


def test_only_a_thread_collects_old_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds = gc.get_threshold()
    started: list[object] = []

    def start(thread: object) -> None:
        started.append(thread)

    monkeypatch.setattr("threading.Thread.start", start)
    try:
        QuietCollections().start()
        assert gc.get_threshold() == (thresholds[0], quiet_collections.MIDDLE, quiet_collections.NEVER)
    finally:
        gc.set_threshold(*thresholds)
    assert len(started) == 1
    assert resident_bytes() > 0
