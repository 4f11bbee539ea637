"""The memory budget of the work of a step."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import ActionError, CancelledError, PayloadTooLargeError
from noetl.executor.model import memory_budget
from noetl.executor.model.function_memory import (
    SMALL_SIZE,
    FunctionMemory,
    function_memory,
    read_function_bytes,
)
from noetl.executor.model.memory_budget import MemoryBudget, json_size
from noetl.executor.patience import retrying_until
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

LIMIT = 3000
TEXT = "{{ 'x' * 1000 }}"
SET_ONE = f'{{action: set, set: {{a: "{TEXT}"}}}}'
SET_TWO = f'{{action: set, set: {{a: "{TEXT}", b: "{TEXT}"}}}}'
SET_IN_LOOP = f'{{action: set, set: {{a: "{TEXT}"}}, loop: {{items: [1, 2]}}}}'

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
)


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The reserved amount of a memory budget of `LIMIT`, after each change."""
    amounts: list[int] = []

    class SmallBudget(MemoryBudget):
        def __init__(self) -> None:
            super().__init__(LIMIT)

        def reserve(self, size: int) -> None:
            super().reserve(size)
            amounts.append(self._reserved)

        def release(self, size: int) -> None:
            super().release(size)
            amounts.append(self._reserved)

    create, position = WorkContext.__init__, WorkContext.__match_args__.index("memory_budget")

    def init(self: WorkContext, *args: Any, **options: Any) -> None:
        # A copy of a context passes all fields by position.
        budget = {"memory_budget": SmallBudget()} if len(args) <= position else {}
        create(self, *args, **(budget | options))

    monkeypatch.setattr(WorkContext, "__init__", init)
    return amounts


def finish(store: SqliteStore, steps: str, folder: Path | None = None) -> RunHarness:
    return RunHarness(
        store,
        f"tasks: {{say: [{{action: set, set: {{y: '{{{{ args.x | default(0) }}}}'}}}}]}}\nsteps: {steps}",
        folder=folder,
    ).finish()


@given(plain_values)
def test_the_estimated_size_never_exceeds_the_length_as_json(value: Any) -> None:
    length = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    assert length / 9 <= json_size(value) <= length


def test_an_exhausted_budget_refuses_a_reservation() -> None:
    budget = MemoryBudget(10)
    budget.reserve(6)
    with budget.reserved("ab"), pytest.raises(ActionError, match="more than 10 characters") as refused:
        budget.reserve(1)
    assert (refused.value.type, refused.value.retryable) == ("PayloadTooLarge", False)
    budget.reserve(4)


@pytest.mark.parametrize(
    "step",
    [
        f'run: [{SET_TWO}, {{action: set, as: d, set: {{c: "{TEXT}"}}}}]',
        f'loop: {{items: [1, 2, 3]}}, run: [{{action: set, set: {{a: "{TEXT}"}}}}]',
        f'run: [{{action: set, set: {{a: "{TEXT}"}}, loop: {{items: [1, 2, 3], concurrency: 3}}}}]',
        f'parallel: true, run: [{{task: say, with: {{x: "{TEXT}"}}}}, {SET_TWO}]',
        f'run: [{{task: say, with: {{x: ["{TEXT}", "{TEXT}"]}}}}]',
        f'run: [{{action: log, message: x, loop: {{items: ["{TEXT}", "{TEXT}", "{TEXT}"]}}}}]',
        f'loop: {{items: ["{TEXT}", "{TEXT}", "{TEXT}"]}}, run: [{{action: log, message: x}}]',
        f'rule: [{{case: default, run: [{{action: set, set: {{a: "{TEXT}", b: "{TEXT}", c: "{TEXT}"}}}}]}}]',
    ],
)
def test_work_that_exceeds_the_budget_fails(store: SqliteStore, small_budget: list[int], step: str) -> None:
    harness = finish(store, f"[{{name: a, {step}}}]")
    assert (harness.status, harness.error_types) == ("failed", ["PayloadTooLarge"])


@pytest.mark.parametrize(
    "step",
    [
        "run: [" + ", ".join(f'{{action: set, set: {{a: "{TEXT}"}}}}' for _ in range(9)) + "]",
        f"run: [{SET_IN_LOOP}, {SET_IN_LOOP}]",
        f'loop: {{items: [1, 2]}}, run: [{{action: set, set: {{a: "{TEXT}"}}}}, {{action: log, message: x}}]',
        f'run: [{{action: set, set: {{a: "{TEXT}", b: "{{{{ 1 / 0 }}}}"}}, on_error: continue}}, {SET_TWO}]',
        f"parallel: true, run: [{SET_ONE}, {{action: log, message: x}}], retry: 2",
    ],
    ids=[
        "overwritten",
        "one loop after another",
        "known to the item only",
        "dropped by a failure",
        "together",
    ],
)
def test_released_data_does_not_count(store: SqliteStore, small_budget: list[int], step: str) -> None:
    harness = finish(store, f"[{{name: a, {step}}}]")
    assert harness.error_types == []
    assert min(small_budget) >= 0
    assert small_budget[-1] == sum(json_size(value) for value in (harness.result or {}).values())


def test_the_total_result_of_a_loop_is_bounded(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noetl.executor.engine.loop.MAX_LOOP_RESULT", LIMIT)
    text = f"[{{name: a, loop: {{items: [1, 2, 3, 4, 5, 6], batch: 1}}, run: [{SET_ONE}]}}]"
    harness = finish(store, text)
    assert harness.error_types == ["PayloadTooLarge"]
    assert [event.payload["done"] for event in harness.events if event.type == "loop.progress"] == [1, 2]


@pytest.mark.parametrize(
    "work",
    [
        "task: say, with: {fails: '{{ item == 2 }}'}, loop: {items: [1, 2], concurrency: 2}",
        "task: nest, with: {first: '{{ item == 1 }}'}, loop: {items: [1, 2], concurrency: 2}",
        "task: beside",
        "task: nest_beside",
    ],
)
def test_suspended_items_next_to_a_failure_are_released(
    store: SqliteStore, small_budget: list[int], work: str
) -> None:
    text = f"""
        tasks:
          say:
          - {{action: set, set: {{y: "{TEXT}"}}}}
          - {{action: fail, if: "{{{{ args.fails | default(false) }}}}", message: no}}
          - {{action: wait, seconds: 1}}
          give:
          - {{action: wait, seconds: 1, if: "{{{{ args.waits }}}}"}}
          - {{action: set, set: {{z: "{TEXT}"}}}}
          loop:
          - {{task: give, with: {{waits: "{{{{ item == 2 }}}}"}}, loop: {{items: [1, 2], concurrency: 2}}}}
          fail: [{{action: fail, message: no}}]
          nest: [{{task: loop, if: "{{{{ args.first | default(false) }}}}"}}, {{task: fail}}]
          beside: {{parallel: true, run: [{{task: say, with: {{fails: false}}}}, {{task: fail}}]}}
          nest_beside: {{parallel: true, run: [{{task: loop}}, {{task: fail}}]}}
        steps:
        - name: a
          run:
          - {{{work}, on_error: continue}}
          - {{action: set, set: {{a: "{TEXT}", b: "{TEXT}"}}}}
    """
    harness = RunHarness(store, text).finish()
    assert harness.error_types == []
    assert small_budget[-1] == sum(json_size(value) for value in harness.result.values())


def test_a_name_overwritten_by_a_parallel_item_is_released(
    store: SqliteStore, small_budget: list[int]
) -> None:
    text = """
        tasks:
          beside:
            parallel: true
            run: [{action: set, set: {a: "{{ 'x' * 600 }}"}}, {action: log, message: x}]
        steps:
        - name: a
          run:
          - {action: set, set: {a: "{{ 'x' * 600 }}"}}
          - {task: beside}
          - {action: set, set: {b: "{{ 'x' * 2000 }}"}}
    """
    harness = RunHarness(store, text).finish()
    assert harness.error_types == []
    assert small_budget[-1] == sum(json_size(value) for value in harness.result.values())


class TestFunction:
    """Budgets that share the memory of a Lambda function."""

    def test_a_visit_waits_until_others_have_released_their_data(self) -> None:
        memory = FunctionMemory(10)
        first, second = MemoryBudget(shared=memory), MemoryBudget(shared=memory)
        first.reserve(6)
        waiting = threading.Thread(target=second.reserve, args=(6,))
        waiting.start()
        first.close()
        waiting.join()
        assert memory.reserved == 6
        second.reserve(-2)
        second.release(4)
        assert memory.reserved == 0

    def test_a_visit_that_needs_more_fails_at_once(self) -> None:
        memory = FunctionMemory(10)
        budget = MemoryBudget(shared=memory)
        budget.reserve(6)
        with pytest.raises(ActionError, match="memory of the function") as refused:
            budget.reserve(5)
        assert (refused.value.type, refused.value.retryable) == ("PayloadTooLarge", False)
        budget.reserve(4)
        assert memory.reserved == 10

    def test_a_visit_that_waits_for_too_long_fails(self) -> None:
        memory = FunctionMemory(10)
        MemoryBudget(shared=memory).reserve(6)
        with (
            retrying_until(time.monotonic()),
            pytest.raises(ActionError, match="the steps of this function") as refused,
        ):
            MemoryBudget(shared=memory).reserve(6)
        assert refused.value.retryable
        assert memory.reserved == 6

    def test_a_commit_reserves_what_is_not_reserved_yet(self) -> None:
        size = SMALL_SIZE + 1
        memory = FunctionMemory(10 * size)
        budget = MemoryBudget(shared=memory)
        budget.reserve(6 * size)
        budget.reserve_commit(5 * size)
        assert memory.reserved == 6 * size
        budget.reserve_commit(9 * size)
        assert memory.reserved == 9 * size
        with pytest.raises(PayloadTooLargeError, match=r"\(StepMemory\)"):
            budget.reserve_commit(11 * size)
        MemoryBudget(shared=None).reserve_commit(1000)

    def test_a_small_commit_is_never_refused(self) -> None:
        memory = FunctionMemory(10)
        memory.reserve(10, 0)
        budget = MemoryBudget(shared=memory)
        budget.reserve_commit(SMALL_SIZE)
        assert memory.reserved == 10 + SMALL_SIZE
        budget.close()
        assert memory.reserved == 10

    def test_the_limit_follows_from_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert function_memory() is None
        assert read_function_bytes({}) is None
        for megabytes, limit in (("128", 3), ("256", 16), ("512", 41), ("64", 1)):
            function_memory.cache_clear()
            monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", megabytes)
            memory = function_memory()
            assert memory is not None
            assert memory.limit // 1024 // 1024 == limit
        function_memory.cache_clear()


def plenty() -> float:
    return 60.0


class TestAnswers:
    """Answers of actions, which count in the memory of a Lambda function before they arrive."""

    @pytest.mark.parametrize(("arriving", "saved"), [(60, 50), (20, 50), (50, 50)])
    def test_an_answer_counts_until_it_is_saved(self, arriving: int, saved: int) -> None:
        memory = FunctionMemory(100)
        budget = MemoryBudget(shared=memory)
        with budget.receiving() as answer:
            assert answer is not None
            answer.grow(arriving // 2, plenty)
            answer.grow(arriving, plenty)
            answer.grow(1, plenty)
        assert memory.reserved == arriving
        budget.reserve(saved)
        assert memory.reserved == saved
        budget.close()
        assert memory.reserved == 0

    def test_the_next_call_drops_the_last_answer(self) -> None:
        memory = FunctionMemory(100)
        budget = MemoryBudget(shared=memory)
        for _ in range(2):
            with budget.receiving() as answer:
                assert answer is not None
                assert memory.reserved == 0
                answer.grow(60, plenty)
        budget.close()
        assert memory.reserved == 0

    def test_a_call_within_a_call_drops_its_answer_with_that_of_the_other(self) -> None:
        memory = FunctionMemory(100)
        budget = MemoryBudget(shared=memory)
        with budget.receiving() as outer:
            assert outer is not None
            outer.grow(10, plenty)
            with budget.receiving() as inner:
                assert inner is not None
                inner.grow(60, plenty)
        assert memory.reserved == 10

    def test_a_failed_call_releases_its_answer(self) -> None:
        memory = FunctionMemory(100)
        with pytest.raises(KeyError), MemoryBudget(shared=memory).receiving() as answer:
            assert answer is not None
            answer.grow(60, plenty)
            raise KeyError
        assert memory.reserved == 0
        # Its thread may have been abandoned.
        assert answer is not None
        with pytest.raises(CancelledError):
            answer.grow(61, plenty)
        assert memory.reserved == 0

    def test_an_answer_that_is_too_large_waits_until_it_is_alone(self) -> None:
        memory = FunctionMemory(100)
        budget = MemoryBudget(shared=memory)
        budget.reserve(30)
        with budget.receiving() as answer:
            assert answer is not None
            answer.grow(1000, plenty)
        assert memory.reserved == 100

    def test_an_answer_waits_only_while_its_action_has_time(self) -> None:
        memory = FunctionMemory(100)
        MemoryBudget(shared=memory).reserve(100)
        budget = MemoryBudget(shared=memory)
        with (
            pytest.raises(ActionError, match="the steps of this function") as refused,
            budget.receiving() as answer,
        ):
            assert answer is not None
            answer.grow(10, lambda: 0.5)
        assert (refused.value.type, refused.value.retryable) == ("PayloadTooLarge", True)
        assert memory.reserved == 100

    def test_what_cannot_be_saved_releases_its_answer(self) -> None:
        memory = FunctionMemory(100)
        MemoryBudget(shared=memory).reserve(70)
        budget = MemoryBudget(shared=memory)
        with budget.receiving() as answer:
            assert answer is not None
            answer.grow(20, plenty)
        with retrying_until(time.monotonic()), pytest.raises(ActionError):
            budget.reserve(50)
        assert memory.reserved == 70

    def test_nothing_is_counted_elsewhere(self) -> None:
        with MemoryBudget(shared=None).receiving() as answer:
            assert answer is None

    def test_an_action_reserves_before_its_answer_arrives(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        sizes: list[int] = []

        class RecordingMemory(FunctionMemory):
            def reserve_answer(self, size: int, *args: Any) -> int:
                sizes.append(size)
                return super().reserve_answer(size, *args)

        memory = RecordingMemory(10_000)
        monkeypatch.setattr(memory_budget, "function_memory", lambda: memory)
        (tmp_path / "data").write_text("x" * 1000)
        text = "name: reads\nsteps: [{name: a, run: [{action: file, read: data, as: x}]}]\n"
        harness = RunHarness(MemoryStore(), text, folder=tmp_path).finish()
        assert harness.result == {"x": "x" * 1000}
        assert sum(sizes) == 1000
        assert memory.reserved == 0
