from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from noetl.executor.model import worker_identity

ASK = "from noetl.executor.model.worker_identity import process_name; print(process_name(), flush=True); input()"


@pytest.fixture
def other() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_process_dies(other: subprocess.Popen[str]) -> None:
    with other:
        assert other.stdout is not None
        worker = other.stdout.readline().strip() + "/walk-0"
        assert worker.split("/")[2] == str(other.pid)
        assert not worker_identity.is_dead(worker)
        other.kill()
    assert worker_identity.is_dead(worker)


def test_a_process_that_nobody_has_waited_for_is_dead(other: subprocess.Popen[str]) -> None:
    with other:
        assert other.stdout is not None
        worker = other.stdout.readline().strip()
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert worker_identity.is_dead(worker)


def test_this_process_lives() -> None:
    assert not worker_identity.is_dead(worker_identity.process_name())
    assert not worker_identity.is_dead(f"{worker_identity.process_name()}/walk-0")


def test_the_number_of_a_process_is_used_again() -> None:
    name, boot, pid, started = worker_identity.process_name().split("/")
    assert worker_identity.is_dead(f"{name}/{boot}/{pid}/{int(started) - 1}")


def test_the_machine_was_started_again() -> None:
    name, _, pid, started = worker_identity.process_name().split("/")
    assert worker_identity.is_dead(f"{name}/00000000/{pid}/{started}")


@pytest.mark.parametrize("worker", [None, "", "one", "a/b/c/d/e", "elsewhere/1/2/3"])
def test_what_cannot_be_known(worker: str | None) -> None:
    assert not worker_identity.is_dead(worker)


def test_a_worker_of_another_machine() -> None:
    _, *rest = worker_identity.process_name().split("/")
    assert not worker_identity.is_dead("/".join(["elsewhere", *rest]))


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name, boot, pid, _ = worker_identity.process_name().split("/")
    assert not worker_identity.is_dead(f"{name}/{boot}/{pid}/0")
    assert worker_identity.is_dead(f"{name}/{boot}/4194999/0")
