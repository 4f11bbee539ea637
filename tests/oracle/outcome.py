"""Outcomes of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AllowedOutcome:
    """An outcome that the language reference allows, in canonical JSON, so that outcomes can be compared."""

    status: str
    result_json: str
    errors_json: str
    visits_json: str
    order_json: str

    @classmethod
    def from_values(
        cls,
        status: str,
        result: Any,
        errors: Iterable[list[Any]],
        visits: Mapping[str, int],
        order: list[list[Any]],
    ) -> AllowedOutcome:
        """Return the outcome with these values."""
        values = (result, sorted(errors), dict(visits), order)
        return cls(status, *(json.dumps(value, sort_keys=True) for value in values))

    @property
    def result(self) -> Any:
        """The result of the run; null for a failed one."""
        return json.loads(self.result_json)

    @property
    def errors(self) -> list[list[str]]:
        """`[error type, step]` of each failure that no case handled, sorted; an entry's step is `output`."""
        return json.loads(self.errors_json)  # type: ignore[no-any-return]

    @property
    def visits(self) -> dict[str, int]:
        """The number of visits of each visited step, refused ones included."""
        return json.loads(self.visits_json)  # type: ignore[no-any-return]

    @property
    def order(self) -> list[list[Any]]:
        """`[step, visit number]` in the order in which visits begin, in sequential mode; else empty."""
        return json.loads(self.order_json)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class AllowedOutcomes:
    """The outcomes that an exploration has found."""

    outcomes: frozenset[AllowedOutcome]
    is_complete: bool
    races: frozenset[str] = frozenset()  # names of which two writes met that no order decides
