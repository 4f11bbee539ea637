"""Findings about a plan, at the places of its text.

Problem: a plan does not know the columns of its text, and most registrations have no findings.

Algorithm: a finding names its place by the path of a value in the plan. The text is read again only if there
are findings, and each path then becomes a span.

Cost: nothing without findings, else one parse of the text as YAML.

Limits: at most MAX_FOUND findings. Words that may have been meant are searched as in a compilation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import START, Diagnostic, Diagnostics, Span
from noetl.planner.diagnostics.fixes import add_fixes
from noetl.planner.plan import Plan
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.syntax.reader import read_document

MAX_FOUND = 100
"""How many findings of one registration are kept."""


class PlanPlace(NamedTuple):
    """The place of a value in the text of a plan.

    Attributes:
        path: the path of the value, as in the document. A task is `("tasks", NAME)`.
        is_key: whether the key that leads to the value is meant.
        start: the first character of the value that is meant.
        end: the end of these characters, exclusive; 0 for the complete value.
    """

    path: DocumentPath
    is_key: bool = False
    start: int = 0
    end: int = 0


class _Finding(NamedTuple):
    code: str
    message: str
    place: PlanPlace
    hint: str | None
    severity: Severity | None


class RegistrationFindings:
    """The collected findings about one plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._findings: list[_Finding] = []
        self._words = Diagnostics()

    def is_full(self) -> bool:
        """Return whether no more findings are kept, so that none need be searched."""
        return len(self._findings) >= MAX_FOUND

    def did_you_mean(self, word: str, known: Collection[str]) -> str | None:
        """Return a hint with the known word that was probably meant, or None, also after many comparisons."""
        return self._words.did_you_mean(word, known)

    def report(
        self,
        code: str,
        message: str,
        place: PlanPlace,
        hint: str | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Add a finding, unless there are too many. The default severity is that of its code."""
        if not self.is_full():
            self._findings.append(_Finding(code, message, place, hint, severity))

    def to_diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return the findings with their spans, in the order of the text."""
        if not self._findings:
            return ()
        text, diagnostics = self.plan.source, Diagnostics()
        document = read_document(text, Diagnostics())
        for found in self._findings:
            span = START if document is None else _find_span(self.plan, document, found.place)
            diagnostics.add(found.code, found.message, span, found.hint, severity=found.severity)
        return add_fixes(diagnostics, text)


def _find_span(plan: Plan, document: Document, place: PlanPlace) -> Span:
    path = _document_path(plan, document, place.path)
    if place.is_key:
        return document.key_span(path)
    return document.text_span(path, place.start, place.end) if place.end else document.span(path)


def _document_path(plan: Plan, document: Document, path: DocumentPath) -> DocumentPath:
    """Return the path of a value in the document.

    Tasks may be a list or a mapping there, and steps without a path to them are not in the plan.
    """
    if path[:1] == ("steps",) and len(path) > 1:
        step_name = [*plan.steps][int(path[1])]
        names = [step["name"] for step in document.data["steps"]]
        path = ("steps", names.index(step_name), *path[2:])
    if path[0] != "tasks":
        return _existing_path(document, _written_limit(document, path))
    _, name, *rest = path
    tasks = document.data["tasks"]
    if isinstance(tasks, list):
        names = [task["name"] for task in tasks]
        return ("tasks", names.index(name), *rest)
    return ("tasks", name, *(rest if isinstance(tasks[name], dict) else rest[1:]))


def _written_limit(document: Document, path: DocumentPath) -> DocumentPath:
    """Return a path without the number of a limit, if the text has one limit and no list of them."""
    depth = 1 if path[0] in ("concurrency", "rate") else 3
    if len(path) <= depth or path[depth - 1] not in ("concurrency", "rate"):
        return path
    written = document.data
    for part in path[:depth]:
        written = written[part]
    return path if isinstance(written, list) else (*path[:depth], *path[depth + 1 :])


def _existing_path(document: Document, path: DocumentPath) -> DocumentPath:
    """Return the path, or that of the name of the playbook if the text has no such section."""
    return path if path[0] in document.data else ("name",)


def key_of(*path: str | int) -> PlanPlace:
    """Return the place of the key that leads to a value."""
    return PlanPlace(path, is_key=True)


def word_at(path: Iterable[str | int], start: int, word: str) -> PlanPlace:
    """Return the place of a word in a text."""
    return PlanPlace((*path,), start=start, end=start + len(word))
