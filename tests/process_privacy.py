"""Readability of this process for other processes of its user (Linux)."""

from __future__ import annotations

import ctypes

_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4


def is_readable() -> bool:
    """Return whether others of this user may read the environment and the memory of this process."""
    return bool(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0))


def make_readable() -> None:
    """Undo what an earlier test did, as the start of a program would."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
