"""The command `noetl serve`."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

Command = Callable[..., Any]

GREET = (
    "name: greet\nsteps:\n  - name: greet\n    run: [{action: log, message: hello}]\noutput: {said: hello}\n"
)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-c", "from noetl.api.cli import main; main()", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("serving http://127.0.0.1:"), line + process.stderr.read()
    yield line.split()[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_submitted_playbook_is_executed(address: str, noetl: Command) -> None:
    headers = {"content-type": "application/yaml", "prefer": "wait=30"}
    answer = httpx.post(f"{address}/workflows/run", content=GREET, headers=headers, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["result"] == {"said": "hello"}
    assert [run["playbook"] for run in noetl("runs", "list", "--json").json["items"]] == ["greet"]


def test_a_port_in_use_is_a_sentence(noetl: Command, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = noetl("serve", "--port", str(port))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err == f"noetl: cannot serve on 127.0.0.1 port {port}: Address already in use\n"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_without_authentication_only_this_machine_is_served(noetl: Command, folder: Path, host: str) -> None:
    outcome = noetl("serve", "--host", host)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"noetl: cannot serve on {host}: no authentication is configured")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NOETL_STORE", "nosuch://x"),
        ("NOETL_FILES_ROOT", "/no/such/folder"),
        ("NOETL_ALLOW_SHELL", "perhaps"),
    ],
)
def test_an_invalid_setting_is_a_sentence(
    noetl: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = noetl("serve", "--port", "0")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert variable in outcome.err and len(outcome.err.splitlines()) == 1
