from __future__ import annotations

import pytest
from noetl.planner.dataflow.narrowing import ANY, FAILED, FORGIVEN, SUCCEEDED, UNFAILED, implied, provides_for
from noetl.planner.templates.template import parse_template


def needs(text: str) -> list[str]:
    return [".".join(need.access) for need in implied(parse_template(text)).needs]


def known(text: str, *, truth: bool) -> set[str]:
    """What is there, without what that is looked into, and with `-` what is not, where an expression is true or false."""
    found = implied(parse_template(text))
    facts = found.true if truth else found.false
    parts = {access[:length] for access in facts.there for length in range(len(access))}
    return {".".join(access) for access in facts.there - parts} | {
        f"-{'.'.join(access)}" for access in facts.gone
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ a.b }} {{ c }}", ["a.b", "c"]),
        ("{{ a | default(b) }}", ["b"]),
        ("{{ a.b | d }}", ["a"]),
        ("{{ (a | upper) | default(1) }}", ["a"]),
        ("{{ a is defined }} {{ b is not defined }} {{ c.d is undefined }}", ["c"]),
        ("{{ a is none }}", ["a"]),
        ("{{ a is defined and a.b > 1 }}", ["a.b"]),
        ("{{ a is defined and a }}", []),
        ("{{ a.b is undefined or a.b.c }}", ["a", "a.b.c"]),
        ("{{ a is undefined or a }}", []),
        ("{{ not (a is undefined) and a }}", []),
        ("{{ a or b }}", ["a", "b"]),
        ("{{ a if a is defined else b }}", ["b"]),
        ("{{ a if b else c }}", ["b", "a", "c"]),
        (
            "{% if a is defined %}{{ a }}{% elif b is defined %}{{ b }}{{ a }}{% else %}{{ b }}{% endif %}",
            ["a", "b"],
        ),
        ("{% for i in a if i.x %}{{ i }}{{ loop.index }}{% else %}{{ b }}{% endfor %}", ["a", "b"]),
        ("{% set a = 1 %}{{ a }}", []),
        ("{{ range(a) | list }}", ["a"]),
        ("{{ true and a }}", ["a"]),
        ("{{ false and a }}", []),
    ],
)
def test_what_is_needed(text: str, expected: list[str]) -> None:
    found = [
        need
        for need in implied(parse_template(text)).needs
        if need.given.outcomes and need.access not in need.given.there
    ]
    assert [".".join(need.access) for need in found] == expected


@pytest.mark.parametrize(
    ("text", "when_true", "when_false"),
    [
        ("{{ a.b }}", {"a.b"}, {"a.b"}),
        ("{{ a is defined }}", {"a"}, {"-a"}),
        ("{{ a is not defined }}", {"-a"}, {"a"}),
        ("{{ not a is defined or b }}", set(), {"a", "b"}),
        ("{{ a is defined and b }}", {"a", "b"}, set()),
        ("{{ a or b }}", {"a"}, {"a", "b"}),
        ("{{ a > 1 and a < b }}", {"a", "b"}, {"a"}),
        ("{{ a | default(1) > 2 }}", set(), set()),
        ("{{ b if a is defined else c }}", set(), set()),
        ("{{ steps.s.visits > 0 }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ 1 <= steps.s.visits }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ steps.s.visits == 0 }}", {"steps.s.visits"}, {"steps.s.visits", "steps.s.result"}),
        ("{{ steps.s.visits }}", {"steps.s.visits", "steps.s.result"}, {"steps.s.visits"}),
        ("{{ steps.s.status != 'pending' }}", {"steps.s.status", "steps.s.result"}, {"steps.s.status"}),
        (
            "{{ steps.s.status in ['succeeded', 'failed'] }}",
            {"steps.s.status", "steps.s.result"},
            {"steps.s.status"},
        ),
        ("{{ steps.s.status == 'failed' }}", {"steps.s.status", "steps.s.result"}, {"steps.s.status"}),
        (
            "{{ steps.s.status == 'succeeded' }}",
            {"steps.s.status", "steps.s.result", "steps.s.succeeded"},
            {"steps.s.status"},
        ),
    ],
)
def test_what_is_known_then(text: str, when_true: set[str], when_false: set[str]) -> None:
    assert known(text, truth=True) == when_true
    assert known(text, truth=False) == when_false


@pytest.mark.parametrize(
    ("text", "when_true", "when_false"),
    [
        ("{{ a }}", ANY, ANY),
        ("{{ error }}", FAILED, UNFAILED),
        ("{{ not error }}", UNFAILED, FAILED),
        ("{{ error is none }}", UNFAILED, FAILED),
        ("{{ error != none }}", FAILED, UNFAILED),
        ("{{ error.type == 'Timeout' }}", FAILED, FAILED),
        ("{{ result.success }}", SUCCEEDED, FAILED | FORGIVEN),
        ("{{ result.success == false }}", FAILED | FORGIVEN, SUCCEEDED),
        ("{{ result.error }}", FAILED | FORGIVEN, SUCCEEDED),
        ("{{ error and result.success }}", 0, ANY),
        ("{{ error or result.success }}", FAILED | SUCCEEDED, FORGIVEN),
        ("{{ true }}", ANY, 0),
        ("{{ false or error }}", FAILED, UNFAILED),
    ],
)
def test_what_is_known_of_the_outcome(text: str, when_true: int, when_false: int) -> None:
    found = implied(parse_template(text))
    assert (found.true.outcomes, found.false.outcomes) == (when_true, when_false)


@pytest.mark.parametrize(
    ("text", "access", "provided"),
    [
        ("{{ a | default(b) }}", "a", True),
        ("{{ a | default(b) }}", "b", False),
        ("{{ a.b | d }}", "a", False),
        ("{{ a.b | d }}", "a.b", True),
        ("{{ a is defined and a.b }}", "a", False),
        ("{{ a.b is undefined or a.b }}", "a.b", True),
        ("{{ a.y | default(1) }} {{ a.x }}", "a.x", False),
        ("{{ a | default(1) }} {{ a }}", "a", False),
        ("{{ a is none }}", "a", False),
    ],
)
def test_what_is_provided_for(text: str, access: str, provided: bool) -> None:
    assert provides_for(parse_template(text), *access.split(".")) is provided


def test_deep_conditions_take_no_longer_than_they_are() -> None:
    deep = "a0"
    for at in range(1, 28):
        deep = f"({deep} {'and' if at % 2 else 'or'} not a{at})"
    assert len(needs(f"{{{{ {deep} }}}}")) == 28


def test_the_same_again_when_it_has_been_evaluated() -> None:
    template = parse_template("{{ never_seen is defined and never_seen.x }}")
    assert template.evaluate({}.__getitem__) is False
    assert needs(template.source) == ["never_seen.x"]
    assert template.evaluate({"never_seen": {"x": 1}}.__getitem__) == 1
