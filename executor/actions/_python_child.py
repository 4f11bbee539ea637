"""The child process of `python`: reads a request on its standard input, answers on the pipe named by its argument.

It is run as a script in a fresh interpreter, so it imports nothing of ours.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What came of the call, as an object with one of the keys `result`, `missing`, `refused`, `not_plain` or `type`."""
    if request["folder"]:
        sys.path.insert(0, request["folder"])
    module, name = request["module"], request["name"]
    try:
        function = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            return {"missing": f"there is no module `{module}`"}
        return failure(error)
    except BaseException as error:  # noqa: BLE001  `sys.exit` in a module is its failure, too.
        return failure(error)
    if not callable(function):
        return {"missing": f"the module `{module}` has no function `{name}`"}
    home = getattr(function, "__module__", None) or ""
    if not is_allowed(home, request["modules"]):
        return {"refused": f"`{module}:{name}` comes from `{home}`, which NOETL_PYTHON_MODULES does not list"}
    return called(function, request["args"])


def is_allowed(module: str, modules: Sequence[str]) -> bool:
    """Whether a module is allowed, or lies inside an allowed package."""
    return "*" in modules or any(module == known or module.startswith(f"{known}.") for known in modules)


def called(function: Any, args: Any) -> dict[str, Any]:
    positional, named = ((), args) if isinstance(args, dict) else (args, {})
    try:
        inspect.signature(function).bind(*positional, **named)
    except TypeError as error:
        return {"missing": f"`args` do not fit: {error}"}
    except ValueError:
        pass  # Built-in functions may have no signature to look at.
    try:
        result = function(*positional, **named)
    except BaseException as error:  # noqa: BLE001  As above.
        return failure(error)
    try:
        return {"result": json.dumps(result, allow_nan=False)}
    except (TypeError, ValueError, RecursionError) as error:
        return {"not_plain": str(error)}


def failure(error: BaseException) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": trace}


def main() -> None:
    request = json.load(sys.stdin.buffer)
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    said = json.dumps(answer(request)).encode()
    with open(pipe, "wb") as out:
        out.write(said)


if __name__ == "__main__":
    main()
