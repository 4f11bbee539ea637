"""The command line with the store in memory, which only the process that created it can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

PLAYBOOK = """\
name: small
input: {ok: boolean}
steps:
  - name: begin
    run: [{action: fail, message: "no", if: "{{ not input.ok }}"}, {action: set, set: {x: 1}}]
output: {x: "{{ x }}"}
"""


@pytest.fixture(autouse=True)
def playbook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_STORE", "memory://")
    (folder / "small.yaml").write_text(PLAYBOOK)


def test_a_run_in_memory_writes_its_result_and_no_file(noetl: Command, folder: Path) -> None:
    result = noetl("run", "small.yaml", "-i", "ok=true")
    assert (result.exit_code, result.out) == (0, '{\n  "x": 1\n}\n')
    assert not (folder / ".noetl").exists()


def test_a_failed_run_in_memory_cannot_be_resumed(noetl: Command) -> None:
    result = noetl("run", "small.yaml", "-i", "ok=false")
    assert result.exit_code == 1
    assert " failed\n" in result.err
    assert "resume" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs", "list"),
        ("runs", "show", "x"),
        ("runs", "resume", "x"),
        ("keys", "list"),
        ("keys", "create", "name"),
        ("doctor",),
        ("worker",),
    ],
    ids=" ".join,
)
def test_other_commands_refuse_the_store_in_memory(noetl: Command, arguments: tuple[str, ...]) -> None:
    result = noetl(*arguments)
    assert (result.exit_code, result.out) == (2, "")
    assert "memory:// is lost with its process" in result.err
