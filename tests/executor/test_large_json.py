"""JSON texts that are read and written in parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from noetl.executor.model import large_json
from noetl.executor.model.large_json import PART, is_large, read_large_json, write_large_json

TEXTS = st.text(st.sampled_from('a,"[]{}:\\ é\ud800'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda children: st.lists(children, max_size=6) | st.dictionaries(TEXTS, children, max_size=6),
    max_leaves=40,
)
PARTS = st.integers(1, 40)
SPACES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")])


def encode(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


@given(VALUES, PARTS, SPACES, st.booleans())
def test_a_text_is_read_as_by_the_parser_of_python(
    value: Any, part: int, spaces: tuple[str, str], is_ascii: bool
) -> None:
    text = f" {json.dumps(value, separators=spaces, ensure_ascii=is_ascii)}\n"
    read = read_large_json(text, part)
    assert (read, encode(read)) == (value, encode(value))


@given(VALUES, PARTS)
def test_a_value_is_written_as_by_the_writer_of_python(value: Any, part: int) -> None:
    assert write_large_json(value, encode, part) == encode(value)


@given(st.text(st.sampled_from('12.e-,"[]{}: ntrueNa\\'), max_size=30), PARTS)
@example("[1}2]", 1)
@example("[[1},2]", 4)
@example('{"a":1]"b":2}', 4)
@example("[1,]", 1)
@example("[,1]", 1)
@example("[1.,2]", 1)
@example('["a"e-2.5,1]', 1)
@example('[1,{"a":1}.2.5]', 5)
def test_an_error_is_that_of_the_parser_of_python(text: str, part: int) -> None:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        with pytest.raises(json.JSONDecodeError) as found:
            read_large_json(text, part)
        assert str(found.value) == str(error)
    else:
        assert encode(read_large_json(text, part)) == encode(value)


@pytest.mark.parametrize(
    "value",
    [
        list(range(100_000)),
        {"x": [[n, str(n), {"n": [n]}] for n in range(20_000)]},
        {str(n): {"name": "a,b", "rows": [{"n": n}, {"m": [{}]}]} for n in range(10_000)},
        ["x" * PART, {"y": "é" * PART, "z": [1.5e300] * PART}],
        {1: "a", None: [True] * PART},
    ],
)
def test_large_values_are_read_and_written_in_parts(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[int] = []
    monkeypatch.setattr("noetl.executor.model.large_json.wait_for_slice", lambda: pauses.append(1))
    text = write_large_json(value, encode)
    assert text == encode(value)
    written = len(pauses)
    assert encode(read_large_json(text)) == text
    assert min(written, len(pauses) - written) >= len(text) // (2 * PART)


def nested(levels: int, innermost: Any) -> Any:
    """Return objects within each other, each with a short member before the next one."""
    value = innermost
    for _ in range(levels):
        value = {"a": {}, "b": value}
    return value


def test_a_text_of_nested_containers_is_read_few_times() -> None:
    text = encode([nested(90, [{}, {}] * 100) for _ in range(50)])
    part, parsed = 100, []

    class CountingDecoder(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            if not idx:
                parsed.append(len(s))
            value, end = super().raw_decode(s, idx)
            if len(s) == len(text):
                parsed.append(end - idx)
            return value, end

        def decode(self, s: str, _w: Any = None) -> Any:
            raise AssertionError("the text was read as a whole")

    assert encode(read_large_json(text, part, CountingDecoder())) == text
    assert sum(parsed) < 8 * len(text)


def test_a_value_of_nested_containers_is_counted_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    value = [nested(30, [{"": {"": {"": {}}}}] * 300) for _ in range(10)]
    part, counted = 200, []

    def count(value: Any, part: int) -> bool:
        counted.append(part)
        return is_large(value, part)

    monkeypatch.setattr(large_json, "is_large", count)
    text = write_large_json(value, encode, part)
    assert text == encode(value)
    assert sum(counted) < 8 * len(text)


def test_long_integers_are_written_one_by_one() -> None:
    """Python holds the lock of the interpreter for 0.2 ms for each."""
    numbers = [int("9" * 4_300), -int("9" * 4_300)] * 40
    lengths: list[int] = []

    def count(value: Any) -> str:
        lengths.append(len(encode(value)))
        return encode(value)

    assert write_large_json([{"a": numbers}], count) == encode([{"a": numbers}])
    assert max(lengths) < 2 * PART


def test_a_list_that_contains_itself_is_an_error() -> None:
    circular: list[Any] = [1]
    circular.append(circular)
    with pytest.raises(ValueError, match="Circular reference"):
        write_large_json(circular, encode, 10)


def test_members_that_are_repeated_have_the_last_value() -> None:
    text = '{"a": 1, "b": [2, 3], "a": {"c": 4}}'
    assert read_large_json(text, 4) == json.loads(text)
    assert list(read_large_json(text, 4)) == list(json.loads(text))


def test_a_value_is_large_by_its_texts_and_elements() -> None:
    values = ["x" * 11, ["xxxx"] * 3, {"xxxx": "xxxxxx"}, [1] * 4, [[]] * 3]
    assert [is_large(value, 10) for value in values] == [True] * 5
    assert not is_large({"a": [1]}, 10)


@pytest.mark.parametrize("end", ["", ",", "x]", "]x", ',"a":1]'])
def test_an_error_in_a_large_text_is_found_without_reading_it_again(end: str) -> None:
    text = "[" + ",".join(["[1,2]"] * 50_000) + end
    longest = 0

    class MeasuringDecoder(json.JSONDecoder):
        def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
            nonlocal longest
            longest = max(longest, len(s) if not idx else 0)
            return super().raw_decode(s, idx)

    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as found:
        read_large_json(text, decoder=MeasuringDecoder())
    assert str(found.value) == str(expected.value)
    assert longest <= PART + 2


def test_a_check_ends_the_reading_of_a_large_text() -> None:
    checks = iter(range(100))

    def check() -> None:
        if next(checks) == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        read_large_json(encode(list(range(100_000))), check=check)
