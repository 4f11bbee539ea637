"""An interrupt during work that does not end by itself: the command ends and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from noetl.api.cli.local.run_to_end import _exit_if_threads_hang
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores import open_store
from tests.e2e.processes import CommandProbe, start_noetl
from tests.http_server import StubExchange, serve

SECONDS = 50.0
"""Shorter than the work takes if it is not ended."""

IGNORES_SIGTERM = {"action": "shell", "command": "trap '' TERM; exec 3> alive; echo $$ >&3; sleep 60"}
NEXT = {"action": "shell", "command": "echo next >> trace"}


@pytest.mark.parametrize("loop", [None, {"items": [1, 2, 3], "concurrency": 2}], ids=["a step", "a loop"])
def test_an_interrupt_ends_commands(tmp_path: Path, loop: object) -> None:
    """A command that ignores SIGTERM is killed. The next action does not start."""
    os.mkfifo(tmp_path / "alive")
    step = {"name": "stand", "run": [IGNORES_SIGTERM, NEXT]} | ({} if loop is None else {"loop": loop})
    (tmp_path / "stand.json").write_text(json.dumps({"name": "stand", "steps": [step]}))
    running = start_noetl(tmp_path, "run", "stand.json")
    with closing(CommandProbe(tmp_path / "alive")) as probe:
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=SECONDS)
        assert not probe
    assert (running.returncode, out, err.count("Traceback")) == (130, "", 0), err
    assert not (tmp_path / "trace").exists()
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    (run,) = store.runs.find(RunFilter())[0]
    assert [(visit.status, visit.error, visit.claims) for visit in store.runs.visits(run.id)] == [
        ("running", None, 0)
    ]
    assert err.splitlines()[-1] == f"interrupted; resume the run with `noetl runs resume {run.id}`"
    store.close()


def test_an_interrupt_abandons_requests_to_silent_servers(tmp_path: Path) -> None:
    is_requested, is_over = threading.Event(), threading.Event()

    def silent(exchange: StubExchange) -> None:
        is_requested.set()
        is_over.wait(SECONDS)

    with serve(silent) as server:
        step = {
            "name": "ask",
            "loop": {"items": [1, 2, 3], "concurrency": 2},
            "run": [{"action": "http", "url": server.url(), "timeout": "10m"}],
        }
        (tmp_path / "ask.json").write_text(json.dumps({"name": "ask", "steps": [step]}))
        running = start_noetl(tmp_path, "run", "ask.json")
        assert is_requested.wait(SECONDS)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=SECONDS)
        is_over.set()
    assert (running.returncode, out, err.count("Traceback")) == (130, "", 0), err
    assert "`noetl runs resume " in err.splitlines()[-1]


def test_the_exit_waits_for_working_threads() -> None:
    """The interpreter must not shut down while a thread executes a query."""
    thread = threading.Thread(target=time.sleep, args=(0.5,), name="noetl-walk-0", daemon=True)
    thread.start()
    _exit_if_threads_hang()
    assert not thread.is_alive()
