"""NP304 and NP305: what is saved is read, and a name means one thing."""

from __future__ import annotations

from collections.abc import Mapping

from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.program.program import Subject
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import DocumentPath

MEANINGS = {"environment": "an entry of `environment`", "input": "an input", "variables": "a variable"}
SAVED = "a saved name"


def check_meanings(subject: Subject) -> None:
    """Report names that are saved for nobody, and names of which a reader could not say what they mean."""
    saved: dict[str, DocumentPath] = {}
    for run in subject.runs():
        for name, path in find_saved_names(run, in_loops=True):
            saved.setdefault(name, path)
    _two_meanings(subject, saved)
    if subject.playbook.output is not None and not subject.diagnostics.errors and subject.is_whole:
        _never_read(subject)


def _two_meanings(subject: Subject, saved: Mapping[str, DocumentPath]) -> None:
    """A variable is there to be saved anew; any other two meanings of a name hide each other."""
    first: dict[str, tuple[str, DocumentPath]] = {}
    for section, meaning in MEANINGS.items():
        for name in getattr(subject.playbook, section) or ():
            path: DocumentPath = (section, name)
            if name in first:
                _report(subject, name, first[name], meaning, subject.document.key_span(path))
            first.setdefault(name, (meaning, path))
    for name, path in saved.items():
        if name in first and name not in subject.playbook.variables:
            _report(subject, name, first[name], SAVED, saved_span(subject, path))


def _report(subject: Subject, name: str, first: tuple[str, DocumentPath], second: str, span: Span) -> None:
    meaning, path = first
    label = Label(subject.document.key_span(path), f"it is {meaning} here")
    message = f"`{name}` is {meaning}, and {second} too"
    subject.diagnostics.add("NP305", message, span, "give one of them another name", labels=[label])


def _never_read(subject: Subject) -> None:
    """Without `output` every saved name is part of the result; with it, only what a template reads is for somebody."""
    read = {access[0] for use in subject.uses for access in use.template.reads if access[0] not in use.local}
    for name, path in subject.produced.items():
        if name not in read:
            message = f"`{name}` is saved, and nothing reads it"
            hint = "read it in `output`, or do not save it"
            subject.diagnostics.add("NP304", message, saved_span(subject, path), hint)


def saved_span(subject: Subject, path: DocumentPath) -> Span:
    """Where a name is written that an entry saves: at an `as`, or a key of `set`."""
    return subject.document.key_span(path) if path[-2] == "set" else subject.document.span(path)
