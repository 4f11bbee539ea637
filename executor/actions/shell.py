"""`shell`: run a command with `/bin/sh`, or as a list of arguments without a shell."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from noetl.executor.actions._files import MAX_PATH_LENGTH, MAX_SHOWN_PATH
from noetl.executor.actions._process import (
    MAX_KEPT_OUTPUT,
    Command,
    CompletedCommand,
    build_environment,
    run_command,
)
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import MAX_WRITTEN, read_json, to_text, write_json
from noetl.executor.security.redaction import redacted_head, redacted_tail
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.diagnostics.wording import shorten


def _check_command(command: str | list[Any]) -> str | None:
    words = [command] if isinstance(command, str) else [to_text(word) for word in command]
    if not any(word.strip() for word in words[:1]):
        return "name the command to run"
    return "remove the NUL character" if any("\0" in word for word in words) else None


_MEANINGS = {126: ", command not executable", 127: ", command not found"}
"""The exit codes of a shell that did not run the command. Source: POSIX.1-2017, 2.8.2."""

_RESULT = {"exit_code": Kind.INTEGER, "stdout": Kind.STRING, "stderr": Kind.STRING}

DECLARATION = ActionDeclaration(
    type="shell",
    description="Runs one command. It fails if the exit code is not 0.",
    parameters={
        "command": Parameter(
            (Kind.STRING, Kind.ARRAY),
            "Text for `/bin/sh`, or a list of arguments, which is run without a shell.",
            required=True,
            sink=Sink.SHELL,
            rejection_reason=_check_command,
        ),
        "env": Parameter((Kind.OBJECT,), "Additional environment variables.", secrets=True),
        "cwd": Parameter((Kind.STRING,), "The folder in which it runs, relative to the working folder."),
        "stdin": Parameter(
            (Kind.ANY,), "The input of the command: text unchanged, other values as JSON.", secrets=True
        ),
        "parse": Parameter(
            (Kind.STRING,), "The format of its output, for `data` in the result.", choices=("json", "lines")
        ),
    },
    result={**_RESULT, "data": Kind.ANY},
    result_for=lambda parameters: {**_RESULT, "data": Kind.ANY} if "parse" in parameters else _RESULT,
    idempotent=False,
)


def perform(call: Call) -> dict[str, Any]:
    if not call.capabilities.shell:
        message = "`shell` is disabled: set NOETL_ALLOW_SHELL=1 to enable it"
        raise ActionError("ActionDisabled", message, retryable=False)
    command = call.parameters["command"]
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [to_text(word) for word in command]
    cwd = _working_folder(call)
    env = build_environment(call, call.parameters.get("env", {}))
    stdin = _to_stdin(call.parameters.get("stdin"))
    try:
        completed = run_command(Command(argv, env, cwd, stdin), call)
    except OSError as error:
        details = {"exit_code": 127, "stdout": "", "stderr": ""}
        message = f"cannot run `{shorten(argv[0], MAX_SHOWN_PATH)}`: {(error.strerror or str(error)).lower()}"
        raise ActionError("CommandFailed", message, retryable=False, details=details) from None
    return _result(call, completed)


def _to_stdin(value: Any) -> bytes:
    if isinstance(value, str | None):
        return to_text(value).encode("utf-8", "replace")
    try:
        return write_json(value, MAX_WRITTEN).encode("utf-8", "replace")
    except ValueError as error:
        raise ActionError("ParameterError", f"`stdin`: {error}", retryable=False) from None


def _working_folder(call: Call) -> Path | None:
    cwd = call.parameters.get("cwd", ".")
    folder = Path(call.capabilities.folder or ".", cwd[:MAX_PATH_LENGTH])
    try:
        is_folder = len(cwd) <= MAX_PATH_LENGTH and folder.is_dir()
    except OSError:
        is_folder = False
    if not is_folder:
        message = f"`cwd`: `{shorten(str(folder), MAX_SHOWN_PATH)}` is not a folder"
        raise ActionError("ParameterError", message, retryable=False)
    return folder


def _result(call: Call, completed: CompletedCommand) -> dict[str, Any]:
    stdout = completed.stdout.decode("utf-8", "replace")
    stderr = completed.stderr.decode("utf-8", "replace")
    call.keep_output("stdout", stdout)
    call.keep_output("stderr", stderr)
    exit_code = completed.exit_code
    details = {
        "exit_code": exit_code,
        "stdout": redacted_tail(stdout, MAX_KEPT_OUTPUT),
        "stderr": redacted_tail(stderr, MAX_KEPT_OUTPUT),
    }
    if exit_code != 0:
        last_line = stderr.strip().rpartition("\n")[2] or stdout.strip().rpartition("\n")[2]
        message = f"{_describe_end(exit_code)}: {last_line}" if last_line else _describe_end(exit_code)
        raise ActionError("CommandFailed", redacted_head(message, 500), details=details)
    result: dict[str, Any] = {"exit_code": exit_code, "stdout": stdout, "stderr": stderr}
    match call.parameters.get("parse"):
        case "lines":
            result["data"] = stdout.splitlines()
        case "json":
            try:
                result["data"] = read_json(stdout)
            except ValueError as error:
                raise ActionError("CommandFailed", f"stdout is not JSON: {error}", details=details) from None
    return result


def _describe_end(exit_code: int) -> str:
    """Return how a command ended.

    >>> _describe_end(3), _describe_end(127), _describe_end(-9)
    ('exit code 3', 'exit code 127, command not found', 'killed by SIGKILL')
    """
    if exit_code >= 0:
        return f"exit code {exit_code}{_MEANINGS.get(exit_code, '')}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
