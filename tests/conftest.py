"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from noetl.executor.stores.sqlite.store import SqliteStore

pytest_plugins = ("tests.aws", "tests.postgres")

settings.register_profile("same every time", deadline=None, database=None, derandomize=True, max_examples=60)
settings.register_profile("brief", deadline=None, database=None, derandomize=True, max_examples=20)
settings.register_profile("explore", deadline=None, database=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same every time"))


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe. Opening it for writing waits until a command reads from it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(str(tmp_path / "noetl.db"))
    yield opened
    opened.close()
