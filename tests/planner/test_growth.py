"""Large playbooks: results that would grow with the square of the size are rejected or left out."""

from __future__ import annotations

import pytest

from benchmarks.playbooks import SHAPES
from noetl.executor.actions import catalogue
from noetl.planner.compile import Compilation, compile_playbook
from noetl.planner.dataflow import liveness
from noetl.planner.dataflow.fact_encoding import FactTable
from noetl.planner.dataflow.solver import solve
from noetl.planner.dataflow.step_effects import step_effects
from noetl.planner.diagnostics import diagnostic
from noetl.planner.graph import join_finder
from tests.planner.programs import build_program


def compiled(*steps: str, head: str = "") -> Compilation:
    return compile_playbook(f"name: grown\n{head}steps:\n" + "".join(steps), catalogue())


def saving(index: int, *targets: str) -> str:
    return (
        f"- name: s{index}\n  run: [{{action: set, set: {{v{index}: 1}}}}]\n"
        f"  rule: [{{case: default, run: [{', '.join(targets)}]}}]\n"
    )


def crossing(index: int, last: int) -> str:
    """Return two steps, each of which leads to one of the next two steps."""
    targets = [f"a{index + 1}", f"b{index + 1}"] if index < last else ["end", "end"]
    cases = (
        f'[{{case: "{{{{ step.visit > 1 }}}}", run: [{targets[0]}]}}, {{case: default, run: [{targets[1]}]}}]'
    )
    return "".join(f"- name: {lane}{index}\n  rule: {cases}\n" for lane in "ab")


def crossing_branches(rounds: int) -> Compilation:
    fork = "- name: fork\n  rule: [{case: default, run: [a0, b0]}]\n"
    end = "- name: end\n  run: [{action: log, message: done}]\n"
    return compiled(fork, *(crossing(index, rounds - 1) for index in range(rounds)), end)


def test_joins_with_too_many_region_steps_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_finder, "MAX_REGION_STEPS", 100)
    assert crossing_branches(5).plan is not None
    found = crossing_branches(10)
    assert [(d.code, d.span.line) for d in found.diagnostics] == [("NP701", 2)]
    assert found.plan is None


def chain_of_live_names(steps: int) -> Compilation:
    names = ", ".join(f"v{index}" for index in range(steps))
    last = f'- name: s{steps}\n  run: [{{action: set, set: {{all: "{{{{ [{names}] }}}}"}}}}]\n'
    return compiled(*(saving(index, f"s{index + 1}") for index in range(steps)), last)


def test_too_many_live_names_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "MAX_LIVE_NAMES", 100)
    assert chain_of_live_names(10).plan is not None
    found = chain_of_live_names(20)
    assert [(d.code, d.span.line) for d in found.diagnostics] == [("NP701", 2)]
    assert found.plan is None


def test_name_is_live_from_its_definition_to_its_last_read() -> None:
    steps = [
        saving(0, "s1"),
        saving(1, "s2"),
        '- name: s2\n  run: [{action: log, message: "{{ v0 }}"}]\n  rule: [{case: default, run: [s3]}]\n',
        '- name: s3\n  run: [{action: log, message: "{{ v1 }} {{ steps.s1.status }}"}]\n',
    ]
    plan = compiled(*steps).plan
    assert plan is not None
    assert {name: sorted(step.live_names) for name, step in plan.steps.items()} == {
        "s0": [],
        "s1": ["v0"],
        "s2": ["steps.s1", "v0", "v1"],
        "s3": ["steps.s1", "v1"],
    }


def test_name_is_live_on_a_whole_cycle() -> None:
    steps = [
        saving(0, "s1").replace("name: s0\n", "name: s0\n  max_visits: 3\n"),
        (
            '- name: s1\n  run: [{action: log, message: "{{ v2 is defined }}"}]\n'
            "  rule: [{case: default, run: [s2]}]\n"
        ),
        saving(2, "s0").replace("rule: [", 'rule: [{case: "{{ step.visit > 1 }}", run: []}, '),
    ]
    plan = compiled(*steps).plan
    assert plan is not None
    assert all(step.live_names == {"v2"} for step in plan.steps.values())


def test_only_the_first_typing_errors_get_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostic, "MAX_COMPARED_WORDS", 60)
    misspellings = [
        f"- name: step_{index}\n  rule: [{{case: default, run: [stpe_{index}]}}]\n" for index in range(10)
    ]
    hints = [found.hint for found in compiled(*misspellings).diagnostics if found.code == "NP101"]
    assert hints[0] == "did you mean `step_0`?"
    assert hints[-1] is None


def test_task_with_many_names_and_many_callers() -> None:
    names = ", ".join(f"n{n}: 1" for n in range(2_000))
    steps = "".join(f"- {{name: s{n}, run: [t]}}\n" for n in range(2_000))
    text = f"name: x\nstart: s0\ntasks:\n  t:\n  - action: set\n    set: {{{names}}}\nsteps:\n{steps}"
    found = compile_playbook(text, catalogue())
    assert found.plan is None
    assert "NP701" in {diagnostic.code for diagnostic in found.diagnostics}


def count_evaluations(text: str) -> int:
    """Return how many step exits the definite-assignment analysis evaluates."""
    program = build_program(text)
    table = FactTable(program)
    return solve(program, table, step_effects(program, table)).graph.evaluations


@pytest.mark.parametrize("forwards", [True, False])
def test_analysis_takes_few_evaluations_per_step(*, forwards: bool) -> None:
    """The bound holds for a cycle too, and for any order of its steps in the text."""
    size = 400
    steps = [
        f"- name: s{index}\n  max_visits: 2\n"
        f"  run: [{{action: set, set: {{v{index}: '{{{{ v{index - 1} | default(0) }}}}'}}}}]\n"
        "  rule: [{case: '{{ step.visit > 1 }}', run: []}, "
        f"{{case: default, run: [s{(index + 1) % size}]}}]\n"
        for index in range(size)
    ]
    ordered = steps if forwards else steps[::-1]
    assert count_evaluations("name: grown\nstart: s0\nsteps:\n" + "".join(ordered)) < 6 * size


def test_nested_forks_take_few_evaluations() -> None:
    assert count_evaluations(SHAPES["nested"](1_000)) < 30_000
    assert count_evaluations(SHAPES["ladder"](1_000)) < 10_000
    assert count_evaluations(SHAPES["chain"](1_000)) < 6_000


def test_sequential_mode_takes_few_more_evaluations() -> None:
    for shape in ("nested", "ladder", "wide"):
        text = SHAPES[shape](1_000)
        sequential = text.replace("on_error: continue", "on_error: continue\nmode: sequential", 1)
        assert count_evaluations(text) < count_evaluations(sequential) < 3 * count_evaluations(text)
