"""Every import is start-up time, which a function in the cloud pays again and again."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("imports")  # The fixture of the module is made once.

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
    "re2",
    "prometheus_client",
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


def test_the_service_starts_without_the_document_of_its_calls() -> None:
    program = "import sys, noetl.api.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"noetl.api.http.openapi", "noetl.api.routes.workflows"} <= loaded
    assert "prometheus_client" not in loaded
    assert not loaded & {"noetl.api.http.schemas", "noetl.api.http.bodies", "noetl.api.document"}


def modules_imported_in(folder: str) -> set[str]:
    """Return the modules that the files below a folder import, also within functions."""
    nodes = [
        node
        for path in (Path(__file__).parents[1] / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
    ]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return named | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


@pytest.mark.parametrize("folder", ["planner", "executor", "api", "infra"])
def test_only_tests_import_the_helpers_of_tests(folder: str) -> None:
    imported = modules_imported_in(folder)
    assert "noetl.planner.plan" in imported
    assert not any(name.startswith(("noetl.testing", "pytest")) for name in imported)


def test_the_helpers_of_tests_import_the_executor_and_pytest() -> None:
    packages = {".".join(name.split(".")[:2]) for name in modules_imported_in("noetl/testing")}
    foreign = {name.partition(".")[0] for name in packages} - sys.stdlib_module_names
    assert foreign == {"noetl", "pytest"}
    assert {name for name in packages if name.startswith("noetl")} == {
        "noetl.executor",
        "noetl.planner",
        "noetl.testing",
    }
