"""NP012 of inputs: a default and the values of an enum are of the type declared."""

from __future__ import annotations

from typing import Any

from noetl.planner.catalogue import Kind
from noetl.planner.kinds import described, is_of_kind
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import DocumentPath, InputDeclaration


def check_inputs(subject: Subject) -> None:
    """Report declarations of inputs that contradict themselves."""
    for name, declared in (subject.playbook.input or {}).items():
        path: DocumentPath = ("input", name)
        for index, value in enumerate(declared.enum or ()):
            if not is_of_kind(value, Kind(declared.type)):
                _report(subject, declared, f"`{value}`", value, (*path, "enum", index))
        if "default" in declared.model_fields_set and declared.default is not None:
            if not is_of_kind(declared.default, Kind(declared.type)):
                _report(subject, declared, "the default", declared.default, (*path, "default"))
            elif declared.enum is not None and declared.default not in declared.enum:
                subject.report("NP012", "the default is not one of `enum`", (*path, "default"))


def _report(subject: Subject, declared: InputDeclaration, what: str, value: Any, path: DocumentPath) -> None:
    subject.report(
        "NP012", f"{what} is {described(value)}, and the input is declared as {declared.type}", path
    )
