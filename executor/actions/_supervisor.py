"""Supervisor process of one command: it starts the command, and ends everything that the command started.

Problem: a process that leaves the process group of its command, such as a daemon, would outlive the action.

Algorithm: the supervisor is a child subreaper (Linux, `prctl`), so every orphan among its descendants becomes
its child. When the command ends, or the service asks, it kills its children until none is left. Source:
prctl(2), PR_SET_CHILD_SUBREAPER.

Cost: the start of an interpreter without site-packages.

Limits: elsewhere than on Linux, only the process group of the command ends. A command may kill its
supervisor, because both have the same user; then the process that has started it ends the rest (`_orphans`).

The script imports nothing of `noetl`, and no `pathlib`, which takes longer than the rest. Its arguments are
the numbers of two pipes. It reads a request in JSON from the first one, and then `T` (send SIGTERM) or the
end (kill everything). It writes lines to the second one: `started PID`, `failed ERRNO` and `ended CODE`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_KILL_SECONDS = 5.0


def main() -> None:
    control, report = int(sys.argv[1]), int(sys.argv[2])
    specification = json.loads(_read_request(control))
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    _prctl(_PR_SET_CHILD_SUBREAPER)
    wake_up, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    command = _start(specification)
    if isinstance(command, OSError):
        _write(report, f"failed {command.errno or errno.EINVAL}")
        return
    # The pipes of the command end when all of its processes have ended.
    empty = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(empty, number)
    for number in specification["inherited_files"]:
        os.close(number)
    _write(report, f"started {command}")
    code = _supervise(command, control, wake_up)
    if code is not None:
        _write(report, f"ended {code}")
    _kill_all(command)


def _read_request(control: int) -> bytes:
    """Read a request: its length in ten digits, and its bytes."""
    length = int(_read_exactly(control, 10))
    return _read_exactly(control, length)


def _read_exactly(descriptor: int, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = os.read(descriptor, length - len(data))
        if not chunk:
            sys.exit(1)
        data += chunk
    return bytes(data)


def _start(specification: dict[str, Any]) -> int | OSError:
    """Start the command in a session of its own, and return its process, or why it cannot be started."""
    failure, failed = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(failure)
            _execute(specification)
        except OSError as error:
            os.write(failed, str(error.errno).encode())
        except BaseException:  # noqa: BLE001  Nothing may return to the caller in this process.
            os.write(failed, str(errno.EINVAL).encode())
        os._exit(127)
    os.close(failed)
    with os.fdopen(failure, "rb") as reader:
        number = reader.read()
    if not number:
        return process
    os.waitpid(process, 0)
    return OSError(int(number), os.strerror(int(number)))


def _execute(specification: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    for name, limit in specification["limits"].items():
        if name == "RLIMIT_NPROC":
            # The system counts all threads of the user.
            limit += _count_threads_of_user()  # noqa: PLW2901
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))
    if specification["limits"]:
        _prctl(_PR_SET_NO_NEW_PRIVS)
    argv = specification["argv"]
    os.execvpe(argv[0], argv, specification["env"])  # noqa: S606


def _supervise(command: int, control: int, wake_up: int) -> int | None:
    """Wait for the command, and return its exit code; None if everything must be killed."""
    while True:
        code = _reap(command)
        if code is not None:
            return code
        ready, _, _ = select.select([control, wake_up], [], [])
        if wake_up in ready:
            os.read(wake_up, 4096)
        if control in ready:
            if os.read(control, 1) != b"T":
                return None
            with suppress(OSError):
                os.killpg(command, signal.SIGTERM)


def _reap(command: int) -> int | None:
    """Collect children that have ended. Return the exit code of the command if it is among them."""
    code = None
    with suppress(ChildProcessError):
        while True:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                break
            if process == command:
                code = os.waitstatus_to_exitcode(status)
    return code


def _kill_all(command: int) -> None:
    """Kill the process group of the command and all descendants."""
    until = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < until:
        with suppress(OSError):
            os.killpg(command, signal.SIGKILL)
        for process in _children():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _children() -> list[int]:
    """Return the children of this process; none if the system does not list them."""
    supervisor = str(os.getpid())
    children = []
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdecimal():
                with suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    if file.read().rpartition(b")")[2].split()[1].decode() == supervisor:
                        children.append(int(name))
    return children


def _count_threads_of_user() -> int:
    count, user = 0, os.getuid()
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdecimal():
                with suppress(OSError):
                    folder = f"/proc/{name}/task"
                    if os.stat(folder).st_uid == user:  # noqa: PTH116
                        count += len(os.listdir(folder))  # noqa: PTH208
    return count


def _prctl(option: int) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, 1, 0, 0, 0)


def _write(report: int, line: str) -> None:
    with suppress(OSError):
        os.write(report, line.encode() + b"\n")


if __name__ == "__main__":
    main()
