"""Deletions of runs in DynamoDB that are interrupted, in an emulator: nothing is left for ever."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.run import Run, RunEnding, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.blobs import INLINE_BYTES, Blobs
from noetl.executor.stores.dynamo.expressions import Put, Update
from noetl.executor.stores.dynamo.run_deletion import LATE_SECONDS, MAX_TREE_RUNS, RETRY_SECONDS
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import (
    LEASE,
    current_run,
    end_run,
    failed_checks,
    start_child,
    start_ended_run,
    start_run,
    start_waiting_run,
)
from tests.aws import Client
from tests.aws_faults import DENIED, faulty_table

LONG = f"""
    steps:
    - {{name: a, run: [{{action: set, set: {{n: "{{{{ range({INLINE_BYTES}) | list }}}}"}}}}]}}
"""


@pytest.fixture
def bucket(aws: Client) -> str:
    name = f"payloads-{secrets.token_hex(4)}"
    aws("s3").create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(aws: Client, bucket: str) -> DynamoStore:
    upgrade("noetl")
    return DynamoStore("noetl", bucket=bucket)


def list_objects(aws: Client, bucket: str) -> list[str]:
    page = aws("s3").list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in page.get("Contents", ())]


def list_items(store: DynamoStore) -> list[tuple[str, str]]:
    """Return the keys of all items but plans and places of sweeps."""
    return sorted(
        (item["pk"], item["sk"]) for item in store.context.table.scan() if item["pk"][0] not in "PS"
    )


def sweep(store: DynamoStore, later: float) -> None:
    store.maintenance.sweep(time.time() + later)


def start_tree(store: DynamoStore) -> Run:
    """Return a run that has ended, with a child run, a token, an idempotency key and a byte count."""
    run, key = start_waiting_run(store)
    child = start_child(store, run, key, "child", queue="child", root=run.id, max_child_runs=5)
    for started in (run, child):
        store.runs.stop(started.id, RunStatus.CANCELLED, 2.0)
    for started in (child, run):
        claim = store.queue.claim(started.queue, LEASE, 2.0)
        assert claim is not None
        store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
    store.context.table.update(Update(keys.head(run.id), {"key": keys.idempotency("default", "k").pk}))
    store.context.table.write([Put(keys.idempotency("default", "k"), {"run": run.id, "request": "hash"})])
    assert store.runs.add_bytes(run.id, "logged", 3) == 3
    return run


def test_objects_are_deleted_with_their_run(store: DynamoStore, aws: Client, bucket: str) -> None:
    first, second = (RunHarness(store, LONG, folder=Path.cwd()).finish() for _ in range(2))
    assert {key.split("/")[1] for key in list_objects(aws, bucket)} == {first.id, second.id}
    value = second.visits[0]
    assert store.maintenance.delete_run("default", first.id)
    assert {key.split("/")[1] for key in list_objects(aws, bucket)} == {second.id}
    store.context.blobs = Blobs(bucket)  # without what is cached
    assert second.visits[0] == value
    assert store.maintenance.delete_run("default", second.id)
    assert list_objects(aws, bucket) == []


def test_more_objects_than_a_page_of_the_list_are_deleted(
    store: DynamoStore, aws: Client, bucket: str
) -> None:
    run = start_ended_run(store)
    for number in range(1001):
        aws("s3").put_object(Bucket=bucket, Key=f"runs/{run.id}/{number}", Body=b"")
    aws("s3").put_object(Bucket=bucket, Key=f"runs/{run.id}x/0", Body=b"")
    assert store.maintenance.delete_run("default", run.id)
    assert list_objects(aws, bucket) == [f"runs/{run.id}x/0"]


def test_nothing_is_left_an_hour_after_a_deletion(store: DynamoStore) -> None:
    run = start_tree(store)
    assert store.maintenance.delete_run("default", run.id)
    assert [pk[0] for pk, _ in list_items(store)] == ["G", "G"]
    # A worker that has lost its claim may write late.
    store.runs.add_bytes(run.id, "logged", 5)
    assert failed_checks(store) == []
    sweep(store, RETRY_SECONDS)
    assert len(list_items(store)) == 3
    sweep(store, LATE_SECONDS + 60.0)
    assert list_items(store) == []


def test_a_deletion_that_is_interrupted_is_completed_by_a_sweep(store: DynamoStore) -> None:
    """Stop the deletion at each of its requests in turn."""
    for allowed in count():
        run = start_tree(store)
        requests = iter(range(allowed))

        def refuse(operation: str, requests: Iterator[int] = requests) -> str | None:
            del operation
            return None if next(requests, None) is not None else DENIED

        is_interrupted = False
        with faulty_table(refuse):
            try:
                store.maintenance.delete_run("default", run.id)
            except StoreError:
                is_interrupted = True
        kept = [store.runs.get("default", id) is not None for id in (run.id, "child")]
        assert kept in ([True, True], [False, False])
        if kept[0]:
            # Nothing has been deleted: the run may be resumed, or be deleted again.
            assert len(store.runs.visits(run.id)) == 2
            assert store.maintenance.delete_run("default", run.id)
        else:
            assert store.runs.find(RunFilter())[0] == []
            with pytest.raises(StoreError, match="unknown run"):
                store.runs.resume(run.id, 3.0, deadline_at=None, values={})
        assert failed_checks(store) == []
        sweep(store, RETRY_SECONDS + 60.0)
        sweep(store, LATE_SECONDS + 120.0)
        assert list_items(store) == [], allowed
        if not is_interrupted:
            assert allowed > 10
            return


def test_a_second_request_completes_a_deletion(
    store: DynamoStore, aws: Client, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = RunHarness(store, LONG, folder=Path.cwd()).finish()

    stored = list_objects(aws, bucket)

    def refuse(*_: Any) -> None:
        raise StoreError("access denied")

    with monkeypatch.context() as patch:
        patch.setattr(Blobs, "delete_run", refuse)
        with pytest.raises(StoreError, match="access denied"):
            store.maintenance.delete_run("default", play.id)
        sweep(store, RETRY_SECONDS + 60.0)
    assert store.runs.get("default", play.id) is None
    assert list_objects(aws, bucket) == stored != []
    assert not store.maintenance.delete_run("other", play.id)
    assert store.maintenance.delete_run("default", play.id)
    assert list_objects(aws, bucket) == []
    assert not store.maintenance.delete_run("default", play.id)


def test_a_run_with_the_id_of_a_deleted_one_is_kept(store: DynamoStore) -> None:
    for _ in range(2):
        start_run(store, run_id="same", key=("k", "hash"))
        store.runs.stop("same", RunStatus.CANCELLED, 1.0)
        end_run(store, current_run(store, start_run(store, run_id="same")), RunStatus.CANCELLED)
        assert store.maintenance.delete_run("default", "same")
    run = start_run(store, run_id="same", key=("k", "hash"))
    sweep(store, LATE_SECONDS + 60.0)
    assert len(store.runs.visits("same")) == 1
    assert store.runs.find_request("default", "k") == ("hash", run.id)
    assert keys.deletion("same") not in list_items(store)


def test_a_large_tree_is_deleted_in_parts(store: DynamoStore) -> None:
    run, key = start_waiting_run(store)
    for number in range(MAX_TREE_RUNS + 1):
        start_child(store, run, key, f"child{number}", queue="q")
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    while claim := store.queue.claim("q", LEASE, 2.0):
        store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, []), 2.0)
    with pytest.raises(RejectedError, match="has not ended"):
        store.maintenance.delete_run("default", run.id)
    end_run(store, run, RunStatus.CANCELLED, 2.0)
    assert store.maintenance.delete_run("default", run.id)
    assert store.runs.find(RunFilter())[0] == []
    sweep(store, LATE_SECONDS + 60.0)
    assert list_items(store) == []
