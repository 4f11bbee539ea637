"""Switches of runs to other plans in DynamoDB: interrupted ones, races, messages and wide forks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.run import Claim, Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_history import RunRecords
from noetl.executor.model.run_switch import SwitchedRun
from noetl.executor.stores.dynamo.arrivals import decode_carried
from noetl.executor.stores.dynamo.followups import DueVisits
from noetl.executor.stores.dynamo.run_items import derive_deadline_visit
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.memory.store import MemoryStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import LEASE, failed_checks, succeed
from noetl.testing.store_contract.switches import (
    CORRECTED,
    RIGHT,
    WAITING,
    WRONG,
    execute_until_it_waits,
    switch,
)
from tests.aws import Client
from tests.aws_faults import DENIED, faulty_table
from tests.contract.test_dynamodb_races import ManualQueue, build_wide_fork, deliver, store_with_queue
from tests.executor.test_switching import switch_randomly

CYCLE = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, max_visits: 9, run: [{action: set, set: {n: "{{ (n | default(0)) + 1 }}"}}],
       rule: [{case: "{{ n < 3 }}", run: [b]}, {case: default, run: [d]}]}
    - {name: c, run: [{action: wait, seconds: 60}], rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: set, set: {sum: "{{ n }}"}}]}
    output: {sum: "{{ sum }}"}
"""
CYCLE_AND_LOG = CYCLE.replace(
    'run: [{action: set, set: {sum: "{{ n }}"}}]', 'run: [{action: set, set: {sum: "{{ n + 40 }}"}}]'
)

RANDOM_SEEDS = range(24)
LEAST_SWITCHES = 6


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    del aws
    upgrade("noetl")
    return DynamoStore("noetl")


def prepare_failed(store: DynamoStore) -> RunHarness:
    return RunHarness(store, WRONG, {"m": "a"}, origin="service").finish()


def prepare_waiting(store: DynamoStore) -> RunHarness:
    harness = RunHarness(store, WAITING, origin="service")
    execute_until_it_waits(harness)
    return harness


def prepare_cycle(store: DynamoStore) -> RunHarness:
    """Start a run that waits. Its other branch has arrived at the join, after three visits of `b`."""
    harness = RunHarness(store, CYCLE, origin="service")
    execute_until_it_waits(harness)
    return harness


@pytest.mark.parametrize(
    ("prepare", "text", "result"),
    [
        (prepare_failed, RIGHT, {"sum": 3}),
        (prepare_waiting, CORRECTED, {"y": 42}),
        (prepare_cycle, CYCLE_AND_LOG, {"sum": 43}),
    ],
    ids=["failed", "waiting", "cycle"],
)
def test_an_interrupted_switch_leaves_the_run_on_one_of_the_plans(
    store: DynamoStore, prepare: Callable[[DynamoStore], RunHarness], text: str, result: object
) -> None:
    """Stop the switch at each of its requests in turn. It can be repeated, or a sweep completes it."""
    seen = set()
    for allowed in count():
        harness = prepare(store)
        requests = iter(range(allowed))

        def refuse(operation: str, requests: Iterator[int] = requests) -> str | None:
            del operation
            return None if next(requests, None) is not None else DENIED

        is_interrupted = False
        plan = compile_text(text)
        store.plans.save(plan)
        with faulty_table(refuse):
            try:
                switch(harness, text)
            except StoreError:
                is_interrupted = True
        hash_after = harness.run.plan_hash
        assert hash_after in (harness.plan.hash, plan.hash)
        seen.add(hash_after)
        if hash_after == harness.plan.hash:
            assert is_interrupted
            assert switch(harness, text).run is not None
        else:
            with pytest.raises(RejectedError, match="this version"):
                switch(harness, text)
        store.maintenance.sweep(harness.clock())
        assert harness.finish().result == result, allowed
        if not is_interrupted:
            assert failed_checks(store) == []
            assert seen == {harness.plan.hash, plan.hash}
            assert allowed >= 8
            return


def test_visits_keep_their_ids_and_the_join_fires_once(store: DynamoStore) -> None:
    harness = prepare_cycle(store)
    before = {visit.id: (visit.step, visit.number) for visit in harness.visits}
    assert switch(harness, CYCLE_AND_LOG).run is not None
    assert {visit.id: (visit.step, visit.number) for visit in harness.visits} == before
    assert switch(harness, CYCLE).run is not None
    assert {visit.id: (visit.step, visit.number) for visit in harness.visits} == before
    assert harness.finish().result == {"sum": 3}
    assert harness.visit_counts == {"a": 1, "b": 3, "c": 1, "d": 1}
    assert failed_checks(store) == []


def test_readers_of_a_run_see_its_new_plan(store: DynamoStore) -> None:
    harness = prepare_cycle(store)
    text = CYCLE_AND_LOG.replace("name: b", "name: count").replace("run: [b", "run: [count")
    plan = compile_text(text)
    assert switch(harness, text, renamed={"b": "count"}).run is not None
    overview = store.runs.overview(harness.tenant, harness.id)
    assert overview is not None
    assert overview.summary.plan_hash == plan.hash
    assert {step: visits.started for step, visits in overview.steps.items()} == {"a": 1, "count": 3, "c": 1}
    second = store.visits.find(harness.id, "count", 2)
    assert second is not None
    assert (second.visit.number, second.started) == (2, 3)
    assert {event.type for event in store.visits.events(harness.id, "count", 2)} >= {"step.completed"}
    (listed,) = store.runs.find(RunFilter(harness.tenant))[0]
    assert listed.plan_hash == plan.hash
    assert harness.finish().result == {"sum": 43}
    assert store.visits.times(harness.id, harness.run.created_at, harness.clock()) is not None


def test_one_of_two_switches_at_once_wins(store: DynamoStore) -> None:
    """Let another person switch the run between the verdict and the write."""
    harness = prepare_waiting(store)
    other = CORRECTED.replace("41", "1")
    switches = store.switches
    requests: list[str] = []

    class LateSwitches:
        """The switches of the store, of which another switch comes before the first write."""

        def read(self, run_id: str, now: float) -> RunRecords:
            return switches.read(run_id, now)

        def write(
            self, judged: RunRecords, switched: SwitchedRun, idempotency: tuple[str, str] | None = None
        ) -> Run | None:
            if not requests:
                requests.append("late")
                store.switches = switches
                assert switch(harness, other).run is not None
            return switches.write(judged, switched, idempotency)

    store.switches = LateSwitches()  # type: ignore[assignment]
    assert switch(harness, CORRECTED).run is not None
    migrated = [event for event in harness.events if event.type == "workflow.migrated"]
    assert [event.payload["from"] for event in migrated] == [harness.plan.hash, compile_text(other).hash]
    assert harness.finish().result == {"y": 42}


def test_messages_of_the_earlier_plan_change_nothing(store: DynamoStore) -> None:
    """Deliver each message again after the switch, and again after the end of the run."""
    queue = ManualQueue()
    store = store_with_queue(queue)
    harness = RunHarness(store, WRONG, {"m": "a"}, origin="service")
    early: list[str] = []

    def deliver_all(bodies: list[str]) -> None:
        for body in bodies:
            deliver(store, body, queue, now=harness.clock())

    while queue.bodies:
        early.append(queue.bodies.pop(0))
        deliver_all(early[-1:])
    assert harness.status is RunStatus.FAILED
    assert switch(harness, RIGHT).run is not None
    late, queue.bodies = queue.bodies, []
    deliver_all(early)
    while late or queue.bodies:
        early.append((late or queue.bodies).pop(0))
        deliver_all(early[-1:])
    deliver_all(early)
    assert harness.result == {"sum": 3}
    assert harness.visit_counts == {"a": 1, "b": 1, "c": 1, "d": 1}


def test_message_of_an_earlier_deadline_is_too_early(store: DynamoStore) -> None:
    queue = ManualQueue()
    store = store_with_queue(queue)
    harness = RunHarness(store, WAITING.replace("steps:", "timeout: 1h\n    steps:", 1), origin="service")
    head = store.context.heads.read(harness.id)
    deadline = derive_deadline_visit(head)
    assert deadline is not None
    body = store.context.announcer.message_about(deadline, head).encode()
    assert switch(harness, WAITING.replace("steps:", "timeout: 2h\n    steps:", 1)).run is not None
    harness.clock.advance(3601)
    assert store.queue.claim_message(body, LEASE, harness.clock()) is MessageOutcome.DONE
    assert harness.status is RunStatus.QUEUED
    harness.clock.advance(3600)
    assert isinstance(store.queue.claim_message(body, LEASE, harness.clock()), Claim)


def test_worker_gets_no_next_step_of_another_plan(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switch the run between the outcome of a step and the claim of the next one by the same worker."""
    harness = RunHarness(store, WAITING)
    claim = harness.claim()
    assert claim is not None
    followups = store.queue._followups
    apply = followups.apply
    text = CORRECTED.replace("seconds: 60", "seconds: 0")

    def switch_before(*arguments: Any) -> DueVisits:
        monkeypatch.setattr(followups, "apply", apply)
        assert switch(harness, text).run is not None
        return apply(*arguments)

    monkeypatch.setattr(followups, "apply", switch_before)
    committed = succeed(store, claim, saved={"x": 1})
    assert store.queue.commit(committed, harness.clock(), LEASE).following is None
    next_claim = harness.claim()
    assert next_claim is not None
    assert next_claim.visit.step == "b"
    assert next_claim.run.plan_hash == compile_text(text).hash
    assert replace(harness.executor(), continues=lambda: False).execute(next_claim) is None
    assert harness.finish().result == {"y": 42}
    assert failed_checks(store) == []


@pytest.mark.parametrize("executed", [1, 20])
def test_branches_in_several_partitions_continue(store: DynamoStore, executed: int) -> None:
    harness = RunHarness(store, build_wide_fork(40))
    assert store.context.heads.spread(harness.id) > 1
    for _ in range(executed):
        assert harness.execute_next()
    text = build_wide_fork(40).replace("message: done", "message: corrected")
    assert switch(harness, text).run is not None
    assert harness.run.live == 40
    assert failed_checks(store) == []
    assert harness.finish().status is RunStatus.SUCCEEDED
    assert (harness.run.live, harness.visit_counts["c"], len(harness.visits)) == (0, 1, 42)


def test_end_of_a_run_that_was_resumed_is_not_completed_again(store: DynamoStore) -> None:
    """Deliver the message of the end of a run after the run was resumed. It must not expire."""
    queue = ManualQueue()
    store = store_with_queue(queue)
    store.context.plan_uses.retention_seconds = 3600.0
    harness = RunHarness(store, WRONG, {"m": "a"}, origin="service")
    early: list[str] = []
    while queue.bodies:
        early.append(queue.bodies.pop(0))
        deliver(store, early[-1], queue, now=harness.clock())
    assert "expires" in store.context.heads.read(harness.id)
    harness.resume()
    for body in early:
        deliver(store, body, queue, now=harness.clock())
    assert "expires" not in store.context.heads.read(harness.id)


def test_random_runs_end_as_in_memory(store: DynamoStore) -> None:
    """Switch random runs of random playbooks, as in memory."""
    switched = 0
    for seed in RANDOM_SEEDS:
        outcomes = []
        for tried in (store, MemoryStore()):
            found = switch_randomly(tried, seed)
            if found is None:
                continue
            harness, outcome, _ = found
            harness.finish()
            result = str(harness.result).replace(harness.id, "")
            events = sorted(harness.event_types())
            outcomes.append((outcome.run is None, harness.status, result, harness.visit_counts, events))
        assert outcomes[1:] == outcomes[:1], seed
        switched += bool(outcomes) and not outcomes[0][0]
    assert failed_checks(store) == []
    assert switched >= LEAST_SWITCHES


def test_join_that_another_process_has_fired_is_read_again(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = prepare_cycle(store)
    assert switch(harness, CYCLE_AND_LOG).run is not None
    reads: list[object] = []

    def decode(*arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return {} if len(reads) == 1 else decode_carried(*arguments, **options)

    monkeypatch.setattr("noetl.executor.stores.dynamo.joins.decode_carried", decode)
    harness.clock.advance(3_600)
    harness.finish()
    assert (harness.run.result, len(reads) > 1) == ({"sum": 43}, True)
