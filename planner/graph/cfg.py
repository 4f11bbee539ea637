"""The graph of a playbook: its steps, and an edge from each step to every target of its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import networkx as nx
from noetl.planner.syntax.models import Playbook
from noetl.planner.syntax.symbols import Names

if TYPE_CHECKING:
    StepGraph = nx.DiGraph[str]


@dataclass(frozen=True)
class Flow:
    """How branches can move: `targets` holds, for each step and each of its cases in order, where the case leads."""

    start: str
    targets: Mapping[str, tuple[tuple[str, ...], ...]]

    @classmethod
    def of(cls, playbook: Playbook, names: Names) -> Flow:
        start = playbook.start if playbook.start in names.steps else None
        targets = {
            n: tuple(names.targets(case) for case in step.rule or ()) for n, step in names.steps.items()
        }
        return cls(start or playbook.steps[0].name, targets)

    @cached_property
    def graph(self) -> StepGraph:
        """The whole graph, in the order of the text."""
        graph: StepGraph = nx.DiGraph()
        graph.add_nodes_from(self.targets)
        for source, cases in self.targets.items():
            graph.add_edges_from((source, target) for case in cases for target in case)
        return graph

    @cached_property
    def reachable(self) -> frozenset[str]:
        """The steps that a run can visit."""
        return frozenset(nx.descendants(self.graph, self.start) | {self.start})

    @cached_property
    def components(self) -> tuple[frozenset[str], ...]:
        """The strongly connected components of what is reachable, each after those it leads to (Tarjan, 1972)."""
        live = self.graph.subgraph(self.reachable)
        return tuple(frozenset(c) for c in nx.strongly_connected_components(live))

    @cached_property
    def component(self) -> Mapping[str, int]:
        """The index in `components` of every reachable step."""
        return {step: index for index, steps in enumerate(self.components) for step in steps}

    @cached_property
    def cyclic(self) -> frozenset[str]:
        """The steps to which a branch can come back that has left them."""
        found = {step for steps in self.components if len(steps) > 1 for step in steps}
        return frozenset(found.union(step for step in self.reachable if step in self.graph.succ[step]))

    def is_cyclic(self, step: str) -> bool:
        """Whether a branch that has left the step can come back to it."""
        return step in self.cyclic

    def leads_back(self, step: str, targets: tuple[str, ...]) -> bool:
        """Whether the step can be reached again from one of its targets."""
        return any(self.component.get(target) == self.component[step] for target in targets)

    def may_come_back(self, step: str, targets: tuple[str, ...]) -> bool:
        """The same of any step; from one that cannot be reached no branch comes back."""
        return step in self.component and self.leads_back(step, targets)

    def forks(self) -> Iterator[tuple[str, int, tuple[str, ...]]]:
        """Every case of a reachable step that makes more than one branch: step, index of the case, targets."""
        for step in self.targets:
            if step in self.reachable:
                for index, targets in enumerate(self.targets[step]):
                    if len(targets) > 1:
                        yield step, index, targets
