"""JSON values: how they are read, written, and converted to text. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from math import isfinite
from typing import Any, TypeVar

from noetl.executor.model.json_length import (
    JsonForm,
    TooLongError,
    measure_characters,
    measure_json,
    measure_utf8,
)
from noetl.executor.model.large_json import (
    begin_large_json,
    encode_within,
    is_large,
    is_longer,
    read_large_json,
    write_large_json,
    write_within,
)

V = TypeVar("V")

MAX_DEPTH = 100
"""The most levels of arrays and objects in data that enters a run."""

MAX_WRITTEN = 64 * 1024 * 1024
"""The most bytes of JSON that an action sends or writes: as many as the outputs of a step may have."""

MAX_URL = 65_536
"""The most characters of a URL, as in httpx. No longer value is encoded for one."""

MAX_ARGUMENT = 128 * 1024 - 1
"""The most characters of an argument or a variable of a command. Linux limits it to as many bytes."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string. One that never ends extends to the end, so no text is scanned twice."""

_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_DEPTH_CHANGE = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
write_short_json = _encode
"""Return a short value as compact JSON, without the checks of `write_json`."""

_IN_UTF8 = JsonForm(_encode, measure_utf8, 6)
_IN_CHARACTERS = JsonForm(_encode, measure_characters, 6)

_SCALARS = (str, int, float, bool, type(None))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _parse_finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"the number {text} is too large")
    return number


_STRICT_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_parse_finite)


class TooDeepError(ValueError):
    """A JSON text or value with more levels than `MAX_DEPTH`."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {MAX_DEPTH} levels deep")


def read_json(text: str, check: Callable[[], object] | None = None) -> Any:
    """Return the value of a JSON text. Call `check` before each part of a large one.

    Raises:
        ValueError: the text is not JSON, or has a number or a character that JSON in UTF-8 cannot represent.
        TooDeepError: it has more levels than `MAX_DEPTH`. It is not decoded.
    """
    brackets = text.count("[") + text.count("{")
    if brackets > MAX_DEPTH and nests_deeper(text.encode("utf-8", "surrogatepass"), MAX_DEPTH):
        raise TooDeepError
    try:
        value = read_large_json(text, decoder=_STRICT_DECODER, check=check)
        if "\\ud" in text.lower():
            write_json(value).encode()
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it contains half of a surrogate pair") from None
    except ValueError as error:
        if "int_max_str_digits" in str(error):
            raise ValueError("it contains a number with too many digits") from None
        raise
    return value


def nests_deeper(text: bytes | bytearray, limit: int) -> bool:
    """Return whether JSON text is nested more than `limit` levels deep, without decoding it.

    >>> nests_deeper(b'[[[0], "[[[["]]', 3), nests_deeper(b"[[[{", 3)
    (False, True)
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", text).translate(None, _NOT_BRACKETS)
    depths = accumulate(map(_DEPTH_CHANGE.__getitem__, brackets))
    return any(map(limit.__lt__, depths))


def is_too_deep(value: Any) -> bool:
    """Return whether a value has more than `MAX_DEPTH` levels of lists and objects.

    >>> is_too_deep([[{"a": []}]])
    False
    """
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(MAX_DEPTH):
        level = [
            part
            for container in level
            for part in (container.values() if isinstance(container, dict) else container)
            if isinstance(part, dict | list | tuple)
        ]
        if not level:
            return False
    return True


def write_json(value: Any, limit: int | None = None) -> str:
    """Return `value` as compact JSON.

    Raises:
        ValueError: JSON cannot represent the value.
        TooLongError: in UTF-8, it has more bytes than `limit`.
    """
    try:
        return write_large_json(value, _encode) if limit is None else write_within(value, _IN_UTF8, limit)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def encode_json(value: Any, limit: int = MAX_WRITTEN) -> bytes:
    """Return `value` as compact JSON in UTF-8.

    Raises:
        ValueError: JSON cannot represent the value.
        TooLongError: it has more than `limit` bytes.
    """
    try:
        return encode_within(value, _IN_UTF8, limit)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def is_longer_json(value: Any, limit: int) -> bool:
    r"""Return whether `value` as compact JSON has more bytes in UTF-8 than a limit. The text is not created.

    >>> is_longer_json(["\0" * 1_000_000] * 10, 60_000_000), is_longer_json(["abc"], 7)
    (True, False)

    Texts are counted exactly. A very long number may be counted as a short one.

    Raises:
        ValueError: JSON cannot represent the value.
    """
    try:
        return is_longer(value, _IN_UTF8, limit)
    except TypeError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def begin_json(value: Any, length: int) -> str:
    """Return the first characters of `value` as compact JSON: at least `length`, or all of it.

    >>> begin_json([1, 2], 100), len(begin_json(["a" * 1_000_000], 100_000)) < 200_000
    ('[1,2]', True)

    Raises:
        ValueError: JSON cannot represent the value.
    """
    return begin_large_json(value, _encode, length) if is_large(value) else write_json(value)


def escaped_length(text: str) -> int:
    r"""Return the length of a text as a JSON string without its quotes. The text is not encoded.

    >>> escaped_length("a\n\0é"), len(write_json("a\n\0é"))
    (10, 12)
    """
    return measure_json(text, _IN_CHARACTERS) - 2


def begin_and_measure(value: Any, length: int) -> tuple[str, int]:
    """Return the first `length` characters of `value` as compact JSON, and the number of all of them.

    >>> begin_and_measure([1, 2], 3)
    ('[1,', 5)

    Raises:
        ValueError: JSON cannot represent the value.
    """
    if not is_large(value):
        text = write_json(value)
        return text[:length], len(text)
    return begin_json(value, length)[:length], measure_json(value, _IN_CHARACTERS)


def measure_json_value(value: Any, convert: Callable[[Any], Any]) -> int:
    """Return the number of characters of `value` as compact JSON, without writing it.

    `convert` returns data for what JSON cannot represent.
    """
    return measure_json(value, _IN_CHARACTERS._replace(convert=convert))


def take_up_to(values: Iterable[V], measured: Callable[[V], Any], length: int) -> Iterator[V]:
    """Yield the first values for which the JSON of `measured` has at most `length` characters together.

    A value that alone is longer is left out.

    >>> list(take_up_to(["abcdefg", "ab", "cd", "ef"], str, 8))
    ['ab', 'cd']
    """
    total = 0
    for value in values:
        size = measure_json_value(measured(value), repr)
        if size > length:
            continue
        total += size
        if total > length:
            return
        yield value


def to_json_value(value: Any) -> Any:
    """Return `value` if JSON can represent it, else its `repr`.

    >>> to_json_value({1, 2})
    '{1, 2}'
    """
    try:
        if is_large(value):
            measure_json(value, _IN_UTF8)
        else:
            _encode(value)
    except (TypeError, ValueError, RecursionError):
        return repr(value)
    return value


def to_text(value: Any, limit: int | None = None) -> str:
    """Return `value` as text for commands, addresses and forms: text unchanged, None as "", the rest as JSON.

    >>> to_text("a"), to_text(None), to_text([1, True])
    ('a', '', '[1,true]')

    Raises:
        ValueError: JSON cannot represent the value.
        TooLongError: it is text of more characters than `limit`, or JSON of more bytes.
    """
    if isinstance(value, str):
        if limit is not None and len(value) > limit:
            raise TooLongError(limit)
        return str(value)
    if type(value) is int:
        return repr(value)
    return "" if value is None else write_json(value, limit)


def round_trip_json(value: Any) -> Any:
    """Return `value` as it is after it was written as JSON and read again.

    >>> round_trip_json({1: (2, 3)})
    {'1': [2, 3]}
    """
    if type(value) in _SCALARS:
        return value
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: round_trip_json(item) for key, item in value.items()}
    return json.loads(json.dumps(value))


def find_saved_result(result: Any, saved: Mapping[str, Any]) -> str | None:
    """Return the name of the saved value that a result is, or "" if it is all of `saved`, or None for others.

    >>> rows = [1]
    >>> [find_saved_result(result, {"n": rows}) for result in (rows, {"n": rows}, 2)]
    ['n', '', None]
    """
    if result is None:
        return None
    if (
        isinstance(result, dict)
        and list(result) == list(saved)
        and all(result[name] is saved[name] for name in saved)
    ):
        return ""
    return next((name for name, value in saved.items() if value is result), None)


def take_saved_result(name: str, saved: Mapping[str, Any]) -> Any:
    """Return the result for which `find_saved_result` has returned a name."""
    return saved[name] if name else saved
