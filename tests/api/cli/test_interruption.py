"""Being asked to end"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from noetl.api.cli import main
from noetl.api.cli.local import interruption
from noetl.api.cli.local.interruption import Interruption
from noetl.executor.stores import change_signal

from tests.api.cli.conftest import Command

WAIT = {"name": "wait", "steps": [{"name": "wait", "run": [{"action": "wait", "seconds": 600}]}]}


def test_a_command_is_interrupted_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "noetl.api.cli.app", Loading("noetl.api.cli.app"))
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130


class Struck(threading.Condition):
    """One at which the process is interrupted just when the main thread has let go of the lock in order to wait."""

    def __init__(self) -> None:
        super().__init__()
        release = self._release_save  # type: ignore[attr-defined]

        def struck() -> Any:
            state = release()
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)
            return state

        self._release_save = struck


@pytest.fixture
def struck(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wait.json").write_text(json.dumps(WAIT))
    monkeypatch.setattr(change_signal, "threading", SimpleNamespace(Condition=Struck))
    monkeypatch.setattr(interruption, "leave_at_once", lambda: pytest.fail("nobody has asked twice"))


@pytest.mark.usefixtures("struck")
def test_a_run_is_interrupted_in_the_middle_of_waiting(noetl: Command) -> None:
    outcome = noetl("run", "wait.json")
    assert (outcome.exit_code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1].startswith("interrupted; `noetl runs resume ")


@pytest.mark.usefixtures("struck")
def test_watching_is_interrupted_in_the_middle_of_waiting(noetl: Command) -> None:
    noetl("run", "wait.json")
    (run,) = noetl("runs", "list", "--json").json["items"]
    outcome = noetl("runs", "watch", run["workflow_id"])
    assert (outcome.exit_code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1].startswith("not watched any more; ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_noted_and_what_was_before_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as asked:
        asked.check()
        assert not asked.is_asked
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert asked.is_asked
        asked.wait()
        with pytest.raises(KeyboardInterrupt):
            asked.check()
    assert signal.getsignal(number) is before


def test_other_threads_are_never_asked() -> None:
    noted = []

    def work() -> None:
        with Interruption() as asked:
            asked.check()
            noted.append(asked.is_asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert noted == [False]


@pytest.mark.parametrize("flushed", ["", "raise RuntimeError('reentrant call')"])
def test_who_is_asked_again_ends_at_once(flushed: str) -> None:
    """With what it has started, and without waiting for its threads; also where it is in the middle of writing."""
    program = f"""
import os, signal, sys, threading, time
from noetl.api.cli.local import interruption
from noetl.executor.actions import _process
def flush(real=sys.stdout.flush):
    {flushed or "real()"}
def say(text):
    os.write(1, text.encode())
_process.end_all_commands = lambda: say("commands ended ")
sys.stdout.flush = flush
clock = iter([0.0, 0.5, 1.0])
interruption.time.monotonic = lambda: next(clock)
threading.Thread(target=threading.Event().wait).start()
with interruption.Interruption() as asked:
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)
        say("asked ")
"""
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (outcome.returncode, outcome.stdout) == (130, "asked asked commands ended "), outcome.stderr
