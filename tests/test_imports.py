"""Every import is start-up time, which a function in the cloud pays again and again."""

from __future__ import annotations

import subprocess
import sys

import pytest

STARTED = (
    "noetl.executor.engine.invocation",
    "noetl.executor.worker",
    "noetl.executor.stores.sqlite.store",
    "noetl.executor.actions",
)
SLOW = (
    "networkx",
    "pydantic",
    "fastapi",
    "yaml",
    "httpx",
    "psycopg",
    "rich",
    "typer",
    "boto3",
    "uvicorn",
    "regex",
)


def loaded_by(*modules: str) -> set[str]:
    """Return the top-level modules that a new Python process loads when it imports `modules`."""
    program = f"import sys, {', '.join(modules)}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    return loaded_by(*STARTED)


@pytest.mark.parametrize("package", SLOW)
def test_the_executor_starts_without(package: str, loaded: set[str]) -> None:
    assert package not in loaded


def test_what_was_loaded_is_seen(loaded: set[str]) -> None:
    assert {"noetl", "jinja2", "sqlite3"} <= loaded
    assert {"networkx", "pydantic", "yaml"} <= loaded_by("noetl.planner.compile")


def test_the_service_starts_without_the_shapes_of_its_answers() -> None:
    program = "import sys, noetl.api.app; print('noetl.api.http.schemas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
