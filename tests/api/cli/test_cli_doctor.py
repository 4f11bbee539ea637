"""The command `noetl doctor` reports inconsistencies of a store and changes nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psycopg
import pytest

from noetl.executor.stores import open_store
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqlite import file
from noetl.infra.dynamodb import upgrade as upgrade_table
from noetl.infra.migrations import upgrade
from noetl.testing.store_contract.operations import claim_visit, start_run
from tests.api.cli.conftest import Command
from tests.aws import Client


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty store."""
    if request.param == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        upgrade(dsn)
        return dsn
    sqlite_url = f"sqlite:///{tmp_path}/noetl.db"
    open_store(sqlite_url).close()
    return sqlite_url


def store_stuck_run(url: str) -> str:
    """Store a run that has not ended and has no due visit. Return its id."""
    store = open_store(url)
    assert isinstance(store, SqlStore)
    run = start_run(store)
    with store.database.transaction() as db:
        db.execute("update visits set status = 'parked'")
    store.close()
    return run.id


def test_a_consistent_store_has_no_findings(noetl: Command, url: str) -> None:
    result = noetl("doctor", "--store", url)
    assert (result.exit_code, result.out, result.err) == (0, "", "the store is consistent\n")
    assert noetl("doctor", "--store", url, "--json").json == {"healthy": True, "findings": []}


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such permissions")
def test_a_store_that_other_users_may_read_is_found_and_protected(noetl: Command, tmp_path: Path) -> None:
    path = tmp_path / "noetl.db"
    url = f"sqlite:///{path}"
    open_store(url).close()
    path.chmod(0o644)
    result = noetl("doctor", "--store", url)
    assert result.exit_code == 1 and f"other users of this machine may read {path};" in result.out
    result = noetl("doctor", "--store", url, "--fix")
    assert (result.exit_code, result.out) == (0, "")
    assert f"only its owner may read {path} from now on\n" in result.err
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stuck_run_is_found(noetl: Command, url: str) -> None:
    run_id = store_stuck_run(url)
    message = f"run {run_id} has not ended, but no active visit is left"
    result = noetl("doctor", "--store", url)
    assert (result.exit_code, result.out, result.err) == (1, f"{message}\n", "")
    result = noetl("doctor", "--store", url, "--json")
    finding = {"check": "stuck", "workflow_id": run_id, "message": message}
    assert (result.exit_code, result.json) == (1, {"healthy": False, "findings": [finding]})


def test_a_damaged_run_continues_after_its_repair(noetl: Command, url: str) -> None:
    store = open_store(url)
    run = start_run(store)
    reason = "The store has no plan 5f0c, or a part of it is missing."
    store.maintenance.set_aside(run.id, reason)
    result = noetl("doctor", "--store", url)
    message = f"run {run.id} is damaged and was set aside; repair it, then run with --fix: {reason}\n"
    assert (result.exit_code, result.out) == (1, message)
    shown = noetl("runs", "show", run.id, "--store", url)
    assert "the run waits until its store is repaired: The store has no plan" in shown.out
    assert reason in noetl("runs", "list", "--store", url, "--json").json["items"][0]["headline"]
    result = noetl("doctor", "--fix", "--store", url)
    assert (result.exit_code, result.out) == (0, "")
    assert result.err == f"run {run.id} continues\nthe store is consistent\n"
    assert claim_visit(store, run, store.clock()).visit.step == "a"
    store.close()


@pytest.mark.parametrize("values", ["plan_hash = 'lost'", "tags = '{'"])
def test_a_damaged_run_that_no_worker_has_met_is_deleted(noetl: Command, url: str, values: str) -> None:
    """Name a run whose plan is lost, and one whose row cannot be read, next to a sound one."""
    store = open_store(url)
    assert isinstance(store, SqlStore)
    damaged, sound = start_run(store), start_run(store)
    with store.database.transaction() as db:
        db.execute(f"update runs set {values} where id = :id", id=damaged.id)
    store.close()
    cancelled = noetl("runs", "cancel", damaged.id, "--store", url)
    hint = f"Repair it and run `noetl doctor --fix`, or delete it with `noetl runs delete {damaged.id}`."
    assert (cancelled.exit_code, cancelled.err.strip().endswith(hint)) == (2, True), cancelled.err
    refused = noetl("runs", "cancel", damaged.id, sound.id, "--store", url)
    assert (refused.exit_code, f"run {sound.id} is " in refused.err) == (1, True), refused.err
    deleted = noetl("runs", "delete", damaged.id, "--yes", "--store", url)
    assert (deleted.exit_code, deleted.err) == (0, f"run {damaged.id} is deleted\n")
    assert [run["workflow_id"] for run in noetl("runs", "list", "--store", url, "--json").json["items"]] == [
        sound.id
    ]


@pytest.mark.parametrize("values", ["progress = '{'", "names = '{'"])
def test_a_run_with_a_damaged_visit_is_shown_and_cancelled(
    noetl: Command, tmp_path: Path, values: str
) -> None:
    url = f"sqlite:///{tmp_path}/noetl.db"
    store = open_store(url)
    assert isinstance(store, SqlStore)
    damaged = start_run(store)
    with store.database.transaction() as db:
        db.execute(f"update visits set {values}")
    store.close()
    remedy = f"Repair it and run `noetl doctor --fix`, or delete it with `noetl runs delete {damaged.id}`.\n"
    shown = noetl("runs", "show", damaged.id, "--store", url)
    listed = noetl("runs", "list", "--store", url, "--json").json["items"]
    if values.startswith("progress"):
        assert (shown.exit_code, shown.err) == (0, remedy)
        assert "RunDamaged: the run waits until its store is repaired: Data of run" in shown.out
        assert "repaired" in listed[0]["headline"]
    cancelled = noetl("runs", "cancel", damaged.id, "--store", url)
    assert (cancelled.exit_code, cancelled.err) == (0, f"run {damaged.id} is cancelled\n")


def test_a_run_without_its_plan_is_shown_and_cannot_be_cancelled(noetl: Command, url: str) -> None:
    store = open_store(url)
    assert isinstance(store, SqlStore)
    damaged, sound = start_run(store), start_run(store)
    with store.database.transaction() as db:
        db.execute("update runs set plan_hash = 'lost' where id = :id", id=damaged.id)
    store.close()
    remedy = f"Repair it and run `noetl doctor --fix`, or delete it with `noetl runs delete {damaged.id}`.\n"
    shown = noetl("runs", "show", damaged.id, "--store", url)
    assert (shown.exit_code, shown.err) == (0, remedy)
    headlines = {
        run["workflow_id"]: run["headline"]
        for run in noetl("runs", "list", "--store", url, "--json").json["items"]
    }
    assert headlines.keys() == {damaged.id, sound.id}
    assert "The store has no plan lost" in headlines[damaged.id]
    for command in ("cancel", "pause", "resume"):
        refused = noetl("runs", command, damaged.id, "--store", url)
        assert (refused.exit_code, refused.err.endswith(remedy)) == (2, True), refused.err
    refused = noetl("runs", "cancel", damaged.id, sound.id, "--store", url)
    assert remedy in refused.err


def test_the_check_changes_nothing(noetl: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/noetl.db"
    store_stuck_run(url)
    before = (tmp_path / "noetl.db").read_bytes()
    noetl("doctor", "--store", url)
    assert (tmp_path / "noetl.db").read_bytes() == before


def test_a_schema_of_another_version_is_a_finding(noetl: Command, postgres_dsn: str) -> None:
    message = "The schema of the store in Postgres is not up to date: run `noetl db upgrade`."
    result = noetl("doctor", "--store", postgres_dsn, "--json")
    finding = {"check": "schema", "workflow_id": None, "message": message}
    assert (result.exit_code, result.json) == (1, {"healthy": False, "findings": [finding]})
    upgrade(postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("insert into noetl_migrations (number) values (99)")
    assert "has schema 99" in noetl("doctor", "--store", postgres_dsn).out


def test_a_store_that_cannot_be_written_is_a_finding(
    noetl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/noetl.db"
    open_store(url).close()
    monkeypatch.setattr(file, "MIN_FREE_BYTES", 1 << 62)
    result = noetl("doctor", "--store", url)
    assert (result.exit_code, result.out.endswith("has no room: its disk is full.\n")) == (1, True)


@pytest.mark.parametrize(
    "url", ["sqlite:///nowhere.db", "postgresql://u@127.0.0.1:1/db?connect_timeout=1", "odd"]
)
def test_a_missing_store_is_a_usage_error(noetl: Command, url: str) -> None:
    result = noetl("doctor", "--store", url)
    assert (result.exit_code, result.out) == (2, "")
    assert result.err.startswith("noetl: ")


def test_a_table_without_a_queue_is_mentioned(
    noetl: Command, aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOETL_QUEUE", raising=False)
    upgrade_table("noetl")
    result = noetl("doctor", "--store", "dynamodb://noetl")
    assert result.exit_code == 0
    assert result.err.startswith(
        "no queue is configured: if Lambda functions execute the runs, set NOETL_QUEUE"
    )
    monkeypatch.setenv("NOETL_QUEUE", aws("sqs").create_queue(QueueName="noetl")["QueueUrl"])
    assert noetl("doctor", "--store", "dynamodb://noetl").err == "the store is consistent\n"
