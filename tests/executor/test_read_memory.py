"""Values that visits read from a store, in the memory of a Lambda function."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.model import memory_budget, read_memory
from noetl.executor.model.function_memory import SMALL_SIZE, FunctionMemory
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
from noetl.executor.model.run import RunStatus, Visit, VisitStatus
from noetl.executor.patience import retrying_until
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs, count_characters, to_bytes
from noetl.executor.stores.dynamo.visit_items import decode_visit, encode_outcome
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres import runs as postgres_runs
from noetl.executor.stores.postgres.database import PostgresDatabase
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

    def test_a_small_value_that_must_be_read_does_not_wait(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(10 * SMALL_SIZE)
        memory.reserve(10 * SMALL_SIZE, 0)
        with counting_reads():
            # It would wait for ever if this thread held the rest.
            reserve_read(SMALL_SIZE)
            assert memory.reserved == 10 * SMALL_SIZE + SMALL_SIZE * BYTES_OF_READ // BYTES_OF_RESULT
            with retrying_until(time.monotonic()):
                reserve_read(4 * SMALL_SIZE)
        assert memory.reserved == 10 * SMALL_SIZE

    def test_what_was_read_before_an_error_is_released(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(1000)
        with counting_reads():
            reserve_read(100)
            before = memory.reserved
            with pytest.raises(ActionError), strict_reads():
                reserve_read(2000)
                reserve_read(10_000)
            assert memory.reserved == before
            with strict_reads():
                # What was dropped does not count for what the next step reads.
                reserve_read(4000)

    def test_values_that_fit_alone_wait_until_they_are_alone(self, limit_memory: LimitMemory) -> None:
        memory = limit_memory(100)
        memory.reserve(1, 0)
        with counting_reads(), strict_reads(), retrying_until(time.monotonic()):
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


def test_a_step_that_reads_too_much_fails(
    store: Store, limit_memory: LimitMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = RunHarness(store, READS)
    for _ in range(2):
        harness.execute_next()
    memory = limit_memory(200)
    monkeypatch.setattr(memory_budget, "function_memory", lambda: memory)
    with counting_reads(), retrying_until(time.monotonic()):
        # The values that were read before the one that does not fit do not keep the step from ending.
        assert harness.execute_next()
        assert memory.reserved == 0
    assert harness.visit("c").error is not None
    assert harness.finish().error_types == ["PayloadTooLarge"]


def store_and_load(saved: dict[str, object], result: object, blobs: Blobs) -> tuple[Item, Visit]:
    """Return the item of a finished visit with some outputs, and the visit that is read from it."""
    visit = Visit("id", "run", "a", VisitStatus.SUCCEEDED, 1, {}, saved=saved, result=result)
    outcome = {name: value for name, value in encode_outcome(visit, (), blobs).items() if value is not None}
    item = {**outcome, "sk": "V#id", "step": "a", "clock": 1, "entered": 0.0}
    decoded = decode_visit("run", item, blobs)
    assert decoded is not None
    return item, decoded.visit


def test_a_result_that_is_a_saved_value_is_stored_once(moto_aws: Client) -> None:
    moto_aws("s3").create_bucket(Bucket=BUCKET)
    value = [f"{number * number:x}" for number in range(10_000)]
    length = count_characters(to_bytes(value))
    for result in (value, {"v": value}, {}):
        item, visit = store_and_load({"v": value}, result, Blobs(BUCKET))
        stored = moto_aws("s3").get_object(Bucket=BUCKET, Key=item["gave"][1:].decode())
        assert int(stored["Metadata"]["characters"]) < length + 30
        assert (visit.saved, visit.result) == ({"v": value}, result)


@pytest.mark.parametrize("saved", [{}, {"v": 1}])
def test_an_empty_result_is_stored(saved: dict[str, object]) -> None:
    _, visit = store_and_load(saved, {}, Blobs(None))
    assert (visit.saved, visit.result) == (saved, {})


def count_queries(monkeypatch: pytest.MonkeyPatch, names: Collection[str]) -> Counter[str]:
    """Return a counter of the named statements that Postgres executes from now on."""
    counts: Counter[str] = Counter()
    fetch_all = PostgresDatabase.fetch_all

    def fetch(database: PostgresDatabase, query: str, /, **values: object) -> list[dict[str, object]]:
        if query in names:
            counts[query] += 1
        return fetch_all(database, query, **values)

    monkeypatch.setattr(PostgresDatabase, "fetch_all", fetch)
    return counts


class TestPostgresReads:
    @pytest.fixture
    def store(self, postgres_store_dsn: str) -> Iterator[Store]:
        with closing(open_store(postgres_store_dsn)) as opened:
            yield opened

    @pytest.mark.parametrize(("at_once", "queries"), [(10_000, 0), (1000, 1), (0, 2)])
    def test_outputs_are_counted_before_they_are_read(
        self,
        store: Store,
        limit_memory: LimitMemory,
        monkeypatch: pytest.MonkeyPatch,
        at_once: int,
        queries: int,
    ) -> None:
        monkeypatch.setattr(postgres_runs, "MAX_AT_ONCE", at_once)
        harness = RunHarness(store, READS)
        for _ in range(2):
            harness.execute_next()
        ids = [visit.id for visit in store.runs.visits(harness.id) if visit.step in ("a", "b")]
        expected = store.runs.visits_with_outputs(harness.id, ids)
        memory, counts = limit_memory(10_000), count_queries(monkeypatch, ["runs.outputs"])
        with counting_reads():
            assert store.runs.visits_with_outputs(harness.id, ids) == expected
            characters = len(f'{{"x":"{"x" * 600}"}}=')
            assert memory.reserved == 2 * (characters * BYTES_OF_READ // BYTES_OF_RESULT)
            assert counts.total() == queries
            assert store.runs.visits_with_outputs(harness.id)[:2] == expected

    def test_outputs_that_do_not_fit_are_an_error_of_the_step(
        self, store: Store, limit_memory: LimitMemory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres_runs, "MAX_AT_ONCE", 0)
        harness = RunHarness(store, READS)
        for _ in range(2):
            harness.execute_next()
        memory, counts = limit_memory(200), count_queries(monkeypatch, ["runs.outputs"])
        with counting_reads():
            assert harness.execute_next()
        assert counts.total() == 1
        assert memory.reserved == 0
        assert harness.finish().error_types == ["PayloadTooLarge"]

    @pytest.mark.parametrize("at_once", [10_000, 30, 0])
    def test_the_results_of_batches_are_counted(
        self, store: Store, limit_memory: LimitMemory, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr(postgres_runs, "MAX_AT_ONCE", at_once)
        memory = limit_memory(10_000)
        loop = '{action: set, loop: {items: [1, 2, 3, 4], batch: 2, as: n}, set: {value: "{{ n }}"}}'
        with counting_reads():
            harness = RunHarness(store, f"steps: [{{name: a, run: [{loop}]}}]").finish()
        assert (harness.status, memory.reserved) == (RunStatus.SUCCEEDED, 0)

    def test_a_claim_counts_the_input_of_the_run(self, store: Store, limit_memory: LimitMemory) -> None:
        text = "input: {text: string}\nsteps: [{name: a, run: [{action: set, set: {n: 1}}]}]"
        harness = RunHarness(store, text, {"text": "x" * 1000})
        memory = limit_memory(10_000)
        with counting_reads():
            assert harness.claim("worker") is not None
            assert memory.reserved >= 1000 * BYTES_OF_READ // BYTES_OF_RESULT


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
