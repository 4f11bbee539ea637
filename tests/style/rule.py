"""Form of a style rule and of what it finds.

A new rule is one module in `rules/` with a `RULE`, entered in `rules/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tests.style.source import Repository


class StyleViolation(NamedTuple):
    """One place that breaks a rule.

    `key` names the place in the allow-list. It survives moves of lines: a path, or `path::qualified name`.
    """

    path: str
    line: int
    problem: str
    key: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


@dataclass(frozen=True)
class StyleRule:
    """A rule: its name, the function that finds violations, and how to fix one."""

    name: str
    find: Callable[[Repository], Iterable[StyleViolation]]
    fix: str
