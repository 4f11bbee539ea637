"""`python`: call a function of an allowed module in a separate process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from noetl.executor.actions._process import Command, CompletedCommand, build_environment, run_command
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import encode_json, read_json
from noetl.executor.security.redaction import redacted_head, redacted_tail
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.diagnostics.wording import abbreviate

MAX_RESULT = 64 * 1024 * 1024
"""Limit of the result, in bytes of JSON."""


def _check_function(function: str) -> str | None:
    module, colon, name = function.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return "write `package.module:name`"
    return f"`{name}` is private to its module" if name.startswith("_") else None


DECLARATION = ActionDeclaration(
    type="python",
    description="Calls a function of an allowed module. Its result is the result of the function.",
    parameters={
        "function": Parameter(
            (Kind.STRING,),
            "The function, as `package.module:name`.",
            required=True,
            rejection_reason=_check_function,
        ),
        "args": Parameter(
            (Kind.OBJECT, Kind.ARRAY),
            "The arguments: an object by name, or a list by position.",
            secrets=True,
        ),
    },
    summary=lambda parameters: str(parameters.get("function", "")),
    idempotent=False,
)

_CHILD = Path(__file__).with_name("_python_child.py")
_MAX_DETAIL_LENGTH = 4096
"""Limit of the characters of stderr and of the traceback that an error keeps."""


def perform(call: Call) -> Any:
    module, name = _allowed_function(call)
    try:
        request = encode_json(
            {
                "module": module,
                "name": name,
                "args": call.parameters.get("args", {}),
                "folder": str(call.capabilities.folder) if call.capabilities.folder else None,
                "modules": call.capabilities.python_modules,
            }
        )
    except ValueError as error:
        raise ActionError("ParameterError", f"`args`: {error}", retryable=False) from None
    # Without -P the folder of the script would precede the standard library in the search path.
    argv = [sys.executable, "-P", str(_CHILD)]
    environment = build_environment(call, {})
    command = Command(argv, environment, call.capabilities.folder, request, max_result=MAX_RESULT)
    completed = run_command(command, call)
    call.keep_output("stdout", completed.stdout.decode("utf-8", "replace"))
    call.keep_output("stderr", completed.stderr.decode("utf-8", "replace"))
    return _result(completed)


def _allowed_function(call: Call) -> tuple[str, str]:
    module, _, function = call.parameters["function"].partition(":")
    allowed = call.capabilities.python_modules
    if "*" not in allowed and not any(module == name or module.startswith(f"{name}.") for name in allowed):
        message = (
            f"the module `{abbreviate(module)}` is disabled: add it to NOETL_PYTHON_MODULES to enable it"
        )
        raise ActionError("ActionDisabled", message, retryable=False)
    return module, function


def _result(completed: CompletedCommand) -> Any:
    """Return the result in the response of the child process, or raise its error."""
    stderr = redacted_tail(completed.stderr.decode("utf-8", "replace"), _MAX_DETAIL_LENGTH)
    try:
        response = json.loads(completed.result)
    except ValueError:
        details = {"exit_code": completed.exit_code, "stderr": stderr}
        message = f"the process ended without a response (exit code {completed.exit_code})"
        raise ActionError("FunctionFailed", message, details=details) from None
    match response:
        case {"result": str(text)}:
            try:
                return read_json(text)
            except ValueError as error:
                raise _not_json(str(error)) from None
        case {"forbidden": str(reason)}:
            raise ActionError("ActionDisabled", reason, retryable=False)
        case {"invalid_call": str(reason)}:
            raise ActionError("ParameterError", reason, retryable=False)
        case {"not_json": str(reason)}:
            raise _not_json(reason)
    type_, message = response["type"], response["message"]
    trace = redacted_tail(response["traceback"], _MAX_DETAIL_LENGTH)
    details = {"type": type_, "message": message, "traceback": trace, "stderr": stderr}
    place = f" ({response['place']})" if response["place"] else ""
    shown = redacted_head(f"{type_}: {message}", 500) + redacted_head(place, 500)
    raise ActionError("FunctionFailed", shown, details={**details, "place": response["place"]})


def _not_json(reason: str) -> ActionError:
    return ActionError("FunctionFailed", f"the result is not JSON: {reason}", retryable=False)
