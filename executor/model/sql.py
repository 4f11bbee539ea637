"""A statement of SQL in which data is data: text of the author, with values and identifiers apart from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Bind:
    """A value that is sent beside the statement."""

    value: Any


@dataclass(frozen=True, slots=True)
class SqlIdentifier:
    """The name of a table or column. It becomes one quoted identifier, dots included."""

    name: str

    @property
    def quoted(self) -> str:
        return '"' + self.name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Sql:
    """A statement in parts, in order. Text parts are the author's own words."""

    parts: tuple[str | Bind | SqlIdentifier, ...]
