"""Checks of input declarations: defaults and values of `enum` have the declared type (NP012)."""

from __future__ import annotations

from typing import Any

from noetl.planner.catalogue import Kind
from noetl.planner.kinds import describe_kind_of, is_of_kind
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath, InputDeclaration


def check_inputs(program: Program) -> None:
    """Report declarations of inputs that contradict themselves."""
    for name, declared in (program.playbook.input or {}).items():
        path: DocumentPath = ("input", name)
        for index, value in enumerate(declared.enum or ()):
            if not is_of_kind(value, Kind(declared.type)):
                _report_type(program, declared, f"`{value}`", value, (*path, "enum", index))
        if "default" in declared.model_fields_set and declared.default is not None:
            if not is_of_kind(declared.default, Kind(declared.type)):
                _report_type(program, declared, "default", declared.default, (*path, "default"))
            elif declared.enum is not None and declared.default not in declared.enum:
                program.report("NP012", "default must be one of `enum`", (*path, "default"))


def _report_type(
    program: Program, declared: InputDeclaration, subject: str, value: Any, path: DocumentPath
) -> None:
    message = f"{subject} is {describe_kind_of(value)}, but the input is declared as {declared.type}"
    program.report("NP012", message, path)
