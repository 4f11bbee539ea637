"""The command `noetl keys`, and `noetl submit` to a service that requires a key."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

Command = Callable[..., Any]

ADD = """
name: add
input: {a: integer, b: {type: string, default: x}}
steps: [{name: sum, run: [{action: set, set: {total: "{{ input.a + 1 }}"}}]}]
output: {total: "{{ total }}", b: "{{ b }}"}
"""


def test_the_text_of_a_key_is_shown_once(noetl: Command, folder: Path) -> None:
    created = noetl("keys", "create", "nightly jobs", "--scope", "run", "--tenant", "sales")
    assert created.exit_code == 0
    text = created.out.strip()
    id = text.split("_")[1]
    assert created.err == f"key {id} of tenant sales; it is not shown again\n"
    listed = noetl("keys", "list", "--tenant", "sales")
    assert listed.out.split()[:2] == [id, "run"]
    assert listed.out.rstrip().endswith("never used           nightly jobs") or "nightly jobs" in listed.out
    assert text.rpartition("_")[2] not in listed.out
    [shown] = noetl("keys", "list", "--tenant", "sales", "--json").json["items"]
    assert (shown["id"], shown["scopes"], shown["last_used_at"], shown["revoked_at"]) == (
        id,
        ["run"],
        None,
        None,
    )
    assert noetl("keys", "list").err == "no keys\n"


def test_a_key_is_revoked(noetl: Command) -> None:
    id = noetl("keys", "create", "a", "--json").json["id"]
    for _ in range(2):
        assert noetl("keys", "revoke", id).err == f"key {id} is revoked\n"
    assert " revoked " in noetl("keys", "list").out
    assert noetl("keys", "revoke", id, "--tenant", "another").exit_code == 1
    assert noetl("keys", "revoke", "nosuch").err == "noetl: unknown key nosuch of tenant default\n"


@pytest.mark.parametrize(
    "arguments",
    [("", "--scope", "run"), ("a\x1b[2J",), ("x" * 101,), ("a", "--tenant", "a/b"), ("a", "--tenant", "")],
)
def test_invalid_names_are_refused(noetl: Command, folder: Path, arguments: tuple[str, ...]) -> None:
    outcome = noetl("keys", "create", *arguments)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert list(folder.iterdir()) == []


def test_a_list_creates_no_store(noetl: Command, folder: Path) -> None:
    assert noetl("keys", "list").exit_code == 2
    assert list(folder.iterdir()) == []


@pytest.fixture
def served(noetl: Command, folder: Path) -> Iterator[tuple[str, str]]:
    """Address of a service that listens on all addresses of this machine, and a key for it."""
    key = noetl("keys", "create", "a", "--scope", "run").out.strip()
    command = [
        sys.executable,
        "-c",
        "from noetl.api.cli import main; main()",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.rstrip().endswith("to clients with an API key or a token"), line
    yield line.split()[1].replace("0.0.0.0", "127.0.0.1"), key
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_service_with_a_key_listens_on_all_addresses(served: tuple[str, str]) -> None:
    address, key = served
    assert httpx.get(f"{address}/workflows").status_code == 401
    assert httpx.get(f"{address}/workflows", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_a_playbook_is_submitted(
    served: tuple[str, str], noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, key = served
    (folder / "add.yaml").write_text(ADD)
    refused = noetl("submit", "add.yaml", "--url", address, "-i", "a=41")
    assert (refused.exit_code, refused.out) == (1, "")
    assert "Missing credentials: send an API key or a token" in refused.err
    monkeypatch.setenv("NOETL_API_KEY", key)
    waited = noetl("submit", "add.yaml", "--url", f"{address}/", "-i", "a=41", "-i", "b=007", "--wait")
    assert (waited.exit_code, waited.json) == (0, {"total": 42, "b": "007"})
    accepted = noetl("submit", "add.yaml", "--url", address, "-i", "a=41", "--json")
    assert accepted.json["playbook"] == "add"
    assert len(noetl("submit", "-", "--url", address, "-i", "a=1", stdin=ADD).out.strip()) > 10


def test_a_submission_is_refused_with_reasons(
    served: tuple[str, str], noetl: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, key = served
    monkeypatch.setenv("NOETL_API_KEY", key)
    outcome = noetl(
        "submit", "-", "--url", address, stdin="name: x\nsteps: [{name: a, rule: [{case: x, run: [b]}]}]"
    )
    assert (outcome.exit_code, outcome.out) == (1, "")
    assert "NP101" in outcome.err and "line 2" in outcome.err
    outcome = noetl("submit", "-", "--url", address, stdin=ADD)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert "missing input `a`" in outcome.err
    failing = "name: x\nsteps: [{name: a, run: [{action: fail, type: Own, message: sorry}]}]"
    outcome = noetl("submit", "-", "--url", address, "--wait", "--json", stdin=failing)
    assert (outcome.exit_code, outcome.json["status"]) == (1, "failed")
    assert "step `a`, action fail: Own: sorry" in outcome.err


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://noetl.test", "--url must be an http or https URL"),
        ("noetl.test", "--url must be an http or https URL"),
        ("http://noetl.test", "is not sent over http"),
        ("http://127.0.0.1:1", "request to 127.0.0.1:1 failed"),
    ],
)
def test_a_service_that_cannot_be_used_is_a_usage_error(
    noetl: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, sentence: str
) -> None:
    monkeypatch.setenv("NOETL_API_KEY", "noetl_a_b")
    outcome = noetl("submit", "-", "--url", url, "-i", "a=1", stdin=ADD)
    assert (outcome.exit_code, outcome.out) == (2, "")
    assert sentence in outcome.err
    assert json.dumps("noetl_a_b") not in outcome.err
