"""What the planner finds in a playbook, in short."""

from __future__ import annotations

from textwrap import dedent

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic

STEP = "steps: [{name: a, run: [{action: log, message: ok}]}]\n"
OK = "{action: log, message: ok}"


def found(text: str) -> list[Diagnostic]:
    """All findings of a playbook; its name may be left out."""
    text = dedent(text)
    if not text.startswith("name:"):
        text += "name: play\n" if text.endswith("\n") else "\nname: play\n"
    return list(compile_playbook(text, catalogue()).diagnostics)


def findings(text: str, *codes: str) -> list[tuple[str, str]]:
    """Code and the words that are pointed at, of the findings with these codes, or of all but notes."""
    lines = dedent(text).splitlines()
    return [(d.code, pointed_at(lines, d)) for d in found(text) if wanted(d, codes)]


def wanted(diagnostic: Diagnostic, codes: tuple[str, ...]) -> bool:
    return diagnostic.code in codes if codes else diagnostic.severity is not Severity.NOTE


def pointed_at(lines: list[str], diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    assert (span.line, span.column) < (span.end_line, span.end_column)
    if span.line == span.end_line:
        return lines[span.line - 1][span.column - 1 : span.end_column - 1]
    return lines[span.line - 1][span.column - 1 :] + "…"


def messages(text: str, *codes: str) -> list[str]:
    return [d.message for d in found(text) if wanted(d, codes)]


def hints(text: str, *codes: str) -> list[str | None]:
    return [d.hint for d in found(text) if wanted(d, codes)]
