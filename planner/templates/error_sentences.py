"""The sentences in which a failed expression says what is wrong, instead of the words of Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_KINDS: Mapping[str, str] = {
    "NoneType": "none",
    "bool": "a boolean",
    "date": "a date",
    "datetime.date": "a date",
    "datetime.datetime": "a time",
    "datetime.timedelta": "a duration",
    "dict": "an object",
    "float": "a number",
    "int": "a number",
    "list": "a list",
    "str": "a text",
    "tuple": "a list",
}
"""The words of the language for the names of Python's types."""


def _kind(name: str) -> str:
    return _KINDS.get(name, f"a value of the type {name}")


def _refuse_operands(sign: str, left: str, right: str) -> str:
    advice = ""
    if sign == "+" and {left, right} <= {"str", "int", "float", "bool"}:
        advice = "; join texts with `~`"
    elif "NoneType" in (left, right):
        advice = "; give none another value with `default(0, true)`"
    return f"`{sign}` cannot take {_kind(left)} and {_kind(right)}{advice}"


_CONCATENATION = re.compile(r"can only concatenate (\S+) \(not \"(.+)\"\) to \S+")

_SENTENCES: tuple[tuple[re.Pattern[str], Callable[..., str]], ...] = (
    (
        re.compile(r"unsupported operand type\(s\) for (\S+)(?: or pow\(\))?: '(.+)' and '(.+)'"),
        _refuse_operands,
    ),
    (_CONCATENATION, lambda left, right: _refuse_operands("+", left, right)),
    (
        re.compile(r"'(\S+)' not supported between instances of '(.+)' and '(.+)'"),
        lambda sign, left, right: f"`{sign}` cannot compare {_kind(left)} with {_kind(right)}",
    ),
    (
        re.compile(r"can't multiply sequence by non-int of type '(.+)'"),
        lambda kind: f"`*` cannot multiply a text or a list by {_kind(kind)}",
    ),
    (
        re.compile(r"bad operand type for (?:unary )?([-+]|abs)(?:\(\))?: '(.+)'"),
        lambda sign, kind: f"`{sign}` needs a number, not {_kind(kind)}",
    ),
    (
        re.compile(r"type (\S+) doesn't define __round__ method"),
        lambda kind: f"`round` needs a number, not {_kind(kind)}",
    ),
    (
        re.compile(r"argument of type '(.+)' is not .+"),
        lambda kind: f"`in` needs a list, an object or a text, not {_kind(kind)}",
    ),
    (
        re.compile(r"'(.+)' object is not (?:iterable|reversible)"),
        lambda kind: f"it needs a list, not {_kind(kind)}",
    ),
    (
        re.compile(r"float\(\) argument must be .+, not '(.+)'"),
        lambda kind: f"it needs a number, not {_kind(kind)}",
    ),
    (
        re.compile(r"\S+\(\) missing \d+ required (?:positional|keyword-only) arguments?: (.+)"),
        lambda names: f"it needs an argument: {names.replace(chr(39), '`')}",
    ),
    (
        re.compile(r"\S+\(\) takes .+ positional arguments? but .+ given"),
        lambda: "it has too many arguments",
    ),
    (
        re.compile(r"\S+\(\) got an unexpected keyword argument '(.+)'(?:\..*)?"),
        lambda name: f"it has no argument `{name}`",
    ),
    (re.compile(r"object of type '(.+)' has no len\(\)"), lambda kind: f"{_kind(kind)} has no length"),
    (
        re.compile(r"'(.+)' object cannot be interpreted as an integer"),
        lambda kind: f"it needs a whole number, not {_kind(kind)}",
    ),
    (
        re.compile(r"'(.+)' object has no attribute 'items'"),
        lambda kind: f"it needs an object, not {_kind(kind)}",
    ),
    (
        re.compile(r"'(.+)' object has no attribute 'splitlines'"),
        lambda kind: f"it needs a text, not {_kind(kind)}; make it a text with `string`",
    ),
    (re.compile(r"slice indices must be .+"), lambda: "the bounds of `[a:b]` must be whole numbers"),
    (re.compile(r"\(34, .+\)"), lambda: "the number is too large"),
)
"""Each message of Python that an operator or a filter may cause, with the function of its sentence."""


def to_sentence(message: str) -> str:
    """Return the sentence for a message of Python, or the message itself if it is no such message.

    >>> to_sentence('can only concatenate str (not "int") to str')
    '`+` cannot take a text and a number; join texts with `~`'
    """
    for pattern, make_sentence in _SENTENCES:
        match = pattern.fullmatch(message)
        if match is not None:
            return make_sentence(*match.groups())
    return message
