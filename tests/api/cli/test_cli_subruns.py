"""`noetl run` of a playbook that starts other runs, and their resume after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Start = Callable[..., subprocess.Popen[str]]

CHILD = """\
name: child
steps:
  - name: first
    run: [{action: shell, command: "echo child >> trace"}]
    rule: [{case: default, run: [stand]}]
  - name: stand
    run: [{action: shell, command: "cat gate"}]
    rule: [{case: default, run: [last]}]
  - name: last
    run: [{action: shell, command: "test ! -e broken"}, {action: set, set: {done: true}}]
"""
PARENT = """\
name: parent
steps:
  - name: call
    run: [{action: workflow, playbook: child, as: found%s}]
    rule: [{case: default, run: [after]}]
  - name: after
    run: [{action: shell, command: "echo parent >> trace"}]
output: {found: "{{ found }}"}
"""
DETACHED = ", detach: true"


@pytest.fixture(autouse=True)
def playbooks(folder: Path) -> None:
    Path("child.yaml").write_text(CHILD)
    Path("parent.yaml").write_text(PARENT % "")
    Path("detached.yaml").write_text(PARENT % DETACHED)
    os.mkfifo("gate")


def interrupt_in_second_step(process: subprocess.Popen[str]) -> str:
    """Interrupt the process in the second step of the child. Return its stderr."""
    with open("gate", "w"):
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert out == ""
    return err


def open_the_gate() -> None:
    """Replace the pipe by an empty file, which does not block."""
    Path("gate").unlink()
    Path("gate").write_text("")


def runs_by_playbook(noetl: Command) -> dict[str, dict[str, Any]]:
    return {run["playbook"]: run for run in noetl("runs", "list", "--json").json["items"]}


def test_the_steps_of_both_are_shown(noetl: Command) -> None:
    open_the_gate()
    outcome = noetl("run", "parent.yaml")
    assert outcome.json == {"found": {"done": True}}
    child = runs_by_playbook(noetl)["child"]["workflow_id"]
    shown = [re.split(r"\s+[\d.]+ m?s\b", line)[0].rstrip() for line in outcome.err.splitlines()]
    in_order = [line for line in shown if line.lstrip()[0] in "✓✗"]
    assert in_order == [
        "  ✓ child: first",
        "  ✓ child: stand",
        "  ✓ child: last",
        "  ✓ child",
        "✓ call",
        "✓ after",
    ]
    assert "◷ call  waits for another run" in shown
    assert f"run {child}\n" in outcome.err


def test_a_resume_of_the_parent_continues_both(noetl: Command, start: Start) -> None:
    err = interrupt_in_second_step(start("run", "parent.yaml"))
    before = runs_by_playbook(noetl)
    parent, child = before["parent"]["workflow_id"], before["child"]["workflow_id"]
    assert err.splitlines()[-1] == f"interrupted; resume the run with `noetl runs resume {parent}`"
    shown = noetl("runs", "show", parent)
    assert f"\ncall waits for another run: {child}\n" in shown.out
    assert f"`noetl runs resume {parent}`" in shown.err
    assert f"\nparent   {parent}\n" in noetl("runs", "show", child).out
    open_the_gate()
    outcome = noetl("runs", "resume", parent)
    assert (outcome.exit_code, outcome.json["found"]["done"]) == (0, True)
    assert "first" not in outcome.err, "past events are not shown again"
    assert Path("trace").read_text() == "child\nparent\n"
    assert {run["status"] for run in runs_by_playbook(noetl).values()} == {"succeeded"}


def test_a_resume_of_the_child_continues_both(noetl: Command, start: Start) -> None:
    interrupt_in_second_step(start("run", "parent.yaml"))
    before = runs_by_playbook(noetl)
    parent, child = before["parent"]["workflow_id"], before["child"]["workflow_id"]
    open_the_gate()
    outcome = noetl("runs", "resume", child)
    assert (outcome.exit_code, outcome.json) == (0, {"done": True})
    assert {run["status"] for run in runs_by_playbook(noetl).values()} == {"succeeded"}
    assert Path("trace").read_text() == "child\nparent\n"
    assert noetl("runs", "resume", parent).exit_code == 2


@pytest.mark.parametrize("resumed", ["parent", "child"])
def test_a_failed_child_succeeds_after_a_resume_of_either(noetl: Command, resumed: str) -> None:
    open_the_gate()
    Path("broken").touch()
    failed = noetl("run", "parent.yaml", "-q", "--json")
    assert (failed.exit_code, failed.json["errors"][0]["type"]) == (1, "WorkflowFailed")
    assert failed.err.startswith("parent.yaml:4: step `call`, action workflow: WorkflowFailed: run ")
    before = runs_by_playbook(noetl)
    assert noetl("runs", "resume", before[resumed]["workflow_id"], "-q").exit_code == 1
    Path("broken").unlink()
    if resumed == "child":
        assert noetl("runs", "resume", before["child"]["workflow_id"], "-q").json == {"done": True}
        assert runs_by_playbook(noetl)["parent"]["status"] == "failed"
    succeeded = noetl("runs", "resume", before["parent"]["workflow_id"], "-q")
    assert succeeded.json == {"found": {"done": True}}
    assert Path("trace").read_text() == "child\nparent\n"


def test_the_command_continues_until_detached_runs_have_ended(noetl: Command, start: Start) -> None:
    process = start("run", "detached.yaml")
    assert process.stdout is not None and process.stderr is not None
    with open("gate", "w"):
        result = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        child = result["found"]["workflow_id"]
        lines = list(
            iter(
                process.stderr.readline,
                f"run {child} of child continues; Ctrl-C leaves that to `noetl runs resume`\n",
            )
        )
        assert " succeeded in " in lines[-1]
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert err.splitlines()[-1].endswith(f"run {child}")
    assert {run["status"] for run in runs_by_playbook(noetl).values()} == {"succeeded"}


def test_an_interrupted_detached_run_is_resumed(noetl: Command, start: Start) -> None:
    process = start("run", "detached.yaml")
    assert process.stderr is not None
    with open("gate", "w"):
        lines = next(line for line in process.stderr if line.endswith("to `noetl runs resume`\n"))
        child = lines.split()[1]
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == f"interrupted; resume the run with `noetl runs resume {child}`"
    open_the_gate()
    assert noetl("runs", "resume", child, "-q").json["done"] is True


def test_a_failed_detached_run_is_reported_and_does_not_fail_the_command(noetl: Command) -> None:
    open_the_gate()
    Path("broken").touch()
    outcome = noetl("run", "detached.yaml", "-q")
    child = outcome.json["found"]["workflow_id"]
    assert outcome.exit_code == 0
    assert outcome.err == f"run {child} of child failed; resume it with `noetl runs resume {child}`\n"


def test_a_cancel_without_workers_ends_both(noetl: Command, start: Start) -> None:
    interrupt_in_second_step(start("run", "parent.yaml"))
    outcome = noetl("runs", "cancel", runs_by_playbook(noetl)["parent"]["workflow_id"], "--json")
    assert outcome.json["status"] == "cancelled"
    assert {run["status"] for run in runs_by_playbook(noetl).values()} == {"cancelled"}
    assert Path("trace").read_text() == "child\n"
