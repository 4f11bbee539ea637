"""The control-flow graph of a playbook: its steps, and an edge from each step to each target of its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from noetl.planner.syntax.models import Playbook
from noetl.planner.syntax.symbols import SymbolTable

if TYPE_CHECKING:
    StepGraph = nx.DiGraph[str]


class Fork(NamedTuple):
    """A case with several targets: its step, its index in the rule, and the targets."""

    step: str
    case: int
    targets: tuple[str, ...]


@dataclass(frozen=True)
class ControlFlowGraph:
    """The paths that branches can take.

    `targets` holds, for each step and each of its cases, the targets of the case.
    """

    start: str
    targets: Mapping[str, tuple[tuple[str, ...], ...]]

    @classmethod
    def build(cls, playbook: Playbook, symbols: SymbolTable) -> ControlFlowGraph:
        """Return the graph of a playbook. It starts at the first step if `start` is missing or unknown."""
        start = playbook.start if playbook.start in symbols.steps else None
        targets = {
            name: tuple(symbols.targets(case) for case in step.rule or ())
            for name, step in symbols.steps.items()
        }
        return cls(start or playbook.steps[0].name, targets)

    @cached_property
    def graph(self) -> StepGraph:
        """The graph with all steps, in the order of the text."""
        graph: StepGraph = nx.DiGraph()
        graph.add_nodes_from(self.targets)
        for source, cases in self.targets.items():
            graph.add_edges_from((source, target) for case in cases for target in case)
        return graph

    @cached_property
    def reachable(self) -> frozenset[str]:
        """The steps that a path from the start leads to."""
        return frozenset(nx.descendants(self.graph, self.start) | {self.start})

    @cached_property
    def components(self) -> tuple[frozenset[str], ...]:
        """The strongly connected components of the reachable steps, each after those that it leads to (Tarjan
        1972).
        """
        reachable_graph = self.graph.subgraph(self.reachable)
        return tuple(frozenset(component) for component in nx.strongly_connected_components(reachable_graph))

    @cached_property
    def component_index(self) -> Mapping[str, int]:
        """The index in `components` of every reachable step."""
        return {step: index for index, steps in enumerate(self.components) for step in steps}

    @cached_property
    def cyclic_steps(self) -> frozenset[str]:
        """The reachable steps that are on a cycle."""
        steps = {step for component in self.components if len(component) > 1 for step in component}
        return frozenset(steps.union(step for step in self.reachable if step in self.graph.succ[step]))

    def is_cyclic(self, step: str) -> bool:
        """Return whether a branch that has left the step can return to it."""
        return step in self.cyclic_steps

    def leads_back(self, step: str, targets: tuple[str, ...]) -> bool:
        """Return whether a reachable step can be reached again from one of its targets."""
        return any(self.component_index.get(target) == self.component_index[step] for target in targets)

    @cached_property
    def forks_of(self) -> Mapping[str, tuple[Fork, ...]]:
        """The forks of every reachable step that has some."""
        forks: dict[str, tuple[Fork, ...]] = {}
        for fork in self.forks():
            forks[fork.step] = (*forks.get(fork.step, ()), fork)
        return forks

    def forks(self) -> Iterator[Fork]:
        """Yield the forks of all reachable steps, in the order of the text."""
        for step in self.targets:
            if step in self.reachable:
                for index, targets in enumerate(self.targets[step]):
                    if len(targets) > 1:
                        yield Fork(step, index, targets)
