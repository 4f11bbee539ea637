"""Ctrl-C and SIGTERM in commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
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
    class InterruptedModule(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "noetl.api.cli.app", InterruptedModule("noetl.api.cli.app"))
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 130


class InterruptedCondition(threading.Condition):
    """A condition that interrupts the process when the main thread has released the lock to wait."""

    def __init__(self) -> None:
        super().__init__()
        release: Callable[[], Any] = vars(self)["_release_save"]

        def release_and_interrupt() -> Any:
            state = release()
            if threading.current_thread() is threading.main_thread():
                signal.raise_signal(signal.SIGINT)
            return state

        vars(self)["_release_save"] = release_and_interrupt


@pytest.fixture
def interrupted_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wait.json").write_text(json.dumps(WAIT))
    monkeypatch.setattr(change_signal, "threading", SimpleNamespace(Condition=InterruptedCondition))
    monkeypatch.setattr(interruption, "exit_immediately", lambda: pytest.fail("there was only one signal"))


@pytest.mark.usefixtures("interrupted_waits")
def test_a_run_is_interrupted_while_it_waits(noetl: Command) -> None:
    outcome = noetl("run", "wait.json")
    assert (outcome.exit_code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1].startswith("interrupted; resume the run with `noetl runs resume ")


@pytest.mark.usefixtures("interrupted_waits")
def test_watching_is_interrupted_while_it_waits(noetl: Command) -> None:
    noetl("run", "wait.json")
    (run,) = noetl("runs", "list", "--json").json["items"]
    outcome = noetl("runs", "watch", run["workflow_id"])
    assert (outcome.exit_code, outcome.out) == (130, "")
    assert outcome.err.splitlines()[-1].startswith("stopped watching; ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_sets_a_flag_and_handlers_are_restored(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interruption() as interrupt:
        interrupt.raise_if_requested()
        requested = [interrupt.is_requested]
        signal.raise_signal(number)
        signal.raise_signal(number)
        requested.append(interrupt.is_requested)
        assert requested == [False, True]
        interrupt.wait()
        with pytest.raises(KeyboardInterrupt):
            interrupt.raise_if_requested()
    assert signal.getsignal(number) is before


def test_the_flag_is_never_set_in_other_threads() -> None:
    flags = []

    def work() -> None:
        with Interruption() as interrupt:
            interrupt.raise_if_requested()
            flags.append(interrupt.is_requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert flags == [False]


@pytest.mark.parametrize("flush_code", ["", "raise RuntimeError('reentrant call')"])
def test_a_second_signal_ends_the_process_immediately(flush_code: str) -> None:
    """The commands end too. Threads and a running write do not delay the end."""
    program = f"""
import os, signal, sys, threading, time
from noetl.api.cli.local import interruption
from noetl.executor.actions import _process
def flush(real=sys.stdout.flush):
    {flush_code or "real()"}
def say(text):
    os.write(1, text.encode())
_process.end_all_commands = lambda: say("commands ended ")
sys.stdout.flush = flush
clock = iter([0.0, 0.5, 1.0])
interruption.time.monotonic = lambda: next(clock)
threading.Thread(target=threading.Event().wait).start()
with interruption.Interruption():
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)
        say("signal ")
"""
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (outcome.returncode, outcome.stdout) == (130, "signal signal commands ended "), outcome.stderr


def test_a_signal_that_another_thread_receives_ends_the_wait() -> None:
    """The kernel chooses the thread, and the main thread may wait before its handler could run."""
    program = """
import os, signal, threading
from noetl.api.cli.local.interruption import Interruption
waiting = threading.Event()
def receive():
    waiting.wait()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
other = threading.Thread(target=receive)
other.start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
with Interruption() as interruption:
    threading.Timer(0.2, waiting.set).start()
    interruption.wait()
    print("woken", interruption.is_requested)
"""
    outcome = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (outcome.returncode, outcome.stdout) == (0, "woken True\n"), outcome.stderr
