"""Ctrl-C while work is under way that does not end by itself: the command ends all the same, and leaves nothing behind."""

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
from noetl.executor.stores import open_store

from tests.e2e.processes import Alive, noetl
from tests.http_server import StubExchange, serve

SECONDS = 50.0
"""Less than the work takes if nothing ends it."""

DEAF = {"action": "shell", "command": "trap '' TERM; exec 3> alive; echo $$ >&3; sleep 60"}
NEXT = {"action": "shell", "command": "echo next >> trace"}


@pytest.mark.parametrize("loop", [None, {"items": [1, 2, 3], "concurrency": 2}], ids=["a step", "a loop"])
def test_an_interrupt_ends_commands(tmp_path: Path, loop: object) -> None:
    """Also one that would not hear of it. What stands behind it does not begin."""
    os.mkfifo(tmp_path / "alive")
    step = {"name": "stand", "run": [DEAF, NEXT]} | ({} if loop is None else {"loop": loop})
    (tmp_path / "stand.json").write_text(json.dumps({"name": "stand", "steps": [step]}))
    running = noetl(tmp_path, "run", "stand.json")
    with closing(Alive(tmp_path / "alive")) as alive:
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=SECONDS)
        assert not alive
    assert (running.returncode, out, err.count("Traceback")) == (130, "", 0), err
    assert not (tmp_path / "trace").exists()
    store = open_store(f"sqlite:///{tmp_path}/.noetl/noetl.db", create=False)
    (run,) = store.runs("default")[0]
    assert [(visit.status, visit.error, visit.claims) for visit in store.visits(run.id)] == [
        ("running", None, 0)
    ]
    assert err.splitlines()[-1] == f"interrupted; resume the run with `noetl runs resume {run.id}`"
    store.close()


def test_an_interrupt_abandons_requests_to_silent_servers(tmp_path: Path) -> None:
    asked, over = threading.Event(), threading.Event()

    def silent(exchange: StubExchange) -> None:
        asked.set()
        over.wait(SECONDS)

    with serve(silent) as server:
        step = {
            "name": "ask",
            "loop": {"items": [1, 2, 3], "concurrency": 2},
            "run": [{"action": "http", "url": server.url(), "timeout": "10m"}],
        }
        (tmp_path / "ask.json").write_text(json.dumps({"name": "ask", "steps": [step]}))
        running = noetl(tmp_path, "run", "ask.json")
        assert asked.wait(SECONDS)
        os.killpg(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=SECONDS)
        over.set()
    assert (running.returncode, out, err.count("Traceback")) == (130, "", 0), err
    assert "`noetl runs resume " in err.splitlines()[-1]


def test_the_exit_waits_for_working_threads() -> None:
    """The interpreter is not to take itself apart while one of them is in the middle of a query."""
    thread = threading.Thread(target=time.sleep, args=(0.5,), name="noetl-walk-0", daemon=True)
    thread.start()
    _exit_if_threads_hang()
    assert not thread.is_alive()
