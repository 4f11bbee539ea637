"""Plain YAML scalars: what YAML 1.2 (core schema) takes them for, and where YAML 1.1 took them for something else.

A plain scalar is one without quotes. Values are limited to what JSON can hold.
"""

from __future__ import annotations

import math
import re

from noetl.planner.diagnostics.wording import abbreviate

Scalar = str | int | float | bool | None

_VALUES: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# The letters y and n are booleans in the text of YAML 1.1 and in none of its common readers.
_TRUE_IN_1_1 = frozenset(["yes", "Yes", "YES", "on", "On", "ON"])
_FALSE_IN_1_1 = frozenset(["no", "No", "NO", "off", "Off", "OFF"])

WORDS = frozenset(_VALUES) | _TRUE_IN_1_1 | _FALSE_IN_1_1
"""The plain scalars that are not simply text although they begin with a letter (or are empty, or `~`)."""

NUMERIC_STARTS = frozenset("+-.0123456789")
"""The first characters of every other plain scalar that is not simply text."""

# Python refuses to print integers of more than 4,300 digits; nothing near that length is a number anybody wrote.
_LONGEST_NUMBER = 400

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?"
)
_UNDERSCORED = re.compile(
    r"[-+]?(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+][0-9]+)?)?|\.[0-9][0-9_]*)"
)
_BINARY = re.compile(r"[-+]?0b[01_]+")
_SIGNED_HEXADECIMAL = re.compile(r"[-+]0x[0-9a-fA-F_]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def resolve_scalar(text: str) -> Scalar:
    """The value of a plain scalar. Raises ValueError, with a sentence, for a number that JSON cannot hold."""
    if text in _VALUES:
        return _VALUES[text]
    if text[0] not in NUMERIC_STARTS:
        return text
    if _INTEGER.fullmatch(text):
        _refuse_long_number(text)
        return int(text, 0 if text[:2] in ("0o", "0x") else 10)
    if _FLOAT.fullmatch(text):
        _refuse_long_number(text)
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"`{abbreviate(text)}` is larger than any number JSON can hold")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"`{text}` is not a number JSON can hold")
    return text


def _refuse_long_number(text: str) -> None:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number has at most {_LONGEST_NUMBER} digits")


def describe_yaml_1_1_value(text: str) -> str | None:
    """What YAML 1.1 takes a plain scalar for, in words, where YAML 1.2 reads it differently; else None.

    `0o17` and `1e3`, which 1.1 takes for text, count as the same: nobody writes them to mean text.
    """
    if text in _TRUE_IN_1_1:
        return "true"
    if text in _FALSE_IN_1_1:
        return "false"
    if not text or text[0] not in NUMERIC_STARTS:
        return None
    if _SEXAGESIMAL.fullmatch(text):
        return "a number in base 60"
    if _DATE.fullmatch(text):
        return "a date"
    if _BINARY.fullmatch(text):
        return "a binary number"
    if _SIGNED_HEXADECIMAL.fullmatch(text):
        return "a hexadecimal number"
    if _LEADING_ZERO.fullmatch(text):
        return "text" if "8" in text or "9" in text else "an octal number"
    if "_" in text and _UNDERSCORED.fullmatch(text):
        return "a number"
    return None
