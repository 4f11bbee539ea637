from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from planner.graph import Flow
from planner.joins import ROOT, Joins, find_joins
from tests.planner.tokens import Broken, Counts, Model, Protocol, TooMany
from tests.strategies import Chances, case_taken, chances, flows

MOST_VISITS = 3

Cases = Mapping[str, list[list[str]]]


def flow_of(cases: Cases) -> Flow:
    """A flow from its cases, with the steps that have none; the first step is the start."""
    targets = {step: tuple(map(tuple, of_step)) for step, of_step in cases.items()}
    for of_step in cases.values():
        for case in of_step:
            for target in case:
                targets.setdefault(target, ())
    return Flow(next(iter(cases)), targets)


def walked(flow: Flow, chances: Chances, protocol: Protocol = Protocol.ATOMIC, *, acyclic: bool = False) -> set[Counts]:
    def targets(step: str, visit: int) -> tuple[str, ...]:
        return case_taken(flow, chances, step, visit, MOST_VISITS)

    return Model(flow, find_joins(flow), targets, protocol, acyclic).outcomes()


def always_first(flow: Flow) -> Chances:
    return {step: [0] for step in flow.targets}


@given(flows(acyclic=True).flatmap(lambda flow: st.tuples(st.just(flow), chances(flow))))
def test_acyclic_flows(drawn: tuple[Flow, Chances]) -> None:
    """In every order: each step at most once, entered when no live branch can still reach it, nothing left over."""
    flow, chances = drawn
    assert not find_joins(flow).runaways
    assert len(walked(flow, chances, acyclic=True)) == 1


@given(flows(acyclic=False, max_steps=7).flatmap(lambda flow: st.tuples(st.just(flow), chances(flow))))
def test_cyclic_flows(drawn: tuple[Flow, Chances]) -> None:
    """In every order the same visits, never two branches at one step, nothing left over."""
    flow, chances = drawn
    assume(not find_joins(flow).runaways)
    try:
        found = walked(flow, chances)
    except TooMany:
        reject()
    assert len(found) == 1


DIAMOND: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]]}


@pytest.mark.parametrize(
    ("protocol", "what"),
    [
        (Protocol.MARK_THEN_CHECK, "two branches stand at d"),
        (Protocol.CHECK_THEN_MARK, "branches wait for ever"),
    ],
)
def test_the_model_catches_broken_joins(protocol: Protocol, what: str) -> None:
    flow = flow_of(DIAMOND)
    assert walked(flow, always_first(flow)) == {frozenset({("a", 1), ("b", 1), ("c", 1), ("d", 1)})}
    with pytest.raises(Broken, match=what):
        walked(flow, always_first(flow), protocol)


@pytest.mark.parametrize(
    "wrong", [Joins({}, {}, ()), Joins({"d": "a"}, {"b": ("d",)}, ()), Joins({"d": "a"}, {}, ())], ids=str
)
def test_the_model_catches_a_planner_that_is_wrong(wrong: Joins) -> None:
    flow = flow_of(DIAMOND)
    with pytest.raises(Broken):
        Model(flow, wrong, lambda step, _: (flow.targets[step] or ((),))[0]).outcomes()


@pytest.mark.parametrize(
    ("cases", "dominators", "regions"),
    [
        pytest.param(DIAMOND, {"d": "a"}, {"b": {"d"}, "c": {"d"}}, id="diamond"),
        pytest.param({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]]}, {}, {}, id="exclusive diamond"),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d", "e"]], "d": [["f"]], "e": [["f"]], "f": [["g"]], "c": [["g"]]},
            {"f": "b", "g": "a"},
            {"b": {"g"}, "c": {"g"}, "d": {"f", "g"}, "e": {"f", "g"}, "f": {"g"}},
            id="nested",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]], "e": [["g"]], "f": [["g"]]},
            {"d": "a", "g": "d"},
            {"b": {"d"}, "c": {"d"}, "e": {"g"}, "f": {"g"}},
            id="chained",
        ),
        pytest.param(
            {"a": [["b", "d"]], "b": [["c"]], "c": [["d"]]}, {"d": "a"}, {"b": {"d"}, "c": {"d"}}, id="unbalanced"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"], []], "c": [["d"]]},
            {"d": "a"},
            {"b": {"d"}, "c": {"d"}},
            id="a branch that may end early",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["b"], ["d"]], "c": [["d"]]},
            {"d": "a"},
            {"b": {"d"}, "c": {"d"}},
            id="loop inside a region",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]]},
            {"d": "a"},
            {"b": {"d"}, "c": {"d"}},
            id="fork in a cycle, joined inside it",
        ),
        pytest.param(
            {"a": [["b", "c"], ["d"]], "b": [["a"]], "c": [["a"]]},
            {"a": ROOT},
            {"b": {"a"}, "c": {"a"}},
            id="fork in a cycle, joined at its head",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"], ["x"]], "c": [["d"]], "d": [["a"], ["y"]], "x": [["z"]], "y": [["z"]]},
            {"d": "a", "x": ROOT, "z": ROOT},
            {"a": {"x", "z"}, "b": {"d", "x", "z"}, "c": {"d", "x", "z"}, "d": {"x", "z"}, "x": {"z"}, "y": {"z"}},
            id="late steps behind a parallel cycle",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["e"]], "d": [], "e": []}, {}, {}, id="branches that never meet"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"], ["e"]], "c": [], "d": [["f"]], "e": [["f"]]},
            {},
            {},
            id="exclusive diamond in one branch of a fork",
        ),
    ],
)
def test_regions(cases: Cases, dominators: dict[str, str], regions: dict[str, set[str]]) -> None:
    flow = flow_of(cases)
    joins = find_joins(flow)
    assert joins.dominators == dominators
    assert {step: set(waiting) for step, waiting in joins.regions.items()} == regions
    assert joins.runaways == ()


@pytest.mark.parametrize(
    ("cases", "step", "case", "left"),
    [
        pytest.param({"a": [["b"]], "b": [["a", "c"]]}, "b", 0, ("c",), id="one branch goes round, one is left"),
        pytest.param(
            {"a": [["b", "c"]], "b": [["a"], ["d"]], "c": [["d"]]}, "a", 0, ("c",), id="round before the join"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["c"]], "c": [["b"]]}, "b", None, ("b", "c"), id="joins that wait for each other"
        ),
        pytest.param(
            {"a": [["b"], []], "b": [["c", "b"]], "c": [["b"], ["a"]]}, "c", None, ("b",), id="out of a region and back"
        ),
    ],
)
def test_runaways(cases: Cases, step: str, case: int | None, left: tuple[str, ...]) -> None:
    (runaway,) = find_joins(flow_of(cases)).runaways
    assert (runaway.step, runaway.case, runaway.left) == (step, case, left)
    assert runaway.cycle[0] == runaway.cycle[-1]
    graph = flow_of(cases).graph
    assert all(graph.has_edge(*edge) for edge in zip(runaway.cycle, runaway.cycle[1:], strict=False))


def test_a_flow_without_forks_has_no_joins() -> None:
    joins = find_joins(flow_of({"a": [["b"], ["c"]], "b": [["a"]], "c": [["b"]]}))
    assert (joins.dominators, joins.regions, joins.runaways) == ({}, {}, ())


@pytest.mark.parametrize(
    ("source", "targets", "change"),
    [
        ("a", ("b", "c"), {"d": 2}),
        ("a", ("b",), {"d": 1}),
        ("b", ("d",), {"d": -1}),
        ("b", (), {"d": -1}),
        ("d", (), {}),
        (None, ("a",), {}),
        (None, ("b",), {"d": 1}),
    ],
)
def test_what_a_move_adds_to_the_counters(source: str | None, targets: tuple[str, ...], change: dict[str, int]) -> None:
    assert find_joins(flow_of(DIAMOND)).change(source, targets) == change


def test_the_order_of_the_text_does_not_matter() -> None:
    cases: Cases = {"a": [["b", "c"]], "b": [["d", "e"]], "d": [["f"]], "e": [["f"]], "f": [["g"]], "c": [["g"]]}
    forwards, backwards = flow_of(cases), Flow("a", dict(reversed(flow_of(cases).targets.items())))
    assert find_joins(forwards).dominators == find_joins(backwards).dominators


def test_a_wide_fork_is_joined_once() -> None:
    middle = [f"m{index}" for index in range(8)]
    flow = flow_of({"a": [middle], **{step: [["z"]] for step in middle}})
    assert find_joins(flow).dominators == {"z": "a"}
    (visits,) = walked(flow, always_first(flow), acyclic=True)
    assert dict(visits) == dict.fromkeys(["a", *middle, "z"], 1)
