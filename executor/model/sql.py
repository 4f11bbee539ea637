"""An SQL statement whose values and identifiers are separate from its text, so that data is never parsed as
SQL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MAX_STATEMENT = 8 * 1024 * 1024
"""The most characters of a statement: as many as a text of an expression."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A value that is sent separately from the statement."""

    value: Any


@dataclass(frozen=True, slots=True)
class SqlIdentifier:
    """The name of a table or column. It becomes one quoted identifier, dots included."""

    name: str

    @property
    def quoted(self) -> str:
        """The identifier in SQL.

        >>> SqlIdentifier('a"b').quoted
        '"a""b"'
        """
        return '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Sql:
    """A statement as a sequence of parts. Text parts are from the author of the playbook, not from data."""

    parts: tuple[str | Bind | SqlIdentifier, ...]
