"""Section 5 of the language, branches, joins and cycles: also sequential mode, and what a branch sees."""

from __future__ import annotations

from typing import Any

import pytest

from tests.language.sentences import OK, check_outcome, outcome, sentence
from tests.planner.findings import findings


def step(name: str, *targets: str, run: str = "{action: log, message: ok}", more: str = "") -> str:
    rule = f", rule: [{{case: default, run: [{', '.join(targets)}]}}]" if targets else ""
    return f"- {{name: {name}, run: [{run}]{rule}{more}}}\n"


def saves(name: str, *targets: str, value: str, more: str = "") -> str:
    return step(name, *targets, run=f"{{action: set, set: {value}}}", more=more)


def diamond(more: str = "", *, after: str = "") -> str:
    return "steps:\n" + step("a", "b", "c") + step("b", "d") + step("c", "d") + step("d", more=more) + after


@pytest.mark.parametrize(
    ("text", "visits"),
    [
        sentence("join: all waits and runs once", diamond(), {"a": 1, "b": 1, "c": 1, "d": 1}),
        sentence(
            "join: any runs at the first arrival and absorbs the rest",
            diamond(", join: any"),
            {"a": 1, "b": 1, "c": 1, "d": 1},
        ),
        sentence(
            "join: each runs once per arriving branch",
            diamond(", join: each"),
            {"a": 1, "b": 1, "c": 1, "d": 2},
        ),
        sentence(
            "a branch that ended is not waited for",
            "steps:\n"
            + step("a", "b", "c")
            + step("b").replace("}\n", ", rule: [{case: '{{ not run.id }}', run: [d]}]}\n")
            + step("c", "d")
            + step("d"),
            {"a": 1, "b": 1, "c": 1, "d": 1},
        ),
    ],
)
def test_how_often_a_join_runs(text: str, visits: dict[str, int]) -> None:
    check_outcome(text, {}, {"status": "succeeded", "visits": visits})


def cycle(rule: str, more: str = "max_visits: 3, ") -> str:
    return f"steps:\n- {{name: a, {more}{OK}, rule: [{rule}]}}\n- {{name: b, {OK}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "past the limit the step fails with MaxVisitsExceeded",
            cycle("{case: '{{ run.id }}', run: [a]}"),
            {"status": "failed", "errors": ["MaxVisitsExceeded"], "visits": {"a": 4}},
        ),
        sentence(
            "which its error-aware cases may handle",
            cycle("{case: error, run: [b]}, {case: default, run: [a]}"),
            {"status": "succeeded", "visits": {"a": 4, "b": 1}},
        ),
        sentence(
            "except by a case that can lead back to the step",
            cycle("{case: '{{ result.success or error }}', run: [a]}, {case: error, run: [b]}"),
            {"status": "succeeded", "visits": {"a": 4, "b": 1}},
        ),
    ],
)
def test_the_limit_of_a_cycle(text: str, expected: dict[str, Any]) -> None:
    check_outcome(text, {}, expected)


GUARDED = (
    "steps:\n"
    + step("begin", "left", "right", more=", max_visits: 3")
    + (
        "- {name: left, run: [{action: fail, message: bad}], rule: [{case: error, run: "
        "[report]}, {case: default, run: [meet]}]}\n"
    )
    + step("right", "meet")
    + "- {name: meet, rule: [{case: '{{ step.visit < 3 }}', run: [begin]}]}\n"
)
UNGUARDED = (
    "steps:\n"
    + step("begin", "report", "right", more=", max_visits: 3")
    + step("right", "meet")
    + "- {name: meet, rule: [{case: '{{ step.visit < 3 }}', run: [begin]}]}\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence("any other cycle is NP202", cycle("{case: '{{ run.id }}', run: [a]}", ""), [("NP202", "a")]),
        sentence("NP205: behind a guard", GUARDED + step("report"), [("NP205", "report")]),
        sentence("NP205: without one", UNGUARDED + step("report"), [("NP205", "report")]),
        sentence(
            "NP205: not with join: each, behind a guard", GUARDED + step("report", more=", join: each"), []
        ),
        sentence(
            "NP205: not with join: each, without one", UNGUARDED + step("report", more=", join: each"), []
        ),
        sentence(
            "NP205: or joins would wait for each other",
            "steps:\n" + step("a", "b", "c") + step("b", "c", more=", max_visits: 2") + step("c", "b"),
            [("NP204", "a"), ("NP205", "b")],
        ),
        sentence(
            "a plan all of whose ends are that failure is NP204",
            cycle("{case: default, run: [a]}"),
            ["NP204"],
        ),
    ],
)
def test_a_cycle_is_refused(text: str, expected: list[Any]) -> None:
    found = [finding for finding in findings(text) if finding[0] not in {"NP201", "NP203"}]
    assert (
        found if not expected or isinstance(expected[0], tuple) else [code for code, _ in found]
    ) == expected


def test_an_exit_to_join_each_runs_for_each_branch() -> None:
    """A branch may leave a cycle in each round for a step with `join: each`."""
    found = outcome(GUARDED + step("report", more=", join: each"))
    assert (found["status"], found["visits"]) == (
        "succeeded",
        {"begin": 3, "left": 3, "right": 3, "meet": 3, "report": 3},
    )


TRACE = "mode: sequential\nvariables: {seen: ''}\noutput: {seen: '{{ seen }}'}\nsteps:\n"


def trace(name: str, *targets: str, more: str = "") -> str:
    return saves(name, *targets, value=f"{{seen: '{{{{ seen ~ \"{name}\" }}}}'}}", more=more)


@pytest.mark.parametrize(
    ("steps", "order"),
    [
        sentence(
            "a fork puts its targets on the stack, the first written on top",
            trace("a", "b", "c") + trace("b", "d") + trace("c") + trace("d"),
            "abdc",
        ),
        sentence(
            "`run: [a, b]` performs a, and what follows up to a join that waits for b, before b",
            trace("s", "a", "b") + trace("a", "j") + trace("b", "j") + trace("j"),
            "sabj",
        ),
        sentence(
            "a branch arrives at a join when it gets its turn, not when it is forked",
            trace("p", "j", "q") + trace("q", "r", "j") + trace("j") + trace("r"),
            "pqrj",
        ),
        sentence(
            "`any` fires at the arrival and goes on top",
            trace("a", "b", "c") + trace("b", "c", "d") + trace("c", more=", join: any") + trace("d"),
            "abcd",
        ),
        sentence(
            "`each` fires at the arrival",
            trace("a", "b", "c") + trace("b", "c") + trace("c", more=", join: each"),
            "abcc",
        ),
        sentence(
            "the order of steps in the file does not count",
            trace("a", "b", "c") + trace("d") + trace("c") + trace("b", "d"),
            "abdc",
        ),
    ],
)
def test_sequential_mode(steps: str, order: str) -> None:
    check_outcome(TRACE + steps, {}, {"status": "succeeded", "result": {"seen": order}})


@pytest.mark.parametrize(
    ("text", "result"),
    [
        sentence(
            "a branch sees what was saved before it was forked off, and what it saved itself",
            "variables: {x: 0}\nsteps:\n"
            + saves("a", "b", "c", value="{x: 1}")
            + saves("b", "d", value="{x: 2}")
            + saves("c", "d", value="{seen: '{{ x }}'}")
            + saves("d", value="{after: '{{ x }}'}"),
            {"x": 2, "seen": 1, "after": 2},
        ),
        sentence(
            "a write replaces another if it was made later in the same branch",
            "steps:\n" + saves("a", "b", value="{x: 1}") + saves("b", value="{x: 2}"),
            {"x": 2},
        ),
        sentence(
            "or in a branch forked off after it",
            "steps:\n"
            + saves("a", "b", "c", value="{x: 1}")
            + saves("b", "d", value="{x: 2}")
            + step("c", "d")
            + step("d"),
            {"x": 2},
        ),
        sentence(
            "or behind a join that waited for the branch that made it, as far as it had come when it ended",
            "input: {z: {type: integer, default: 0}}\nsteps:\n"
            + step("a", "zleft", "meet")
            + saves("zleft", "decide", value="{v: from left}")
            + (
                "- {name: decide, rule: [{case: '{{ input.z == 0 }}', run: []}, {case: default, run: "
                "[meet]}]}\n"
            )
            + saves("meet", "after", value="{v: from meet}")
            + saves("after", value="{w: '{{ v }}'}"),
            {"v": "from meet", "w": "from meet"},
        ),
        sentence(
            "the names of the steps never decide",
            "input: {z: {type: integer, default: 0}}\nsteps:\n"
            + step("a", "left", "meet")
            + saves("left", "decide", value="{v: from left}")
            + (
                "- {name: decide, rule: [{case: '{{ input.z == 0 }}', run: []}, {case: default, run: "
                "[meet]}]}\n"
            )
            + saves("meet", "after", value="{v: from meet}")
            + saves("after", value="{w: '{{ v }}'}"),
            {"v": "from meet", "w": "from meet"},
        ),
        sentence(
            "what a branch saved that ended is not seen behind a join that it did not reach",
            "variables: {x: 0}\nsteps:\n"
            + step("a", "b", "c", "e")
            + "- {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: '{{ not run.id }}', run: [d]}]}\n"
            + step("c", "d")
            + step("e", "d")
            + saves("d", value="{seen: '{{ x }}'}"),
            {"x": 1, "seen": 0},
        ),
    ],
)
def test_what_a_branch_sees(text: str, result: dict[str, Any]) -> None:
    check_outcome(text, {}, {"status": "succeeded", "result": result})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "a name written by two branches is NP303",
            "steps:\n" + step("a", "b", "c") + saves("b", value="{x: 1}") + saves("c", value="{x: 2}"),
            ["NP303"],
        ),
        sentence(
            "NP303 does not apply in sequential mode",
            "mode: sequential\nsteps:\n"
            + step("a", "b", "c")
            + saves("b", value="{x: 1}")
            + saves("c", value="{x: 2}"),
            [],
        ),
        sentence(
            "reading a name that a sibling writes is no race",
            "variables: {x: 0}\nsteps:\n"
            + step("a", "b", "c")
            + saves("b", value="{x: 1}")
            + step("c", run="{action: log, message: '{{ x }}'}"),
            [],
        ),
        sentence(
            "a join: each step that saves a name races with itself",
            "steps:\n"
            + step("a", "b", "c")
            + step("b", "d")
            + step("c", "d")
            + saves("d", value="{x: 1}", more=", join: each"),
            ["NP303"],
        ),
        sentence(
            "NP307: reading `step.visit`",
            "steps:\n"
            + step("a", "b", "c")
            + step("b", "d")
            + step("c", "d")
            + step("d", run="{action: log, message: '{{ step.visit }}'}", more=", join: each"),
            ["NP307"],
        ),
        sentence(
            "NP307: and `max_visits` below the number of branches that can arrive",
            diamond(", join: each, max_visits: 1"),
            ["NP307"],
        ),
    ],
)
def test_what_depends_on_timing_is_reported(text: str, expected: list[str]) -> None:
    assert [code for code, _ in findings(text)] == expected


def test_join_any_hands_on_the_first_arrivals_names_only() -> None:
    """`join: any` hands on the first arrival's names only."""
    text = (
        "steps:\n"
        + step("a", "quick", "slow")
        + saves("quick", "use", value="{x: 1}")
        + "- {name: slow, run: [{action: wait, seconds: 60}, {action: set, set: {y: 2}}], "
        + "rule: [{case: default, run: [use]}]}\n"
        + saves("use", value="{seen: \"{{ [x | default('no'), y | default('no')] }}\"}", more=", join: any")
        + "output: {seen: '{{ seen }}'}\n"
    )
    check_outcome(text, {}, {"status": "succeeded", "result": {"seen": [1, "no"]}, "errors": []})


def test_visits_behind_join_each_in_sequential_mode_are_numbered_in_their_order() -> None:
    """Visits are numbered in the order in which they begin."""
    numbered = "- {name: c, join: each, run: [{action: set, set: {seen: '{{ seen ~ step.visit }}'}}]}\n"
    check_outcome(TRACE + trace("a", "b", "c") + trace("b", "c") + numbered, {}, {"result": {"seen": "ab12"}})


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_findings_do_not_depend_on_the_order_in_the_file(order: list[int]) -> None:
    """The order of steps in the file never decides (also section 9)."""
    steps = [step("begin", "left", "b", more=", max_visits: 3"), step("left", "begin"), step("b")]
    text = "start: begin\nsteps:\n" + "".join(steps[index] for index in order)
    assert findings(text, "NP205") == [("NP205", "b")]
