"""Work of the reads of a long run in DynamoDB: requests, read units and bytes of answers (emulator)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from benchmarks.meter import AwsMeter, AwsUsage
from noetl.api.service.loop_items import ItemQuery
from noetl.api.service.loop_states import ItemState
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.durations import RunTimes
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.dynamo import measured_times
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import FakeClock, RunHarness
from tests.api.test_read_costs import CYCLE, LOOP
from tests.aws import Client

FAILED_ITEMS = ItemQuery("b", state=ItemState.FAILED)
MAX_REQUESTS_OF_A_RUN = 4
"""How many requests each run of a page takes that waits at a limit."""
LIMITED = "name: x\nconcurrency: 1\nsteps: [{name: a, run: [{action: wait, seconds: 60}]}]\n"
FORKING_CYCLE = """
    input: {rounds: integer}
    steps:
      - {name: a, max_visits: 100, rule: [{case: default, run: [b, c]}]}
      - {name: b, max_visits: 100, rule: [{case: default, run: [d]}]}
      - {name: c, max_visits: 100, rule: [{case: default, run: [d]}]}
      - name: d
        join: all
        max_visits: 100
        rule: [{case: "{{ steps.d.visits < rounds }}", run: [a]}]
"""


@pytest.fixture
def bucket() -> str:
    """A name that no other account of the emulator has."""
    return f"payloads-{uuid4().hex}"


@pytest.fixture
def store(aws: Client, bucket: str) -> DynamoStore:
    upgrade("noetl")
    aws("s3").create_bucket(Bucket=bucket)
    return DynamoStore("noetl", bucket=bucket)


@pytest.fixture
def services(store: DynamoStore, bucket: str) -> TenantServices:
    """The services of another process, which has cached nothing that the first one has written."""
    return create_services(DynamoStore("noetl", bucket=bucket), catalogue())


@pytest.fixture
def meter(store: DynamoStore) -> Iterator[AwsMeter]:
    with AwsMeter().attached() as meter:
        yield meter


def measure(meter: AwsMeter, read: Callable[..., object], *arguments: object) -> AwsUsage:
    """Return the use of a call that was made once before."""
    read(*arguments)
    meter.read()
    read(*arguments)
    return meter.read()


def is_within(factor: float, use: AwsUsage, other: AwsUsage) -> bool:
    """Return whether the requests, units and bytes of a use are at most `factor` times those of another."""
    pairs = (
        (use.requests.total(), other.requests.total()),
        (use.read_units, other.read_units),
        (use.received_bytes, other.received_bytes),
    )
    return all(mine <= factor * theirs for mine, theirs in pairs)


def test_a_long_run_costs_what_a_short_one_does(
    services: TenantServices, store: DynamoStore, meter: AwsMeter
) -> None:
    runs = [RunHarness(store, CYCLE, {"rounds": rounds}).finish() for rounds in (1, 40, 110)]
    single, forty, many = (measure(meter, services.data.details, run.id) for run in runs)
    assert is_within(3, many, single)
    assert is_within(1.1, many, forty)
    details = services.data.details(runs[2].id)
    assert details.work_ms is not None
    assert [(loop.done, loop.failed) for loop in details.steps["b"].loops or ()] == [(3, 3)]
    few = measure(meter, services.data.step, runs[0].id, "a", 1)
    for number in (1, 55, 109, 110, None):
        found = services.data.step(runs[2].id, "a", number)
        assert (found.visit, found.visits, len(found.attempts)) == (number or 110, 110, 1)
        assert found.saved[0].value == found.visit
        assert is_within(2.5, measure(meter, services.data.step, runs[2].id, "a", number), few)
    first, last = (measure(meter, services.items.page, run.id, FAILED_ITEMS) for run in (runs[0], runs[2]))
    assert is_within(1.1, last, first)


def test_the_times_of_a_run_that_forks_are_measured_from_what_was_measured_before(
    store: DynamoStore, bucket: str, meter: AwsMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the first read of a process with the next ones."""
    monkeypatch.setattr(measured_times, "MIN_VISITS", 10)
    play = RunHarness(store, FORKING_CYCLE, {"rounds": 9})
    created_at = play.run.created_at

    def read(reader: DynamoStore) -> tuple[RunTimes | None, AwsUsage]:
        meter.read()
        times = reader.visits.times(play.id, created_at, play.clock())
        return times, meter.read()

    reader = DynamoStore("noetl", bucket=bucket)
    play.finish()
    (fresh, many), (kept, few) = read(reader), read(reader)
    assert kept == fresh is not None
    assert few.received_bytes * 2 < many.received_bytes
    monkeypatch.setattr(measured_times, "MAX_MEASURED_VISITS", 20)
    assert read(reader)[0] == fresh
    assert read(DynamoStore("noetl", bucket=bucket))[0] is None


def test_a_page_of_a_long_loop_costs_what_one_of_a_short_loop_does(
    services: TenantServices, store: DynamoStore, meter: AwsMeter
) -> None:
    """Compare loops whose failed items have more text than the history keeps: it is bounded."""
    short, long = (RunHarness(store, LOOP, {"count": count}).finish() for count in (1000, 3000))
    few, many = (measure(meter, services.items.page, run.id, FAILED_ITEMS) for run in (short, long))
    assert is_within(1.1, many, few)
    assert many.requests == few.requests
    numbers: list[int] = []
    query = ItemQuery("b", state=ItemState.FAILED, limit=1000)
    while True:
        page = services.items.page(long.id, query)
        numbers += [item.number for item in page.items]
        if page.next_cursor is None:
            break
        query = ItemQuery("b", state=ItemState.FAILED, limit=1000, cursor=page.next_cursor)
    assert numbers == list(range(1, 3001))
    (visit,) = store.runs.visits_with_outputs(long.id, [long.visit("b").id])
    assert [failure["index"] for failure in visit.failures] == numbers


def test_failed_items_are_read_whether_or_not_they_are_in_the_bucket(
    store: DynamoStore, aws: Client, bucket: str
) -> None:
    """Read those of earlier versions, which were not divided, and those that were deleted."""
    for used, count in ((bucket, 3), (bucket, 90), (bucket, 3000), (None, 90), (None, 1000)):
        opened = DynamoStore("noetl", bucket=used)
        play = RunHarness(opened, LOOP, {"count": count}).finish()
        visit = play.visit("b")
        text = opened.visits.failures_text(play.id, visit.id, 0, 1 << 30)
        for start in (0, 1, 16_383, 16_384, 40_000, len(text) - 3, len(text), len(text) + 50_000):
            for length in (1, 100, 20_000):
                part = opened.visits.failures_text(play.id, visit.id, start, length)
                assert part == text[start : start + length]
        (complete,) = opened.runs.visits_with_outputs(play.id, [visit.id])
        assert len(complete.failures) == count
        assert text.count('"index"') == count
    objects = aws("s3").list_objects_v2(Bucket=bucket)["Contents"]
    for entry in objects:
        aws("s3").delete_object(Bucket=bucket, Key=entry["Key"])


def test_visits_of_a_cycle_that_forks_are_found(store: DynamoStore, services: TenantServices) -> None:
    play = RunHarness(store, FORKING_CYCLE, {"rounds": 11}).finish()
    for step in ("a", "b", "c", "d"):
        for number in (1, 2, 7, 11, 12):
            found = store.visits.find(play.id, step, number)
            assert found is not None
            assert (found.visit.number, found.started) == (number, 12)
            types = {event.type for event in store.visits.events(play.id, step, number)}
            assert "step.completed" in types
        latest = store.visits.find(play.id, step)
        assert latest is not None
        assert latest.visit.number == 12
        assert store.visits.find(play.id, step, 13) is None
    assert services.data.details(play.id).work_ms is not None


def test_the_slots_of_a_page_of_runs_take_one_request_for_each_run_and_flow(
    services: TenantServices, store: DynamoStore, meter: AwsMeter
) -> None:
    """Read runs that wait at one limit. Its flows and its queue are read once for all of them."""
    clock = FakeClock(float(int(store.clock())))
    runs = [RunHarness(store, LIMITED, clock=clock) for _ in range(13)]
    for run in runs:
        run.execute_next()
    ids = sorted(run.id for run in runs[1:])
    for count in (1, 2, 12):
        meter.read()
        found = store.gates.queued_slots(ids[:count], clock())
        assert meter.read().requests.total() == count + 2
        assert [slot.queued_before for id in ids[:count] for slot in found[id]] == list(range(count))
    few, many = (measure(meter, services.lists.page, RunFilter(limit=limit)) for limit in (3, 12))
    assert many.requests.total() - few.requests.total() <= 9 * MAX_REQUESTS_OF_A_RUN
