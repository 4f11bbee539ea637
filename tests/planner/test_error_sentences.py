"""Failed expressions: sentences in the words of the language."""

from __future__ import annotations

import pytest

from noetl.planner.templates.error_sentences import to_sentence
from noetl.planner.templates.template import EvaluationError, parse_template

NAMES = {"text": "x", "none_": None, "items": [1], "object": {"a": 1}}


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("text + 1", "`+` cannot take a text and a number; join texts with `~`"),
        ("1 + text", "`+` cannot take a number and a text; join texts with `~`"),
        ("items + text", "`+` cannot take a list and a text"),
        ("none_ - 1", "`-` cannot take none and a number; give none another value with `default(0, true)`"),
        ("text ** 2", "`**` cannot take a text and a number"),
        ("text < 1", "`<` cannot compare a text with a number"),
        ("text * text", "`*` cannot multiply a text or a list by a text"),
        ("-text", "`-` needs a number, not a text"),
        ("text | abs", "`abs` needs a number, not a text"),
        ("text | round", "`round` needs a number, not a text"),
        ("1 in 5", "`in` needs a list, an object or a text, not a number"),
        ("5 | join", "it needs a list, not a number"),
        ("none_ | length", "none has no length"),
        ("range(text)", "it needs a whole number, not a text"),
        ("text | dictsort", "it needs an object, not a text"),
        ("text[1:text]", "the bounds of `[a:b]` must be whole numbers"),
        ("10.0 ** 400", "the number is too large"),
        ("3 | last", "it needs a list, not a number"),
        ("[1] | filesizeformat", "it needs a number, not a list"),
        ("text | regex_search", "it needs an argument: `pattern`"),
        ("text | replace", "it needs an argument: `old` and `new`"),
        ("text | upper(1, 2)", "it has too many arguments"),
        ("text | center(width=3, fill=1)", "it has no argument `fill`"),
        ("3 | wordwrap", "it needs a text, not a number; make it a text with `string`"),
        ("1 / 0", "division by zero"),
    ],
)
def test_an_operation_that_fails_is_described_in_words_of_the_language(
    expression: str, sentence: str
) -> None:
    with pytest.raises(EvaluationError) as raised:
        parse_template(f"{{{{ {expression} }}}}").evaluate(NAMES.__getitem__)
    assert raised.value.message == sentence


def test_other_messages_stay() -> None:
    assert to_sentence("`x` is undefined") == "`x` is undefined"
    assert (
        to_sentence("'complex' object is not iterable") == "it needs a list, not a value of the type complex"
    )
