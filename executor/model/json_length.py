"""The length of a value as compact JSON, without its text.

Problem: a value can be much shorter than its JSON. A list may have one text many times, and an escape has up
to twelve characters. A text that is written before its length is known may take all memory.

Algorithm: a depth-first walk in batches of elements. The texts of a batch are joined, and their escapes are
counted by functions of Python that run in C. Numbers are written, if they are short. The digits of a long
integer follow from its bits, because its text takes quadratic time.

Cost: about a nanosecond for each character of texts, and the writing of numbers. A walk ends as soon as the
limit is exceeded. It holds a batch for each level of nesting, and a part of one text.

Limits: MAX_LEVELS of nesting. A value that contains itself exceeds them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any, NamedTuple

from noetl.executor.precedence import wait_for_slice

MAX_LEVELS = 10_000
"""How many levels of lists and objects are measured."""

_BATCH = 512
_PART = 1 << 20
"""Characters of texts that are measured together."""

_ESCAPED = bytes(range(32)) + b'"\\'
"""The characters that a JSON string escapes: a few with a letter, as `\\n`, and the others with a number."""
_NUMBERED = bytes(set(range(32)) - set(b"\b\f\n\r\t"))
_NOT_ASCII = bytes(range(128, 256))
_PAIRED = bytes(range(0xF0, 0xF8))
"""The first bytes of the characters that JSON in ASCII writes as two escapes."""

_CONTAINERS = (dict, list, tuple)
_NUMBERS = frozenset({int, float, bool, type(None)})
_LONG = 1 << 1024
_DIGITS_PER_BIT = math.log10(2)


class TooLongError(ValueError):
    """A value whose text is longer than its limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"it is longer than {limit:,} bytes")


class JsonForm(NamedTuple):
    """A form of compact JSON: its writer, and a function that returns the length of a string without quotes.

    No character of a string has more than `max_escape`. `convert` returns data for what is not JSON.
    """

    encode: Callable[[Any], str]
    measure_text: Callable[[str], int]
    max_escape: int
    convert: Callable[[Any], Any] | None = None


def count_escapes(data: bytes) -> int:
    """Return how many characters a JSON string has more than its text, which is given in UTF-8."""
    escaped = len(data) - len(data.translate(None, _ESCAPED))
    return escaped and escaped + 4 * (len(data) - len(data.translate(None, _NUMBERED)))


def is_long_integer(value: Any) -> bool:
    """Return whether a value is an integer whose text takes much longer than it has characters."""
    return isinstance(value, int) and not -_LONG < value < _LONG


def has_integers_beyond(bound: int, values: Sequence[Any], kinds: set[type]) -> bool:
    """Return whether an integer among values, which have these types, is `bound` or `-bound` or beyond.

    It takes no call for each value.

    >>> has_integers_beyond(9, [1, None], {int, type(None)}), has_integers_beyond(9, [3, -9], {int})
    (False, True)
    """
    integers = values if kinds == {int} else [value for value in values if isinstance(value, int)]
    return bool(integers) and not -bound < min(integers) <= max(integers) < bound


def count_digits(number: int) -> int:
    """Return the length of the text of an integer, without its text.

    >>> count_digits(10**400), count_digits(-(10**400) + 1)
    (401, 401)

    Raises:
        ValueError: Python would not write it.
    """
    # A number of b bits has as many digits as 2**(b-1), or one more.
    digits = int((number.bit_length() - 1) * _DIGITS_PER_BIT) + 1
    digits += abs(number) >= _power_of_ten(digits)
    limit = sys.get_int_max_str_digits()
    if limit and digits > limit:
        raise ValueError(f"a number has more than {limit:,} digits")
    return digits + (number < 0)


@lru_cache(maxsize=64)
def _power_of_ten(exponent: int) -> int:
    return int(10**exponent)


def measure_characters(text: str) -> int:
    r"""Return how many characters a text has as a JSON string without quotes.

    >>> measure_characters("é\n\0")
    9
    """
    return len(text) + count_escapes(text.encode("utf-8", "surrogatepass"))


def measure_utf8(text: str) -> int:
    r"""Return how many bytes a text has as a JSON string in UTF-8, without quotes.

    >>> measure_utf8("é\n\0")
    10
    """
    data = text.encode("utf-8", "surrogatepass")
    return len(data) + count_escapes(data)


def measure_ascii(text: str) -> int:
    r"""Return how many characters a text has as a JSON string in ASCII, without quotes.

    >>> measure_ascii("é\n\0"), measure_ascii("😀"), measure_ascii("\x7f")
    (14, 12, 6)
    """
    data = text.encode("utf-8", "surrogatepass")
    length = count_escapes(data) + 5 * data.count(b"\x7f")
    if len(data) == len(text):
        return length + len(text)
    plain = len(data.translate(None, _NOT_ASCII))
    pairs = len(data) - len(data.translate(None, _PAIRED))
    return length + plain + 6 * (len(text) - plain + pairs)


def measure_json(value: Any, form: JsonForm, limit: int | None = None) -> int:
    """Return the length of a value in a form of JSON.

    Raises:
        TooLongError: it is longer than `limit`.
        TypeError, ValueError: JSON cannot represent the value.
        RecursionError: it has more than MAX_LEVELS.
    """
    meter = _Meter(form, limit)
    meter.measure(value)
    return meter.length


class _Meter:
    """The length of what was measured so far."""

    def __init__(self, form: JsonForm, limit: int | None) -> None:
        self.length = 0
        self._form = form
        self._limit = limit

    def measure(self, value: Any) -> None:
        """Add the length of a value."""
        levels: list[Iterator[Any]] = [iter((value,))]
        while levels:
            wait_for_slice()
            batch = list(islice(levels[-1], _BATCH))
            if not batch:
                levels.pop()
                continue
            if len(levels) > MAX_LEVELS:
                raise RecursionError
            containers = self._measure_batch(batch)
            if containers:
                levels.append(chain.from_iterable(map(_parts, containers)))

    def _measure_batch(self, batch: list[Any]) -> list[Any]:
        """Add the lengths of values, and return the containers among them, whose parts are not added."""
        kinds = set(map(type, batch))
        if kinds == {str}:
            self._add_texts(batch)
            return []
        if kinds <= _NUMBERS:
            self._add_numbers(batch, kinds)
            return []
        texts: list[str] = []
        numbers: list[Any] = []
        containers: list[Any] = []
        for value in batch:
            if isinstance(value, str):
                texts.append(value)
            elif isinstance(value, _CONTAINERS):
                containers.append(value)
            elif type(value) in _NUMBERS or self._form.convert is None:
                numbers.append(value)
            else:
                containers.append(_Converted(self._form.convert(value)))
        if texts:
            self._add_texts(texts)
        if numbers:
            self._add_numbers(numbers, kinds)
        for container in containers:
            self._add_brackets(container)
        return containers

    def _add_brackets(self, container: Any) -> None:
        """Add the brackets, commas, colons and names of a container."""
        if type(container) is _Converted:
            return
        count = len(container)
        self._add(1 + max(count, 1))
        if isinstance(container, dict):
            names = iter(container)
            while batch := list(islice(names, _BATCH)):
                self._add_names(batch)

    def _add_names(self, names: list[Any]) -> None:
        """Add the names of members, each with its colon."""
        texts = names if set(map(type, names)) == {str} else [name for name in names if isinstance(name, str)]
        self._add(len(names))
        self._add_texts(texts)
        if len(texts) < len(names):
            converted = [name for name in names if not isinstance(name, str)]
            self._add(sum(len(self._form.encode({name: 0})) - 4 for name in converted))

    def _add_numbers(self, numbers: list[Any], kinds: set[type]) -> None:
        """Add the lengths of what is neither text nor container, of the types of its batch."""
        if has_integers_beyond(_LONG, numbers, kinds):
            self._add(sum(map(count_digits, filter(is_long_integer, numbers))))
            numbers = [number for number in numbers if not is_long_integer(number)]
        if numbers:
            self._add(len(self._form.encode(numbers)) - 1 - len(numbers))

    def _add_texts(self, texts: Sequence[str]) -> None:
        self._add(2 * len(texts))
        for part in _join_parts(texts):
            self._add(self._form.measure_text(part))

    def _add(self, length: int) -> None:
        self.length += length
        if self._limit is not None and self.length > self._limit:
            raise TooLongError(self._limit)


class _Converted(NamedTuple):
    """The data that stands for a value which is not JSON."""

    value: Any


def _parts(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def _join_parts(texts: Sequence[str]) -> Iterator[str]:
    """Yield texts together, in parts."""
    if sum(map(len, texts)) <= _PART:
        yield "".join(texts)
        return
    for text in texts:
        for start in range(0, len(text), _PART):
            yield text[start : start + _PART]
