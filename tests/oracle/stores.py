"""The stores on which random playbooks run, opened by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.interface import Store
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.dynamodb import upgrade as upgrade_dynamo
from noetl.infra.migrations import upgrade
from tests.aws import empty_account, running_emulator
from tests.postgres import empty_database, running_server

STORE_NAMES = ("memory", "sqlite", "postgres", "dynamo")


@contextmanager
def open_store(name: str) -> Iterator[Store]:
    """Yield an empty store, with a server of its own if it needs one."""
    if name == "memory":
        yield MemoryStore()
    elif name == "sqlite":
        with tempfile.TemporaryDirectory(prefix="noetl-oracle-") as folder, open_sqlite(Path(folder)) as file:
            yield file
    elif name == "postgres":
        with running_server() as server, empty_database(server.dsn) as dsn, open_postgres(dsn) as store:
            yield store
    else:
        with (
            running_emulator() as url,
            pytest.MonkeyPatch.context() as patch,
            empty_account(url, patch),
        ):
            yield open_dynamo()


@contextmanager
def open_sqlite(folder: Path) -> Iterator[SqliteStore]:
    """Yield a store in a file, which does not wait for the disk."""
    with closing(SqliteStore(str(folder / "noetl.db"))) as store:
        store.file.flushes_commits = False
        yield store


@contextmanager
def open_postgres(dsn: str) -> Iterator[PostgresStore]:
    """Yield a store in an empty database."""
    upgrade(dsn)
    with closing(PostgresStore(dsn)) as store:
        yield store


def open_dynamo() -> DynamoStore:
    """Return a store in the account of the environment."""
    upgrade_dynamo("noetl")
    return DynamoStore(DynamoTable("noetl"))
