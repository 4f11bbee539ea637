"""Hints for the syntax of other languages."""

from __future__ import annotations

import pytest

from noetl.planner.templates.template import TemplateProblem, parse_template
from tests.planner.findings import findings, hints


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ x && y }}", "write `and`"),
        ("{{ x || y }}", "write `or`"),
        ("{{ !x }}", "write `not`"),
        ("{{ x === 1 }}", "write `==`"),
        ("{{ x !== 1 }}", "write `!=`"),
        ("{{ x = 1 }}", "write `==` to compare"),
        ("{{ x ? 1 : 2 }}", "write `a if condition else b`"),
        ("{{ x ?? 1 }}", "write `value | default(other)`"),
        ("{{ x <> 1 }}", "write `!=`"),
        ("{{ $x }}", "write the name without `$`"),
        ("{{ == 1 }}", "write a value before `==`"),
        ("{{ x != }}", "write a value after `!=`, or remove it"),
        ("{{ x matches 'a' }}", "write `text | regex_search(pattern)`"),
        ("{{ x is null }}", "write `none`"),
        ("{{ len(x) }}", "write `value | length`"),
        ("{{ x | to_json }}", "write `tojson`"),
    ],
)
def test_foreign_operators_and_words_have_hints(text: str, hint: str | None) -> None:
    with pytest.raises(TemplateProblem) as raised:
        parse_template(text)
    assert raised.value.hint == hint


@pytest.mark.parametrize("head", ["", "input: {}\n"])
def test_null_is_not_an_input(head: str) -> None:
    text = head + "steps: [{name: a, run: [{action: log, message: '{{ run.id == null }}'}]}]"
    assert findings(text) == [("NP301" if head else "NP306", "null")]
    assert hints(text) == ["write `none`"]


@pytest.mark.parametrize(
    ("guard", "hint"),
    [
        ("else", "write `default`"),
        ("otherwise", "write `default`"),
        ("failed", "write `error`"),
        ("success", 'write `"{{ result.success }}"`'),
        ("saved", 'write `"{{ saved }}"`'),
        ("saved > 1", 'write `"{{ saved > 1 }}"`'),
        ("$saved", "put the whole guard into one `{{ }}`"),
    ],
)
def test_plain_words_as_guards_have_hints(guard: str, hint: str) -> None:
    text = (
        f"steps: [{{name: a, run: [{{action: set, set: {{saved: 1}}}}], rule: [{{case: {guard}, run: []}}]}}]"
    )
    assert hints(text, "NP407") == [hint]
    named = text.replace("saved:", "failed:")
    assert hints(named, "NP407") == ['write `"{{ failed }}"`' if guard == "failed" else hint]
