"""The identity of a worker process, and whether a process with a stored identity is dead.

Problem: a worker that dies leaves claims that others cannot take before their leases end. If it ran on this
machine, the operating system knows that it is dead; but its process id may be in use again.

Algorithm: identify a process by host and PID namespace, boot id, process id and start time. The start time
distinguishes processes that reuse an id, and the boot id distinguishes machines that share a host name, as
clones and containers do.

Cost: one signal 0, and one read of `/proc/<pid>/stat`, for each check.

Limits: a process of another host, namespace or boot is never reported dead. Then its lease ends. The same
holds for a process that this user may not see (`hidepid`), as long as its id is in use. Without `/proc`, the
hardware address of the machine replaces the boot id, and only the existence of the process id is checked.
Machines that continue from one snapshot of memory share a boot id, so give them host names of their own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_START_FIELD = 19
"""Place of the start time, in clock ticks since boot, after the name of the process (proc_pid_stat(5))."""


@cache
def process_name() -> str:
    """Return the identity of this process: `HOST:NAMESPACE/BOOT/PID/START`."""
    pid = os.getpid()
    fields = _read_stat(pid)
    start_ticks = "0" if fields is None else fields[_START_FIELD]
    return f"{_host_name()}/{_boot_id()}/{pid}/{start_ticks}"


def describe_worker(worker: str) -> str:
    """Return the host and the process of a worker in words, or an identity of another form as it is.

    >>> describe_worker("vm:4026531836/97831829/16003/396623/noetl-walk-0"), describe_worker("one")
    ('vm process 16003', 'one')
    """
    host, *parts = worker.split("/")
    return f"{host.partition(':')[0]} process {parts[1]}" if len(parts) > 2 else worker


def is_dead(worker: str | None) -> bool:
    """Return whether a worker was a process of this machine that has ended.

    Return False if this is unknown.
    """
    parts = (worker or "").split("/")
    if len(parts) < 4 or parts[0] != _host_name() or not parts[2].isdigit():
        return False
    _, boot_id, pid, start_ticks = parts[:4]
    if not boot_id or boot_id != _boot_id():
        return False
    if not _exists(int(pid)):
        return True
    fields = _read_stat(int(pid))
    if fields is None:
        return False
    return _has_ended(fields) or start_ticks not in ("0", fields[_START_FIELD])


@cache
def _host_name() -> str:
    """Return the host name and, on Linux, the PID namespace: the scope in which process ids are unique."""
    try:
        return f"{socket.gethostname()}:{Path('/proc/self/ns/pid').readlink().name.strip('pid:[]')}"
    except OSError:
        return socket.gethostname()


def _boot_id() -> str:
    """Return what distinguishes this machine from its clones, or an empty text if it is not known."""
    try:
        return BOOT_ID.read_text("ascii").strip()[:8]
    except OSError:
        from uuid import getnode

        address = getnode()
    # Where no hardware address can be read, `getnode` returns a random one, which has this bit (RFC 9562).
    return "" if address >> 40 & 1 else f"{address:012x}"


def _read_stat(pid: int) -> list[str] | None:
    """Return what `/proc` says about a process, from its state on; None if it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    return stat.rpartition(")")[2].split()


def _has_ended(fields: Sequence[str]) -> bool:
    """Return whether only the entry of a process in the table of processes is left."""
    return fields[0] in "ZX"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
