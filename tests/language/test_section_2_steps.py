"""Section 2 of the language, steps: work, rules, transitions and failures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.language.sentences import OK, check_outcome, sentence
from tests.planner.findings import findings

A_AND_B = f"- {{name: b, {OK}}}\n- {{name: c, {OK}}}\n"


def rule_of(*cases: str, run: str = "{action: log, message: ok}", head: str = "") -> str:
    cases_text = "".join(f"  - {{case: {case}}}\n" for case in cases)
    return f"{head}steps:\n- name: a\n  run: [{run}]\n  rule:\n{cases_text}{A_AND_B}"


@pytest.mark.parametrize(
    ("text", "visits"),
    [
        sentence(
            "the first true guard is taken", rule_of("'{{ 1 == 1 }}', run: [b]", "default, run: [c]"), "ab"
        ),
        sentence(
            "no other is looked at", rule_of("'{{ run.id }}', run: [b]", "'{{ 1 / 0 }}', run: [c]"), "ab"
        ),
        sentence("several targets = a fork", rule_of("default, run: [b, c]"), "abc"),
        sentence("`run: []`: the branch ends", rule_of("default, run: []"), "a"),
        sentence("no case true: the branch ends", rule_of("'{{ not run.id }}', run: [b]"), "a"),
        sentence("there is no implicit next step", f"steps:\n- {{name: a, {OK}}}\n{A_AND_B}", "a"),
        sentence("the first step is the default start", f"steps:\n{A_AND_B}", "b"),
        sentence("start", f"start: c\nsteps:\n{A_AND_B}", "c"),
        sentence('the string "False" is true', rule_of("\"{{ 'False' }}\", run: [b]"), "ab"),
        sentence("the value false is not", rule_of("'{{ false }}', run: [b]"), "a"),
        sentence("{step: NAME} in a case", rule_of("default, run: [{step: b}]"), "ab"),
        sentence(
            '`case: "{{ True }}"` never swallows a failure, and an error case behind it is reachable',
            rule_of("'{{ True }}', run: [b]", "error, run: [c]", run="{action: fail, message: bad}"),
            "ac",
        ),
        sentence(
            "error-aware: `error`",
            rule_of("\"{{ error.type == 'Failed' }}\", run: [c]", run="{action: fail, message: bad}"),
            "ac",
        ),
        sentence(
            "error-aware: `result.success`",
            rule_of("'{{ not result.success }}', run: [c]", run="{action: fail, message: bad}"),
            "ac",
        ),
        sentence(
            "error-aware: `result.error`",
            rule_of("'{{ result.error }}', run: [c]", run="{action: fail, message: bad}"),
            "ac",
        ),
        sentence(
            "a guard that cannot be evaluated: the error-aware cases are looked at",
            rule_of("'{{ 1 / n }}', run: [b]", "error, run: [c]", head="variables: {n: 0}\n"),
            "ac",
        ),
    ],
)
def test_which_case_is_taken(text: str, visits: str) -> None:
    check_outcome(text, {}, {"status": "succeeded", "visits": dict.fromkeys(visits, 1)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "GuardError is not retried",
            rule_of("'{{ 1 / n }}', run: [b]", head="variables: {n: 0}\nretry: 3\n"),
            {"status": "failed", "errors": ["GuardError"], "visits": {"a": 1}},
        ),
        sentence(
            "a second GuardError goes to the policy",
            rule_of(
                "'{{ 1 / n }}', run: [b]", "'{{ error.message / n }}', run: [c]", head="variables: {n: 0}\n"
            ),
            {"status": "failed", "visits": {"a": 1}},
        ),
        sentence(
            "in-place work runs as part of this step and the branch ends",
            rule_of("default, run: [{action: set, set: {x: 1}}]"),
            {"status": "succeeded", "result": {"x": 1}, "visits": {"a": 1}},
        ),
        sentence(
            "in-place work that fails goes to the policy; the rule is not read again",
            rule_of("default, run: [{action: fail, message: bad}]", "error, run: [c]"),
            {"status": "failed", "errors": ["Failed"], "visits": {"a": 1}},
        ),
        sentence(
            "run, item by item",
            "steps: [{name: a, run: [{action: set, set: {x: 1}}, {action: set, set: {y: '{{ x + 1 }}'}}]}]",
            {"result": {"x": 1, "y": 2}},
        ),
    ],
)
def test_outcomes(text: str, expected: dict[str, Any]) -> None:
    check_outcome(text, {}, expected)


TASKS = (
    "tasks:\n- {name: t, run: [{action: log, message: ok}]}\n- {name: b, run: [{action: log, message: ok}]}\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence("a step needs `run` or `rule`", "steps: [{name: a}]", [("NP107", "a")]),
        sentence(
            "a guard: anything else is NP407", rule_of("yes please, run: [b]"), [("NP407", "yes please")]
        ),
        sentence(
            "one that is both is NP105", TASKS + rule_of("default, run: [b]", run="{task: t}"), ["NP105"]
        ),
        sentence(
            "one that is neither: NP101 in a case", rule_of("default, run: [zzzzzz]"), [("NP101", "zzzzzz")]
        ),
        sentence("and NP103 elsewhere", rule_of("default, run: [b, c]", run="zzzzzz"), [("NP103", "zzzzzz")]),
        sentence(
            "steps are named in cases only: NP106",
            rule_of("default, run: [b, c]", run="{step: b}"),
            ["NP106"],
        ),
        sentence(
            "mixed with work in one case: NP106",
            rule_of("default, run: [b, c, {action: log, message: x}]"),
            ["NP106"],
        ),
        sentence("a case MUST NOT name a step twice", rule_of("default, run: [b, c, b]"), ["NP106"]),
    ],
)
def test_a_step_is_refused(text: str, expected: list[Any]) -> None:
    found = findings(text)
    if isinstance(expected[0], tuple):
        assert [finding for finding in found if finding[0] != "NP201"] == expected
    else:
        assert [code for code, _ in found if code not in {"NP201", "NP109"}] == expected


@pytest.mark.parametrize(("number", "codes"), [(1_000, []), (1_001, ["NP701"])])
def test_a_case_has_at_most_1000_targets(number: int, codes: list[str]) -> None:
    """Limits of section 1: 1,000 targets a case."""
    names = [f"s{index}" for index in range(number)]
    steps = "".join(f"- {{name: {name}, {OK}}}\n" for name in names)
    text = f"steps:\n- {{name: a, rule: [{{case: default, run: [{', '.join(names)}]}}]}}\n{steps}"
    assert [code for code, _ in findings(text)] == codes


@pytest.mark.parametrize(("number", "codes"), [(100, []), (101, ["NP701"])])
def test_a_step_has_at_most_100_cases(number: int, codes: list[str]) -> None:
    """Limits of section 1: 100 cases a step."""
    cases = ", ".join(f"{{case: \"{{{{ run.id == '{index}' }}}}\", run: []}}" for index in range(number))
    text = f"steps:\n- {{name: a, rule: [{cases}]}}\n"
    assert [code for code, _ in findings(text)] == codes
