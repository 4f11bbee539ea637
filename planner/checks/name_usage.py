"""Checks of the use of names: every saved name is read, and a name has one meaning (NP304 and NP305)."""

from __future__ import annotations

from collections.abc import Mapping

from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.program.program import Program
from noetl.planner.syntax.entries import find_saved_names, is_saved_by_key
from noetl.planner.syntax.models import DocumentPath

MEANINGS = {"environment": "an entry of `environment`", "input": "an input", "variables": "a variable"}
SAVED_NAME = "a saved name"


def check_name_usage(program: Program) -> None:
    """Report names with two meanings and, if there are no errors, names that are saved but never read."""
    saved: dict[str, DocumentPath] = {}
    for work in program.work_lists():
        for name, path in find_saved_names(work, in_loops=True):
            saved.setdefault(name, path)
    _check_meanings(program, saved)
    if program.playbook.output is not None and not program.diagnostics.error_count and program.is_well_formed:
        _check_reads(program)


def _check_meanings(program: Program, saved: Mapping[str, DocumentPath]) -> None:
    """Report names with two meanings, which hide each other.

    A variable may be saved: it is assigned a new value.
    """
    first: dict[str, tuple[str, DocumentPath]] = {}
    for section, meaning in MEANINGS.items():
        for name in getattr(program.playbook, section) or ():
            path: DocumentPath = (section, name)
            if name in first:
                _report_meanings(program, name, first[name], meaning, program.document.key_span(path))
            first.setdefault(name, (meaning, path))
    for name, path in saved.items():
        if name in first and name not in program.playbook.variables:
            _report_meanings(program, name, first[name], SAVED_NAME, definition_span(program, path))


def _report_meanings(
    program: Program, name: str, first: tuple[str, DocumentPath], second: str, span: Span
) -> None:
    meaning, path = first
    label = Label(program.document.key_span(path), f"{meaning} here")
    message = f"`{name}` is both {meaning} and {second}"
    program.diagnostics.add("NP305", message, span, "rename one of them", labels=[label])


def _check_reads(program: Program) -> None:
    """Report saved names that no template reads. Without `output`, every saved name is part of the output."""
    read = {path[0] for use in program.uses for path in use.template.reads if path[0] not in use.local_names}
    for name, path in program.definitions.items():
        if name not in read:
            message = f"`{name}` is saved but never read"
            hint = "read it in `output`, or do not save it"
            program.diagnostics.add("NP304", message, definition_span(program, path), hint)


def definition_span(program: Program, path: DocumentPath) -> Span:
    """Return the span of the name of a definition: the value of `as`, or a key of a mapping such as `set`."""
    document = program.document
    return document.key_span(path) if is_saved_by_key(path) else document.span(path)
