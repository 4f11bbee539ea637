"""The command `noetl runs watch`, and the display on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
Start = Callable[..., subprocess.Popen[str]]

HELD = """\
name: held
steps:
  - name: first
    run: [{action: log, message: hello}]
    rule: [{case: default, run: [stand]}]
  - name: stand
    run: [{action: shell, command: "cat gate; test ! -e broken"}]
output: {done: true}
"""


@pytest.fixture(autouse=True)
def playbook(folder: Path) -> None:
    Path("held.yaml").write_text(HELD)
    os.mkfifo("gate")


def run_of(noetl: Command) -> str:
    (run,) = noetl("runs", "list", "--json").json["items"]
    id: str = run["workflow_id"]
    return id


@pytest.mark.parametrize(("broken", "exit_code", "status"), [(False, 0, "succeeded"), (True, 1, "failed")])
def test_a_run_of_another_process_is_watched_to_its_end(
    noetl: Command, start: Start, broken: bool, exit_code: int, status: str
) -> None:
    if broken:
        Path("broken").touch()
    running = start("run", "held.yaml")
    with open("gate", "w"):
        id = run_of(noetl)
        watching, quietly = start("runs", "watch", id), start("runs", "watch", id, "--json", "-q")
        assert watching.stderr is not None
        assert watching.stderr.readline() == f"run {id} of held\n"
        assert watching.stderr.readline().startswith("✓ first")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == running.wait(60) == quietly.wait(60) == exit_code
    assert err.splitlines()[-1].startswith(f"run {id} {status}")
    assert out == ("" if broken else '{\n  "done": true\n}\n')
    assert quietly.stdout is not None
    assert f'"status": "{status}"' in quietly.stdout.read()


def test_ctrl_c_leaves_the_run_alone(noetl: Command, start: Start) -> None:
    running = start("run", "held.yaml")
    with open("gate", "w"):
        id = run_of(noetl)
        watching = start("runs", "watch", id)
        assert watching.stderr is not None
        assert watching.stderr.readline() == f"run {id} of held\n"
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=60)
        assert (watching.returncode, err.splitlines()[-1]) == (
            130,
            f"stopped watching; watch the run again with `noetl runs watch {id}`",
        )
    assert running.wait(60) == 0


def test_the_events_of_a_finished_run_are_shown(noetl: Command) -> None:
    Path("gate").unlink()
    Path("gate").write_text("")
    noetl("run", "held.yaml", "-q")
    outcome = noetl("runs", "watch", run_of(noetl))
    assert (outcome.exit_code, outcome.json) == (0, {"done": True})
    assert [line.split()[1] for line in outcome.err.splitlines() if line.startswith("✓")] == [
        "first",
        "stand",
    ]


def test_a_run_without_a_worker_has_a_hint(noetl: Command, start: Start) -> None:
    running = start("run", "held.yaml")
    with open("gate", "w"):
        id = run_of(noetl)
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
    watching = start("runs", "watch", id)
    assert watching.stderr is not None
    assert watching.stderr.readline() == f"run {id} of held\n"
    assert watching.stderr.readline() == (
        f"no live worker holds this run; resume it with `noetl runs resume {id}`\n"
    )


def test_a_resumed_run_has_no_hint(noetl: Command, start: Start) -> None:
    running = start("run", "held.yaml")
    with open("gate", "w"):
        id = run_of(noetl)
        os.killpg(running.pid, signal.SIGINT)
        running.wait(60)
    resuming = start("runs", "resume", id, "-q")
    with open("gate", "w"):
        assert noetl("runs", "show", id).err == ""
    assert resuming.wait(60) == 0


@pytest.mark.parametrize(("terminal", "sign"), [("xterm", "▶ stand"), ("dumb", "… stand is running")])
def test_a_terminal_shows_the_active_steps(noetl: Command, start: Start, terminal: str, sign: str) -> None:
    """A terminal that cannot be redrawn gets a line instead."""
    screen, end = os.openpty()
    environ = {**os.environ, "TERM": terminal, "COLUMNS": "60"}
    running = start("run", "held.yaml", stderr=end, env={k: v for k, v in environ.items() if k != "NO_COLOR"})
    os.close(end)
    shown = b""
    with open("gate", "w"):
        while sign.replace(" ", "").encode() not in _strip_controls(shown):
            shown += os.read(screen, 4096)
    assert running.wait(60) == 0
    os.close(screen)


def _strip_controls(shown: bytes) -> bytes:
    """Return terminal output without control sequences and blanks."""
    import re

    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\s", b"", shown)
