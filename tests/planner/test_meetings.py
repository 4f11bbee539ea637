from __future__ import annotations

from itertools import pairwise

import networkx as nx
from hypothesis import given
from noetl.planner.draw.join_report import meetings, told
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.plan import Case, Header, Join, Plan, Step

from tests.plays import compiled
from tests.strategies import flows

PLAYBOOK = """
steps:
- {name: a, rule: [{case: "{{ step.visit }}", run: [b, c]}, {case: default, run: [e]}]}
- {name: b, rule: [{case: default, run: [d]}]}
- {name: c, rule: [{case: default, run: [d]}]}
- {name: d, MODE rule: [{case: "{{ step.visit }}", run: [e]}, {case: default, run: [f]}]}
- {name: e, rule: [{case: default, run: [f]}]}
- {name: f, run: [{action: log, message: x}]}
"""


def told_of(mode: str) -> list[str]:
    return told(meetings(compiled(PLAYBOOK.replace("MODE", mode)))).splitlines()


def test_joins_and_where_there_is_none() -> None:
    assert told_of("") == [
        "d: waits for all branches: the fork at `a` makes branches that can meet here",
        "  a → b → d",
        "  a → c → d",
        "e: no join: the branches of the forks on the way have come together before, at `d`",
        "f: no join: the branches of the forks on the way have come together before, at `d`",
    ]


def test_the_first_branch() -> None:
    assert told_of("join: any,")[0] == (
        "d: goes on with the first branch: the fork at `a` makes branches that can meet here"
    )


def test_a_step_that_runs_for_each_branch() -> None:
    lines = told_of("join: each,")
    assert lines[0] == "d: runs for each branch: the fork at `a` makes branches that can meet here"
    assert lines[3].startswith("e: waits for all branches: ")


def test_nothing_forks() -> None:
    plan = compiled("""
    steps:
    - {name: a, rule: [{case: "{{ step.visit }}", run: [b]}, {case: default, run: [c]}]}
    - {name: b, rule: [{case: default, run: [c]}]}
    - {name: c, run: [{action: log, message: x}]}
    """)
    assert told(meetings(plan)) == (
        "c: no join: one branch at most arrives, since no fork after `a` has two branches that lead here\n"
    )
    assert told(meetings(compiled("steps: [{name: a, run: [{action: log, message: x}]}]"))) == (
        "no step has more than one way to it\n"
    )


def test_as_an_object() -> None:
    found = meetings(compiled(PLAYBOOK.replace("MODE", "")))[0].to_json()
    assert found == {
        "step": "d",
        "join": "all",
        "since": "a",
        "fork": "a",
        "ways": [["a", "b", "d"], ["a", "c", "d"]],
        "together": [],
        "reason": "waits for all branches: the fork at `a` makes branches that can meet here",
    }


def plan_of(flow: Flow) -> Plan:
    joins = find_joins(flow)
    steps = {
        name: Step(
            name,
            cases=tuple(Case("{{ x }}", targets=targets) for targets in cases),
            join=Join(joins.dominators[name] or None, "all") if name in joins.dominators else None,
        )
        for name, cases in flow.targets.items()
    }
    return Plan(Header(name="play", start=flow.start), steps, {}, "")


@given(flows(acyclic=True))
def test_every_join_is_shown_with_two_ways_to_it(flow: Flow) -> None:
    found = {meeting.step: meeting for meeting in meetings(plan_of(flow))}
    assert {name for name, m in found.items() if m.join} == set(find_joins(flow).dominators)
    for step, meeting in found.items():
        if meeting.join is None:
            # One branch of each fork can be at the last common step only.
            for common in meeting.together:
                assert common in nx.ancestors(flow.graph, step)
            continue
        one, other = meeting.ways
        assert one[0] == other[0] == meeting.fork
        assert any({one[1], other[1]} <= set(case) for case in flow.targets[one[0]])
        assert set(one[1:-1]).isdisjoint(other[1:-1]) or one[-1] == other[-1] == step
        for way in meeting.ways:
            assert way[-1] == step
            assert all(flow.graph.has_edge(*edge) for edge in pairwise(way))


@given(flows(acyclic=False))
def test_cycles_can_be_explained_too(flow: Flow) -> None:
    assert all(meeting.reason for meeting in meetings(plan_of(flow)))
