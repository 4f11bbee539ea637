"""Calls of one check: how far a reader must go to follow the check of undefined names, and how much it is.

    python -m noetl.infra.calls

Problem: Count the calls between modules, and the modules, that one check of an example leads through.

Algorithm: The example is compiled under `sys.setprofile`, and the calls within the check are recorded. A call
is a pair of functions of the planner in different modules; pairs that occur often count once. What a
nested function or a generator expression calls counts as a call of the function around it.

Cost: One compilation, several times slower than usual.

Limits: Accessors are left out: properties, operators and the generated methods of records, and KEPT, which
return what they have computed before. Checks before this one compute what the program caches, so that is left
out too. What the planner caches by the text of a template is left out, because the example is compiled once
before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

from noetl.executor.actions import catalogue
from noetl.infra.sizes import measure
from noetl.planner.compile import compile_playbook
from noetl.planner.program.program import Program
from noetl.planner.templates.template import Template, parse_template, temporary_templates

PLANNER = Path(__file__).resolve().parents[1] / "planner"
"""Folder of the modules whose calls count."""

PACKAGES = ("planner/dataflow", "planner/checks/undefined_names.py")
"""The code of the check and of the analyses that it calls."""

CHECK = "report_undefined_names"
"""The function at which recording starts."""

EXAMPLE = """\
name: example
input: {count: integer, large: boolean, urls: array}
steps:
- name: begin
  run: [{action: set, set: {total: 0}}]
  rule:
  - {case: "{{ large }}", run: [many, few]}
  - {case: default, run: [few]}
- name: many
  loop: {items: "{{ urls }}", as: url}
  run: [{action: http, method: GET, url: "{{ url }}", as: page}]
  rule: [{case: default, run: [both]}]
- name: few
  run:
  - {action: http, method: GET, url: "https://example.com/few", as: answer}
  - {action: set, if: "{{ large }}", set: {big: 1}}
  rule:
  - {case: "{{ error }}", run: [{action: set, set: {answer: none}}]}
  - {case: "{{ answer is defined and count > 1 }}", run: [both]}
  - {case: default, run: [both]}
- name: both
  max_visits: 5
  run:
  - {action: set, set: {total: "{{ total + 1 }}", last: "{{ answer | default(none) }}"}}
  - {action: log, if: "{{ big is defined }}", message: "{{ big }}"}
  rule:
  - {case: "{{ total < 3 }}", run: [both]}
  - {case: default, run: [finish]}
- name: finish
  run: [{action: log, message: "{{ last }}"}]
output: {total: "{{ total }}"}
"""
"""A playbook with a branch, a join, a cycle, a loop and guards, in which every name is assigned."""


KEPT = (Program.result_of, Template.result_of, parse_template)
"""Functions that return a kept result. The first call computes it, for its caller."""

_KEPT_CODE = frozenset(function.__code__ for function in KEPT)


class ModuleCall(NamedTuple):
    """A call between two modules. A function is written as MODULE:NAME."""

    caller: str
    called: str

    def __str__(self) -> str:
        return f"{self.caller} -> {self.called}"


def trace_check(text: str = EXAMPLE) -> list[ModuleCall]:
    """Return the calls between modules in the check of a playbook, each once."""
    declarations = catalogue()
    with temporary_templates():
        compile_playbook(text, declarations)
        with _recorded_calls() as calls:
            compile_playbook(text, declarations)
    return sorted(calls)


@contextmanager
def _recorded_calls() -> Iterator[set[ModuleCall]]:
    accessors = frozenset(_accessors())
    calls: set[ModuleCall] = set()

    def record(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not _is_function_of_planner(code) or code in accessors:
            return
        caller = _caller(frame)
        if caller is None or caller.f_code.co_filename == code.co_filename or code.co_name == CHECK:
            return
        if any(outer.f_code.co_name == CHECK for outer in _outer_frames(frame)):
            calls.add(ModuleCall(_describe(caller.f_code), _describe(code)))

    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def _accessors() -> Iterator[CodeType]:
    """Yield the code of all properties of the planner, and of what returns kept results."""
    yield from _KEPT_CODE
    for name, module in list(sys.modules.items()):
        if name.startswith("noetl.planner."):
            classes = [value for value in vars(module).values() if isinstance(value, type)]
            for member in (member for class_ in classes for member in vars(class_).values()):
                function = member.fget if isinstance(member, property) else None
                if isinstance(member, cached_property):
                    function = member.func
                if isinstance(function, FunctionType):
                    yield function.__code__


def _is_function_of_planner(code: CodeType) -> bool:
    is_operator = code.co_name.startswith("__") and code.co_name != "__init__"
    is_generator = code.co_name.startswith("<")
    return code.co_filename.startswith(str(PLANNER)) and not is_operator and not is_generator


def _outer_frames(frame: FrameType) -> Iterator[FrameType]:
    outer = frame.f_back
    while outer is not None:
        yield outer
        outer = outer.f_back


def _caller(frame: FrameType) -> FrameType | None:
    """Return the innermost frame of the planner around a frame."""
    folder = str(PLANNER)
    callers = (o for o in _outer_frames(frame) if o.f_code not in _KEPT_CODE)
    return next((o for o in callers if o.f_code.co_filename.startswith(folder)), None)


def _describe(code: CodeType) -> str:
    module = Path(code.co_filename).relative_to(PLANNER).with_suffix("").as_posix()
    return f"{module}:{code.co_qualname.partition('.<locals>')[0]}"


def modules_of(calls: list[ModuleCall]) -> list[str]:
    """Return the modules that calls lead through."""
    return sorted({function.partition(":")[0] for call in calls for function in call})


def main() -> None:
    """Print the calls of the example, how many they are, and the size of the code of the check."""
    calls = trace_check()
    print(*calls, sep="\n")
    modules = modules_of(calls)
    print(f"{len(calls)} calls through {len(modules)} modules: {', '.join(modules)}")
    sizes = [measure(PLANNER.parent, package) for package in PACKAGES]
    classes = sum(len(size.classes) for size in sizes)
    functions = sum(size.public_functions for size in sizes)
    print(f"{classes} classes and {functions} public functions in {' and '.join(PACKAGES)}")


if __name__ == "__main__":
    main()
