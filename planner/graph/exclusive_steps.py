"""Exclusive steps: steps of which no run visits more than one, whatever guards say.

Problem: A name that several steps save has one value in a run if the run visits only one of them.

Algorithm: Let two steps be visited at most once each. A run visits both only on a path between them, or
after a fork of which two branches can reach one step each. Reachability is one backward pass over the
strongly connected components, with a bit for each step of interest. Let a step that is visited once dominate
all of these. Then only forks at or after it count, because both branches have passed its visit.

Cost: One pass over the edges, and for each question one over the forks. A dominator tree is built once.

Limits: Steps on a cycle, and multi-merges, are never exclusive, because they may be visited twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.dominators import immediate_dominators
from noetl.planner.graph.joins import Joins


class ExclusiveSteps:
    """The questions which of these steps exclude each other. All of them must be reachable."""

    def __init__(self, cfg: ControlFlowGraph, joins: Joins, steps: Iterable[str]) -> None:
        self._cfg = cfg
        self._joins = joins
        self._bits = {step: 1 << index for index, step in enumerate(dict.fromkeys(steps))}

    def are_exclusive(self, steps: Sequence[str]) -> bool:
        """Return whether no run visits two of these steps, or one of them twice."""
        if len({*steps}) < len(steps) or not all(map(self._is_visited_once, steps)):
            return False
        mask = sum(self._bits[step] for step in steps)
        if any(self._reached[step] & mask != self._bits[step] for step in steps):
            return False
        dominator = self._common_dominator(steps)
        after_dominator = self._cfg.reachable
        if self._is_visited_once(dominator):
            after_dominator = frozenset(nx.descendants(self._cfg.graph, dominator) | {dominator})
        return not any(
            self._may_part(targets, mask) for step, _, targets in self._cfg.forks() if step in after_dominator
        )

    def _may_part(self, targets: Iterable[str], mask: int) -> bool:
        """Return whether two branches of a fork can reach different steps of a mask."""
        reached = [steps for target in targets if (steps := self._reached[target] & mask)]
        return len(reached) > 1 and (len({*reached}) > 1 or reached[0].bit_count() > 1)

    def _is_visited_once(self, step: str) -> bool:
        return step not in self._cfg.cyclic_steps and step not in self._joins.multi_merges

    @cached_property
    def _reached(self) -> dict[str, int]:
        """The steps of interest that a branch at each step can reach, the step itself included."""
        reached: dict[str, int] = {}
        for component in self._cfg.components:
            mask = 0
            for step in component:
                mask |= self._bits.get(step, 0)
                for target in self._cfg.graph.successors(step):
                    mask |= reached.get(target, 0)
            reached.update(dict.fromkeys(component, mask))
        return reached

    @cached_property
    def _dominators(self) -> dict[str, str]:
        graph = self._cfg.graph
        return immediate_dominators(self._cfg.start, graph.successors, graph.predecessors)

    def _common_dominator(self, steps: Sequence[str]) -> str:
        """Return the last step that every path to any of these steps passes."""
        chains = [*map(self._dominators_of, steps)]
        shared = set(chains[0]).intersection(*chains[1:])
        return next(step for step in chains[0] if step in shared)

    def _dominators_of(self, step: str) -> list[str]:
        """Return the dominators of a step, from the step itself to the start."""
        chain = [step]
        while chain[-1] != self._cfg.start:
            chain.append(self._dominators[chain[-1]])
        return chain
