"""Plain values: what JSON can say. How they are read, and how they look as text. Standard library only."""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_LEAVES = (str, int, float, bool, type(None))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def read_json(text: str) -> Any:
    """The value that `text` says.

    Raises:
        ValueError: it is not JSON, says a number no JSON value can be, or text that UTF-8 cannot carry.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\ud" in text.lower():
            write_json(value).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair") from None
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise ValueError("it has a number of too many digits") from None
        raise
    return value


def write_json(value: Any) -> str:
    """`value` as compact JSON.

    Raises:
        ValueError: it is not a plain value.
    """
    try:
        return _encode(value)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def to_json_value(value: Any) -> Any:
    """`value` where JSON can say it, else how Python shows it."""
    try:
        write_json(value)
    except ValueError:
        return repr(value)
    return value


def to_text(value: Any) -> str:
    """`value` as commands, addresses and forms want it: text as it is, none as nothing, the rest as JSON."""
    if isinstance(value, str):
        return str(value)
    return "" if value is None else write_json(value)


def round_trip_json(value: Any) -> Any:
    """A value as it is read again from the JSON that was written of it, in which lists are lists and keys are text."""
    if type(value) in _LEAVES:
        return value
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: round_trip_json(item) for key, item in value.items()}
    return json.loads(json.dumps(value))
