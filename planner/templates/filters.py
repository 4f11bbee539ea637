"""The filters that are ours, and those of Jinja2 that are made anew because of what they would take."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime
from typing import Any

from jinja2 import Environment
from jinja2.filters import make_attrgetter
from jinja2.runtime import Undefined
from jinja2.utils import pass_environment
from noetl.planner.templates.budget import (
    MAX_ITEMS,
    LimitExceeded,
    bounded,
    built,
    charge,
    charge_items,
    charge_text,
    concatenated,
    copied,
    loop_items,
    measure,
    measured_text,
    searched,
    weighed,
)
from noetl.planner.templates.operators import add

MAX_PATTERN = 1_000
MAX_REPETITIONS = 10_000
MAX_TIME_TEXT = 200
REGEX_SECONDS = 1.0

JSON_VALUE = 32
"""What a value costs that is read from JSON, on top of its letters; a list or object costs twice that."""
LOOP_ITEMS = "noetl bounded"
CONCATENATE = "noetl concatenate"
WEIGHED = "noetl weighed"
SEARCHED = "noetl searched"
BUILT = "noetl built"
COPIED = "noetl copied"


class Raw(str):
    """Text that a sink takes as it is."""

    __slots__ = ()


class Identifier(str):
    """The name of a table or column, which an SQL sink quotes as such."""

    __slots__ = ()


def describe(value: object) -> str:
    """What a value is, in the words of a playbook's author."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        keys = [str(key) for key in list(value)[:8]]
        return f"an object with {', '.join(f'`{key}`' for key in keys)}" if keys else "an empty object"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    text, old, new = measured_text(text), measured_text(old), measured_text(new)
    times = text.count(old) if count is None or count < 0 else min(text.count(old), count)
    charge_text(len(text) + times * max(len(new) - len(old), 0))
    replaced: str = text.replace(old, new, -1 if count is None else count)
    return replaced


def join_texts(separator: str, items: Iterable[str]) -> str:
    return concatenated(bounded(items), separator)


def join(environment: Environment, value: Any, d: Any = "", attribute: Any = None) -> str:
    parts = bounded(value)
    return concatenated(
        parts if attribute is None else map(make_attrgetter(environment, attribute), parts), measured_text(d)
    )


@pass_environment
def _sum(
    environment: Environment, items: Iterable[Any], attribute: str | int | None = None, start: Any = 0
) -> Any:
    """The sum of numbers, or one list of many."""
    found = bounded(items)
    parts = found if attribute is None else map(make_attrgetter(environment, attribute), found)
    if not isinstance(start, list):
        for part in parts:
            start = add(start, part)
        return start
    whole = list(start)
    for part in parts:
        whole += bounded(part)
        if len(whole) > MAX_ITEMS:
            charge_items(len(whole))
    return whole


def _to_json(value: Any, indent: int | None = None) -> str:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if indent is not None and not 0 <= indent <= 16:
        raise ValueError("`tojson` indents by 0 to 16")
    measure(value, indent or 0)
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False, default=_json_default)
    charge_text(len(text))
    return text


def _json_default(value: object) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(bounded(value))
    raise TypeError(f"{describe(value)} cannot be written as JSON")


def _from_json(text: str) -> Any:
    # Counted in the text, because what it says is made in one go.
    values = text.count(",") + 2 * (text.count("[") + text.count("{"))
    charge(len(text) + JSON_VALUE * values)
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _b64encode(value: str) -> str:
    raw = measured_text(value).encode()
    charge_text(4 * len(raw) // 3)
    return base64.b64encode(raw).decode()


def _b64decode(value: str) -> str:
    charge_text(len(value))
    return base64.b64decode(value, validate=True).decode()


def _sha256(value: str) -> str:
    raw = measured_text(value).encode()
    charge(len(raw))
    return hashlib.sha256(raw).hexdigest()


def _regex_search(text: str, pattern: str) -> Any:
    """The first match: its groups as a list, or the whole match when the pattern has no groups, or none."""
    _check_pattern(pattern)
    charge(len(text))
    import regex

    try:
        match = regex.search(pattern, text, timeout=REGEX_SECONDS)
    except (regex.error, TimeoutError) as problem:
        raise _regex_problem(pattern, problem) from None
    if match is None:
        return None
    return list(match.groups()) if match.re.groups else match.group()


def _regex_replace(text: str, pattern: str, replacement: str = "") -> str:
    _check_pattern(pattern)
    import regex

    try:
        matches = sum(1 for _ in regex.finditer(pattern, text, timeout=REGEX_SECONDS))
        charge_text(len(text) + matches * (len(replacement) + len(text) * replacement.count("\\")))
        return regex.sub(pattern, replacement, text, timeout=REGEX_SECONDS)
    except (regex.error, TimeoutError) as problem:
        raise _regex_problem(pattern, problem) from None


def _check_pattern(pattern: str) -> None:
    """Compiling a pattern is not under its time limit, so its size is bounded, with bounded repetitions written out."""
    repetitions = math.prod(max(int(number), 1) for number in re.findall(r"(\d+)\s*\}", pattern)[:100])
    if len(pattern) > MAX_PATTERN or repetitions > MAX_REPETITIONS:
        raise LimitExceeded("the pattern is too large")


def _regex_problem(pattern: str, problem: Exception) -> Exception:
    if isinstance(problem, TimeoutError):
        return LimitExceeded(f"the pattern {pattern!r} takes longer than {REGEX_SECONDS:g} s")
    return ValueError(f"{pattern!r} is not a pattern: {problem}")


def _to_datetime(value: str | float | datetime, pattern: str | None = None) -> datetime:
    """A time from ISO 8601 text, from text in the `strptime` pattern given, or from seconds since the epoch; UTC unless it says."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    if isinstance(value, datetime):
        return value
    if len(value) > MAX_TIME_TEXT or len(pattern or "") > MAX_TIME_TEXT:
        raise LimitExceeded("the text or the pattern of `to_datetime` is too long")
    moment = datetime.strptime(value, pattern) if pattern else datetime.fromisoformat(value)  # noqa: DTZ007 - below
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _strftime(value: str | float | datetime, pattern: str) -> str:
    if len(pattern) > MAX_TIME_TEXT:
        raise LimitExceeded("the pattern of `strftime` is too long")
    return _to_datetime(value).strftime(pattern)


FILTERS: dict[str, Callable[..., Any]] = {
    "identifier": lambda value: Identifier(copied(measured_text(value))),
    "raw": lambda value: Raw(copied(measured_text(value))),
    "tojson": _to_json,
    "fromjson": _from_json,
    "b64encode": _b64encode,
    "b64decode": _b64decode,
    "sha256": _sha256,
    "regex_search": _regex_search,
    "regex_replace": _regex_replace,
    "to_datetime": _to_datetime,
    "strftime": _strftime,
    "sum": _sum,
    LOOP_ITEMS: loop_items,
    WEIGHED: weighed,
    SEARCHED: searched,
    BUILT: built,
    COPIED: copied,
    CONCATENATE: concatenated,
}
