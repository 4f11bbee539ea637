"""Commands that end when they must: each in a process group of its own, which does not outlive it."""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.json_values import text_of
from noetl.executor.security.secret_sources import hand_over

MAX_OUTPUT = 1024 * 1024
"""The most a command may print on each stream, in bytes."""

_GRACE_SECONDS = 2.0
_LINGER_SECONDS = 0.5
_FEW = ("PATH", "HOME", "TMPDIR", "LANG")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended by itself. A negative exit code is the signal that ended it. `result` came on its own pipe."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    result: bytes = b""


def environment(call: Call, added: Mapping[str, object]) -> dict[str, str]:
    """The caller's whole environment or the few names of it that any command needs, and what is added. Secrets in it are
    scrubbed from now on.

    Raises:
        ActionError: `ParameterError`, for what cannot be a variable.
    """
    inherits = call.capabilities.inherit_environment
    variables = (
        dict(os.environ) if inherits else {name: os.environ[name] for name in _FEW if name in os.environ}
    )
    for name, value in added.items():
        text = text_of(value)
        if not name or "=" in name or "\0" in name + text:
            raise ActionError("ParameterError", f"`env`: {name!r} cannot be a variable", retryable=False)
        variables[name] = text
    hand_over(variables)
    return variables


def run(
    argv: Sequence[str],
    call: Call,
    *,
    stdin: bytes,
    env: Mapping[str, str],
    cwd: Path | None,
    result_limit: int | None = None,
) -> Finished:
    """Run a command to its end. With `result_limit` it also has a pipe, whose number is the last argument.

    When it ends, whatever it left running in its group is killed. When it is out of time or the run is cancelled, the
    group is asked to end, and killed two seconds later.

    Raises:
        OSError: it cannot be started.
        ActionError: `Timeout`, or `LimitExceeded` when it prints more than 1 MiB on a stream.
        CancelledError: the run was cancelled.
    """
    call.remaining_seconds()
    limits = {"stdout": MAX_OUTPUT, "stderr": MAX_OUTPUT}
    pipe: tuple[int, int] | None = None
    if result_limit is not None:
        pipe = os.pipe()
        argv = [*argv, str(pipe[1])]
        limits["result"] = result_limit
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=(pipe[1],) if pipe else (),
        )
    except BaseException:
        if pipe:
            os.close(pipe[0])
        raise
    finally:
        if pipe:
            os.close(pipe[1])
    group = _Group(process)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        sources = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr"}
        if pipe:
            sources[pipe[0]] = "result"
        output = _exchange(group, call, process.stdin, stdin, sources, limits)
    except ActionError as error:
        group.end(_GRACE_SECONDS if error.type == "Timeout" else 0)
        raise
    except CancelledError:
        group.end(_GRACE_SECONDS)
        raise
    finally:
        group.end(0)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with suppress(OSError):
                    stream.close()
        if pipe:
            os.close(pipe[0])
    return Finished(process.returncode, **{name: bytes(data) for name, data in output.items()})


_running: set[_Group] = set()


@atexit.register
def end_all() -> None:
    """Afterwards no command that this process has started runs any more: none outlives an interruption."""
    groups = list(_running)
    for group in groups:
        group.ask()
    for group in groups:
        group.end(_GRACE_SECONDS)


class _Group:
    """A process and all that it starts."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        _running.add(self)
        self._has_ended = threading.Event()
        self._ended_at = 0.0
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{process.pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        # Not reaped yet, the leader keeps the number of the group from being given to anybody else.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._ended_at = time.monotonic()
        self._has_ended.set()
        self._signal(signal.SIGKILL)
        self._process.wait()
        _running.discard(self)

    @property
    def is_long_gone(self) -> bool:
        """Whether its pipes should be closed by now, and are held open by something that left the group."""
        return self._has_ended.is_set() and time.monotonic() - self._ended_at > _LINGER_SECONDS

    def wait(self, seconds: float) -> bool:
        """Whether it ended within that time."""
        return self._has_ended.wait(seconds)

    def ask(self) -> None:
        """Ask it to end, and do not wait for that."""
        if not self._has_ended.is_set():
            self._signal(signal.SIGTERM)

    def end(self, grace_seconds: float) -> None:
        """Afterwards nothing of the group runs."""
        if grace_seconds and not self._has_ended.is_set():
            self._signal(signal.SIGTERM)
            self._has_ended.wait(grace_seconds)
        if not self._has_ended.is_set():
            self._signal(signal.SIGKILL)
        self._watcher.join()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _exchange(
    group: _Group,
    call: Call,
    stdin: IO[bytes],
    sent: bytes,
    sources: Mapping[int, str],
    limits: Mapping[str, int],
) -> dict[str, bytearray]:
    """Feed and drain all pipes until the command has ended and they are closed."""
    output = {name: bytearray() for name in sources.values()}
    unsent = memoryview(sent)
    with selectors.DefaultSelector() as selector:
        for source in sources:
            selector.register(source, selectors.EVENT_READ)
        os.set_blocking(stdin.fileno(), False)
        selector.register(stdin, selectors.EVENT_WRITE)
        while selector.get_map() and not group.is_long_gone:
            for key, _ in selector.select(min(call.remaining_seconds(), 0.1)):
                if key.fileobj is stdin:
                    unsent = _write(key.fd, unsent)
                    if not unsent:
                        selector.unregister(stdin)
                        stdin.close()
                elif data := os.read(key.fd, 64 * 1024):
                    name = sources[key.fd]
                    output[name] += data
                    if len(output[name]) > limits[name]:
                        message = f"its {name} is longer than {limits[name]:,} bytes"
                        raise ActionError("LimitExceeded", message, retryable=False)
                else:
                    selector.unregister(key.fd)
    while not group.wait(min(call.remaining_seconds(), 0.1)):
        pass
    return output


def _write(stdin: int, data: memoryview) -> memoryview:
    try:
        return data[os.write(stdin, data[: 64 * 1024]) :] if data else data
    except BrokenPipeError:
        return data[:0]
    except BlockingIOError:
        return data
