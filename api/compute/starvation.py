"""Starvation of compute processes: jobs whose processes wait for a processor and get nearly none.

Problem: compute processes yield to all other programs. While these use all processors, such a process gets
some 0.3 % of one. A graph that needs 0.3 s then takes a minute, and its client waits.

Algorithm: every STARVED_SECONDS, the CPU time of the job is compared with its duration. The job starves if it
used less than MIN_SHARE of it and still wants a processor. The pool then performs it again in a process that
does not yield. At most MIN_SHARE of the duration is lost, so a job that really computes is not repeated.

Cost: one small file of `/proc` at the start of a job. For a job that lasts for STARVED_SECONDS, one file of
each process of the machine, as often as it is checked.

Limits: it needs `/proc` of Linux. Without it, no job is considered starved.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from noetl.planner.frozen import frozen

STARVED_SECONDS = 2.0
"""How long a job may last until its CPU time is checked, and between two checks."""

MIN_SHARE = 0.05
"""The part of its duration that a job must have used as CPU time."""

_PROCESSES = Path("/proc")

T = TypeVar("T")


@frozen
class CpuUse:
    """The CPU seconds of some processes, and whether one of them waits for a processor or has one."""

    seconds: float
    is_runnable: bool


def has_starved(duration: float, use: CpuUse) -> bool:
    """Return whether a job that lasts for `duration` seconds has starved. `use` is that of the job.

    A job that sleeps, or waits for a disk, needs no other process.
    """
    return duration >= STARVED_SECONDS and use.is_runnable and use.seconds < MIN_SHARE * duration


async def result_unless_starved(job: Coroutine[Any, Any, T], pid: int) -> T | None:
    """Return the result of a job that the process group `pid` performs, or None if the job has starved."""
    loop = asyncio.get_running_loop()
    start, earlier_seconds = loop.time(), _read_process(pid)[1].seconds
    task = asyncio.create_task(job)
    try:
        while not (await asyncio.wait({task}, timeout=STARVED_SECONDS))[0]:
            use = await asyncio.to_thread(read_cpu_use, pid)
            use = CpuUse(use.seconds - earlier_seconds, use.is_runnable)
            if not task.done() and has_starved(loop.time() - start, use):
                return None
        return task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})


def read_cpu_use(group: int) -> CpuUse:
    """Return the CPU use of the processes of a group. Children of a compute process are in its group.

    Not each kernel lists the children of a process, so all processes are read.
    """
    try:
        pids = [int(path.name) for path in _PROCESSES.iterdir() if path.name.isdigit()]
    except OSError:
        pids = []
    uses = [use for process_group, use in map(_read_process, pids) if process_group == group]
    return CpuUse(sum(use.seconds for use in uses), any(use.is_runnable for use in uses))


def _read_process(pid: int) -> tuple[int, CpuUse]:
    """Return the group and the CPU use of a process and of its ended children, or zeros if unknown."""
    try:
        text = (_PROCESSES / str(pid) / "stat").read_text("utf-8", "replace")
        # The name of the program is in parentheses, and may have some itself: see proc_pid_stat(5).
        state, _, group, *members = text.rpartition(")")[2].split()
        ticks = sum(map(int, members[8:12]))  # utime, stime, cutime, cstime
        return int(group), CpuUse(ticks / os.sysconf("SC_CLK_TCK"), state == "R")
    except (OSError, ValueError):
        return 0, CpuUse(0.0, is_runnable=False)
