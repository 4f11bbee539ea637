"""The schemas of stores: both SQL databases have the same tables, and a later version is refused."""

from __future__ import annotations

import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from noetl.executor.errors import SchemaError
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.store import SCHEMA_VERSION as DYNAMO_VERSION
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.postgres.database import SCHEMA_VERSION as POSTGRES_VERSION
from noetl.executor.stores.sqlite.file import SCHEMA_VERSION as SQLITE_VERSION
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.dynamodb import upgrade as upgrade_dynamodb
from noetl.infra.migrations import upgrade as upgrade_postgres
from tests.aws import Client

FUTURE = 99


class SchemaVersionContract(ABC):
    """Tests of a store that keeps its data: a version that it does not know is refused with a sentence.

    `known_version` is the newest schema that this version of noetl knows.
    """

    place: str
    known_version: int

    @abstractmethod
    def write_version(self, url: str, version: int) -> None:
        """Write a version into the store, as another version of noetl would."""

    @abstractmethod
    def read_version(self, url: str) -> int:
        """Return the version of the store."""

    def test_a_store_of_a_later_version_is_refused_with_a_sentence(self, url: str) -> None:
        open_store(url).close()
        self.write_version(url, FUTURE)
        with pytest.raises(SchemaError) as refusal:
            open_store(url)
        expected = (
            rf"The store {self.place} has schema {FUTURE}, but this version of noetl knows only"
            rf" {self.known_version}: install a later version\."
        )
        assert re.fullmatch(expected, str(refusal.value))

    def test_a_refused_store_is_not_changed(self, url: str) -> None:
        open_store(url).close()
        self.write_version(url, FUTURE)
        with pytest.raises(SchemaError):
            open_store(url)
        assert self.read_version(url) == FUTURE
        self.write_version(url, self.known_version)
        open_store(url).close()


class TestSqliteVersion(SchemaVersionContract):
    place = r"at \S+noetl\.db"
    known_version = SQLITE_VERSION

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'noetl.db'}"

    def write_version(self, url: str, version: int) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            db.execute(f"pragma user_version = {version}")

    def read_version(self, url: str) -> int:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
            return int(db.execute("pragma user_version").fetchone()[0])


class TestPostgresVersion(SchemaVersionContract):
    place = "in Postgres"
    known_version = POSTGRES_VERSION

    @pytest.fixture
    def url(self, postgres_dsn: str) -> str:
        upgrade_postgres(postgres_dsn)
        return postgres_dsn

    def write_version(self, url: str, version: int) -> None:
        with psycopg.connect(url) as connection:
            connection.execute("delete from noetl_migrations where number > %s", [version])
            connection.execute(
                "insert into noetl_migrations (number) values (%s) on conflict do nothing", [version]
            )

    def read_version(self, url: str) -> int:
        with psycopg.connect(url) as connection:
            row = connection.execute("select max(number) from noetl_migrations").fetchone()
            assert row is not None
            return int(row[0])

    def test_an_upgrade_refuses_it_too(self, url: str) -> None:
        self.write_version(url, FUTURE)
        with pytest.raises(SchemaError, match=f"knows only {POSTGRES_VERSION}: install a later version"):
            upgrade_postgres(url)


class TestDynamoVersion(SchemaVersionContract):
    place = "in DynamoDB"
    known_version = DYNAMO_VERSION

    @pytest.fixture
    def url(self, aws: Client) -> str:
        upgrade_dynamodb("noetl")
        return "dynamodb://noetl"

    def write_version(self, url: str, version: int) -> None:
        DynamoTable("noetl").write([Update(keys.SCHEMA, {"schema": version})])

    def read_version(self, url: str) -> int:
        item = DynamoTable("noetl").get(keys.SCHEMA)
        assert item is not None
        return int(item["schema"])


class Column(NamedTuple):
    """A column of a table, in the words of both databases."""

    type: str
    is_required: bool
    default: str | None


class Index(NamedTuple):
    """An index, with the expressions of its columns and whether it covers only a part of the rows."""

    table: str
    columns: tuple[str, ...]
    is_partial: bool


class SqlSchema(NamedTuple):
    """The tables of a SQL database with their columns in order, their primary keys, and all indexes."""

    tables: dict[str, dict[str, Column]]
    primary_keys: dict[str, tuple[str, ...]]
    indexes: dict[str, Index]


TYPES = {"bigint": "integer", "double precision": "real"}
"""Types of Postgres, as SQLite calls them."""

INDEX = re.compile(
    r"create (?:unique )?index (\w+) on (?:public\.)?(\w+)(?: using btree)? \((.*?)\)( where .*)?"
)


def read_index(statement: str) -> tuple[str, Index]:
    """Return the name and the definition of an index from the statement that creates it."""
    found = INDEX.fullmatch(" ".join(statement.lower().replace('"', "").split()))
    assert found is not None, statement
    name, table, columns, condition = found.groups()
    # Each database writes the parentheses, the types and the order of texts of an expression in its own way.
    plain = re.sub(r"[()]|::text| collate (c|binary)\b", "", columns)
    return name, Index(table, tuple(plain.split(", ")), condition is not None)


def schema_of_sqlite(db: sqlite3.Connection) -> SqlSchema:
    objects = [tuple(row) for row in db.execute("select type, name, sql from sqlite_master where sql <> ''")]
    tables: dict[str, dict[str, Column]] = {}
    primary_keys: dict[str, tuple[str, ...]] = {}
    for kind, table, _ in objects:
        if kind != "table":
            continue
        rows = [tuple(row) for row in db.execute(f"pragma table_info({table})")]
        key = sorted((place, name) for _, name, _, _, _, place in rows if place)
        if key:
            primary_keys[table] = tuple(name for _, name in key)
        tables[table] = {
            name: Column(type.lower(), bool(required or place), default)
            for _, name, type, required, default, place in rows
        }
    indexes = dict(read_index(statement) for kind, _, statement in objects if kind == "index")
    # The data of a run has a table of its own in SQLite, which writes a row as a whole.
    del primary_keys["run_data"]
    tables["runs"].update(
        (name, column) for name, column in tables.pop("run_data").items() if name != "run_id"
    )
    return SqlSchema(tables, primary_keys, indexes)


def schema_of_postgres(connection: psycopg.Connection[Any]) -> SqlSchema:
    columns = connection.execute(
        "select table_name, column_name, data_type, is_nullable = 'NO', column_default"
        " from information_schema.columns where table_schema = 'public' and table_name <> 'noetl_migrations'"
        " order by table_name, ordinal_position"
    ).fetchall()
    tables: dict[str, dict[str, Column]] = {}
    for table, name, type, required, default in columns:
        plain_default = None if default is None else default.partition("::")[0]
        tables.setdefault(table, {})[name] = Column(TYPES.get(type, type), required, plain_default)
    keys_query = (
        "select table_name, column_name from information_schema.table_constraints"
        " join information_schema.key_column_usage using (constraint_name, table_schema, table_name)"
        " where constraint_type = 'PRIMARY KEY' and table_schema = 'public'"
        " and table_name <> 'noetl_migrations' order by ordinal_position"
    )
    primary_keys: dict[str, tuple[str, ...]] = {}
    for table, name in connection.execute(keys_query):
        primary_keys[table] = (*primary_keys.get(table, ()), name)
    statements = connection.execute(
        "select indexdef from pg_indexes where schemaname = 'public' and indexname not like '%_pkey'"
    ).fetchall()
    return SqlSchema(tables, primary_keys, dict(read_index(statement) for (statement,) in statements))


class TestSameSchema:
    @pytest.fixture
    def sqlite_db(self, tmp_path: Path) -> Iterator[sqlite3.Connection]:
        SqliteStore(str(tmp_path / "noetl.db")).close()
        with closing(sqlite3.connect(tmp_path / "noetl.db")) as db:
            yield db

    @pytest.fixture
    def postgres_schema(self, postgres_dsn: str) -> SqlSchema:
        upgrade_postgres(postgres_dsn)
        with psycopg.connect(postgres_dsn) as connection:
            return schema_of_postgres(connection)

    def test_sqlite_and_postgres_have_the_same_tables(
        self, sqlite_db: sqlite3.Connection, postgres_schema: SqlSchema
    ) -> None:
        """The order of columns matters in SQLite alone, where payloads are last."""
        sqlite_schema = schema_of_sqlite(sqlite_db)
        assert {"runs", "visits", "history", "keys"} <= sqlite_schema.tables.keys()
        assert {name: sorted(columns) for name, columns in sqlite_schema.tables.items()} == {
            name: sorted(columns) for name, columns in postgres_schema.tables.items()
        }
        assert sqlite_schema == postgres_schema

    @pytest.mark.parametrize(
        "change",
        [
            "alter table runs add column extra text",
            "alter table runs rename column trace to trail",
            "create table extra (id text primary key)",
            "drop index runs_live",
            "alter table waits rename to pauses",
            "alter table run_data rename column input to inputs",
        ],
    )
    def test_a_difference_is_found(
        self, sqlite_db: sqlite3.Connection, postgres_schema: SqlSchema, change: str
    ) -> None:
        sqlite_db.execute(change)
        assert schema_of_sqlite(sqlite_db) != postgres_schema
