"""A local run is cancelled by another process while a command of it runs, of its own or of a run that it has started."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from noetl.executor.stores import open_store

from tests.e2e.processes import Alive, noetl

SECONDS = 50.0
"""Less than the command takes if nothing ends it."""

ENDS_ORDERLY = "trap 'echo trapped > trace; exit 3' TERM; exec 3> alive; echo $$ >&3; sleep 60 & wait"
IS_DEAF = "trap '' TERM; exec 3> alive; echo $$ >&3; sleep 60"
"""As long as anything of a command runs, it holds the pipe `alive` open."""


def step(name: str, *work: object, then: str | None = None) -> dict[str, object]:
    return {"name": name, "run": list(work), "rule": [{"case": "default", "run": [then]}] if then else []}


def playbook(name: str, command: str) -> str:
    sleep = step("sleep", {"action": "shell", "command": command}, then="after")
    after = step("after", {"action": "shell", "command": "echo after >> trace"})
    return json.dumps({"name": name, "steps": [sleep, after]})


@pytest.mark.parametrize("command", [ENDS_ORDERLY, IS_DEAF], ids=["orderly", "deaf"])
@pytest.mark.parametrize("is_started", [False, True], ids=["its own", "of a run it has started"])
def test_all_processes_of_a_cancelled_run_end(tmp_path: Path, command: str, is_started: bool) -> None:
    os.mkfifo(tmp_path / "alive")
    (tmp_path / "child.json").write_text(playbook("child", command))
    call = step("call", {"action": "workflow", "playbook": "child"}, then="after")
    parent = {
        "name": "parent",
        "steps": [call, step("after", {"action": "shell", "command": "echo after >> trace"})],
    }
    (tmp_path / "parent.json").write_text(json.dumps(parent))
    running = noetl(tmp_path, "run", "parent.json" if is_started else "child.json")
    with closing(Alive(tmp_path / "alive")) as alive:
        assert alive
        check_that_it_is_cancelled(tmp_path, running, 2 if is_started else 1)
        assert not alive
    trace = tmp_path / "trace"
    assert (trace.read_text() if trace.exists() else "") == ("trapped\n" if command == ENDS_ORDERLY else "")


def check_that_it_is_cancelled(tmp_path: Path, running: subprocess.Popen[str], count: int) -> None:
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    run = next(run for run in store.runs("default")[0] if run.parent is None)
    cancelling = noetl(tmp_path, "runs", "cancel", run.id)
    _, complaint = running.communicate(timeout=SECONDS)
    said = cancelling.communicate(timeout=SECONDS)[1]
    assert (running.returncode, cancelling.returncode) == (1, 0)
    assert "Traceback" not in complaint + said
    assert f"\nrun {run.id} cancelled; " in complaint
    assert said.startswith(f"run {run.id} is ")

    runs = store.runs("default")[0]
    assert len(runs) == count
    for run in runs:
        assert run.status == "cancelled"
        ends = ("workflow.completed", "workflow.failed", "workflow.cancelled", "workflow.timed_out")
        assert [event.type for event in store.events(run.id) if event.type in ends] == ["workflow.cancelled"]
        assert all(
            visit.status == "parked" for visit in store.visits(run.id) if not visit.step.startswith("@")
        )
    store.close()
