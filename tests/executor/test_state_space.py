"""Exhaustive exploration of small playbooks."""

from __future__ import annotations

from collections import Counter, defaultdict
from textwrap import dedent
from typing import Any

import pytest

from noetl.executor.model.branch_stack import ForkFrame
from noetl.executor.model.run import FailureState, VisitStatus
from noetl.executor.model.transition import final_status, merge_names
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text
from tests.state_space import RunState, StateSpaceExplorer

CHAIN = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b]}]}
    - name: b
      run: [{action: set, set: {n: 2}}]
      retry: 2
      rule: [{case: "{{ n }}", run: [c]}, {case: error, run: [c]}]
    - {name: c, run: [{action: log, message: "{{ n }}"}]}
"""
DIAMOND = """
    steps:
    - {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b, c]}]}
    - {name: b, run: [{action: set, set: {n: 2}}], rule: [{case: "{{ n }}", run: [d]}]}
    - name: c
      run: [{action: set, set: {m: 2}}]
      retry: 2
      rule: [{case: error, run: [d]}, {case: default, run: [d]}]
    - {name: d, run: [{action: log, message: "{{ n }}"}], rule: [{case: default, run: [e]}]}
    - {name: e, run: [{action: set, set: {o: 1}}]}
"""
NESTED = """
    on_error: continue
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [d, e]}]}
    - {name: c, run: [{action: set, set: {x: 1}}], rule: [{case: "{{ run.id }}", run: [g]}]}
    - {name: d, run: [{action: set, set: {y: 1}}], rule: [{case: "{{ run.id }}", run: [f]}]}
    - {name: e, rule: [{case: "{{ run.id }}", run: [f]}, {case: default, run: [g]}]}
    - {name: f, run: [{action: set, set: {y: 2}}], rule: [{case: default, run: [g]}]}
    - {name: g, run: [{action: log, message: "{{ y }}"}]}
"""
CYCLE = """
    steps:
    - name: a
      run: [{action: set, set: {n: 1}}]
      max_visits: 2
      rule: [{case: error, run: [e]}, {case: default, run: [b, c]}]
    - {name: b, run: [{action: set, set: {k: 1}}], rule: [{case: default, run: [d]}]}
    - {name: c, rule: [{case: "{{ n }}", run: [d]}]}
    - {name: d, rule: [{case: "{{ k }}", run: [a]}, {case: default, run: [e]}]}
    - {name: e, run: [{action: log, message: "{{ n }} {{ k }}"}]}
"""
LATE = """
    steps:
    - {name: a, max_visits: 2, rule: [{case: default, run: [b, c]}]}
    - name: b
      run: [{action: set, set: {k: 1}}]
      rule: [{case: "{{ run.id }}", run: [d]}, {case: default, run: [x]}]
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, rule: [{case: "{{ k }}", run: [a]}, {case: default, run: [y]}]}
    - {name: x, join: each, rule: [{case: default, run: [w]}]}
    - {name: y, rule: [{case: default, run: [w]}]}
    - {name: w, run: [{action: log, message: "{{ k }}"}]}
"""
LOOP_INSIDE = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c]}]}
    - name: b
      max_visits: 3
      run: [{action: set, set: {n: "{{ run.id }}"}}]
      rule: [{case: "{{ n }}", run: [b]}, {case: default, run: [d]}]
    - {name: c, rule: [{case: default, run: [d]}]}
    - {name: d, run: [{action: log, message: "{{ n }}"}]}
"""

SEQUENTIAL = "mode: sequential\n" + dedent(DIAMOND)
SEQUENTIAL_NESTED = "mode: sequential\n" + dedent(NESTED)


FIRST = """
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: "{{ x }}", run: [j]}]}
    - {name: c, rule: [{case: default, run: [j]}]}
    - {name: d, rule: [{case: default, run: [k]}]}
    - {name: j, join: any, rule: [{case: default, run: [k]}]}
    - {name: k, run: [{action: log, message: x}]}
"""
FIRST_OF_EACH_ROUND = """
    steps:
    - {name: a, max_visits: 2, rule: [{case: error, run: []}, {case: default, run: [b, c]}]}
    - {name: b, rule: [{case: default, run: [j]}]}
    - {name: c, rule: [{case: "{{ run.id }}", run: [j]}]}
    - {name: j, join: any, rule: [{case: default, run: [a]}]}
"""
EACH = """
    on_error: continue
    steps:
    - {name: a, rule: [{case: default, run: [b, c, d]}]}
    - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
    - {name: c, rule: [{case: "{{ run.id }}", run: [e]}]}
    - {name: d, rule: [{case: default, run: [f]}]}
    - {name: e, join: each, rule: [{case: "{{ run.id }}", run: [f]}]}
    - {name: f, run: [{action: log, message: x}]}
"""


def count_pending(plan: Plan, world: RunState) -> int:
    """Return the number of branches on the stack of a run in sequential mode, and at its joins."""
    pending = len(world.stack.arrived)
    for frame in world.stack.frames:
        assert isinstance(frame, ForkFrame)
        pending += len(plan.steps[frame.step].cases[frame.case].targets) - frame.index
    return pending


@pytest.mark.parametrize(
    ("text", "failing", "concurrent"),
    [
        pytest.param(FIRST, "", "", id="first"),
        pytest.param(FIRST, "b", "", id="first with a failure"),
        pytest.param(FIRST_OF_EACH_ROUND, "", "bcj", id="first of each round"),
        pytest.param(EACH, "", "e", id="each"),
        pytest.param(EACH, "b", "e", id="each with a failure"),
    ],
)
def test_every_order_of_concurrent_branches_leaves_consistent_counters(
    text: str, failing: str, concurrent: str
) -> None:
    """The first branch at a join depends on timing; the numbers of remaining branches do not."""
    explorer = StateSpaceExplorer(compile_text(text), frozenset(failing), concurrent=frozenset(concurrent))
    endings = explorer.final_states()
    assert len(endings) > 1
    for world in endings:
        if world.stop is None:
            assert world.live == 0
            assert not any(live for live, _ in world.joins.values())
            assert not any(world.arrivals.values())
        else:
            left = [v for v in world.visits.values() if v.failure is FailureState.OPEN]
            parked, arrived = (
                world.visits_with_status(VisitStatus.PARKED),
                sum(map(len, world.arrivals.values())),
            )
            assert world.live == len(left) + len(parked) + arrived


@pytest.mark.parametrize(
    ("text", "failing", "waiting", "endings"),
    [
        pytest.param(CHAIN, "abc", "", {"succeeded", "failed"}, id="chain"),
        pytest.param(CHAIN, "b", "abc", {"succeeded", "failed"}, id="chain that waits"),
        pytest.param(DIAMOND, "bc", "", {"succeeded", "failed"}, id="diamond"),
        pytest.param(DIAMOND, "b", "cd", {"succeeded", "failed"}, id="diamond that waits"),
        pytest.param(NESTED, "d", "", {"succeeded", "completed_with_errors"}, id="nested"),
        pytest.param(CYCLE, "", "", {"succeeded", "failed"}, id="cycle"),
        pytest.param(LATE, "", "", {"succeeded", "failed"}, id="late"),
        pytest.param(LOOP_INSIDE, "c", "", {"succeeded", "failed"}, id="loop inside a region"),
        pytest.param(SEQUENTIAL, "bc", "d", {"succeeded", "failed"}, id="sequential"),
        pytest.param(
            SEQUENTIAL_NESTED, "d", "", {"succeeded", "completed_with_errors"}, id="nested, sequential"
        ),
    ],
)
def test_every_order_of_the_same_choices_gives_the_same_result(
    text: str, failing: str, waiting: str, endings: set[str]
) -> None:
    explorer = StateSpaceExplorer(compile_text(text), frozenset(failing), frozenset(waiting))
    found: dict[Any, set[Any]] = defaultdict(set)
    statuses = set()
    for world in explorer.final_states():
        statuses.add(final_status(world.stop, world.failed_branches).value)
        left = world.visits_with_status(VisitStatus.PARKED) + [
            v for v in world.visits.values() if v.failure is FailureState.OPEN
        ]
        if world.stop is None:
            assert world.live == 0
            assert not any(live for live, _ in world.joins.values())
            assert not any(world.arrivals.values())
            assert not left
            names = merge_names([(v.clock, v.id, v.saved) for v in world.visits.values()])
            visits = Counter(v.step for v in world.visits.values())
            found[tuple(sorted(world.choices.items()))].add(
                (tuple(sorted(names.items())), tuple(sorted(visits.items())))
            )
        else:
            arrived = sum(map(len, world.arrivals.values()))
            assert world.live == len(left) + arrived + count_pending(explorer.plan, world)
    assert statuses == endings
    assert all(len(results) == 1 for results in found.values())
    assert len(found) > 1
