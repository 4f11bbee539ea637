"""Parameters that an action refuses: the refusal takes little memory, and its message is short."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from noetl.executor.actions import _formats, _postgres_copy, _postgres_values, postgres
from noetl.executor.engine.event_buffer import EventBuffer
from noetl.executor.engine.kept_data import ActionCall, KeptData
from noetl.executor.errors import ActionError
from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.sql import Bind, Sql
from noetl.executor.security.capabilities import local_run_capabilities
from tests.action_calls import perform_action

WIDE = "'\U000e0001' * 3000000"
"""A text of 12 MB. As an escaped text, it has ten characters for each of its own."""

GROWING = r"['\x01' * 3000000 ~ '\U0001f600'] * 4"
"""A list with one text four times."""

MAX_PEAK = 48_000_000
MAX_MESSAGE = 1_100


def fill(value: Any, text: str) -> Any:
    """Return parameters in which `%s` is a text."""
    if isinstance(value, dict):
        return {name: fill(item, text) for name, item in value.items()}
    if isinstance(value, list):
        return [fill(item, text) for item in value]
    return value.replace("%s", text)


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
        ("shell", {"command": "true", "cwd": "{{ %s }}"}, "ParameterError"),
        ("shell", {"command": "true", "cwd": "{{ 'a' * 300 }}"}, "ParameterError"),
        ("shell", {"command": "true", "cwd": "{{ './' * 2100 }}"}, "ParameterError"),
        ("shell", {"command": "true", "cwd": "{{ '\0' * 8000000 }}"}, "ParameterError"),
        ("callback", {"heartbeat": "{{ %s }}"}, "ParameterError"),
        ("s3", {"get": "s3://a/{{ '/..' * 1000000 }}"}, "ParameterError"),
    ],
)
def test_a_refused_text_is_shown_by_its_beginning(
    action_type: str, parameters: dict[str, Any], type: str
) -> None:
    error, peak = find_peak(lambda: perform_action(action_type, **fill(parameters, WIDE)))
    check_refusal(error, peak, type)


@pytest.mark.parametrize(
    ("action_type", "parameters", "type"),
    [
        ("http", {"url": "http://a/{{ %s }}"}, "ParameterError"),
        ("http", {"url": "http://a/?q={{ %s }}"}, "ParameterError"),
        ("http", {"url": "http://a/{{ (%s) | raw }}"}, "ParameterError"),
        ("http", {"url": "http://a" + "/{{ 'x' * 20000 }}" * 5}, "ParameterError"),
        ("http", {"url": "http://a", "params": {"q": "{{ %s }}"}}, "ParameterError"),
        ("http", {"url": "http://a", "form": {"q": "{{ %s }}"}}, "ParameterError"),
        ("shell", {"command": 'echo {{ "\'" * 8000000 }}'}, "ParameterError"),
        ("shell", {"command": "echo" + " {{ 'x' * 50000 }}" * 5}, "ParameterError"),
        ("shell", {"command": ["echo", "{{ %s }}"]}, "ParameterError"),
        ("shell", {"command": "true", "env": {"A": "{{ %s }}"}}, "ParameterError"),
        ("shell", {"command": "{{ ['echo'] + ['x' * 130000] * 60 }}"}, "CommandFailed"),
    ],
)
def test_a_long_text_is_not_encoded_for_a_url_or_a_command(
    action_type: str, parameters: dict[str, Any], type: str
) -> None:
    error, peak = find_peak(lambda: perform_action(action_type, **fill(parameters, WIDE)))
    check_refusal(error, peak, type)


@pytest.mark.parametrize(
    ("action_type", "parameters", "type"),
    [
        ("http", {"url": "http://a/{{ %s }}"}, "ParameterError"),
        ("http", {"url": "http://a", "json": "{{ %s }}"}, "ParameterError"),
        ("http", {"url": "http://a", "params": {"q": "{{ {'a': %s} }}"}}, "ParameterError"),
        ("http", {"url": "http://a", "json": "{{ " + "[" * 25 + "%s" + "]" * 25 + " }}"}, "ParameterError"),
        ("http", {"url": "http://a", "json": r"{{ ['\x01' * 8000000] * 2 }}"}, "ParameterError"),
        ("http", {"url": "http://a", "json": "{{ [{'\x01' * 8000000: 1}] * 2 }}"}, "ParameterError"),
        ("shell", {"command": "true", "env": {"A": "{{ %s }}"}}, "ParameterError"),
        ("shell", {"command": "cat", "stdin": "{{ %s }}"}, "ParameterError"),
        ("python", {"function": "json:dumps", "args": ["{{ %s }}"]}, "ParameterError"),
        ("lambda", {"function": "f", "payload": "{{ %s }}"}, "ParameterError"),
        ("file", {"write": "a", "format": "csv", "content": "{{ [{'a': %s}] }}"}, "LimitExceeded"),
        ("file", {"write": "a", "format": "jsonl", "content": "{{ %s }}"}, "LimitExceeded"),
        ("file", {"write": "a", "format": "json", "content": "{{ %s }}"}, "LimitExceeded"),
    ],
)
def test_a_value_that_is_much_longer_as_json_is_not_written(
    action_type: str, parameters: dict[str, Any], type: str, tmp_path: Path
) -> None:
    """The value of `GROWING` takes 14 MB, and its text 288 MB."""
    capabilities = local_run_capabilities(tmp_path)
    error, peak = find_peak(
        lambda: perform_action(action_type, capabilities=capabilities, **fill(parameters, GROWING))
    )
    check_refusal(error, peak, type)


@pytest.mark.parametrize(
    "parameters", [{"message": "{{ %s }}"}, {"message": "m", "fields": "{{ {'a': %s} }}"}]
)
def test_a_log_line_has_the_beginning_of_a_long_value(parameters: dict[str, Any]) -> None:
    result, peak = find_peak(lambda: perform_action("log", **fill(parameters, GROWING)))
    assert result is None
    assert peak < MAX_PEAK


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": "x" * 8_000_000}] * 9,
        [{str(n): text for n in range(3)} for text in ["x" * 4_000_000]],
        [{"x" * 9_000_000: 1}],
    ],
)
def test_long_rows_are_measured_before_they_are_written(rows: list[Any]) -> None:
    error, peak = find_peak(lambda: _formats.encode(rows, "csv"))
    check_refusal(error, peak, "LimitExceeded")
    assert peak < 1_000_000


@pytest.mark.parametrize("count", [5_000, 30_000])
def test_rows_with_a_column_of_their_own_are_counted_before_they_are_written(count: int) -> None:
    rows = [{f"k{number}": 1} for number in range(count)]
    with pytest.raises(ActionError, match="more than 5,000,000 values"):
        _formats.encode(rows, "csv")


def test_a_long_document_has_no_indentation() -> None:
    numbers: Any = list(range(100_000))
    shallow, peak = find_peak(lambda: _formats.encode({"a": numbers}, "json"))
    assert shallow.startswith(b'{\n  "a": [\n    0,')
    for _ in range(90):
        numbers = [numbers]
    deep, peak = find_peak(lambda: _formats.encode(numbers, "json"))
    assert deep == json.dumps(numbers, separators=(",", ":")).encode() + b"\n"
    assert peak < 4_000_000


def test_a_refused_name_of_a_table_is_shown_by_its_beginning() -> None:
    error, peak = find_peak(lambda: _postgres_values.quote_identifier("\U000e0001" * 1_000_000 + "\0"))
    check_refusal(error, peak, "ParameterError")


def test_a_refused_column_is_shown_by_its_beginning() -> None:
    header = "\U000e0001" * 100_000
    error, _ = find_peak(lambda: _formats.decode(f"{header},{header}\n", "csv"))
    assert len(str(error)) < MAX_MESSAGE


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"query": "select" + " {{ ('x' * 5000000) | raw }}" * 3},
            "the statement is longer than 8,388,608 characters",
        ),
        ({"query": "select" + " {{ ('x' * 5000000) | identifier }}" * 3}, "the statement is longer than"),
        ({"query": "select {{ {'a': %s} }}"}, "the values are longer than 67,108,864 bytes of JSON"),
        ({"query": "select {{ ['\x01' * 8000000] * 2 }}"}, "the values are longer than"),
        ({"query": "select %(a)s", "params": {"a": "{{ %s }}"}}, "the values are longer than"),
        ({"query": "select %(a)s", "rows": [{"a": "{{ %s }}"}]}, "the values are longer than"),
    ],
)
def test_a_statement_is_measured_before_it_is_written(parameters: dict[str, Any], message: str) -> None:
    filled = {name: fill_growing(value) for name, value in parameters.items()}
    error, peak = find_peak(lambda: perform_action("postgres", connection="host=unused", **filled))
    check_refusal(error, peak, "ParameterError")
    assert message in error.message


def fill_growing(value: Any) -> Any:
    """Return parameters in which `%s` of a template is GROWING."""
    if isinstance(value, dict):
        return {name: fill_growing(item) for name, item in value.items()}
    if isinstance(value, list):
        return [fill_growing(item) for item in value]
    return value.replace("%s", GROWING) if "{{" in value else value


def test_values_that_all_rows_have_make_batches_short() -> None:
    rows = [{"a": n} for n in range(2_500)]
    short = postgres._divide(rows, {"query": Sql(("select ", Bind("x"))), "params": {"b": 1}})
    assert [len(batch) for batch in short] == [1_000, 1_000, 500]
    long = postgres._divide(rows[:5], {"query": "select", "params": {"b": "x" * 5_000_000}})
    assert [len(batch) for batch in long] == [2, 2, 1]


def test_the_values_of_a_copied_query_are_measured_before_they_are_written() -> None:
    query = Sql(("select ", Bind(["\x01" * 2_000_000])))
    error, peak = find_peak(lambda: _postgres_copy._inline_values(query, cast("Any", None)))
    check_refusal(error, peak, "ParameterError")
    assert peak < 10_000_000


def test_the_statement_of_a_history_is_not_held_as_json() -> None:
    buffer = EventBuffer()
    visit = Visit("v", "r", "a", VisitStatus.READY, 1, names={})
    kept = KeptData(buffer, visit, lambda: 1.0, with_inputs=True)
    statement = Sql(("select ", Bind(["\x01" * 4_000_000] * 20)))
    forms: list[tuple[str, Any]] = [
        ("query", statement),
        ("query", [statement]),
        ("copy_to", {"query": statement}),
    ]
    for name, value in forms:
        call = ActionCall(postgres.DECLARATION, {name: value}, masks_secrets=False)
        shown, peak = find_peak(partial(kept.describe_input, call))
        assert '"text":"select $1"' in shown["input"][name]
        assert shown["cut"][name] > 480_000_000
        assert peak < 20_000_000
