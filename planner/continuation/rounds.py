"""The rounds of cycles in the middle of which a branch may stand.

Problem: a branch in the middle of a cycle finishes its round, and the next round begins at the head of the
cycle. What comes in this round differs from what comes in the next: this round must not repeat a step.

Algorithm: loop nesting by strongly connected components (Tarjan 1972). The head of a component is its only
entry. Without the head, its inner components are the inner loops. A place in a continuation is a step with
its depth: the number of loops around it whose round is under way. An edge to the head of a loop starts a new
round, so it leads to a place of smaller depth. An edge out of a loop does so as well.

Cost: one search for components per level of nesting.

Limits: a component with several entries has no head. Its steps are in `NestedLoops.headless`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph

if TYPE_CHECKING:
    from noetl.planner.graph.cfg import StepGraph


class RoundPlace(NamedTuple):
    """A step, and the number of loops around it whose round is under way."""

    step: str
    depth: int = 0


@dataclass(frozen=True)
class NestedLoops:
    """The heads of the loops around each step, from the outside in, and the steps of other cycles."""

    heads: dict[str, tuple[str, ...]]
    headless: frozenset[str]

    @classmethod
    def build(cls, cfg: ControlFlowGraph) -> NestedLoops:
        """Return the loops of the reachable part of a graph."""
        heads: dict[str, tuple[str, ...]] = {}
        headless: set[str] = set()
        graph = cfg.graph.subgraph(cfg.reachable)
        pending: list[tuple[frozenset[str], tuple[str, ...]]] = [(cfg.reachable, ())]
        while pending:
            steps, outer = pending.pop()
            for loop in _loops(graph, steps):
                entries = _entries(graph, loop, cfg.start)
                if len(entries) != 1:
                    headless |= loop
                    continue
                chain = (*outer, entries[0])
                heads.update(dict.fromkeys(loop, chain))
                pending.append((loop - {entries[0]}, chain))
        return cls(heads, frozenset(headless))

    def loops_around(self, step: str) -> tuple[str, ...]:
        """Return the heads of the loops around a step, from the outside in."""
        return self.heads.get(step, ())

    def visit_place(self, step: str) -> RoundPlace:
        """Return the place of a branch that stands at a step: all rounds are under way."""
        return RoundPlace(step, len(self.loops_around(step)))

    def arrival_place(self, step: str) -> RoundPlace:
        """Return the place of a join where a branch waits. At the head of a loop, a new round begins."""
        chain = self.loops_around(step)
        return RoundPlace(step, len(chain) - (step in chain))

    def follow(self, place: RoundPlace, target: str) -> RoundPlace:
        """Return the place that an edge from a place leads to."""
        source, chain = self.loops_around(place.step), self.loops_around(target)
        pairs = zip(source, chain, strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        is_new_round = bool(chain) and chain[-1] == target and common == len(chain)
        return RoundPlace(target, min(place.depth, common - 1 if is_new_round else common))


def _loops(graph: StepGraph, steps: frozenset[str]) -> list[frozenset[str]]:
    inner = graph.subgraph(steps)
    components = map(frozenset, nx.strongly_connected_components(inner))
    return [
        component
        for component in components
        if len(component) > 1 or any(s in inner.succ[s] for s in component)
    ]


def _entries(graph: StepGraph, loop: frozenset[str], start: str) -> list[str]:
    return [step for step in loop if step == start or not loop.issuperset(graph.pred[step])]
