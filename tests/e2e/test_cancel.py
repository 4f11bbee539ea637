"""A local run is cancelled from another process while a command runs, in the run or in its child run."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.e2e.processes import CommandProbe, start_noetl

SECONDS = 50.0
"""Shorter than the command takes if it is not ended."""

HANDLES_SIGTERM = "trap 'echo trapped > trace; exit 3' TERM; exec 3> alive; echo $$ >&3; sleep 60 & wait"
IGNORES_SIGTERM = "trap '' TERM; exec 3> alive; echo $$ >&3; sleep 60"
"""A command holds the pipe `alive` open while any of its processes runs."""


def step(name: str, *work: object, next_step: str | None = None) -> dict[str, object]:
    return {
        "name": name,
        "run": list(work),
        "rule": [{"case": "default", "run": [next_step]}] if next_step else [],
    }


def playbook(name: str, command: str) -> str:
    sleep = step("sleep", {"action": "shell", "command": command}, next_step="after")
    after = step("after", {"action": "shell", "command": "echo after >> trace"})
    return json.dumps({"name": name, "steps": [sleep, after]})


@pytest.mark.parametrize(
    "command", [HANDLES_SIGTERM, IGNORES_SIGTERM], ids=["handles SIGTERM", "ignores SIGTERM"]
)
@pytest.mark.parametrize("has_child", [False, True], ids=["in the run", "in its child run"])
def test_all_processes_of_a_cancelled_run_end(tmp_path: Path, command: str, has_child: bool) -> None:
    os.mkfifo(tmp_path / "alive")
    (tmp_path / "child.json").write_text(playbook("child", command))
    call = step("call", {"action": "workflow", "playbook": "child"}, next_step="after")
    parent = {
        "name": "parent",
        "steps": [call, step("after", {"action": "shell", "command": "echo after >> trace"})],
    }
    (tmp_path / "parent.json").write_text(json.dumps(parent))
    running = start_noetl(tmp_path, "run", "parent.json" if has_child else "child.json")
    with closing(CommandProbe(tmp_path / "alive")) as probe:
        assert probe
        assert_cancelled(tmp_path, running, 2 if has_child else 1)
        assert not probe
    trace = tmp_path / "trace"
    assert (trace.read_text() if trace.exists() else "") == (
        "trapped\n" if command == HANDLES_SIGTERM else ""
    )


def assert_cancelled(tmp_path: Path, running: subprocess.Popen[str], count: int) -> None:
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    run = next(run for run in store.runs.find(RunFilter())[0] if run.parent is None)
    cancelling = start_noetl(tmp_path, "runs", "cancel", run.id)
    _, complaint = running.communicate(timeout=SECONDS)
    said = cancelling.communicate(timeout=SECONDS)[1]
    assert (running.returncode, cancelling.returncode) == (1, 0)
    assert "Traceback" not in complaint + said
    assert f"\nrun {run.id} cancelled; " in complaint
    assert said.startswith(f"run {run.id} is ")

    runs = store.runs.find(RunFilter())[0]
    assert len(runs) == count
    for run in runs:
        assert run.status == "cancelled"
        ends = ("workflow.completed", "workflow.failed", "workflow.cancelled", "workflow.timed_out")
        assert [event.type for event in store.runs.events(run.id) if event.type in ends] == [
            "workflow.cancelled"
        ]
        assert all(
            visit.status == "parked" for visit in store.runs.visits(run.id) if not visit.step.startswith("@")
        )
    store.close()
