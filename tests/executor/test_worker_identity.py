from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from noetl.executor.model import worker_identity

PRINT_NAME = """
from noetl.executor.model.worker_identity import process_name
print(process_name(), flush=True)
input()
"""


@pytest.fixture
def other_process() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRINT_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_an_ended_process_is_dead(other_process: subprocess.Popen[str]) -> None:
    with other_process:
        assert other_process.stdout is not None
        worker = other_process.stdout.readline().strip() + "/walk-0"
        assert worker.split("/")[2] == str(other_process.pid)
        assert not worker_identity.is_dead(worker)
        other_process.kill()
    assert worker_identity.is_dead(worker)


def test_a_zombie_process_is_dead(other_process: subprocess.Popen[str]) -> None:
    with other_process:
        assert other_process.stdout is not None
        worker = other_process.stdout.readline().strip()
        other_process.kill()
        os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)
        assert worker_identity.is_dead(worker)


def test_this_process_is_not_dead() -> None:
    assert not worker_identity.is_dead(worker_identity.process_name())
    assert not worker_identity.is_dead(f"{worker_identity.process_name()}/walk-0")


def test_a_reused_process_id_is_recognized() -> None:
    name, boot, pid, started = worker_identity.process_name().split("/")
    assert worker_identity.is_dead(f"{name}/{boot}/{pid}/{int(started) - 1}")


def test_a_process_of_another_boot_is_not_dead() -> None:
    """A clone of this machine has the same host name, and its process may live."""
    name, _, pid, started = worker_identity.process_name().split("/")
    assert not worker_identity.is_dead(f"{name}/00000000/{pid}/{started}")


def test_a_process_that_this_user_may_not_see_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The option `hidepid` leaves only the processes of the user in `/proc`."""
    name = worker_identity.process_name()
    monkeypatch.setattr(worker_identity, "_read_stat", lambda _: None)
    assert not worker_identity.is_dead(name)


@pytest.mark.parametrize("worker", [None, "", "one", "a/b/c/d/e", "elsewhere/1/2/3"])
def test_an_unknown_identity_is_not_dead(worker: str | None) -> None:
    assert not worker_identity.is_dead(worker)


def test_a_worker_of_another_machine_is_not_dead() -> None:
    _, *rest = worker_identity.process_name().split("/")
    assert not worker_identity.is_dead("/".join(["elsewhere", *rest]))


@pytest.mark.parametrize(("address", "is_known"), [(0x00163E5A1B2C, True), (0x01163E5A1B2C, False)])
def test_without_a_boot_id_the_hardware_address_distinguishes_clones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: int, is_known: bool
) -> None:
    """A random address, which has the bit of a group, says nothing."""
    name = worker_identity.process_name().split("/")[0]
    monkeypatch.setattr(worker_identity, "BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(uuid, "getnode", lambda: address)
    boot = worker_identity._boot_id()
    assert worker_identity.is_dead(f"{name}/{boot}/4194999/0") is is_known
    assert not worker_identity.is_dead(f"{name}/00163e5a1b2d/4194999/0")
    assert not worker_identity.is_dead(f"{name}//4194999/0")


def test_without_a_start_time_only_the_process_id_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, boot, pid, _ = worker_identity.process_name().split("/")
    assert not worker_identity.is_dead(f"{name}/{boot}/{pid}/0")
    assert worker_identity.is_dead(f"{name}/{boot}/4194999/0")
