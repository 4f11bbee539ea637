"""Child process of the action `python`: reads a request from stdin and writes a response to its result pipe.

The number of the pipe is the argument. The script runs in a new interpreter. It imports nothing of `noetl`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import site
import sys
import traceback
from collections.abc import Sequence
from typing import Any


def respond(request: dict[str, Any]) -> dict[str, Any]:
    """Call the function of a request.

    Return one of:

    - `result`: the result of the function, as JSON text
    - `invalid_call`: why the function cannot be called like this
    - `forbidden`: why the function may not be called
    - `not_json`: why the result is not JSON
    - `type`, `message`, `place` and `traceback` of an exception
    """
    if request["folder"]:
        sys.path.insert(0, request["folder"])
    module, name = request["module"], request["name"]
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            return {"invalid_call": f"unknown module `{module}`"}
        return describe_exception(error)
    except BaseException as error:  # noqa: BLE001  A module that calls `sys.exit` fails, too.
        return describe_exception(error)
    if not callable(function):
        return {"invalid_call": f"unknown function `{name}` in module `{module}`"}
    origin = getattr(function, "__module__", None) or ""
    if not is_allowed(origin, request["modules"]):
        reason = f"`{module}:{name}` is defined in `{origin}`, which is missing in NOETL_PYTHON_MODULES"
        return {"forbidden": reason}
    return call_function(function, request["args"])


def is_allowed(module: str, allowed_modules: Sequence[str]) -> bool:
    """Return whether a module is allowed or lies in an allowed package.

    >>> is_allowed("lib.orders", ["lib"]), is_allowed("library", ["lib"]), is_allowed("os", ["*"])
    (True, False, True)
    """
    return "*" in allowed_modules or any(
        module == allowed or module.startswith(f"{allowed}.") for allowed in allowed_modules
    )


def call_function(function: Any, args: Any) -> dict[str, Any]:
    """Call a function with the arguments of a request, and return the response."""
    positional, named = ((), args) if isinstance(args, dict) else (args, {})
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        return {"invalid_call": f"`args` do not match the signature: {error}"}
    except ValueError:
        pass  # Some built-in functions have no signature.
    try:
        result = function(*positional, **named)
    except BaseException as error:  # noqa: BLE001  As above.
        return describe_exception(error)
    try:
        return {"result": json.dumps(result, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        return {"not_json": str(error)}


def describe_exception(error: BaseException) -> dict[str, Any]:
    """Return the response for an exception."""
    trace = "".join(traceback.format_exception(error))
    message, place = error.msg if isinstance(error, SyntaxError) else str(error), find_place(error)
    return {"type": type(error).__name__, "message": message, "place": place, "traceback": trace}


def find_place(error: BaseException) -> str | None:
    """Return the file and the line in the code of the user where an exception was raised.

    A library may have raised it. Then this is the line that called the library.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{shorten(error.filename)}:{error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_of_user(frame.filename)]
    return f"{shorten(frames[-1].filename)}:{frames[-1].lineno}" if frames else None


def is_of_user(file: str) -> bool:
    """Return whether a file is neither this script nor a part of Python or of an installed package."""
    libraries = (os.__file__.rpartition(os.sep)[0], *site.getsitepackages(), site.getusersitepackages())
    return file != __file__ and not file.startswith(("<", *(f"{folder}{os.sep}" for folder in libraries)))


def shorten(file: str) -> str:
    """Return a file relative to the working folder, if it is in it."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def main() -> None:
    request = json.load(sys.stdin.buffer)
    result_pipe = int(sys.argv[1])
    os.set_inheritable(result_pipe, False)
    empty_input = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty_input, 0)
    response = json.dumps(respond(request)).encode()
    with open(result_pipe, "wb") as out:
        out.write(response)


if __name__ == "__main__":
    main()
