"""The length of JSON, without its text."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.model import json_length, json_values
from noetl.executor.model.json_length import (
    JsonForm,
    TooLongError,
    count_digits,
    measure_ascii,
    measure_characters,
    measure_json,
    measure_utf8,
)
from noetl.executor.model.json_values import begin_and_measure, is_longer_json, to_json_value, write_json
from noetl.executor.model.stored_json import encode_json, encode_within_limit, exceeds, hash_json

TEXTS = st.text(st.sampled_from('a,"\\ \n\x00\x1f\x7fé€\ud800\udc00😀'), max_size=8)
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    NUMBERS | TEXTS,
    lambda children: (
        st.lists(children, max_size=6)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(TEXTS | st.integers() | st.none() | st.booleans(), children, max_size=6)
    ),
    max_leaves=40,
)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
FORMS: dict[str, tuple[JsonForm, Callable[[str], int]]] = {
    "characters": (JsonForm(_encode, measure_characters, 6), len),
    "UTF-8": (JsonForm(_encode, measure_utf8, 6), lambda text: len(text.encode("utf-8", "surrogatepass"))),
    "ASCII": (JsonForm(encode_json, measure_ascii, 12), len),
}


@pytest.mark.parametrize("form", FORMS)
@given(value=VALUES)
def test_a_length_is_that_of_the_text(form: str, value: Any) -> None:
    json_form, count = FORMS[form]
    length = count(json_form.encode(value))
    assert measure_json(value, json_form) == length
    assert measure_json(value, json_form, length) == length
    with pytest.raises(TooLongError):
        measure_json(value, json_form, length - 1)


@given(exponent=st.integers(300, 4_298), difference=st.integers(-1, 1), is_negative=st.booleans())
def test_the_digits_of_a_long_integer_are_counted(exponent: int, difference: int, is_negative: bool) -> None:
    number = (10**exponent + difference) * (-1 if is_negative else 1)
    assert count_digits(number) == len(str(number))
    for form, count in FORMS.values():
        value = [number, 1.5, {"a": number, "b": [None]}]
        assert measure_json(value, form) == count(form.encode(value))


def test_an_integer_that_python_does_not_write_has_no_length() -> None:
    with pytest.raises(ValueError, match="more than 4,300 digits"):
        measure_json([10**4_300], FORMS["UTF-8"][0])


def test_long_integers_are_measured_without_their_text() -> None:
    """Their texts would take 20 s."""
    written: list[Any] = []

    def encode(value: Any) -> str:
        written.append(value)
        return _encode(value)

    number = int("9" * 4_300)
    assert measure_json([number] * 100_000, JsonForm(encode, measure_utf8, 6)) == 4_301 * 100_000 + 1
    assert not written


@pytest.mark.parametrize("text", ["é\x00" * 700_000 + "😀", "x" * 3_000_000])
def test_a_long_text_is_measured_in_parts(text: str) -> None:
    value = {text: [text, "a", 1, {}], "n": [text]}
    for form, count in FORMS.values():
        assert measure_json(value, form) == count(form.encode(value))


def test_what_is_not_json_is_converted_or_refused() -> None:
    form = FORMS["characters"][0]
    assert measure_json([{1}, "a"], form._replace(convert=list)) == len('[[1],"a"]')
    with pytest.raises(TypeError):
        measure_json([{1}], form)
    with pytest.raises(TypeError):
        measure_json({(1, 2): 3}, form)


def test_a_value_that_contains_itself_has_no_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_length, "MAX_LEVELS", 100)
    circular: list[Any] = [1]
    circular.append(circular)
    with pytest.raises(RecursionError):
        measure_json(circular, FORMS["UTF-8"][0])


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("text", ["x" * 100_000, "😀\x00é" * 30_000])
def test_a_stored_text_has_at_most_as_many_characters_as_its_limit(text: str, extra: int) -> None:
    value = {"a": [text, 1], "b": [text] * 2}
    length = len(encode_json(value))
    assert exceeds(value, length - extra) is (extra == 1)
    if extra:
        with pytest.raises(TooLongError):
            encode_within_limit(value, length - extra)
    else:
        assert encode_within_limit(value, length) == encode_json(value)


def test_a_short_stored_text_may_be_too_long() -> None:
    assert encode_within_limit("abc", 5) == '"abc"'
    with pytest.raises(TooLongError):
        encode_within_limit("abc", 4)


def test_the_hash_of_a_large_value_is_that_of_its_text() -> None:
    import hashlib

    value = {"b": ["x" * 100_000, {"d": 1, "c": "é"}] * 3, "a": {str(n): n for n in range(50_000)}}
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    assert hash_json(value) == hashlib.sha256(text.encode()).hexdigest()


def test_a_large_value_is_checked_without_its_text() -> None:
    value: list[Any] = ["\x01" * 1_000_000] * 40
    tracemalloc.start()
    try:
        assert to_json_value(value) is value
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10_000_000
    assert to_json_value([*range(50_000), {1}]).endswith("{1}]")


@pytest.mark.parametrize("value", ["é\x00" * 50_000, [1, "a"], [list(range(30_000)), "\x01" * 100_000]])
@pytest.mark.parametrize("length", [1, 10_000_000])
def test_the_beginning_of_a_text_has_the_length_of_all(value: Any, length: int) -> None:
    text = _encode(value)
    assert begin_and_measure(value, length) == (text[:length], len(text))


def nest(value: Any, levels: int) -> Any:
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "write",
    [
        lambda value: write_json(value, 10_000_000),
        json_values.encode_json,
        lambda value: is_longer_json(value, 1_000_000),
    ],
)
def test_what_is_not_json_has_no_text(write: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="not JSON serializable"):
        write([{1}, *["x" * 1_000] * 200])
    monkeypatch.setattr(json_length, "MAX_LEVELS", 1_000)
    with pytest.raises(ValueError, match="nested too deep"):
        write(nest("x" * 200_000, 50_000))


@pytest.mark.parametrize("text", ["x" * 100, "x" * 100_000])
def test_a_text_has_at_most_as_many_bytes_as_its_limit(text: str) -> None:
    assert json_values.encode_json([text], len(text) + 4) == _encode([text]).encode()
    with pytest.raises(TooLongError):
        json_values.encode_json([text], len(text) + 3)
