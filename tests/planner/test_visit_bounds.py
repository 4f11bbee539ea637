from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import networkx as nx
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from noetl.executor.stores.interface import Store
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import DEFAULT_MODES, Joins
from noetl.planner.graph.visit_bounds import bound_arrivals, compute_visit_bound
from noetl.planner.plan import MAX_COUNTED_VISITS
from noetl.testing.run_harness import RunHarness, compile_text
from tests.executor.test_state_space import CHAIN, CYCLE, DIAMOND, LATE, LOOP_INSIDE, NESTED
from tests.planner.branch_model import BranchModel, BranchState, BranchToken, TooManyStates
from tests.planner.test_joins import Cases, make_cfg
from tests.state_space import StateSpaceExplorer
from tests.strategies import flows

Bounds = Mapping[str, int]


@dataclass
class RunModel(BranchModel):
    """A model of all runs: a visit takes any case or none, in any order. A refused visit cannot lead back."""

    bounds: Bounds = field(default_factory=dict)

    def _events(self, state: BranchState) -> Iterator[BranchState]:
        for branch in state.at_steps:
            rest = replace(state, at_steps=state.at_steps - {branch})
            for targets in {(), *self.cfg.targets[branch.step]}:
                if self.is_refused(branch) and self.cfg.leads_back(branch.step, targets):
                    continue
                after = self._moved(rest, branch, targets)
                for join in self._ready(after, self._touched(branch.step, targets)):
                    after = self._fire(after, join)
                yield after

    def is_refused(self, branch: BranchToken) -> bool:
        return branch.visit > self.bounds.get(branch.step, branch.visit)

    @property
    def max_visits(self) -> int:
        return max(sum(dict(visits).values()) for visits in self.explore())


def model_all_runs(
    cfg: ControlFlowGraph, bounds: Bounds, modes: Mapping[str, str] = DEFAULT_MODES
) -> RunModel:
    return RunModel(cfg, find_joins(cfg, modes), lambda *_: (), modes=modes, bounds=bounds)


@st.composite
def bounded_models(draw: st.DrawFn, *, acyclic: bool) -> RunModel:
    cfg = draw(flows(acyclic=acyclic, max_steps=7 if acyclic else 5))
    steps = st.sampled_from(list(cfg.targets))
    bounds = draw(st.dictionaries(steps, st.integers(1, 2)))
    for step in cfg.targets:
        if not nx.is_directed_acyclic_graph(cfg.graph.subgraph(cfg.targets.keys() - bounds.keys())):
            bounds.setdefault(step, 1)
    modes = draw(st.dictionaries(steps, st.sampled_from(["any", "each"]), max_size=2))
    return model_all_runs(cfg, {step: bound for step, bound in bounds.items() if cfg.is_cyclic(step)}, modes)


@pytest.mark.parametrize("acyclic", [True, False])
@given(drawn=st.data())
def test_no_run_exceeds_the_bound(drawn: st.DataObject, acyclic: bool) -> None:
    runs = drawn.draw(bounded_models(acyclic=acyclic))
    assume(not runs.joins.overlapping_cycles)
    try:
        most = runs.max_visits
    except TooManyStates:
        reject()
    assert most <= compute_visit_bound(runs.cfg, runs.joins, runs.bounds)


@given(drawn=st.data())
def test_no_run_exceeds_the_bound_of_one_step(drawn: st.DataObject) -> None:
    runs = drawn.draw(bounded_models(acyclic=drawn.draw(st.booleans())))
    assume(not runs.joins.overlapping_cycles)
    step = drawn.draw(st.sampled_from(list(runs.cfg.targets)))
    try:
        most = max(dict(visits).get(step, 0) for visits in runs.explore())
    except TooManyStates:
        reject()
    assert most <= compute_visit_bound(runs.cfg, runs.joins, runs.bounds, step)
    assert most <= bound_arrivals(runs.cfg, runs.joins)[step]


def test_bound_of_one_step_counts_nothing_else() -> None:
    targets = {"a": (("b", "c"),), "b": (("d",),), "c": (("d",),), "d": (("e",),), "e": ()}
    cfg = ControlFlowGraph("a", targets)
    joins = find_joins(cfg, {"d": "each"})
    assert [compute_visit_bound(cfg, joins, {}, step) for step in "abcde"] == [1, 1, 1, 2, 1]


@given(flows(acyclic=True, max_steps=7))
def test_acyclic_graph_counts_each_step_at_most_once(cfg: ControlFlowGraph) -> None:
    assert compute_visit_bound(cfg, find_joins(cfg), {}) <= len(cfg.reachable)


def nested_diamonds(depth: int, name: str = "") -> dict[str, list[list[str]]]:
    """Return nested forks: each branch of a fork contains a fork, and each fork is joined."""
    if depth == 0:
        return {}
    sides = [f"{name}0", f"{name}1"]
    cases = {f"fork {name}": [[f"fork {side}" for side in sides]]}
    cases |= {f"{'fork' if depth == 1 else 'join'} {side}": [[f"join {name}"]] for side in sides}
    return cases | nested_diamonds(depth - 1, sides[0]) | nested_diamonds(depth - 1, sides[1])


@pytest.mark.parametrize(
    ("cases", "bounds", "visits"),
    [
        pytest.param({"a": [["b"]], "b": [["c"]], "c": [["d"]]}, {}, 4, id="chain"),
        pytest.param({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]]}, {}, 4, id="choice"),
        pytest.param({"a": [["b"], ["z"]], "b": [["c"]]}, {}, 3, id="the longer path"),
        pytest.param({"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]]}, {}, 5, id="diamond"),
        pytest.param(nested_diamonds(3), {}, 7 + 8 + 7, id="three levels of diamonds"),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e", "f"]], "e": [["g"]], "f": [["g"]]},
            {},
            7,
            id="diamond after diamond",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"], ["e", "f"]], "c": [["d"]], "e": [["d"]], "f": [["d"]]},
            {},
            6,
            id="fork in one case",
        ),
        pytest.param({"a": [["a"], []]}, {"a": 3}, 4, id="step that repeats itself"),
        pytest.param(
            {"a": [["b"]], "b": [["c"]], "c": [["a"], ["d"]]}, {"a": 5}, 15 + 1, id="loop bounded first"
        ),
        pytest.param(
            {"a": [["b"]], "b": [["c"]], "c": [["a"], ["d"]]}, {"c": 5}, 15 + 3 + 1, id="loop bounded last"
        ),
        pytest.param(
            {"a": [["a"], ["b"]], "b": [["c"]], "c": [["b"], ["d"]]},
            {"a": 10, "b": 4},
            11 + 9,
            id="loop, then loop",
        ),
        pytest.param({"a": [["b"]], "b": [["b"], ["a"]]}, {"a": 3, "b": 10}, 4 + 10, id="loop in a loop"),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["a"], ["e"]], "e": [["f"]]},
            {"a": 6},
            24 + 2,
            id="fork and join on a cycle",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["a"]], "c": [["a"]]}, {"a": 2}, 6 + 1, id="join at the head of a cycle"
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["b"], ["d"]], "c": [["d"]]},
            {"b": 3},
            1 + 4 + 1 + 1,
            id="loop in a region",
        ),
    ],
)
def test_bound_is_exact(cases: Cases, bounds: Bounds, visits: int) -> None:
    cfg = make_cfg(cases)
    assert compute_visit_bound(cfg, find_joins(cfg), bounds) == visits
    if len(cfg.targets) < 10:
        assert model_all_runs(cfg, bounds).max_visits == visits


@pytest.mark.parametrize(
    ("cases", "bounds", "modes"),
    [
        pytest.param(
            {
                "a": [["b", "c"]],
                "b": [["d"], ["x"]],
                "c": [["d"]],
                "d": [["a"], ["y"]],
                "x": [["w"]],
                "y": [["w"]],
            },
            {"a": 2},
            {"x": "each"},
            id="exits of both branches on a cycle",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"], ["x"]], "c": [["d"]], "d": [["a"], ["y"]], "y": [["x"]]},
            {"c": 1, "d": 1},
            {"x": "each"},
            id="exits to a multi-merge",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["a"]], "c": [["a"]]},
            {"b": 2, "c": 1},
            {},
            id="bounds in both branches",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"], ["a"]], "e": [["d"]]},
            {"a": 2, "e": 4},
            {},
            id="a join that leads into its region",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]], "e": [["a"], ["z"]]},
            {"e": 2},
            {"d": "each", "e": "each", "z": "each"},
            id="a cycle for each branch",
        ),
        pytest.param(
            {"a": [["b", "c"]], "b": [["d"]], "c": [["d"], ["e"]], "d": [["a"], ["e"]]},
            {"a": 2},
            {"d": "any", "e": "each"},
            id="a cycle with a discriminator",
        ),
    ],
)
def test_bound_is_close(cases: Cases, bounds: Bounds, modes: Mapping[str, str]) -> None:
    runs = model_all_runs(make_cfg(cases), bounds, modes)
    most = runs.max_visits
    assert not runs.joins.overlapping_cycles
    assert most <= compute_visit_bound(runs.cfg, runs.joins, bounds) <= most + 4


def test_a_multi_merge_counts_for_each_branch() -> None:
    cfg = make_cfg(
        {"a": [["b", "c", "d"]], "b": [["e"]], "c": [["e"]], "d": [["e"]], "e": [["f"]], "f": [["g"]]}
    )
    assert compute_visit_bound(cfg, find_joins(cfg), {}) == 7
    assert compute_visit_bound(cfg, find_joins(cfg, {"e": "each", "f": "each"}), {}) == 4 + 3 + 3 + 1


def test_a_branch_that_leaves_in_every_round_counts_in_every_round() -> None:
    cfg = make_cfg({"a": [["a", "b"], []], "b": [["c"]], "c": []})
    assert compute_visit_bound(cfg, Joins({}, {}, (), multi_merges=frozenset("bc")), {"a": 3}) == 4 + 3 * 2


def test_large_bounds_are_cut() -> None:
    names = [f"s{n}" for n in range(60)]
    cases = {name: [[f"{name} x", f"{name} y"]] for name in names}
    cases |= {f"{name} {side}": [[after]] for name, after in pairwise(names) for side in "xy"}
    cfg = make_cfg(cases)
    assert compute_visit_bound(cfg, Joins({}, {}, ()), {}) == MAX_COUNTED_VISITS


def test_a_cycle_of_many_steps() -> None:
    size = 10_000
    cases = {f"s{n}": [[f"s{(n + 1) % size}"], []] for n in range(size)}
    cfg = make_cfg(cases)
    assert compute_visit_bound(cfg, find_joins(cfg), dict.fromkeys(cfg.targets, 2)) == 2 * size + 1


@pytest.mark.parametrize(
    ("text", "visits"),
    [
        pytest.param(
            """
            variables: {n: 0}
            steps:
            - name: again
              max_visits: 3
              run: [{action: set, set: {n: "{{ n + 1 }}"}}]
              rule: [{case: error, run: [enough]}, {case: default, run: [again]}]
            - {name: enough, run: [{action: log, message: "{{ n }}"}]}
            """,
            5,
            id="a refused visit that is handled",
        ),
        pytest.param(
            """
            steps:
            - {name: a, rule: [{case: default, run: [b, c]}]}
            - {name: b, rule: [{case: default, run: [d]}]}
            - {name: c, rule: [{case: default, run: [d]}]}
            - {name: d, max_visits: 2, rule: [{case: "{{ step.visit < 9 }}", run: [a]}]}
            """,
            12,
            id="fork and join on a cycle",
        ),
        pytest.param(
            """
            finally: tidy
            steps:
            - {name: a, rule: [{case: default, run: [b]}]}
            - {name: b, run: [{action: log, message: x}]}
            - {name: tidy, run: [{action: log, message: x}]}
            """,
            3,
            id="finally",
        ),
    ],
)
def test_executor_makes_as_many_visits_as_the_bound(store: Store, text: str, visits: int) -> None:
    plan = compile_text(text)
    assert plan.header.statistics["most_visits"] == visits
    assert len(RunHarness(store, plan).finish().visits) == visits


@pytest.mark.parametrize(
    "text", [CHAIN, DIAMOND, NESTED, CYCLE, LATE, f"\n    on_error: continue{LOOP_INSIDE}"]
)
def test_the_longest_run_of_a_playbook_reaches_the_bound(text: str) -> None:
    plan = compile_text(text)
    may_be_refused = frozenset(step.name for step in plan.steps.values() if step.max_visits is not None)
    most = max(len(world.visits) for world in StateSpaceExplorer(plan, may_be_refused).final_states())
    assert most == plan.header.statistics["most_visits"]
