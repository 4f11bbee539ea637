"""Values between playbooks and Postgres: plain data on one side, what the driver takes and gives on the other.

A list of nothing but texts, numbers or booleans is bound as an array, any other list and every object as jsonb.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from noetl.executor.errors import ActionError
from noetl.executor.model.sql import Identifier


def quoted(name: str) -> str:
    """The name of a table or column as SQL wants it.

    Raises:
        ActionError: `ParameterError`, when it cannot be one.
    """
    if not name or "\0" in name:
        raise ActionError("ParameterError", f"{name!r} cannot be an identifier", retryable=False)
    return Identifier(name).quoted


def bound_all(params: Any) -> Any:
    """An object or a list with its values as they are bound."""
    if isinstance(params, Mapping):
        return {name: bound(value) for name, value in params.items()}
    return [bound(value) for value in params]


def bound(value: Any) -> Any:
    """A plain value as the driver takes it."""
    from psycopg.types.json import Jsonb

    if not isinstance(value, dict | list):
        return value
    kinds = {_kind(item) for item in value if item is not None} if isinstance(value, list) else {None}
    if kinds <= {int, float} and len(kinds) == 2:
        # An array has one type, and a float cannot be every integer.
        return [None if item is None else Decimal(repr(item)) for item in value]
    return value if len(kinds) <= 1 and kinds <= {bool, int, float, str} else Jsonb(value)


def _kind(item: Any) -> type | None:
    """The type of what an array can hold, texts of every kind being one, or None."""
    return next((kind for kind in (bool, int, float, str) if isinstance(item, kind)), None)


def row_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as a playbook sees it."""
    return {name: plain(value) for name, value in row.items()}


def plain(value: Any) -> Any:
    """A value of Postgres as JSON can say it.

    Numerics become numbers where nothing is lost and text where something would be, times ISO 8601, intervals seconds,
    bytes base64, and what JSON knows nothing of is text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)
