"""Loops of a control-flow graph, and the exits at which a branch may leave one while a sibling continues it.

Problem: a fork in a loop creates siblings. One of them may leave the loop before they have merged. Another
one may then start the next round, in which a branch can leave at the same place. So branches of several
rounds can meet outside the loop. The planner must know these exits.

Algorithm: loops are nested as by Bourdoncle (1993). The inner loops of a loop are the strongly connected
components (Tarjan 1972) that remain without its header. In each loop, the siblings of a fork have merged at
the nearest common post-dominator of their targets before the header, unless it is `join: each`. The search
for it climbs the tree of post-dominators (Cooper, Harvey and Kennedy 2001). From the targets of the fork, a
search up to this step finds the steps at which a branch can have a sibling. A case that leads from such a
step out of the loop is an exit with siblings. So is a fork with targets inside and outside the loop.

Cost: nearly linear in the number of edges for each level of nesting and each step at which branches merge.

Limits: guards are ignored. Siblings that separated before the loop do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph, Fork
from noetl.planner.graph.dominators import immediate_dominators

if TYPE_CHECKING:
    from noetl.planner.graph.cfg import StepGraph


class GraphLoop(NamedTuple):
    """A strongly connected set of steps, with the step at which its rounds begin."""

    header: str
    steps: frozenset[str]


class Separation(NamedTuple):
    """A fork in a loop at which a branch separated from a sibling, and where the sibling began."""

    fork: Fork
    sibling: str


class LoopExit(NamedTuple):
    """A case by which a branch can leave a loop while it has a sibling there.

    `targets` are the targets outside the loop. `separation` is where the two separated.
    """

    step: str
    case: int
    targets: tuple[str, ...]
    separation: Separation


class LoopFinder:
    """A search for the loops of a graph, and for their exits.

    `preorder` numbers the steps in the preorder of the dominator tree. `spend` is called with the number of
    edges that the search visits.
    """

    def __init__(
        self,
        graph: StepGraph,
        cfg: ControlFlowGraph,
        modes: Mapping[str, str],
        preorder: Mapping[str, int],
        spend: Callable[[int], None],
    ) -> None:
        self.graph = graph
        self.cases_of = cfg.targets
        self.forks_of = cfg.forks_of
        self.modes = modes
        self.preorder = preorder
        self.spend = spend

    def nested_loops(
        self, component: Iterable[str], region_of: Mapping[str, AbstractSet[str]]
    ) -> Iterator[GraphLoop]:
        """Yield the loops of a component from the outside in, as far as they contain forks.

        `region_of` maps the joins to their regions.
        """
        stack = [frozenset(component)]
        while stack:
            steps = stack.pop()
            self.spend(8 * sum(self.graph.out_degree(step) for step in steps))
            header = self.loop_header(steps, region_of)
            yield GraphLoop(header, steps)
            inner = self.graph.subgraph(steps - {header})
            parts = map(frozenset, nx.strongly_connected_components(inner))
            stack += [
                part for part in parts if not part.isdisjoint(self.forks_of) and inner.subgraph(part).edges
            ]

    def loop_header(self, loop: frozenset[str], region_of: Mapping[str, AbstractSet[str]]) -> str:
        """Return the entry of a loop; of a loop with several entries, preferably a join that waits for every
        branch in the loop.
        """
        steps = self.in_preorder(loop)
        entries = [step for step in steps if not loop.issuperset(self.graph.predecessors(step))]
        if len(entries) > 1:
            for step in steps:
                if loop.issubset({step, *region_of.get(step, ())}):
                    return step
        return steps[0]

    def exits_with_siblings(self, loop: GraphLoop) -> Iterator[LoopExit]:
        """Yield the exits of a loop at which a branch can have a sibling that may continue the loop."""
        separations = self.find_separations(loop)
        for step in self.in_preorder(loop.steps & (separations.keys() | self.forks_of.keys())):
            for case, targets in enumerate(self.cases_of[step]):
                inside = [target for target in targets if target in loop.steps]
                outside = tuple(target for target in targets if target not in loop.steps)
                if outside and inside:
                    yield LoopExit(step, case, outside, Separation(Fork(step, case, targets), inside[0]))
                elif outside and step in separations:
                    yield LoopExit(step, case, outside, separations[step])

    def find_separations(self, loop: GraphLoop) -> dict[str, Separation]:
        """Return the steps at which a branch can have a sibling in the loop, each with a separation."""
        separations: dict[str, Separation] = {}
        merges = LoopMerges(self, loop)
        visited: dict[frozenset[str], set[str]] = {}
        steps = self.in_preorder(loop.steps & self.forks_of.keys())
        for fork in (fork for step in steps for fork in self.forks_of[step]):
            inside = [target for target in fork.targets if target in loop.steps]
            if len(inside) > 1:
                merging_steps = merges.merging_steps(inside)
                seen = visited.setdefault(merging_steps, {*merging_steps})
                for target in inside:
                    separation = Separation(fork, inside[1] if target == inside[0] else inside[0])
                    for step in self.search_forward(target, loop, seen):
                        separations.setdefault(step, separation)
        return separations

    def search_forward(self, start: str, loop: GraphLoop, seen: set[str]) -> list[str]:
        """Return the steps of a loop that are reachable from `start` without a seen step.

        They are added to `seen`.
        """
        if start in seen:
            return []
        seen.add(start)
        found = [start]
        for step in found:
            self.spend(self.graph.out_degree(step))
            added = [t for t in self.graph.successors(step) if t in loop.steps and t not in seen]
            seen.update(added)
            found += added
        return found

    def in_preorder(self, steps: Iterable[str]) -> list[str]:
        """Return steps in the preorder of the dominator tree."""
        return sorted(steps, key=self.preorder.__getitem__)


class LoopMerges:
    """The steps at which branches of one loop merge.

    `post_dominators` is the tree of immediate post-dominators. Its root is the header. In `order`, each step
    follows its post-dominators.
    """

    def __init__(self, finder: LoopFinder, loop: GraphLoop) -> None:
        self.finder = finder
        self.loop = loop
        graph = finder.graph.subgraph(loop.steps)
        finder.spend(8 * graph.number_of_edges())
        self.post_dominators = immediate_dominators(loop.header, graph.predecessors, graph.successors)
        self.order = {step: index for index, step in enumerate([loop.header, *self.post_dominators])}

    def merging_steps(self, targets: Sequence[str]) -> frozenset[str]:
        """Return the first steps at which branches from all targets have merged.

        If they have not at the header, which is then a multi-merge, these are the next joins, if any.
        """
        step = targets[0]
        for target in targets[1:]:
            step = self.common_post_dominator(step, target)
        while step != self.loop.header and self.is_multi_merge(step):
            step = self.post_dominators[step]
        return self.joins_after_header if self.is_multi_merge(step) else frozenset({step})

    def common_post_dominator(self, left: str, right: str) -> str:
        """Return the nearest step that all paths from both steps to the header pass."""
        while left != right:
            self.finder.spend(1)
            if self.order[left] < self.order[right]:
                left, right = right, left
            left = self.post_dominators[left]
        return left

    @cached_property
    def joins_after_header(self) -> frozenset[str]:
        """The first steps after the header that are not multi-merges."""
        single = {step for step in self.loop.steps if not self.is_multi_merge(step)}
        passed = self.finder.search_forward(self.loop.header, self.loop, {*single})
        return frozenset(t for step in passed for t in self.finder.graph.successors(step) if t in single)

    def is_multi_merge(self, step: str) -> bool:
        """Return whether branches do not merge at a step."""
        return self.finder.modes.get(step) == "each"
