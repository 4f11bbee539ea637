"""Commands of actions: each has a supervisor process, and nothing of the command outlives the action.

Problem: a command may start further processes, ignore signals, write without end, or keep pipes open. The
action must still end by its deadline.

Algorithm: a supervisor process (`_supervisor.py`) starts the command with its limits, and kills all of its
descendants at the end. The caller reads and writes all pipes without blocking. A pipe tells the supervisor
what to do, and its end, also if this process dies, tells it to kill everything. Source: POSIX.1-2017,
`setsid`, `kill`; prctl(2), PR_SET_CHILD_SUBREAPER.

Cost: one thread for each running command, and the start of the supervisor (about 20 ms).

Limits: as those of the supervisor. The pipes of a process that survives are abandoned half a second after the
command ends.
"""

from __future__ import annotations

import atexit
import errno
import json
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from noetl.executor.actions._orphans import START_LOCK, adopt_orphans, kill_orphans, read_start
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.model.arriving_data import ArrivingData
from noetl.executor.model.json_length import TooLongError
from noetl.executor.model.json_values import MAX_ARGUMENT, to_text
from noetl.executor.security.process_privacy import hide_process
from noetl.executor.security.redaction import redacted_head
from noetl.executor.security.secret_sources import register_secret_variables
from noetl.planner.diagnostics.wording import quote_text

MAX_OUTPUT = 1024 * 1024
"""Limit of the output of a command on each stream, in bytes."""

MAX_KEPT_OUTPUT = 4096
"""Limit of the characters of each stream that an error keeps."""

_MAX_ARGUMENTS = 6 * 1024 * 1024
"""Limit of the characters of all arguments and variables. Linux limits their bytes to as many or fewer."""

_DRAIN_SECONDS = 1.0
"""How long a command may still run after its output has become too long, so that its exit code is known."""

_GRACE_SECONDS = 2.0
"""Time between SIGTERM and SIGKILL."""

END_SECONDS = _GRACE_SECONDS + 1.0
"""How long a command may still run after its work was cancelled."""

_LINGER_SECONDS = 0.5
"""Time after the end of a command until its open pipes are abandoned."""

_POLL_SECONDS = 0.1
_CHUNK_BYTES = 64 * 1024
_SUPERVISOR = Path(__file__).with_name("_supervisor.py")
_SUPERVISOR_VARIABLES = ("LD_LIBRARY_PATH", "PATH")
_SUPERVISOR_SECONDS = 10.0
"""How long a supervisor may take to kill everything before it is killed itself."""

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
    inherited = {name: os.environ[name] for name in names}
    variables: dict[str, str] = {}
    for name, value in added.items():
        try:
            text = to_text(value, MAX_ARGUMENT)
        except TooLongError:
            message = f"`env`: {quote_text(name)} is longer than {MAX_ARGUMENT:,} characters"
            raise ActionError("ParameterError", message, retryable=False) from None
        if not name or "=" in name or "\0" in name + text:
            message = f"`env`: {quote_text(name)} is not a valid variable"
            raise ActionError("ParameterError", message, retryable=False)
        variables[name] = text
    register_secret_variables(inherited)
    register_secret_variables(variables, call.tenant)
    return inherited | variables


def run_command(command: Command, call: Call) -> CompletedCommand:
    """Run a command until it ends, and kill all processes that it has started.

    If the deadline passes or the run is cancelled, the command gets SIGTERM, and SIGKILL two seconds later.

    Raises:
        OSError: the command cannot be started.
        ActionError: `Timeout`; `LimitExceeded` if the output on a stream is too long, with its beginning.
        CancelledError: the run was cancelled.
    """
    call.remaining_seconds()
    if not call.capabilities.inherit_environment:
        hide_process()
    with call.receive() as arriving:
        return _run_counted(command, call, arriving)


def _run_counted(command: Command, call: Call, arriving: ArrivingData) -> CompletedCommand:
    """Run a command whose outputs are counted as arriving data."""
    group, result_pipe = _start(command, call)
    process = group.process
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = {
        process.stdout.fileno(): _OutputStream("stdout", MAX_OUTPUT, arriving),
        process.stderr.fileno(): _OutputStream("stderr", MAX_OUTPUT, arriving),
    }
    if result_pipe is not None and command.max_result is not None:
        outputs[result_pipe] = _OutputStream("result", command.max_result, arriving)
    has_ended = False
    try:
        group.wait_for_start(call)
        has_ended = _exchange(process, group, call, command.stdin, outputs)
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
    for output in outputs.values():
        if output.is_cut:
            raise _too_long(output, outputs.values(), group.exit_code if has_ended else None)
    return CompletedCommand(
        group.exit_code, **{output.name: bytes(output.data) for output in outputs.values()}
    )


def _too_long(cut: _OutputStream, outputs: Iterable[_OutputStream], exit_code: int | None) -> ActionError:
    """Return the failure of a command with too much output. It keeps the beginning of each stream."""
    end = "it was ended" if exit_code is None else f"its exit code was {exit_code}"
    beginnings = {
        output.name: redacted_head(output.data.decode("utf-8", "replace"), MAX_KEPT_OUTPUT)
        for output in outputs
        if output.name != "result"
    }
    return ActionError(
        "LimitExceeded",
        f"{cut.name} is longer than {cut.limit:,} bytes; {end}",
        retryable=False,
        details={"exit_code": exit_code, **beginnings},
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


def is_any_running() -> bool:
    """Return whether a command of this process runs."""
    return bool(_running)


def _find_supervisors() -> set[int]:
    return {group.process.pid for group in list(_running)}


class _ProcessGroup:
    """A command with its supervisor `process` and the processes that it starts.

    `control` and `report` are the ends of the pipes to and from the supervisor.
    """

    def __init__(self, process: subprocess.Popen[bytes], control: int, report: int) -> None:
        self.process = process
        self.exit_code = -signal.SIGKILL
        self._control: int | None = control
        self._report = report
        self._leader: int | None = None
        self._failure: int | None = None
        self._lock = threading.Lock()
        _running.add(self)
        self._has_started = threading.Event()
        self._has_ended = threading.Event()
        self._ended_at = 0.0
        self._began_at = read_start(process.pid)
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{process.pid}", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        is_reported = False
        with os.fdopen(self._report, "rb") as lines:
            for line in lines:
                word, _, number = line.partition(b" ")
                if word == b"started":
                    self._leader = int(number)
                elif word == b"failed":
                    self._failure, is_reported = int(number), True
                else:
                    self.exit_code, is_reported = int(number), True
                    self._set_ended()
                self._has_started.set()
        self.process.wait()
        if self._leader is not None and not is_reported:
            # Either this process has asked for the end, or the command has killed its supervisor.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._leader, signal.SIGKILL)
        if self.process.returncode != 0:
            kill_orphans(self._began_at, _find_supervisors)
        self._has_started.set()
        self._set_ended()
        with START_LOCK:
            _running.discard(self)
            adopt_orphans(is_on=bool(_running))

    def _set_ended(self) -> None:
        if not self._has_ended.is_set():
            self._ended_at = time.monotonic()
            self._has_ended.set()

    @property
    def has_lingering_pipes(self) -> bool:
        """True some time after the end of the command: a process that survived holds the open pipes."""
        return self._has_ended.is_set() and time.monotonic() - self._ended_at > _LINGER_SECONDS

    def wait_for_start(self, call: Call) -> None:
        """Wait until the command runs.

        Raises:
            OSError: it cannot be started.
            ActionError: `Timeout`.
            CancelledError: the run was cancelled.
        """
        while not self._has_started.wait(min(call.remaining_seconds(), _POLL_SECONDS)):
            pass
        if self._failure is not None:
            raise OSError(self._failure, os.strerror(self._failure))

    def wait(self, seconds: float) -> bool:
        """Wait for the command to end, and return whether it did."""
        return self._has_ended.wait(seconds)

    def request_end(self) -> None:
        """Ask the supervisor to send SIGTERM to the command. Do not wait."""
        with self._lock, suppress(OSError):
            if self._control is not None:
                os.write(self._control, b"T")

    def end(self, grace_seconds: float) -> None:
        """End all processes of the command. Wait until none is left."""
        if grace_seconds and not self._has_ended.is_set():
            self.request_end()
            self._has_ended.wait(grace_seconds)
        with self._lock:
            if self._control is not None:
                os.close(self._control)
                self._control = None
                # The command may have stopped its supervisor.
                self.process.send_signal(signal.SIGCONT)
        self._watcher.join(_SUPERVISOR_SECONDS)
        if self._watcher.is_alive():
            # The command stops its supervisor again and again.
            self.process.kill()
            self._watcher.join()


@dataclass(slots=True)
class _OutputStream:
    """The output of a command on one stream, and its limit in bytes."""

    name: str
    limit: int
    arriving: ArrivingData
    data: bytearray = field(default_factory=bytearray)
    is_cut: bool = False

    def append(self, chunk: bytes) -> None:
        """Add a chunk. What exceeds the limit is dropped."""
        kept = chunk[: self.limit - len(self.data)]
        self.arriving.keep(2 * len(kept))
        self.data += kept
        self.is_cut |= len(kept) < len(chunk)


def _start(command: Command, call: Call) -> tuple[_ProcessGroup, int | None]:
    """Start the supervisor of a command. Return its group and the read end of the result pipe."""
    limits = call.capabilities.command_limits
    if command.max_result is None:
        return _start_supervisor(command, command.argv, (), limits), None
    read_end, write_end = os.pipe()
    try:
        argv = [*command.argv, str(write_end)]
        return _start_supervisor(command, argv, (write_end,), limits), read_end
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)


def _start_supervisor(
    command: Command,
    argv: Sequence[str],
    inherited_files: tuple[int, ...],
    limits: Sequence[tuple[str, int]],
) -> _ProcessGroup:
    # The kernel would refuse it, after it was written as JSON.
    if sum(map(len, [*argv, *command.env, *command.env.values()])) > _MAX_ARGUMENTS:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    request = json.dumps(
        {
            "argv": list(argv),
            "env": dict(command.env),
            "inherited_files": inherited_files,
            "limits": dict(limits),
        }
    ).encode()
    control_end, control = os.pipe()
    report, report_end = os.pipe()
    try:
        with START_LOCK:
            adopt_orphans(is_on=True)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_SUPERVISOR), str(control_end), str(report_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # The command has its own environment, which could change how an interpreter starts.
                env={name: os.environ[name] for name in _SUPERVISOR_VARIABLES if name in os.environ},
                cwd=command.cwd,
                start_new_session=True,
                pass_fds=(control_end, report_end, *inherited_files),
            )
            group = _ProcessGroup(process, control, report)
    except BaseException:
        os.close(control)
        os.close(report)
        raise
    finally:
        os.close(control_end)
        os.close(report_end)
    unsent = memoryview(b"%010d" % len(request) + request)
    with suppress(BrokenPipeError):
        while unsent:
            unsent = unsent[os.write(control, unsent) :]
    return group


def _exchange(
    process: subprocess.Popen[bytes],
    group: _ProcessGroup,
    call: Call,
    data: bytes,
    outputs: Mapping[int, _OutputStream],
) -> bool:
    """Write `data` to stdin and read all outputs, until the command has ended and its pipes are closed.

    Return whether it has ended. After a stream was too long it has `_DRAIN_SECONDS` for that.
    """
    drain_end = math.inf
    stdin = process.stdin
    assert stdin is not None
    unsent = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        os.set_blocking(stdin.fileno(), False)
        selector.register(stdin, selectors.EVENT_WRITE)
        while selector.get_map() and not group.has_lingering_pipes and time.monotonic() < drain_end:
            for key, _ in selector.select(min(call.remaining_seconds(), _POLL_SECONDS)):
                if key.fileobj is stdin:
                    unsent = _write(key.fd, unsent)
                    if not unsent:
                        selector.unregister(stdin)
                        stdin.close()
                elif chunk := os.read(key.fd, _CHUNK_BYTES):
                    outputs[key.fd].append(chunk)
                    if outputs[key.fd].is_cut:
                        drain_end = min(drain_end, time.monotonic() + _DRAIN_SECONDS)
                else:
                    selector.unregister(key.fd)
    while not group.wait(min(call.remaining_seconds(), _POLL_SECONDS)):
        if time.monotonic() >= drain_end:
            return False
    return True


def _write(descriptor: int, data: memoryview) -> memoryview:
    """Write a part of `data` without blocking. Return the rest; nothing if the reader closed the pipe."""
    try:
        return data[os.write(descriptor, data[:_CHUNK_BYTES]) :] if data else data
    except BrokenPipeError:
        return data[:0]
    except BlockingIOError:
        return data
