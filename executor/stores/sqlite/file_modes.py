"""The permissions of the files of a store: only its owner may read runs.

A new file has them. A file of an earlier version, or one that was copied, keeps its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_ENDINGS = ("", "-wal", "-shm")


def find_readable_files(path: Path) -> list[Path]:
    """Return the files of the store at `path` that other users may read or write (not on Windows)."""
    files = [path.with_name(path.name + ending) for ending in _ENDINGS] if os.name == "posix" else []
    return [file for file in files if file.is_file() and file.stat().st_mode & stat.S_IRWXO]


def protect_files(path: Path) -> list[Path]:
    """Give the files that other users may read or write the permissions of a new store. Return them.

    Raises:
        PermissionError: another user owns them.
    """
    files = find_readable_files(path)
    for file in files:
        file.chmod(0o600)
    return files
