"""The budget of an evaluation: a limit on the work of an expression, charged before the work is done.

Problem: expressions come from untrusted authors and run in the process of the service. `'x' * 10**9`, a
comparison of nested shared lists, or a regular expression can take all memory or block a thread. Python
cannot interrupt a single built-in operation, so a limit that is checked afterwards comes too late.

Algorithm: resource metering by prepaid units, as gas in the Ethereum virtual machine (Wood, "Ethereum: A
Secure Decentralised Generalised Transaction Ledger", 2014). Each operation computes an upper bound of its
cost from the sizes of its operands, and charges it before it runs. A unit pays for a byte of memory, or for
1.5 ns. So the budget ends after about 100 ms, whatever an expression does. Operations on short values have
constant prices. A loop pays those of its body for all rounds in advance (see `evaluator`), so they need no
charge when they run.

At least every UNITS_PER_CHECK units, `charge` reads the CPU clock of the thread, which is an additional
limit. At the same time it checks whether the evaluation must stop because its step has ended (`stop_when`).
`watchdog` interrupts work that never charges.

Cost: one subtraction and one comparison per charge. A size is computed level by level, in about as long as
the C encoder of JSON takes for the same value.

Limits: BUDGET units and CPU_SECONDS per evaluation. Evaluations in `shared_budget` share one budget and
SHARED_SECONDS. Single values are limited by MAX_TEXT, MAX_ITEMS and MAX_INTEGER_BITS. Past a limit, `charge`
raises LimitExceeded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from contextlib import contextmanager
from itertools import chain, islice
from operator import gt
from typing import Any

from jinja2.exceptions import TemplateRuntimeError
from jinja2.runtime import Undefined

from noetl.planner.templates.functions import describe

MAX_TEXT = 8 * 1024 * 1024
"""How many characters a text may have."""
MAX_ITEMS = 1_000_000
"""How many items a list may have."""
MAX_INTEGER_BITS = 4096
BUDGET = 64 * 1024 * 1024
"""How many units an evaluation may use."""
CPU_SECONDS = 1.0
"""How long an evaluation may take. Only a slow machine, or a price that is too low, reaches it."""
SHARED_SECONDS = 10.0
"""How long all evaluations with a shared budget may take together."""
UNITS_PER_CHECK = 256 * 1024
"""How many units are used at most between two checks of the clock and of `stop_when`."""

SHORT = 64
"""How many characters a text may have, so that operations on it have a constant price."""
COMPARABLE = 1024
"""How many characters a text may have, so that comparisons with it have a constant price."""

MAX_BLOCK = 64
"""How many items of an unread list are charged and read together."""

LIST_ITEM_UNITS = 10
CHARACTER_TEXT_UNITS = 72
"""The price of a text of one character beyond Latin-1. Python has the others once."""
LIST_UNITS = 512
MAPPING_UNITS = 768
NUMBER_UNITS = 32
VALUE_UNITS = 72
"""The price of visiting a value within another one, and of comparing it."""
CONTAINER_UNITS = 96
"""The price of visiting a list or mapping within another one, without its values."""
WALK_UNITS = 6144
"""The price of a walk through a value, however small it is."""
CONVERSION_UNITS = 128
"""The price of the conversion of one value, of any type, to text or to JSON values."""
SHOWN_VALUE_UNITS = 128
"""The price of the text of a value within another one, in addition to its characters."""
DECIMAL_UNITS = 192
"""The price of the text of a decimal number."""
SEARCHED_ITEM_UNITS = 8
SEARCHED_PAIRS_PER_UNIT = 16
"""How many comparisons of two characters one unit pays for, where a text is searched for another one."""
COMPARED_BITS_PER_UNIT = 64
"""How many bits of two integers that differ at their ends one unit pays for."""
COMPARED_CHARACTERS_PER_UNIT = 32
ORDER_UNITS = 14
"""The price of the comparison of one number with the next, which shows how far a list is in order."""
SORTED_TEXT_UNITS = 224
"""The price of the key of one value that is a text, where values are sorted."""
WIDE_COPY_UNITS = 3
"""The price of a character of a copy in lower case that takes 4 bytes, in addition to that of one."""
WIDE_CASE_UNITS = 12
"""The price of what Python keeps for each character of one text while it makes the copy."""
SORTED_OTHER_UNITS = 64
"""The price of the key of one value that is neither scalar nor text, where values are sorted."""
SORTED_KEY_UNITS = 10
"""The price of the comparisons of one key in each pass of a sort, for keys in any order."""
PASS_UNITS = 48
"""The price of the comparison of one key, where values are not sorted."""
MIN_COLUMN = 64
"""Of how many objects the values under one name are visited together."""
SHORT_BITS = 256
"""How many bits an integer may have, so that operations on it have a constant price."""
BIT_PAIRS_PER_UNIT = 512
"""How many pairs of bits one unit pays for, where an operation combines each bit with each."""
WRITTEN_BIT_PAIRS_PER_UNIT = 1024
"""The same for the text of an integer that a result has. It is written more often than once."""
DIGIT_PAIRS_PER_UNIT = 64
"""How many pairs of decimal digits one unit pays for, where a text is converted to an integer."""
MAX_DIGITS = 4300
"""How many decimal digits Python converts to an integer."""
HASH_BOUND = 2**60
"""The first integer that may have the hash of another one. Below it, each has a hash of its own."""

SCALARS = frozenset({int, float, bool, type(None)})
_NUMBERS = frozenset({int, float, bool})
_LARGE = 1 << SHORT_BITS
_TEXTS = frozenset({str})
_LISTS = frozenset({list, tuple})
_SIZED = frozenset({dict, list, tuple, range})
_VIEWS = (list, tuple, ValuesView, KeysView, ItemsView)


class LimitExceeded(TemplateRuntimeError):
    """An expression exceeds a limit of size or time."""


class EvaluationStopped(BaseException):
    """The end of an evaluation from outside. `reason` is the exception that the evaluation raises.

    It is no Exception, so that no filter of Jinja2 takes it for a failure of its own.
    """

    def __init__(self, reason: Exception) -> None:
        super().__init__(reason)
        self.reason = reason


FindStop = Callable[[], Exception | None]
"""A function that returns why an evaluation must stop, or None. Any thread may call it."""


def _never() -> None:
    return None


class Usage:
    """The units of the evaluations on a thread. Deadlines are CPU seconds of the thread.

    `granted` units may be used before the next check, and `left` of them have not been used.
    """

    __slots__ = ("deadline", "find_stop", "granted", "is_shared", "left", "shared_deadline")

    def __init__(self) -> None:
        self.granted = 0
        self.left = 0
        self.deadline = math.inf
        self.is_shared = False
        self.shared_deadline = math.inf
        self.find_stop: FindStop = _never


class _Thread(threading.local):
    """The usage of this thread. Its attributes are not those of the thread, which take longer to reach."""

    def __init__(self) -> None:
        self.usage = Usage()


_thread = _Thread()


def current_usage() -> Usage:
    """Return the usage of this thread."""
    return _thread.usage


def start_budget() -> None:
    """Start the time of the next evaluation on this thread, and its budget unless it shares one.

    The first units are granted at once, unless the shared time is used up, or the evaluation must stop.
    """
    usage = _thread.usage
    used = usage.granted - usage.left if usage.is_shared else 0
    now = time.thread_time()
    usage.deadline = min(now + CPU_SECONDS, usage.shared_deadline)
    may_begin = now < usage.shared_deadline and usage.find_stop() is None
    usage.left = max(min(UNITS_PER_CHECK, BUDGET - used), 0) if may_begin else 0
    usage.granted = used + usage.left


def used_units() -> int:
    """Return how many units the evaluation on this thread has used."""
    usage = _thread.usage
    return usage.granted - usage.left


@contextmanager
def shared_budget() -> Iterator[None]:
    """Let all evaluations in this block share one budget, because their results are held together."""
    usage = _thread.usage
    if usage.is_shared:
        yield
        return
    usage.granted = usage.left = 0
    usage.is_shared = True
    usage.shared_deadline = time.thread_time() + SHARED_SECONDS
    try:
        yield
    finally:
        usage.is_shared = False
        usage.shared_deadline = math.inf


@contextmanager
def stop_when(find_stop: FindStop) -> Iterator[None]:
    """Stop the evaluations in this block on this thread when `find_stop` returns an exception, and raise it.

    The conditions of enclosing blocks count as well.
    """
    usage = _thread.usage
    outer = usage.find_stop
    usage.find_stop = find_stop if outer is _never else lambda: outer() or find_stop()
    try:
        yield
    finally:
        usage.find_stop = outer


def current_limits() -> tuple[float, FindStop]:
    """Return the deadline of the evaluation on this thread, in its CPU seconds, and what may stop it."""
    usage = _thread.usage
    return usage.deadline, usage.find_stop


def charge(units: int) -> None:
    """Subtract `units` from the budget of the evaluation.

    Raises:
        LimitExceeded: the budget or the time is used up.
        EvaluationStopped: the evaluation must stop.
    """
    usage = _thread.usage
    left = usage.left - units
    usage.left = left
    if left < 0:
        _check()


def _check() -> None:
    """Grant the next units, unless the evaluation must end."""
    usage = _thread.usage
    used = usage.granted = used_units()
    usage.left = 0
    if used > BUDGET:
        raise LimitExceeded("the expression creates too much data")
    reason = usage.find_stop()
    if reason is not None:
        raise EvaluationStopped(reason)
    now = time.thread_time()
    if now > usage.deadline:
        if now > usage.shared_deadline:
            raise LimitExceeded(f"the expressions together take more than {SHARED_SECONDS:g} s")
        raise LimitExceeded(f"the expression takes more than {CPU_SECONDS:g} s")
    usage.left = min(UNITS_PER_CHECK, BUDGET - used)
    usage.granted = used + usage.left


def charge_text(length: int, *, is_ascii: bool = True) -> None:
    """Charge for the creation of a text of `length` characters. Beyond ASCII, each may take 4 bytes."""
    if length > MAX_TEXT:
        raise LimitExceeded(f"the expression creates a text of more than {MAX_TEXT:,} characters")
    charge(length if is_ascii else 4 * length)


def charge_items(length: int, units_per_item: int = 1) -> None:
    """Charge for the creation or the iteration of a list of `length` items."""
    if length > MAX_ITEMS:
        raise LimitExceeded(f"the expression creates a list of more than {MAX_ITEMS:,} items")
    charge(units_per_item * length)


def charge_bits(bits: int) -> None:
    """Refuse integers of more than MAX_INTEGER_BITS bits."""
    if bits > MAX_INTEGER_BITS:
        raise LimitExceeded("the expression creates a number that is too large")


def charge_digits(number: int) -> None:
    """Charge for the conversion of an integer to text, which takes quadratic time."""
    bits = number.bit_length()
    if bits > SHORT_BITS:
        charge(bits * bits // BIT_PAIRS_PER_UNIT)


def charge_written(values: Sequence[Any], kinds: set[type]) -> None:
    """Charge for the JSON of the long integers among the values of a result, which is written afterwards."""
    if int in kinds:
        numbers = values if len(kinds) == 1 else [value for value in values if type(value) is int]
        if max(map(int.bit_length, numbers)) > SHORT_BITS:
            charge(sum(number.bit_length() ** 2 // WRITTEN_BIT_PAIRS_PER_UNIT for number in numbers))


def charge_product(left: int, right: int) -> None:
    """Charge for a multiplication or a division of integers, which takes quadratic time."""
    pairs = left.bit_length() * right.bit_length()
    if pairs > SHORT_BITS * SHORT_BITS:
        charge(pairs // BIT_PAIRS_PER_UNIT)


def charge_number_text(text: str) -> None:
    """Charge for the conversion of a text to an integer. Python converts at most MAX_DIGITS digits."""
    length = min(len(text), MAX_DIGITS)
    if length > SHORT:
        charge(length * length // DIGIT_PAIRS_PER_UNIT)


def charge_large_numbers(numbers: Sequence[Any]) -> None:
    """Charge for the digits of numbers that are added, unless all of them are short."""
    if numbers and not -_LARGE < min(numbers) <= max(numbers) < _LARGE:
        charge(sum(number.bit_length() // 16 for number in numbers if isinstance(number, int)))


def charge_each(items: Any, units: int = 1) -> Any:
    """Return the items to iterate over, and charge for each: in advance if their number is known.

    An item of a range is a new number.
    """
    usage = _thread.usage
    kind = type(items)
    if kind is range:
        units += NUMBER_UNITS
    elif kind not in _SIZED and not (hasattr(kind, "__len__") and hasattr(kind, "__iter__")):
        return _charge_next(iter(items), units)
    number = len(items)
    if number > MAX_ITEMS:
        charge_items(number)
    left = usage.left - units * number  # `charge`, without a call
    usage.left = left
    if left < 0:
        _check()
    return items


def charge_rounds(items: Any, units: int) -> Any:
    """Return the items of a loop, and charge for all rounds as `charge_each` does.

    A long loop still checks the clock and `stop_when` after every UNITS_PER_CHECK units.
    """
    charged = charge_each(items, units)
    if charged is items and units * len(items) > UNITS_PER_CHECK:
        return _check_in_blocks(iter(items), max(1, UNITS_PER_CHECK // units))
    return charged


def _check_in_blocks(items: Iterator[Any], block: int) -> Iterator[Any]:
    while batch := list(islice(items, block)):
        _check()
        yield from batch


def _charge_next(items: Iterator[Any], units: int) -> Iterator[Any]:
    """Yield the items, and charge for them in blocks."""
    for block in _read_blocks(items, units):
        yield from block


def _read_blocks(items: Iterator[Any], units: int) -> Iterator[list[Any]]:
    """Yield the items in blocks, which are charged before. A block is at most as long as those before."""
    count, size = 0, 1
    while True:
        charge(units * size)
        block = list(islice(items, size))
        count += len(block)
        if count > MAX_ITEMS:
            charge_items(count)
        yield block
        if len(block) < size:
            return
        size = min(2 * size, MAX_BLOCK)


def read_items(items: Any, units: int = 1) -> Sequence[Any]:
    """Return the items as a list, a tuple or a view, and charge for each."""
    if hasattr(type(items), "__next__"):
        return list(chain.from_iterable(_read_blocks(items, units)))
    items = charge_each(items, units)
    if isinstance(items, list | tuple):
        return items
    if isinstance(items, str) and not items.isascii():
        charge(CHARACTER_TEXT_UNITS * len(items))
    return list(items)


CountCharacters = Callable[[Sequence[str]], int]
"""A function that returns how many characters texts have together, in a form of its own."""


def _count_characters(texts: Sequence[str]) -> int:
    return sum(map(len, texts))


def _count_shown(texts: Sequence[str]) -> int:
    """Return a bound of the characters of texts within the text of a list.

    Python writes four characters for a control character, and up to ten for any other that it does not print.
    """
    text = _join(texts)
    length = len(text) + text.count("\\") + text.count("'")
    if text.isprintable():
        return length
    for start in range(0, len(text), _SHOWN_BLOCK):
        block = text[start : start + _SHOWN_BLOCK]
        if not block.isprintable():
            ascii_bytes = block.encode("ascii", "ignore")
            length += 9 * (len(block) - len(ascii_bytes))
            length += 3 * (len(ascii_bytes) - len(ascii_bytes.translate(None, _UNPRINTED)))
    return length


def _count_json(texts: Sequence[str]) -> int:
    """Return the characters of texts as JSON, at most."""
    text = _join(texts)
    length = len(text) + text.count('"') + text.count("\\")
    controls = _count_bytes(text, _CONTROLS)
    if controls:
        length += 5 * controls - 4 * _count_bytes(text, _SHORT_CONTROLS)
    return length


def _join(texts: Sequence[str]) -> str:
    """Return texts as one, and charge for it. In a text with others than ASCII, each takes 4 bytes."""
    length = _count_characters(texts)
    if length > MAX_TEXT:
        charge_text(length)
    text = "".join(texts)
    charge(length if text.isascii() else 4 * length)
    return text


_CONTROLS = bytes(range(32))
_SHORT_CONTROLS = b"\b\t\n\f\r"
"""The controls that JSON writes with two characters instead of six."""
_UNPRINTED = _CONTROLS + b"\x7f"
_BLOCK = 64 * 1024
_SHOWN_BLOCK = 1024


def _count_bytes(text: str, wanted: bytes) -> int:
    """Return how many characters of a text are among some of ASCII."""
    count = 0
    for start in range(0, len(text), _BLOCK):
        block = text[start : start + _BLOCK].encode(errors="surrogatepass")
        count += len(block) - len(block.translate(None, wanted))
    return count


def measure(
    value: Any,
    indent: int = 0,
    refuse: Callable[[Any], None] | None = None,
    count_characters: CountCharacters = _count_characters,
) -> tuple[int, int]:
    """Return the number of values inside a value, and the characters of its texts and of an indentation.

    A shared list counts as often as it occurs. `refuse` receives what is neither text, number nor container.
    The walk goes level by level, because the functions of Python then loop over each level in C. Of many
    objects with as many members, each column is a group of its own: its values often have one type.

    >>> start_budget()
    >>> measure({"a": [1, "xyz"]})
    (4, 4)

    Raises:
        LimitExceeded: the walk exceeds the budget.
    """
    charge(WALK_UNITS)
    level = _Level([(value,)])
    count = characters = depth = 0
    while True:
        level.visit(refuse)
        names, length = level.measure_names(refuse, count_characters)
        count += names
        characters += length + indent * (depth + 1) * names
        if level.texts:
            characters += count_characters(level.texts)
        size = level.charge_parts()
        if size == 0:
            return count, characters
        depth += 1
        count += size
        characters += indent * depth * size
        level = level.next()


class _Level:
    """The values of one level within a value, in groups. After the visit, they are divided by their kinds."""

    __slots__ = ("groups", "lists", "mappings", "texts")

    def __init__(self, groups: Iterable[Sequence[Any]]) -> None:
        self.groups = groups
        self.texts: list[str] = []
        self.lists: list[Any] = []
        self.mappings: list[Sequence[Mapping[Any, Any]]] = []

    def visit(self, refuse: Callable[[Any], None] | None) -> None:
        """Divide the values by their kinds. With `refuse`, charge for the texts of numbers."""
        for group in self.groups:
            kinds = set(map(type, group))
            if refuse is not None:
                _charge_number_texts(group, kinds)
            for kind in kinds - SCALARS:
                members: Sequence[Any] = (
                    group if len(kinds) == 1 else [item for item in group if type(item) is kind]
                )
                if issubclass(kind, str):
                    self.texts += members
                elif issubclass(kind, _VIEWS):
                    self.lists += members
                elif issubclass(kind, Mapping):
                    self.mappings.append(members)
                elif refuse is not None:
                    for member in members:
                        refuse(member)

    def measure_names(
        self, refuse: Callable[[Any], None] | None, count_characters: CountCharacters
    ) -> tuple[int, int]:
        """Return the number of values in the keys of mappings, and the characters of those that are no texts.

        Those that are texts are added to the texts of this level.
        """
        count = characters = 0
        for members in self.mappings:
            charge(2 * VALUE_UNITS * sum(map(len, members)))
            names = list(chain.from_iterable(members))
            if set(map(type, names)) <= _TEXTS:
                self.texts += names
                count += len(names)
            else:
                number, length = measure(names, 0, refuse, count_characters)
                count += number
                characters += length
        return count, characters

    def charge_parts(self) -> int:
        """Charge for the values within those of this level, and return how many there are."""
        size = sum(map(len, self.lists))
        containers = len(self.lists)
        for members in self.mappings:
            size += sum(map(len, members))
            containers += len(members)
        charge(VALUE_UNITS * size + CONTAINER_UNITS * containers)
        return size

    def next(self) -> _Level:
        """Return the level of the values within those of this level."""
        groups: list[Sequence[Any]] = []
        rest: list[Iterable[Any]] = [*self.lists]
        for members in self.mappings:
            if len(members) >= MIN_COLUMN and type(members[0]) is dict and len({*map(len, members)}) == 1:
                groups += zip(*(member.values() for member in members), strict=True)
            else:
                rest += [member.values() for member in members]
        groups.append(list(chain.from_iterable(rest)))
        return _Level(groups)


def _charge_number_texts(values: Sequence[Any], kinds: set[type]) -> None:
    """Charge for the texts of the numbers among the values, which have these types."""
    if float in kinds:
        charge(DECIMAL_UNITS * len(values))
    if int in kinds:
        numbers = values if len(kinds) == 1 else [value for value in values if type(value) is int]
        if not -_LARGE < min(numbers) <= max(numbers) < _LARGE:
            for number in numbers:
                charge_digits(number)


def charge_as_text(value: Any) -> None:
    """Charge for the text of a value before it is created.

    A shared list counts as often as it occurs.

    Raises:
        LimitExceeded: the text would be too long.
        TypeError: the value contains a function or an unread list, whose text would be an address.
    """
    kind = type(value)
    if kind is str:
        if len(value) > SHORT:
            charge_text(len(value), is_ascii=value.isascii())
    elif kind is int:
        charge_digits(value)
    elif kind not in SCALARS:
        _charge_shown(value, 0, _count_shown)


def charge_as_json(value: Any, indent: int) -> int:
    """Charge for the JSON of a value before it is created, and return about how many characters it has.

    Raises:
        LimitExceeded: the text would be too long.
        TypeError: the value contains a function or an unread list.
    """
    kind = type(value)
    if kind is int:
        charge_digits(value)
    if kind in SCALARS:
        return 0
    if kind is not str:
        return _charge_shown(value, indent, _count_json)
    if len(value) <= SHORT:
        return len(value)
    characters = _count_json((value,))
    charge_text(characters)
    return characters


def _charge_shown(value: Any, indent: int, count_characters: CountCharacters) -> int:
    count, characters = measure(value, indent, _refuse_address, count_characters)
    charge(SHOWN_VALUE_UNITS * count)
    charge_text(count + characters)
    return count + characters


def _refuse_address(value: Any) -> None:
    """Refuse a value whose text is its address in memory."""
    if isinstance(value, Undefined):
        return
    if callable(value):
        raise TypeError("the value is a function: call it with `()`")
    if isinstance(value, Iterator):
        raise TypeError("the list has not been read yet: add `| list`")


def charge_search(
    text: str, wanted: str, *, length: int | None = None, from_end: bool = False, searches: int = 1
) -> None:
    """Charge for the comparisons of searches, in addition to a charge for each character of the text.

    Python compares what is wanted with each place of a text, from the end at any length. In a longer text it
    takes linear time, but the last places may remain if what is wanted is a large part. They also remain for
    `searches` that continue after what was found. The `length` is that of the part which is searched.
    """
    size = len(wanted)
    length = len(text) if length is None else length
    compared = _COMPARED_PLACES if size < _MIN_LONG_WANTED else _COMPARED_PLACES_OF_LONG
    places = max(length - size + 1, 0)
    if not from_end and length >= compared:
        places = min(places, compared) if searches > 1 or 4 * size >= length else 0
    pairs = places * size
    if pairs > length:
        # A place is left at once unless it has the first and the last character of what is wanted.
        pairs = min(pairs, size * min(text.count(wanted[0]), text.count(wanted[-1])))
    charge(searches * (pairs // SEARCHED_PAIRS_PER_UNIT))


_MIN_LONG_WANTED = 100
_COMPARED_PLACES = 30_000
_COMPARED_PLACES_OF_LONG = 2_500
"""How many places Python 3.13 may compare before its search is linear, by the length of what is wanted."""


def charge_integers(numbers: Sequence[Any], kinds: set[type], passes: int) -> None:
    """Charge for the comparisons of values in some passes, as far as some of them are long integers."""
    if int in kinds:
        integers = numbers if len(kinds) == 1 else [number for number in numbers if type(number) is int]
        bits = sum(map(int.bit_length, integers))
        if bits > SHORT_BITS * len(integers):
            charge(passes * (bits // COMPARED_BITS_PER_UNIT))


def charge_comparison(value: Any) -> Any:
    """Charge for a comparison with the value or for its hash, and return the value."""
    kind = type(value)
    if kind is str:
        if len(value) > COMPARABLE:
            charge(len(value) // COMPARED_CHARACTERS_PER_UNIT)
    elif kind not in SCALARS:
        _, characters = measure(value)  # charges for each value
        charge(characters // COMPARED_CHARACTERS_PER_UNIT)
    return value


def contains(wanted: Any, container: Any) -> bool:
    """Return `wanted in container`, charged for at most one comparison with each item.

    A mapping finds its keys without a search.
    """
    kind = type(wanted)
    is_small = kind in SCALARS or (kind is str and len(wanted) <= COMPARABLE)
    kind = type(container)
    if not is_small:
        charge_comparison(wanted)
        if kind is str and type(wanted) is str:
            charge(len(wanted))  # a search for a long text prepares a table
            charge_search(container, wanted)
        if kind is not dict:
            charge_comparison(container)
    elif kind in _LISTS:
        if len(container) > SHORT:
            charge(SEARCHED_ITEM_UNITS * len(container))
            if type(wanted) is int and wanted.bit_length() > SHORT_BITS:
                charge(wanted.bit_length() // COMPARED_BITS_PER_UNIT * len(container))
    elif kind is str:
        if len(container) > SHORT:
            charge(len(container))
            if type(wanted) is str:
                charge_search(container, wanted)
    elif kind is not dict and not isinstance(container, Mapping):
        charge_comparison(container)
    return wanted in container


def charge_slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    """Return `value[start:stop:step]`, charged before it is created."""
    bounds = slice(start, stop, step)
    if isinstance(value, str | list | tuple):
        length = len(range(*bounds.indices(len(value))))
        if not isinstance(value, str):
            charge_items(length, LIST_ITEM_UNITS)
        elif length > SHORT:
            charge_text(length, is_ascii=value.isascii())
    elif not isinstance(value, range | Undefined):
        # An object would read the hash of the bounds.
        _refuse_address(value)
        raise TypeError(f"`[a:b]` needs a list or a text, not {describe(value)}")
    return value[bounds]


def to_charged_text(value: Any) -> str:
    """Return the value as text, and charge for it before it is created."""
    if type(value) is not str:
        charge_as_text(value)
        return str(value)
    if len(value) > SHORT:
        charge_text(len(value), is_ascii=value.isascii())
    return value


def concatenate(parts: Sequence[Any], separator: str = "") -> str:
    """Return the parts as one text, and charge for it before it is created."""
    if set(map(type, parts)) != _TEXTS:
        parts = _to_texts(parts)
    length = sum(map(len, parts)) + len(separator) * max(len(parts) - 1, 0)
    if length > COMPARABLE:
        charge_text(length, is_ascii=separator.isascii() and all(map(str.isascii, parts)))
        return separator.join(parts)
    text = separator.join(parts)
    if length > SHORT:
        charge_text(length, is_ascii=text.isascii())
    return text


def _to_texts(parts: Sequence[Any]) -> list[str]:
    charge(3 * CONVERSION_UNITS * len(parts))
    texts: list[str] = []
    length = 0
    for part in parts:
        kind = type(part)
        texts.append(part if kind is str else to_charged_text(part))
        length += len(texts[-1])
        if length > MAX_TEXT:
            charge_text(length)
    return texts


def charge_sort(keys: Sequence[Any], *, sorts: bool) -> bool:
    """Charge for sorting values by these keys, and return whether all of them are scalars.

    Without `sorts`, charge for one pass over the keys. Text keys cost extra, because the filters create a
    lower-case copy of each.
    """
    kinds = set(map(type, keys))
    if kinds <= SCALARS:
        charge_integers(keys, kinds, 2)
        passes = _number_passes(keys, kinds) if sorts else 0
        charge_integers(keys, kinds, passes)
        charge(len(keys) * (passes * SORTED_KEY_UNITS if sorts else PASS_UNITS))
        return True
    if kinds == _TEXTS:
        count, characters, key_units = len(keys), sum(map(len, keys)), SORTED_TEXT_UNITS
    else:
        (count, characters), key_units = measure(keys), SORTED_OTHER_UNITS
    compared = characters // COMPARED_CHARACTERS_PER_UNIT
    if kinds == _TEXTS and not all(map(str.isascii, keys)):
        charge(WIDE_COPY_UNITS * characters + WIDE_CASE_UNITS * max(map(len, keys)))
    elif kinds != _TEXTS:
        charge(WIDE_COPY_UNITS * characters)
    if sorts:
        passes = _passes(len(keys))
        charge(
            key_units * len(keys) + characters + (SORTED_KEY_UNITS * len(keys) + count + compared) * passes
        )
    else:
        charge(CONVERSION_UNITS * len(keys) + characters + (count + compared) * PASS_UNITS)
    return False


def _passes(number: int) -> int:
    """Return how many times a sort merges a number of runs, which are in order."""
    return math.ceil(math.log2(number + 1))


def _number_passes(keys: Sequence[Any], kinds: set[type]) -> int:
    """Return how many passes a sort of scalars takes. Numbers that are in order already take one."""
    if not kinds <= _NUMBERS:
        return _passes(len(keys))
    charge(ORDER_UNITS * len(keys))
    falls = sum(map(gt, keys, islice(keys, 1, None)))
    return _passes(1 + min(falls, len(keys) - 1 - falls))
