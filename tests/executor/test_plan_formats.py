"""Runs of plans that earlier versions compiled: they keep the meaning with which they were started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from noetl.executor.stores.interface import Store
from noetl.planner.plan import Plan, Step
from noetl.testing.run_harness import RunHarness, compile_text

LATER_WRITE = """
    steps:
    - {name: begin, rule: [{case: default, run: [zleft, meet]}]}
    - {name: zleft, run: [{action: set, set: {v: from left}}], rule: [{case: default, run: [decide]}]}
    - {name: decide, rule: [{case: "{{ run.id == '' }}", run: [meet]}, {case: default, run: []}]}
    - {name: meet, run: [{action: set, set: {v: from meet}}]}
"""
FAILED_GUARD = """
    steps:
    - name: a
      run: [{action: set, set: {w: 1}}]
      rule: [{case: "{{ 1 / 0 }}", run: []}, {case: error, run: [b]}]
    - {name: b, run: [{action: set, set: {v: "{{ steps.a.result }}"}}]}
"""


def of_format_1(plan: Plan) -> Plan:
    """Return a plan with the steps as they were stored before format 2."""
    steps = {}
    for name, step in plan.steps.items():
        stored = step.to_json()
        del stored["format"]
        steps[name] = Step.from_json(name, stored)
    return replace(plan, steps=steps)


@pytest.mark.parametrize(
    ("text", "before", "now"),
    [
        pytest.param(LATER_WRITE, "from left", "from meet", id="a branch that ended before a join"),
        pytest.param(FAILED_GUARD, {"w": 1}, None, id="the result of a failed guard"),
    ],
)
def test_a_run_keeps_the_meaning_of_its_plan(store: Store, text: str, before: object, now: object) -> None:
    plan = compile_text(text)
    assert RunHarness(store, of_format_1(plan)).finish().result["v"] == before
    assert RunHarness(store, plan).finish().result["v"] == now
