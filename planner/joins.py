"""Which steps must wait for other branches, and for which.

A step is compiled as a join when two branches that were alive together can arrive at it. It then waits for the branches
in its *region*: the steps between its dominator and itself. What a region means, and why waiting by regions is the
synchronising merge of the language, is in docs/decisions/0002-joins.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

from planner.dominators import immediate_dominators
from planner.graph import Flow

if TYPE_CHECKING:
    from planner.graph import StepGraph

ROOT = ""
"""The virtual step before the start, which dominates every step."""

MAX_WATCHED = 1_000_000
"""How many steps all regions may have together: a plan keeps for each step which joins watch it."""


@dataclass(frozen=True, slots=True)
class Runaway:
    """A cycle that starts again while a branch of its last round may still be on the way.

    `case` is the index of the forking case of `step`, or None when two joins would wait for each other; `cycle` are
    steps of the cycle, `left` the steps at which branches are left behind.
    """

    step: str
    case: int | None
    cycle: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Joins:
    """The compiled joins: the dominator of each (`ROOT`: the beginning of the run), and for every step the joins that
    wait for a branch standing there. With `is_too_large` nothing is known, since the regions pass `MAX_WATCHED`.
    """

    dominators: Mapping[str, str]
    regions: Mapping[str, tuple[str, ...]]
    runaways: tuple[Runaway, ...]
    is_too_large: bool = False

    def change(self, step: str | None, targets: Sequence[str]) -> dict[str, int]:
        """What moving a branch from `step` to `targets` adds to the live counter of each join; zeros are left out."""
        change: dict[str, int] = {}
        for join in self.regions.get(step, ()) if step is not None else ():
            change[join] = -1
        for target in targets:
            for join in self.regions.get(target, ()):
                change[join] = change.get(join, 0) + 1
        return {join: delta for join, delta in change.items() if delta}


def find_joins(flow: Flow) -> Joins:
    """The joins of a playbook."""
    forks = [(step, targets) for step, _, targets in flow.forks()]
    if not forks:
        return Joins({}, {}, ())
    finder = _Finder(flow, forks)
    try:
        runaways = finder.runaway_forks()
        finder.compile(step for step in flow.reachable if step not in finder.late)
        finder.find_late_steps()
        finder.compile(finder.dominators_first(finder.late))
        runaways += finder.escapes() + finder.waiting_circles()
    except _TooLargeError:
        return Joins({}, {}, (), is_too_large=True)
    return finder.joins(tuple(runaways))


class _TooLargeError(Exception):
    """The regions pass `MAX_WATCHED`."""


class _Finder:
    def __init__(self, flow: Flow, forks: list[tuple[str, tuple[str, ...]]]) -> None:
        self.flow = flow
        self.forks = forks
        self.forks_of: dict[str, list[tuple[str, ...]]] = {}
        for step, targets in forks:
            self.forks_of.setdefault(step, []).append(targets)
        self.graph: StepGraph = nx.DiGraph(flow.graph.subgraph(flow.reachable))
        self.graph.add_edge(ROOT, flow.start)
        self.idom = immediate_dominators(ROOT, self.graph.successors, self.graph.predecessors)
        self.dominators: dict[str, str] = {}
        self.region_of: dict[str, frozenset[str]] = {}
        self.late: frozenset[str] = frozenset()
        self.entries: frozenset[str] = frozenset()
        self.parallel_cycles: frozenset[int] = frozenset()
        self.watched = 0

    def runaway_forks(self) -> list[Runaway]:
        """Forks on a cycle one of whose branches can come back to the head of the cycle while another cannot, so that a
        round may start before all branches of the last one have come together.
        """
        found = []
        loops = self.loops()
        for step, case, targets in self.flow.forks():
            for head, loop in loops.get(step, ()):
                inside = [t for t in targets if t in loop]
                if step in loop and inside and len(inside) < len(targets):
                    there = nx.shortest_path(self.graph.subgraph(loop), inside[0], head)
                    back = nx.shortest_path(self.graph, head, step)
                    outside = tuple(t for t in targets if t not in loop)
                    found.append(Runaway(step, case, (step, *there, *back[1:]), outside))
                    break
        return found

    def loops(self) -> dict[str, list[tuple[str, frozenset[str]]]]:
        """For every step of a cycle the heads above it from which the cycle can be gone round and the steps on the way
        round, from the inside out.
        """
        component = self.flow.component
        loops: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for step in self.dominators_first(frozenset(filter(self.flow.is_cyclic, self.flow.reachable))):
            over = self.idom[step]
            around = loops[over] if over in loops and component[over] == component[step] else []
            loop = self.between(over, step) | {step}
            goes_round = any(target in loop for target in self.graph.successors(step))
            loops[step] = [(step, loop), *around] if goes_round else around
        return loops

    def compile(self, steps: Iterable[str]) -> None:
        for step in steps:
            if self.graph.in_degree(step) < 2 and step not in self.late:
                continue
            dominator = self.boundary(step)
            region = self.between(dominator, step)
            if self.is_joined(step, dominator, region):
                self.dominators[step] = dominator
                self.region_of[step] = region

    def dominators_first(self, steps: frozenset[str]) -> list[str]:
        if not steps:
            return []
        tree: nx.DiGraph[str] = nx.DiGraph()
        tree.add_edges_from((dominator, step) for step, dominator in self.idom.items() if step != ROOT)
        return [step for step in nx.dfs_preorder_nodes(tree, ROOT) if step in steps]

    def boundary(self, step: str) -> str:
        """The nearest dominator at which no branch but the one that stands there can still reach the step."""
        dominator = self.idom[step]
        while dominator != ROOT and step in self.late and not self.gathers(dominator):
            dominator = self.idom[dominator]
        return dominator

    def gathers(self, dominator: str) -> bool:
        """Whether a late step may rely on its dominator: all branches that can reach it have come together there."""
        if dominator in self.late:
            return dominator in self.dominators
        return self.flow.component[dominator] not in self.parallel_cycles

    def between(self, dominator: str, step: str) -> frozenset[str]:
        """The steps from which `step` can be reached without passing `dominator`."""
        found: set[str] = set()
        stack = [step]
        while stack:
            for before in self.graph.predecessors(stack.pop()):
                if before not in (dominator, step) and before not in found:
                    found.add(before)
                    stack.append(before)
        self.watched += len(found)
        if self.watched > MAX_WATCHED:
            raise _TooLargeError
        return frozenset(found)

    def is_joined(self, step: str, dominator: str, region: frozenset[str]) -> bool:
        """Whether two branches can arrive that have not already come together on the way."""
        if step in self.entries:
            return True
        inside = region | {step}
        groups = [
            [target for target in targets if target in inside]
            for source in (dominator, step, *region)
            for targets in self.forks_of.get(source, ())
        ]
        if step in self.late:
            groups.append([entry for entry in self.entries if entry in inside])
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return False
        last = self.last_steps(step, inside)
        return any(len({last[target] for target in group}) > 1 for group in groups)

    def last_steps(self, step: str, inside: frozenset[str]) -> dict[str, str]:
        """For every step of a region the one that all its ways to the join pass last before the join, if there is one
        (a child of the join in the tree of post-dominators), else itself.
        """
        tree = immediate_dominators(
            step,
            lambda name: [other for other in self.graph.predecessors(name) if other in inside],
            lambda name: [other for other in self.graph.successors(name) if other in inside],
        )
        last = {step: step}
        for first in inside:
            target, path = first, []
            while target not in last and tree[target] != step:
                path.append(target)
                target = tree[target]
            top = last.setdefault(target, target)
            last.update(dict.fromkeys(path, top))
        return last

    def find_late_steps(self) -> None:
        """Steps behind a cycle that a branch may leave for them while another one goes round again, so that branches of
        different rounds can meet there.
        """
        component = self.flow.component
        entries: set[str] = set()
        cycles: set[int] = set()
        for join, region in self.region_of.items():
            if not self.flow.is_cyclic(join):
                continue
            for step in region | {join}:
                if component[step] != component[join] or step == join:
                    continue
                outside = [t for t in self.graph.successors(step) if component[t] != component[join]]
                if outside and self.is_parallel(step, join, region):
                    entries.update(outside)
                    cycles.add(component[join])
        late = set(entries)
        for entry in entries:
            late |= nx.descendants(self.graph, entry)
        self.entries, self.late, self.parallel_cycles = frozenset(entries), frozenset(late), frozenset(cycles)
        for step in late:
            self.dominators.pop(step, None)
            self.region_of.pop(step, None)

    def is_parallel(self, step: str, join: str, region: frozenset[str]) -> bool:
        """Whether a branch at the step of the region can have a sibling there."""
        inside = self.graph.subgraph(region)
        for source in (self.dominators[join], join, *region):
            for targets in self.forks_of.get(source, ()):
                group = [t for t in targets if t in region or t == join]
                if len(group) > 1 and any(t in region and (t == step or nx.has_path(inside, t, step)) for t in group):
                    return True
        return False

    def escapes(self) -> list[Runaway]:
        """Joins whose region a branch can leave back to its dominator, where nothing holds it until the branches it left
        behind have come together.
        """
        component = self.flow.component
        found = []
        for join, region in self.region_of.items():
            dominator = self.dominators[join]
            if dominator == ROOT or component[dominator] != component[join]:
                continue
            around = region | {join}
            leaving = [step for step in region if any(t not in around for t in self.graph.successors(step))]
            if not leaving:
                continue
            holding = {join} | {other for other, steps in self.region_of.items() if join in steps}
            free = self.graph.subgraph(self.flow.components[component[join]] - holding)
            if dominator not in free:
                continue
            for step in sorted(filter(free.has_node, leaving)):
                out = [t for t in free.successors(step) if t not in region and nx.has_path(free, t, dominator)]
                if out and self.is_parallel(step, join, region):
                    back = nx.shortest_path(free, out[0], dominator)
                    there = nx.shortest_path(self.graph, dominator, step)
                    found.append(Runaway(step, None, (*there, *back), (join,)))
                    break
        return found

    def waiting_circles(self) -> list[Runaway]:
        """Joins each of which would wait for a branch that waits at another one of them."""
        waits: nx.DiGraph[str] = nx.DiGraph()
        waits.add_edges_from(
            (other, join) for join, region in self.region_of.items() for other in region & self.dominators.keys()
        )
        circles = (c for c in nx.strongly_connected_components(waits) if len(c) > 1)
        order = {step: index for index, step in enumerate(self.flow.targets)}
        found = []
        for circle in circles:
            first, *others = sorted(circle, key=order.__getitem__)
            there = nx.shortest_path(self.graph, first, others[0])
            back = nx.shortest_path(self.graph, others[0], first)
            found.append(Runaway(first, None, (*there, *back[1:]), (first, *others)))
        return found

    def joins(self, runaways: tuple[Runaway, ...]) -> Joins:
        order = {step: index for index, step in enumerate(self.flow.targets)}
        regions: dict[str, list[str]] = {}
        for join in sorted(self.region_of, key=order.__getitem__):
            for step in self.region_of[join]:
                regions.setdefault(step, []).append(join)
        return Joins(self.dominators, {step: tuple(joins) for step, joins in regions.items()}, runaways)
