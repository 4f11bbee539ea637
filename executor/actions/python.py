"""`python`: a function of an allow-listed module, in a process of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from noetl.executor.actions import _process
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import read_json, write_json
from noetl.executor.security.redaction import head, tail
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

MAX_RESULT = 64 * 1024 * 1024


def _is_no_function(function: str) -> str | None:
    module, colon, name = function.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        return "write `package.module:name`"
    return f"`{name}` is private to its module" if name.startswith("_") else None


DECLARATION = ActionDeclaration(
    type="python",
    description="Calls a function of an allow-listed module. Its result is what the function returns.",
    parameters={
        "function": Parameter(
            (Kind.STRING,), "Which: `package.module:name`.", required=True, refuses=_is_no_function
        ),
        "args": Parameter(
            (Kind.OBJECT, Kind.ARRAY), "Its arguments: by name, or a list of them in order.", secrets=True
        ),
    },
    idempotent=False,
)

_CHILD = Path(__file__).with_name("_python_child.py")
_TAIL = 4096


def perform(call: Call) -> Any:
    module, name = _function(call)
    try:
        request = write_json(
            {
                "module": module,
                "name": name,
                "args": call.parameters.get("args", {}),
                "folder": str(call.capabilities.folder) if call.capabilities.folder else None,
                "modules": call.capabilities.python_modules,
            }
        ).encode()
    except ValueError as error:
        raise ActionError("ParameterError", f"`args`: {error}", retryable=False) from None
    done = _process.run(
        # Without -P the folder of the script would come before the standard library.
        [sys.executable, "-P", str(_CHILD)],
        call,
        stdin=request,
        env=_process.environment(call, {}),
        cwd=call.capabilities.folder,
        result_limit=MAX_RESULT,
    )
    return _answer(done)


def _function(call: Call) -> tuple[str, str]:
    module, _, name = call.parameters["function"].partition(":")
    allowed = call.capabilities.python_modules
    if "*" not in allowed and not any(module == known or module.startswith(f"{known}.") for known in allowed):
        message = f"the module `{module}` is off here: NOETL_PYTHON_MODULES lists those that may be called"
        raise ActionError("ActionDisabled", message, retryable=False)
    return module, name


def _answer(done: _process.Finished) -> Any:
    stderr = tail(done.stderr.decode("utf-8", "replace"), _TAIL)
    try:
        answer = json.loads(done.result)
    except ValueError:
        details = {"exit_code": done.exit_code, "stderr": stderr}
        message = f"the process ended without an answer (exit code {done.exit_code})"
        raise ActionError("FunctionFailed", message, details=details) from None
    match answer:
        case {"result": str(text)}:
            try:
                return read_json(text)
            except ValueError as error:
                raise ActionError(
                    "FunctionFailed", f"the result is not plain data: {error}", retryable=False
                ) from None
        case {"refused": str(reason)}:
            raise ActionError("ActionDisabled", reason, retryable=False)
        case {"missing": str(reason)}:
            raise ActionError("ParameterError", reason, retryable=False)
        case {"not_plain": str(reason)}:
            raise ActionError("FunctionFailed", f"the result is not plain data: {reason}", retryable=False)
    trace = tail(answer["traceback"], _TAIL)
    details = {"type": answer["type"], "message": answer["message"], "traceback": trace, "stderr": stderr}
    raise ActionError("FunctionFailed", head(f"{answer['type']}: {answer['message']}", 500), details=details)
