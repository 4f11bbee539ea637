"""DynamoDB keeps the contract of stores, in an emulator that many threads use at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from executor.capabilities import for_local_run
from executor.errors import MessageError, RejectedError, SettingError
from executor.records import Claim, Playbook, Run, RunStatus, VisitStatus
from executor.stores import open_store
from executor.stores.dynamo import commits, keys, waits
from executor.stores.dynamo.change import Change, Put
from executor.stores.dynamo.store import DynamoStore
from executor.stores.notes import Note
from executor.stores.retention import DAY_SECONDS, retention_seconds
from executor.stores.store import Received, Store, Swept
from executor.walk import Walker
from executor.worker import Worker
from infra.dynamodb import upgrade
from tests.aws import Client, aws, aws_server
from tests.contract.doctor_contract import DoctorContract
from tests.contract.keys_contract import KeysContract
from tests.contract.registry_contract import RegistryContract
from tests.contract.store_contract import (
    DIAMOND,
    LEASE,
    StoreContract,
    claimed,
    done,
    ended,
    everything,
    failed,
    started,
)
from tests.contract.waits_contract import WaitsContract, opened

__all__ = ["aws", "aws_server"]
LIMIT = 4096


class ItemDamage:
    """Damage that is done to items."""

    _names: ClassVar = {"finished_at": "finished", "due_at": "due", "plan_hash": "plan"}
    kinds = ("visits", "joins", "counters", "visit counts", "waits", "tokens", "parts", "history", "idempotency keys")

    def visits(self, store: DynamoStore, run: Run, step: str, **values: Any) -> None:
        (visit,) = (visit for visit in store.visits(run.id) if visit.step == step)
        key = keys.visit(run.id, visit.id, 1)
        first = {"step": step, "due": visit.due_at, "status": visit.status.value}
        sets = {self._names.get(name, name): value for name, value in values.items()}
        store.table.write([Change(key, sets, keep={name: value for name, value in first.items() if name not in sets})])

    def run(self, store: DynamoStore, run_id: str, **values: Any) -> None:
        live = values.pop("live", None)
        if live is not None:
            # The branch that a run begins with is counted nowhere.
            store.table.write([Change(keys.counter(run_id, 0), {"live": live - 1})])
            return
        sets = {self._names.get(name, name): value for name, value in values.items()}
        store.table.write([Change(keys.head(run_id), sets)])

    def live(self, store: DynamoStore, run: Run, join: str, live: int) -> None:
        store.table.write([Change(keys.counter(run.id, 0), {f"j#{join}": live})])

    def arrival(self, store: DynamoStore, run: Run, join: str) -> None:
        store.table.write([Change(keys.counter(run.id, 0), {f"a#{join}": ["x"]})])

    def parent(self, store: DynamoStore, run_id: str, parent: str) -> None:
        store.table.write([Change(keys.head(run_id), {"parent": [parent, "v", "w"]})])

    def version(self, store: DynamoStore, name: str, version: str, plan_hash: str) -> None:
        store.register(Playbook("default", name, version, plan_hash, 0.0))

    def leftover(self, store: DynamoStore, kind: str, run_id: str) -> None:
        key = {
            "visits": keys.visit(run_id, "v", 1),
            "joins": keys.join(run_id, "a"),
            "counters": keys.counter(run_id, 3),
            "visit counts": keys.number(run_id, "a"),
            "waits": keys.wait(run_id, "v", "w", 1),
            "tokens": keys.token("t"),
            "parts": keys.part(run_id, "v", "run", 0, 1),
            "history": keys.entry(run_id, 1),
            "idempotency keys": keys.idempotency("default", "k"),
        }[kind]
        store.table.write([Put(key, {"run": run_id})])


class TestDynamo(StoreContract, WaitsContract, RegistryContract, KeysContract, DoctorContract):
    payload_limit = LIMIT
    answer_limit = LIMIT
    damage = ItemDamage()

    @pytest.fixture
    def store(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[DynamoStore]:
        monkeypatch.setattr(commits, "MAX_PAYLOAD_BYTES", LIMIT)
        monkeypatch.setattr(waits, "MAX_ANSWER_BYTES", LIMIT)
        assert upgrade("noetl") == ["table noetl", "time to live"]
        opened = DynamoStore("noetl")
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: DynamoStore) -> Iterator[DynamoStore]:
        opened = DynamoStore("noetl")
        yield opened
        opened.close()


class TestRetention:
    @pytest.fixture
    def store(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> DynamoStore:
        upgrade("noetl")
        monkeypatch.setenv("NOETL_RETENTION_DAYS", "2")
        opened = open_store("dynamodb://noetl")
        assert isinstance(opened, DynamoStore)
        return opened

    def test_what_is_left_of_a_run_expires(self, store: DynamoStore) -> None:
        run = started(store, key=("k", "body"))
        opened(store, claimed(store, run), "token")
        store.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.commit(done(store, claimed(store, run, 30.0)), 31.0)
        assert not any("expires" in item for item in store.table.scan())
        ended(store, run, RunStatus.CANCELLED, 100.0)
        times = {item["sk"][0]: item.get("expires") for item in store.table.scan()}
        after = 100 + 3 * DAY_SECONDS
        assert times == {"H": after - DAY_SECONDS, "V": after, "W": after, "T": after, "I": after, "B": None}
        assert store.examine() == []
        with pytest.raises(RejectedError, match="kept for as long"):
            store.resume(run.id, after, deadline_at=None, values={})
        store.resume(run.id, 200.0, deadline_at=None, values={})
        assert not any("expires" in item for item in store.table.scan())

    @pytest.mark.parametrize("days", ["x", "0", "-1", "nan", "1e9"])
    def test_a_time_that_is_none(self, days: str) -> None:
        with pytest.raises(SettingError, match="NOETL_RETENTION_DAYS"):
            retention_seconds({"NOETL_RETENTION_DAYS": days})


class TestQueue:
    """Runs of a service are walked as messages say."""

    @pytest.fixture
    def queue(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> str:
        upgrade("noetl")
        url = str(aws("sqs").create_queue(QueueName="noetl", Attributes={"VisibilityTimeout": "30"})["QueueUrl"])
        monkeypatch.setenv("NOETL_QUEUE", url)
        monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
        return url

    def test_workers_walk_runs_to_their_end(self, queue: str, aws: Client) -> None:
        first, second = (worker_of(open_store()) for _ in range(2))
        store = open_store()
        runs = [started(store, DIAMOND, now=time.time(), origin="service") for _ in range(4)]
        for worker in (first, second):
            worker.start()
        ended = [first.wait_until_finished(run.tenant, run.id, timeout_seconds=60.0) for run in runs]
        for worker in (first, second):
            worker.stop()
        assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 4
        for run in runs:
            steps = [visit.step for visit in store.visits(run.id)]
            assert sorted(steps) == ["@end", "a", "b1", "b2", "b3", "b4", "c", "d"]
        attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        left = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)["Attributes"]
        assert {int(left[name]) for name in attributes} == {0}

    def test_a_message_of_a_chain_is_claimed_once(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = started(store, origin="service", now=time.time())
        body = received(aws, queue)
        claim = store.claim_message(body, LEASE, time.time())
        assert isinstance(claim, Claim)
        assert (claim.run.id, claim.visit.step, claim.visit.fence) == (run.id, "a", 1)
        assert store.claim_message(body, LEASE, time.time()) is Received.HELD
        store.commit(done(store, claim, saved={"n": 1}), time.time())
        following = received(aws, queue)
        # The acknowledgement was lost, and the message comes again: what follows is sent once more.
        assert store.claim_message(body, LEASE, time.time()) is Received.DONE
        assert received(aws, queue) == following
        again = store.claim_message(following, LEASE, time.time())
        assert isinstance(again, Claim)
        assert [(visit.step, dict(visit.saved)) for visit in again.loaded] == [("a", {"n": 1})]

    @pytest.mark.parametrize(
        "body", ["", "x", "null", "[]", '{"v": 1}', '{"v": 2, "run": "r"}', '{"v":1,"run":1,"visit":2}']
    )
    def test_a_message_of_somebody_else(self, queue: str, body: str) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        with pytest.raises(MessageError):
            store.claim_message(body, LEASE, 1.0)

    def test_a_message_about_nothing(self, queue: str) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = started(store, origin="service", now=1.0)
        before = everything(store, run)
        for run_id, cause in (("no", ""), ("no", "x"), (run.id, "x"), (run.id, None), (run.id, "")):
            note = Note(run_id, "v", "b", 1.0, cause=cause)
            assert store.claim_message(note.to_text(), LEASE, 2.0) is Received.DONE
        assert everything(store, run) == before
        assert store.run("default", "no") is None

    def test_what_is_given_up_fails(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = started(store, origin="service", now=time.time())
        claim = store.claim_message(received(aws, queue), LEASE, time.time(), give_up=True)
        assert isinstance(claim, Claim)
        Walker(store, LEASE, for_local_run(Path.cwd()), goes_on=lambda: False).walk(claim)
        (visit, *_) = store.visits(run.id)
        assert (visit.status, visit.error and visit.error["type"]) == ("failed", "WorkerLost")

    def test_a_message_that_comes_too_early(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        now = time.time()
        run = started(store, origin="service", now=now)
        claim = store.claim_message(received(aws, queue), LEASE, now + 0.5)
        assert isinstance(claim, Claim)
        store.commit(failed(store, claim, retry_at=now + 5000.0), now)
        assert sent(aws, queue, delayed=True) == 1
        assert store.claim_message(Note(run.id, claim.visit.id, "a", now).to_text(), LEASE, now + 1) is Received.DONE
        assert store.visits(run.id)[0].status is VisitStatus.RETRYING
        assert sent(aws, queue, delayed=True) == 2

    def test_a_sweep_finds_what_has_no_message(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        now = time.time()
        run = started(store, origin="service", now=now)
        received(aws, queue)  # and it is lost
        assert store.sweep(now + 1.0) == Swept(1, 0)
        assert store.sweep(now + 1000.0) == Swept(1, 1)
        claim = store.claim_message(received(aws, queue), LEASE, time.time())
        assert isinstance(claim, Claim)
        assert claim.run.id == run.id


def worker_of(store: Store) -> Worker:
    return Worker(store, capabilities=for_local_run(Path.cwd()), threads=2, lease=5.0)


def received(aws: Client, queue: str) -> str:
    """The body of the next message, which is deleted."""
    sqs = aws("sqs")
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return str(message["Body"])


def sent(aws: Client, queue: str, *, delayed: bool) -> int:
    """How many messages there are."""
    name = "ApproximateNumberOfMessagesDelayed" if delayed else "ApproximateNumberOfMessages"
    found = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"]
    return int(found[name])
