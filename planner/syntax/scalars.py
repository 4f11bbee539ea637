"""Tag resolution of plain YAML scalars: their value in YAML 1.2, and where YAML 1.1 differs.

Problem: an unquoted scalar such as `no` or `0755` has a type that its text alone decides. YAML 1.1 and 1.2
decide differently, and many authors know only one of them.

Algorithm: regular expressions of the core schema give the value (YAML 1.2.2, 2021, section 10.3.2). Those of
the type repository of YAML 1.1 (2005) find a difference. A test of the first character skips both for
ordinary text.

Cost: O(length of the scalar).

Limits: values must be valid in JSON, so infinities and NaN are refused. Numbers have at most 400 digits.
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
# The specification of YAML 1.1 also has the booleans y and n, but no common reader implements them.
_TRUE_IN_1_1 = frozenset(["yes", "Yes", "YES", "on", "On", "ON"])
_FALSE_IN_1_1 = frozenset(["no", "No", "NO", "off", "Off", "OFF"])

RESOLVED_WORDS = frozenset(_VALUES) | _TRUE_IN_1_1 | _FALSE_IN_1_1
"""The plain scalars that YAML 1.1 or 1.2 does not read as text: words, the empty scalar and `~`."""

NUMERIC_STARTS = frozenset("+-.0123456789")
"""The first characters of all other plain scalars that are not text."""

# Python cannot print integers of more than 4,300 digits. No author writes numbers of such a length.
_MAX_DIGITS = 400

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
_DATE = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"|\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?"
)
_UNDERSCORED = re.compile(
    r"[-+]?(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*(?:\.[0-9_]*(?:[eE][-+][0-9]+)?)?|\.[0-9][0-9_]*)"
)
_BINARY = re.compile(r"[-+]?0b[01_]+")
_SIGNED_HEXADECIMAL = re.compile(r"[-+]0x[0-9a-fA-F_]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+")


def resolve_scalar(text: str) -> Scalar:
    """Return the value of a plain scalar in YAML 1.2.

    >>> [resolve_scalar(text) for text in ("no", "0755", "0o17", "1e3", "~", "1.2.3")]
    ['no', 755, 15, 1000.0, None, '1.2.3']

    Raises:
        ValueError: the scalar is a number that JSON cannot hold. The message names it.
    """
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
            raise ValueError(f"`{abbreviate(text)}` is too large for a JSON number")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"`{text}` is not a JSON number")
    return text


def _refuse_long_number(text: str) -> None:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"the number has more than {_MAX_DIGITS} digits")


def describe_yaml_1_1_value(text: str) -> str | None:
    """Return the value of a plain scalar in YAML 1.1, in words, or None if YAML 1.2 reads the same value.

    `0o17` and `1e3` return None although YAML 1.1 reads them as text: every author means numbers.

    >>> describe_yaml_1_1_value("no"), describe_yaml_1_1_value("0755"), describe_yaml_1_1_value("1e3")
    ('false', 'an octal number', None)
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
