"""`shell`: one command, by `/bin/sh` or as a list of arguments."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from noetl.executor.actions import _process
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import read_json, text_of
from noetl.executor.security.redaction import head, tail
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink


def _is_no_command(command: str | list[Any]) -> str | None:
    words = [command] if isinstance(command, str) else [text_of(word) for word in command]
    if not any(word.strip() for word in words[:1]):
        return "name what is to be run"
    return "a command has no NUL in it" if any("\0" in word for word in words) else None


_DONE = {"exit_code": Kind.INTEGER, "stdout": Kind.STRING, "stderr": Kind.STRING}

DECLARATION = ActionDeclaration(
    type="shell",
    description="Runs one command. An exit code other than 0 fails.",
    parameters={
        "command": Parameter(
            (Kind.STRING, Kind.ARRAY),
            "Text for `/bin/sh`, or a list that is run without a shell.",
            required=True,
            sink=Sink.SHELL,
            refuses=_is_no_command,
        ),
        "env": Parameter((Kind.OBJECT,), "Variables added to its environment.", secrets=True),
        "cwd": Parameter((Kind.STRING,), "Where it runs, from the working folder on."),
        "stdin": Parameter((Kind.ANY,), "What it reads: text as it is, other values as JSON.", secrets=True),
        "parse": Parameter(
            (Kind.STRING,), "What its output is, for `data` in the result.", choices=("json", "lines")
        ),
    },
    result={**_DONE, "data": Kind.ANY},
    result_of=lambda parameters: {**_DONE, "data": Kind.ANY} if "parse" in parameters else _DONE,
    idempotent=False,
)

_TAIL = 4096


def perform(call: Call) -> dict[str, Any]:
    if not call.capabilities.shell:
        message = "`shell` is off here: NOETL_ALLOW_SHELL=1 turns it on"
        raise ActionError("ActionDisabled", message, retryable=False)
    command = call.parameters["command"]
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [text_of(word) for word in command]
    cwd = _folder(call)
    env = _process.environment(call, call.parameters.get("env", {}))
    stdin = text_of(call.parameters.get("stdin")).encode("utf-8", "replace")
    try:
        done = _process.run(argv, call, stdin=stdin, env=env, cwd=cwd)
    except OSError as error:
        details = {"exit_code": 127, "stdout": "", "stderr": ""}
        message = f"`{argv[0]}` cannot be run: {(error.strerror or str(error)).lower()}"
        raise ActionError("CommandFailed", message, retryable=False, details=details) from None
    return _result(call, done)


def _folder(call: Call) -> Path | None:
    folder = Path(call.capabilities.folder or ".", call.parameters.get("cwd", "."))
    if not folder.is_dir():
        raise ActionError("ParameterError", f"`cwd`: `{folder}` is not a folder", retryable=False)
    return folder


def _result(call: Call, done: _process.Finished) -> dict[str, Any]:
    stdout = done.stdout.decode("utf-8", "replace")
    stderr = done.stderr.decode("utf-8", "replace")
    details = {"exit_code": done.exit_code, "stdout": tail(stdout, _TAIL), "stderr": tail(stderr, _TAIL)}
    if done.exit_code != 0:
        said = stderr.strip().rpartition("\n")[2] or stdout.strip().rpartition("\n")[2]
        message = f"{_ending(done.exit_code)}: {said}" if said else _ending(done.exit_code)
        raise ActionError("CommandFailed", head(message, 500), details=details)
    result: dict[str, Any] = {"exit_code": done.exit_code, "stdout": stdout, "stderr": stderr}
    match call.parameters.get("parse"):
        case "lines":
            result["data"] = stdout.splitlines()
        case "json":
            try:
                result["data"] = read_json(stdout)
            except ValueError as error:
                raise ActionError(
                    "CommandFailed", f"its output is not JSON: {error}", details=details
                ) from None
    return result


def _ending(exit_code: int) -> str:
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"
