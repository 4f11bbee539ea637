"""The deletion of a run with many rows in SQL stores: in small transactions, also if its process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import pytest

from noetl.executor.errors import RejectedError, UnknownRunError
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from noetl.executor.stores.sql import run_deletion
from noetl.executor.stores.sql.store import SqlStore
from noetl.testing.store_contract.operations import (
    LEASE,
    action_events,
    claim_visit,
    end_run,
    failed_checks,
    refusal_of_answer,
    run_concurrently,
    run_contents,
    start_child,
    start_run,
    start_waiting_run,
    suspend_claim,
)
from tests.contract.interrupted_store import die_after, observed_transactions
from tests.sql_tables import columns_of_tables

MAX_ROWS = 10


@pytest.fixture(params=["sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'noetl.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_store_dsn")
    monkeypatch.setattr(run_deletion, "PAUSE_SECONDS", 0.0)
    with closing(open_store(url)) as opened:
        assert isinstance(opened, SqlStore)
        monkeypatch.setattr(opened.database, "max_deleted_rows", MAX_ROWS)
        yield opened


def start_long_run(store: SqlStore, entries: int = 30) -> Run:
    """Return a run that has ended, with many entries of its history, a token, tags and a key."""
    run = start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
    claim = claim_visit(store, run)
    store.waits.open_wait(claim, "w", "t")
    for number in range(entries):
        assert store.queue.renew(claim.visit, 100.0, action_events(claim, number))
    store.queue.commit(suspend_claim(claim, "w"), 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    end_run(store, run, RunStatus.CANCELLED, 2.0)
    return run


def count_rows(store: SqlStore, run_id: str) -> int:
    """Return how many rows of all tables name a run."""
    rows = 0
    for table, columns in columns_of_tables(store).items():
        for column in {"run_id", "root"}.intersection(columns) or ({"id"} if table == "runs" else ()):
            query = f'select count(*) as rows from "{table}" where {column} = :run_id'
            rows += store.database.fetch_one(query, run_id=run_id)["rows"]
    return rows


def delete_partly(store: SqlStore, run: Run, transactions: int) -> bool:
    """Begin to delete a run, and die after some transactions. Return whether the process has died."""

    def delete() -> None:
        assert store.maintenance.delete_run("default", run.id)

    return die_after(store, transactions, delete)


def test_a_transaction_deletes_few_rows(store: SqlStore) -> None:
    run = start_long_run(store)
    rows = count_rows(store, run.id)
    with observed_transactions(store) as deleted:
        assert store.maintenance.delete_run("default", run.id)
    assert max(deleted) == MAX_ROWS
    assert len(deleted) >= (rows - 1) // MAX_ROWS
    assert count_rows(store, run.id) == 0


def test_old_runs_are_deleted_in_small_transactions(store: SqlStore) -> None:
    run = start_long_run(store)
    store.context.retention_seconds = 10.0
    with observed_transactions(store) as deleted:
        while store.maintenance.delete_old(100.0):
            assert store.runs.get("default", run.id) is None
            assert failed_checks(store) == []
    assert max(deleted) == MAX_ROWS
    assert count_rows(store, run.id) == 0


def test_a_deletion_whose_process_dies_is_completed_by_a_sweep(store: SqlStore) -> None:
    """Let the process die after each of its transactions in turn."""
    for transactions in count():
        run = start_long_run(store)
        is_dead = delete_partly(store, run, transactions)
        if is_dead and transactions:
            assert count_rows(store, run.id) > 0
        is_kept = store.runs.get("default", run.id) is not None
        assert is_kept == (transactions == 0)
        assert failed_checks(store) == []
        if not is_kept:
            assert store.runs.find(RunFilter())[0] == []
            assert store.runs.find(RunFilter(tags=("env",)))[0] == []
            assert store.runs.find_request("default", "k") is None
            assert store.waits.find_open("default") == ([], None)
            assert refusal_of_answer(store) == "unknown_token"
            with pytest.raises(UnknownRunError):
                store.runs.resume(run.id, 3.0, deadline_at=None, values={})
            assert not store.maintenance.delete_run("other", run.id)
        store.maintenance.sweep(3.0)
        assert (count_rows(store, run.id) > 0) == is_kept
        assert store.maintenance.delete_run("default", run.id) == is_kept
        if not is_dead:
            break


def test_no_token_of_a_deleted_run_is_known(store: SqlStore) -> None:
    run = start_run(store, run_id="same")
    claim = claim_visit(store, run)
    tokens = [f"t{number}" for number in range(2 * MAX_ROWS)]
    for token in tokens:
        store.waits.open_wait(claim, token, token)
    for token in tokens:
        store.waits.answer(token, {"n": 1}, 1.0)
    store.queue.commit(suspend_claim(claim, "w"), 1.0)
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    end_run(store, run, RunStatus.CANCELLED, 2.0)
    assert delete_partly(store, run, 1)
    assert {refusal_of_answer(store, {"n": 1}, token) for token in tokens} == {"unknown_token"}
    assert not any(store.waits.has_token(token) for token in tokens)


def test_another_call_completes_a_deletion(store: SqlStore) -> None:
    run = start_long_run(store)
    assert delete_partly(store, run, 2)
    assert store.maintenance.delete_run("default", run.id)
    assert count_rows(store, run.id) == 0
    assert not store.maintenance.delete_run("default", run.id)


def test_a_run_with_the_same_id_inherits_nothing(store: SqlStore) -> None:
    contents = None
    for transactions in range(1, 4):
        run = start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
        contents = contents or run_contents(store, run)
        assert run_contents(store, run) == contents
        assert count_rows(store, run.id) < MAX_ROWS + 3
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        end_run(store, run, RunStatus.CANCELLED, 2.0)
        store.maintenance.delete_run("default", run.id)
        assert delete_partly(store, start_long_run(store), transactions)
    again = start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
    assert run_contents(store, again) == contents
    store.maintenance.sweep(3.0)
    assert run_contents(store, again) == contents
    assert store.runs.find_request("default", "k") == ("hash", "same")


def test_the_key_of_a_deleted_run_is_free(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # Keys are the last rows, as if a run had many.
    order = list(run_deletion._DELETIONS.items())
    monkeypatch.setattr(run_deletion, "_DELETIONS", dict(reversed(order)))
    run = start_long_run(store)
    assert delete_partly(store, run, 1)
    assert store.runs.find_request("default", "k") is None
    other = start_run(store, key=("k", "another hash"), run_id="other")
    assert other.id == "other"
    store.maintenance.sweep(3.0)
    assert store.runs.find_request("default", "k") == ("another hash", "other")
    assert count_rows(store, run.id) == 0


def test_a_damaged_run_has_no_claims_and_waits_while_it_is_deleted(store: SqlStore) -> None:
    run, key = start_waiting_run(store)
    child = start_child(store, run, key, "child", queue="child")
    claim = claim_visit(store, child, 1.0)
    for number in range(20):
        assert store.queue.renew(claim.visit, 100.0, action_events(claim, number))
    for damaged in (run, child):
        store.maintenance.set_aside(damaged.id, "a reason")
    assert delete_partly(store, run, 1)
    assert store.waits.find_open("default") == ([], None)
    assert not store.queue.renew(claim.visit, 200.0)
    assert store.maintenance.put_back(3.0) == []
    assert store.queue.claim("child", LEASE, 500.0) is None
    store.maintenance.sweep(3.0)
    assert (count_rows(store, run.id), count_rows(store, child.id), failed_checks(store)) == (0, 0, [])


def test_a_large_tree_is_deleted_from_its_leaves(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_deletion, "MAX_TREE_RUNS", 2)
    run, key = start_waiting_run(store)
    children = [start_child(store, run, key, f"child{number}", queue=f"child{number}") for number in range(5)]
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    for ended in (*children, run):
        end_run(store, ended, RunStatus.CANCELLED, 2.0)
    assert delete_partly(store, run, 2)
    store.runs.resume(run.id, 3.0, deadline_at=None, values={})
    with pytest.raises(RejectedError) as rejected:
        store.maintenance.delete_run("default", run.id)
    assert rejected.value.reason == "not_ended"
    store.runs.stop(run.id, RunStatus.CANCELLED, 4.0)
    end_run(store, run, RunStatus.CANCELLED, 4.0)
    assert store.maintenance.delete_run("default", run.id)
    store.maintenance.sweep(5.0)
    assert [count_rows(store, deleted.id) for deleted in (run, *children)] == [0] * 6


def test_deletions_and_starts_of_one_id_at_once(store: SqlStore) -> None:
    run = start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
    contents = run_contents(store, run)
    store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
    end_run(store, run, RunStatus.CANCELLED, 2.0)
    for _ in range(3):
        assert store.maintenance.delete_run("default", run.id)
        start_long_run(store)

        def change(index: int) -> None:
            if index % 2:
                start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
            else:
                with suppress(RejectedError):
                    store.maintenance.delete_run("default", "same")

        run_concurrently(4, change)
        store.maintenance.sweep(3.0)
        assert failed_checks(store) == []
        current = store.runs.get("default", "same")
        if current is None:
            assert count_rows(store, "same") == 0
            start_run(store, tags=("env=prod", "x"), key=("k", "hash"), run_id="same")
        assert run_contents(store, run) == contents
        store.runs.stop(run.id, RunStatus.CANCELLED, 2.0)
        end_run(store, run, RunStatus.CANCELLED, 2.0)
