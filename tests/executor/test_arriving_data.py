"""The bound on what the actions of a process receive at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from noetl.executor.errors import ActionError, CancelledError, SettingError
from noetl.executor.model import arriving_data
from noetl.executor.model.arriving_data import Arrivals, read_arrival_limit
from noetl.executor.model.function_memory import FunctionMemory
from noetl.executor.model.memory_budget import MemoryBudget

MIB = 1024 * 1024


def plenty() -> float:
    return 60.0


def test_bytes_count_for_the_run_and_the_process_until_the_call_ends() -> None:
    arrivals = Arrivals(100)
    with arrivals.receive("a", plenty) as data:
        data.expect(30)
        assert arrivals.process.reserved == 0
        data.hold(20)
        data.hold(10)
        assert 20 <= arrivals.process.reserved <= 30
        data.keep(20)
        data.hold(20)
        assert arrivals.process.reserved == 40
    assert arrivals.process.reserved == 0


def test_an_answer_beyond_the_limit_fails_at_once() -> None:
    with Arrivals(100).receive("a", plenty) as data, pytest.raises(ActionError) as caught:
        data.hold(51)
    assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)
    assert caught.value.message == (
        "an answer takes more than the 50 bytes of memory for answers of a run (NOETL_ANSWER_MEMORY)"
    )


def test_a_failed_call_releases_its_bytes() -> None:
    arrivals = Arrivals(100)
    for _ in range(3):
        with pytest.raises(ActionError), arrivals.receive("a", plenty) as data:
            data.hold(40)
            data.hold(60)
    assert arrivals.process.reserved == 0


def test_an_exhausted_run_waits_and_others_do_not() -> None:
    arrivals = Arrivals(100)
    is_received = threading.Event()

    def receive() -> None:
        with arrivals.receive("a", plenty) as data:
            data.expect(40)
            is_received.set()

    with arrivals.receive("a", plenty) as first:
        first.expect(40)
        thread = threading.Thread(target=receive)
        thread.start()
        with arrivals.receive("b", plenty) as other:
            other.hold(40)
        assert not is_received.wait(0.2)
    assert is_received.wait(30)
    thread.join()


@pytest.mark.parametrize("error", [CancelledError(), ActionError("Timeout", "late")])
def test_a_call_that_waits_ends_with_its_time(error: Exception) -> None:
    arrivals = Arrivals(100)

    def run_out() -> float:
        raise error

    with arrivals.receive("a", plenty) as first:
        first.hold(50)
        with pytest.raises(type(error)), arrivals.receive("a", run_out) as second:
            second.hold(1)


def test_calls_that_wait_for_each_other_fail_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arriving_data, "PATIENCE_SECONDS", 0.1)
    arrivals = Arrivals(100)
    with arrivals.receive("a", plenty) as first, arrivals.receive("a", plenty) as second:
        first.hold(25)
        second.hold(25)
        with pytest.raises(ActionError) as caught:
            first.hold(26)
    assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", True)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"NOETL_ANSWER_MEMORY": "16"}, 16 * MIB),
        ({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256"}, 80 * MIB),
        ({"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "10240"}, 1024 * MIB),
    ],
)
def test_the_limit_comes_from_the_setting_or_the_memory(environ: dict[str, str], expected: int) -> None:
    assert read_arrival_limit(environ) == expected


@pytest.mark.parametrize("text", ["0", "15", "-1", "1.5", "lots", "9999999999999"])
def test_other_values_of_the_setting_are_refused(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_ANSWER_MEMORY"):
        read_arrival_limit({"NOETL_ANSWER_MEMORY": text})


def test_the_limit_holds_for_many_calls_at_once() -> None:
    arrivals = Arrivals(1000)
    most: list[int] = []
    failures: list[ActionError] = []

    def receive(run: str) -> Callable[[], None]:
        def call() -> None:
            for _ in range(20):
                try:
                    with arrivals.receive(run, plenty) as data:
                        data.expect(200)
                        for size in range(0, 201, 20):
                            data.hold(size)
                            most.append(arrivals.process.reserved)
                except ActionError as error:
                    failures.append(error)

        return call

    threads = [threading.Thread(target=receive(f"run-{number % 4}")) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 1000
    assert arrivals.process.reserved == 0
    assert all(error.retryable for error in failures)


def test_an_answer_counts_in_the_memory_of_a_function() -> None:
    memory = FunctionMemory(100)
    budget = MemoryBudget(shared=memory)
    with budget.receiving() as answer, Arrivals(400).receive("a", plenty, answer) as data:
        data.expect(60)
        assert memory.reserved == 30
        data.hold(100)
    assert memory.reserved == 50
