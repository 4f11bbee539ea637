from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, permutations

import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from noetl.planner.graph import concurrency
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.concurrency import find_concurrency
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import DEFAULT_MODES
from tests.planner.branch_model import BranchModel, BranchState, Step, TooManyStates
from tests.planner.test_joins import DIAMOND, Cases, make_cfg
from tests.property_settings import examples
from tests.strategies import any_flows, mixed_modes

Pair = tuple[Step, Step]
MAX_VISITS = 2


@dataclass
class ConcurrencyModel(BranchModel):
    """A model in which a branch takes any case, or ends, at each visit. It records parallel steps."""

    visited_once: frozenset[Step] = frozenset()
    parallel: set[Pair] = field(default_factory=set)
    choice: int = 0

    @classmethod
    def find_pairs(
        cls, cfg: ControlFlowGraph, modes: Mapping[str, str], visited_once: frozenset[Step] = frozenset()
    ) -> set[Pair]:
        """Return all pairs of steps that two branches execute at the same time.

        At the steps in `visited_once`, only the first visit counts.
        """
        model = cls(cfg, find_joins(cfg, modes), lambda *_: (), modes=modes, visited_once=visited_once)
        model.targets = model.chosen
        model.explore()
        return model.parallel

    def chosen(self, step: Step, visit: int) -> tuple[Step, ...]:
        cases = self.cfg.targets[step] if visit <= self.max_visits_of(step) else ()
        return cases[self.choice] if self.choice < len(cases) else ()

    def max_visits_of(self, step: Step) -> int:
        return 1 if step in self.visited_once else MAX_VISITS

    def _events(self, state: BranchState) -> Iterator[BranchState]:
        active = sorted(
            b.step
            for b in state.at_steps
            if b.step not in self.visited_once or b.visit <= self.max_visits_of(b.step)
        )
        for left, right in combinations(active, 2):
            self.parallel |= {(left, right), (right, left)}
        for choice in range(-1, 3):
            self.choice = choice if choice >= 0 else 99
            yield from super()._events(state)


def parallel_pairs(
    cfg: ControlFlowGraph,
    modes: Mapping[str, str] = DEFAULT_MODES,
    visited_once: frozenset[Step] = frozenset(),
) -> set[Pair]:
    found = find_concurrency(cfg, find_joins(cfg, modes), visited_once)
    assert not found.is_too_large
    return {(step, other) for step in found.steps for other in found.parallel_steps(step)}


def is_acyclic(cfg: ControlFlowGraph) -> bool:
    return not any(map(cfg.is_cyclic, cfg.reachable))


@examples(2)
@given(drawn=st.data())
def test_parallel_steps_agree_with_the_model(drawn: st.DataObject) -> None:
    """The analysis is exact on acyclic graphs, and misses no pair on cyclic ones."""
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    assume(not find_joins(cfg, modes).overlapping_cycles)
    try:
        parallel = ConcurrencyModel.find_pairs(cfg, modes)
    except TooManyStates:
        reject()
    found = parallel_pairs(cfg, modes)
    assert parallel == found if is_acyclic(cfg) else parallel <= found


@examples(2)
@given(drawn=st.data())
def test_parallel_steps_of_steps_visited_once_agree_with_the_model(drawn: st.DataObject) -> None:
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    visited_once = drawn.draw(st.frozensets(st.sampled_from(sorted(cfg.targets)), min_size=1))
    assume(not find_joins(cfg, modes).overlapping_cycles)
    try:
        parallel = ConcurrencyModel.find_pairs(cfg, modes, visited_once)
    except TooManyStates:
        reject()
    found = parallel_pairs(cfg, modes, visited_once)
    assert parallel == found if is_acyclic(cfg) else parallel <= found <= parallel_pairs(cfg, modes)


@examples(2)
@given(drawn=st.data())
def test_contested_steps_are_unordered_if_they_had_more_visits(drawn: st.DataObject) -> None:
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    visited_once = drawn.draw(st.frozensets(st.sampled_from(sorted(cfg.targets)), min_size=1))
    assume(not find_joins(cfg, modes).overlapping_cycles)
    joins = find_joins(cfg, modes)
    contested = find_concurrency(cfg, joins, visited_once).contested
    unordered = {
        step
        for step in visited_once & cfg.reachable
        if step in find_concurrency(cfg, joins, visited_once - {step}).unordered_steps()
    }
    assert contested == unordered if is_acyclic(cfg) else contested <= unordered


def symmetric_pairs(*pairs: str) -> set[Pair]:
    """Return the pairs of steps with one-letter names, in both orders."""
    return {pair for steps in pairs for pair in permutations(steps, 2)}


RACE: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["x"]], "x": [["d"]], "d": [["e"]]}


@pytest.mark.parametrize(
    ("cases", "modes", "expected"),
    [
        pytest.param(DIAMOND, {}, symmetric_pairs("bc"), id="diamond"),
        pytest.param({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]]}, {}, set(), id="exclusive diamond"),
        pytest.param(
            {**DIAMOND, "b": [["d"], ["e"]]},
            {},
            symmetric_pairs("bc", "ce", "de"),
            id="branch that bypasses the join",
        ),
        pytest.param(
            {**DIAMOND, "b": [["d", "e"]]},
            {},
            symmetric_pairs("bc", "ce", "de"),
            id="fork to the join and another step",
        ),
        pytest.param(RACE, {}, symmetric_pairs("bc", "bx"), id="uneven diamond"),
        pytest.param(
            RACE,
            {"d": "any"},
            symmetric_pairs("bc", "bx", "bd", "be", "cd", "ce", "xd", "xe"),
            id="discriminator",
        ),
        pytest.param(DIAMOND, {"d": "each"}, symmetric_pairs("bc", "bd", "cd", "dd"), id="multi-merge"),
        pytest.param(
            {"a": [["b", "c"], []], "b": [["d"]], "c": [["d"]], "d": [["a"]]},
            {"d": "any"},
            {(left, right) for left in "abcd" for right in "abcd" if {left, right} & {"b", "c"}},
            id="discriminator on a cycle",
        ),
    ],
)
def test_parallel_pairs(cases: Cases, modes: Mapping[str, str], expected: set[Pair]) -> None:
    assert parallel_pairs(make_cfg(cases), modes) == expected


CYCLE: Cases = {"a": [["b", "a"]], "b": [["c"]]}
BACK_EDGE: Cases = {"a": [["b", "c"]], "b": [["a"]], "c": [["d"]]}
TWICE: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]]}
FIRST_VISIT_ONLY = symmetric_pairs("bc", "bd", "be", "cd", "ce")


@pytest.mark.parametrize(
    ("cases", "multi_merges", "visited_once", "expected"),
    [
        pytest.param(CYCLE, "bc", "a", set(), id="no second round"),
        pytest.param(CYCLE, "bc", "b", symmetric_pairs("ab", "ac"), id="second round that passes the step"),
        pytest.param(CYCLE, "bc", "", symmetric_pairs("ab", "ac", "bb", "bc", "cc"), id="several rounds"),
        pytest.param(BACK_EDGE, "cd", "a", symmetric_pairs("bc", "bd"), id="back edge"),
        pytest.param(TWICE, "de", "d", FIRST_VISIT_ONLY, id="first of two visits"),
        pytest.param(
            TWICE, "de", "e", FIRST_VISIT_ONLY | symmetric_pairs("dd", "de"), id="first of two visits, later"
        ),
    ],
)
def test_parallel_pairs_of_steps_visited_once(
    cases: Cases, multi_merges: str, visited_once: str, expected: set[Pair]
) -> None:
    assert (
        parallel_pairs(make_cfg(cases), dict.fromkeys(multi_merges, "each"), frozenset(visited_once))
        == expected
    )


def test_analysis_stops_after_the_maximum_of_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_MOVES", 3)
    cfg = make_cfg(DIAMOND)
    found = find_concurrency(cfg, find_joins(cfg))
    assert (found.is_too_large, found.parallel_steps("b")) == (True, frozenset())


def test_long_branches_take_a_linear_number_of_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of moves grows with the number of steps, and not with the number of pairs."""
    length = 500
    monkeypatch.setattr(concurrency, "MAX_MOVES", 20 * length)
    cases: dict[str, list[list[str]]] = {"fork": [["a0", "b0"]]}
    for lane in "ab":
        for index in range(length):
            cases[f"{lane}{index}"] = [[f"{lane}{index + 1}" if index + 1 < length else "join"]]
    cfg = make_cfg(cases)
    found = find_concurrency(cfg, find_joins(cfg))
    assert found.parallel_steps("a7") == {f"b{index}" for index in range(length)}
    spine = {f"f{index}": [[f"x{index}", f"f{index + 1}"]] for index in range(length)}
    cfg = make_cfg(spine)
    found = find_concurrency(cfg, find_joins(cfg))
    assert "x0" in found.parallel_steps(f"x{length - 1}")
