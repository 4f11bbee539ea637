"""The decision that a job has starved, and the CPU use of a group of processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noetl.api.compute import starvation
from noetl.api.compute.starvation import MIN_SHARE, STARVED_SECONDS, CpuUse, has_starved, read_cpu_use

LINUX = sys.platform == "linux"


@pytest.mark.parametrize(
    ("duration", "seconds", "is_runnable", "expected"),
    [
        (STARVED_SECONDS, 0.0, True, True),
        (STARVED_SECONDS, 0.9 * MIN_SHARE * STARVED_SECONDS, True, True),
        (STARVED_SECONDS, MIN_SHARE * STARVED_SECONDS, True, False),  # It computes.
        (STARVED_SECONDS, 0.0, False, False),  # It sleeps.
        (0.9 * STARVED_SECONDS, 0.0, True, False),  # It has begun a moment ago.
        (20.0, 1.1, True, False),  # It computed, and waits now.
        (40.0, 1.1, True, True),
    ],
)
def test_a_job_starves_if_it_wants_a_processor_and_used_little(
    duration: float, seconds: float, is_runnable: bool, expected: bool
) -> None:
    assert has_starved(duration, CpuUse(seconds, is_runnable)) is expected


@contextmanager
def program(text: str) -> Iterator[int]:
    """Run a program of Python in a process group of its own."""
    process = subprocess.Popen([sys.executable, "-c", text], process_group=0)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_seconds(group: int, seconds: float) -> CpuUse:
    while (use := read_cpu_use(group)).seconds < seconds:
        time.sleep(0.02)
    return use


SPIN = "while True: pass"
CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"


@pytest.mark.skipif(not LINUX, reason="needs /proc of Linux")
@pytest.mark.parametrize("text", [SPIN, CHILD.format(SPIN)])
def test_the_cpu_use_of_children_counts(text: str) -> None:
    with program(text) as pid:
        assert wait_for_seconds(pid, 0.5).is_runnable


@pytest.mark.skipif(not LINUX, reason="needs /proc of Linux")
def test_the_cpu_use_of_ended_children_counts() -> None:
    spin = "import time\nwhile time.process_time() < 0.5: pass"
    with program(CHILD.format(spin) + "; import time; time.sleep(600)") as pid:
        wait_for_seconds(pid, 0.5)
        while read_cpu_use(pid).is_runnable:
            time.sleep(0.02)
        assert read_cpu_use(pid).seconds >= 0.5


def test_without_a_file_system_of_processes_nothing_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").mkdir()
    for processes in (tmp_path, tmp_path / "none"):
        monkeypatch.setattr(starvation, "_PROCESSES", processes)
        assert read_cpu_use(os.getpid()) == CpuUse(0.0, is_runnable=False)
