"""Who a worker is, and whether one that wrote its name into a store is still alive on this machine."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def process_name() -> str:
    """The name of this process, told apart from any other that ever had its number: place, boot, number and start time."""
    pid = os.getpid()
    return f"{_place()}/{_boot()}/{pid}/{_started(pid) or 0}"


def is_dead(worker: str | None) -> bool:
    """Whether a worker ran in a process of this machine that is gone. False when that cannot be known."""
    parts = (worker or "").split("/")
    if len(parts) < 4 or parts[0] != _place() or not parts[2].isdigit():
        return False
    _, boot, pid, started = parts[:4]
    if boot != _boot():
        return True
    if started != "0":
        return str(_started(int(pid))) != started
    return not _exists(int(pid))


@cache
def _place() -> str:
    """Where numbers of processes mean the same: the host, and where it has several the namespace."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return socket.gethostname()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone, or where the system does not tell."""
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
