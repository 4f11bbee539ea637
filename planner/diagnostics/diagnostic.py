"""What the planner says about a playbook: a code, a severity, a place and a way out.

Rendering for people and machines is in `noetl.planner.diagnostics.render`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from noetl.planner.diagnostics.codes import CODES, Severity


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A stretch of the playbook's text. Lines and columns count from 1; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


START = Span(1, 1, 1, 1)


@dataclass(frozen=True, slots=True)
class Label:
    """A second place that belongs to a diagnostic, and what it has to do with it."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `hint` says what to do about it, or is None."""

    code: str
    message: str
    span: Span
    hint: str | None = None
    severity: Severity = Severity.ERROR
    labels: tuple[Label, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The diagnostic as the object that `check --format json` and problem documents carry."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "message": self.message,
            "line": self.span.line,
            "column": self.span.column,
            "end_line": self.span.end_line,
            "end_column": self.span.end_column,
            "hint": self.hint,
        }


MAX_COMPARED = 20_000
MAX_FINDINGS = 2_000


class Diagnostics:
    """Collects findings in any order; iterates them by place, each once.

    Past `MAX_FINDINGS` a first error is still kept, and the last of all says how many others there were.
    """

    def __init__(self) -> None:
        self._found: dict[Diagnostic, None] = {}
        self._not_kept: set[int] = set()
        self._left_out = 0
        self._has_error = False
        self._compared = 0

    def add(
        self,
        code: str,
        message: str,
        span: Span,
        hint: str | None = None,
        *,
        severity: Severity | None = None,
        labels: Iterable[Label] = (),
    ) -> None:
        """Record a finding under a code of `CODES`, with that code's severity unless another is given."""
        severity = severity or CODES[code].severity
        found = Diagnostic(code, message, span, hint, severity, tuple(labels))
        if len(self._found) < MAX_FINDINGS or (severity is Severity.ERROR and not self._has_error):
            self._has_error = self._has_error or severity is Severity.ERROR
            self._found[found] = None
        elif found not in self._found:
            self._not_kept.add(hash(found))

    def leave_out(self, number: int) -> None:
        """Count findings that there are, and that are not worth working out."""
        self._left_out += number

    def suggest(self, word: str, known: Collection[str]) -> str | None:
        """As the function. None once many words were compared with many, which takes long: mistakes by the thousand have
        one cause, and the first of them show it.
        """
        self._compared += len(known)
        return suggest(word, known) if self._compared <= MAX_COMPARED else None

    def __iter__(self) -> Iterator[Diagnostic]:
        kept = sorted(self._found, key=lambda d: (d.span, d.code, d.message))
        yield from kept
        if number := len(self._not_kept) + self._left_out:
            message = (
                f"{number:,} more findings are not shown" if number > 1 else "1 more finding is not shown"
            )
            yield Diagnostic(
                "NP902", message, kept[-1].span, "mend those above, and check again", Severity.NOTE
            )

    def __len__(self) -> int:
        return len(self._found)

    @property
    def errors(self) -> int:
        return sum(d.severity is Severity.ERROR for d in self._found)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """A hint naming the one known word that `word` is likely a slip of, or None when there is no single one."""
    from difflib import get_close_matches

    found = get_close_matches(word, sorted(set(known) - {word}), n=1, cutoff=0.7)
    return f"did you mean `{found[0]}`?" if found else None
