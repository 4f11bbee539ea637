"""Parameters that an action refuses: the refusal takes little memory, and its message is short."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from noetl.executor.actions import _formats, _postgres_values
from noetl.executor.errors import ActionError
from tests.action_calls import perform_action

WIDE = "'\U000e0001' * 3000000"
"""A text of 12 MB. As an escaped text, it has ten characters for each of its own."""

MAX_PEAK = 48_000_000
MAX_MESSAGE = 1_100


def find_peak(work: Callable[[], Any]) -> tuple[Any, int]:
    """Return the error that ends some work, or its result, and the most memory that it takes."""
    tracemalloc.start()
    try:
        try:
            outcome = work()
        except (ActionError, _formats.FormatError) as error:
            outcome = error
        return outcome, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def check_refusal(error: Any, peak: int, type: str) -> None:
    assert isinstance(error, ActionError), error
    assert error.type == type
    assert len(error.message) <= MAX_MESSAGE
    assert peak < MAX_PEAK


@pytest.mark.parametrize(
    ("action_type", "parameters", "type"),
    [
        ("http", {"url": "http://a", "method": "{{ %s }}"}, "ParameterError"),
        ("log", {"message": "a", "level": "{{ %s }}"}, "ParameterError"),
        ("file", {"read": "a", "format": "{{ %s }}"}, "ParameterError"),
        ("file", {"read": "{{ %s }}"}, "FileError"),
        ("file", {"read": "{{ '\0' * 8000000 }}"}, "FileError"),
        ("file", {"read": "{{ 'a/' * 2000000 }}"}, "FileError"),
        ("http", {"url": "http://a", "headers": "{{ {%s: 1} }}"}, "ParameterError"),
        ("http", {"url": "http://a", "headers": "{{ {'a' * 8000000: []} }}"}, "ParameterError"),
        ("http", {"url": "http://a:{{ '9' * 4000 }}"}, "ParameterError"),
        ("shell", {"command": "true", "env": "{{ {%s ~ '=': 1} }}"}, "ParameterError"),
        ("callback", {"heartbeat": "{{ %s }}"}, "ParameterError"),
        ("s3", {"get": "s3://a/{{ '/..' * 1000000 }}"}, "ParameterError"),
    ],
)
def test_a_refused_text_is_shown_by_its_beginning(
    action_type: str, parameters: dict[str, Any], type: str
) -> None:
    rendered = {
        name: value.replace("%s", WIDE) if isinstance(value, str) else value
        for name, value in parameters.items()
    }
    error, peak = find_peak(lambda: perform_action(action_type, **rendered))
    check_refusal(error, peak, type)


def test_a_refused_name_of_a_table_is_shown_by_its_beginning() -> None:
    error, peak = find_peak(lambda: _postgres_values.quote_identifier("\U000e0001" * 1_000_000 + "\0"))
    check_refusal(error, peak, "ParameterError")


def test_a_refused_column_is_shown_by_its_beginning() -> None:
    header = "\U000e0001" * 100_000
    error, _ = find_peak(lambda: _formats.decode(f"{header},{header}\n", "csv"))
    assert len(str(error)) < MAX_MESSAGE
