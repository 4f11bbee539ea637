"""The diagnostic codes, each declared by its explanation page.

The heading of `explanations/NP101.md` has the title, and the line after `**Severity:**` the default severity.
A page is read when its code is first used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from noetl.planner.diagnostics.explanations import explained_codes, explanation

_DECLARATION = re.compile(
    r"# (?P<code>NP\d+): (?P<title>.+)\n(?s:.*?)^\*\*Severity:\*\* (?P<severity>\w+)\.$", re.MULTILINE
)


class Severity(StrEnum):
    """The severity of a diagnostic. Only errors prevent a run from starting."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Code:
    """A diagnostic code with its title and its default severity."""

    code: str
    title: str
    severity: Severity


class DiagnosticCodes(Mapping[str, Code]):
    """The declared codes in their order."""

    def __init__(self) -> None:
        self._read: dict[str, Code] = {}

    def __getitem__(self, code: str) -> Code:
        if code not in self._read:
            self._read[code] = _read_declaration(code)
        return self._read[code]

    def __iter__(self) -> Iterator[str]:
        return iter(explained_codes())

    def __len__(self) -> int:
        return len(explained_codes())


def _read_declaration(code: str) -> Code:
    """Return the code that a page declares.

    Raises:
        KeyError: there is no such page.
        ValueError: the page has no title or no severity.
    """
    if code not in explained_codes():
        raise KeyError(code)
    declared = _DECLARATION.match(explanation(code))
    if declared is None or declared["code"] != code:
        raise ValueError(
            f"{code}.md must begin with `# {code}: TITLE` and have a line `**Severity:** LEVEL.`"
        )
    return Code(code, declared["title"], Severity(declared["severity"]))


CODES = DiagnosticCodes()
