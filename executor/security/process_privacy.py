"""The memory and the environment of this process, hidden from the commands that it starts.

Commands run as the same user. Without this, a command could read the secrets of the service in
`/proc/PID/environ` or `/proc/PID/mem`, or trace it.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_PR_SET_DUMPABLE = 4


@cache
def hide_process() -> bool:
    """Make this process unreadable for others of its user. Return whether the system can do this (Linux).

    A process that may trace any other, such as one of root with CAP_SYS_PTRACE, is not kept out.
    """
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
