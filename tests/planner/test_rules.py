"""What is said of guards, held against what the engine of the executor makes of them for every value of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noetl.executor.engine.guards import guard_test
from noetl.executor.engine.scope import Scope
from noetl.executor.model.outcome import Choice, Outcome, error_record
from noetl.executor.model.transition import choose
from noetl.planner.guards.coverage import Dead, Facts, Verdict, candidate_of, judge
from noetl.planner.guards.solver import Allowance
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


def judged(guards: list[str], *, forgiving: bool, bounded: bool) -> tuple[Verdict, Step]:
    """What is said of a rule every third case of which leads back to its step, and the step with this rule."""
    back = [at % 3 == 2 for at in range(len(guards))]
    candidates = [candidate_of(guard, leads_back=leads) for guard, leads in zip(guards, back, strict=True)]
    facts = Facts(INPUTS, frozenset(INPUTS), may_be_forgiven=forgiving, may_be_refused=bounded)
    cases = [
        Case(lower_guard(guard), error_aware=candidate.is_error_aware, leads_back=leads)
        for guard, candidate, leads in zip(guards, candidates, back, strict=True)
    ]
    step = Step("a", cases=tuple(cases), max_visits=3 if bounded else None)
    return judge(candidates, facts, Allowance(1_000_000)), step


def outcomes() -> Iterator[tuple[Outcome, int]]:
    """How the work of a step can have gone, and at which visit."""
    yield Outcome(True, None), 1
    yield Outcome(True, 3, skipped=True), 2
    error = error_record(VISIT, "HTTPStatus", "no", status=500)
    yield Outcome(False, None, error, forgiven=True), 1
    yield Outcome(False, None, error), 1
    yield Outcome(False, None, error_record(VISIT, "a", "b")), 2
    yield Outcome(False, None, error_record(VISIT, "MaxVisitsExceeded", "no")), 4


def choices(step: Step, *, forgiving: bool) -> Iterator[tuple[Choice, bool]]:
    """What becomes of the rule for every value of its names and every outcome; and whether the work had succeeded."""
    text = " ".join(str(case.guard) for case in step.cases)
    pools = {
        "x": VALUES if "x" in text else [None],
        "y": VALUES[1:] if "(y" in text or " y" in text else [None],
        "e": ENUM if "input.e" in text or "(e" in text or " e" in text else [3],
        "n": [None, -1, 0, 1, 2, 3, 7] if "input.n" in text or "(n" in text or " n " in text else [None],
    }
    for values in product(*pools.values()):
        known = dict(zip(pools, values, strict=True))
        run = replace(RUN, input={"e": known["e"], "n": known["n"]}, variables={}, environment={})
        loaded = {name: known[name] for name in "xy" if known[name] is not UNDEFINED}
        for outcome, visit in outcomes():
            if (outcome.forgiven and not forgiving) or (visit == 4 and step.max_visits is None):
                continue
            at = replace(VISIT, step=step.name, number=visit, attempt=1)
            test = guard_test(Scope(run, at, loaded))
            yield choose(step, at, outcome, test, lambda _: False, 0.0), not outcome.failed


@settings(deadline=None)
@given(st.lists(guards, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_what_is_said_never_to_happen_never_does(guards: list[str], forgiving: bool, bounded: bool) -> None:
    verdict, step = judged(guards, forgiving=forgiving, bounded=bounded)
    dead = {dead.case for dead in verdict.dead}
    for choice, had_succeeded in choices(step, forgiving=forgiving):
        assert choice.case not in dead
        if choice.case is None and had_succeeded and not choice.failed:
            assert verdict.may_end
            assert verdict.left_open is not None


NO_FACTS = Facts({}, frozenset(), may_be_forgiven=False)


def verdict(*guards: str, facts: Facts = NO_FACTS) -> Verdict:
    """What is said of a rule with these guards, written without braces."""
    words = ("default", "error")
    return judge(
        [candidate_of(g if g in words else f"{{{{ {g} }}}}") for g in guards], facts, Allowance(1_000_000)
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
        (["y > x", "x < y"], [1]),
        (["x == y", "y != x", "default"], [2]),
        (["x < y", "y >= x"], []),
        (["x < y and x > y"], [0]),
        (["rows | length > 0", "rows | count > 3"], []),
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
        (["default", "error"], []),
        (["default", "not error"], [1]),
        (["default", "not result.success"], []),
        (["steps.a.status == 'done'"], [0]),
        (["step.visit < 1"], [0]),
        (["not (not x)", "x"], [1]),
    ],
)
def test_cases_that_can_never_be_taken(guards: list[str], dead: list[int]) -> None:
    assert [found.case for found in verdict(*guards).dead] == dead


ONE_OF = Facts(
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
def test_what_inputs_can_be(guards: list[str], dead: list[int]) -> None:
    assert [found.case for found in verdict(*guards, facts=ONE_OF).dead] == dead


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
def test_values_for_which_no_case_is_true(guards: list[str], words: str | None) -> None:
    assert verdict(*guards, facts=ONE_OF).left_open == words


def test_a_visit_past_its_bound_leaves_out_cases_that_lead_back() -> None:
    again, enough = candidate_of("error", leads_back=True), candidate_of("error")
    assert judge([again, enough], NO_FACTS, Allowance(1_000)).dead
    assert not judge([again, enough], replace(NO_FACTS, may_be_refused=True), Allowance(1_000)).dead
    wrong = candidate_of("{{ error.type != 'MaxVisitsExceeded' }}")
    assert judge([again, wrong], replace(NO_FACTS, may_be_refused=True), Allowance(1_000)).dead


@pytest.mark.parametrize(
    ("guards", "why"),
    [
        (["x > 3", "x > 5"], Dead(1, by=0)),
        (["x > 3", "y", "x > 5"], Dead(2, by=0)),
        (["x == 1 and x == 2"], Dead(0, is_never_true=True)),
        (["x == 'a'", "x == 'b'", "x in ['a', 'b']"], Dead(2)),
        (["error", "default", "not error"], Dead(2, by=1, always=True)),
        (["error", "error"], Dead(1, by=0, always=True)),
        (["x > 'a'", "x > 3"], Dead(1, by=0, may_fail=True)),
        (["x > 'a' or x <= 'a'", "x"], Dead(1, by=0, always=True, may_fail=True)),
        (["x > 'a' or x <= 'a'", "x > 'b'"], Dead(1, by=0, always=True, may_fail=True)),
        (["x == 'a' or x != 'a'", "x > 'b'"], Dead(1, by=0, always=True)),
    ],
)
def test_why_a_case_can_never_be_taken(guards: list[str], why: Dead) -> None:
    assert verdict(*guards).dead == (why,)


def test_what_is_too_hard_to_say_is_not_said() -> None:
    hard = " and ".join(f"(a{n} or b{n % 7} or (c{n % 5} and d{n % 3}))" for n in range(40))
    guards = [f"{hard} and x > {n}" for n in range(20)]
    allowance = Allowance(20_000)
    found = judge([candidate_of(f"{{{{ {g} }}}}") for g in guards], NO_FACTS, allowance)
    assert found.may_end
    assert allowance.steps < 20_000
