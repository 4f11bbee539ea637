"""Helpers that compile a playbook and return its findings in short form."""

from __future__ import annotations

from textwrap import dedent

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.diagnostic import Diagnostic

STEP = "steps: [{name: a, run: [{action: log, message: ok}]}]\n"
OK = "{action: log, message: ok}"


def playbook(*steps: str, head: str = "") -> str:
    """Return a playbook with these steps, without a name."""
    return f"{head}steps:\n" + "".join(f"- {step}\n" for step in steps)


def diagnose(text: str) -> list[Diagnostic]:
    """Return all findings of a playbook. Its `name` may be left out."""
    text = dedent(text)
    if not text.startswith("name:"):
        text += "name: play\n" if text.endswith("\n") else "\nname: play\n"
    return list(compile_playbook(text, catalogue()).diagnostics)


def findings(text: str, *codes: str) -> list[tuple[str, str]]:
    """Return code and source text of the findings with these codes; without codes, of all but notes."""
    lines = dedent(text).splitlines()
    return [
        (diagnostic.code, source_at(lines, diagnostic))
        for diagnostic in diagnose(text)
        if is_selected(diagnostic, codes)
    ]


def is_selected(diagnostic: Diagnostic, codes: tuple[str, ...]) -> bool:
    return diagnostic.code in codes if codes else diagnostic.severity is not Severity.NOTE


def source_at(lines: list[str], diagnostic: Diagnostic) -> str:
    """Return the source text of the span of a finding, up to the end of its first line."""
    span = diagnostic.span
    assert (span.line, span.column) < (span.end_line, span.end_column)
    if span.line == span.end_line:
        return lines[span.line - 1][span.column - 1 : span.end_column - 1]
    return lines[span.line - 1][span.column - 1 :] + "…"


def messages(text: str, *codes: str) -> list[str]:
    """Return the messages of the selected findings."""
    return [diagnostic.message for diagnostic in diagnose(text) if is_selected(diagnostic, codes)]


def hints(text: str, *codes: str) -> list[str | None]:
    """Return the hints of the selected findings."""
    return [diagnostic.hint for diagnostic in diagnose(text) if is_selected(diagnostic, codes)]
