"""The command `noetl run --dry-run`: it shows what a run would do, and does none of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.api.cli.conftest import Command

TEXT = """
name: outside
input: {port: integer}
environment: {colour: "\\e[31m"}
steps:
- name: fetch
  run:
  - {action: http, url: "http://127.0.0.1:{{ port }}/x", headers: {Authorization: "{{ secrets.KEY }}"}, as: answer}
  - {action: postgres, connection: "postgresql://u@127.0.0.1:{{ port }}/d", query: "delete from t"}
  rule:
  - {case: "{{ answer.status == 200 }}", run: [write]}
  - {case: default, run: [write]}
- name: write
  loop: {items: [1, 2, 3, 4, 5]}
  run:
  - {action: file, write: "{{ item }}.txt", content: "{{ colour }}"}
  - {action: shell, command: "touch shell{{ item }}"}
  - {action: python, function: "pathlib:Path", args: [x], if: "{{ item > 1 }}"}
  rule: [{case: default, run: [call]}]
- name: call
  run:
  - {action: workflow, playbook: other, input: {n: 1}}
  - {action: wait, seconds: 3600}
  - {action: callback, notify: {action: shell, command: "touch notified"}}
finally: tidy
"""
TEXT = TEXT.replace(
    "finally: tidy", '- {name: tidy, run: [{action: shell, command: "rm -rf /nowhere"}]}\nfinally: tidy'
)


@pytest.fixture
def port() -> Iterator[int]:
    """Port of a server that fails the test if anything connects to it."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connections.append(server.accept())

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert connections == []


def test_nothing_is_done_and_nothing_is_kept(
    noetl: Command, folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOETL_SECRET_KEY", "do-not-show")
    (folder / "outside.yaml").write_text(TEXT)
    (folder / "other.yaml").write_text(
        "name: other\nsteps: [{name: a, run: [{action: shell, command: touch other}]}]"
    )
    before = sorted(folder.iterdir())
    result = noetl("run", "outside.yaml", "--dry-run", "-i", f"port={port}")
    assert result.exit_code == 0, result.err
    assert sorted(folder.iterdir()) == before
    assert result.err.splitlines()[-1] == "15 actions would act outside; nothing was done"
    assert "do-not-show" not in result.out
    assert "\x1b" not in result.out
    for line in (
        f"      url: http://127.0.0.1:{port}/x",
        '      headers: {"Authorization": "{{ secrets.KEY }}"}',
        "  case 1, if {{ answer.status == 200 }} → write",
        "  case 2, otherwise → write",
        "  • run.0  file  item 3",
        "      command: touch shell3",
        "  run  and 2 more items",
        "  • run.0  workflow",
        "      command: touch notified",
        "      command: rm -rf /nowhere",
    ):
        assert line in result.out.splitlines()


def test_json_has_all_of_it(noetl: Command, folder: Path, port: int) -> None:
    (folder / "outside.yaml").write_text(TEXT)
    result = noetl("run", "outside.yaml", "--dry-run", "--json", "-i", f"port={port}")
    fetch, write, call, tidy = result.json["steps"]
    assert result.json["cut"] is False
    assert fetch["actions"][0] == {
        "action": "http",
        "position": "run.0",
        "line": 8,
        "input": {"url": f"http://127.0.0.1:{port}/x", "headers": {"Authorization": "{{ secrets.KEY }}"}},
        "if": None,
        "item": None,
        "outside": True,
        "cache_seconds": None,
    }
    assert fetch["cases"][0] == {
        "case": 1,
        "guard": "{{ answer.status == 200 }}",
        "certain": False,
        "next": ["write"],
    }
    assert (write["certain"], write["more_items"]) == (False, {"run": 2})
    assert [action["action"] for action in call["actions"]] == ["workflow", "wait", "callback", "shell"]
    assert tidy["name"] == "tidy"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "fetch"], "--dry-run keeps and performs nothing; leave out --step and --store"),
        (["--store", "sqlite:///x.db"], "--dry-run keeps and performs nothing; leave out --step and --store"),
        ([], "missing input `port`"),
    ],
)
def test_a_dry_run_that_cannot_be_made_is_a_sentence(
    noetl: Command, folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "outside.yaml").write_text(TEXT)
    result = noetl("run", "outside.yaml", "--dry-run", *arguments)
    assert (result.exit_code, result.out) == (2, "")
    assert message in result.err


def test_a_walk_that_is_cut_says_so(noetl: Command) -> None:
    calls = ", ".join(["{task: t}"] * 60)
    more = ", ".join(["{action: log, message: x}"] * 60)
    text = f"name: x\ntasks: [{{name: t, run: [{more}]}}]\nsteps: [{{name: a, run: [{calls}]}}]\n"
    result = noetl("run", "-", "--dry-run", stdin=text)
    assert result.out.splitlines()[-1] == "there are more actions; the walk ended here"
