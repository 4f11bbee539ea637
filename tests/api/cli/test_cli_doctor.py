"""`noetl doctor` says what is wrong with a store, and nothing else."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from noetl.executor.stores import open_store
from noetl.executor.stores.sql.store import SqlStore
from noetl.infra.migrations import upgrade

from tests.api.cli.conftest import Command
from tests.contract.store_contract import started
from tests.postgres import postgres_dsn, postgres_server

__all__ = ["postgres_dsn", "postgres_server"]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "postgres":
        dsn: str = request.getfixturevalue("postgres_dsn")
        upgrade(dsn)
        return dsn
    found = f"sqlite:///{tmp_path}/noetl.db"
    open_store(found).close()
    return found


def break_run(url: str) -> str:
    """A run of the store with nothing left to do, and its end not reached; its id."""
    store = open_store(url)
    assert isinstance(store, SqlStore)
    run = started(store)
    with store.database.transaction() as db:
        db.execute("update visits set status = 'parked'")
    store.close()
    return run.id


def test_a_store_that_is_well(noetl: Command, url: str) -> None:
    said = noetl("doctor", "--store", url)
    assert (said.exit_code, said.out, said.err) == (0, "", "nothing is wrong\n")
    assert noetl("doctor", "--store", url, "--json").json == {"healthy": True, "findings": []}


def test_a_store_that_is_not(noetl: Command, url: str) -> None:
    run_id = break_run(url)
    message = f"run {run_id} has not ended, and nothing is left that could go on with it"
    said = noetl("doctor", "--store", url)
    assert (said.exit_code, said.out, said.err) == (1, f"{message}\n", "")
    said = noetl("doctor", "--store", url, "--json")
    finding = {"check": "stuck", "workflow_id": run_id, "message": message}
    assert (said.exit_code, said.json) == (1, {"healthy": False, "findings": [finding]})


def test_it_changes_nothing(noetl: Command, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/noetl.db"
    break_run(url)
    before = (tmp_path / "noetl.db").read_bytes()
    noetl("doctor", "--store", url)
    assert (tmp_path / "noetl.db").read_bytes() == before


def test_a_schema_of_another_version(noetl: Command, postgres_dsn: str) -> None:
    message = "The schema of the store in Postgres is not up to date: run `noetl db upgrade`."
    said = noetl("doctor", "--store", postgres_dsn, "--json")
    finding = {"check": "schema", "workflow_id": None, "message": message}
    assert (said.exit_code, said.json) == (1, {"healthy": False, "findings": [finding]})
    upgrade(postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("insert into noetl_migrations (number) values (99)")
    assert "has schema 99" in noetl("doctor", "--store", postgres_dsn).out


@pytest.mark.parametrize(
    "url", ["sqlite:///nowhere.db", "postgresql://u@127.0.0.1:1/db?connect_timeout=1", "odd"]
)
def test_a_store_that_cannot_be_had(noetl: Command, url: str) -> None:
    said = noetl("doctor", "--store", url)
    assert (said.exit_code, said.out) == (2, "")
    assert said.err.startswith("noetl: ")
