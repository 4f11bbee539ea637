"""Threads of parallel items: counted in the process, and never waited for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import pytest

from noetl.executor.actions import temporary_types
from noetl.executor.engine import item_threads
from noetl.executor.engine.item_threads import HelperCount, ItemCrew, read_item_threads
from noetl.executor.errors import SettingError
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.catalogue import ActionDeclaration
from noetl.testing.actions import ScriptedAction
from noetl.testing.run_harness import RunHarness

NESTED = """
tasks:
  inner: {parallel: true, run: [ITEMS_INNER]}
  middle: {parallel: true, run: [ITEMS_MIDDLE]}
steps:
- name: a
  parallel: true
  run: [ITEMS_OUTER]
"""


def nested(size: int) -> str:
    playbook = NESTED.replace("ITEMS_INNER", ", ".join(["{action: probe}"] * size))
    playbook = playbook.replace("ITEMS_MIDDLE", ", ".join(["{task: inner}"] * size))
    return playbook.replace("ITEMS_OUTER", ", ".join(["{task: middle}"] * size))


def helper_threads() -> int:
    return sum(thread.name == "noetl-item" for thread in threading.enumerate())


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 40])
def test_nested_parallel_items_share_the_threads_of_the_process(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = HelperCount(limit)
    monkeypatch.setattr(item_threads, "process_helpers", lambda: process)
    counts: list[int] = []

    def probe(_: object) -> None:
        counts.append(helper_threads())

    action = ScriptedAction(ActionDeclaration("probe", "Counts threads.", {}), answer=probe)
    with temporary_types(action):
        harness = RunHarness(MemoryStore(), nested(6)).finish()
    assert harness.error_types == []
    assert len(counts) == 216
    assert max(counts) <= (limit + 1) // 2
    assert helper_threads() == 0
    # All helpers have been given back.
    assert [process.take() for _ in range(limit + 1)] == [True] * limit + [False]


def test_two_attempts_share_the_threads_of_the_process() -> None:
    process = HelperCount(3)
    first, second = HelperCount(2, process), HelperCount(2, process)
    assert [first.take(), first.take(), first.take()] == [True, True, False]
    assert [second.take(), second.take()] == [True, False]
    first.give_back()
    assert [second.take(), second.take()] == [True, False]


def run_crew(work: Callable[[int], None], items: int, size: int, limit: int) -> None:
    queue = deque(range(items))

    def perform_next() -> bool:
        try:
            item = queue.popleft()
        except IndexError:
            return False
        work(item)
        return True

    ItemCrew(perform_next, size, HelperCount(limit)).run()


def test_items_run_at_the_same_time_if_there_are_helpers() -> None:
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait(30)

    run_crew(work, items=8, size=4, limit=3)


def test_the_error_of_a_helper_is_raised_after_all_threads_have_ended() -> None:
    barrier = threading.Barrier(2)

    def work(item: int) -> None:
        barrier.wait(30)
        if threading.current_thread().name == "noetl-item":
            raise ValueError(item)

    with pytest.raises(ValueError):
        run_crew(work, items=2, size=2, limit=1)
    assert helper_threads() == 0


@pytest.mark.parametrize("text", ["-1", "10001", "many", "1.5"])
def test_other_values_of_the_setting_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_ITEM_THREADS"):
        read_item_threads({"NOETL_ITEM_THREADS": text})
