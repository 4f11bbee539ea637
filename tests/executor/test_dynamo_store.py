"""The store in DynamoDB with its queue and its bucket, in the process of the test (moto).

`tests/contract/test_dynamodb.py` has the contract of stores, with an emulator.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from noetl.executor.errors import DamagedRunError, FencedError
from noetl.executor.model.run import Claim, RunEnding, RunStatus
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import commits, keys
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.operations import DIAMOND, LEASE, claim_visit, start_run, succeed
from tests.aws import Client

BUCKET = "payloads-of-runs"
LARGE = random.Random(7).randbytes(400_000).hex()
"""Text that compression leaves too large for an item."""


@pytest.fixture
def queue(moto_aws: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of the queue of a store, which the environment names."""
    upgrade("noetl")
    moto_aws("s3").create_bucket(Bucket=BUCKET)
    url = str(moto_aws("sqs").create_queue(QueueName="noetl")["QueueUrl"])
    monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
    monkeypatch.setenv("NOETL_BUCKET", BUCKET)
    monkeypatch.setenv("NOETL_QUEUE", url)
    return url


@pytest.fixture
def store(queue: str) -> Iterator[DynamoStore]:
    with closing(open_store()) as opened:
        assert isinstance(opened, DynamoStore)
        yield opened


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_an_error_of_noetl_in_a_commit_is_no_damage(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    run = start_run(store)
    claim = claim_visit(store, run)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(commits, "build_branch_writes", fail)
    with pytest.raises(error):
        store.queue.commit(succeed(store, claim), 0.0)


def test_a_cause_that_a_commit_cannot_decode_is_damage(store: DynamoStore) -> None:
    run = start_run(store, DIAMOND)
    store.queue.commit(succeed(store, claim_visit(store, run)), 0.0)
    *claims, last = [claim_visit(store, run) for _ in range(4)]
    for claim in claims:
        store.queue.commit(succeed(store, claim), 0.0)
    key = keys.visit(run.id, claims[0].visit.id, 1)
    store.context.table.write([Update(key, {"names": b"{", "status": "unknown"})])
    with pytest.raises(DamagedRunError, match=r"^Data of run \w+ cannot be read: \w+\.$") as damage:
        store.queue.commit(succeed(store, last), 0.0)
    assert damage.value.run_id == run.id


def count_messages(moto_aws: Client, queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = moto_aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def test_a_run_is_executed_from_messages(
    store: DynamoStore, queue: str, moto_aws: Client, tmp_path: Path
) -> None:
    run = start_run(store, DIAMOND, now=time.time(), origin="service")
    worker = Worker(store, WorkerSettings(local_run_capabilities(tmp_path), threads=1, queue="service"))
    worker.start()
    try:
        assert worker.wait_until_finished("default", run.id, 60.0).status is RunStatus.SUCCEEDED
    finally:
        worker.stop()
    steps = sorted(visit.step for visit in store.runs.visits(run.id))
    assert steps == ["@end", "a", "b1", "b2", "b3", "b4", "c", "d"]
    assert count_messages(moto_aws, queue) == 0


def test_a_message_is_claimed_once(store: DynamoStore, queue: str, moto_aws: Client) -> None:
    run = start_run(store, now=time.time(), origin="service")
    (message,) = moto_aws("sqs").receive_message(QueueUrl=queue)["Messages"]
    claim = store.queue.claim_message(message["Body"], LEASE, time.time())
    assert isinstance(claim, Claim)
    assert (claim.run.id, claim.visit.step) == (run.id, "a")
    assert store.queue.claim_message(message["Body"], LEASE, time.time()) is MessageOutcome.HELD
    store.queue.commit(succeed(store, claim), time.time())
    assert store.queue.claim_message(message["Body"], LEASE, time.time()) is MessageOutcome.DONE


@pytest.mark.parametrize("stops", [False, True])
def test_the_end_of_a_dead_worker_has_a_message_when_that_of_its_step_returns(
    store: DynamoStore, queue: str, moto_aws: Client, stops: bool
) -> None:
    """The worker has claimed the end with the commit of the last step, so no message was sent about it."""
    text, now = "steps: [{name: a, run: [{action: set, set: {n: 1}}]}]", float(int(time.time()))
    run = start_run(store, text, now=now, origin="service")
    (message,) = moto_aws("sqs").receive_message(QueueUrl=queue)["Messages"]
    claim = store.queue.claim_message(message["Body"], LEASE, now)
    assert isinstance(claim, Claim)
    if stops:
        store.runs.stop(run.id, RunStatus.CANCELLED, now)
    end = store.queue.commit(succeed(store, claim, case=None), now, LEASE).following
    assert end is not None
    assert end.step == "@end"
    assert count_sent(moto_aws, queue) == 0
    with closing(open_store()) as second:
        assert isinstance(second, DynamoStore)
        assert second.queue.claim_message(message["Body"], LEASE, now + 1.0) is MessageOutcome.DONE
        assert count_sent(moto_aws, queue) == 1
        body = DueMessage(run.id, end.id, "@end", end.due_at).encode()
        again = second.queue.claim_message(body, LEASE, end.due_at + 1.0)
        assert isinstance(again, Claim)
        second.queue.finish(again, RunEnding(RunStatus.SUCCEEDED, None, []), end.due_at + 1.0)
        assert second.queue.claim_message(message["Body"], LEASE, end.due_at + 2.0) is MessageOutcome.DONE
    assert count_sent(moto_aws, queue) == 1


def count_sent(moto_aws: Client, queue: str) -> int:
    """Return the number of messages that wait for their time, or to be received."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    found = moto_aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def test_a_large_value_is_an_object_of_the_bucket(store: DynamoStore, moto_aws: Client) -> None:
    run = start_run(store)
    claim = claim_visit(store, run, 1.0)
    store.queue.commit(succeed(store, claim, saved={"n": LARGE}), 1.0)
    assert moto_aws("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 1
    (visit,) = store.runs.visits_with_outputs(run.id, [claim.visit.id])
    assert visit.saved == {"n": LARGE}


def test_the_commit_of_a_lost_claim_is_refused(store: DynamoStore) -> None:
    """The condition of a transaction compares the fence."""
    run = start_run(store)
    claim = claim_visit(store, run, 1.0)
    store.queue.commit(succeed(store, claim), 1.0)
    with pytest.raises(FencedError):
        store.queue.commit(succeed(store, claim, saved={"n": 2}), 1.0)
    assert [visit.saved for visit in store.runs.visits_with_outputs(run.id, [claim.visit.id])] == [{}]
