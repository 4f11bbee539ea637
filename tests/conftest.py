"""Fixtures and settings of all tests."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from noetl.executor.stores.sqlite.store import SqliteStore
from tests.log_handlers import restored_handlers

pytest_plugins = ("tests.aws", "tests.moto_aws", "tests.postgres", "tests.second_tries")

settings.register_profile("same every time", deadline=None, database=None, derandomize=True, max_examples=40)
settings.register_profile("brief", deadline=None, database=None, derandomize=True, max_examples=20)
settings.register_profile("explore", deadline=None, database=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same every time"))

MAX_EXTRA_WORKERS = 4


def pytest_xdist_auto_num_workers() -> int:
    """Return twice the number of processors, up to a limit: tests wait half of the time."""
    processors = os.cpu_count() or 1
    return processors + min(processors, MAX_EXTRA_WORKERS)


def pytest_collection_finish() -> None:
    """Keep garbage collections from visiting what collecting the tests has made. It lives until the end."""
    gc.collect()
    gc.freeze()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control lets its background commands ignore SIGINT, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """The handlers that capture the log, which a test of the log of a service leaves as before."""
    with restored_handlers():
        yield


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A pipe. Opening it for writing waits until a command reads from it."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SQLite with the newest schema and without rows."""
    path = tmp_path_factory.mktemp("template") / "noetl.db"
    SqliteStore(str(path)).close()
    return path


@pytest.fixture
def sqlite_file(sqlite_template: Path, tmp_path: Path) -> Path:
    """A copy of it for one test. It takes a tenth of the time in which a store makes its tables."""
    return Path(shutil.copy(sqlite_template, tmp_path / "noetl.db"))


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(str(sqlite_file))
    yield opened
    opened.close()
