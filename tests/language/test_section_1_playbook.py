"""Section 1 of the language, the playbook: its text, inputs, environment, variables and result."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.errors import RejectedError
from noetl.planner.compile import compile_playbook
from tests.language.sentences import OK, check_outcome, outcome, sentence
from tests.planner.findings import diagnose, findings

STEP = f"steps: [{{name: a, {OK}}}]\n"
SHOW = "steps: [{name: a, run: [{action: set, set: {y: '{{ x }}'}}]}]\noutput: {y: '{{ y }}'}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence("apiVersion: this value only", f"apiVersion: noetl.io/v2\n{STEP}", ["NP012"]),
        sentence("apiVersion: optional", f"apiVersion: noetl.io/v1\nkind: Playbook\n{STEP}", []),
        sentence("kind: this value only", f"kind: Flow\n{STEP}", ["NP012"]),
        sentence("unknown keys are errors", f"stps: 1\n{STEP}", ["NP010"]),
        sentence("durations are 500ms", f"timeout: 500ms\n{STEP}", []),
        sentence("durations are 5s", f"timeout: 5s\n{STEP}", []),
        sentence("durations are 2m", f"timeout: 2m\n{STEP}", []),
        sentence("durations are 1h", f"timeout: 1h\n{STEP}", []),
        sentence("durations are 3d", f"timeout: 3d\n{STEP}", []),
        sentence("or seconds as a number", f"timeout: 2.5\n{STEP}", []),
        sentence("no other unit", f"timeout: 1w\n{STEP}", ["NP012"]),
        sentence("names of steps are any printable text", f"steps: [{{name: Run Import, {OK}}}]", []),
        sentence("at most 100 characters", f"steps: [{{name: {'x' * 101}, {OK}}}]", ["NP110"]),
        sentence("100 characters", f"steps: [{{name: {'x' * 100}, {OK}}}]", []),
        sentence("without leading or trailing blanks", f"steps: [{{name: 'a ', {OK}}}]", ["NP110"]),
        sentence("bound names are identifiers", f"variables: {{a-b: 1}}\n{STEP}", ["NP110"]),
        sentence("and not a reserved one", f"variables: {{item: 1}}\n{STEP}", ["NP110"]),
        sentence("duplicate keys are errors", f"mode: parallel\nmode: parallel\n{STEP}", ["NP002"]),
        sentence("custom tags are errors", f"description: !x a\n{STEP}", ["NP003"]),
        sentence("more than one document is an error", f"name: p\n{STEP}---\nname: p\n", ["NP003"]),
        sentence(
            "merge keys are errors",
            "name: p\nsteps: [{<<: {name: a}, name: a, run: [{action: log, message: ok}]}]",
            ["NP003"],
        ),
        sentence(
            "present (also `input: {}`): the run takes exactly these names", f"input: {{}}\n{SHOW}", ["NP301"]
        ),
    ],
)
def test_a_playbook_is_refused_or_accepted(text: str, expected: list[str]) -> None:
    assert [code for code, _ in findings(text) if code != "NP001"] == expected


RESERVED = """
    input environment variables args steps run step item loop result error secrets callback default now uuid
"""


@pytest.mark.parametrize("name", RESERVED.split())
def test_reserved_names(name: str) -> None:
    """Names bound by `as` are identifiers and not one of the reserved ones."""
    text = f"steps: [{{name: a, run: [{{action: set, set: {{x: 1}}, as: {name}}}]}}]"
    assert ("NP110", name) in findings(text)


def test_a_playbook_is_yaml_or_json() -> None:
    """A playbook is YAML or JSON, UTF-8."""
    text = '{"name": "p", "steps": [{"name": "a", "run": [{"action": "log", "message": "é"}]}]}'
    assert not list(compile_playbook(text.encode(), catalogue()).diagnostics)
    assert [d.code for d in compile_playbook(text.encode("latin-1"), catalogue()).diagnostics] == ["NP001"]


def test_a_playbook_has_at_most_1_mib() -> None:
    assert [d.code for d in diagnose(STEP + "#" + "x" * (2**20 - 1000))] == []
    assert [d.code for d in diagnose(STEP + "#" + "x" * 2**20)] == ["NP004"]


@pytest.mark.parametrize(("depth", "codes"), [(60, ["NP012"]), (80, ["NP004"])])
def test_a_playbook_has_at_most_64_levels(depth: int, codes: list[str]) -> None:
    text = f"{STEP}description: {'[' * depth}{']' * depth}"
    assert [d.code for d in diagnose(text)] == codes


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        sentence("`integer` is short for {type: integer}", "input: {x: integer}", {"x": 3}, 3),
        sentence("default", "input: {x: {type: string, default: eu}}", {}, "eu"),
        sentence("enum", "input: {x: {type: string, enum: [eu, us]}}", {"x": "us"}, "us"),
        sentence(
            "environment: strings may be templates over `input`",
            "input: {z: string}\nenvironment: {x: 'https://{{ input.z }}'}",
            {"z": "eu"},
            "https://eu",
        ),
        sentence("variables: first values of names", "variables: {x: [1, 2]}", {}, [1, 2]),
        sentence("`input` absent: inferred inputs", "", {"x": 7}, 7),
        sentence("scalars are read as YAML 1.2 core", "variables: {x: 0o17}", {}, 15),
    ],
)
def test_values_of_names(text: str, values: dict[str, Any], expected: Any) -> None:
    check_outcome(f"{text}\n{SHOW}", values, {"result": {"y": expected}})


@pytest.mark.parametrize(
    ("text", "values"),
    [
        sentence("input: of that type", "input: {x: integer}", {"x": "three"}),
        sentence("input: enum", "input: {x: {type: string, enum: [eu, us]}}", {"x": "ap"}),
        sentence("input: exactly these names", "input: {x: integer}", {"x": 1, "other": 2}),
        sentence("input: without a default it is required", "input: {x: integer}", {}),
        sentence("starting a run without an inferred input fails at once", "", {}),
    ],
)
def test_a_run_with_wrong_inputs_is_not_started(text: str, values: dict[str, Any]) -> None:
    with pytest.raises(RejectedError, match=r"x|other"):
        outcome(f"{text}\n{SHOW}", values)


def test_a_missing_inferred_input_is_named_with_the_line_that_reads_it() -> None:
    """Starting a run without one fails at once, naming it and the line that reads it."""
    with pytest.raises(RejectedError, match=r"x.*line 2"):
        outcome(f"name: play\n{SHOW}")


def test_inferred_inputs_are_notes() -> None:
    """A note points at each, a warning when it looks like a misspelt produced name."""
    assert [(d.code, d.severity.value) for d in diagnose(SHOW)] == [("NP306", "note")]
    misspelt = "variables: {amount: 1}\nsteps: [{name: a, run: [{action: log, message: '{{ amuont }}'}]}]"
    assert ("NP306", "warning") in [(d.code, d.severity.value) for d in diagnose(misspelt)]


def test_without_output_the_result_is_every_saved_name() -> None:
    """The result without `output` is every name saved by `as` or `set`."""
    text = "steps: [{name: a, run: [{action: set, set: {x: 1}, as: all}, {action: set, set: {x: 2}}]}]"
    assert outcome(text)["result"] == {"x": 2, "all": {"x": 1}}


def test_an_output_that_cannot_be_rendered_is_null() -> None:
    """An entry that cannot be rendered is null and listed in `errors`."""
    text = f"variables: {{n: 0}}\n{STEP}output: {{x: '{{{{ 1 / n }}}}', y: 2}}"
    found = outcome(text)
    assert found["result"] == {"x": None, "y": 2}
    assert len(found["errors"]) == 1


def test_finally_runs_last() -> None:
    """`finally`: optional step that runs last, whatever happened."""
    text = (
        "finally: tidy\nsteps:\n"
        "- {name: a, run: [{action: fail, message: bad}]}\n"
        f"- {{name: tidy, {OK}}}\n"
    )
    check_outcome(text, {}, {"status": "failed", "visits": {"a": 1, "tidy": 1}})
