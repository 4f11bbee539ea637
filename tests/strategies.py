"""Hypothesis strategies for control-flow graphs, and for the cases taken at each visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.join_finder import find_joins

Chances = Mapping[str, Sequence[int]]
"""For each step, a number for each of its visits, which selects a case."""


@st.composite
def flows(draw: st.DrawFn, *, acyclic: bool, max_steps: int = 9) -> ControlFlowGraph:
    """Draw a flow whose steps have up to three cases. With `acyclic`, cases lead forward only."""
    names = [f"s{index}" for index in range(draw(st.integers(3, max_steps)))]
    targets = {}
    for index, name in enumerate(names):
        pool = names[index + 1 :] if acyclic else names
        case = st.lists(st.sampled_from(pool), max_size=3, unique=True) if pool else st.just([])
        targets[name] = tuple(map(tuple, draw(st.lists(case, min_size=1, max_size=3))))
    return ControlFlowGraph(names[0], targets)


@st.composite
def nested_flows(draw: st.DrawFn, *, max_steps: int = 9) -> ControlFlowGraph:
    """Draw a flow of nested chains, choices, joined forks and cycles, with a few unstructured edges."""
    cases: dict[str, list[list[str]]] = {}

    def step(*of_step: list[str]) -> str:
        name = f"s{len(cases)}"
        cases[name] = list(of_step)
        return name

    def block(size: int) -> tuple[str, str]:
        """Draw a block of about `size` steps, and return its first and its last step."""
        kind = (
            draw(st.sampled_from(["chain", "choice", "fork", "fork", "round", "round"]))
            if size > 2
            else "chain"
        )
        if kind == "chain":
            first = last = step()
            if size > 1:
                following, last = block(size - 1)
                cases[first].append([following])
        elif kind == "round":
            first, last = block(size - 1)
            cases[last].append([first])
            if draw(st.booleans()):
                before, last = last, step()
                cases[before].append([last])
        else:
            first, last = step(), step()
            sides = [block((size - 2) // 2), block((size - 2) // 2)]
            firsts = [side for side, _ in sides]
            cases[first] += [firsts] if kind == "fork" else [[side] for side in firsts]
            for _, end in sides:
                cases[end].append([last])
        return first, last

    start, _ = block(draw(st.integers(3, max_steps)))
    names = st.sampled_from(list(cases))
    for source, targets in draw(
        st.lists(st.tuples(names, st.lists(names, max_size=2, unique=True)), max_size=3)
    ):
        cases[source].append(targets)
    return ControlFlowGraph(start, {name: tuple(map(tuple, of_step)) for name, of_step in cases.items()})


def any_flows() -> st.SearchStrategy[ControlFlowGraph]:
    return st.one_of(flows(acyclic=True), flows(acyclic=False, max_steps=7), nested_flows())


def mixed_modes(cfg: ControlFlowGraph) -> st.SearchStrategy[Mapping[str, str]]:
    return st.dictionaries(st.sampled_from(list(cfg.targets)), st.sampled_from(["any", "each"]), max_size=4)


@st.composite
def flows_of_mixed_modes(draw: st.DrawFn) -> tuple[ControlFlowGraph, Mapping[str, str]]:
    """Draw a valid flow with a mode for at least one of its joins.

    A flow without a join gets a fork at its start. Edges of overlapping cycles are removed. The strategy
    filters nothing, because most random flows have no join or overlapping cycles.
    """
    cfg = draw(any_flows())
    joins = sorted(find_joins(cfg).dominators)
    if not joins:
        joins = [cfg.start]
        cfg = _with_fork_at_start(cfg)
    modes = {**draw(mixed_modes(cfg)), draw(st.sampled_from(joins)): draw(st.sampled_from(["any", "each"]))}
    return without_overlapping_cycles(cfg, modes), modes


def _with_fork_at_start(cfg: ControlFlowGraph) -> ControlFlowGraph:
    fork = {"fork": (("left", "right"),), "left": ((cfg.start,),), "right": ((cfg.start,),)}
    return ControlFlowGraph("fork", {**fork, **cfg.targets})


def without_overlapping_cycles(cfg: ControlFlowGraph, modes: Mapping[str, str]) -> ControlFlowGraph:
    """Remove the last edge of each overlapping cycle."""
    while cycles := find_joins(cfg, modes).overlapping_cycles:
        source, target = cycles[0].cycle[-2:]
        cases = tuple(tuple(step for step in case if step != target) for case in cfg.targets[source])
        cfg = ControlFlowGraph(cfg.start, {**cfg.targets, source: cases})
    return cfg


def chances(cfg: ControlFlowGraph) -> st.SearchStrategy[Chances]:
    return st.fixed_dictionaries(
        {step: st.lists(st.integers(0, 11), min_size=1, max_size=3) for step in cfg.targets}
    )


def case_taken(
    cfg: ControlFlowGraph, chances: Chances, step: str, visit: int, most_visits: int
) -> tuple[str, ...]:
    """Return the targets of visit number `visit` of a step. Past the bound, the branch ends."""
    numbers = chances[step]
    number = numbers[(visit - 1) % len(numbers)]
    cases = cfg.targets[step]
    return cases[number % len(cases)] if cases and visit <= most_visits and number < 11 else ()
