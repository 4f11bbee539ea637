"""JSON texts of megabytes, which are read and written in parts.

Problem: the parser and the writer of Python hold the lock of the interpreter until they have finished. With
eight megabytes this takes 100 ms, in which all requests and all other runs of the process wait.

Algorithm: a container is read in windows of PART characters. The text up to the last comma of a window that
may end an element is read as a container of its own. If it is one, the comma was between two elements: inside
a string or an inner container, the text would not be complete. Otherwise the elements of the window are read
one by one. An element that does not fit into a window is read in the same way. A value is written in batches
of elements that are short together. Threads of the background give way between two parts.

Cost: texts of one part are read and written as before. For larger ones, windows that are parsed again are
counted. After four times the length of the text, or of what was written, the rest is done in one piece. So
containers that are nested on purpose take a few times as long as before, and not a hundred times.

Errors: the parser of Python reads a short text, and its error and position are returned. The short text has
one element in place of those that were read, and then the rest.

Limits: one string is read in one piece.

A value can be much shorter than its text: a list may have one string many times, and an escape has six
characters. So a text with a limit is measured before it is written (`json_length`), if it may be too long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from noetl.executor.model.json_length import JsonForm, TooLongError, has_integers_beyond, measure_json
from noetl.executor.precedence import wait_for_slice

PART = 64 * 1024
"""Characters of a window. Most are read within a millisecond."""

BATCH = 512
"""Elements that are written together."""

REPETITIONS = 4
"""How many times its length a text may be read again."""

FIRST_DESCENTS = 128
"""Into how many containers the writer may look before it has written anything."""

_DECODER = json.JSONDecoder()
"""The parser of `json.loads`."""

_SPACE = re.compile(r"[ \t\n\r]*")
_CONTAINERS = (dict, list, tuple)
_SCALARS = {str, int, float, bool, type(None)}
_ELEMENT_SIZE = 4
_SHORT_BITS = 64
"""How many bits an integer has at most that is no longer than other elements."""
_LONG = 1 << _SHORT_BITS


def read_large_json(
    text: str,
    part: int = PART,
    decoder: json.JSONDecoder = _DECODER,
    check: Callable[[], object] | None = None,
) -> Any:
    """Return the value of a JSON text, as `decoder.decode` does.

    Call `check` before each part of a large text.

    Raises:
        json.JSONDecodeError: the text is not JSON.
    """
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
    if len(text) <= part:
        return decoder.decode(text)
    reader = _TextReader(text, part, decoder, check)
    start = _skip_space(text, 0)
    try:
        value, end = reader.read_value(start)
    except (ValueError, IndexError, RecursionError):
        reader.raise_error()
        return decoder.decode(text)
    end = _skip_space(text, end)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


class _ReadingPlace:
    """The place of a reader in a container: the next element, or what follows an element."""

    def __init__(self, closing: str, index: int) -> None:
        self.closing = closing
        self.index = index
        self.has_elements = False
        self.follows_element = False

    def short_text(self, *, is_innermost: bool) -> str:
        """Return a short text that leads a parser to this place."""
        is_list = self.closing == "]"
        text = "[" if is_list else "{"
        if self.has_elements:
            # The digits of a number might continue in the rest of the text.
            text += '""' if is_list else '"":""'
            text += "" if self.follows_element else ","
        return text if is_list or is_innermost else text + '"":'


class _TextReader:
    """Reader of the values of a text. Its methods return the index behind what they have read."""

    def __init__(
        self, text: str, part: int, decoder: json.JSONDecoder, check: Callable[[], object] | None
    ) -> None:
        self._text = text
        self._part = part
        self._decoder = decoder
        self._check = check
        self._places: list[_ReadingPlace] = []
        """The places in all open containers, the innermost last."""
        self._budget = REPETITIONS * len(text)
        """Characters that may be read again."""

    def read_value(self, start: int) -> tuple[Any, int]:
        """Return the value at an index."""
        self._budget -= 2 * self._part
        opening = self._text[start] if self._budget >= 0 else ""
        if opening == "[":
            items: list[Any] = []
            return items, self._read_container(start + 1, "]", items, self._read_items)
        if opening == "{":
            members: dict[str, Any] = {}
            return members, self._read_container(start + 1, "}", members, self._read_members)
        return self._decoder.raw_decode(self._text, start)

    def _read_container(self, index: int, closing: str, found: Any, read: Callable[[int, Any], int]) -> int:
        """Add the elements of a container to `found`, with a function that adds those of a window."""
        index = _skip_space(self._text, index)
        place = _ReadingPlace(closing, index)
        self._places.append(place)
        while self._text[index] != closing or found:
            wait_for_slice()
            if self._check is not None:
                self._check()
            place.index, place.follows_element = index, False
            index = _skip_space(self._text, read(index, found))
            place.index, place.follows_element, place.has_elements = index, True, True
            if self._text[index] == closing:
                break
            if self._text[index] != ",":
                raise ValueError("a comma is missing")
            index = _skip_space(self._text, index + 1)
        self._places.pop()
        return index + 1

    def raise_error(self) -> None:
        """Raise the error of the parser for the rest of the text.

        Raises:
            json.JSONDecodeError: the text is not JSON.
        """
        if not self._places:
            return
        index = self._places[-1].index
        short = "".join(place.short_text(is_innermost=False) for place in self._places[:-1])
        short += self._places[-1].short_text(is_innermost=True)
        try:
            self._decoder.decode(short + self._text[index:])
        except json.JSONDecodeError as error:
            is_before = error.pos < len(short)  # a comma before the end of a container
            position = self._text.rfind(",", 0, index) if is_before else index + error.pos - len(short)
            raise json.JSONDecodeError(error.msg, self._text, position) from None

    def _read_items(self, index: int, items: list[Any]) -> int:
        for end in self._find_ends(index):
            batch = self._read_together(f"[{self._text[index:end]}]")
            if batch is not None:
                items += batch
                return end
        window, start, done = self._text[index : index + self._part], 0, 0
        with suppress(ValueError, IndexError):  # The next one does not end in the window.
            while True:
                value, end = self._decoder.raw_decode(window, start)
                separator = _find_separator(window, end)
                items.append(value)
                done = end
                if window[separator] != ",":
                    break
                start = _skip_space(window, separator + 1)
        if done:
            return index + done
        value, end = self.read_value(index)
        items.append(value)
        return end

    def _read_members(self, index: int, members: dict[str, Any]) -> int:
        for end in self._find_ends(index):
            batch = self._read_together(f"{{{self._text[index:end]}}}")
            if batch is not None:
                members.update(batch)
                return end
        window, start, done = self._text[index : index + self._part], 0, 0
        with suppress(ValueError, IndexError):
            while True:
                name, start = _read_name(window, start)
                value, end = self._decoder.raw_decode(window, start)
                separator = _find_separator(window, end)
                members[name] = value
                done = end
                if window[separator] != ",":
                    break
                start = _skip_space(window, separator + 1)
        if done:
            return index + done
        name, start = _read_name(self._text, index)
        members[name], end = self.read_value(start)
        return end

    def _find_ends(self, index: int) -> Iterator[int]:
        """Yield the indices of up to two commas of a window that may be between two elements."""
        text, limit = self._text, index + self._part
        last = text.rfind(",", index, limit)
        for opening, closing in (("{", "},"), ("[", "],")):
            if text.find(opening, index, limit) >= 0:
                end = text.rfind(closing, index, limit) + 1
                if index < end < last:
                    yield end
                break
        if last > index:
            yield last

    def _read_together(self, text: str) -> Any:
        """Return the value of the whole text, which has elements, or None if it is not JSON."""
        try:
            value, end = self._decoder.raw_decode(text, 0)
        except ValueError:
            return None
        return value if end == len(text) else None


def _skip_space(text: str, index: int) -> int:
    found = _SPACE.match(text, index)
    assert found is not None
    return found.end()


def _find_separator(text: str, index: int) -> int:
    """Return the index of the comma or bracket that follows an element, whose end is at an index.

    Raises:
        ValueError: neither of them follows. A number may continue.
    """
    index = _skip_space(text, index)
    if text[index] not in ",]}":
        raise ValueError("a comma is missing")
    return index


def _read_name(text: str, index: int) -> tuple[str, int]:
    """Return the name of a member, and the index of its value."""
    if text[index] != '"':
        raise ValueError("a name is missing")
    name, end = _DECODER.raw_decode(text, index)
    colon = _skip_space(text, end)
    if text[colon] != ":":
        raise ValueError("a colon is missing")
    return name, _skip_space(text, colon + 1)


def write_large_json(value: Any, encode: Callable[[Any], str], part: int = PART) -> str:
    """Return the text that `encode` returns for a value, which is compact JSON."""
    return "".join(_TextWriter(encode, part).write(value)) if is_large(value, part) else encode(value)


def write_within(value: Any, form: JsonForm, limit: int) -> str:
    """Return the text of a value in a form of JSON.

    Raises:
        TooLongError: it is longer than `limit`, which is a number of bytes.
    """
    if is_large(value):
        return "".join(_write_within(value, form, limit))
    text = form.encode(value)
    if _utf8_length(text) > limit:
        raise TooLongError(limit)
    return text


def encode_within(value: Any, form: JsonForm, limit: int) -> bytes:
    """Return the text of `write_within` in UTF-8.

    A character outside of Latin-1 makes each character of a text take more memory, but not each byte.

    Raises:
        TooLongError: it has more than `limit` bytes.
    """
    if is_large(value):
        return b"".join([text.encode() for text in _write_within(value, form, limit)])
    data = form.encode(value).encode()
    if len(data) > limit:
        raise TooLongError(limit)
    return data


def write_sorted(value: Any, encode: Callable[[Any], str]) -> Iterator[str]:
    """Yield the text of a value in parts. `encode` sorts the members of objects, whose names are texts."""
    return _TextWriter(encode, PART, sorts=True).write(value)


def begin_large_json(value: Any, encode: Callable[[Any], str], length: int, part: int = PART) -> str:
    """Return the first characters of the text of `write_large_json`: at least `length`, if it has so many."""
    texts: list[str] = []
    for text in _TextWriter(encode, part).write(value):
        texts.append(text)
        length -= len(text)
        if length <= 0:
            break
    return "".join(texts)


def is_longer(value: Any, form: JsonForm, limit: int) -> bool:
    """Return whether the text of a value in a form of JSON is longer than a limit."""
    if not is_large(value, limit // form.max_escape):
        return False
    try:
        measure_json(value, form, limit)
    except TooLongError:
        return True
    return False


def _write_within(value: Any, form: JsonForm, limit: int) -> Iterator[str]:
    """Yield the text of a large value in parts, if it is within the limit."""
    if is_longer(value, form, limit):
        raise TooLongError(limit)
    length = 0
    for text in _TextWriter(form.encode, PART).write(value):
        length += _utf8_length(text)
        if length > limit:
            raise TooLongError(limit)
        yield text


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class _TextWriter:
    """Writer of values in parts."""

    def __init__(self, encode: Callable[[Any], str], part: int, *, sorts: bool = False) -> None:
        self._encode = encode
        self._part = part
        self._sorts = sorts
        self._budget = FIRST_DESCENTS * 2 * part
        """Characters that may be counted again. A list that contains itself has no end."""

    def write(self, value: Any) -> Iterator[str]:
        """Yield the text of a value in parts."""
        wait_for_slice()
        if isinstance(value, str) and len(value) > self._part:
            yield from self._write_text(value)
            return
        is_object = isinstance(value, dict)
        is_container = is_object or isinstance(value, list | tuple)
        self._budget -= 2 * self._part
        if self._budget < 0 or not is_container or not is_large(value, self._part):
            yield self._write_together(value)
            return
        items = value if not is_object else sorted(value.items()) if self._sorts else value.items()
        elements, separator = iter(items), ""
        yield "{" if is_object else "["
        while batch := list(islice(elements, BATCH)):
            joined = dict(batch) if is_object else batch
            if not is_large(joined, self._part):
                wait_for_slice()
                yield separator + self._write_together(joined)[1:-1]
                separator = ","
                continue
            for element in batch:
                yield separator
                if is_object:
                    yield from self._write_name(element[0])
                yield from self.write(element[1] if is_object else element)
                separator = ","
        yield "}" if is_object else "]"

    def _write_name(self, name: Any) -> Iterator[str]:
        """Yield the text of the name of a member, with its colon."""
        if not isinstance(name, str) or len(name) <= self._part:
            yield self._encode({name: 0})[1:-2]
            return
        yield from self._write_text(name)
        yield ":"

    def _write_text(self, text: str) -> Iterator[str]:
        """Yield a long string in parts: each character is escaped by itself."""
        yield '"'
        for start in range(0, len(text), self._part):
            wait_for_slice()
            yield self._write_together(text[start : start + self._part])[1:-1]
        yield '"'

    def _write_together(self, value: Any) -> str:
        text = self._encode(value)
        self._budget += REPETITIONS * len(text)
        return text


def _integer_size(values: list[Any], kinds: set[type]) -> int:
    """Return the characters of integers that are longer than other elements, with a price for the longest.

    The text of an integer of 4,300 digits takes as long as that of many others of as many digits together.
    """
    if not has_integers_beyond(_LONG, values, kinds):
        return 0
    bits = sum(map(int.bit_length, [value for value in values if isinstance(value, int)]))
    return bits // 3 if bits > _SHORT_BITS * len(values) else 0


def is_large(value: Any, part: int = PART) -> bool:
    """Return whether a value has more than `part` characters of JSON, or nearly.

    >>> is_large(["abc"] * 4, 10), is_large({"a": [1, 2]}, 100)
    (True, False)
    """
    size, level = 0, [value]
    while level and size <= part:
        kinds = {*map(type, level)}
        if str in kinds:
            size += sum(len(text) for text in level if isinstance(text, str))
        if int in kinds:
            size += _integer_size(level, kinds)
        containers = (
            [] if kinds <= _SCALARS else [element for element in level if isinstance(element, _CONTAINERS)]
        )
        size += _ELEMENT_SIZE * sum(map(len, containers))
        if size > part:
            break
        level = []
        for container in containers:
            if isinstance(container, dict):
                size += sum(len(name) for name in container if isinstance(name, str))
                level += container.values()
            else:
                level += container
    return size > part
