"""Compilation of joins: which steps merge branches, and from which dominator on.

Problem: a step that several branches can reach must wait until no active branch can still reach it, and then
run once. To search the graph at run time would make every step cost time in the size of the run. The planner
therefore computes in advance whether a step is a join. For each join it computes the region in which an
active branch makes the join wait.

Algorithm: a step is a join if two branches that were active at the same time can arrive without merging on
the way. Its region is every step from which it can be reached without passing its dominator (Lengauer and
Tarjan 1979). Branches of one fork have merged before if their targets have the same last post-dominator
before the join. Post-dominators are computed as dominators of the reversed region. The strongly connected
components (Tarjan 1972) are compiled one after another, each after those that lead to it. Waiting by regions
is the synchronising merge of the workflow patterns (van der Aalst et al. 2003); docs/decisions/0002-joins.md
gives the reasons.

A step is late if branches can arrive that have not merged at the dominator after which they separated. This
happens after a multi-merge (`join: each`). It also happens after a loop that a branch may leave while another
one starts the next round (`noetl.planner.graph.loops`). The dominator of a join at a late step is the nearest
one at which all branches merge.

Cost: nearly linear in the number of edges for each step that several edges lead to. A cyclic component
repeats this until its late steps do not change. At most `MAX_EDGE_VISITS` edges are visited.

Limits: guards are ignored. Cycles whose rounds may overlap are reported and not compiled (NP205). If the
search or the result exceeds a limit, `Joins.is_too_large` is set and nothing is known (NP701).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import eq
from typing import TYPE_CHECKING

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.dominators import immediate_dominators
from noetl.planner.graph.joins import DEFAULT_MODES, ROOT, Joins, OverlappingCycle
from noetl.planner.graph.loops import GraphLoop, LoopExit, LoopFinder

if TYPE_CHECKING:
    from noetl.planner.graph.cfg import StepGraph

MAX_REGION_STEPS = 500_000
"""How many steps all regions may have together: a plan keeps, for each step, the joins that wait for it."""

MAX_EDGE_VISITS = 2_000_000
"""How many edges the search visits at most. This takes about half a second."""

MAX_COUNTER_CHANGES = 1_000_000
"""How many changes of join counters all cases may have together."""

MAX_OVERLAPPING_CYCLES = 20
"""How many overlapping cycles are reported. Usually all of them have one cause."""


def find_joins(cfg: ControlFlowGraph, modes: Mapping[str, str] = DEFAULT_MODES) -> Joins:
    """Compute the joins of a graph. `modes` holds the mode of every step that is not `join: all`."""
    if not any(cfg.forks()):
        return Joins({}, {}, ())
    finder = JoinFinder(cfg, modes)
    try:
        finder.solve()
        overlapping = [
            *finder.overlapping_exits.values(),
            *finder.find_circular_waits(),
            *finder.find_overtaking_discriminators(),
        ]
        return finder.to_joins(tuple(overlapping[:MAX_OVERLAPPING_CYCLES]))
    except _TooLargeError:
        return Joins({}, {}, (), is_too_large=True)


class _TooLargeError(Exception):
    """The search, the regions or the counter changes exceed a limit."""


class JoinFinder:
    """A computation of the joins, one component after another, each after those that lead to it.

    Results: `dominators` and `region_of` for each join, and the `multi_merges`. `late` are the late steps of
    compiled components, `late_entries` the first late steps on their paths. `loops_of` lists, for each step,
    the numbers of the loops around it from the outside in. `parallel_loops` are the loops that branches of
    several rounds may leave. `overlapping_exits` are those that lead to other steps than multi-merges.
    """

    def __init__(self, cfg: ControlFlowGraph, modes: Mapping[str, str]) -> None:
        self.cfg = cfg
        self.modes = modes
        self.forks_of = cfg.forks_of
        self.graph: StepGraph = nx.DiGraph(cfg.graph.subgraph(cfg.reachable))
        self.graph.add_edge(ROOT, cfg.start)
        self.idom = immediate_dominators(ROOT, self.graph.successors, self.graph.predecessors)
        tree: nx.DiGraph[str] = nx.DiGraph((dominator, step) for step, dominator in self.idom.items())
        self.preorder = {step: index for index, step in enumerate(nx.dfs_preorder_nodes(tree, ROOT))}
        self.dominators: dict[str, str] = {}
        self.region_of: dict[str, frozenset[str]] = {}
        self.multi_merges: set[str] = set()
        self.late: set[str] = set()
        self.late_entries: set[str] = set()
        self.loops_of: dict[str, list[int]] = {}
        self.loop_count = 0
        self.parallel_loops: set[int] = set()
        self.overlapping_exits: dict[tuple[str, int], OverlappingCycle] = {}
        self.loop_finder = LoopFinder(self.graph, cfg, modes, self.preorder, self.spend)
        self.predecessors = {step: list(self.graph.predecessors(step)) for step in self.graph}
        self.successors = {step: list(self.graph.successors(step)) for step in self.graph}
        self.cyclic_steps = cfg.cyclic_steps
        self.region_steps = 0
        self.edge_visits = 0

    def spend(self, edge_visits: int) -> None:
        """Count visits of edges.

        Raises:
            _TooLargeError: there are more than `MAX_EDGE_VISITS`.
        """
        self.edge_visits += edge_visits
        if self.edge_visits > MAX_EDGE_VISITS:
            raise _TooLargeError

    def solve(self) -> None:
        """Find the joins of all components."""
        for index in reversed(range(len(self.cfg.components))):
            self.solve_component(index)

    def solve_component(self, index: int) -> None:
        """Classify the steps of a component until the late steps do not change any more."""
        steps = self.in_preorder(self.cfg.components[index])
        state = None
        while state != (
            state := (sum(step in self.late_entries for step in steps), len(self.parallel_loops))
        ):
            for step in steps:
                self.dominators.pop(step, None)
                self.region_of.pop(step, None)
            if any(
                step in self.late_entries or any(map(self.late.__contains__, self.graph.predecessors(step)))
                for step in steps
            ):
                self.late.update(steps)
            for step in steps:
                self.classify(step)
            self.find_loop_exits(steps)

    def classify(self, step: str) -> None:
        """Decide whether a step is a join, a multi-merge or neither."""
        if self.graph.in_degree(step) < 2 and step not in self.late:
            return
        is_each = self.modes.get(step) == "each"
        if not (is_each and step in self.late_entries):
            dominator = self.region_dominator(step)
            region = self.region(dominator, step)
            if not self.can_branches_meet(step, dominator, region):
                return
            if not is_each:
                self.dominators[step] = dominator
                self.region_of[step] = region
                return
        self.multi_merges.add(step)
        self.late_entries.update(self.graph.successors(step))

    def in_preorder(self, steps: Iterable[str]) -> list[str]:
        """Return steps in the preorder of the dominator tree, so that each follows its dominators."""
        return sorted(steps, key=self.preorder.__getitem__)

    def region_dominator(self, step: str) -> str:
        """Return the nearest dominator at which all branches that can still reach `step` are together."""
        dominator = self.idom[step]
        while dominator != ROOT and step in self.late and not self.synchronises(dominator, step):
            dominator = self.idom[dominator]
        return dominator

    def synchronises(self, dominator: str, step: str) -> bool:
        """Return whether all branches that can reach a late step merge at its dominator."""
        if dominator in self.multi_merges:
            return False
        loops_left = self.loops_of.get(dominator, ())[self.common_loops(dominator, step) :]
        return self.parallel_loops.isdisjoint(loops_left)

    def region(self, dominator: str, step: str) -> frozenset[str]:
        """Return the steps from which `step` can be reached without passing `dominator`."""
        region: set[str] = set()
        stack = [step]
        while stack:
            predecessors = self.predecessors[stack.pop()]
            self.spend(1 + len(predecessors))
            for predecessor in predecessors:
                if predecessor not in region and predecessor not in (dominator, step):
                    region.add(predecessor)
                    stack.append(predecessor)
        self.region_steps += len(region)
        if self.region_steps > MAX_REGION_STEPS:
            raise _TooLargeError
        return frozenset(region)

    def can_branches_meet(self, step: str, dominator: str, region: frozenset[str]) -> bool:
        """Return whether two branches can arrive at `step` that have not merged on the way."""
        if step in self.late_entries:
            return True
        inside = region | {step}
        groups = [group for _, group in self.forks_in_region(step, dominator, region)]
        if step in self.late:
            groups.append([entry for entry in inside if entry in self.late_entries])
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return False
        last = self.last_post_dominators(step, inside)
        return any(len({last[target] for target in group}) > 1 for group in groups)

    def forks_in_region(
        self, step: str, dominator: str, region: frozenset[str]
    ) -> Iterator[tuple[str, list[str]]]:
        """Yield the forks on the paths to `step`: the forking step, and its targets in the region or equal to
        `step`.
        """
        for source in (dominator, step, *region):
            for fork in self.forks_of.get(source, ()):
                self.spend(len(fork.targets))
                yield source, [target for target in fork.targets if target in region or target == step]

    def last_post_dominators(self, step: str, inside: frozenset[str]) -> dict[str, str]:
        """Return, for every step in `inside`, the last step before `step` that all its paths to `step` pass.

        This is the child of `step` above it in the tree of post-dominators. A step without one is mapped to
        itself.
        """
        last = {step: step}
        edges = len(inside) + sum(len(self.successors[name]) for name in inside)
        if inside.isdisjoint(self.cyclic_steps):
            self.spend(edges)
            for name in sorted(inside - {step}, key=self.cfg.component_index.__getitem__):
                # If all successors share one last step, `name` has the same. `step` itself does not count.
                lasts = {last[successor] for successor in self.successors[name] if successor in inside}
                last[name] = name if step in lasts or len(lasts) > 1 else lasts.pop()
            return last
        self.spend(8 * edges)
        tree = immediate_dominators(
            step,
            lambda name: [source for source in self.predecessors[name] if source in inside],
            lambda name: [target for target in self.successors[name] if target in inside],
        )
        for start in inside:
            target, path = start, []
            while target not in last and tree[target] != step:
                path.append(target)
                target = tree[target]
            top = last.setdefault(target, target)
            last.update(dict.fromkeys(path, top))
        return last

    def find_loop_exits(self, steps: Sequence[str]) -> None:
        """Find the exits at which a branch may leave a loop of a component while a sibling continues it.

        Branches of several rounds can meet after such an exit. A multi-merge visits each of them. Any other
        step would keep them until the last round, so the cycle is overlapping.
        """
        if (
            steps[0] in self.loops_of
            or steps[0] not in self.cyclic_steps
            or self.forks_of.keys().isdisjoint(steps)
        ):
            return
        for loop in self.loop_finder.nested_loops(steps, self.region_of):
            self.loop_count += 1
            for step in loop.steps:
                self.loops_of.setdefault(step, []).append(self.loop_count)
            for loop_exit in self.loop_finder.exits_with_siblings(loop):
                self.late_entries.update(loop_exit.targets)
                self.parallel_loops.add(self.loop_count)
                if any(self.modes.get(target) != "each" for target in loop_exit.targets):
                    self.add_overlapping_exit(loop, loop_exit)

    def add_overlapping_exit(self, loop: GraphLoop, loop_exit: LoopExit) -> None:
        """Record the cycle that a sibling may continue after an exit; of nested cycles, the innermost one."""
        place = (loop_exit.step, loop_exit.case)
        if len(self.overlapping_exits) < MAX_OVERLAPPING_CYCLES or place in self.overlapping_exits:
            (fork, _, _), sibling = loop_exit.separation
            return_path = nx.shortest_path(self.graph.subgraph(loop.steps), sibling, fork)
            outside = tuple(target for target in loop_exit.targets if self.modes.get(target) != "each")
            self.overlapping_exits[place] = OverlappingCycle(
                loop_exit.step, (fork, *return_path), outside, loop_exit=loop_exit
            )

    def common_loops(self, left: str, right: str) -> int:
        """Return how many loops contain both steps."""
        left_loops, right_loops = self.loops_of.get(left, ()), self.loops_of.get(right, ())
        self.spend(1 + min(len(left_loops), len(right_loops)))
        return sum(map(eq, left_loops, right_loops))

    def find_circular_waits(self) -> list[OverlappingCycle]:
        """Return the groups of joins that would wait for branches which wait at each other."""
        waits_for: nx.DiGraph[str] = nx.DiGraph()
        waiting = {join: region for join, region in self.region_of.items() if self.is_synchronising(join)}
        cyclic_joins = self.cyclic_steps & waiting.keys()
        waits_for.add_edges_from(
            (other, join) for join in cyclic_joins for other in waiting[join] & cyclic_joins
        )
        circles = (circle for circle in nx.strongly_connected_components(waits_for) if len(circle) > 1)
        order = {step: index for index, step in enumerate(self.cfg.targets)}
        circular_waits = []
        for circle in circles:
            first, *other_joins = sorted(circle, key=order.__getitem__)
            forward = nx.shortest_path(self.graph, first, other_joins[0])
            return_path = nx.shortest_path(self.graph, other_joins[0], first)
            circular_waits.append(
                OverlappingCycle(first, (*forward, *return_path[1:]), (first, *other_joins))
            )
        return circular_waits

    def is_synchronising(self, join: str) -> bool:
        """Return whether a join waits for all branches, and not only for the first."""
        return self.modes.get(join) != "any"

    def find_overtaking_discriminators(self) -> list[OverlappingCycle]:
        """Return the cycles that a discriminator starts again while a later join could confuse two rounds.

        That join cannot tell the branches that the discriminator did not wait for from those of the next
        round. It is the discriminator itself if the cycle does not pass its dominator, or a join that waits
        for those branches.
        """
        discriminators = [
            join for join in self.region_of if not self.is_synchronising(join) and self.cfg.is_cyclic(join)
        ]
        if not discriminators:
            return []
        joins_waiting_for: dict[str, list[str]] = {}
        for join, region in self.region_of.items():
            for step in region if self.is_synchronising(join) else ():
                joins_waiting_for.setdefault(step, []).append(join)
        overtaking = (
            self.overtaken_join(discriminator, joins_waiting_for) for discriminator in discriminators
        )
        return [cycle for cycle in overtaking if cycle is not None]

    def overtaken_join(
        self, discriminator: str, joins_waiting_for: Mapping[str, Sequence[str]]
    ) -> OverlappingCycle | None:
        """Return a cycle by which a branch that passed the discriminator confuses two rounds of a join, or
        None.
        """
        region = self.region_of[discriminator] | {discriminator}
        again = [target for target in self.graph.successors(discriminator) if target in region]
        if again:
            return_path = nx.shortest_path(self.graph.subgraph(region), again[0], discriminator)
            return OverlappingCycle(
                discriminator, (discriminator, *return_path), (discriminator,), starts_early=True
            )
        waiting = {join for step in region for join in joins_waiting_for.get(step, ())}
        if not waiting:
            return None
        holding = {join for join in waiting if region <= self.region_of[join]}
        component = self.cfg.components[self.cfg.component_index[discriminator]]
        free = self.graph.subgraph(component - holding)
        for join in self.in_preorder(waiting):
            dominator = self.dominators[join]
            if dominator in free and nx.has_path(free, discriminator, dominator):
                forward = nx.shortest_path(free, discriminator, dominator)
                return_path = nx.shortest_path(self.graph, dominator, discriminator)
                return OverlappingCycle(
                    discriminator, (*forward, *return_path[1:]), (join,), starts_early=True
                )
        return None

    def to_joins(self, overlapping_cycles: tuple[OverlappingCycle, ...]) -> Joins:
        """Return the result. Call `solve` first."""
        order = {step: index for index, step in enumerate(self.cfg.targets)}
        regions: dict[str, list[str]] = {}
        for join in sorted(self.region_of, key=order.__getitem__):
            for step in self.region_of[join]:
                regions.setdefault(step, []).append(join)
        all_targets = (target for cases in self.cfg.targets.values() for case in cases for target in case)
        if sum(len(regions.get(target, ())) for target in all_targets) > MAX_COUNTER_CHANGES:
            raise _TooLargeError
        return Joins(
            self.dominators,
            {step: tuple(joins) for step, joins in regions.items()},
            overlapping_cycles,
            discriminators=frozenset(join for join in self.dominators if not self.is_synchronising(join)),
            multi_merges=frozenset(self.multi_merges),
        )
