"""Work, waiting and queued time of visits and runs, from the records that exist anyway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from noetl.api.service.data_views import RunDetails, StepData
from noetl.api.service.services import TenantServices, create_services
from noetl.executor.actions import catalogue
from noetl.executor.model.durations import Durations, begin_times, extend_times, measure
from noetl.executor.model.events import Event
from noetl.executor.model.run import NEVER, RunStatus, Visit, VisitStatus
from noetl.executor.stores.dynamo import measured_times
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import FakeClock, RunHarness

PAUSING = """
steps:
  - name: a
    run: [{action: wait, seconds: 60}]
    rule: [{case: default, run: [b]}]
  - name: b
    retry: {attempts: 2, delay: 100s}
    run: [{action: shell, command: "exit {{ 2 - step.attempt }}"}]
"""


@pytest.fixture(params=["sqlite", "memory", "dynamodb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "dynamodb":
        request.getfixturevalue("aws")
        upgrade("noetl")
        yield DynamoStore("noetl")
        return
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(str(tmp_path / "noetl.db"))
    yield store
    store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def services(store: Store, clock: FakeClock) -> TenantServices:
    return create_services(store, catalogue(), clock=clock)


def split(view: StepData | RunDetails) -> tuple[object, ...]:
    """Return work, waiting and queued time in seconds."""
    times = (view.work_ms, view.waiting_ms, view.queued_ms)
    return tuple(None if value is None else round(value / 1000, 1) for value in times)


def test_timers_and_retries_wait_and_late_claims_queue(
    services: TenantServices, store: Store, clock: FakeClock
) -> None:
    play = RunHarness(store, PAUSING, clock=clock)
    clock.advance(5)
    assert play.execute_next()  # It waits for 60 s.
    clock.advance(40)
    assert split(services.data.step(play.id, "a")) == (0, 40, 5)
    clock.advance(30)
    assert play.execute_next()  # 10 s late.
    assert split(services.data.step(play.id, "a")) == (0, 60, 15)
    clock.advance(3)
    assert split(services.data.details(play.id)) == (0, 60, 18)
    assert play.execute_next()  # It fails, and is tried again in 100 s.
    delay = play.visit("b").due_at - clock()
    clock.advance(delay + 7)
    assert split(services.data.step(play.id, "b")) == (0, round(delay, 1), 10)
    play.finish()
    assert split(services.data.step(play.id, "b")) == (0, round(delay, 1), 10)
    total = (0, round(60 + delay, 1), 25)
    assert split(services.data.details(play.id)) == total
    clock.advance(1000)
    assert split(services.data.details(play.id)) == total


def test_a_step_at_work_counts_up_to_now(services: TenantServices, store: Store, clock: FakeClock) -> None:
    play = RunHarness(store, PAUSING, clock=clock)
    claim = play.claim()
    assert claim is not None
    clock.advance(9)
    assert split(services.data.step(play.id, "a")) == (9, 0, 0)
    assert split(services.data.details(play.id)) == (9, 0, 0)


def test_an_answer_ends_the_waiting(services: TenantServices, store: Store, clock: FakeClock) -> None:
    text = """
        steps:
          - name: ask
            run: [{action: callback, title: Continue?}]
    """
    play = RunHarness(store, text, clock=clock)
    assert play.execute_next()
    clock.advance(500)
    assert split(services.data.details(play.id)) == (0, 500, 0)
    store.runs.stop(play.id, RunStatus.CANCELLED, clock())
    play.finish()
    clock.advance(500)
    assert split(services.data.details(play.id))[0] == 0


def test_the_time_between_two_batches_is_work(
    services: TenantServices, store: Store, clock: FakeClock
) -> None:
    text = """
        steps:
          - name: a
            loop: {items: [1, 2, 3], batch: 2}
            run: [{action: set, set: {x: 1}}]
    """
    play = RunHarness(store, text, clock=clock)
    assert play.execute_next()
    clock.advance(4)
    assert split(services.data.step(play.id, "a")) == (0, 0, 4)
    play.finish()
    assert split(services.data.step(play.id, "a")) == (4, 0, 0)


def test_parallel_branches_count_once(services: TenantServices, store: Store, clock: FakeClock) -> None:
    text = """
        steps:
          - name: a
            run: [{action: set, set: {x: 1}}]
            rule: [{case: default, run: [b, c]}]
          - {name: b, run: [{action: wait, seconds: 50}]}
          - {name: c, run: [{action: wait, seconds: 80}]}
    """
    play = RunHarness(store, text, clock=clock).finish()
    assert split(services.data.details(play.id)) == (0, 80, 0)
    assert measure([]) == measure([(0, 5.0, 5.0)])


def test_the_time_between_a_failure_and_a_resume_does_not_count(
    services: TenantServices, store: Store, clock: FakeClock
) -> None:
    text = """
        input: {code: {type: integer, default: 1}}
        steps:
          - {name: a, run: [{action: shell, command: "exit {{ code }}"}]}
    """
    play = RunHarness(store, text, clock=clock).finish()
    clock.advance(1000)
    assert split(services.data.details(play.id)) == (0, 0, 0)
    play.resume(code=0)
    clock.advance(2)
    play.finish()
    assert play.status == "succeeded"
    assert split(services.data.details(play.id)) == (0, 0, 0)


def test_a_run_with_hundreds_of_visits_has_times(
    services: TenantServices, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let each visit wait and be claimed late, and pause the run once."""
    visits = 30 if isinstance(store, DynamoStore) else 200
    monkeypatch.setattr(measured_times, "MAX_MEASURED_VISITS", 10)
    text = """
        input: {limit: integer}
        steps:
          - name: a
            max_visits: 300
            run: [{action: wait, seconds: 10}]
            rule: [{case: "{{ steps.a.visits < limit }}", run: [a]}]
    """
    play = RunHarness(store, text, {"limit": visits}, clock=clock)
    for number in range(1, visits + 1):
        clock.advance(2)
        assert play.execute_next()  # It waits for 10 s.
        if number == 20:
            store.pauses.pause(play.id, clock())
            clock.advance(1000)
            store.pauses.unpause(play.id, clock())
            clock.advance(10)
            assert play.execute_next()
            continue
        clock.advance(13)
        assert play.execute_next()  # 3 s late.
    details = services.data.details(play.id)
    work, waiting, queued = split(details)
    assert work == 0
    assert (waiting, queued) == (visits * 10 - 10, visits * 2 + (visits - 1) * 3 + 10)


def test_waiting_goes_on_in_another_version() -> None:
    events = [
        Event("step.started", 1.0, "ask", 1, 1),
        Event("step.waiting", 2.0, "ask", 1, 1, payload={"until": None}),
        Event("workflow.migrated", 5.0, payload={"renamed": {"ask": "question"}}),
    ]
    visit = Visit("v", "r", "question", VisitStatus.WAITING, 1, {}, due_at=NEVER)
    times = extend_times(begin_times(1.0), events, [visit], 3, 10.0)
    assert times.durations == Durations(work=1.0, waiting=8.0, queued=0.0)
    assert list(times.active) == [("question", 1)]
