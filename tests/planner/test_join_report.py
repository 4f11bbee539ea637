from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import networkx as nx
from hypothesis import given

from noetl.planner.draw.join_report import explain_joins, render_explanations
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.plan import Case, Header, Join, Plan, Step
from noetl.testing.run_harness import compile_text
from tests.strategies import flows

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = """
steps:
- {name: a, rule: [{case: "{{ step.visit }}", run: [b, c]}, {case: default, run: [e]}]}
- {name: b, rule: [{case: default, run: [d]}]}
- {name: c, rule: [{case: default, run: [d]}]}
- {name: d, MODE rule: [{case: "{{ step.visit }}", run: [e]}, {case: default, run: [f]}]}
- {name: e, rule: [{case: default, run: [f]}]}
- {name: f, run: [{action: log, message: x}]}
"""


def explain(mode: str) -> list[str]:
    return render_explanations(explain_joins(compile_text(PLAYBOOK.replace("MODE", mode)))).splitlines()


def test_joins_and_merges_without_a_join() -> None:
    assert explain("") == [
        "d: waits for all branches: two branches of the fork at `a` can arrive",
        "  a → b → d",
        "  a → c → d",
        "e: no join: the branches of all forks before it have merged at `d`",
        "f: no join: the branches of all forks before it have merged at `d`",
    ]


FORKS = """
name: p
steps:
- {name: a, rule: [{case: "{{ step.visit == 1 }}", run: [b]}, {case: default, run: [c]}]}
- {name: b, rule: [{case: default, run: [d, e]}]}
- {name: c, rule: [{case: default, run: [d, e]}]}
- {name: d, rule: [{case: default, run: [f]}]}
- {name: e, rule: [{case: default, run: [f]}]}
- {name: f, run: [{action: log, message: x}]}
"""


def test_of_several_forks_the_same_one_is_named_in_every_process() -> None:
    code = (
        "import sys; from noetl.executor.actions import catalogue;"
        "from noetl.planner.compile import compile_playbook; from noetl.planner.draw import join_report;"
        "plan = compile_playbook(sys.stdin.read(), catalogue()).plan;"
        "print(join_report.render_explanations(join_report.explain_joins(plan)))"
    )
    reports = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=FORKS,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(reports) == 1
    assert "the fork at `b`" in reports.pop()


def test_a_step_that_continues_with_the_first_branch() -> None:
    assert explain("join: any,")[0] == (
        "d: continues with the first branch: two branches of the fork at `a` can arrive"
    )


def test_a_step_that_runs_for_each_branch() -> None:
    lines = explain("join: each,")
    assert lines[0] == "d: runs for each branch: two branches of the fork at `a` can arrive"
    assert lines[3].startswith("e: waits for all branches: ")


def test_a_plan_without_forks() -> None:
    plan = compile_text("""
    steps:
    - {name: a, rule: [{case: "{{ step.visit }}", run: [b]}, {case: default, run: [c]}]}
    - {name: b, rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: x}]}
    """)
    assert render_explanations(explain_joins(plan)) == (
        "c: no join: at most one branch arrives, because no fork after `a` has two branches that lead here\n"
    )
    assert render_explanations(
        explain_joins(compile_text("steps: [{name: a, run: [{action: log, message: x}]}]"))
    ) == ("no step has more than one incoming edge\n")


def test_an_explanation_as_an_object() -> None:
    explanation = explain_joins(compile_text(PLAYBOOK.replace("MODE", "")))[0].to_json()
    assert explanation == {
        "step": "d",
        "join": "all",
        "since": "a",
        "fork": "a",
        "ways": [["a", "b", "d"], ["a", "c", "d"]],
        "together": [],
        "reason": "waits for all branches: two branches of the fork at `a` can arrive",
    }


def plan_with_joins(cfg: ControlFlowGraph) -> Plan:
    joins = find_joins(cfg)
    steps = {
        name: Step(
            name,
            cases=tuple(Case("{{ x }}", targets=targets) for targets in cases),
            join=Join(joins.dominators[name] or None, "all") if name in joins.dominators else None,
        )
        for name, cases in cfg.targets.items()
    }
    return Plan(Header(name="play", start=cfg.start), steps, {}, "")


@given(flows(acyclic=True))
def test_every_join_is_explained_by_two_paths(cfg: ControlFlowGraph) -> None:
    explanations = {explanation.step: explanation for explanation in explain_joins(plan_with_joins(cfg))}
    assert {name for name, e in explanations.items() if e.join} == set(find_joins(cfg).dominators)
    for step, explanation in explanations.items():
        if explanation.join is None:
            # The branches of each fork merge at a common step before.
            for merge in explanation.merged_at:
                assert merge in nx.ancestors(cfg.graph, step)
            continue
        left, right = explanation.paths
        assert left[0] == right[0] == explanation.fork
        assert any({left[1], right[1]} <= set(case) for case in cfg.targets[left[0]])
        assert set(left[1:-1]).isdisjoint(right[1:-1]) or left[-1] == right[-1] == step
        for path in explanation.paths:
            assert path[-1] == step
            assert all(cfg.graph.has_edge(*edge) for edge in pairwise(path))


@given(flows(acyclic=False))
def test_steps_on_cycles_are_explained(cfg: ControlFlowGraph) -> None:
    assert all(explanation.reason for explanation in explain_joins(plan_with_joins(cfg)))
