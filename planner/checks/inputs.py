"""Checks of declared values: inputs of a run, and fields that a parameter of an action declares.

Defaults and values of `enum` have the declared type (NP012). A field is declared as an input is (NP010, NP012
and NP110), without templates (NP504).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from noetl.planner.catalogue import Kind
from noetl.planner.kinds import describe_kind_of, is_of_kind
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath, FieldDeclaration, InputDeclaration
from noetl.planner.syntax.names import find_identifier_problem
from noetl.planner.syntax.schema_errors import describe_unknown_key, describe_wrong_value
from noetl.planner.templates.template import has_template


def check_inputs(program: Program) -> None:
    """Report declarations of inputs that contradict themselves."""
    for name, declared in (program.playbook.input or {}).items():
        _check_values(program, declared, ("input", name), "the input")


def check_declared_fields(
    program: Program, parameter: str, fields: Mapping[str, Any], path: DocumentPath
) -> None:
    """Report wrong declarations of fields in the value of a parameter, which is at `path`."""
    if not fields:
        program.report("NP012", f"`{parameter}` must have at least one entry", path, key=True)
    for name, written in fields.items():
        field_path = (*path, name)
        if problem := find_identifier_problem(name):
            program.report("NP110", problem, field_path, key=True)
        if _report_templates(program, parameter, written, field_path):
            continue
        declared = _read_field(program, written, field_path)
        if declared is not None:
            _check_values(program, declared, field_path, "the field")


def _read_field(program: Program, written: Any, path: DocumentPath) -> FieldDeclaration | None:
    """Return the declaration of a field without its wrong parts, which are reported; None if all is wrong."""
    expanded = {"type": written} if isinstance(written, str) else written
    try:
        return FieldDeclaration.model_validate(expanded)
    except ValidationError as error:
        wrong_keys = _report_violations(program, path, error)
    if not isinstance(expanded, dict):
        return None
    return FieldDeclaration.model_validate({k: v for k, v in expanded.items() if k not in wrong_keys})


def _check_values(program: Program, declared: InputDeclaration, path: DocumentPath, subject: str) -> None:
    for index, value in enumerate(declared.enum or ()):
        if not is_of_kind(value, Kind(declared.type)):
            message = f"`{value}` is {describe_kind_of(value)}, but {subject} is declared as {declared.type}"
            program.report("NP012", message, (*path, "enum", index))
    default = declared.default
    if "default" in declared.model_fields_set and default is not None:
        if not is_of_kind(default, Kind(declared.type)):
            message = f"default is {describe_kind_of(default)}, but {subject} is declared as {declared.type}"
            program.report("NP012", message, (*path, "default"))
        elif declared.enum is not None and default not in declared.enum:
            program.report("NP012", "default must be one of `enum`", (*path, "default"))


def _report_templates(program: Program, parameter: str, written: Any, path: DocumentPath) -> bool:
    """Report each text with a template in a declaration, and return whether there is one."""
    if isinstance(written, dict | list):
        items = written.items() if isinstance(written, dict) else enumerate(written)
        found = [_report_templates(program, parameter, value, (*path, key)) for key, value in items]
        return any(found)
    if not isinstance(written, str) or not has_template(written):
        return False
    message = f"`{parameter}` cannot contain a template: its fields are fixed before a run starts"
    program.report("NP504", message, path, "write a literal value")
    return True


def _report_violations(program: Program, path: DocumentPath, error: ValidationError) -> set[str | int]:
    """Report what validation found, once for each place, and return the keys of the wrong parts."""
    groups: dict[DocumentPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        groups.setdefault(tuple(item["loc"]), []).append(item)
    for location, errors in groups.items():
        if errors[0]["type"] == "extra_forbidden":
            violation = describe_unknown_key(str(location[-1]), FieldDeclaration)
        else:
            violation = describe_wrong_value(("field", path[-1], *location), errors[0]["input"], errors)
        place = (*path, *location)
        program.report(violation.code, violation.message, place, violation.hint, key=violation.at_key)
    return {location[0] for location in groups if location}
