"""Concurrent workers, lost responses and duplicate messages on DynamoDB."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from noetl.executor.clients.aws import client
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import END, Claim, Lease, RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.dynamo import table as tables
from noetl.executor.stores.dynamo.keys import BRANCHES_PER_PARTITION
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import MAX_TRANSACTION_ITEMS
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    action_events,
    claim_visit,
    end_run,
    fail,
    run_concurrently,
    start_run,
    succeed,
)
from tests.aws import Client

NESTED = """
    steps:
    - {name: a, rule: [{case: default, run: [b1, b2, b3]}]}
    - {name: b1, rule: [{case: default, run: [c1, c2]}]}
    - {name: b2, rule: [{case: default, run: [d]}]}
    - {name: b3, rule: [{case: "{{ run.id == '' }}", run: [d]}]}
    - {name: c1, rule: [{case: default, run: [c]}]}
    - {name: c2, rule: [{case: default, run: [c]}]}
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, rule: [{case: default, run: [e]}]}
    - {name: e, run: [{action: log, message: done}]}
"""
REPEATED_FORK = """
    steps:
    - name: a
      max_visits: 4
      rule: [{case: "{{ steps.a.visits < 3 }}", run: [b1, b2]}, {case: default, run: [z]}]
    - {name: b1, rule: [{case: default, run: [c]}]}
    - {name: b2, rule: [{case: default, run: [c]}]}
    - {name: c, rule: [{case: default, run: [a]}]}
    - {name: z, run: [{action: log, message: done}]}
"""
JOIN_ANY = """
    steps:
    - {name: a, rule: [{case: default, run: [b1, b2, b3]}]}
    - {name: b1, rule: [{case: default, run: [c]}]}
    - {name: b2, rule: [{case: default, run: [c]}]}
    - {name: b3, rule: [{case: default, run: [c]}]}
    - {name: c, join: any, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: done}]}
"""


def build_wide_fork(width: int) -> str:
    """Return a playbook with a fork of `width` branches and their join."""
    names = [f"b{number}" for number in range(width)]
    lines = ["steps:", f"- {{name: a, rule: [{{case: default, run: [{', '.join(names)}]}}]}}"]
    lines += [f"- {{name: {name}, rule: [{{case: default, run: [c]}}]}}" for name in names]
    return "\n".join([*lines, "- {name: c, run: [{action: log, message: done}]}"])


@pytest.fixture
def store(aws: Client) -> Iterator[DynamoStore]:
    upgrade("noetl")
    yield DynamoStore("noetl")


class ManualQueue(MessageQueue):
    """A queue whose messages a test delivers in any order."""

    def __init__(self) -> None:
        super().__init__("http://queue.invalid")
        self.bodies: list[str] = []
        self.lock = threading.Lock()

    def send(self, messages: Sequence[Any], now: float) -> None:
        with self.lock:
            self.bodies += [message.encode() for message in messages if message.due_at <= now]

    def take(self, chance: random.Random, *, twice: float = 0.0) -> str | None:
        with self.lock:
            if not self.bodies:
                return None
            index = chance.randrange(len(self.bodies))
            return self.bodies[index] if chance.random() < twice else self.bodies.pop(index)


def store_with_queue(queue: ManualQueue) -> DynamoStore:
    """Return a store that sends its messages to a queue."""
    store = DynamoStore("noetl", queue_url=queue.url)
    store.context.announcer.message_queue = queue
    return store


def start_service_run(store: DynamoStore, text: str) -> str:
    plan = compile_text(text)
    store.plans.save(plan)
    return store.runs.create(*new_run(plan.header, plan.hash, StartRequest(), now=1.0)).id


def deliver(store: DynamoStore, body: str, queue: ManualQueue, *, now: float = 2.0) -> None:
    """Handle a message as a function does: a message that is held is delivered again."""
    claimed = store.queue.claim_message(body, LEASE, now)
    if claimed is MessageOutcome.HELD:
        with queue.lock:
            queue.bodies.append(body)
    elif isinstance(claimed, Claim):
        VisitExecutor(
            store, LEASE, local_run_capabilities(Path.cwd()), lambda: now, continues=lambda: False
        ).execute(claimed)


def count_visits(store: DynamoStore, run_id: str) -> Counter[str]:
    return Counter(visit.step for visit in store.runs.visits(run_id) if visit.finished_at is not None)


def check_run(store: DynamoStore, run_id: str, expected: dict[str, int]) -> None:
    """Check a finished run: visits of each step, one completion of each visit, and empty counters."""
    run = store.runs.get("default", run_id)
    assert run is not None
    assert (run.status, run.live) == (RunStatus.SUCCEEDED, 0)
    assert count_visits(store, run_id) == expected | {END: 1}
    events = store.runs.events(run_id, limit=10_000)
    finished = Counter((event.step, event.visit) for event in events if event.type == "step.completed")
    assert set(finished.values()) == {1}
    assert finished.total() == sum(expected.values())


PLAYBOOKS: dict[str, tuple[str, dict[str, int]]] = {
    "chain": (CHAIN, dict.fromkeys("abc", 1)),
    "diamond": (DIAMOND, dict.fromkeys(["a", "b1", "b2", "b3", "b4", "c", "d"], 1)),
    "nested": (NESTED, dict.fromkeys(["a", "b1", "b2", "b3", "c1", "c2", "c", "d", "e"], 1)),
    "repeated fork": (REPEATED_FORK, {"a": 4, "b1": 3, "b2": 3, "c": 3, "z": 1}),
    "join any": (JOIN_ANY, dict.fromkeys(["a", "b1", "b2", "b3", "c", "d"], 1)),
}


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_duplicate_messages_in_any_order_change_nothing(store: DynamoStore, name: str) -> None:
    text, expected = PLAYBOOKS[name]
    chance = random.Random(name)
    queue = ManualQueue()
    queued = store_with_queue(queue)
    run_id = start_service_run(queued, text)
    while (body := queue.take(chance, twice=0.3)) is not None:
        deliver(queued, body, queue)
    check_run(queued, run_id, expected)


@pytest.mark.parametrize("name", ["diamond", "nested", "repeated fork", "join any"])
def test_concurrent_workers_visit_each_step_once(store: DynamoStore, name: str) -> None:
    text, expected = PLAYBOOKS[name]
    queue = ManualQueue()
    run_ids = [start_service_run(store_with_queue(queue), text) for _ in range(2)]
    finished = threading.Event()

    def work(index: int) -> None:
        queued, chance = store_with_queue(queue), random.Random(index)
        while not finished.is_set():
            body = queue.take(chance, twice=0.2)
            if body is not None:
                deliver(queued, body, queue)
            ended = [store.runs.get("default", run_id) for run_id in run_ids] if body is None else []
            if ended and all(run is not None and run.status.is_final for run in ended):
                finished.set()

    run_concurrently(4, work)
    for run_id in run_ids:
        check_run(store, run_id, expected)


def test_a_wide_fork_is_spread_over_partitions(store: DynamoStore) -> None:
    width = 4 * BRANCHES_PER_PARTITION
    queue = ManualQueue()
    run_id = start_service_run(store_with_queue(queue), build_wide_fork(width))
    head = store.context.heads.read(run_id)
    assert head["spread"] == 4
    finished = threading.Event()

    def work(index: int) -> None:
        queued, chance = store_with_queue(queue), random.Random(index)
        while not finished.is_set():
            body = queue.take(chance, twice=0.05)
            if body is not None:
                deliver(queued, body, queue)
            elif (run := store.runs.get("default", run_id)) is not None and run.status.is_final:
                finished.set()

    run_concurrently(4, work)
    check_run(store, run_id, dict.fromkeys(["a", "c", *(f"b{number}" for number in range(width))], 1))
    writers = Counter(
        item["pk"] for item in store.context.table.scan() if item["sk"].startswith("V#b") or item["sk"] == "C"
    )
    assert len(writers) == 4
    # Each branch wrote its end only to the counter of its own partition.
    assert {item["version"] for item in store.context.table.scan() if item["sk"] == "C"} <= set(
        range(1, BRANCHES_PER_PARTITION + 6)
    )


class WorkerDied(Exception):
    """A simulated death of the process."""


class DyingQueue(ManualQueue):
    """A queue whose sender dies once, in the middle of the messages of a wide fork."""

    has_died = False

    def send(self, messages: Sequence[Any], now: float) -> None:
        dies = not self.has_died and len(messages) > MAX_TRANSACTION_ITEMS
        super().send(messages[: len(messages) // 3] if dies else messages, now)
        if dies:
            self.has_died = True
            raise WorkerDied


@pytest.mark.timeout(300)
def test_a_fork_may_be_wider_than_a_transaction(store: DynamoStore) -> None:
    """The worker dies after some messages. The rest is sent when the message of the fork arrives again."""
    width = MAX_TRANSACTION_ITEMS + 30
    queue = DyingQueue()
    queued, chance = store_with_queue(queue), random.Random(1)
    run_id = start_service_run(queued, build_wide_fork(width))
    while (body := queue.take(chance, twice=0.02)) is not None:
        try:
            deliver(queued, body, queue)
        except WorkerDied:
            queue.bodies.append(body)
    assert queue.has_died
    check_run(store, run_id, dict.fromkeys(["a", "c", *(f"b{number}" for number in range(width))], 1))
    counters = [item for item in store.context.table.scan() if item["sk"] == "C"]
    assert len(counters) == -(-width // BRANCHES_PER_PARTITION)
    # The end of a branch changes one counter. The commit that fires the join changes all of them.
    assert sum(item["version"] for item in counters) <= width + 4 * len(counters)


@pytest.mark.parametrize("name", PLAYBOOKS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_may_die_at_any_write(
    store: DynamoStore, name: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker dies once before or after each write of a run, and its message arrives again."""
    text, expected = PLAYBOOKS[name]
    write = tables.DynamoTable._write
    writes = [0]
    dies_at = [10**9]

    def write_or_die(self: Any, *args: Any, **request: Any) -> dict[str, Any]:
        writes[0] += 1
        if writes[0] == dies_at[0] and when == "before":
            raise WorkerDied
        response = write(self, *args, **request)
        if writes[0] == dies_at[0]:
            raise WorkerDied
        return response

    monkeypatch.setattr(tables.DynamoTable, "_write", write_or_die)
    queue = ManualQueue()
    queued = store_with_queue(queue)
    chance = random.Random(f"{name} {when}")
    point = 1
    while True:
        run_id = start_service_run(queued, text)
        writes[0], dies_at[0] = 0, point
        now = 2.0
        while (body := queue.take(chance)) is not None:
            try:
                deliver(queued, body, queue, now=now)
            except WorkerDied:
                queue.bodies.append(body)
                now += LEASE.seconds + 1
        if writes[0] < point:
            break
        dies_at[0] = 10**9
        check_run(queued, run_id, expected)
        # Playbooks with many writes are tested at some of them.
        point += 1 if name in ("chain", "diamond") else chance.randrange(2, 6)
    assert point > 8


class TestLostResponses:
    """A write whose response is lost still counts as applied."""

    def test_lost_response_to_a_claim(self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
        run = start_run(store)
        with LostResponses(monkeypatch, "update_item"):
            claim = claim_visit(store, run)
        assert (claim.visit.fence, claim.visit.claims) == (1, 1)

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND])
    def test_lost_response_to_a_commit(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        run = start_run(store, text)
        claim = claim_visit(store, run)
        with LostResponses(monkeypatch, "update_item", "transact_write_items"):
            store.queue.commit(succeed(store, claim), 1.0)
        expected = 4 if text is DIAMOND else 1
        stored = store.runs.get("default", run.id)
        assert stored is not None and stored.live == expected
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, claim), 2.0)

    def test_lost_responses_to_all_writes_of_a_run(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with LostResponses(monkeypatch, "update_item", "transact_write_items", "put_item", "delete_item"):
            run = RunHarness(store, NESTED).finish().run
        check_run(store, run.id, PLAYBOOKS["nested"][1])


class LostResponses:
    """A context in which the first response to each named call is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *calls: str) -> None:
        self._calls = calls
        self._patch = monkeypatch.context()

    def __enter__(self) -> None:
        from botocore.exceptions import ReadTimeoutError

        patch = self._patch.__enter__()
        patch.setattr("noetl.executor.clients.aws_retry.FIRST_PAUSE_SECONDS", 0.0)
        dynamodb = client("dynamodb", without_retries=True)
        for call in self._calls:
            method = getattr(dynamodb, call)
            count = [0]

            def lose_answers(
                method: Callable[..., Any] = method, count: list[int] = count, **request: Any
            ) -> Any:
                count[0] += 1
                is_lost = count[0] % 2 == 1
                try:
                    return method(**request)
                finally:
                    if is_lost:
                        raise ReadTimeoutError(endpoint_url="http://lost.invalid")

            patch.setattr(dynamodb, call, lose_answers)

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._patch.__exit__(exception_type, exception, traceback)


def test_an_unreachable_store_is_reported_after_retries(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(store)
    claim = claim_visit(store, run)
    monkeypatch.setattr("noetl.executor.clients.aws_retry.FIRST_PAUSE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        from noetl.executor.clients import aws as clients

        clients.reset_clients()
        with pytest.raises(StoreError, match="failed 9 times: no response from table noetl"):
            store.queue.commit(succeed(store, claim), 1.0)
    clients.reset_clients()
    store.queue.commit(succeed(store, claim), 1.0)
    assert [visit.step for visit in store.runs.visits(run.id)] == ["a", "b"]


def test_only_one_process_claims_the_first_visit(store: DynamoStore) -> None:
    run = start_run(store, DIAMOND)
    claims = run_concurrently(
        4, lambda index: DynamoStore("noetl").queue.claim(run.id, Lease(str(index), 30.0), 1.0)
    )
    assert sum(claim is not None for claim in claims) == 1


def test_a_run_that_ends_during_a_read_is_shown_as_it_was(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = RunHarness(
        store, "steps: [{name: a, run: [{action: wait, seconds: 5}, {action: set, set: {n: 1}}]}]"
    )
    assert play.execute_next()
    assert play.status is RunStatus.WAITING
    get_many = store.context.table.get_many

    def read_early(*args: Any) -> Any:
        items = get_many(*args)
        monkeypatch.setattr(store.context.table, "get_many", get_many)
        play.finish()
        return items

    monkeypatch.setattr(store.context.table, "get_many", read_early)
    stored = store.runs.get("default", play.id)
    assert stored is not None
    assert (stored.status, stored.result) == (RunStatus.WAITING, None)
    again = store.runs.get("default", play.id)
    assert again is not None
    assert (again.status, again.result) == (RunStatus.SUCCEEDED, {"n": 1})


def test_history_of_a_run_that_changes_between_reads(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Visits are read before items of events. Events that move in between appear in the next read."""
    run = start_run(store)
    query, seen = store.context.table.query, list[Event]()
    writes: list[Callable[[], object]] = []

    def interrupted(pk: str, prefix: str, **options: Any) -> Any:
        if prefix == "X#" and writes:
            writes.pop()()
        return query(pk, prefix, **options)

    def read_events() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(store.context.table, "query", interrupted)
            seen.extend(store.runs.events(run.id, seen[-1].id if seen else None))

    def retry_and_renew() -> None:
        store.queue.commit(fail(store, claim, retry_at=50.0), 1.0)
        again = claim_visit(store, run, 50.0)
        store.queue.renew(again.visit, 110.0, action_events(again, 1))

    claim = claim_visit(store, run)
    store.queue.renew(claim.visit, 60.0, action_events(claim, 0))
    writes.append(retry_and_renew)
    read_events()
    assert [event.type for event in seen][-2:] == ["action.x", "step.retrying"]
    read_events()
    assert seen == store.runs.events(run.id)

    claim = Claim(claim.run, next(visit for visit in store.runs.visits(run.id) if visit.step == "a"))
    store.queue.commit(fail(store, claim), 51.0)
    end_run(store, run, RunStatus.FAILED, 52.0)
    writes.append(lambda: store.runs.resume(run.id, 60.0, deadline_at=None, values={}))
    read_events()
    read_events()
    assert seen == store.runs.events(run.id)
    assert [event.payload["number"] for event in seen if event.type == "action.x"] == [0, 1]
