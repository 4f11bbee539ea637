from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from noetl.executor.security.redaction import REVEALED_SECRETS, redact
from tests.action_calls import perform_action

MODULE = """
import os, sys, time
from os import getpid as borrowed
def add(a, b=2): return a + b
def loud(x):
    print("out"); print("err", file=sys.stderr); os.write(1, b"raw")
    return {"x": x, "stdin": sys.stdin.read()}
def tell(secret): raise ValueError("x" * 4000 + secret + "y" * 4070)
def wrong(): raise KeyError("gone")
def leave(): sys.exit(3)
def die(): os._exit(4)
def odd(): return {1, 2}
def infinite(): return float("inf")
def surrogate(): return "\\ud800"
def forever(): time.sleep(600)
def pid(): return [os.getpid(), os.getcwd()]
def _private(): return 1
number = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "lib"
    package.mkdir()
    (package / "orders.py").write_text(MODULE)
    (package / "broken.py").write_text("import missing_thing")
    return tmp_path


def call(folder: Path, function: str, **parameters: Any) -> Any:
    return perform_action(
        "python", capabilities=local_run_capabilities(folder), function=function, **parameters
    )


def test_a_secret_at_the_start_of_a_shortened_traceback_is_redacted(folder: Path) -> None:
    value = "first-half-of-another-second-half"
    REVEALED_SECRETS.add(value)
    with pytest.raises(ActionError, match="ValueError: xxx") as caught:
        call(folder, "lib.orders:tell", args=[value])
    assert "half" not in str(redact(caught.value.details))
    assert len(caught.value.details["traceback"]) == 4096


def test_arguments_are_passed_by_name_or_by_position(folder: Path) -> None:
    assert call(folder, "lib.orders:add", args={"a": 1}) == 3
    assert call(folder, "lib.orders:add", args=[1, 5]) == 6
    assert call(folder, "math:factorial", args=[5]) == 120


def test_output_of_the_function_does_not_change_the_result(folder: Path) -> None:
    assert call(folder, "lib.orders:loud", args=["ü"]) == {"x": "ü", "stdin": ""}


def test_a_call_has_its_own_process_in_the_working_folder(folder: Path) -> None:
    first, where = call(folder, "lib.orders:pid")
    second, _ = call(folder, "lib.orders:pid")
    assert first != second
    assert where == str(folder)


@pytest.mark.parametrize(
    ("function", "type_", "message"), [("wrong", "KeyError", "'gone'"), ("leave", "SystemExit", "3")]
)
def test_an_exception_is_reported(folder: Path, function: str, type_: str, message: str) -> None:
    with pytest.raises(ActionError) as caught:
        call(folder, f"lib.orders:{function}")
    error = caught.value
    assert (error.type, error.retryable) == ("FunctionFailed", True)
    assert (error.details["type"], error.details["message"]) == (type_, message)
    assert f"in {function}" in error.details["traceback"]
    assert error.message.startswith(f"{type_}: {message} (lib/orders.py:")
    assert error.message.endswith(f"({error.details['place']})")


def test_the_death_of_the_process_is_reported(folder: Path) -> None:
    with pytest.raises(ActionError, match="without a response") as caught:
        call(folder, "lib.orders:die")
    assert caught.value.details["exit_code"] == 4


@pytest.mark.parametrize("function", ["odd", "infinite", "surrogate"])
def test_a_result_must_be_json(folder: Path, function: str) -> None:
    with pytest.raises(ActionError, match="the result is not JSON") as caught:
        call(folder, f"lib.orders:{function}")
    assert (caught.value.type, caught.value.retryable) == ("FunctionFailed", False)


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        ("lib.orders:missing", {}, "unknown function `missing`"),
        ("lib.orders:number", {}, "unknown function `number`"),
        ("lib.nothing:f", {}, "unknown module `lib.nothing`"),
        ("nothing_at_all:f", {}, "unknown module `nothing_at_all`"),
        ("lib.orders:add", {"c": 1}, "`args` do not match"),
        ("lib.orders:add", [1, 2, 3], "`args` do not match"),
        ("lib.orders:_private", {}, "private"),
        ("lib.orders", {}, "write `package.module:name`"),
        ("lib.orders:add.x", {}, "write `package.module:name`"),
        ("../lib:add", {}, "write `package.module:name`"),
    ],
)
def test_invalid_calls_are_refused(folder: Path, function: str, args: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message) as caught:
        call(folder, function, args=args)
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


def test_a_failed_import_is_reported(folder: Path) -> None:
    with pytest.raises(ActionError, match="missing_thing") as caught:
        call(folder, "lib.broken:f")
    assert caught.value.type == "FunctionFailed"


def test_a_call_ends_at_its_deadline(folder: Path) -> None:
    with pytest.raises(ActionError) as caught:
        call(folder, "lib.orders:forever", seconds=1)
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)


@pytest.mark.parametrize("modules", [("lib",), ("lib.orders",), ("other", "lib.orders")])
def test_allowed_modules_and_their_submodules_are_enabled(folder: Path, modules: tuple[str, ...]) -> None:
    capabilities = Capabilities(python_modules=modules, folder=folder)
    assert perform_action("python", capabilities=capabilities, function="lib.orders:add", args=[1]) == 3


@pytest.mark.parametrize(
    ("modules", "function"),
    [
        ((), "lib.orders:add"),
        (("lib.ord",), "lib.orders:add"),
        (("lib.orders",), "os:getpid"),
        (("lib.orders",), "lib.orders:borrowed"),
    ],
)
def test_other_modules_are_disabled(folder: Path, modules: tuple[str, ...], function: str) -> None:
    with pytest.raises(ActionError, match="NOETL_PYTHON_MODULES") as caught:
        perform_action(
            "python",
            capabilities=Capabilities(python_modules=modules, folder=folder),
            function=function,
            args=[],
        )
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)
