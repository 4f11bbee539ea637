"""Compare the coverage of rules with the choices that the executor makes, for the values of a grid."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noetl.executor.engine.scope import Scope
from noetl.executor.engine.step_work import make_guard_test
from noetl.executor.model.outcome import Choice, Outcome, error_record
from noetl.executor.model.transition import RuleTests, choose_case
from noetl.planner.guards.coverage import (
    DeadCase,
    GuardContext,
    RuleCoverage,
    analyse_coverage,
    make_guarded_case,
)
from noetl.planner.guards.solver import SearchBudget
from noetl.planner.lower import lower_guard
from noetl.planner.plan import Case, Step
from noetl.planner.syntax.models import InputDeclaration
from tests.executor.test_scope import RUN, VISIT

UNDEFINED = object()
VALUES = [
    UNDEFINED, None, True, False, -1, 0, 0.5, 1, 2, 2.5, 3, 4, 10**30, "", "a", "aa", "b", "3", "z",
    [], ["a"], [3], {}, {"a": 1}, {"a": None}, {"a": "a"}, {"a": 3}, {"a": [], "b": {}},
]  # fmt: skip
ENUM = ["eu", "us", 3]
MAX_VALUES = 2_000

constants = st.sampled_from(
    ["none", "true", "false", "0", "1", "-1", "2", "3", "3.0", "2.5", "''", "'a'", "'b'"]
)
names = st.sampled_from(["x", "x.a", "x['a']", "y", "input.e", "e", "input.n", "n"])
terms = st.one_of(
    names,
    st.builds("({} | default({}))".format, names, constants),
    st.builds("({} | default({}, true))".format, names, constants),
    st.builds("({} | length)".format, names),
    st.builds("({} + 1)".format, names),
    st.sampled_from(["result.success", "error.type", "error.attempt", "error", "result.error", "step.visit"]),
)
operands = st.one_of(terms, terms, constants)
lists = st.lists(constants, max_size=3).map(lambda items: f"[{', '.join(items)}]")
comparisons = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
words = [
    "defined",
    "undefined",
    "none",
    "true",
    "false",
    "boolean",
    "number",
    "string",
    "mapping",
    "odd",
    "sequence",
]
atoms = st.one_of(
    operands,
    st.builds("{} {} {}".format, operands, comparisons, operands),
    st.builds("{} {} {} {} {}".format, operands, comparisons, operands, comparisons, operands),
    st.builds("{} {} {}".format, operands, st.sampled_from(["in", "not in"]), lists),
    st.builds("{} {} {}".format, operands, st.sampled_from(["in", "not in"]), terms),
    st.builds("{} {} {}".format, operands, st.sampled_from(["is", "is not"]), st.sampled_from(words)),
    st.builds(
        "{} is {}({})".format,
        operands,
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge", "in"]),
        constants,
    ),
)
expressions = st.recursive(
    atoms.map("({})".format),
    lambda inner: st.one_of(
        st.builds("(not {})".format, inner),
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("({} if {})".format, inner, inner),
    ),
    max_leaves=4,
)
guards = st.one_of(expressions.map("{{{{ {} }}}}".format), st.sampled_from(["error", "default"]))


INPUTS = {
    "e": InputDeclaration(enum=ENUM),
    "n": InputDeclaration(type="integer", default=None),
}


def coverage_and_step(guards: list[str], *, tolerates: bool, bounded: bool) -> tuple[RuleCoverage, Step]:
    """Return the coverage of a rule and its step. Every third case leads back to the step."""
    leads_back = [index % 3 == 2 for index in range(len(guards))]
    candidates = [
        make_guarded_case(guard, leads_back=leads) for guard, leads in zip(guards, leads_back, strict=True)
    ]
    facts = GuardContext(
        INPUTS, frozenset(INPUTS), may_tolerate_failure=tolerates, may_exceed_max_visits=bounded
    )
    cases = [
        Case(lower_guard(guard), error_aware=candidate.is_error_aware, leads_back=leads)
        for guard, candidate, leads in zip(guards, candidates, leads_back, strict=True)
    ]
    step = Step("a", cases=tuple(cases), max_visits=3 if bounded else None)
    return analyse_coverage(candidates, facts, SearchBudget(1_000_000)), step


def outcomes() -> Iterator[tuple[Outcome, int]]:
    """Yield possible outcomes of the work of a step, each with the number of the visit."""
    yield Outcome(True, None), 1
    yield Outcome(True, 3, skipped=True), 2
    error = error_record(VISIT, "HTTPStatus", "no") | {"status": 500}
    yield Outcome(False, None, error, forgiven=True), 1
    yield Outcome(False, None, error), 1
    yield Outcome(False, None, error_record(VISIT, "a", "b")), 2
    yield Outcome(False, None, error_record(VISIT, "MaxVisitsExceeded", "no")), 4


def choices(step: Step, *, tolerates: bool) -> Iterator[tuple[Choice, bool]]:
    """Yield the choice for values of the names and all outcomes, and whether the work has succeeded.

    If the names have more than MAX_VALUES combinations of values, these are a random sample.
    """
    text = " ".join(str(case.guard) for case in step.cases)
    words = set(re.findall(r"\w+", text))
    pools = {
        "x": VALUES if "x" in words else [None],
        "y": VALUES[1:] if "y" in words else [None],
        "e": ENUM if "e" in words else [3],
        "n": [None, -1, 0, 1, 2, 3, 7] if "n" in words else [None],
    }
    grid = list(product(*pools.values()))
    for values in random.Random(text).sample(grid, min(len(grid), MAX_VALUES)):
        known = dict(zip(pools, values, strict=True))
        run = replace(RUN, input={"e": known["e"], "n": known["n"]}, variables={}, environment={})
        loaded = {name: known[name] for name in "xy" if known[name] is not UNDEFINED}
        for outcome, visit in outcomes():
            if (outcome.forgiven and not tolerates) or (visit == 4 and step.max_visits is None):
                continue
            current = replace(VISIT, step=step.name, number=visit, attempt=1)
            test = make_guard_test(Scope(run, current, loaded))
            tests = RuleTests(test, lambda _: False)
            yield choose_case(step, current, outcome, tests, 0.0), not outcome.failed


@settings(deadline=None)
@given(st.lists(guards, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_dead_cases_are_never_taken(guards: list[str], tolerates: bool, bounded: bool) -> None:
    rule_coverage, step = coverage_and_step(guards, tolerates=tolerates, bounded=bounded)
    dead = {dead.case for dead in rule_coverage.dead_cases}
    for choice, had_succeeded in choices(step, tolerates=tolerates):
        assert choice.case not in dead
        if choice.case is None and had_succeeded and not choice.failed:
            assert rule_coverage.may_match_none
            assert rule_coverage.uncovered_values is not None


NO_CONTEXT = GuardContext({}, frozenset(), may_tolerate_failure=False)


def coverage(*guards: str, context: GuardContext = NO_CONTEXT) -> RuleCoverage:
    """Return the coverage of a rule with these guards, written without braces."""
    words = ("default", "error")
    return analyse_coverage(
        [make_guarded_case(g if g in words else f"{{{{ {g} }}}}") for g in guards],
        context,
        SearchBudget(1_000_000),
    )


@pytest.mark.parametrize(
    ("guards", "dead"),
    [
        (["x > 3", "x > 5"], [1]),
        (["x > 3", "5 < x"], [1]),
        (["x > 3", "x > 3.0 and y"], [1]),
        (["x > 5", "x > 3"], []),
        (["x == 'a' and x == 'b'"], [0]),
        (["x == 'a' and y == 'b'"], []),
        (["x > 3 and x < 3"], [0]),
        (["3 < x < 4"], []),
        (["3 < x.n < 4", "x.n > 3.5 and x.n < 3.7"], [1]),
        (["1 < x and x < 1 or false"], [0]),
        (["x > 3 and x == 'a'"], [0]),
        (["x > none"], [0]),
        (["x == 1", "x == true"], [1]),
        (["x == 1", "x == 1.0"], [1]),
        (["x == 1", "x == '1'"], []),
        (["x is none", "x is not none", "default"], [2]),
        (["x == none", "x is none"], [1]),
        (["x is none", "x == none"], [1]),
        (["x", "not x", "default"], [2]),
        (["x > 3", "x <= 3", "default"], []),  # neither is true of a number that is none
        (["x in ['a', 'b']", "x == 'a'"], [1]),
        (["x in ['a', 'b']", "x in ('b', 'c')"], []),
        (["x in []"], [0]),
        (["x == 'a'", "x == 'b'", "x in ['a', 'b']"], [2]),
        (["x is string", "x == 'a'"], [1]),
        (["x is number", "x > 3", "x < 3", "x"], [1, 2]),
        (["x is string", "x > 'a' and x is string", "x > 3"], [1]),
        (["x is defined", "x is undefined", "default"], [2]),
        (["x | default(0) > 3", "x > 5"], [1]),
        (["(x | default('a')) == 'a'", "x is undefined"], [1]),
        (["(x | default(none)) is none", "x is undefined"], [1]),
        (["x | default(true)", "x is undefined"], [1]),
        (["x | default(false)", "x is undefined"], []),
        (["x | default(y) == 'a'", "x | default(y) == 'a'"], [1]),
        (["x | default(y) == 'a'", "x | default(z) == 'a'"], []),
        (["x | default('a') | default('b') == 'a'", "x is undefined"], []),
        (["'a' | default('b') == x", "'a' | default('b') == x"], [1]),
        (["-x == 3", "-x == 3"], [1]),
        (["-x == 3", "x == 3"], []),
        (["x == -3", "x == 3 or x < 0"], []),
        (["x in ['a', y]", "x in ['a', y]"], [1]),
        (["x in ['a', y]", "x in ['a', z]"], []),
        (["[1] in [1, 2]", "[1] in [1, 2]"], [1]),
        (["[1] == 1", "[1] == 1"], [1]),
        (["[1] == 1", "[2] == 1"], []),
        (["x is divisibleby 2", "x is divisibleby 2"], [1]),
        (["x is divisibleby 2", "x is divisibleby 3"], []),
        (["y > x", "x < y"], [1]),
        (["x == y", "y != x", "default"], [2]),
        (["x < y", "y >= x"], []),
        (["x < y and x > y"], [0]),
        (["rows | length > 0", "rows | count > 3"], [1]),
        (["rows | length > 0", "rows | length > 3"], [1]),
        (["rows | length > 3", "rows | length >= 0", "default"], [2]),
        (["rows | length > 0", "rows | length < 0"], [1]),
        (["'a' in x", "'a' in x"], [1]),
        (["'a' in x and 'a' not in x"], [0]),
        (["[1, 2] | random == 1", "[1, 2] | random == 1"], []),
        (["uuid() == x", "uuid() == x"], []),
        (["now() > x", "now() > x"], [1]),
        (["x if y else false", "x and y"], [1]),
        (["x['a'] == 1", "x.a == 1"], [1]),
        (["x[0] == 1", "x[0] == 1"], [1]),
        (["x[0] == 1", "x[1] == 1"], []),
        (["result.success", "not result.success", "default"], [2]),
        (["result.success", "default"], [1]),
        (["error", "not error", "default"], [2]),
        (["error", "error"], [1]),
        (["error.type == 'A'", "error.type != 'A'", "error"], [2]),
        (["error.type == 'A'", "error.type != 'A'", "default"], []),
        (["error.type > 3"], [0]),
        (["error.message > 3"], [0]),
        (["error.step > 3", "error.action > 3"], [0, 1]),
        (["error.action is none", "error.action is string", "error"], [2]),
        (["error.retryable", "not error.retryable", "error"], [2]),
        (["error.status == 500", "error.status != 500", "error"], [2]),
        (["error.details.rows > 3", "error.details.rows > 5"], [1]),
        (["result.skipped", "not result.skipped", "default"], [2]),
        (["default", "error"], []),
        (["default", "not error"], [1]),
        (["default", "not result.success"], []),
        (["steps.a.status == 'done'"], [0]),
        (["step.visit < 1"], [0]),
        (["not (not x)", "x"], [1]),
    ],
)
def test_dead_cases(guards: list[str], dead: list[int]) -> None:
    assert [dead_case.case for dead_case in coverage(*guards).dead_cases] == dead


@pytest.mark.parametrize(
    ("may_tolerate_failure", "guards", "dead"),
    [
        (False, ["result.error is string"], [0]),
        (True, ["result.error is string"], [0]),
        (False, ["result.error is none", "result.error is mapping", "result.error"], [2]),
        (False, ["result.error is none", "default"], [1]),
        (True, ["result.error is none", "default"], []),
        (True, ["result.error is none", "result.error is mapping", "default"], [2]),
    ],
)
def test_dead_cases_after_a_tolerated_failure(
    may_tolerate_failure: bool, guards: list[str], dead: list[int]
) -> None:
    context = replace(NO_CONTEXT, may_tolerate_failure=may_tolerate_failure)
    assert [dead_case.case for dead_case in coverage(*guards, context=context).dead_cases] == dead


def test_a_guard_that_is_no_expression_is_neither_dead_nor_does_it_cover_a_case() -> None:
    guards = ["{% if x > 7 %}true{% endif %}", "{{ x > 3 }}", "{{ x > 5 }}"]
    rule = analyse_coverage(
        [make_guarded_case(guard) for guard in guards], NO_CONTEXT, SearchBudget(1_000_000)
    )
    assert rule.dead_cases == (DeadCase(2, covered_by=1),)


ONE_OF = GuardContext(
    {"e": InputDeclaration(enum=ENUM), "n": InputDeclaration(type="integer")}, frozenset("en"), False
)


@pytest.mark.parametrize(
    ("guards", "dead"),
    [
        (["input.e == 'asia'"], [0]),
        (["input.e == 'eu'", "input.e in ['us', 3]", "default"], [2]),
        (["e in ['eu', 'us', 3]", "default"], [1]),
        (["n > 3", "n < 4", "default"], [2]),
        (["n > 3", "n < 3", "default"], []),
        (["n == 'a'"], [0]),
    ],
)
def test_dead_cases_by_input_type(guards: list[str], dead: list[int]) -> None:
    assert [dead_case.case for dead_case in coverage(*guards, context=ONE_OF).dead_cases] == dead


@pytest.mark.parametrize(
    ("guards", "words"),
    [
        (["x > 3", "x < 3"], "`x` is `3`"),
        (["x >= 3", "x < 2"], "`x` is `2`"),
        (["x > 3", "x <= 3"], None),
        (["x == 'a'", "x == 'b'"], "`x` is another text"),
        (["x == 'a' and y", "x != 'a'"], "`x` is `a` and `y` is false"),
        (["x", "not x"], None),
        (["x | lower == 'a'", "x | lower == 'b'"], ""),
        (["f", "g"], ""),
        (["n > 3", "n < 3"], "`n` is `3`"),
        (["n > 3", "n < 4"], None),
        (["e == 'eu'", "e == 3"], "`e` is `us`"),
        (["f", "default"], None),
    ],
)
def test_uncovered_values(guards: list[str], words: str | None) -> None:
    assert coverage(*guards, context=ONE_OF).uncovered_values == words


def test_after_refusal_cases_that_lead_back_are_skipped() -> None:
    again, enough = make_guarded_case("error", leads_back=True), make_guarded_case("error")
    assert analyse_coverage([again, enough], NO_CONTEXT, SearchBudget(1_000)).dead_cases
    assert not analyse_coverage(
        [again, enough], replace(NO_CONTEXT, may_exceed_max_visits=True), SearchBudget(1_000)
    ).dead_cases
    wrong = make_guarded_case("{{ error.type != 'MaxVisitsExceeded' }}")
    assert analyse_coverage(
        [again, wrong], replace(NO_CONTEXT, may_exceed_max_visits=True), SearchBudget(1_000)
    ).dead_cases


@pytest.mark.parametrize(
    ("guards", "reason"),
    [
        (["x > 3", "x > 5"], DeadCase(1, covered_by=0)),
        (["x > 3", "y", "x > 5"], DeadCase(2, covered_by=0)),
        (["x == 1 and x == 2"], DeadCase(0, is_never_true=True)),
        (["x == 'a'", "x == 'b'", "x in ['a', 'b']"], DeadCase(2)),
        (["error", "default", "not error"], DeadCase(2, covered_by=1, covers_always=True)),
        (["error", "error"], DeadCase(1, covered_by=0, covers_always=True)),
        (["x > 'a'", "x > 3"], DeadCase(1, covered_by=0, may_fail=True)),
        (["x > 'a' or x <= 'a'", "x"], DeadCase(1, covered_by=0, covers_always=True, may_fail=True)),
        (["x > 'a' or x <= 'a'", "x > 'b'"], DeadCase(1, covered_by=0, covers_always=True, may_fail=True)),
        (["x == 'a' or x != 'a'", "x > 'b'"], DeadCase(1, covered_by=0, covers_always=True)),
    ],
)
def test_reason_why_a_case_is_dead(guards: list[str], reason: DeadCase) -> None:
    assert coverage(*guards).dead_cases == (reason,)


def test_nothing_is_reported_past_the_search_budget() -> None:
    hard = " and ".join(f"(a{n} or b{n % 7} or (c{n % 5} and d{n % 3}))" for n in range(40))
    guards = [f"{hard} and x > {n}" for n in range(20)]
    budget = SearchBudget(20_000)
    result = analyse_coverage([make_guarded_case(f"{{{{ {g} }}}}") for g in guards], NO_CONTEXT, budget)
    assert result.may_match_none
    assert budget.steps < 20_000
