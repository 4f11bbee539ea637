from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import DEFAULT_MODES, ROOT, Joins
from tests.planner.branch_model import BranchModel, Counts, JoinProtocol, PropertyViolation, TooManyStates
from tests.strategies import (
    Chances,
    case_taken,
    chances,
    flows,
    flows_of_mixed_modes,
    mixed_modes,
    nested_flows,
    without_overlapping_cycles,
)

MAX_VISITS = 3

Cases = Mapping[str, list[list[str]]]


def make_cfg(cases: Cases) -> ControlFlowGraph:
    """Return a graph with these cases that starts at the first step. Steps without cases may be left out."""
    targets = {step: tuple(map(tuple, cases_of_step)) for step, cases_of_step in cases.items()}
    for cases_of_step in cases.values():
        for case in cases_of_step:
            for target in case:
                targets.setdefault(target, ())
    return ControlFlowGraph(next(iter(cases)), targets)


def explore(
    cfg: ControlFlowGraph,
    chances: Chances,
    protocol: JoinProtocol = JoinProtocol.ATOMIC,
    modes: Mapping[str, str] = DEFAULT_MODES,
) -> set[Counts]:
    def targets(step: str, visit: int) -> tuple[str, ...]:
        return case_taken(cfg, chances, step, visit, MAX_VISITS)

    return BranchModel(cfg, find_joins(cfg, modes), targets, protocol, modes).explore()


def always_first_case(cfg: ControlFlowGraph) -> Chances:
    return {step: [0] for step in cfg.targets}


def has_several_waves(cfg: ControlFlowGraph, joins: Joins) -> bool:
    """Return whether stragglers of a discriminator may still be active when the next round starts.

    The visited steps may then depend on which branch is first.
    """
    dominators = (joins.dominators[join] for join in joins.discriminators)
    return any(step != ROOT and cfg.is_cyclic(step) for step in dominators)


@given(flows(acyclic=True).flatmap(lambda cfg: st.tuples(st.just(cfg), chances(cfg))))
def test_acyclic_graph_has_one_outcome_in_every_order(drawn: tuple[ControlFlowGraph, Chances]) -> None:
    """A step is visited at most once, after all branches that can reach it, and no counter is left over."""
    cfg, chances = drawn
    assert not find_joins(cfg).overlapping_cycles
    assert len(explore(cfg, chances)) == 1


@pytest.mark.parametrize(
    "strategy", [flows(acyclic=False, max_steps=7), nested_flows()], ids=["wild", "nested"]
)
@given(drawn=st.data())
def test_cyclic_graph_has_one_outcome_in_every_order(
    strategy: st.SearchStrategy[ControlFlowGraph], drawn: st.DataObject
) -> None:
    """Visits do not depend on the order, two branches are never at one step, and no counter is left over."""
    cfg = drawn.draw(strategy)
    assume(not find_joins(cfg).overlapping_cycles)
    try:
        found = explore(cfg, drawn.draw(chances(cfg)))
    except TooManyStates:
        reject()
    assert len(found) == 1


@given(drawn=st.data())
def test_graph_of_mixed_modes_has_one_outcome_in_every_order(drawn: st.DataObject) -> None:
    """Two branches are at one step only if it is a multi-merge, or if one of them is a straggler."""
    cfg, modes = drawn.draw(flows_of_mixed_modes())
    joins = find_joins(cfg, modes)
    try:
        found = explore(cfg, drawn.draw(chances(cfg)), modes=modes)
    except TooManyStates:
        reject()
    assert len(found) == 1 or has_several_waves(cfg, joins)


DIAMOND: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]]}


@pytest.mark.parametrize(
    ("protocol", "violation"),
    [
        (JoinProtocol.MARK_THEN_CHECK, "two branches are at d"),
        (JoinProtocol.CHECK_THEN_MARK, "branches wait forever"),
    ],
)
def test_model_detects_broken_join_protocols(protocol: JoinProtocol, violation: str) -> None:
    cfg = make_cfg(DIAMOND)
    assert explore(cfg, always_first_case(cfg)) == {frozenset({("a", 1), ("b", 1), ("c", 1), ("d", 1)})}
    with pytest.raises(PropertyViolation, match=violation):
        explore(cfg, always_first_case(cfg), protocol)


@pytest.mark.parametrize(
    "wrong", [Joins({}, {}, ()), Joins({"d": "a"}, {"b": ("d",)}, ()), Joins({"d": "a"}, {}, ())], ids=str
)
def test_model_detects_wrong_joins(wrong: Joins) -> None:
    cfg = make_cfg(DIAMOND)
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
def test_dominators_and_regions(
    cases: Cases, dominators: dict[str, str], regions: dict[str, set[str]]
) -> None:
    cfg = make_cfg(cases)
    joins = find_joins(cfg)
    assert joins.dominators == dominators
    assert {step: set(waiting) for step, waiting in joins.regions.items()} == regions
    assert joins.overlapping_cycles == ()


EXIT: Cases = {
    "a": [["b", "c"]],
    "b": [["d"], ["x"]],
    "c": [["d"]],
    "d": [["a"], ["y"]],
    "x": [["z"]],
    "y": [["z"]],
}
"""`b` may leave a parallel cycle for `x` before the join `d` of its round."""


class TestLoopExits:
    @pytest.mark.parametrize(
        ("cases", "exits"),
        [
            pytest.param({"a": [["b"]], "b": [["a", "c"]]}, {("b", "c")}, id="a fork that leaves the cycle"),
            pytest.param(
                {"a": [["b", "c"]], "b": [["a"], ["d"]], "c": [["d"]]},
                {("a", "c")},
                id="a branch that returns to the fork before the join",
            ),
            pytest.param(EXIT, {("b", "x")}, id="a guard before the join of the round"),
            pytest.param(
                {**EXIT, "a": [["b", "c", "x"]], "b": [["d"]]},
                {("a", "x")},
                id="the same as a target of the fork",
            ),
            pytest.param(
                {
                    "s1": [["s2", "s9", "s11"]],
                    "s2": [["s5"], ["s13"]],
                    "s9": [["s13"]],
                    "s11": [["s13"]],
                    "s13": [["s14"]],
                    "s14": [["s1"], []],
                },
                {("s2", "s5")},
                id="a guard before an end",
            ),
            pytest.param(
                {
                    "s1": [["s2", "s9", "s11"]],
                    "s2": [["s5"]],
                    "s9": [["s13"]],
                    "s11": [["s13"]],
                    "s13": [["s14"]],
                    "s14": [["s1"], []],
                },
                {("s1", "s2")},
                id="the same without the guard",
            ),
            pytest.param(
                {
                    "a": [["b", "c", "e"]],
                    "b": [["d"]],
                    "c": [["d"]],
                    "d": [["x"], ["m"]],
                    "e": [["m"]],
                    "m": [["a"]],
                },
                {("d", "x")},
                id="after an inner join, with another sibling",
            ),
            pytest.param(
                {"a": [["b"], []], "b": [["c", "b"]], "c": [["b"], ["a"]]},
                {("c", "a")},
                id="into an outer cycle",
            ),
            pytest.param(
                {
                    "a": [["b"], ["c"]],
                    "b": [["c"]],
                    "c": [["a"], ["d"]],
                    "d": [["e", "c"]],
                    "e": [["a"], ["b"]],
                },
                {("e", "a")},
                id="of a cycle with two entries",
            ),
            pytest.param(
                {"o": [["a"]], **EXIT, "x": [["y"]], "y": [["o"], []]},
                {("b", "x")},
                id="of a cycle within a cycle",
            ),
        ],
    )
    def test_an_exit_before_the_join_of_the_round_overlaps(
        self, cases: Cases, exits: set[tuple[str, str]]
    ) -> None:
        cycles = find_joins(make_cfg(cases)).overlapping_cycles
        assert {(cycle.step, *cycle.unfinished_steps) for cycle in cycles} == exits
        graph = make_cfg(cases).graph
        for found in cycles:
            assert found.loop_exit is not None
            assert found.cycle[0] == found.cycle[-1] == found.loop_exit.separation.fork.step
            assert found.cycle[1] == found.loop_exit.separation.sibling
            assert all(graph.has_edge(*edge) for edge in pairwise(found.cycle))
            assert found.unfinished_steps[0] in make_cfg(cases).targets[found.step][found.loop_exit.case]

    @pytest.mark.parametrize(
        ("cases", "each_steps"),
        [
            pytest.param({**EXIT, "b": [["d"]]}, "", id="from the join of the round"),
            pytest.param({**EXIT, "b": [["d"], []]}, "", id="a branch that ends in the cycle"),
            pytest.param(EXIT, "x", id="to a multi-merge"),
            pytest.param({**EXIT, "a": [["b", "c", "x"]]}, "x", id="to a multi-merge, from the fork, too"),
            pytest.param(
                {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]], "e": [["a"], ["x"]]},
                "",
                id="after the join of the round",
            ),
            pytest.param(
                {"o": [["p", "q"]], "p": [["a"]], "q": [["a"]], "a": [["a"], ["x"]]},
                "a",
                id="branches that separated before the cycle",
            ),
            pytest.param(
                {"o": [["p", "q"]], "p": [["p"], ["x"]], "q": [["q"], ["x"]]},
                "",
                id="a cycle for each branch",
            ),
            pytest.param(
                {"a": [["b"]], "b": [["a", "b"], ["x"]]},
                "a",
                id="a join after a multi-merge that begins the round",
            ),
        ],
    )
    def test_other_exits_are_legal(self, cases: Cases, each_steps: str) -> None:
        assert find_joins(make_cfg(cases), dict.fromkeys(each_steps, "each")).overlapping_cycles == ()

    @pytest.mark.parametrize(
        ("cases", "each_steps"),
        [
            ({"a": [["b"]], "b": [["a"], ["c"]], "c": [["a", "b"], ["x"]]}, "abc"),
            ({"a": [["b", "c"]], "b": [["d"], ["x"]], "c": [["d"]], "d": [["a"], ["y"]]}, "d"),
        ],
    )
    def test_branches_do_not_merge_at_a_multi_merge(self, cases: Cases, each_steps: str) -> None:
        """A step behind it may be left while a sibling continues the cycle."""
        cycles = find_joins(make_cfg(cases), dict.fromkeys(each_steps, "each")).overlapping_cycles
        assert cycles
        assert all(cycle.loop_exit for cycle in cycles)

    @pytest.mark.parametrize(
        ("cases", "each_steps", "dominators", "regions"),
        [
            pytest.param(
                EXIT,
                "x",
                {"d": "a", "z": ROOT},
                {"a": "z", "b": "dz", "c": "dz", "d": "z", "x": "z", "y": "z"},
                id="a parallel cycle",
            ),
            pytest.param(
                {
                    **EXIT,
                    "d": [["a"], ["h"]],
                    "x": [["h"]],
                    "h": [["p", "q"], []],
                    "p": [["h"], ["y"]],
                    "q": [["h"]],
                },
                "xy",
                {"d": "a", "h": ROOT, "z": ROOT},
                {**dict.fromkeys("bc", "dhz"), **dict.fromkeys("adpqx", "hz"), "h": "z", "y": "z"},
                id="a parallel cycle before another one",
            ),
            pytest.param(
                {"a": [["b"], []], "b": [["c", "b"]], "c": [["b"], ["x"]], "x": [["a"]]},
                "x",
                {"a": ROOT, "b": "a"},
                {"b": "a", "c": "ab", "x": "a"},
                id="an inner cycle",
            ),
            pytest.param(
                {"o": [["a"]], **EXIT, "x": [["y"]], "y": [["o"], []]},
                "x",
                {"d": "a", "y": "o"},
                {"a": "y", "b": "dy", "c": "dy", "d": "y", "x": "y"},
                id="a parallel cycle within a cycle",
            ),
            pytest.param(
                {
                    "a": [["b"], ["c"]],
                    "b": [["c"]],
                    "c": [["a"], ["d"]],
                    "d": [["e", "c"]],
                    "e": [["x"], ["b"]],
                    "x": [["a"]],
                },
                "x",
                {"a": ROOT, "c": "a"},
                {"b": "ac", "c": "a", "d": "ac", "e": "ac", "x": "a"},
                id="a cycle with two entries",
            ),
        ],
    )
    def test_joins_after_an_exit_to_a_multi_merge_begin_before_the_cycle(
        self, cases: Cases, each_steps: str, dominators: dict[str, str], regions: dict[str, str]
    ) -> None:
        joins = find_joins(make_cfg(cases), dict.fromkeys(each_steps, "each"))
        assert (joins.dominators, joins.overlapping_cycles) == (dominators, ())
        assert joins.multi_merges == frozenset(each_steps)
        assert {step: set(waiting) for step, waiting in joins.regions.items()} == {
            step: set(waiting) for step, waiting in regions.items()
        }

    @given(drawn=st.data())
    def test_a_guard_does_not_change_the_verdict(self, drawn: st.DataObject) -> None:
        """An additional branch may leave a cycle behind a guard exactly if it may leave it without one."""
        cfg = drawn.draw(st.one_of(flows(acyclic=False, max_steps=7), nested_flows()))
        modes = drawn.draw(mixed_modes(cfg))
        modes = {step: mode for step, mode in modes.items() if not cfg.is_cyclic(step)}
        cfg = without_overlapping_cycles(cfg, modes)
        cases = [(step, i) for step in cfg.reachable for i, case in enumerate(cfg.targets[step]) if case]
        assume(cases)
        step, case = drawn.draw(st.sampled_from(sorted(cases)))
        leads_back = cfg.leads_back(step, cfg.targets[step][case])
        targets_on_cycle = [target for target in cfg.targets[step][case] if cfg.leads_back(step, (target,))]
        modes["outside"] = drawn.draw(st.sampled_from(["all", "any"]))
        unguarded, guarded = (
            bool(find_joins(with_branch(cfg, step, case, rule), modes).overlapping_cycles)
            for rule in ([["outside"]], [["outside"], targets_on_cycle[:1]])
        )
        assert guarded == unguarded
        assert unguarded or not leads_back


def with_branch(cfg: ControlFlowGraph, step: str, case: int, rule: list[list[str]]) -> ControlFlowGraph:
    """Return the graph with one more target of a case, the step `branch` with this rule."""
    cases = [(*targets, "branch") if i == case else targets for i, targets in enumerate(cfg.targets[step])]
    branch = tuple(map(tuple, rule))
    return ControlFlowGraph(cfg.start, {**cfg.targets, step: tuple(cases), "branch": branch, "outside": ()})


def test_joins_that_wait_for_each_other_are_reported() -> None:
    (overlapping,) = find_joins(make_cfg({"a": [["b", "c"]], "b": [["c"]], "c": [["b"]]})).overlapping_cycles
    assert (overlapping.step, overlapping.unfinished_steps) == ("b", ("b", "c"))
    assert (overlapping.cycle, overlapping.starts_early, overlapping.loop_exit) == (
        ("b", "c", "b"),
        False,
        None,
    )


def overlapping_cycle_of(
    cases: Cases, modes: Mapping[str, str]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return the discriminator, the cycle that it starts again, and the steps of unfinished branches."""
    (overlapping,) = find_joins(make_cfg(cases), modes).overlapping_cycles
    assert overlapping.starts_early
    return overlapping.step, overlapping.cycle, overlapping.unfinished_steps


RACE: Cases = {
    "a": [["b", "c", "d"]],
    "b": [["k"]],
    "c": [["k"]],
    "d": [["j"]],
    "k": [["j"]],
    "j": [["a"], ["z"]],
}


class TestDiscriminators:
    def test_no_live_branches_are_counted_for_a_discriminator(self) -> None:
        joins = find_joins(make_cfg(DIAMOND), {"d": "any"})
        assert (joins.dominators, joins.discriminators, joins.multi_merges) == (
            {"d": "a"},
            frozenset({"d"}),
            frozenset(),
        )
        assert joins.regions == {"b": ("d",), "c": ("d",)}
        assert joins.joins_waiting_for("b") == ()
        assert joins.counter_changes("a", ("b", "c")) == {}

    def test_outer_joins_wait_for_stragglers(self) -> None:
        cases: Cases = {"a": [["b", "c", "d"]], "b": [["e"]], "c": [["e"]], "d": [["f"]], "e": [["f"]]}
        joins = find_joins(make_cfg(cases), {"e": "any"})
        assert (joins.dominators, joins.discriminators) == ({"e": "a", "f": "a"}, frozenset({"e"}))
        assert {step: joins.joins_waiting_for(step) for step in "bcde"} == dict.fromkeys("bcde", ("f",))

    def test_a_join_reached_only_through_a_discriminator_does_not_wait_for_stragglers(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e", "f"]], "e": [["g"]], "f": [["g"]]}
        joins = find_joins(make_cfg(cases), {"d": "any"})
        assert joins.dominators == {"d": "a", "g": "d"}
        assert joins.joins_waiting_for("b") == ()

    def test_where_one_branch_at_most_can_arrive(self) -> None:
        cfg = make_cfg({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]]})
        assert find_joins(cfg, {"d": "any"}).dominators == {}

    def test_a_discriminator_fires_in_every_round(self) -> None:
        cases: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]]}
        cfg, modes = make_cfg(cases), {"d": "any"}
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.overlapping_cycles) == ({"d": "a"}, ())
        chances = {**always_first_case(cfg), "d": [0, 1]}
        twice = {"a": 2, "b": 2, "c": 2, "d": 2, "e": 1}
        assert explore(cfg, chances, modes=modes) == {frozenset(twice.items())}

    def test_a_cycle_that_does_not_pass_the_fork_overlaps(self) -> None:
        cases: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["b"], []]}
        assert overlapping_cycle_of(cases, {"d": "any"}) == ("d", ("d", "b", "d"), ("d",))
        cases = {"a": [["b", "c"], []], "b": [["a"]], "c": [["a"]]}
        assert overlapping_cycle_of(cases, {"a": "any"}) == ("a", ("a", "b", "a"), ("a",))

    def test_a_discriminator_before_a_waiting_join_overlaps(self) -> None:
        assert overlapping_cycle_of(RACE, {"j": "any"}) == ("j", ("j", "a", "d", "j"), ("k",))

    def test_a_join_at_the_end_of_the_round_waits_for_stragglers(self) -> None:
        cfg = make_cfg({**RACE, "j": [["m"]], "d": [["j"]], "c": [["m"]], "m": [["a"], ["z"]]})
        joins = find_joins(cfg, {"j": "any"})
        assert (joins.dominators, joins.overlapping_cycles) == ({"j": "a", "m": "a"}, ())

    def test_a_discriminator_after_a_discriminator(self) -> None:
        joins = find_joins(make_cfg(RACE), {"j": "any", "k": "any"})
        assert (joins.dominators, joins.overlapping_cycles) == ({"j": "a", "k": "a"}, ())


CHAIN: Cases = {**DIAMOND, "d": [["e"]], "e": [["f"]]}


class TestMultiMerges:
    @pytest.mark.parametrize(
        ("each_steps", "multi_merges", "joins"),
        [
            ("d", "d", {"e": "a"}),
            ("de", "de", {"f": "a"}),
            ("def", "def", {}),
            ("df", "d", {"e": "a"}),
            ("ef", "", {"d": "a"}),
        ],
    )
    def test_successors_of_a_multi_merge_are_joins_unless_they_are_multi_merges(
        self, each_steps: str, multi_merges: str, joins: dict[str, str]
    ) -> None:
        found = find_joins(make_cfg(CHAIN), dict.fromkeys(each_steps, "each"))
        assert (found.multi_merges, found.dominators) == (frozenset(multi_merges), joins)

    def test_a_multi_merge_is_visited_once_for_each_branch(self) -> None:
        cfg = make_cfg(CHAIN)
        (visits,) = explore(cfg, always_first_case(cfg), modes={"d": "each"})
        assert dict(visits) == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 1, "f": 1}

    def test_a_discriminator_after_a_multi_merge(self) -> None:
        cfg, modes = make_cfg(CHAIN), {"d": "each", "e": "any"}
        assert find_joins(cfg, modes).discriminators == {"e"}
        (visits,) = explore(cfg, always_first_case(cfg), modes=modes)
        assert dict(visits) == {"a": 1, "b": 1, "c": 1, "d": 2, "e": 1, "f": 1}

    def test_joins_after_a_multi_merge_have_the_dominator_before_it(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e"], ["f"]], "e": [["g"]], "f": [["g"]]}
        joins = find_joins(make_cfg(cases), {"d": "each"})
        assert joins.dominators == {"e": "a", "f": "a", "g": "a"}
        assert joins.joins_waiting_for("b") == ("e", "f", "g")

    def test_a_fork_after_a_multi_merge_starts_at_the_join_before_it(self) -> None:
        cases: Cases = {**DIAMOND, "d": [["e"]], "e": [["f", "g"]], "f": [["h"]], "g": [["h"]]}
        assert find_joins(make_cfg(cases), {"d": "each"}).dominators == {"e": "a", "h": "e"}

    def test_a_multi_merge_that_leads_back_to_the_loop_header(self) -> None:
        cases: Cases = {"a": [["b", "c"], []], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]], "e": [["f"]]}
        cfg, modes = make_cfg(cases), dict.fromkeys("de", "each")
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.multi_merges, joins.overlapping_cycles) == (
            {"a": ROOT, "f": ROOT},
            frozenset("de"),
            (),
        )
        chances = {**always_first_case(cfg), "a": [0, 1], "d": [0, 1]}
        (visits,) = explore(cfg, chances, modes=modes)
        assert dict(visits) == {"a": 2, "b": 1, "c": 1, "d": 2, "e": 1, "f": 1}

    def test_a_cycle_that_forks_to_a_multi_merge_in_every_round(self) -> None:
        cases: Cases = {"a": [["a", "b"], ["b"]], "b": [["c"]], "c": []}
        cfg = make_cfg(cases)
        assert [overlapping.unfinished_steps for overlapping in find_joins(cfg).overlapping_cycles] == [
            ("b",)
        ]
        modes = {"b": "each"}
        joins = find_joins(cfg, modes)
        assert (joins.dominators, joins.multi_merges, joins.overlapping_cycles) == (
            {"c": ROOT},
            frozenset({"b"}),
            (),
        )
        (visits,) = explore(cfg, {**always_first_case(cfg), "a": [0, 0, 1]}, modes=modes)
        assert dict(visits) == {"a": 3, "b": 3, "c": 1}

    def test_where_one_branch_at_most_can_arrive(self) -> None:
        cfg = make_cfg({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]]})
        assert find_joins(cfg, {"d": "each"}).multi_merges == frozenset()


@pytest.mark.parametrize(
    ("modes", "wrong"),
    [
        pytest.param(
            {"d": "any"}, Joins({"d": "a"}, {"b": ("d",), "c": ("d",)}, ()), id="discriminator that waits"
        ),
        pytest.param({"d": "any"}, Joins({}, {}, ()), id="discriminator without a join"),
        pytest.param(
            {}, Joins({"d": "a"}, {}, (), discriminators=frozenset("d")), id="join that is a discriminator"
        ),
        pytest.param(
            {"d": "each"}, Joins({}, {}, (), multi_merges=frozenset("d")), id="successor that is no join"
        ),
        pytest.param(
            {"d": "each"},
            Joins({"e": "d"}, {}, (), multi_merges=frozenset("d")),
            id="successor that does not wait",
        ),
    ],
)
def test_model_detects_joins_of_wrong_modes(modes: Mapping[str, str], wrong: Joins) -> None:
    cfg = make_cfg({**DIAMOND, "d": [["e"]]})
    with pytest.raises(PropertyViolation):
        BranchModel(cfg, wrong, lambda step, _: (cfg.targets[step] or ((),))[0], modes=modes).explore()


def test_a_graph_without_forks_has_no_joins() -> None:
    joins = find_joins(make_cfg({"a": [["b"], ["c"]], "b": [["a"]], "c": [["b"]]}))
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
def test_counter_changes_of_a_move(
    source: str | None, targets: tuple[str, ...], change: dict[str, int]
) -> None:
    assert find_joins(make_cfg(DIAMOND)).counter_changes(source, targets) == change


def test_joins_do_not_depend_on_the_order_of_the_text() -> None:
    cases: Cases = {
        "a": [["b", "c"]],
        "b": [["d", "e"]],
        "d": [["f"]],
        "e": [["f"]],
        "f": [["g"]],
        "c": [["g"]],
    }
    forwards, backwards = (
        make_cfg(cases),
        ControlFlowGraph("a", dict(reversed([*make_cfg(cases).targets.items()]))),
    )
    assert find_joins(forwards).dominators == find_joins(backwards).dominators


def test_a_wide_fork_has_one_join() -> None:
    middle = [f"m{index}" for index in range(8)]
    cfg = make_cfg({"a": [middle], **{step: [["z"]] for step in middle}})
    assert find_joins(cfg).dominators == {"z": "a"}
    (visits,) = explore(cfg, always_first_case(cfg))
    assert dict(visits) == dict.fromkeys(["a", *middle, "z"], 1)
