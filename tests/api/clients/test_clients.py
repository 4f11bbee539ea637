"""Clients that other projects generate from `/openapi.json`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from noetl.api.app import create_app
from noetl.api.auth.api_keys import create_api_key
from noetl.api.connections import ConnectionTable
from noetl.api.http.openapi import YAML_TYPES
from noetl.executor.stores import open_store
from noetl.infra.npm_packages import install_packages
from tests.api.test_slow_clients import serve
from tests.tool_environments import tool_environment

HERE = Path(__file__).parent
GENERATOR = "openapi-python-client==0.29.1"
TEXT_BODIES = 2
"""The number of operations of webhooks, which take texts, too."""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The file of the document."""
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(create_app({}).openapi()), "utf-8")
    return path


def run(*command: str | Path, folder: Path) -> str:
    """Return what a command prints. Fail with it if the command fails."""
    done = subprocess.run(
        list(map(str, command)),
        check=False,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_generated_python_client_starts_a_run_and_reads_its_result(
    document: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    programs = tool_environment(GENERATOR) / "bin"
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    generate = ("generate", "--path", document, "--config", "config.yaml", "--meta", "none")
    output = run(
        programs / "openapi-python-client", *generate, "--output-path", "noetl_client", folder=tmp_path
    )
    # It takes bodies as JSON and forms only, and warns of each that may be YAML or text, too.
    warnings = [line for line in output.splitlines() if line.startswith(("WARNING", "ERROR", "Unable"))]
    assert len(warnings) == output.count("Unsupported content type ") == 3 * len(YAML_TYPES) + TEXT_BODIES
    operations = [
        operation
        for path in json.loads(document.read_text())["paths"].values()
        for operation in path.values()
    ]
    assert len(list(tmp_path.glob("noetl_client/api/*/[a-z]*.py"))) == len(operations)
    key, record = create_api_key("client", ["admin"], "default", 1.0)
    store = open_store(settings["NOETL_STORE"])
    store.keys.add(record)
    store.close()
    with serve(create_app(settings), ConnectionTable(100)) as port:
        shutil.copy(HERE / "program.py", tmp_path)
        printed = run(programs / "python", "program.py", f"http://127.0.0.1:{port}", key, folder=tmp_path)
    assert printed.splitlines() == [
        "registered greet 1",
        "succeeded {'greeting': 'Hello you'}",
        "{'hello': 'succeeded'}",
        "hello workflow.started ['greet']",
        "urn:noetl:problem:invalid-playbook ['NP011']",
    ]


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm")
def test_a_program_with_generated_types_of_typescript_compiles(document: Path, tmp_path: Path) -> None:
    programs = install_packages(HERE) / "node_modules" / ".bin"
    options = ("--default-non-nullable", "false", "-o", "schema.ts")
    run(programs / "openapi-typescript", document, *options, folder=tmp_path)
    shutil.copy(HERE / "program.ts", tmp_path)
    run(
        programs / "tsc",
        "--noEmit",
        "--strict",
        "--skipLibCheck",
        "--target",
        "es2022",
        "program.ts",
        folder=tmp_path,
    )
