"""Postgres keeps the contract of stores; and what only a server can get wrong."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from executor.errors import StoreError
from executor.stores import open_store, sql_store, sql_waits
from executor.stores.postgres import PostgresStore
from executor.stores.postgres_database import SCHEMA_VERSION
from infra.migrations import migrations, upgrade
from tests.contract.registry_contract import RegistryContract
from tests.contract.store_contract import StoreContract
from tests.contract.waits_contract import WaitsContract
from tests.postgres import postgres_dsn, postgres_server

__all__ = ["postgres_dsn", "postgres_server"]
LIMIT = 4096


class TestPostgres(StoreContract, WaitsContract, RegistryContract):
    payload_limit = LIMIT
    answer_limit = LIMIT

    @pytest.fixture
    def store(self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
        monkeypatch.setattr(sql_store, "MAX_PAYLOAD_BYTES", LIMIT)
        monkeypatch.setattr(sql_waits, "MAX_ANSWER_BYTES", LIMIT)
        upgrade(postgres_dsn)
        opened = PostgresStore(postgres_dsn)
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: PostgresStore, postgres_dsn: str) -> Iterator[PostgresStore]:
        opened = PostgresStore(postgres_dsn)
        yield opened
        opened.close()


class TestSchema:
    def test_the_store_knows_all_migrations(self) -> None:
        assert len(migrations()) == SCHEMA_VERSION

    def test_it_is_brought_up_to_date_once(self, postgres_dsn: str) -> None:
        assert upgrade(postgres_dsn) == list(range(1, SCHEMA_VERSION + 1))
        assert upgrade(postgres_dsn) == []

    def test_a_database_without_it(self, postgres_dsn: str) -> None:
        with pytest.raises(StoreError, match="noetl db upgrade"):
            PostgresStore(postgres_dsn)

    def test_one_of_a_later_version(self, postgres_dsn: str) -> None:
        upgrade(postgres_dsn)
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute("insert into noetl_migrations (number) values (99)")
        with pytest.raises(StoreError, match=f"has schema 99, and this version of noetl knows {SCHEMA_VERSION}"):
            PostgresStore(postgres_dsn)
        with pytest.raises(StoreError, match="has schema 99"):
            upgrade(postgres_dsn)

    def test_nothing_is_left_of_one_that_fails(self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "infra.migrations.migrations", lambda: [*migrations(), "create table half (x no_such_type)"]
        )
        with pytest.raises(StoreError, match="no_such_type"):
            upgrade(postgres_dsn)
        with psycopg.connect(postgres_dsn) as connection:
            assert connection.execute("select to_regclass('runs')").fetchone() == (None,)


def test_its_url(postgres_dsn: str) -> None:
    upgrade(postgres_dsn)
    store = open_store(postgres_dsn)
    assert isinstance(store, PostgresStore)
    store.close()


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="The store in Postgres failed"):
        PostgresStore("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
