"""Which values a term can have, as far as the comparisons of a rule can tell them apart.

A term is a part of a guard whose value is not known before a run. Its values fall into classes: all numbers between two
constants that it is compared with, say, are one, since no comparison has another outcome for one of them than for the
rest. A set of classes is an integer with a bit for each. What a test makes of a class is true, false, or neither, where it
raises; a value without a name raises whenever it is used.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

Scalar = str | int | float | bool | None
Outcomes = tuple[int, int]
"""The classes for which a test is true, and those for which it is false."""

(
    UNDEFINED,
    LEFT_OUT,
    NONE,
    FALSE,
    TRUE,
    NAN,
    EMPTY_LIST,
    LIST,
    EMPTY_MAPPING,
    MAPPING,
    FALSY_OBJECT,
    TRUTHY_OBJECT,
) = (1 << n for n in range(12))
_FIRST_NUMBER = 12
ABSENT = UNDEFINED | LEFT_OUT
"""Names without a value, and what `a if b` is where `b` is false: that has no value either, but may be looked at."""
BOOLEANS = FALSE | TRUE
LISTS = EMPTY_LIST | LIST
MAPPINGS = EMPTY_MAPPING | MAPPING
OBJECTS = FALSY_OBJECT | TRUTHY_OBJECT
"""What is not data: times, functions, what filters give that can be walked once."""

NOTHING: Outcomes = (0, 0)


class Classes:
    """The classes of one term, which is compared with these constants."""

    def __init__(self, constants: Iterable[Scalar] = ()) -> None:
        numbers: set[int | float] = {0}
        texts = {""}
        for constant in constants:
            if isinstance(constant, str):
                texts.add(constant)
            elif constant is not None:
                numbers.add(int(constant) if isinstance(constant, bool) else constant)
        self._numbers = sorted(numbers)
        self._texts = sorted(texts)
        # Below each constant lies a class of its own, and one above them all; below the empty text there is nothing.
        self._first_text = _FIRST_NUMBER + 2 * len(self._numbers) + 1
        self._end = self._first_text + 2 * len(self._texts) + 1
        self.numbers = _bits(_FIRST_NUMBER, self._first_text)
        self.texts = _bits(self._first_text + 1, self._end)
        self.all = (1 << _FIRST_NUMBER) - 1 | self.numbers | self.texts

    @property
    def size(self) -> int:
        """How many classes there are."""
        return self._end

    def whole_numbers(self, least: float = -math.inf) -> int:
        """The classes that have whole numbers from `least` on in them."""
        found = 0
        bounds = [-math.inf, *self._numbers, math.inf]
        for index, (low, high) in enumerate(pairwise(bounds)):
            first = max(least, -math.inf if low == -math.inf else math.floor(low) + 1)
            if first < high:
                found |= 1 << _FIRST_NUMBER + 2 * index
            if high >= least and high == high // 1:
                found |= 1 << _FIRST_NUMBER + 2 * index + 1
        return found & self.numbers

    @property
    def truth(self) -> Outcomes:
        false = (
            LEFT_OUT
            | NONE
            | FALSE
            | EMPTY_LIST
            | EMPTY_MAPPING
            | FALSY_OBJECT
            | self._number(0)
            | self._text("")
        )
        return self.all & ~UNDEFINED & ~false, false

    def equal(self, constant: Scalar) -> Outcomes:
        """For `== constant`."""
        if constant is None:
            true = NONE
        elif isinstance(constant, str):
            true = self._text(constant)
        else:
            true = self._number(constant) | (TRUE if constant == 1 else FALSE if constant == 0 else 0)
        return true, self.all & ~UNDEFINED & ~true

    def ordered(self, operator: str, constant: Scalar) -> Outcomes:
        """For one of `lt`, `lteq`, `gt`, `gteq`: only numbers are compared with numbers, and texts with texts."""
        if constant is None:
            return NOTHING
        if isinstance(constant, str):
            point, first, end = self._text(constant), self._first_text + 1, self._end
        else:
            point, first, end = self._number(constant), _FIRST_NUMBER, self._first_text
        at = point.bit_length() - 1
        below, above = _bits(first, at), _bits(at + 1, end)
        true = (below if operator.startswith("lt") else above) | (point if operator.endswith("eq") else 0)
        false = (below | point | above) & ~true
        if not isinstance(constant, str):
            false |= NAN
            for bit, value in ((FALSE, 0), (TRUE, 1)):
                if _COMPARE[operator](value, constant):
                    true |= bit
                else:
                    false |= bit
        return true, false

    def among(self, constants: Sequence[Scalar]) -> Outcomes:
        """For `in` a list of constants."""
        true = 0
        for constant in constants:
            true |= self.equal(constant)[0]
        return true, self.all & ~true & (~UNDEFINED if constants else -1)

    def of_type(self, test: str) -> Outcomes:
        """For `is`, followed by one of the words in `TYPE_TESTS`, which take what is undefined as any other value."""
        true = {
            "defined": self.all & ~ABSENT,
            "undefined": ABSENT,
            "none": NONE,
            "true": TRUE,
            "false": FALSE,
            "boolean": BOOLEANS,
            "number": self.numbers | NAN | BOOLEANS,
            "string": self.texts,
            "mapping": MAPPINGS,
        }[test]
        return true, self.all & ~true

    def described(self, mask: int) -> str | None:
        """One of the values in these classes, in words; of the kind that the term is compared with, if there is one."""
        texts, numbers = list(self._in_texts(mask)), list(self._in_numbers(mask))
        ordered = [*texts, *numbers] if len(self._texts) > 1 else [*numbers, *texts]
        compared = len(self._texts) > 1 or len(self._numbers) > 1
        fixed = [word for bit, word in _WORDS if mask & bit]
        return next(iter([*ordered, *fixed] if compared else [*fixed, *ordered]), None)

    def _in_numbers(self, mask: int) -> Iterator[str]:
        last = len(self._numbers) - 1
        for index, number in enumerate(self._numbers):
            if mask >> _FIRST_NUMBER + 2 * index + 1 & 1:
                yield f"`{number}`"
        for index, number in enumerate(self._numbers):
            if index and mask >> _FIRST_NUMBER + 2 * index & 1:
                yield f"between `{self._numbers[index - 1]}` and `{number}`"
        if mask >> _FIRST_NUMBER & 1:
            yield f"less than `{self._numbers[0]}`"
        if mask >> _FIRST_NUMBER + 2 * last + 2 & 1:
            yield f"more than `{self._numbers[last]}`"

    def _in_texts(self, mask: int) -> Iterator[str]:
        for index, text in enumerate(self._texts):
            if text and mask >> self._first_text + 2 * index + 1 & 1:
                yield f"`{text}`"
        if any(mask >> self._first_text + 2 * index & 1 for index in range(1, len(self._texts) + 1)):
            yield "another text"
        if mask & self._text(""):
            yield "an empty text"

    def holding(self, constant: Scalar) -> int:
        """The class of a constant."""
        if constant is None:
            return NONE
        if isinstance(constant, bool):
            return TRUE if constant else FALSE
        return self._text(constant) if isinstance(constant, str) else self._number(constant)

    def _number(self, constant: float) -> int:
        return 1 << _FIRST_NUMBER + 2 * bisect_left(self._numbers, constant) + 1

    def _text(self, constant: str) -> int:
        return 1 << self._first_text + 2 * bisect_left(self._texts, constant) + 1


TYPE_TESTS = frozenset(
    {"defined", "undefined", "none", "true", "false", "boolean", "number", "string", "mapping"}
)

_COMPARE: dict[str, Any] = {
    "lt": lambda left, right: left < right,
    "lteq": lambda left, right: left <= right,
    "gt": lambda left, right: left > right,
    "gteq": lambda left, right: left >= right,
}
_WORDS = (
    (TRUE, "true"),
    (FALSE, "false"),
    (NONE, "none"),
    (EMPTY_LIST, "an empty list"),
    (LIST, "a list"),
    (EMPTY_MAPPING, "an empty object"),
    (MAPPING, "an object"),
)


def compared(operator: str, left: Scalar, right: Scalar) -> bool | None:
    """What comparing two constants gives; None where it raises."""
    if operator == "eq":
        return left == right
    try:
        return bool(_COMPARE[operator](left, right))
    except TypeError:
        return None


LESS, EQUAL, GREATER, UNORDERED, SAME, OTHER = (1 << n for n in range(6))
"""How two terms can compare. `UNORDERED` is what a number is to no number, or a set of keys to another; `SAME` and `OTHER`
are equal and different things that have no order.
"""
ALL_PAIRS = LESS | EQUAL | GREATER | UNORDERED | SAME | OTHER


def pair(operator: str) -> Outcomes:
    """For the comparison of two terms."""
    true = {
        "eq": EQUAL | SAME,
        "lt": LESS,
        "lteq": LESS | EQUAL,
        "gt": GREATER,
        "gteq": GREATER | EQUAL,
    }[operator]
    return true, (ALL_PAIRS if operator == "eq" else ALL_PAIRS & ~(SAME | OTHER)) & ~true


def _bits(first: int, end: int) -> int:
    return (1 << end) - (1 << first)
