"""Find the joins of a playbook: the steps where branches of a fork meet again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import eq
from typing import TYPE_CHECKING

import networkx as nx
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.dominators import immediate_dominators
from noetl.planner.graph.joins import ALL, ROOT, Joins, Runaway

if TYPE_CHECKING:
    from noetl.planner.graph.cfg import StepGraph

MAX_WATCHED = 500_000
"""How many steps all regions may have together: a plan keeps for each step which joins watch it."""

MAX_WORK = 2_000_000
"""How many ways from step to step are looked at in all to find the joins: half a second's worth."""

MAX_CHANGES = 1_000_000
"""How many counters of joins all ways may change together."""

MAX_RUNAWAYS = 20
"""How many cycles are shown whose rounds may overlap. They mostly have one cause."""


class _TooLargeError(Exception):
    """The joins are too many, or too many branches meet, to find out or to keep."""


def find_joins(flow: Flow, modes: Mapping[str, str] = ALL) -> Joins:
    """The joins of a playbook. `modes` holds the mode of every step that is not `join: all`."""
    if not any(flow.forks()):
        return Joins({}, {}, ())
    finder = JoinFinder(flow, modes)
    try:
        runaways = finder.runaway_forks()
        finder.compile_all()
        runaways += finder.waiting_circles() + finder.overtakings()
        return finder.joins(tuple(runaways[:MAX_RUNAWAYS]))
    except _TooLargeError:
        return Joins({}, {}, (), is_too_large=True)


class JoinFinder:
    """Finds the joins of one component of the flow after another, each after those that lead to it.

    A step is *late* when branches can arrive there that did not come together at the dominators behind which they parted:
    behind a step that is visited once for each branch, and behind a cycle that a branch may leave while another goes round.
    `entries` are the first late steps on such ways.
    """

    def __init__(self, flow: Flow, modes: Mapping[str, str]) -> None:
        self.flow = flow
        self.modes = modes
        self.forks_of: dict[str, list[tuple[str, ...]]] = {}
        for step, _, targets in flow.forks():
            self.forks_of.setdefault(step, []).append(targets)
        self.graph: StepGraph = nx.DiGraph(flow.graph.subgraph(flow.reachable))
        self.graph.add_edge(ROOT, flow.start)
        self.idom = immediate_dominators(ROOT, self.graph.successors, self.graph.predecessors)
        tree: nx.DiGraph[str] = nx.DiGraph((dominator, step) for step, dominator in self.idom.items())
        self.position = {step: index for index, step in enumerate(nx.dfs_preorder_nodes(tree, ROOT))}
        self.dominators: dict[str, str] = {}
        self.region_of: dict[str, frozenset[str]] = {}
        self.multi: set[str] = set()
        self.late: set[str] = set()
        self.entries: set[str] = set()
        self.loops_of: dict[str, list[int]] = {}
        self.number_of_loops = 0
        self.parallel: set[int] = set()
        self.before = {step: list(self.graph.predecessors(step)) for step in self.graph}
        self.after = {step: list(self.graph.successors(step)) for step in self.graph}
        self.cyclic = flow.cyclic
        self.watched = 0
        self.spent = 0

    def spend(self, work: int) -> None:
        """Count what is looked at. Raises _TooLargeError past `MAX_WORK`."""
        self.spent += work
        if self.spent > MAX_WORK:
            raise _TooLargeError

    def runaway_forks(self) -> list[Runaway]:
        """Forks on a cycle one of whose branches can come back to the head of the cycle while another cannot, so that a
        round may start before all branches of the last one have come together. A `join: each` step does not mind.
        """
        found: list[Runaway] = []
        loops = self.loops()
        for step, case, targets in self.flow.forks():
            if len(found) == MAX_RUNAWAYS:
                break
            for head, loop in loops.get(step, ()):
                self.spend(len(targets))
                inside = [t for t in targets if t in loop]
                outside = tuple(t for t in targets if t not in loop and self.modes.get(t) != "each")
                if step in loop and inside and outside:
                    there = nx.shortest_path(self.graph.subgraph(loop), inside[0], head)
                    back = nx.shortest_path(self.graph, head, step)
                    found.append(Runaway(step, case, (step, *there, *back[1:]), outside))
                    break
        return found

    def loops(self) -> dict[str, list[tuple[str, frozenset[str]]]]:
        """For every step of a cycle the heads above it from which the cycle can be gone round and the steps on the way
        round, from the inside out.
        """
        component = self.flow.component
        loops: dict[str, list[tuple[str, frozenset[str]]]] = {}
        for step in self.dominators_first(self.cyclic):
            over = self.idom[step]
            around = loops[over] if over in loops and component[over] == component[step] else []
            loop = self.between(over, step) | {step}
            goes_round = any(target in loop for target in self.graph.successors(step))
            loops[step] = [(step, loop), *around] if goes_round else around
            self.spend(len(around))
        return loops

    def compile_all(self) -> None:
        """Find the joins of all components."""
        for index in reversed(range(len(self.flow.components))):
            self.compile(index)

    def compile(self, index: int) -> None:
        """Find the joins of a component, and where steps behind it become late."""
        steps = self.dominators_first(self.flow.components[index])
        known = None
        while known != (known := (sum(step in self.entries for step in steps), len(self.parallel))):
            for step in steps:
                self.dominators.pop(step, None)
                self.region_of.pop(step, None)
            if any(
                step in self.entries or any(map(self.late.__contains__, self.graph.predecessors(step)))
                for step in steps
            ):
                self.late.update(steps)
            for step in steps:
                self.judge(step)
            self.find_exits(steps)

    def judge(self, step: str) -> None:
        """See whether the step is a join, or visited once for each of several branches."""
        if self.graph.in_degree(step) < 2 and step not in self.late:
            return
        each = self.modes.get(step) == "each"
        if not (each and step in self.entries):
            dominator = self.boundary(step)
            region = self.between(dominator, step)
            if not self.is_joined(step, dominator, region):
                return
            if not each:
                self.dominators[step] = dominator
                self.region_of[step] = region
                return
        self.multi.add(step)
        self.entries.update(self.graph.successors(step))

    def dominators_first(self, steps: Iterable[str]) -> list[str]:
        return sorted(steps, key=self.position.__getitem__)

    def boundary(self, step: str) -> str:
        """The nearest dominator at which no branch but the one that stands there can still reach the step."""
        dominator = self.idom[step]
        while dominator != ROOT and step in self.late and not self.gathers(dominator, step):
            dominator = self.idom[dominator]
        return dominator

    def gathers(self, dominator: str, step: str) -> bool:
        """Whether a late step may rely on its dominator: all branches that can reach it have come together there."""
        if dominator in self.multi:
            return False
        left = self.loops_of.get(dominator, ())[self.common_loops(dominator, step) :]
        return self.parallel.isdisjoint(left)

    def between(self, dominator: str, step: str) -> frozenset[str]:
        """The steps from which `step` can be reached without passing `dominator`."""
        found: set[str] = set()
        stack = [step]
        while stack:
            ways = self.before[stack.pop()]
            self.spend(1 + len(ways))
            for before in ways:
                if before not in found and before not in (dominator, step):
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
        groups = [group for _, group in self.forks_within(step, dominator, region)]
        if step in self.late:
            groups.append([entry for entry in inside if entry in self.entries])
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return False
        last = self.last_steps(step, inside)
        return any(len({last[target] for target in group}) > 1 for group in groups)

    def forks_within(
        self, step: str, dominator: str, region: frozenset[str]
    ) -> Iterator[tuple[str, list[str]]]:
        """The forks on the ways to a step: where they are, and those of their targets that lie in its region, or are it."""
        for source in (dominator, step, *region):
            for targets in self.forks_of.get(source, ()):
                self.spend(len(targets))
                yield source, [target for target in targets if target in region or target == step]

    def last_steps(self, step: str, inside: frozenset[str]) -> dict[str, str]:
        """For every step of a region the one that all its ways to the join pass last before the join, if there is one
        (a child of the join in the tree of post-dominators), else itself.
        """
        last = {step: step}
        ways = len(inside) + sum(len(self.after[name]) for name in inside)
        if inside.isdisjoint(self.cyclic):
            self.spend(ways)
            for name in sorted(inside - {step}, key=self.flow.component.__getitem__):
                # Where all go on to one last step it is this one's too; the join itself is none.
                lasts = {last[other] for other in self.after[name] if other in inside}
                last[name] = name if step in lasts or len(lasts) > 1 else lasts.pop()
            return last
        self.spend(8 * ways)
        tree = immediate_dominators(
            step,
            lambda name: [other for other in self.before[name] if other in inside],
            lambda name: [other for other in self.after[name] if other in inside],
        )
        for first in inside:
            target, path = first, []
            while target not in last and tree[target] != step:
                path.append(target)
                target = tree[target]
            top = last.setdefault(target, target)
            last.update(dict.fromkeys(path, top))
        return last

    def find_exits(self, steps: Sequence[str]) -> None:
        """See where a branch may leave a loop while another one goes round again, so that branches of different rounds can
        meet behind it.
        """
        if not self.flow.is_cyclic(steps[0]):
            return
        if steps[0] not in self.loops_of and any(
            step in self.forks_of or step in self.region_of for step in steps
        ):
            self.nest(steps)
        for step in steps:
            for targets in self.forks_of.get(step, ()):
                self.leave(step, targets, max(self.common_loops(step, target) for target in targets))
        for join in filter(self.region_of.__contains__, steps):
            for step in self.apart(join):
                self.leave(step, self.graph.successors(step), self.common_loops(join, step))

    def leave(self, step: str, targets: Iterable[str], depth: int) -> None:
        """Take note of the targets that lie outside the innermost of the first `depth` loops around a step."""
        for target in targets:
            common = self.common_loops(step, target)
            if common < depth:
                self.entries.add(target)
                self.parallel.update(self.loops_of[step][common:depth])

    def common_loops(self, one: str, other: str) -> int:
        """How many loops both steps are in."""
        first, second = self.loops_of.get(one, ()), self.loops_of.get(other, ())
        self.spend(1 + min(len(first), len(second)))
        return sum(map(eq, first, second))

    def nest(self, steps: Iterable[str]) -> None:
        """Find the loops of a component, from the outside in: itself, and those left without the step at which it is entered,
        and so on, as far as there are forks in them.
        """
        stack = [frozenset(steps)]
        while stack:
            loop = stack.pop()
            self.spend(8 * sum(len(self.after[step]) for step in loop))
            self.number_of_loops += 1
            for step in loop:
                self.loops_of.setdefault(step, []).append(self.number_of_loops)
            inner = self.graph.subgraph(loop - {self.head(loop)})
            parts = map(frozenset, nx.strongly_connected_components(inner))
            stack += [
                part for part in parts if not part.isdisjoint(self.forks_of) and inner.subgraph(part).edges
            ]

    def head(self, loop: frozenset[str]) -> str:
        """The step at which a loop is entered; of one with several entrances, a join at which rounds come together."""
        entrances = [step for step in loop if not loop.issuperset(self.before[step])]
        several = len(entrances) > 1
        return min(loop, key=lambda step: (several and step not in self.region_of, self.position[step]))

    def apart(self, join: str) -> set[str]:
        """The steps of a region at which a branch can have a sibling in it or at the join."""
        region = self.region_of[join]
        groups = (group for _, group in self.forks_within(join, self.dominators[join], region))
        found = {target for group in groups if len(group) > 1 for target in group if target != join}
        stack = [*found]
        while stack:
            ways = self.after[stack.pop()]
            self.spend(len(ways))
            for target in ways:
                if target in region and target not in found:
                    found.add(target)
                    stack.append(target)
        return found

    def waiting_circles(self) -> list[Runaway]:
        """Joins each of which would wait for a branch that waits at another one of them."""
        waits: nx.DiGraph[str] = nx.DiGraph()
        waiting = {join: region for join, region in self.region_of.items() if self.waits(join)}
        together = self.cyclic & waiting.keys()
        waits.add_edges_from((other, join) for join in together for other in waiting[join] & together)
        circles = (c for c in nx.strongly_connected_components(waits) if len(c) > 1)
        order = {step: index for index, step in enumerate(self.flow.targets)}
        found = []
        for circle in circles:
            first, *others = sorted(circle, key=order.__getitem__)
            there = nx.shortest_path(self.graph, first, others[0])
            back = nx.shortest_path(self.graph, others[0], first)
            found.append(Runaway(first, None, (*there, *back[1:]), (first, *others)))
        return found

    def waits(self, join: str) -> bool:
        return self.modes.get(join) != "any"

    def overtakings(self) -> list[Runaway]:
        """Cycles that a `join: any` lets start again, where something behind cannot tell the branches that it did not wait for
        from those of the next round: itself, when the cycle does not pass its dominator, or a join that waits for them.
        """
        component = self.flow.component
        discriminators = [
            join for join in self.region_of if not self.waits(join) and self.flow.is_cyclic(join)
        ]
        watching: dict[str, list[str]] = {}
        for join in self.region_of if discriminators else ():
            for step in self.region_of[join] if self.waits(join) else ():
                watching.setdefault(step, []).append(join)
        found = []
        for first in discriminators:
            around = self.region_of[first] | {first}
            again = [target for target in self.graph.successors(first) if target in around]
            if again:
                back = nx.shortest_path(self.graph.subgraph(around), again[0], first)
                found.append(Runaway(first, None, (first, *back), (first,), first))
                continue
            behind = {join for step in around for join in watching.get(step, ())}
            if not behind:
                continue
            holding = {join for join in behind if around <= self.region_of[join]}
            free = self.graph.subgraph(self.flow.components[component[first]] - holding)
            for join in self.dominators_first(behind):
                dominator = self.dominators[join]
                if dominator in free and nx.has_path(free, first, dominator):
                    there = nx.shortest_path(free, first, dominator)
                    back = nx.shortest_path(self.graph, dominator, first)
                    found.append(Runaway(first, None, (*there, *back[1:]), (join,), first))
                    break
        return found

    def joins(self, runaways: tuple[Runaway, ...]) -> Joins:
        order = {step: index for index, step in enumerate(self.flow.targets)}
        regions: dict[str, list[str]] = {}
        for join in sorted(self.region_of, key=order.__getitem__):
            for step in self.region_of[join]:
                regions.setdefault(step, []).append(join)
        changes = sum(
            len(regions.get(t, ())) for cases in self.flow.targets.values() for case in cases for t in case
        )
        if changes > MAX_CHANGES:
            raise _TooLargeError
        return Joins(
            self.dominators,
            {step: tuple(joins) for step, joins in regions.items()},
            runaways,
            discriminators=frozenset(join for join in self.dominators if not self.waits(join)),
            multi=frozenset(self.multi),
        )
