"""Sections 8 and 9 of the language: events, and diagnostics."""

from __future__ import annotations

import re

import pytest

from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.diagnostics.codes import CODES
from noetl.testing.run_harness import RunHarness
from tests.language.sentences import OK
from tests.planner.findings import diagnose

BLOCKS = {
    "reading": "NP001 NP002 NP003 NP004 NP005 NP006 NP010 NP011 NP012",
    "names": "NP101 NP102 NP103 NP104 NP105 NP106 NP107 NP108 NP109 NP110",
    "control flow": "NP201 NP202 NP203 NP204 NP205 NP206 NP207",
    "data flow": "NP301 NP302 NP303 NP304 NP305 NP306 NP307",
    "expressions": "NP401 NP402 NP403 NP404 NP405 NP406 NP407",
    "actions": "NP501 NP502 NP503 NP504 NP505 NP506 NP507 NP508 NP509",
    "time and size": "NP601 NP602 NP701",
    "ours": "NP900",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_the_codes_of_a_block_exist(block: str) -> None:
    """Blocks are never reused or renumbered."""
    assert set(BLOCKS[block].split()) <= set(CODES)


def test_a_run_has_an_append_only_history() -> None:
    """Every run has a history; order is causal within a branch."""
    text = f"steps: [{{name: a, {OK}, rule: [{{case: default, run: [b]}}]}}, {{name: b, {OK}}}]"
    harness = RunHarness(MemoryStore(), text).finish()
    types = [event.type for event in harness.events]
    assert types[0] == "workflow.started"
    assert types[-1] == "workflow.completed"
    actions = ["action.started", "action.log", "action.completed"]
    step_events = ["step.started", *actions, "step.completed", "step.transition"]
    assert sorted(harness.event_types("a")) == sorted(step_events)
    places = [(event.step, event.type) for event in harness.events]
    assert places.index(("a", "step.completed")) < places.index(("b", "step.started"))


@pytest.mark.parametrize(
    ("text", "code", "source"),
    [
        (
            (
                "steps:\n- {name: a, run: [{action: log, message: x}]}\n"
                "- {name: a, run: [{action: log, message: x}]}\n"
            ),
            "NP102",
            (3, 10, 3, 11),
        ),
        (
            "tasks:\n- {name: t, run: []}\n- {name: t, run: []}\nsteps: [{name: a, run: [{task: t}]}]\n",
            "NP104",
            (3, 10, 3, 11),
        ),
    ],
)
def test_positions_point_at_the_offending_word(text: str, code: str, source: tuple[int, ...]) -> None:
    """Lines and columns count from 1; ends are exclusive. NP102 and NP104 at the second name."""
    (span,) = (d.span for d in diagnose(text) if d.code == code)
    assert (span.line, span.column, span.end_line, span.end_column) == source


@pytest.mark.parametrize(
    "cases",
    [
        "{case: default, run: [b]}, {case: '{{ run.id }}', run: [c]}",
        "{case: default, run: [b, {action: log, message: x}]}",
    ],
)
def test_np106_and_np203_are_at_the_case(cases: str) -> None:
    """NP106 and NP203 at the case."""
    text = f"steps:\n- {{name: a, {OK}, rule: [{cases}]}}\n- {{name: b, {OK}}}\n- {{name: c, {OK}}}\n"
    found = next(d for d in diagnose(text) if d.code in {"NP106", "NP203"})
    line = text.splitlines()[found.span.line - 1]
    assert line[found.span.column - 1 :].startswith("case")


def test_followers_of_a_root_cause_are_not_reported() -> None:
    """An unknown step does not also make its neighbours unreachable."""
    text = (
        f"steps:\n- {{name: a, {OK}, rule: [{{case: default, run: [notfiy]}}]}}\n- {{name: notify, {OK}}}\n"
    )
    assert [d.code for d in diagnose(text)] == ["NP101"]


def test_an_unknown_name_has_a_suggestion() -> None:
    text = (
        f"steps:\n- {{name: a, {OK}, rule: [{{case: default, run: [notfiy]}}]}}\n- {{name: notify, {OK}}}\n"
    )
    (found,) = diagnose(text)
    assert found.hint is not None
    assert re.search("`notify`", found.hint)


def test_a_name_saved_on_success_counts_on_the_edges_taken_after_success() -> None:
    """`{{ result.success }}` is such a guard, although it is error-aware; not one taken after a failure."""
    text = """
        steps:
        - name: a
          run: [{action: set, set: {x: 1}}, {action: shell, command: ls}]
          rule: [{case: "GUARD", run: [b]}]
        - {name: b, run: [{action: log, message: "{{ x }}"}]}
    """
    assert not [
        d for d in diagnose(text.replace("GUARD", "{{ result.success }}")) if d.code in {"NP301", "NP302"}
    ]
    assert [d for d in diagnose(text.replace("GUARD", "{{ error }}")) if d.code in {"NP301", "NP302"}]
