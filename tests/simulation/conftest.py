"""A fixture with every store that the simulation plays on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.simulation.backends import (
    BACKEND_NAMES,
    StoreBackend,
    memory_backend,
    postgres_backend,
    sqlite_backend,
)
from tests.simulation.dynamo_backend import DynamoBackend, shorten_retry_pauses
from tests.simulation.memory_backend import MemoryBackend


@pytest.fixture(params=BACKEND_NAMES)
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StoreBackend]:
    opened: StoreBackend
    if request.param == "Postgres":
        opened = postgres_backend(request.getfixturevalue("postgres_store_dsn"))
    elif request.param == "DynamoDB":
        request.getfixturevalue("aws")
        shorten_retry_pauses(monkeypatch)
        opened = DynamoBackend()
    elif request.param == "memory store":
        opened = MemoryBackend()
    else:
        opened = sqlite_backend(tmp_path) if request.param == "SQLite" else memory_backend()
    with closing(opened):
        yield opened
