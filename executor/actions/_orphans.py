"""Orphans of commands that have killed their supervisors.

Problem: a command has the user of its supervisor, so it may kill it. What the command has started would then
be adopted by the first process of the system, and outlive its action.

Algorithm: while commands run, this process is a child subreaper (prctl(2), PR_SET_CHILD_SUBREAPER), so it
adopts them. They are its children in other sessions than its own: a process can begin a session, but not
join one. Those that are no supervisors, and that began after the supervisor which has ended, are killed until
none is left.

Cost: a list of all processes, only after a supervisor was killed.

Limits: Linux. A command that also kills the process of the service is not ended by it. A program that embeds
NoETL and starts children in new sessions may lose them, if a command kills its supervisor meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

_PR_SET_CHILD_SUBREAPER = 36
_KILL_SECONDS = 5.0
_PAUSE_SECONDS = 0.005

START_LOCK = Lock()
"""The lock of the start of a supervisor until it is known, and of a search for orphans."""


class _Child(NamedTuple):
    """A child of this process. `began_at` is in clock ticks since the start of the system."""

    id: int
    session: int
    began_at: int


def adopt_orphans(*, is_on: bool) -> None:
    """Begin to adopt the orphans among all descendants, or end it."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(is_on), 0, 0, 0)


def read_start(process: int) -> int | None:
    """Return when a child began, or None if the system does not say."""
    child = _read_child(str(process))
    return None if child is None else child.began_at


def kill_orphans(began_at: int | None, find_supervisors: Callable[[], AbstractSet[int]]) -> None:
    """Kill the orphans that began at a time or later, until none is left."""
    until = time.monotonic() + _KILL_SECONDS
    while began_at is not None and time.monotonic() < until:
        with START_LOCK:
            supervisors, session = find_supervisors(), os.getsid(0)
            orphans = [
                child.id
                for child in _children()
                if child.session != session and child.began_at >= began_at and child.id not in supervisors
            ]
            for orphan in orphans:
                with suppress(OSError):
                    os.kill(orphan, signal.SIGKILL)
        if not orphans:
            return
        time.sleep(_PAUSE_SECONDS)
        for orphan in orphans:
            with suppress(OSError):
                os.waitpid(orphan, os.WNOHANG)


def _children() -> Iterator[_Child]:
    """Yield the children of this process; none if the system does not list them."""
    with suppress(OSError):
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal():
                child = _read_child(folder.name)
                if child is not None:
                    yield child


def _read_child(process: str) -> _Child | None:
    with suppress(OSError, IndexError, ValueError):
        fields = Path("/proc", process, "stat").read_bytes().rpartition(b")")[2].split()
        if int(fields[1]) == os.getpid():
            return _Child(int(process), int(fields[3]), int(fields[19]))
    return None
