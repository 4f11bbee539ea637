"""Conversion of values between JSON and the Postgres driver.

A list of only texts, numbers or booleans becomes an array. Any other list and every object become `jsonb`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import MAX_WRITTEN, encode_json, is_longer_json
from noetl.executor.model.sql import SqlIdentifier
from noetl.planner.diagnostics.wording import quote_text


def quote_identifier(name: str) -> str:
    """Return the name of a table or column in double quotes.

    Raises:
        ActionError: `ParameterError`, if the name is empty or contains a NUL character.
    """
    if not name or "\0" in name:
        message = f"{quote_text(name)} cannot be an identifier"
        raise ActionError("ParameterError", message, retryable=False)
    return SqlIdentifier(name).quoted


def check_values(values: Any, limit: int = MAX_WRITTEN) -> None:
    """Refuse values that are too long together, before they are written for the driver.

    Raises:
        ActionError: `ParameterError`.
    """
    try:
        is_too_long = is_longer_json(values, limit)
    except ValueError as error:
        raise ActionError("ParameterError", f"the values are not JSON: {error}", retryable=False) from None
    if is_too_long:
        message = f"the values are longer than {limit:,} bytes of JSON"
        raise ActionError("ParameterError", message, retryable=False)


def to_parameters(params: Any) -> Any:
    """Convert the values of an object or a list for the driver."""
    if isinstance(params, Mapping):
        return {name: to_parameter(value) for name, value in params.items()}
    return [to_parameter(value) for value in params]


def to_parameter(value: Any) -> Any:
    """Convert a JSON value for the driver."""
    from psycopg.types.json import Jsonb

    if not isinstance(value, dict | list):
        return value
    types = {_array_type(item) for item in value if item is not None} if isinstance(value, list) else {None}
    if types <= {int, float} and len(types) == 2:
        # An array has one type, and a float cannot represent every integer.
        return [None if item is None else Decimal(repr(item)) for item in value]
    return value if len(types) <= 1 and types <= {bool, int, float, str} else Jsonb(value, encode_json)


def _array_type(item: Any) -> type | None:
    """Return the type of an array with this item, or None if an array cannot hold it.

    Subclasses of `str` count as `str`.
    """
    return next((type_ for type_ in (bool, int, float, str) if isinstance(item, type_)), None)


def to_plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row of Postgres to JSON values."""
    return {name: to_plain(value) for name, value in row.items()}


def to_plain(value: Any) -> Any:
    """Convert a value of Postgres to a JSON value.

    - numeric: a number if it can be exact, otherwise text
    - date and time: text in ISO 8601
    - interval: seconds
    - bytea: text in base64
    - types without a counterpart in JSON: text
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return _to_exact_number(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return str(value)


def _to_exact_number(value: Decimal) -> int | float | str:
    """Return the number, or its text if a float would lose digits.

    >>> [_to_exact_number(Decimal(text)) for text in ("10.00", "0.1", "0.1234567890123456789", "NaN")]
    [10, 0.1, '0.1234567890123456789', 'NaN']
    """
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)
