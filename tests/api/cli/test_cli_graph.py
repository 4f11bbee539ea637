"""The command `noetl runs graph`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]

CYCLE = """\
name: cycle
variables: {n: 0}
steps:
  - name: count
    run: [{action: set, set: {n: "{{ n + 1 }}"}}]
    max_visits: 5
    rule:
      - {case: "{{ n < 3 }}", run: [count]}
      - {case: "{{ n > 8 }}", run: [never]}
      - {case: default, run: [stop]}
  - name: never
    run: [{action: log, message: x}]
  - name: stop
    run: [{action: fail, message: stop}]
"""


@pytest.fixture
def run_id(noetl: Command, folder: Path) -> str:
    Path("cycle.yaml").write_text(CYCLE)
    noetl("run", "cycle.yaml", "-q")
    return str(noetl("runs", "list", "--json").json["items"][0]["workflow_id"])


def test_the_picture_has_states_and_counts_of_edges(noetl: Command, run_id: str) -> None:
    outcome = noetl("runs", "graph", run_id[:8], "-o", "x.svg")
    assert (outcome.exit_code, outcome.out, outcome.err) == (0, "", "")
    svg = Path("x.svg").read_text()
    for words in ("succeeded, 3 visits", "2\u00d7", "will not run", "failed", f"failed · run {run_id}"):
        assert f">{words}</text>" in svg
    assert '<g id="n-1" class="node succeeded">' in svg


@pytest.mark.parametrize(
    ("file", "start"),
    [("x.png", b"\x89PNG"), ("x.html", b"<!DOCTYPE"), ("x.mmd", b"flowchart"), ("x.dot", b"digraph")],
)
def test_the_suffix_chooses_the_format(noetl: Command, run_id: str, file: str, start: bytes) -> None:
    assert noetl("runs", "graph", run_id, "-o", file).exit_code == 0
    assert Path(file).read_bytes().startswith(start)


def test_text_and_json_have_the_states(noetl: Command, run_id: str) -> None:
    assert "✗" in noetl("runs", "graph", run_id).out
    steps = noetl("runs", "graph", run_id, "-f", "json").json["steps"]
    assert {name: step["status"] for name, step in steps.items()} == {
        "count": "succeeded",
        "never": "pending",
        "stop": "failed",
    }
