"""The processes that read a SQLite file, by the locks that the kernel lists.

Problem: SQLite does not say which process keeps its log from being cut, and a user must end that process.

Algorithm: in the mode of a write-ahead log, a transaction that reads has a shared lock on one of five bytes
of the file `-shm`. Source: SQLite documentation, "WAL-mode File Format", "WAL Locks". `/proc/locks` has the
process of each lock. The file itself must not be opened here: closing it would release all locks of this
process.

Cost: a read of `/proc/locks`.

Limits: Linux alone lists locks, and those of other containers are missing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from noetl.planner.frozen import frozen

LOCKS = Path("/proc/locks")

_READ_LOCKS = range(123, 128)
"""The bytes of the file `-shm` that readers lock. The first is that of readers that do not need the log."""

_LOCK = re.compile(r"POSIX +\w+ +READ +(\d+) +\S+:(\d+) +(\d+) +\d+$", re.MULTILINE)


@frozen
class LogReader:
    """A process that reads the log of a SQLite file, its program, and the byte that it has locked."""

    process: int
    program: str
    byte: int


def find_log_readers(path: Path) -> frozenset[LogReader]:
    """Return the other processes that read the log of the SQLite file at a path now."""
    try:
        inode = os.stat(f"{path}-shm").st_ino  # noqa: PTH116
        text = LOCKS.read_text("utf-8")
    except OSError:
        return frozenset()
    locks = [tuple(map(int, lock)) for lock in _LOCK.findall(text)]
    return frozenset(
        LogReader(process, _read_program(process), byte)
        for process, locked, byte in locks
        if locked == inode and byte in _READ_LOCKS and process != os.getpid()
    )


def describe_readers(readers: frozenset[LogReader]) -> str:
    """Return the readers in words.

    >>> describe_readers(frozenset({LogReader(7, "sqlite3", 124), LogReader(5, "", 125)}))
    'process 5, process 7 (`sqlite3`)'
    >>> describe_readers(frozenset())
    'such as a backup, or a shell with an open transaction'
    """
    names = {reader.process: f" (`{reader.program}`)" if reader.program else "" for reader in readers}
    listed = ", ".join(f"process {process}{name}" for process, name in sorted(names.items()))
    return listed or "such as a backup, or a shell with an open transaction"


def _read_program(process: int) -> str:
    """Return the name of the program of a process, or an empty text."""
    try:
        name = Path(f"/proc/{process}/comm").read_text("utf-8", errors="replace").rstrip("\n")
    except OSError:
        return ""
    return "".join(character if character.isprintable() else "?" for character in name)
