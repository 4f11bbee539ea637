"""Findings of the compiler agree with all runs of random playbooks.

`python -m benchmarks.checks` does the same with many more, and with mutants of valid ones.
"""

from __future__ import annotations

import os

import pytest

from benchmarks.checks import agreement
from benchmarks.checks.chance import random_playbook
from benchmarks.checks.choices import choice_playbook
from benchmarks.checks.corpus import CorpusPlaybook
from benchmarks.checks.exploration import FaultModel, explore_plan
from benchmarks.checks.generator import generate_playbook
from benchmarks.checks.unchecked import build_unchecked_plan
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.diagnostics.codes import Severity
from noetl.testing.run_harness import compile_text

COUNT = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "brief" else 100
"""How many random playbooks of each kind are executed in all ways."""


@pytest.mark.parametrize("first", range(0, COUNT, 25))
def test_findings_agree_with_all_runs(first: int) -> None:
    found = agreement.measure(
        CorpusPlaybook("chance", str(seed), random_playbook(seed)) for seed in range(first, first + 25)
    )
    assert found.playbooks == 25
    assert not found.refuted, found.disagreements
    assert found.confirmed
    # The compiler does not report failures by the loss of a worker in infallible work.
    assert found.unreported.keys() <= {"undefined name after a loss"}, found.disagreements


@pytest.mark.parametrize("first", range(0, COUNT, 25))
def test_findings_about_literals_agree_with_all_runs(first: int) -> None:
    """A case that is called unreachable is never taken. Some other warnings about values cannot come true."""
    found = agreement.measure(
        CorpusPlaybook("choice", str(seed), choice_playbook(seed)) for seed in range(first, first + 25)
    )
    assert found.playbooks == 25
    assert found.confirmed["NP203"]
    assert found.refuted.keys() <= {"NP301", "NP302", "NP303"}, found.disagreements
    assert found.unreported.keys() <= {"undefined name after a loss"}, found.disagreements


@pytest.mark.parametrize("seed", [425051, 425927, 426808])
def test_endless_run_hides_no_other_run(seed: int) -> None:
    playbook = CorpusPlaybook("chance", str(seed), random_playbook(seed))
    assert explore_plan(build_unchecked_plan(playbook.text), FaultModel(loses_workers=True)).is_endless
    assert agreement.measure([playbook]).disagreements == []


def test_all_inputs_are_tried_before_a_finding_is_refuted() -> None:
    playbook = CorpusPlaybook("chance", "425074", random_playbook(425074))
    assert not explore_plan(compile_text(playbook.text)).all_inputs
    assert agreement.measure([playbook]).disagreements == []


@pytest.mark.parametrize("seed", [426073, 426334, 426481, 426851, 427187])
def test_unreachable_cases_are_never_taken(seed: int) -> None:
    assert agreement.measure([CorpusPlaybook("chance", str(seed), random_playbook(seed))]).disagreements == []


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(701088, id="late branch of a join: any"),
        pytest.param(702829, id="late branch behind another fork"),
        pytest.param(702967, id="joins that wait for each other"),
    ],
)
def test_findings_agree_with_sequential_runs(seed: int) -> None:
    playbook = CorpusPlaybook("chance", str(seed), random_playbook(seed))
    assert "mode: sequential" in playbook.text
    assert agreement.measure([playbook]).disagreements == []


@pytest.mark.parametrize("first", range(0, 24, 8))
def test_sound_playbooks_have_no_findings_and_no_errors(first: int) -> None:
    playbooks = [
        CorpusPlaybook("generated", str(seed), generate_playbook(seed)) for seed in range(first, first + 8)
    ]
    found = agreement.measure(playbooks)
    assert (found.clean, found.disagreements) == (8, [])
    for playbook in playbooks:
        said = compile_playbook(playbook.text, catalogue()).diagnostics
        assert [d for d in said if d.severity is not Severity.NOTE] == []


def test_exploration_finds_mistakes() -> None:
    found = explore_plan(
        compile_text("""
        input: {x: boolean}
        steps:
        - name: a
          run: [{action: shell, command: date, as: n}]
          rule: [{case: error, run: [b]}, {case: default, run: [c, d]}]
        - {name: b, run: [{action: log, message: "{{ n | default(1) }} {{ input.x }}"}]}
        - {name: c, run: [{action: set, set: {p: "{{ {'a': n.stdout}.stdot }}"}}]}
        - name: d
          rule: [{case: "{{ input.x }}", run: [e]}, {case: "{{ input.x and not input.x }}", run: [e]}]
        - {name: e, run: [{action: fail, message: x}]}
        """)
    )
    assert [(mistake.step, mistake.type, mistake.word) for mistake in found.mistakes] == [
        ("c", "UndefinedName", "stdot")
    ]
    assert found.visited == set("abcde")
    assert ("d", 0) in found.taken
    assert ("d", 1) not in found.taken
    assert {ending.status for ending in found.endings} == {"succeeded", "failed"}
