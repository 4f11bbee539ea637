"""The memory and the environment of this process, hidden from the commands of playbooks.

Commands run as the same user. Without this, a command could read the secrets of a service in
`/proc/PID/environ` or `/proc/PID/mem`, or trace it. That holds for all processes of NoETL on the machine, not
only for the one that starts the command. So each process that executes steps, and each compute process, hides
at its start.

Source: prctl(2), PR_SET_DUMPABLE; ptrace(2), "Ptrace access mode checking".

Limits: only on Linux. A process that starts another program, or changes its user, is readable again. Programs
that are not of NoETL stay readable, such as the parent of the workers of uvicorn.
"""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def hide_process() -> bool:
    """Make this process unreadable for others of its user. Return whether the system can do this (Linux).

    Call it at the start of each process that has secrets or settings of a service.

    A process that may trace any other, such as one of root with CAP_SYS_PTRACE, is not kept out.
    """
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
