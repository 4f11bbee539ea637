from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from executor import host

ASK = "from executor.host import process_name; print(process_name(), flush=True); input()"


@pytest.fixture
def other() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_process_dies(other: subprocess.Popen[str]) -> None:
    with other:
        assert other.stdout is not None
        worker = other.stdout.readline().strip() + "/walk-0"
        assert worker.split("/")[2] == str(other.pid)
        assert not host.is_dead(worker)
        other.kill()
    assert host.is_dead(worker)


def test_a_process_that_nobody_has_waited_for_is_dead(other: subprocess.Popen[str]) -> None:
    with other:
        assert other.stdout is not None
        worker = other.stdout.readline().strip()
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert host.is_dead(worker)


def test_this_process_lives() -> None:
    assert not host.is_dead(host.process_name())
    assert not host.is_dead(f"{host.process_name()}/walk-0")


def test_the_number_of_a_process_is_used_again() -> None:
    name, boot, pid, started = host.process_name().split("/")
    assert host.is_dead(f"{name}/{boot}/{pid}/{int(started) - 1}")


def test_the_machine_was_started_again() -> None:
    name, _, pid, started = host.process_name().split("/")
    assert host.is_dead(f"{name}/00000000/{pid}/{started}")


@pytest.mark.parametrize("worker", [None, "", "one", "a/b/c/d/e", "elsewhere/1/2/3"])
def test_what_cannot_be_known(worker: str | None) -> None:
    assert not host.is_dead(worker)


def test_a_worker_of_another_machine() -> None:
    _, *rest = host.process_name().split("/")
    assert not host.is_dead("/".join(["elsewhere", *rest]))


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name, boot, pid, _ = host.process_name().split("/")
    assert not host.is_dead(f"{name}/{boot}/{pid}/0")
    assert host.is_dead(f"{name}/{boot}/4194999/0")
