"""The diagnostics of a playbook by the element that each of them marks, so that two texts can be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.diagnostic import Diagnostics, Span
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.syntax.reader import read_document

Finding = tuple[str, frozenset[tuple[str, ...]]]
"""A code, and the elements that a diagnostic marks: its own and those of its labels."""


def find_elements(
    text: str, names: Mapping[str, str] | None = None, *, with_labels: bool = True
) -> Counter[Finding]:
    """Return the diagnostics of a playbook. Steps are named by `names`, which gives them their old names."""
    document = read_document(text, Diagnostics())
    assert document is not None
    elements = list(_all_elements(document, document.data, ()))
    steps = [step["name"] for step in document.data["steps"]]
    findings: Counter[Finding] = Counter()
    for item in compile_playbook(text, catalogue()).diagnostics:
        spans = [item.span, *(label.span for label in item.labels if with_labels)]
        paths = [_element_at(elements, span) for span in spans]
        findings[item.code, frozenset(_canonical_path(path, steps, names or {}) for path in paths)] += 1
    return findings


def _all_elements(document: Document, data: Any, path: DocumentPath) -> Iterator[tuple[Span, DocumentPath]]:
    """Yield all values and keys below a path, each with its span. Keys have the path of their value."""
    yield document.span(path), path
    if path:
        yield document.key_span(path), path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _all_elements(document, value, (*path, key))


def _element_at(elements: list[tuple[Span, DocumentPath]], span: Span) -> DocumentPath:
    """Return the element with a span, or the last one that begins before it."""
    exact = [path for other, path in elements if other == span]
    if exact:
        return min(exact, key=len)
    start = (span.line, span.column)
    before = [((other.line, other.column), len(path), path) for other, path in elements]
    return max((entry for entry in before if entry[0] <= start), key=lambda entry: entry[:2])[2]


def _canonical_path(path: DocumentPath, steps: list[str], names: Mapping[str, str]) -> tuple[str, ...]:
    parts = [str(part) for part in path]
    if path[:1] == ("steps",) and len(path) > 1:
        name = steps[int(path[1])]
        parts[1] = names.get(name, name)
    return tuple(parts)
