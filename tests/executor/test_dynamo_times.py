"""The times that visits in DynamoDB carry, compared with those measured from all events."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from noetl.executor.model.durations import RunTimes, begin_times, extend_times
from noetl.executor.model.run import RunStatus
from noetl.executor.stores.dynamo import commits, keys, measured_times
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.measured_times import MeasuredTimes
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness
from tests.aws import Client

CHAIN = """
    steps:
      - {name: a, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [b]}]}
      - {name: b, run: [{action: wait, seconds: 20}], rule: [{case: default, run: [c]}]}
      - name: c
        retry: {attempts: 2, delay: 30s}
        run: [{action: shell, command: "exit {{ 2 - step.attempt }}"}]
"""
CYCLE = """
    steps:
      - name: a
        max_visits: 20
        run: [{action: wait, seconds: 3}]
        rule: [{case: default, run: [b]}]
      - name: b
        max_visits: 20
        rule: [{case: "{{ steps.a.visits < 6 }}", run: [a]}]
"""
FORKING_CYCLE = """
    steps:
      - {name: a, max_visits: 20, rule: [{case: default, run: [b, c]}]}
      - name: b
        max_visits: 20
        run: [{action: wait, seconds: 40}]
        rule: [{case: default, run: [d]}]
      - {name: c, max_visits: 20, rule: [{case: default, run: [d]}]}
      - name: d
        join: all
        max_visits: 20
        rule: [{case: "{{ steps.d.visits < 9 }}", run: [a]}]
"""
SEQUENTIAL = """
    mode: sequential
    steps:
      - {name: a, rule: [{case: default, run: [b, c]}]}
      - {name: b, run: [{action: wait, seconds: 5}], rule: [{case: default, run: [d]}]}
      - {name: c, run: [{action: wait, seconds: 7}], rule: [{case: default, run: [d]}]}
      - {name: d, join: all, run: [{action: set, set: {x: 1}}]}
"""
FINALLY = """
    finally: last
    steps:
      - {name: a, run: [{action: wait, seconds: 20}]}
      - {name: last, run: [{action: wait, seconds: 10}]}
"""
ANY = """
    steps:
      - name: a
        rule: [{case: "{{ run.id == '' }}", run: [b, c]}, {case: default, run: [b]}]
      - {name: b, run: [{action: wait, seconds: 4}], rule: [{case: default, run: [d]}]}
      - {name: c, rule: [{case: default, run: [d]}]}
      - {name: d, join: any, run: [{action: wait, seconds: 4}]}
"""
FORK = """
    steps:
      - {name: a, rule: [{case: default, run: [b, c]}]}
      - {name: b, run: [{action: wait, seconds: 5}]}
      - {name: c, run: [{action: wait, seconds: 7}]}
"""


@pytest.fixture
def store(aws: Client) -> Iterator[DynamoStore]:
    upgrade("noetl")
    yield DynamoStore("noetl")


@pytest.fixture
def measured_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The runs whose events were all read."""
    runs: list[str] = []
    measure = MeasuredTimes._measure_all

    def record(self: MeasuredTimes, head: dict[str, str], created_at: float, now: float) -> object:
        runs.append(head["pk"])
        return measure(self, head, created_at, now)

    monkeypatch.setattr(MeasuredTimes, "_measure_all", record)
    return runs


def check_times(store: DynamoStore, play: RunHarness) -> None:
    """Compare the times of a run with those of all of its events."""
    run, now = play.run, play.clock()
    snapshot = read_snapshot(store.context, run.id)
    assert snapshot is not None
    active = [item.visit for item in snapshot.active_items]
    expected = extend_times(begin_times(run.created_at), play.events, active, 0, now)
    found = store.visits.times(run.id, run.created_at, now)
    assert found is not None
    assert split(found) == pytest.approx(split(expected))


def split(times: RunTimes) -> tuple[float, float, float]:
    sums = times.durations
    return sums.work, sums.waiting, sums.queued


def advance(store: DynamoStore, play: RunHarness, chance: random.Random) -> None:
    """Execute the run to its end, late and early, and compare its times all the while."""
    while not play.run.status.is_final:
        play.clock.advance(chance.choice([0, 1, 5, 40]))
        check_times(store, play)
        claim = play.claim("lost") if chance.random() < 0.2 else None
        if claim is not None and claim.visit.progress is None:
            play.clock.advance(50)
            check_times(store, play)
        elif claim is not None:
            play.executor("lost").execute(claim)
        play.execute_next(chained=chance.random() < 0.5)
    play.clock.advance(100)
    check_times(store, play)


@pytest.mark.parametrize("text", [CHAIN, CYCLE, SEQUENTIAL, FINALLY, ANY])
def test_the_latest_visit_has_the_times_of_its_run(
    store: DynamoStore, measured_runs: list[str], text: str
) -> None:
    chance = random.Random(text)
    advance(store, RunHarness(store, text), chance)
    assert measured_runs == []


def test_a_run_that_forks_is_measured_from_its_events(store: DynamoStore, measured_runs: list[str]) -> None:
    play = RunHarness(store, FORK)
    advance(store, play, random.Random(7))
    assert set(measured_runs) == {f"R#{play.id}"}


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_forks_on_a_cycle_is_measured_from_its_new_visits(
    store: DynamoStore, measured_runs: list[str], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(measured_times, "MIN_VISITS", 5)
    chance = random.Random(seed)
    play = RunHarness(store, FORKING_CYCLE)
    for step in range(36):
        play.clock.advance(chance.random() * 20)
        play.execute_next()
        if step == 20:
            play.clock.advance(1)
            store.pauses.pause(play.id, play.clock())
            play.clock.advance(50)
            check_times(store, play)
            store.pauses.unpause(play.id, play.clock())
        if step % 4 == 0:
            check_times(store, play)
    complete = len(measured_runs)
    for name, value in (("count_by_step", lambda _: {"a": 999}), ("MAX_CHECKPOINTS", 0)):
        with monkeypatch.context() as patch:  # A visit seems to be missing, or nothing is remembered.
            patch.setattr(measured_times, name, value)
            check_times(store, play)
    check_times(store, play)
    assert len(measured_runs) == complete + 2
    play.finish()
    for _ in range(2):
        check_times(store, play)
    assert len(measured_runs) == complete + 2 < 9


@pytest.mark.parametrize("seed", range(4))
def test_pauses_of_a_run_that_waits_are_measured(
    store: DynamoStore, measured_runs: list[str], seed: int
) -> None:
    chance = random.Random(seed)
    play = RunHarness(store, CYCLE)
    while not play.run.status.is_final:
        play.clock.advance(chance.random() * 5)
        play.execute_next()
        if play.status == "waiting" and chance.random() < 0.5:
            store.pauses.pause(play.id, play.clock() + chance.random())
            play.clock.advance(30)
            check_times(store, play)
            store.pauses.unpause(play.id, play.clock() + 1)
            play.clock.advance(2)
        check_times(store, play)
    assert measured_runs == []


def test_a_parked_visit_is_in_the_queue_until_its_run_ends(
    store: DynamoStore, measured_runs: list[str]
) -> None:
    play = RunHarness(store, CHAIN)
    play.execute_next()
    play.clock.advance(5)
    store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
    play.finish()
    play.clock.advance(20)
    play.resume()
    play.clock.advance(3)
    play.execute_next()
    times = store.visits.times(play.id, play.run.created_at, play.clock() + 4)
    assert times is not None
    assert split(times) == (0, 4, 5)
    assert measured_runs == []


@pytest.mark.parametrize("mode", ["", "mode: sequential"])
def test_a_failed_run_that_is_resumed_continues_its_times(
    store: DynamoStore, measured_runs: list[str], mode: str
) -> None:
    text = f"""
        {mode or "input: {code: {type: integer, default: 1}}"}
        {"input: {code: {type: integer, default: 1}}" if mode else ""}
        steps:
          - {{name: a, run: [{{action: wait, seconds: 5}}], rule: [{{case: default, run: [b]}}]}}
          - name: b
            run: [{{action: shell, command: "exit {{{{ code }}}}"}}]
            rule: [{{case: default, run: [c]}}]
          - {{name: c, run: [{{action: wait, seconds: 9}}]}}
    """
    play = RunHarness(store, text).finish()
    check_times(store, play)
    play.clock.advance(100)
    check_times(store, play)
    play.resume(code=0)
    advance(store, play, random.Random(5))
    assert play.status == "succeeded"
    assert measured_runs == []


def test_a_run_of_an_earlier_version_is_measured_from_its_events(
    store: DynamoStore, measured_runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play = RunHarness(store, CYCLE)
    with monkeypatch.context() as patch:
        patch.setattr(commits, "measure_commit", lambda *_: ())
        for _ in range(3):
            play.clock.advance(2)
            play.execute_next()
            check_times(store, play)
    assert len(measured_runs) == 3
    advance(store, play, random.Random(3))
    monkeypatch.setattr(measured_times, "MAX_MEASURED_VISITS", 3)
    assert store.visits.times(play.id, play.run.created_at, play.clock()) is None


@pytest.mark.parametrize("spent", [["a"], [1, 2], [1, 2, 3, "b"], "text"])
def test_damaged_times_do_not_stop_a_run(store: DynamoStore, measured_runs: list[str], spent: object) -> None:
    play = RunHarness(store, CHAIN)
    play.clock.advance(3)
    play.execute_next()
    key = keys.visit(play.id, play.visit("a").id, 1)
    store.context.table.write([Update(key, {"spent": spent})])
    check_times(store, play)
    assert play.finish().status == "succeeded"
    check_times(store, play)
    assert len(measured_runs) == 2
