"""Values that visits read from a store, in the memory of a Lambda function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.model import read_memory
from noetl.executor.model.function_memory import FunctionMemory
from noetl.executor.model.read_memory import (
    BYTES_OF_KEPT,
    BYTES_OF_READ,
    BYTES_OF_RESULT,
    carry_reads,
    counting_reads,
    is_counting_reads,
    keep_reads,
    reserve_read,
    reserve_result,
    strict_reads,
)
from noetl.executor.patience import retrying_until
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.blobs import Blobs, count_characters, to_bytes
from noetl.executor.stores.interface import Store
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness
from tests.aws import Client

BUCKET = "payloads-of-runs"
READS = """
    name: reads
    steps:
    - {name: a, run: [{action: set, set: {x: "{{ 'x' * 600 }}"}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {y: "{{ 'y' * 600 }}"}}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: set, set: {n: "{{ (x ~ y) | length }}"}}]}
    output: {n: "{{ n }}"}
"""

LimitMemory = Callable[[int], FunctionMemory]


@pytest.fixture
def limit_memory(monkeypatch: pytest.MonkeyPatch) -> LimitMemory:
    """A function that gives this process the memory of a Lambda function, in characters."""

    def limit(size: int) -> FunctionMemory:
        memory = FunctionMemory(size)
        monkeypatch.setattr(read_memory, "function_memory", lambda: memory)
        return memory

    return limit


@pytest.fixture
def store(moto_aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    upgrade("noetl")
    moto_aws("s3").create_bucket(Bucket=BUCKET)
    monkeypatch.setenv("NOETL_BUCKET", BUCKET)
    with closing(open_store("dynamodb://noetl")) as opened:
        yield opened


class TestReads:
    def test_nothing_is_counted_elsewhere(self) -> None:
        with counting_reads():
            assert not is_counting_reads()
            reserve_read(10**12)
            reserve_result("x")
            keep_reads()
            carry_reads("x")

    def test_reads_are_released_at_the_end(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(100)
        with counting_reads():
            assert is_counting_reads()
            reserve_read(100)
            assert memory.reserved == 100 * BYTES_OF_READ // BYTES_OF_RESULT
            keep_reads()
            assert memory.reserved == 100 * BYTES_OF_KEPT // BYTES_OF_RESULT
            carry_reads("x" * 48)
            assert memory.reserved == 50 * BYTES_OF_KEPT // BYTES_OF_RESULT
        assert memory.reserved == 0

    def test_a_value_that_does_not_fit_is_an_error_if_it_may_be(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(100)
        with counting_reads():
            with strict_reads(), pytest.raises(ActionError, match="memory of the function") as refused:
                reserve_read(1000)
            assert (refused.value.type, memory.reserved) == ("PayloadTooLarge", 0)
            reserve_read(1000)
            assert memory.reserved == 100

    def test_values_that_fit_alone_wait_until_they_are_alone(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(100)
        memory.reserve(1, 0)
        with counting_reads(), strict_reads(), retrying_until(0.0):
            with pytest.raises(ActionError, match="the steps of this function"):
                reserve_read(300)
            memory.count(-1)
            reserve_read(300)
            assert memory.reserved == 100

    def test_a_result_counts_in_addition_to_what_it_was_made_of(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(100)
        with counting_reads():
            with strict_reads(BYTES_OF_RESULT):
                reserve_read(50)
            reserve_result("x" * 48)
            assert memory.reserved == 50
            reserve_result("x" * 58)
            assert memory.reserved == 60
            with pytest.raises(ActionError):
                reserve_result("x" * 200)


class TestBlobReads:
    @pytest.mark.parametrize("value", [1, "x" * 100, "x" * 1_000_000])
    def test_characters_are_counted_without_the_text(self, value: object) -> None:
        assert count_characters(to_bytes(value)) == len(str(value)) + 2 * isinstance(value, str)

    def test_an_object_has_its_length(self, moto_aws: Client, limit_memory: LimitMemory) -> None:
        moto_aws("s3").create_bucket(Bucket=BUCKET)
        memory = limit_memory(10**9)
        value = [f"{number * number:x}" for number in range(10_000)]
        length = count_characters(to_bytes(value))
        stored = Blobs(BUCKET).store("run", value)
        assert stored is not None
        blobs = Blobs(BUCKET)
        with counting_reads():
            assert blobs.load(stored) == value
            assert memory.reserved == length * BYTES_OF_READ // BYTES_OF_RESULT
            carry_reads()
            assert blobs.load(stored) == value  # It is cached.
            assert memory.reserved == length * BYTES_OF_READ // BYTES_OF_RESULT
        # An object of an earlier version has no length.
        key = stored[1:].decode()
        moto_aws("s3").put_object(Bucket=BUCKET, Key=key, Body=to_bytes(value))
        with counting_reads():
            Blobs(BUCKET).load(stored)
            assert memory.reserved == 2 * len(to_bytes(value)) * BYTES_OF_READ // BYTES_OF_RESULT

    def test_an_object_that_does_not_fit_is_not_read(
        self, moto_aws: Client, limit_memory: LimitMemory
    ) -> None:
        moto_aws("s3").create_bucket(Bucket=BUCKET)
        stored = Blobs(BUCKET).store("run", [f"{number * number:x}" for number in range(10_000)])
        limit_memory(1_000)
        with counting_reads(), strict_reads(), pytest.raises(ActionError) as refused:
            Blobs(BUCKET).load(stored)
        assert refused.value.type == "PayloadTooLarge"


def test_a_step_that_reads_too_much_fails(store: Store, limit_memory: LimitMemory) -> None:
    harness = RunHarness(store, READS)
    for _ in range(2):
        harness.execute_next()
    memory = limit_memory(200)
    with counting_reads():
        harness.finish()
    assert harness.error_types == ["PayloadTooLarge"]
    assert memory.reserved == 0


def test_a_step_whose_values_fit_succeeds(store: Store, limit_memory: LimitMemory) -> None:
    memory = limit_memory(700)
    with counting_reads():
        harness = RunHarness(store, READS).finish()
    assert harness.result == {"n": 1200}
    assert memory.reserved == 0


def test_a_run_whose_result_does_not_fit_fails(store: Store, limit_memory: LimitMemory) -> None:
    harness = RunHarness(store, READS.replace('{n: "{{ n }}"}', '{x: "{{ x }}"}'))
    for _ in range(3):
        harness.execute_next()
    limit_memory(400)
    with counting_reads():
        harness.finish()
    assert harness.error_types == ["PayloadTooLarge"]
