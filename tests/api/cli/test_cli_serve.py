"""The command `noetl serve`."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from noetl.api.connections import STOP_SECONDS
from tests.process_privacy import is_readable, make_readable

Command = Callable[..., Any]

GREET = (
    "name: greet\nsteps:\n  - name: greet\n    run: [{action: log, message: hello}]\noutput: {said: hello}\n"
)


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """Yield the address of a service with its default settings, in the current folder."""
    command = [
        sys.executable,
        "-c",
        "from noetl.api.cli import main; main()",
        "serve",
        "--port",
        "0",
        *options,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("serving http://127.0.0.1:"), line + process.stderr.read()
    yield line.split()[1]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with serving() as address:
        yield address


def test_links_have_the_root_path_and_lead_back(folder: Path) -> None:
    headers = {"content-type": "application/yaml"}
    with serving("--root-path", "/noetl/") as address, httpx.Client(base_url=address) as http:
        for prefix in ("", "/noetl"):  # a proxy may remove the prefix, or leave it
            accepted = http.post(f"{prefix}/workflows/run", content=GREET, headers=headers)
            assert accepted.headers["location"].startswith("/noetl/workflows/status/")
            for link in ("status", "result", "events"):
                assert http.get(accepted.json()["links"][link]).is_success
                assert http.get(accepted.json()["links"][link].removeprefix("/noetl")).is_success
            assert http.get(f"{prefix}/docs/assets/start-redoc.js").status_code == 200
            assert http.get(f"{prefix}/nosuch").status_code == 404


@pytest.mark.parametrize("root_path", ["noetl", "/no etl", "/noetl?a", "https://example.com/noetl"])
def test_a_root_path_must_be_a_path(noetl: Command, folder: Path, root_path: str) -> None:
    outcome = noetl("serve", "--root-path", root_path)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"noetl: --root-path is '{root_path}'; it must be a path")


def test_a_request_with_two_lengths_is_refused_and_ends_the_connection(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    head = (
        b"POST /plan HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/yaml\r\n"
        b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (5 + len(hidden))
    )
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(head + hidden)
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1
    assert b'"status":"ok"' not in received


def test_a_long_header_is_refused_whatever_parsers_are_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # uvicorn takes them where they can be imported. They would pass a header of any length.
    for name in ("httptools", "uvloop"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} is imported')")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with serving() as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000)
            assert client.recv(65536).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(("host", "status"), [("", 200), ("http://other.test", 403)])
def test_a_request_may_name_the_service(address: str, host: str, status: int) -> None:
    """Then its header Host does not count (RFC 9112, section 3.2.2)."""
    target = f"{host or address.upper()}/workflows?limit=1"
    name, port = address.removeprefix("http://").split(":")
    with socket.create_connection((name, int(port)), timeout=30) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 %d " % status)


def test_a_client_that_does_not_read_does_not_hold_up_the_end(folder: Path) -> None:
    large = GREET.replace("said: hello", "said: \"{{ 'x' * 7000000 }}\"")
    headers = {"content-type": "application/yaml", "prefer": "wait=25"}
    with socket.socket() as client:
        with serving() as address:
            answer = httpx.post(f"{address}/workflows/run", content=large, headers=headers, timeout=60)
            path = answer.headers["location"].replace("/status/", "/result/")
            host, port = address.removeprefix("http://").split(":")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert client.recv(12) == b"HTTP/1.1 200"
            stopped_at = time.monotonic()
        assert time.monotonic() - stopped_at < 2.5 * STOP_SECONDS


def test_a_wrong_origin_is_a_sentence(noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_CORS_ORIGINS", "app.example.com")
    outcome = noetl("serve", "--port", "0")
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert outcome.err.startswith("noetl: NOETL_CORS_ORIGINS has 'app.example.com'; ")


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl of Linux")
@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",)])
def test_a_command_hides_before_it_opens_its_store(noetl: Command, command: tuple[str, ...]) -> None:
    make_readable()
    assert noetl(*command, "--store", "nosuch://x").exit_code == 2
    assert not is_readable()


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("worker",)])
@pytest.mark.parametrize("is_option", [False, True])
def test_no_command_executes_steps_whose_files_reach_its_store(
    noetl: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    is_option: bool,
) -> None:
    url = f"sqlite:///{folder / 'noetl.db'}"
    monkeypatch.setenv("NOETL_FILES_ROOT", str(folder))
    monkeypatch.setenv("NOETL_STORE", "memory://" if is_option else url)
    outcome = noetl(*command, *(["--store", url] if is_option else []))
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "overlaps" in outcome.err and "NOETL_STORE" in outcome.err
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
