from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import DEFAULT_MODES, ROOT, Joins

from tests.planner.branch_model import BranchModel, Counts, JoinProtocol, PropertyViolation, TooManyStates
from tests.strategies import Chances, any_flows, case_taken, chances, flows, mixed_modes, nested_flows

MOST_VISITS = 3

Cases = Mapping[str, list[list[str]]]


def flow_of(cases: Cases) -> ControlFlowGraph:
    """A flow from its cases, with the steps that have none; the first step is the start."""
    targets = {step: tuple(map(tuple, of_step)) for step, of_step in cases.items()}
    for of_step in cases.values():
        for case in of_step:
            for target in case:
                targets.setdefault(target, ())
    return ControlFlowGraph(next(iter(cases)), targets)


def walked(
    cfg: ControlFlowGraph,
    chances: Chances,
    protocol: JoinProtocol = JoinProtocol.ATOMIC,
    modes: Mapping[str, str] = DEFAULT_MODES,
) -> set[Counts]:
    def targets(step: str, visit: int) -> tuple[str, ...]:
        return case_taken(cfg, chances, step, visit, MOST_VISITS)

    return BranchModel(cfg, find_joins(cfg, modes), targets, protocol, modes).explore()


def always_first(cfg: ControlFlowGraph) -> Chances:
    return {step: [0] for step in cfg.targets}


def has_waves(cfg: ControlFlowGraph, joins: Joins) -> bool:
    """Whether a branch that comes too late for a `join: any` may still be on the way when the next round begins, so that which
    of them is first can decide what is visited.
    """
    dominators = (joins.dominators[join] for join in joins.discriminators)
    return any(step != ROOT and cfg.is_cyclic(step) for step in dominators)


@given(flows(acyclic=True).flatmap(lambda cfg: st.tuples(st.just(cfg), chances(cfg))))
def test_acyclic_flows(drawn: tuple[ControlFlowGraph, Chances]) -> None:
    """In every order: each step at most once, entered when no live branch can still reach it, nothing left over."""
    cfg, chances = drawn
    assert not find_joins(cfg).overlapping_cycles
    assert len(walked(cfg, chances)) == 1


@pytest.mark.parametrize(
    "drawn_from", [flows(acyclic=False, max_steps=7), nested_flows()], ids=["wild", "nested"]
)
@given(drawn=st.data())
def test_cyclic_flows(drawn_from: st.SearchStrategy[ControlFlowGraph], drawn: st.DataObject) -> None:
    """In every order the same visits, never two branches at one step, nothing left over."""
    cfg = drawn.draw(drawn_from)
    assume(not find_joins(cfg).overlapping_cycles)
    try:
        found = walked(cfg, drawn.draw(chances(cfg)))
    except TooManyStates:
        reject()
    assert len(found) == 1


@given(drawn=st.data())
def test_flows_of_mixed_modes(drawn: st.DataObject) -> None:
    """The same, with two branches at one step only if it is `join: each`, or if one of them came too late elsewhere."""
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    joins = find_joins(cfg, modes)
    assume(not joins.overlapping_cycles)
    assume(joins.discriminators or joins.multi_merges)
    try:
        found = walked(cfg, drawn.draw(chances(cfg)), modes=modes)
    except TooManyStates:
        reject()
    assert len(found) == 1 or has_waves(cfg, joins)


DIAMOND: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]]}


@pytest.mark.parametrize(
    ("protocol", "what"),
    [
        (JoinProtocol.MARK_THEN_CHECK, "two branches are at d"),
        (JoinProtocol.CHECK_THEN_MARK, "branches wait forever"),
    ],
)
def test_the_model_catches_broken_joins(protocol: JoinProtocol, what: str) -> None:
    cfg = flow_of(DIAMOND)
    assert walked(cfg, always_first(cfg)) == {frozenset({("a", 1), ("b", 1), ("c", 1), ("d", 1)})}
    with pytest.raises(PropertyViolation, match=what):
        walked(cfg, always_first(cfg), protocol)


@pytest.mark.parametrize(
    "wrong", [Joins({}, {}, ()), Joins({"d": "a"}, {"b": ("d",)}, ()), Joins({"d": "a"}, {}, ())], ids=str
)
def test_the_model_catches_a_planner_that_is_wrong(wrong: Joins) -> None:
    cfg = flow_of(DIAMOND)
    with pytest.raises(PropertyViolation):
        BranchModel(cfg, wrong, lambda step, _: (cfg.targets[step] or ((),))[0]).explore()


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
            {"a": [["b", "d"]], "b": [["c"]], "c": [["d"]]},
            {"d": "a"},
            {"b": {"d"}, "c": {"d"}},
            id="unbalanced",
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
            {
                "a": [["b", "c"]],
                "b": [["d"], ["x"]],
                "c": [["d"]],
                "d": [["a"], ["y"]],
                "x": [["z"]],
                "y": [["z"]],
            },
            {"d": "a", "x": ROOT, "z": ROOT},
            {
                "a": {"x", "z"},
                "b": {"d", "x", "z"},
                "c": {"d", "x", "z"},
                "d": {"x", "z"},
                "x": {"z"},
                "y": {"z"},
            },
            id="late steps behind a parallel cycle",
        ),
        pytest.param(
            {
                "a": [["b", "c"]],
                "b": [["d"], ["h"]],
                "c": [["d"]],
                "d": [["a"], ["h"]],
                "h": [["p", "q"], []],
                "p": [["h"], ["y"]],
                "q": [["h"]],
            },
            {"d": "a", "h": ROOT, "y": ROOT},
            {**{step: {"d", "h", "y"} for step in "bc"}, **{step: {"h", "y"} for step in "adpq"}, "h": {"y"}},
            id="late steps behind a parallel cycle that is late itself",
        ),
        pytest.param(
            {"a": [["b"], []], "b": [["c", "b"]], "c": [["b"], ["a"]]},
            {"a": ROOT, "b": "a"},
            {"b": {"a"}, "c": {"a", "b"}},
            id="out of a cycle within a cycle",
        ),
        pytest.param(
            {
                "o": [["a"]],
                "a": [["b", "c"]],
                "b": [["d"], ["x"]],
                "c": [["d"]],
                "d": [["a"], ["y"]],
                "x": [["y"]],
                "y": [["o"], []],
            },
            {"d": "a", "x": "o", "y": "o"},
            {**{step: {"d", "x", "y"} for step in "bc"}, "a": {"x", "y"}, "d": {"x", "y"}, "x": {"y"}},
            id="late steps behind a parallel cycle within a cycle",
        ),
        pytest.param(
            {"a": [["b"], ["c"]], "b": [["c"]], "c": [["a"], ["d"]], "d": [["e", "c"]], "e": [["a"], ["b"]]},
            {"a": ROOT, "c": "a"},
            {"b": {"a", "c"}, "c": {"a"}, "d": {"a", "c"}, "e": {"a", "c"}},
            id="a cycle with two ways in",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["e"]], "d": [], "e": []},
            {},
            {},
            id="branches that never meet",
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
    cfg = flow_of(cases)
    joins = find_joins(cfg)
    assert joins.dominators == dominators
    assert {step: set(waiting) for step, waiting in joins.regions.items()} == regions
    assert joins.overlapping_cycles == ()


@pytest.mark.parametrize(
    ("cases", "step", "case", "left"),
    [
        pytest.param(
            {"a": [["b"]], "b": [["a", "c"]]}, "b", 0, ("c",), id="one branch goes round, one is left"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["a"], ["d"]], "c": [["d"]]}, "a", 0, ("c",), id="round before the join"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["c"]], "c": [["b"]]},
            "b",
            None,
            ("b", "c"),
            id="joins that wait for each other",
        ),
    ],
)
def test_runaways(cases: Cases, step: str, case: int | None, left: tuple[str, ...]) -> None:
    (runaway,) = find_joins(flow_of(cases)).overlapping_cycles
    assert (runaway.step, runaway.case, runaway.unfinished_steps) == (step, case, left)
    assert runaway.cycle[0] == runaway.cycle[-1]
    graph = flow_of(cases).graph
    assert all(graph.has_edge(*edge) for edge in zip(runaway.cycle, runaway.cycle[1:], strict=False))


def runaway_of(cases: Cases, modes: Mapping[str, str]) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
    """The join that goes on too early, the cycle that it lets begin again, and where branches may be left."""
    (runaway,) = find_joins(flow_of(cases), modes).overlapping_cycles
    return runaway.discriminator, runaway.cycle, runaway.unfinished_steps


RACE: Cases = {
    "a": [["b", "c", "d"]],
    "b": [["k"]],
    "c": [["k"]],
    "d": [["j"]],
    "k": [["j"]],
    "j": [["a"], ["z"]],
}


class TestFirstArrivals:
    def test_no_join_counts_for_them(self) -> None:
        joins = find_joins(flow_of(DIAMOND), {"d": "any"})
        assert (joins.dominators, joins.discriminators, joins.multi_merges) == (
            {"d": "a"},
            {"d"},
            frozenset(),
        )
        assert joins.regions == {"b": ("d",), "c": ("d",)}
        assert joins.joins_waiting_for("b") == ()
        assert joins.counter_changes("a", ("b", "c")) == {}

    def test_joins_around_wait_for_those_that_come_too_late(self) -> None:
        cases: Cases = {"a": [["b", "c", "d"]], "b": [["e"]], "c": [["e"]], "d": [["f"]], "e": [["f"]]}
        joins = find_joins(flow_of(cases), {"e": "any"})
        assert (joins.dominators, joins.discriminators) == ({"e": "a", "f": "a"}, {"e"})
        assert {step: joins.joins_waiting_for(step) for step in "bcde"} == dict.fromkeys("bcde", ("f",))

    def test_what_is_only_behind_them_does_not_wait(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e", "f"]], "e": [["g"]], "f": [["g"]]}
        joins = find_joins(flow_of(cases), {"d": "any"})
        assert joins.dominators == {"d": "a", "g": "d"}
        assert joins.joins_waiting_for("b") == ()

    def test_where_one_branch_at_most_can_arrive(self) -> None:
        cfg = flow_of({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]]})
        assert find_joins(cfg, {"d": "any"}).dominators == {}

    def test_a_race_in_every_round(self) -> None:
        cases: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]]}
        cfg, modes = flow_of(cases), {"d": "any"}
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.overlapping_cycles) == ({"d": "a"}, ())
        chances = {**always_first(cfg), "d": [0, 1]}
        twice = {"a": 2, "b": 2, "c": 2, "d": 2, "e": 1}
        assert walked(cfg, chances, modes=modes) == {frozenset(twice.items())}

    def test_a_cycle_that_does_not_pass_the_fork(self) -> None:
        cases: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["b"], []]}
        assert runaway_of(cases, {"d": "any"}) == ("d", ("d", "b", "d"), ("d",))
        cases = {"a": [["b", "c"], []], "b": [["a"]], "c": [["a"]]}
        assert runaway_of(cases, {"a": "any"}) == ("a", ("a", "b", "a"), ("a",))

    def test_a_join_that_would_mix_two_rounds(self) -> None:
        assert runaway_of(RACE, {"j": "any"}) == ("j", ("j", "a", "d", "j"), ("k",))

    def test_a_join_that_ends_the_round_waits_for_those_that_come_too_late(self) -> None:
        cfg = flow_of({**RACE, "j": [["m"]], "d": [["j"]], "c": [["m"]], "m": [["a"], ["z"]]})
        joins = find_joins(cfg, {"j": "any"})
        assert (joins.dominators, joins.overlapping_cycles) == ({"j": "a", "m": "a"}, ())

    def test_first_of_several_firsts(self) -> None:
        joins = find_joins(flow_of(RACE), {"j": "any", "k": "any"})
        assert (joins.dominators, joins.overlapping_cycles) == ({"j": "a", "k": "a"}, ())


CHAIN: Cases = {**DIAMOND, "d": [["e"]], "e": [["f"]]}


class TestVisitsForEach:
    @pytest.mark.parametrize(
        ("each", "multi", "joins"),
        [
            ("d", "d", {"e": "a"}),
            ("de", "de", {"f": "a"}),
            ("def", "def", {}),
            ("df", "d", {"e": "a"}),
            ("ef", "", {"d": "a"}),
        ],
    )
    def test_what_follows_comes_together_unless_it_says_so_too(
        self, each: str, multi: str, joins: dict[str, str]
    ) -> None:
        found = find_joins(flow_of(CHAIN), dict.fromkeys(each, "each"))
        assert (found.multi_merges, found.dominators) == (set(multi), joins)

    def test_once_for_each_branch(self) -> None:
        cfg = flow_of(CHAIN)
        (visits,) = walked(cfg, always_first(cfg), modes={"d": "each"})
        assert dict(visits) == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 1, "f": 1}

    def test_the_first_of_each(self) -> None:
        cfg, modes = flow_of(CHAIN), {"d": "each", "e": "any"}
        assert find_joins(cfg, modes).discriminators == {"e"}
        (visits,) = walked(cfg, always_first(cfg), modes=modes)
        assert dict(visits) == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 1, "f": 1}

    def test_joins_behind_them_reach_back_to_where_there_was_one_branch(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e"], ["f"]], "e": [["g"]], "f": [["g"]]}
        joins = find_joins(flow_of(cases), {"d": "each"})
        assert joins.dominators == {"e": "a", "f": "a", "g": "a"}
        assert joins.joins_waiting_for("b") == ("e", "f", "g")

    def test_a_fork_behind_them_begins_where_they_have_come_together(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e"]], "e": [["f", "g"]], "f": [["h"]], "g": [["h"]]}
        assert find_joins(flow_of(cases), {"d": "each"}).dominators == {"e": "a", "h": "e"}

    def test_back_to_the_head_of_a_cycle(self) -> None:
        cases: Cases = {"a": [["b", "c"], []], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]]}
        cfg, modes = flow_of(cases), {"d": "each"}
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.multi_merges, joins.overlapping_cycles) == (
            {"a": ROOT, "e": ROOT},
            {"d"},
            (),
        )
        chances = {**always_first(cfg), "a": [0, 1], "d": [0, 1]}
        (visits,) = walked(cfg, chances, modes=modes)
        assert dict(visits) == {"a": 2, "b": 1, "c": 1, "d": 2, "e": 1}

    def test_one_branch_more_in_every_round(self) -> None:
        cases: Cases = {"a": [["a", "b"], ["b"]], "b": [["c"]], "c": []}
        cfg = flow_of(cases)
        assert [runaway.unfinished_steps for runaway in find_joins(cfg).overlapping_cycles] == [("b",)]
        modes = {"b": "each"}
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.multi_merges, joins.overlapping_cycles) == ({"c": ROOT}, {"b"}, ())
        (visits,) = walked(cfg, {**always_first(cfg), "a": [0, 0, 1]}, modes=modes)
        assert dict(visits) == {"a": 3, "b": 3, "c": 1}

    def test_where_one_branch_at_most_can_arrive(self) -> None:
        cfg = flow_of({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]]})
        assert find_joins(cfg, {"d": "each"}).multi_merges == frozenset()


@pytest.mark.parametrize(
    ("modes", "wrong"),
    [
        pytest.param({"d": "any"}, Joins({"d": "a"}, {"b": ("d",), "c": ("d",)}, ()), id="a race that waits"),
        pytest.param({"d": "any"}, Joins({}, {}, ()), id="a race without an end"),
        pytest.param(
            {}, Joins({"d": "a"}, {}, (), discriminators=frozenset("d")), id="a race that nobody wanted"
        ),
        pytest.param(
            {"d": "each"}, Joins({}, {}, (), multi_merges=frozenset("d")), id="what follows is no join"
        ),
        pytest.param(
            {"d": "each"},
            Joins({"e": "d"}, {}, (), multi_merges=frozenset("d")),
            id="what follows does not wait",
        ),
    ],
)
def test_the_model_catches_a_planner_that_is_wrong_about_modes(
    modes: Mapping[str, str], wrong: Joins
) -> None:
    cfg = flow_of({**DIAMOND, "d": [["e"]]})
    with pytest.raises(PropertyViolation):
        BranchModel(cfg, wrong, lambda step, _: (cfg.targets[step] or ((),))[0], modes=modes).explore()


def test_a_flow_without_forks_has_no_joins() -> None:
    joins = find_joins(flow_of({"a": [["b"], ["c"]], "b": [["a"]], "c": [["b"]]}))
    assert (joins.dominators, joins.regions, joins.overlapping_cycles) == ({}, {}, ())


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
def test_what_a_move_adds_to_the_counters(
    source: str | None, targets: tuple[str, ...], change: dict[str, int]
) -> None:
    assert find_joins(flow_of(DIAMOND)).counter_changes(source, targets) == change


def test_the_order_of_the_text_does_not_matter() -> None:
    cases: Cases = {
        "a": [["b", "c"]],
        "b": [["d", "e"]],
        "d": [["f"]],
        "e": [["f"]],
        "f": [["g"]],
        "c": [["g"]],
    }
    forwards, backwards = (
        flow_of(cases),
        ControlFlowGraph("a", dict(reversed(flow_of(cases).targets.items()))),
    )
    assert find_joins(forwards).dominators == find_joins(backwards).dominators


def test_a_wide_fork_is_joined_once() -> None:
    middle = [f"m{index}" for index in range(8)]
    cfg = flow_of({"a": [middle], **{step: [["z"]] for step in middle}})
    assert find_joins(cfg).dominators == {"z": "a"}
    (visits,) = walked(cfg, always_first(cfg))
    assert dict(visits) == dict.fromkeys(["a", *middle, "z"], 1)
