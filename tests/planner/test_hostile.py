"""The cost of hostile playbooks is bounded.

The cost is counted in function calls, because the count is equal on every machine. One second has some
million calls.
"""

from __future__ import annotations

import cProfile
import difflib
import pstats

import pytest

from benchmarks.hostile import TEXTS, logging_steps, text_of
from noetl.executor.actions import catalogue
from noetl.planner.compile import Compilation, compile_playbook
from noetl.planner.diagnostics.diagnostic import MAX_RATED_WORDS, closest
from noetl.planner.literal_secrets import find_literal_secret
from noetl.planner.program import template_uses
from noetl.planner.templates.syntax_errors import explain_syntax_error
from noetl.planner.templates.template import TemplateProblem, parse_template

MAX_CALLS = 2_000_000
MAX_CALLS_PER_BYTE = 14

EXPECTED_CODES = {
    "NP004": ["deep lists"],
    "NP005": ["aliases of aliases"],
    "NP012": ["many deep lists", "a huge number"],
    "NP405": ["deep brackets", "deep negation", "a huge constant", "a huge guard", "commands in commands"],
    "NP701": [
        "values of the wrong type",
        "huge texts",
        "many alternatives",
        "loops in loops",
        "conditions in conditions",
        "rows of filters",
        "thousands of outputs",
        "many values",
        "many comparisons",
        "much that is implied",
        "all steps lead to all that follow",
        "all steps lead to all",
        "branches that cross",
        "cycles within cycles",
        "joins of every kind",
        "branches that take turns",
        "a graph by chance",
    ],
}
"""The playbooks that exceed a limit, by the code of the diagnostic."""


@pytest.mark.parametrize("name", TEXTS)
def test_the_cost_of_a_hostile_playbook_is_bounded(name: str) -> None:
    text = text_of(name)
    profile = cProfile.Profile()
    compilation: Compilation = profile.runcall(compile_playbook, text, catalogue())
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    assert calls <= MAX_CALLS + MAX_CALLS_PER_BYTE * len(text)
    codes = {diagnostic.code for diagnostic in compilation.diagnostics}
    assert {code for code, names in EXPECTED_CODES.items() if name in names} <= codes
    assert (compilation.plan is None) == any(d.severity == "error" for d in compilation.diagnostics)


def find_errors(number: int, text: str) -> list[tuple[str, int]]:
    compilation = compile_playbook(f"name: x\n{logging_steps(number, lambda _: text)}", catalogue())
    return [(d.code, d.span.line) for d in compilation.diagnostics if d.severity == "error"]


def test_the_length_of_all_expressions_together_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_uses, "MAX_CODE", 100)
    assert find_errors(10, "a text {{ x }} {{ y.z }}") == [], "names that are only read do not count"
    assert find_errors(1, f"{'a text ' * 100}{{{{ x + 1 }}}}") == [], (
        "text outside of expressions does not count"
    )
    assert find_errors(1, f"{{{{ {'x + ' * 30}1 }}}}") == [("NP701", 3)]
    assert find_errors(1, f"{{% if {'x + ' * 30}1 %}}a{{% endif %}}") == [("NP701", 3)]
    assert find_errors(1, f"{{{{ {{}} ~ {'x + ' * 30}1 }}}}") == [("NP701", 3)]
    assert find_errors(1, "{{ {'a': {'b': {}}} ~ " + "x + " * 30 + "1 }}") == [("NP701", 3)]
    assert find_errors(8, "{{ x + 1 }}") == []
    assert find_errors(20, "{{ x + 1 }}")[0][0] == "NP701"
    assert find_errors(20, "{{ x + }}")[-1][0] == "NP701", "invalid expressions count too"


def test_a_misspelt_name_is_compared_with_few_similar_names(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def get_close_matches(word: str, words: list[str], n: int, cutoff: float) -> list[str]:
        compared.append(len(words))
        return words[:1]

    monkeypatch.setattr(difflib, "get_close_matches", get_close_matches)
    names = [f"step_with_a_long_name_{index}" for index in range(4_000)]
    assert closest("step_with_a_long_nam_1", [*names, "step_with_a_long_name"]) is not None
    assert compared == [MAX_RATED_WORDS]


@pytest.mark.parametrize(
    "step",
    [
        "run: [{action: LONG}]",
        "run: [{action: http, url: x, method: LONG}]",
        "rule: [{case: default, run: [LONG]}]",
        "concurrency: {limit: 1, key: LONG}",
        "run: [{action: http, LONG: 1}]",
        "run: [{action: log, message: '{{ LONG }}'}]",
    ],
)
def test_findings_have_the_beginning_of_a_long_text(step: str) -> None:
    text = f"name: x\nsteps: [{{name: s, {step.replace('LONG', 'x' * 500_000)}}}]"
    findings = [finding.to_json() for finding in compile_playbook(text, catalogue()).diagnostics]
    assert 0 < len(str(findings)) < 10_000


def test_long_words_are_not_compared() -> None:
    """The comparison of two words of 200,000 letters would take a minute."""
    word = "".join(chr(0x4E00 + number * number % 7_919) for number in range(100_000))
    assert closest(word + "a", [word + "b"]) is None
    assert closest(word[:199] + "a", [word[:199] + "b"]) is not None


@pytest.mark.parametrize("beginning", ["a.", "eyJ-", "-----BEGIN ", "x://", "password ", "ghp_"])
def test_a_text_with_many_beginnings_of_secrets_is_read_once(beginning: str) -> None:
    """A search from each beginning to the end would take an hour."""
    assert find_literal_secret("message", beginning * 50_000, is_connection_string=True) is None


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_after_a_syntax_error_are_read_once(quote: str) -> None:
    """A search from each quote to the end would take an hour."""
    source = "{{ 1 1 }} " + quote + f"\\{quote}" * 300_000
    problem = explain_syntax_error(source, source.index("1 }}"), "expected end of print statement")
    assert problem.end <= len("{{ 1 1 }}")
    unclosed = "{{ " + quote + f"\\{quote}" * 300_000
    assert explain_syntax_error(unclosed, 3, "unexpected char").message == "missing closing quote"


def test_a_block_that_is_not_closed_is_shown_with_its_end() -> None:
    source = "{% if x %}{{ '" + "{% if } " * 2 + "' }}{% if y %}"
    with pytest.raises(TemplateProblem, match="is not closed") as caught:
        parse_template(source)
    assert source[caught.value.start : caught.value.end] == "if y %}"
