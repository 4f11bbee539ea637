"""Faults that are planted to show that fuzzing finds faults of their kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

from noetl.api.http import requests
from noetl.planner.syntax import reader
from noetl.planner.templates import evaluator, template


class PlantedFault(NamedTuple):
    """A fault in what a target calls, with an input that shows it. The fuzzer does not see the input."""

    target: str
    owner: Any
    attribute: str
    replacement: Callable[..., Any]
    example: bytes

    def plant(self) -> Any:
        """Return a context in which the fault exists."""
        return patch.object(self.owner, self.attribute, self.replacement)


_describe_error = evaluator.describe_error
_check_unusual_key = reader._DocumentReader._check_unusual_key
_refuse_tag = reader._DocumentReader._refuse_tag


def _describe_all_but_division(error: BaseException) -> str:
    if isinstance(error, ZeroDivisionError):
        raise error
    return _describe_error(error)


def _find_the_repeated_key(self: Any, data: Any, node: Any, collection: Any) -> Any:
    if isinstance(data, str) and data in collection.data:
        raise KeyError(data)
    return _check_unusual_key(self, data, node, collection)


def _read_the_name_of_the_tag(self: Any, event: Any) -> Any:
    event.tag.split("!")[2].upper()
    return _refuse_tag(self, event)


PLANTED: Mapping[str, PlantedFault] = {
    "a repeated key is looked up": PlantedFault(
        *("reader", reader._DocumentReader, "_check_unusual_key", _find_the_repeated_key),
        b"name: a\nname: b\n",
    ),
    "a tag is split": PlantedFault(
        "reader", reader._DocumentReader, "_refuse_tag", _read_the_name_of_the_tag, b"name: !a b\n"
    ),
    "a division by zero is not translated": PlantedFault(
        "templates", template, "describe_error", _describe_all_but_division, b"{{ number / 0 }}"
    ),
    "half a surrogate pair is accepted": PlantedFault(
        "bodies", requests, "_is_unicode", lambda _: True, b'["\\ud800"]'
    ),
    "an infinite number is accepted": PlantedFault("bodies", requests, "_parse_float", float, b"[1e999]"),
}
