"""Value classes: the values of a term, as far as the comparisons of a rule distinguish them.

Problem: A guard compares values that are unknown before the run. To decide which guards can be true together,
the solver (`noetl.planner.guards.solver`) needs a finite set of cases for each value.

Algorithm: Equivalence class partitioning. A *term* is a part of a guard with an unknown value. Values that no
comparison of the rule distinguishes form one class, for example all numbers between two constants of
comparisons. A set of classes is an integer with one bit per class. A test is true, false or an error for each
class; a value that is undefined raises an error whenever it is used.

Cost: Twice the number of constants, plus a fixed number of classes, for each term.

Limits: Terms are independent of each other. `a < b` is a term of its own (`pair_classes`), and so is each
expression that is no plain access.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

Scalar = str | int | float | bool | None
LiteralValue = Scalar | list[Any] | dict[Any, Any]
"""A value as the playbook writes it. Of a list or a mapping only the length is known."""

ClassSet = int
"""A set of value classes as a bit set."""

TruthClasses = tuple[ClassSet, ClassSet]
"""The classes for which a test is true, and those for which it is false."""

(
    UNDEFINED,
    OMITTED,
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
) = (1 << index for index in range(12))
_FIRST_NUMBER = 12
ABSENT = UNDEFINED | OMITTED
"""Without a value. `OMITTED` is what `a if b` gives where `b` is false. It is undefined too, but tests for
truth, equality and membership raise no error for it.
"""
BOOLEANS = FALSE | TRUE
LISTS = EMPTY_LIST | LIST
MAPPINGS = EMPTY_MAPPING | MAPPING
OBJECTS = FALSY_OBJECT | TRUTHY_OBJECT
"""Values that are not JSON data: times, functions, and iterators that filters return."""

NO_CLASSES: TruthClasses = (0, 0)


class ValueClasses:
    """The classes of one term that is compared with these constants.

    Numbers and texts are laid out in the same way. For each constant there is a class for the values between
    it and the constant before it, and the class of the constant. The last class lies above all constants.
    """

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
        # No text is less than the empty one, so the class below it is not part of `texts`.
        self._first_text = _FIRST_NUMBER + 2 * len(self._numbers) + 1
        self._end = self._first_text + 2 * len(self._texts) + 1
        self.numbers = _bit_range(_FIRST_NUMBER, self._first_text)
        self.texts = _bit_range(self._first_text + 1, self._end)
        self.all = (1 << _FIRST_NUMBER) - 1 | self.numbers | self.texts

    @property
    def size(self) -> int:
        """The number of classes."""
        return self._end

    def whole_numbers(self, least: float = -math.inf) -> ClassSet:
        """Return the classes that contain a whole number of at least `least`."""
        classes = 0
        bounds = [-math.inf, *self._numbers, math.inf]
        for index, (low, high) in enumerate(pairwise(bounds)):
            first = max(least, -math.inf if low == -math.inf else math.floor(low) + 1)
            if first < high:
                classes |= 1 << _FIRST_NUMBER + 2 * index
            if high >= least and high == high // 1:
                classes |= 1 << _FIRST_NUMBER + 2 * index + 1
        return classes & self.numbers

    @property
    def truth(self) -> TruthClasses:
        """The classes of a value used as a condition."""
        empty = EMPTY_LIST | EMPTY_MAPPING | FALSY_OBJECT | self._number(0) | self._text("")
        false = OMITTED | NONE | FALSE | empty
        return self.all & ~UNDEFINED & ~false, false

    def equal(self, constant: Scalar) -> TruthClasses:
        """Return the classes for `== constant`."""
        if constant is None:
            true = NONE
        elif isinstance(constant, str):
            true = self._text(constant)
        else:
            true = self._number(constant) | (TRUE if constant == 1 else FALSE if constant == 0 else 0)
        return true, self.all & ~UNDEFINED & ~true

    def ordered(self, operator: str, constant: Scalar) -> TruthClasses:
        """Return the classes for `lt`, `lteq`, `gt` or `gteq`, which compare numbers or texts only."""
        if constant is None:
            return NO_CLASSES
        if isinstance(constant, str):
            point, first, end = self._text(constant), self._first_text + 1, self._end
        else:
            point, first, end = self._number(constant), _FIRST_NUMBER, self._first_text
        index = point.bit_length() - 1
        lower, higher = _bit_range(first, index), _bit_range(index + 1, end)
        true = (lower if operator.startswith("lt") else higher) | (point if operator.endswith("eq") else 0)
        false = (lower | point | higher) & ~true
        if not isinstance(constant, str):
            false |= NAN
            for bit, value in ((FALSE, 0), (TRUE, 1)):
                if _COMPARE[operator](value, constant):
                    true |= bit
                else:
                    false |= bit
        return true, false

    def member_of(self, constants: Sequence[Scalar]) -> TruthClasses:
        """Return the classes for `in` a list of constants."""
        true = 0
        for constant in constants:
            true |= self.equal(constant)[0]
        return true, self.all & ~true & (~UNDEFINED if constants else -1)

    def of_type(self, test: str) -> TruthClasses:
        """Return the classes for `is` with a word of `TYPE_TESTS`. Undefined values raise no error there."""
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

    def describe(self, classes: ClassSet) -> str | None:
        """Return one value of these classes in words, of the type that the term is compared with if possible.

        >>> values = ValueClasses([3])
        >>> values.describe(values.ordered("gt", 3)[0])
        'more than `3`'
        """
        texts, numbers = list(self._describe_texts(classes)), list(self._describe_numbers(classes))
        ordered = [*texts, *numbers] if len(self._texts) > 1 else [*numbers, *texts]
        is_compared = len(self._texts) > 1 or len(self._numbers) > 1
        fixed = [word for bit, word in _WORDS if classes & bit]
        return next(iter([*ordered, *fixed] if is_compared else [*fixed, *ordered]), None)

    def _describe_numbers(self, classes: ClassSet) -> Iterator[str]:
        last = len(self._numbers) - 1
        for index, number in enumerate(self._numbers):
            if classes >> _FIRST_NUMBER + 2 * index + 1 & 1:
                yield f"`{number}`"
        for index, number in enumerate(self._numbers):
            if index and classes >> _FIRST_NUMBER + 2 * index & 1:
                yield f"between `{self._numbers[index - 1]}` and `{number}`"
        if classes >> _FIRST_NUMBER & 1:
            yield f"less than `{self._numbers[0]}`"
        if classes >> _FIRST_NUMBER + 2 * last + 2 & 1:
            yield f"more than `{self._numbers[last]}`"

    def _describe_texts(self, classes: ClassSet) -> Iterator[str]:
        for index, text in enumerate(self._texts):
            if text and classes >> self._first_text + 2 * index + 1 & 1:
                yield f"`{text}`"
        if any(classes >> self._first_text + 2 * index & 1 for index in range(1, len(self._texts) + 1)):
            yield "another text"
        if classes & self._text(""):
            yield "an empty text"

    def class_of(self, constant: LiteralValue) -> ClassSet:
        """Return the class of a constant."""
        if constant is None:
            return NONE
        if isinstance(constant, list):
            return LIST if constant else EMPTY_LIST
        if isinstance(constant, dict):
            return MAPPING if constant else EMPTY_MAPPING
        if isinstance(constant, bool):
            return TRUE if constant else FALSE
        return self._text(constant) if isinstance(constant, str) else self._number(constant)

    def _number(self, constant: float) -> ClassSet:
        return 1 << _FIRST_NUMBER + 2 * bisect_left(self._numbers, constant) + 1

    def _text(self, constant: str) -> ClassSet:
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


def compare_constants(operator: str, left: Scalar, right: Scalar) -> bool | None:
    """Return the result of comparing two constants; `None` if the comparison raises an error."""
    if operator == "eq":
        return left == right
    try:
        return bool(_COMPARE[operator](left, right))
    except TypeError:
        return None


LESS, EQUAL, GREATER, UNORDERED, IDENTICAL, DIFFERENT = (1 << index for index in range(6))
"""The results of comparing two terms. `UNORDERED` is a number and NaN, or two sets of which neither contains
the other. `IDENTICAL` and `DIFFERENT` are equal and unequal values that have no order.
"""
ALL_PAIRS = LESS | EQUAL | GREATER | UNORDERED | IDENTICAL | DIFFERENT


def pair_classes(operator: str) -> TruthClasses:
    """Return the classes for the comparison of two terms."""
    true = {
        "eq": EQUAL | IDENTICAL,
        "lt": LESS,
        "lteq": LESS | EQUAL,
        "gt": GREATER,
        "gteq": GREATER | EQUAL,
    }[operator]
    comparable = ALL_PAIRS if operator == "eq" else ALL_PAIRS & ~(IDENTICAL | DIFFERENT)
    return true, comparable & ~true


def _bit_range(first: int, end: int) -> ClassSet:
    """Return the bits from `first` up to but not including `end`."""
    return (1 << end) - (1 << first)
