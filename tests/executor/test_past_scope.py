"""The scope of a run at a past visit of a step, and at present."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from noetl.executor.engine.past_scope import find_reads, load_past_scope, load_present_scope
from noetl.executor.model.run import Visit
from noetl.executor.stores.interface import Store
from noetl.planner.templates.template import EvaluationError, is_true, parse_template
from noetl.testing.run_harness import RunHarness

BUSY = """
input: {limit: number, bad: boolean}
variables: {total: 0}
steps:
- name: count
  max_visits: 4
  run:
  - {action: fail, if: "{{ input.bad and total == 2 }}", message: third}
  - {action: set, set: {total: "{{ total + 1 }}", last: "{{ step.visit }}"}}
  rule:
  - {case: "{{ error is defined and error and error.message == 'third' }}", run: [both]}
  - {case: "{{ result.data.total < limit and steps.count.visits < 3 }}", run: [count]}
  - {case: default, run: [both]}
- name: both
  rule: [{case: default, run: [left, right]}]
- name: left
  run: [{action: set, set: {side: left, n: "{{ total * 2 }}"}}]
  rule: [{case: "{{ side == 'left' and n > total }}", run: [meet]}, {case: default, run: [meet]}]
- name: right
  loop: {items: [1, 0, 2], on_error: continue}
  run: [{action: set, set: {share: "{{ 6 / item }}"}}]
  rule: [{case: "{{ result.failures | length == 1 and total }}", run: [meet]}, {case: default, run: [meet]}]
- name: meet
  rule:
  - {case: "{{ n is defined and steps.right.failures[0].index == 2 and run.id and last > 4 }}"}
  - {case: "{{ steps.left.status == 'succeeded' and now and total > 1 }}"}
  - {case: default}
"""


def evaluate(store: Store, harness: RunHarness, visit: Visit, expression: str) -> Any:
    """Return the value of an expression at a visit."""
    template = parse_template(expression)
    scope = load_past_scope(store, harness.run, visit, harness.plan, find_reads(template))
    return template.evaluate(scope.lookup("rule"))


def guard_values(harness: RunHarness) -> Sequence[tuple[Visit, str, bool]]:
    """Return each visit with a guard that was evaluated and its value, from the history of a run."""
    visits = {(visit.step, visit.number): visit for visit in harness.visits}
    found = []
    for event in harness.events:
        for entry in event.payload.get("guards", ()):
            case = harness.plan.steps[event.step or ""].cases[entry["case"]]
            found.append((visits[event.step or "", event.visit or 0], case.guard or "", entry["value"]))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_guard_has_the_value_that_the_run_used(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    input = {"limit": chance.randrange(5), "bad": chance.random() < 0.5}
    harness = RunHarness(store, BUSY, input).finish()
    values = guard_values(harness)
    assert len(values) >= 4
    for visit, guard, value in values:
        assert is_true(evaluate(store, harness, visit, guard)) is value, (visit.step, guard)


def test_a_name_that_a_branch_does_not_carry_is_that_of_the_latest_earlier_visit(store: Store) -> None:
    text = """
    steps:
    - {name: a, run: [{action: set, set: {unread: 1}}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {unread: 2}}], rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: set, set: {own: 3}}]}
    """
    harness = RunHarness(store, text).finish()
    assert evaluate(store, harness, harness.visit("b"), "{{ unread }}") == 2
    assert evaluate(store, harness, harness.visit("c"), "{{ [unread, own, steps.a.result.unread] }}") == [
        2,
        3,
        1,
    ]
    with pytest.raises(EvaluationError, match="`own` is undefined"):
        evaluate(store, harness, harness.visit("b"), "{{ own }}")


def test_the_present_has_the_latest_names_of_all_branches(store: Store) -> None:
    text = """
    input: {limit: number}
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {n: 2}}]}
    - {name: c, run: [{action: wait, seconds: 60}, {action: set, set: {m: 2}}]}
    """
    harness = RunHarness(store, text, {"limit": 7})
    while harness.execute_next():
        pass
    template = parse_template("{{ [n, limit, steps.b.status, steps.c.status, m is defined] }}")
    scope = load_present_scope(store, harness.run, find_reads(template))
    assert template.evaluate(scope.lookup("rule")) == [2, 7, "succeeded", "waiting", False]


def test_a_visit_that_has_not_ended_has_what_it_has_saved_so_far(store: Store) -> None:
    text = "steps: [{name: a, run: [{action: set, set: {n: 1}}, {action: wait, seconds: 60}]}]"
    harness = RunHarness(store, text)
    harness.execute_next()
    assert evaluate(store, harness, harness.visit("a"), "{{ n }}") == 1
    with pytest.raises(EvaluationError, match="`result` is undefined"):
        evaluate(store, harness, harness.visit("a"), "{{ result }}")


def test_the_finally_step_sees_the_status_of_the_run(store: Store) -> None:
    text = """
    finally: tidy
    steps:
    - {name: a, run: [{action: fail, message: no}]}
    - {name: tidy, run: [{action: set, set: {seen: "{{ run.status }}"}}]}
    """
    harness = RunHarness(store, text).finish()
    expression = "{{ [run.status, run.error.message, seen] }}"
    assert evaluate(store, harness, harness.visit("tidy"), expression) == ["failed", "no", "failed"]
