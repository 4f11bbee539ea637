from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from noetl.planner.graph import concurrency
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.concurrency import find_concurrency
from noetl.planner.graph.join_finder import find_joins
from noetl.planner.graph.joins import DEFAULT_MODES

from tests.planner.branch_model import BranchModel, BranchState, Step, TooManyStates
from tests.planner.test_joins import DIAMOND, Cases, any_flows, flow_of, mixed_modes

Pair = tuple[Step, Step]
MOST_VISITS = 2


@dataclass
class Meetings(BranchModel):
    """The model in which every branch may take any case, or end, at each of its visits: which steps meet at work."""

    once: frozenset[Step] = frozenset()
    met: set[Pair] = field(default_factory=set)
    choice: int = 0

    @classmethod
    def of(
        cls, cfg: ControlFlowGraph, modes: Mapping[str, str], once: frozenset[Step] = frozenset()
    ) -> set[Pair]:
        """All pairs of steps at which two branches are ever at work. At those in `once` only the first one is, ever."""
        model = cls(cfg, find_joins(cfg, modes), lambda *_: (), modes=modes, once=once)
        model.targets = model.chosen
        model.explore()
        return model.met

    def chosen(self, step: Step, visit: int) -> tuple[Step, ...]:
        cases = self.cfg.targets[step] if visit <= self.most(step) else ()
        return cases[self.choice] if self.choice < len(cases) else ()

    def most(self, step: Step) -> int:
        return 1 if step in self.once else MOST_VISITS

    def _events(self, state: BranchState) -> Iterator[BranchState]:
        at_work = sorted(
            b.step for b in state.at_steps if b.step not in self.once or b.visit <= self.most(b.step)
        )
        for one, other in combinations(at_work, 2):
            self.met |= {(one, other), (other, one)}
        for choice in range(-1, 3):
            self.choice = choice if choice >= 0 else 99
            yield from super()._events(state)


def pairs(
    cfg: ControlFlowGraph, modes: Mapping[str, str] = DEFAULT_MODES, once: frozenset[Step] = frozenset()
) -> set[Pair]:
    found = find_concurrency(cfg, find_joins(cfg, modes), once)
    assert not found.is_too_large
    return {(step, other) for step in found.steps for other in found.parallel_steps(step)}


def ends(cfg: ControlFlowGraph) -> bool:
    return not any(map(cfg.is_cyclic, cfg.reachable))


@settings(max_examples=250)
@given(drawn=st.data())
def test_what_may_be_at_work_at_once(drawn: st.DataObject) -> None:
    """Without rounds it is exactly that; with them, nothing is missed."""
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    assume(not find_joins(cfg, modes).overlapping_cycles)
    try:
        met = Meetings.of(cfg, modes)
    except TooManyStates:
        reject()
    found = pairs(cfg, modes)
    assert met == found if ends(cfg) else met <= found


@settings(max_examples=250)
@given(drawn=st.data())
def test_what_may_be_at_work_at_once_where_steps_are_visited_once(drawn: st.DataObject) -> None:
    cfg = drawn.draw(any_flows())
    modes = drawn.draw(mixed_modes(cfg))
    once = drawn.draw(st.frozensets(st.sampled_from(sorted(cfg.targets)), min_size=1))
    assume(not find_joins(cfg, modes).overlapping_cycles)
    try:
        met = Meetings.of(cfg, modes, once)
    except TooManyStates:
        reject()
    found = pairs(cfg, modes, once)
    assert met == found if ends(cfg) else met <= found <= pairs(cfg, modes)


def both(*written: str) -> set[Pair]:
    return {met for pair in written for met in ((pair[0], pair[1]), (pair[1], pair[0]))}


RACE: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["x"]], "x": [["d"]], "d": [["e"]]}


@pytest.mark.parametrize(
    ("cases", "modes", "expected"),
    [
        pytest.param(DIAMOND, {}, both("bc"), id="diamond"),
        pytest.param({"a": [["b"], ["c"]], "b": [["d"]], "c": [["d"]]}, {}, set(), id="exclusive diamond"),
        pytest.param({**DIAMOND, "b": [["d"], ["e"]]}, {}, both("bc", "ce", "de"), id="past the join"),
        pytest.param({**DIAMOND, "b": [["d", "e"]]}, {}, both("bc", "ce", "de"), id="beside the join"),
        pytest.param(RACE, {}, both("bc", "bx"), id="uneven diamond"),
        pytest.param(
            RACE,
            {"d": "any"},
            both("bc", "bx", "bd", "be", "cd", "ce", "xd", "xe"),
            id="the first of two goes on",
        ),
        pytest.param(DIAMOND, {"d": "each"}, both("bc", "bd", "cd", "dd"), id="one visit for each"),
        pytest.param(
            {"a": [["b", "c"], []], "b": [["d"]], "c": [["d"]], "d": [["a"]]},
            {"d": "any"},
            {(one, other) for one in "abcd" for other in "abcd" if {one, other} & {"b", "c"}},
            id="races one after another",
        ),
    ],
)
def test_pairs(cases: Cases, modes: Mapping[str, str], expected: set[Pair]) -> None:
    assert pairs(flow_of(cases), modes) == expected


ROUND: Cases = {"a": [["b", "a"]], "b": [["c"]]}
BACK: Cases = {"a": [["b", "c"]], "b": [["a"]], "c": [["d"]]}
TWICE: Cases = {"a": [["b", "c"]], "b": [["d"]], "c": [["d"]], "d": [["e"]]}
FIRST = both("bc", "bd", "be", "cd", "ce")


@pytest.mark.parametrize(
    ("cases", "each", "once", "expected"),
    [
        pytest.param(ROUND, "bc", "a", set(), id="there is no second round"),
        pytest.param(ROUND, "bc", "b", both("ab", "ac"), id="there is one, past a step"),
        pytest.param(ROUND, "bc", "", both("ab", "ac", "bb", "bc", "cc"), id="there are several"),
        pytest.param(BACK, "cd", "a", both("bc", "bd"), id="a way back"),
        pytest.param(TWICE, "de", "d", FIRST, id="one of two goes on"),
        pytest.param(TWICE, "de", "e", FIRST | both("dd", "de"), id="one of two goes on, later"),
    ],
)
def test_pairs_where_steps_are_visited_once(cases: Cases, each: str, once: str, expected: set[Pair]) -> None:
    assert pairs(flow_of(cases), dict.fromkeys(each, "each"), frozenset(once)) == expected


def test_too_many_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "MAX_MOVES", 3)
    cfg = flow_of(DIAMOND)
    found = find_concurrency(cfg, find_joins(cfg))
    assert (found.is_too_large, found.parallel_steps("b")) == (True, frozenset())


def test_long_branches_take_few_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """About as many as there are steps, and not as there are pairs of them."""
    length = 500
    monkeypatch.setattr(concurrency, "MAX_MOVES", 20 * length)
    cases: dict[str, list[list[str]]] = {"fork": [["a0", "b0"]]}
    for lane in "ab":
        for at in range(length):
            cases[f"{lane}{at}"] = [[f"{lane}{at + 1}" if at + 1 < length else "join"]]
    cfg = flow_of(cases)
    found = find_concurrency(cfg, find_joins(cfg))
    assert found.parallel_steps("a7") == {f"b{at}" for at in range(length)}
    spine = {f"f{at}": [[f"x{at}", f"f{at + 1}"]] for at in range(length)}
    cfg = flow_of(spine)
    found = find_concurrency(cfg, find_joins(cfg))
    assert "x0" in found.parallel_steps(f"x{length - 1}")
