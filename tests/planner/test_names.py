from __future__ import annotations

import re

import pytest

from tests.planner.findings import OK, STEP, diagnose, findings, hints, messages


def test_an_unknown_step_is_reported_with_a_suggestion() -> None:
    text = f"""
        steps:
        - {{name: notify, run: [{OK}], rule: [{{case: default, run: [notifi]}}]}}
    """
    assert findings(text) == [("NP101", "notifi")]
    assert hints(text) == ["did you mean `notify`?"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("start: b\n" + STEP, "b"),
        ("finally: b\n" + STEP, "b"),
        ("steps: [{name: a, rule: [{case: default, run: [{step: b}]}]}]", "b"),
        ("steps: [{name: a, run: [{action: log, message: '{{ steps.b.status }}'}]}]", "b"),
        ("steps: [{name: a, run: [{action: log, message: '{{ steps[\"b c\"].status }}'}]}]", "b c"),
    ],
)
def test_unknown_steps_are_reported_wherever_they_are_named(text: str, word: str) -> None:
    assert findings(text, "NP101") == [("NP101", word)]


def test_duplicate_steps() -> None:
    text = f"""
        steps:
        - {{name: a, run: [{OK}]}}
        - {{name: a, run: [{OK}]}}
    """
    (diagnostic,) = diagnose(text)
    assert (diagnostic.code, diagnostic.span.line) == ("NP102", 4)
    assert [label.span.line for label in diagnostic.labels] == [3]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param("s(a, [b]), s(b), s(b, [c]), s(c)", id="reached from the second only"),
        pytest.param("s(a, [b]), s(b, [c]), s(c, [b]), s(b)", id="a cycle through the first"),
        pytest.param("s(a, [b]), s(b, [a]), s(a)", id="a cycle through the start"),
        pytest.param("s(a, [b, c]), s(b, [a]), s(c, [d]), s(d), s(a, [d])", id="a fork on a cycle"),
    ],
)
def test_consequences_of_duplicate_steps_are_not_reported(steps: str) -> None:
    def to_step(match: re.Match[str]) -> str:
        rule = f"rule: [{{case: default, run: {match[2]}}}]" if match[2] else f"run: [{OK}]"
        return f"{{name: {match[1]}, {rule}}}"

    text = "steps: [" + re.sub(r"s\((\w)(?:, (\[.*?\]))?\)", to_step, steps) + "]"
    assert [code for code, _ in findings(text)] == ["NP102"]


def test_a_duplicate_step_may_be_the_finally_step() -> None:
    text = f"""
        finally: b
        steps:
        - {{name: a, rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [{OK}]}}
        - {{name: b, run: [{OK}]}}
    """
    assert [code for code, _ in findings(text)] == ["NP102"]


def test_errors_independent_of_duplicate_steps_are_reported() -> None:
    text = f"""
        steps:
        - {{name: a, rule: [{{case: "{{{{ run.id }}}}", run: [a]}}, {{case: default, run: [b]}}]}}
        - {{name: b, run: [{OK}]}}
        - {{name: b, run: [{OK}]}}
        - {{name: c, run: [{OK}]}}
    """
    assert findings(text) == [("NP202", "a"), ("NP102", "b"), ("NP201", "c")]


def test_duplicate_tasks() -> None:
    text = f"""
        tasks:
        - {{name: t, run: [{OK}]}}
        - {{name: t, run: [{OK}]}}
        steps: [{{name: a, run: [t]}}]
    """
    (diagnostic,) = diagnose(text)
    assert (diagnostic.code, diagnostic.span.line) == ("NP104", 4)


@pytest.mark.parametrize(
    "entry",
    ["tsk", "{task: tsk}", "{task: tsk, with: {x: 1}}"],
)
def test_an_unknown_task_is_reported_with_a_suggestion(entry: str) -> None:
    text = f"""
        tasks: {{task: [{OK}]}}
        steps: [{{name: a, run: [{entry}, task]}}]
    """
    assert findings(text) == [("NP103", "tsk")]
    assert hints(text) == ["did you mean `task`?"]


def test_an_unknown_task_in_a_case() -> None:
    text = "steps: [{name: a, rule: [{case: default, run: [{task: zz}]}]}]"
    assert findings(text) == [("NP103", "zz")]


def test_a_name_of_both_a_step_and_a_task() -> None:
    text = f"""
        tasks: {{b: [{OK}]}}
        steps:
        - {{name: a, rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [b]}}
    """
    assert findings(text, "NP105") == [("NP105", "b")]
    said = text.replace("run: [b]}]", "run: [{step: b}]}]")
    assert findings(said) == []


@pytest.mark.parametrize(
    ("run", "pointed_at"),
    [(f"[b, {OK}]", "case"), (f"[{OK}, {{step: b}}]", "case"), ("[b, t]", "case"), ("[b, b]", "b")],
)
def test_cases_that_name_steps_and_work(run: str, pointed_at: str) -> None:
    text = f"""
        tasks: {{t: [{OK}]}}
        steps:
        - {{name: a, run: [t], rule: [{{case: default, run: {run}}}]}}
        - {{name: b, run: [{OK}]}}
    """
    assert findings(text) == [("NP106", pointed_at)]


@pytest.mark.parametrize("entry", ["b", "{step: b}"])
@pytest.mark.parametrize("place", ["step", "task"])
def test_steps_outside_of_cases(place: str, entry: str) -> None:
    tasks = f"tasks: {{t: [{entry if place == 'task' else OK}]}}"
    text = f"""
        {tasks}
        steps:
        - {{name: a, run: [t, {entry if place == "step" else OK}], rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [{OK}]}}
    """
    assert [code for code, _ in findings(text)] == ["NP106"]


@pytest.mark.parametrize("empty", ["", ", run: []", ", rule: []"])
def test_a_step_with_neither_run_nor_rule(empty: str) -> None:
    found = findings(f"steps: [{{name: alone{empty}}}]")
    assert [code for code, _ in found] == ["NP107"]


@pytest.mark.parametrize(
    ("tasks", "cycle"),
    [
        ("{t: [t]}", "t → t"),
        ("{t: [u], u: [{task: w}], w: [t]}", "t → u → w → t"),
    ],
)
def test_tasks_that_call_each_other_in_a_cycle(tasks: str, cycle: str) -> None:
    text = f"""
        tasks: {tasks}
        steps: [{{name: a, run: [t]}}]
    """
    assert messages(text, "NP108") == [f"tasks call each other in a cycle: {cycle}"]


def test_unused_tasks() -> None:
    text = f"""
        tasks:
          used: [{OK}]
          unused: [used]
          in_a_case: [{OK}]
        steps: [{{name: a, run: [used], rule: [{{case: default, run: [in_a_case]}}]}}]
    """
    assert findings(text) == [("NP109", "unused")]


@pytest.mark.parametrize("name", ["''", "' a'", "'a '", '"a\\u0007"', '"a\\nb"', "x" * 101, "'@end'", "'@'"])
def test_invalid_names_of_steps(name: str) -> None:
    assert [code for code, _ in findings(f"steps: [{{name: {name}, run: [{OK}]}}]")] == ["NP110"]


@pytest.mark.parametrize("name", ["''", "' a'", '"a\\u0000"', "x" * 101])
def test_invalid_names_of_playbooks(name: str) -> None:
    assert [found.code for found in diagnose(f"name: {name}\n{STEP}")] == ["NP110"]


@pytest.mark.parametrize("name", ["Run Import", "a-b", "1", "é", "x" * 100, "a.b", "a@b", "default", "None"])
def test_valid_names_of_steps(name: str) -> None:
    assert findings(f"steps: [{{name: '{name}', run: [{OK}]}}]") == []


@pytest.mark.parametrize(
    "name", ["item", "result", "True", "none", "class", "1a", "a b", "_x", "a-b", "Input"]
)
@pytest.mark.parametrize(
    "text",
    [
        f"input: {{'NAME': any}}\n{STEP}",
        f"variables: {{'NAME': 1}}\n{STEP}",
        "steps: [{name: a, run: [{action: log, message: ok, as: 'NAME'}]}]",
        "steps: [{name: a, run: [{action: set, set: {'NAME': 1}}]}]",
        f"tasks: {{t: [{OK}]}}\nsteps: [{{name: a, run: [{{task: t, as: 'NAME'}}]}}]",
    ],
)
def test_invalid_names_of_values(text: str, name: str) -> None:
    assert findings(text.replace("NAME", name), "NP110") == [("NP110", f"'{name}'")]


@pytest.mark.parametrize("name", ["x", "é", "items", "x1", "steps_2", "user"])
def test_valid_names_of_values(name: str) -> None:
    assert findings(f"variables: {{{name}: 1}}\n{STEP}", "NP110") == []


def test_consequences_of_a_broken_step_are_not_reported() -> None:
    text = f"""
        tasks: {{t: [{OK}]}}
        steps:
        - {{name: a, rule: [{{case: default, run: [b]}}]}}
        - {{name: b, run: [t], rule: 5}}
        - {{name: c, run: [{OK}]}}
    """
    assert [code for code, _ in findings(text)] == ["NP012"]


@pytest.mark.parametrize(("depth", "codes"), [(32, []), (33, ["NP701"])])
def test_depth_of_task_calls_is_limited(depth: int, codes: list[str]) -> None:
    calls = "".join(f"  t{n}: [t{n + 1}]\n" for n in range(1, depth))
    text = f"tasks:\n{calls}  t{depth}: [{OK}]\nsteps: [{{name: a, run: [t1]}}]\n"
    assert [code for code, _ in findings(text)] == codes
