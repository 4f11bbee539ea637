"""A process is killed several times during a run. `noetl runs resume` completes the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store

STEPS = 50
SECONDS = 60.0


def playbook() -> str:
    """Return a playbook whose steps each append a line to a file and increment a number."""
    steps = []
    for index in range(1, STEPS + 1):
        work = [
            {"action": "shell", "command": f"echo step{index} >> lines"},
            {"action": "set", "set": {"sum": "{{ sum + 1 }}"}},
        ]
        rule = [{"case": "default", "run": [f"step{index + 1}"]}] if index < STEPS else []
        steps.append({"name": f"step{index}", "run": work, "rule": rule})
    return json.dumps({"name": "long", "variables": {"sum": 0}, "steps": steps})


def start_noetl(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NOETL_")}
    command = [sys.executable, "-c", "from noetl.api.cli import main; main()", *arguments]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_after(process: subprocess.Popen[str], lines: Path, count: int) -> None:
    """Kill the process and its children when the file has `count` lines."""
    with process:
        while not lines.exists() or len(lines.read_text().splitlines()) < count:
            try:
                process.wait(0.002)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"it ended by itself: {process.communicate()}")
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_run_is_completed_after_its_process_is_killed(tmp_path: Path) -> None:
    (tmp_path / "long.json").write_text(playbook())
    lines = tmp_path / "lines"
    kill_after(start_noetl(tmp_path, "run", "long.json"), lines, 1)
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    (run,) = store.runs.find(RunFilter())[0]
    assert run.status == "running"
    for count in (20, 40):
        kill_after(start_noetl(tmp_path, "runs", "resume", run.id), lines, count)
    with start_noetl(tmp_path, "runs", "resume", run.id, "--json") as process:
        answer, complaint = process.communicate(timeout=SECONDS)
    assert (process.returncode, complaint.count("Traceback")) == (0, 0)
    assert json.loads(answer)["result"] == {"sum": STEPS}
    finished = store.runs.get("default", run.id)
    assert finished is not None
    assert finished.status == "succeeded"
    names = [f"step{index}" for index in range(1, STEPS + 1)]
    assert [v.step for v in store.runs.visits(run.id) if not v.step.startswith("@")] == names
    committed = Counter(e.step for e in store.runs.events(run.id) if e.type == "step.completed")
    assert committed == Counter(names)
    done = Counter(lines.read_text().split())
    assert done.keys() == set(names)
    assert done.total() <= STEPS + 3
    store.close()


ITEMS, BATCH = 2000, 100
WAITING_ITEMS = [ITEMS // 3, ITEMS // 3 * 2]
"""The items that wait, each at its own pipe."""


def kill_at_gate(process: subprocess.Popen[str], gate: Path) -> None:
    """Kill the process when an item waits at `gate`, and open the gate for later attempts."""
    with process, gate.open("w"):
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    gate.unlink()
    gate.touch()


def test_a_killed_loop_has_every_item_once_in_its_result(tmp_path: Path) -> None:
    gates = [tmp_path / f"gate{item}" for item in WAITING_ITEMS]
    for gate in gates:
        os.mkfifo(gate)
    step = {
        "name": "each",
        "loop": {"items": f"{{{{ range({ITEMS}) | list }}}}", "batch": BATCH, "concurrency": 8},
        "run": [
            {"action": "file", "append": "lines", "content": "{{ item }} done\n"},
            {"action": "shell", "if": f"{{{{ item in {WAITING_ITEMS} }}}}", "command": "cat gate{{ item }}"},
            {"action": "set", "set": {"double": "{{ item * 2 }}"}},
        ],
    }
    output = {"all": "{{ steps.each.result | map(attribute='double') | list }}"}
    (tmp_path / "loop.json").write_text(json.dumps({"name": "loop", "steps": [step], "output": output}))

    kill_at_gate(start_noetl(tmp_path, "run", "loop.json"), gates[0])
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    (run,) = store.runs.find(RunFilter())[0]
    kill_at_gate(start_noetl(tmp_path, "runs", "resume", run.id), gates[1])
    with start_noetl(tmp_path, "runs", "resume", run.id, "--json") as process:
        answer, complaint = process.communicate(timeout=SECONDS)

    assert (process.returncode, complaint.count("Traceback")) == (0, 0)
    assert json.loads(answer)["result"]["all"] == [item * 2 for item in range(ITEMS)]
    done = Counter(int(line.split()[0]) for line in (tmp_path / "lines").read_text().splitlines())
    assert done.keys() == set(range(ITEMS))
    assert done.total() <= ITEMS + 2 * BATCH
    counted = [event.payload["done"] for event in store.runs.events(run.id) if event.type == "loop.progress"]
    assert counted == list(range(BATCH, ITEMS + 1, BATCH))
    assert [event.type for event in store.runs.events(run.id)].count("workflow.completed") == 1
    store.close()
