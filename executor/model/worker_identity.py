"""The identity of a worker process, and whether a process with a stored identity is dead.

Problem: a worker that dies leaves claims that others cannot take before their leases end. If it ran on this
machine, the operating system knows that it is dead; but its process id may be in use again.

Algorithm: identify a process by host and PID namespace, boot id, process id and start time. These four are
never used twice (the start time distinguishes processes that reuse an id, the boot id those before a reboot).

Cost: one read of `/proc/<pid>/stat` for each check.

Limits: a process of another host or namespace is never reported dead. Without `/proc`, only the existence of
the process id is checked.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def process_name() -> str:
    """Return the identity of this process: `HOST:NAMESPACE/BOOT/PID/START`."""
    pid = os.getpid()
    return f"{_host_name()}/{_boot_id()}/{pid}/{_start_ticks(pid) or 0}"


def is_dead(worker: str | None) -> bool:
    """Return whether a worker was a process of this machine that has ended.

    Return False if this is unknown.
    """
    parts = (worker or "").split("/")
    if len(parts) < 4 or parts[0] != _host_name() or not parts[2].isdigit():
        return False
    _, boot_id, pid, start_ticks = parts[:4]
    if boot_id != _boot_id():
        return True
    if start_ticks != "0":
        return str(_start_ticks(int(pid))) != start_ticks
    return not _exists(int(pid))


@cache
def _host_name() -> str:
    """Return the host name and, on Linux, the PID namespace: the scope in which process ids are unique."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return socket.gethostname()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot.

    Return None if it has ended, or if the system has no `/proc`.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
