"""Regular expressions: the same results as those of Python, and work that is bounded."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.templates import budget, patterns
from noetl.planner.templates.budget import LimitExceeded
from noetl.planner.templates.patterns import PatternProblem, compile_pattern, replace_matches, search
from noetl.planner.templates.template import EvaluationError, parse_template
from tests.planner.findings import findings
from tests.property_settings import examples

ATOMS = [
    "a",
    "b",
    "é",
    ".",
    r"\d",
    r"\w",
    r"\s",
    r"\D",
    r"\W",
    r"\S",
    "[ab]",
    "[^a]",
    r"[\w-]",
    r"[^\s]",
    r"\.",
    r"\u00e9",
]
REPEATS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "*?", "+?"]

atoms = st.builds(str.__add__, st.sampled_from(ATOMS), st.sampled_from(REPEATS))
sequences = st.lists(atoms, min_size=1, max_size=4).map("".join)
regular_expressions = st.one_of(
    sequences,
    st.builds("{}|{}".format, sequences, sequences),
    st.builds("({}){}".format, sequences, st.sampled_from(["", "?"])),
    st.builds("^{}".format, sequences),
    st.builds(r"{}\Z".format, sequences),
    st.builds("(?i){}".format, sequences),
    st.builds("(?:{})(?P<n>{})".format, sequences, sequences),
)
texts = st.text(alphabet="ab.- \n1é٣ñ漢\u2003_-", max_size=12)


@pytest.fixture(autouse=True)
def fresh_budget() -> None:
    budget.start_budget()


@given(regular_expressions, texts)
@examples(5)
def test_a_search_finds_what_python_finds(pattern: str, text: str) -> None:
    budget.start_budget()
    expected: Any = re.search(pattern, text)
    if expected is not None:
        expected = list(expected.groups()) if expected.re.groups else expected.group()
    assert search(text, pattern) == expected


@given(
    regular_expressions, texts, st.sampled_from(["", "x", "<\\g<0>>".replace("\\g<0>", "é"), r"\\", r"\n"])
)
@examples(3)
def test_a_replacement_equals_that_of_python(pattern: str, text: str, replacement: str) -> None:
    # After an empty match, Python tries a longer one at the same place.
    assume(all(match.group() for match in re.finditer(pattern, text)))
    budget.start_budget()
    assert replace_matches(text, pattern, replacement) == re.sub(pattern, replacement, text)


@pytest.mark.parametrize(
    ("text", "pattern", "replacement", "expected"),
    [
        ("2026-01-31", r"(\d+)-(\d+)-(\d+)", r"\3.\2.\1", "31.01.2026"),
        ("ann@x", r"(?P<user>\w+)@", r"\g<user>: ", "ann: x"),
        ("ab", "(a)|(b)", r"[\1\2]", "[a][b]"),
        ("a\tb", r"\t", r"\t\\", "a\t\\b"),
        ("hé", "", "-", "-h-é-"),
        ("aaa", "a{,2}", "x", "xxx"),
    ],
)
def test_a_replacement_inserts_groups(text: str, pattern: str, replacement: str, expected: str) -> None:
    assert replace_matches(text, pattern, replacement) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?=a)", "lookaround is not available"),
        ("(?<!a)b", "lookaround is not available"),
        (r"(a)\1", "a backreference is not available"),
        ("(?P<a>x)(?P=a)", "a backreference is not available"),
        ("(?P<z>a(?&z)?)$", "recursion is not available"),
        ("(?R)", "recursion is not available"),
        ("(?>a)", "an atomic group is not available"),
        ("a++", "a possessive repetition is not available"),
        ("(?x) a {2}", "the flag `x` is not available"),
        ("(?:foo){e<=1}", "approximate matching is not available"),
        ("(?#x)a", "a comment is not available"),
        ("(a)?(?(1)b|c)", "a condition is not available"),
        ("(", "is not a regular expression"),
        ("a{2}{3}{4}(", "is not a regular expression"),
        ("[z-a]", "is not a regular expression"),
        ("\\", "is not a regular expression"),
        ("a\ud800", "half of a surrogate pair is not available"),
    ],
)
def test_a_pattern_that_cannot_run_is_named(pattern: str, message: str) -> None:
    for text in ("a", "é"):
        with pytest.raises(PatternProblem, match=re.escape(message)):
            search(text, pattern)
    with pytest.raises(EvaluationError) as caught:
        parse_template("{{ 'a' | regex_search(p) }}").evaluate({"p": pattern}.__getitem__)
    assert caught.value.type == "TemplateError"
    assert message in caught.value.message


TOO_LARGE = [
    "(?:(?:a{9999,}){9999,}){9999,}",
    "((((a{1000}){1000}){1000}){1000})",
    "a{1001}",
    r"(?:\pL{1000}){1}",
    "a|" * 5000,
    "(" * 200 + ")" * 200,
    "(a)" * 33,
    "x" * 1001,
]


@pytest.mark.parametrize("pattern", TOO_LARGE)
def test_a_pattern_that_is_too_large_is_refused(pattern: str) -> None:
    for text in ("é", "a"):
        with pytest.raises(LimitExceeded, match="the pattern"):
            search(text, pattern)


LONG = "ab" * 500_000
SLOW = [
    ("[ab]*a[ab]{200}c", LONG),
    ("(?:[ab]*a[ab]{30}){20}c", LONG),
    ("(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", LONG),
    ("(?:a?){500}a{500}c", LONG),
    (r"(?:\pL?){20}\pL{20}1", LONG + "é"),
    ("((a)|(b)|(.))*$", LONG),
]


@pytest.mark.parametrize(("pattern", "text"), SLOW)
def test_a_search_that_may_be_slow_is_refused_before_it_starts(pattern: str, text: str) -> None:
    with pytest.raises(LimitExceeded, match="too complex for a text of"):
        search(text, pattern)
    assert search("x", pattern) is None or search("x", pattern)


@pytest.mark.parametrize("pattern", ["^(a|b)*$", "(a+)+$", r"\w+x", "a.*z", "^.*$", "(a*)*c", "((a*)*)*c"])
def test_a_pattern_with_few_positions_reads_a_long_text(pattern: str) -> None:
    for text in (LONG, "é" * 400_000):
        budget.start_budget()
        search(text, pattern)


def test_a_pattern_that_reads_the_rest_for_each_match_is_stopped() -> None:
    with pytest.raises(LimitExceeded, match="reads the text again for each match"):
        replace_matches("a" * 4_000_000, "a.*?z|a", "")


@pytest.mark.parametrize("pattern", ["", "x*", "a", "(a|b)"])
def test_the_number_of_matches_is_charged(pattern: str) -> None:
    with pytest.raises(LimitExceeded):
        replace_matches(LONG, pattern, "y")


def test_the_text_of_a_replacement_is_charged_before_it_is_joined() -> None:
    with pytest.raises(LimitExceeded, match="a text of more than"):
        replace_matches("a" * 1_000, "a", "x" * 100_000)


def test_compiled_patterns_are_few() -> None:
    for index in range(100):
        search("a", f"a{index}")
    assert compile_pattern.cache_info().currsize <= patterns.MAX_CACHED
    import re2

    assert re2._Regexp._make.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("1 | regex_search('a')", "the searched value must be a text, not a number"),
        ("'a' | regex_search(1)", "the pattern must be a text, not a number"),
        ("'a' | regex_replace('a', 1)", "the replacement must be a text, not a number"),
        (r"'a' | regex_replace('a', '\\1')", "unknown group `1` in the replacement"),
        (r"'a' | regex_replace('a', '\\g<n>')", "unknown group `n` in the replacement"),
        (r"'a' | regex_replace('a', '\\q')", "unknown escape"),
        (r"'\ud800' | regex_search('a')", "a text has half of a surrogate pair, which UTF-8 cannot hold"),
        ("'/w==' | b64decode", "the bytes are not text in UTF-8"),
    ],
)
def test_wrong_arguments_have_a_message(expression: str, message: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(message)):
        parse_template("{{ " + expression + " }}").evaluate(dict[str, object]().__getitem__)


def test_the_patterns_of_a_playbook_are_checked_up_to_a_limit() -> None:
    """Compiling a pattern takes time, so a playbook of many large patterns is not checked to its end."""
    large = [f"(?:[a-z]{{{length},}}){{30}}{length}" for length in range(20, 33)]
    lines = (
        "- {action: log, message: \"{{ 'x' | regex_search('" + pattern + "') }}\"}\n"
        for pattern in large * 20
    )
    text = "name: x\nsteps:\n- name: a\n  run:\n  " + "  ".join(lines)
    compile_pattern.cache_clear()
    diagnostics = compile_playbook(text, catalogue()).diagnostics
    assert [finding for finding in diagnostics if finding.code == "NP408"] == []
    assert 0 < compile_pattern.cache_info().misses <= len(large)


@pytest.mark.parametrize(
    ("expression", "literal"),
    [
        ("x | regex_search('(?=a)')", "'(?=a)'"),
        ("x | regex_search(pattern='(?<!a)b')", "'(?<!a)b'"),
        ("[x] | map('regex_replace', '(?>a)', 'b') | list", "'(?>a)'"),
        ("x | regex_replace('" + "a" * 1001 + "', 'b')", "'" + "a" * 1001 + "'"),
        ("x | regex_search('((a{1000}){1000})')", "'((a{1000}){1000})'"),
        (r"x | regex_search('\\ud800')", r"'\\ud800'"),
        ("x | regex_search('[a-z]+')", None),
        ("x | regex_search(x)", None),
        ("x | regex_search('(?=' ~ x)", None),
        ("x | replace('(?=a)', 'regex_')", None),
    ],
)
def test_literal_patterns_that_cannot_run_are_reported(expression: str, literal: str | None) -> None:
    text = (
        'input: {x: string}\nsteps: [{name: a, run: [{action: log, message: "{{ ' + expression + ' }}"}]}]\n'
    )
    assert findings(text, "NP408") == ([] if literal is None else [("NP408", literal)])
