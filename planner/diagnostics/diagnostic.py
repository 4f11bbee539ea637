"""Diagnostics: what the planner reports about a playbook. `noetl.planner.diagnostics.render` shows them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from itertools import pairwise
from typing import Any, Self

from noetl.planner.diagnostics.codes import CODES, Severity
from noetl.planner.diagnostics.wording import shorten

MAX_COMPARED_WORDS = 20_000
"""With how many words unknown words of one playbook are compared, to find those that were meant."""

MAX_RATED_WORDS = 32
"""With how many words one unknown word is compared exactly. They share most pairs of letters with it."""

MAX_WORD = 200
"""How many characters a word may have that is compared with others. An exact comparison is quadratic."""

MAX_FINDINGS = 2_000
"""How many findings of one playbook are reported."""

MAX_TEXT = 1_000
"""How many characters of the message, the hint and a label of a finding are kept."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A range of the text of a playbook. Lines and columns count from 1; the end is exclusive."""

    line: int
    column: int
    end_line: int
    end_column: int


START = Span(1, 1, 1, 1)
"""The empty span at the start of the text."""


@dataclass(frozen=True, slots=True)
class Label:
    """A second span that belongs to a diagnostic, and its role."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class TextEdit:
    """A change of the text of a playbook: `text` replaces what is at `span`."""

    span: Span
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the object that a finding contains as its `fix`."""
        return {
            "line": self.span.line,
            "column": self.span.column,
            "end_line": self.span.end_line,
            "end_column": self.span.end_column,
            "text": self.text,
        }


class Suggestion(str):  # noqa: SLOT000  There are few, and they live as long as a compilation.
    """The hint that another word was probably meant. `fixes` makes a text edit of it."""

    word: str
    meant: str

    def __new__(cls, word: str, meant: str) -> Self:
        suggestion = super().__new__(cls, f"did you mean `{meant}`?")
        suggestion.word, suggestion.meant = word, meant
        return suggestion


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `hint` says how to fix it, or is None. `fix` does it, where one edit is enough."""

    code: str
    message: str
    span: Span
    hint: str | None = None
    severity: Severity = Severity.ERROR
    labels: tuple[Label, ...] = ()
    fix: TextEdit | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the object that `check --format json` and problem documents contain."""
        finding: dict[str, Any] = {
            "code": self.code,
            "severity": self.severity.value,
            "message": self.message,
            "line": self.span.line,
            "column": self.span.column,
            "end_line": self.span.end_line,
            "end_column": self.span.end_column,
            "hint": self.hint,
        }
        if self.fix is not None:
            finding["fix"] = self.fix.to_json()
        return finding

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Diagnostic:
        """Return the finding that `to_json` describes, without its fix.

        Raises:
            LookupError, TypeError, ValueError: it describes no finding.
        """
        span = Span(*(int(data[name]) for name in ("line", "column", "end_line", "end_column")))
        hint = None if data["hint"] is None else str(data["hint"])
        return cls(str(data["code"]), str(data["message"]), span, hint, Severity(data["severity"]))


class Diagnostics:
    """The findings of one playbook. They are added in any order and iterated by position, without duplicates.

    After `MAX_FINDINGS` findings, only a first error is still kept, and a last finding counts the others.
    """

    def __init__(self) -> None:
        self._findings: dict[Diagnostic, None] = {}
        self._dropped: set[int] = set()
        self._uncomputed = 0
        self._has_error = False
        self._compared_words = 0

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
        """Record a finding. The default severity is that of its code in `CODES`."""
        severity = severity or CODES[code].severity
        if len(message) > MAX_TEXT:
            message = shorten(message, MAX_TEXT)
        if hint is not None and len(hint) > MAX_TEXT:
            hint = shorten(hint, MAX_TEXT)
        kept_labels = tuple(Label(label.span, shorten(label.text, MAX_TEXT)) for label in labels)
        finding = Diagnostic(code, message, span, hint, severity, kept_labels)
        if len(self._findings) < MAX_FINDINGS or (severity is Severity.ERROR and not self._has_error):
            self._has_error = self._has_error or severity is Severity.ERROR
            self._findings[finding] = None
        elif finding not in self._findings:
            self._dropped.add(hash(finding))

    def count_unreported(self, number: int) -> None:
        """Count findings that exist but are not worth computing."""
        self._uncomputed += number

    def closest(self, word: str, known: Collection[str]) -> str | None:
        """Return the known word that was probably meant, or None.

        Also return None after `MAX_COMPARED_WORDS` comparisons, which are slow. Thousands of unknown words
        have one cause, and the first ones show it.
        """
        self._compared_words += len(known)
        return closest(word, known) if self._compared_words <= MAX_COMPARED_WORDS else None

    def did_you_mean(self, word: str, known: Collection[str]) -> str | None:
        """Return a hint with the word of `closest`, or None."""
        return suggest(word, self.closest(word, known))

    def __iter__(self) -> Iterator[Diagnostic]:
        kept = sorted(self._findings, key=lambda finding: (finding.span, finding.code, finding.message))
        yield from kept
        if number := len(self._dropped) + self._uncomputed:
            message = (
                f"{number:,} more findings are not shown" if number > 1 else "1 more finding is not shown"
            )
            hint = "fix the findings above and check again"
            yield Diagnostic("NP902", message, kept[-1].span, hint, Severity.NOTE)

    def __len__(self) -> int:
        return len(self._findings)

    @property
    def error_count(self) -> int:
        """The number of errors."""
        return sum(finding.severity is Severity.ERROR for finding in self._findings)


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar to `word`, or None if no word is similar enough.

    Words of more than MAX_WORD characters are not compared.

    >>> closest("notfiy", ["notify", "load"]), closest("xyz", ["notify", "load"])
    ('notify', None)
    """
    from difflib import get_close_matches

    if len(word) > MAX_WORD:
        return None
    compared = {other for other in known if len(other) <= MAX_WORD and other != word}
    matches = get_close_matches(word, _rated_words(word, compared), n=1, cutoff=0.7)
    return matches[0] if matches else None


def _rated_words(word: str, known: Collection[str]) -> list[str]:
    """Return the words that are worth an exact comparison, which takes far longer than this one."""
    if len(known) <= MAX_RATED_WORDS:
        return sorted(known)
    pairs = _letter_pairs(word)

    def distance(other: str) -> tuple[int, str]:
        return len(pairs ^ _letter_pairs(other)), other

    # A ratio of 0.7 is out of reach for a word of twice the length.
    candidates = (other for other in known if len(word) <= 2 * len(other) <= 4 * len(word))
    return sorted(nsmallest(MAX_RATED_WORDS, candidates, key=distance))


def _letter_pairs(word: str) -> set[str]:
    return {*word, *map("".join, pairwise(word))}


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return a hint with the known word that is most similar to `word`, or None.

    >>> did_you_mean("notfiy", ["notify", "load"])
    'did you mean `notify`?'
    """
    return suggest(word, closest(word, known))


def suggest(word: str, meant: str | None) -> str | None:
    """Return the hint that `meant` is probably the word, or None."""
    return None if meant is None else Suggestion(word, meant)
