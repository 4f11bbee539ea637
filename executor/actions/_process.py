"""Commands of actions: each runs in its own process group, and nothing of the group outlives the action.

Problem: a command may start further processes, ignore signals, write without end, or keep pipes open. The
action must still end by its deadline.

Algorithm: the command leads a new session, and so a new process group (POSIX `setsid`). The caller reads and
writes all pipes without blocking. A watcher thread waits for the leader without reaping it, so that the
number of the group is not reused. Then it kills the group. Source: POSIX.1-2017, `setsid`, `kill`, `waitid`.

Cost: one thread for each running command.

Limits: a process that leaves the group survives. Its pipes are abandoned half a second after the command
ends.
"""

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
from dataclasses import dataclass, field
from pathlib import Path

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.json_values import to_text
from noetl.executor.security.secret_sources import register_secret_variables

MAX_OUTPUT = 1024 * 1024
"""Limit of the output of a command on each stream, in bytes."""

_GRACE_SECONDS = 2.0
"""Time between SIGTERM and SIGKILL."""

_LINGER_SECONDS = 0.5
"""Time after the end of a command until its open pipes are abandoned."""

_POLL_SECONDS = 0.1
_CHUNK_BYTES = 64 * 1024
_INHERITED_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG")


@dataclass(frozen=True, slots=True)
class Command:
    """A command to run.

    With `max_result` (bytes) the command gets a result pipe, whose number is its last argument.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None
    stdin: bytes
    max_result: int | None = None


@dataclass(frozen=True, slots=True)
class CompletedCommand:
    """A command that ended by itself. A negative exit code is the number of the signal that killed it.

    `result` is what it wrote to its result pipe.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    result: bytes = b""


def build_environment(call: Call, added: Mapping[str, object]) -> dict[str, str]:
    """Return the environment variables of a command: inherited ones and `added`.

    The capabilities decide whether the whole environment is inherited, or only the variables that every
    command needs. Secrets among the variables are redacted from now on.

    Raises:
        ActionError: `ParameterError`, if a variable is invalid.
    """
    is_inherited = call.capabilities.inherit_environment
    names = os.environ if is_inherited else [name for name in _INHERITED_VARIABLES if name in os.environ]
    variables = {name: os.environ[name] for name in names}
    for name, value in added.items():
        text = to_text(value)
        if not name or "=" in name or "\0" in name + text:
            raise ActionError("ParameterError", f"`env`: {name!r} is not a valid variable", retryable=False)
        variables[name] = text
    register_secret_variables(variables)
    return variables


def run_command(command: Command, call: Call) -> CompletedCommand:
    """Run a command until it ends, and kill the rest of its process group.

    If the deadline passes or the run is cancelled, the group gets SIGTERM, and SIGKILL two seconds later.

    Raises:
        OSError: the command cannot be started.
        ActionError: `Timeout`; `LimitExceeded` if the output on a stream is too long.
        CancelledError: the run was cancelled.
    """
    call.remaining_seconds()
    process, result_pipe = _start(command)
    group = _ProcessGroup(process)
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = {
        process.stdout.fileno(): _OutputStream("stdout", MAX_OUTPUT),
        process.stderr.fileno(): _OutputStream("stderr", MAX_OUTPUT),
    }
    if result_pipe is not None and command.max_result is not None:
        outputs[result_pipe] = _OutputStream("result", command.max_result)
    try:
        _exchange(process, group, call, command.stdin, outputs)
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
        if result_pipe is not None:
            os.close(result_pipe)
    return CompletedCommand(
        process.returncode, **{output.name: bytes(output.data) for output in outputs.values()}
    )


_running: set[_ProcessGroup] = set()


@atexit.register
def end_all_commands() -> None:
    """End every command that this process started, so that none survives an interruption."""
    groups = list(_running)
    for group in groups:
        group.request_end()
    for group in groups:
        group.end(_GRACE_SECONDS)


class _ProcessGroup:
    """A command and the processes that it starts."""

    def __init__(self, leader: subprocess.Popen[bytes]) -> None:
        self._leader = leader
        _running.add(self)
        self._has_ended = threading.Event()
        self._ended_at = 0.0
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{leader.pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        # Until the leader is reaped, the system does not reuse the number of the group.
        os.waitid(os.P_PID, self._leader.pid, os.WEXITED | os.WNOWAIT)
        self._ended_at = time.monotonic()
        self._has_ended.set()
        self._send(signal.SIGKILL)
        self._leader.wait()
        _running.discard(self)

    @property
    def has_lingering_pipes(self) -> bool:
        """True some time after the end of the command: a process that left the group holds the open pipes."""
        return self._has_ended.is_set() and time.monotonic() - self._ended_at > _LINGER_SECONDS

    def wait(self, seconds: float) -> bool:
        """Wait for the command to end, and return whether it did."""
        return self._has_ended.wait(seconds)

    def request_end(self) -> None:
        """Send SIGTERM unless the command has ended. Do not wait."""
        if not self._has_ended.is_set():
            self._send(signal.SIGTERM)

    def end(self, grace_seconds: float) -> None:
        """End all processes of the group. Wait until none is left."""
        if grace_seconds and not self._has_ended.is_set():
            self._send(signal.SIGTERM)
            self._has_ended.wait(grace_seconds)
        if not self._has_ended.is_set():
            self._send(signal.SIGKILL)
        self._watcher.join()

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader.pid, number)


@dataclass(slots=True)
class _OutputStream:
    """The output of a command on one stream, and its limit in bytes."""

    name: str
    limit: int
    data: bytearray = field(default_factory=bytearray)

    def append(self, chunk: bytes) -> None:
        self.data += chunk
        if len(self.data) > self.limit:
            message = f"{self.name} is longer than {self.limit:,} bytes"
            raise ActionError("LimitExceeded", message, retryable=False)


def _start(command: Command) -> tuple[subprocess.Popen[bytes], int | None]:
    """Start a command. Return its process and the read end of its result pipe."""
    if command.max_result is None:
        return _start_process(command, command.argv, ()), None
    read_end, write_end = os.pipe()
    try:
        return _start_process(command, [*command.argv, str(write_end)], (write_end,)), read_end
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)


def _start_process(
    command: Command, argv: Sequence[str], inherited_files: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=command.env,
        cwd=command.cwd,
        start_new_session=True,
        pass_fds=inherited_files,
    )


def _exchange(
    process: subprocess.Popen[bytes],
    group: _ProcessGroup,
    call: Call,
    data: bytes,
    outputs: Mapping[int, _OutputStream],
) -> None:
    """Write `data` to stdin and read all outputs, until the command has ended and its pipes are closed."""
    stdin = process.stdin
    assert stdin is not None
    unsent = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        os.set_blocking(stdin.fileno(), False)
        selector.register(stdin, selectors.EVENT_WRITE)
        while selector.get_map() and not group.has_lingering_pipes:
            for key, _ in selector.select(min(call.remaining_seconds(), _POLL_SECONDS)):
                if key.fileobj is stdin:
                    unsent = _write(key.fd, unsent)
                    if not unsent:
                        selector.unregister(stdin)
                        stdin.close()
                elif chunk := os.read(key.fd, _CHUNK_BYTES):
                    outputs[key.fd].append(chunk)
                else:
                    selector.unregister(key.fd)
    while not group.wait(min(call.remaining_seconds(), _POLL_SECONDS)):
        pass


def _write(descriptor: int, data: memoryview) -> memoryview:
    """Write a part of `data` without blocking. Return the rest; nothing if the reader closed the pipe."""
    try:
        return data[os.write(descriptor, data[:_CHUNK_BYTES]) :] if data else data
    except BrokenPipeError:
        return data[:0]
    except BlockingIOError:
        return data
