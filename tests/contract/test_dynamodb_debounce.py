"""Pending runs in DynamoDB, in an emulator: their messages, and what is left of them."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from noetl.executor.model.run import Claim, Run, RunEnding, RunStatus
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.run_deletion import LATE_SECONDS, RETRY_SECONDS
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import GRACE_SECONDS, DueMessage
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.debounce import TEXT, UNDEBOUNCED_TEXT, fire
from noetl.testing.store_contract.debounce import start as start_pending
from noetl.testing.store_contract.operations import LEASE, failed_checks, start_run
from noetl.testing.store_contract.triggers import advance_by, declare, list_firings, read_trigger, register
from tests.aws import Client
from tests.contract.test_dynamodb import count_messages, receive_message
from tests.contract.test_dynamodb_deletion import list_items

LONG = TEXT.replace("wait: 10s, max: 25s", "wait: 1h")


@pytest.fixture
def queue(aws: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    upgrade("noetl")
    url = str(aws("sqs").create_queue(QueueName="noetl")["QueueUrl"])
    monkeypatch.setenv("NOETL_QUEUE", url)
    monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
    return url


@pytest.fixture
def store(queue: str) -> DynamoStore:
    store = open_store()
    assert isinstance(store, DynamoStore)
    return store


def start(
    store: DynamoStore, n: int, now: float, key: tuple[str, str] | None = None, text: str = TEXT
) -> Run:
    return start_run(store, text, now=now, key=key, origin="service", input={"order": 1, "n": n})


def test_a_message_of_an_earlier_start_begins_no_run(store: DynamoStore, queue: str, aws: Client) -> None:
    now = round(time.time(), 3)  # The table keeps microseconds.
    run = start(store, 1, now)
    (visit,) = store.runs.visits(run.id)
    body = DueMessage(run.id, visit.id, "a", now + 10.0, cause="").encode()
    assert start(store, 2, now + 9.0).id == run.id
    assert store.queue.claim_message(body, LEASE, now + 12.0) is MessageOutcome.DONE
    assert count_messages(aws, queue, delayed=True) == 3, "both starts, and the early message again"
    claim = store.queue.claim_message(body, LEASE, now + 19.0)
    assert isinstance(claim, Claim)
    assert claim.run.input["n"] == 2
    assert store.queue.claim_message(body, LEASE, now + 19.0) is MessageOutcome.HELD


def test_a_long_wait_is_in_the_index(store: DynamoStore, queue: str, aws: Client) -> None:
    now = time.time()
    run = start(store, 1, now, text=LONG)
    assert start(store, 2, now + 60.0, text=LONG).id == run.id
    assert count_messages(aws, queue, delayed=True) == 0
    store.maintenance.sweep(now + 3661.0)
    body = receive_message(aws, queue)
    claim = store.queue.claim_message(body, LEASE, now + 3661.0)
    assert isinstance(claim, Claim)
    assert claim.run.input["n"] == 2


def test_a_long_wait_is_in_the_index_after_a_pause(store: DynamoStore, queue: str, aws: Client) -> None:
    now = time.time()
    run = start(store, 1, now, text=LONG)
    store.pauses.pause(run.id, now + 1.0)
    store.pauses.unpause(run.id, now + 2.0)
    assert count_messages(aws, queue, delayed=True) == 0
    store.maintenance.sweep(now + 3601.0)
    assert isinstance(store.queue.claim_message(receive_message(aws, queue), LEASE, now + 3601.0), Claim)


def test_a_sweep_sends_what_a_process_has_not(store: DynamoStore, queue: str, aws: Client) -> None:
    aws("sqs").delete_queue(QueueUrl=queue)
    run = start(store, 1, 1.0)
    aws("sqs").create_queue(QueueName="noetl")
    store.maintenance.sweep(12.0 + 2 * GRACE_SECONDS)
    body = receive_message(aws, queue)
    assert DueMessage.decode(body).run_id == run.id
    assert isinstance(store.queue.claim_message(body, LEASE, 12.0), Claim)


def test_a_deletion_leaves_no_item(store: DynamoStore, queue: str, aws: Client) -> None:
    run = start(store, 1, 100.0, ("a", "x"))
    assert start(store, 2, 101.0, ("b", "x")).id == run.id
    store.runs.stop(run.id, RunStatus.CANCELLED, 102.0)
    claims = []
    for _ in range(4):
        claim = store.queue.claim_message(receive_message(aws, queue), LEASE, 130.0)
        claims += [claim] if isinstance(claim, Claim) else []
        if claims:
            break
    store.queue.finish(claims[0], RunEnding(RunStatus.CANCELLED, None, []), 130.0)
    assert store.maintenance.delete_run(run.tenant, run.id)
    for later in (RETRY_SECONDS + 60.0, LATE_SECONDS + 120.0):
        store.maintenance.sweep(time.time() + later)
    assert list_items(store) == []
    assert failed_checks(store) == []


@pytest.mark.parametrize("is_immediate", [False, True])
@pytest.mark.parametrize("text", [TEXT, UNDEBOUNCED_TEXT])
def test_a_firing_whose_run_has_expired_starts_another(
    store: DynamoStore, text: str, is_immediate: bool
) -> None:
    """The head of a run expires a day before its idempotency keys."""
    register(store, declare())
    expired = start_pending(store, 1, 60.0)
    advance = advance_by(read_trigger(store), 61.0)
    assert fire(store, advance, 2, 61.0).id == expired.id
    again = replace(advance_by(read_trigger(store), 62.0), firings=advance.firings)
    store.context.table.delete([keys.head(expired.id)])
    run = fire(store, again, 3, 62.0, text, is_immediate=is_immediate)
    assert (run.id, run.input["n"]) == (advance.firings[-1].id, 3)
    assert len(list_firings(store)) == 1
