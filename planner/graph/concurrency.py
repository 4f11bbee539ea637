"""Concurrency analysis: which steps may be active at the same time in one run.

Problem: checks for races need all pairs of steps that two branches may execute at the same time. Branches
separate at a fork and move independently until a join merges them. A synchronising join holds a branch that
has arrived while another branch is in the region of the join.

Algorithm: may-happen-in-parallel analysis (Naumovich and Avrunin 1998), solved with a worklist. The fact of
a position is the set of positions where another branch may be at the same time. A fork creates facts: for
each of its branches, what the other branches can reach. A fact moves along the edges with the branch that it
belongs to. It grows by what other branches can reach once a join no longer holds them. A position is a step,
together with the discriminators (`join: any`) that another branch has passed before. A branch that arrives
at one of these is a straggler and ends there. A branch that returns to a step which is visited only once
ends there too. The step has been visited if it dominates the step of a branch that is active.

Cost: sets are ints with one bit for each position. Long parallel branches take a number of moves that is
linear in the number of steps. At most `MAX_MOVES` moves are made.

Limits: guards are ignored. On acyclic graphs the result is exact otherwise; on cycles it may contain pairs
that never occur together. After `MAX_MOVES` moves the analysis stops and reports `is_too_large`, and no pair
is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.dominators import DominatorIntervals, immediate_dominators
from noetl.planner.graph.joins import Joins

MAX_MOVES = 1_000_000
"""How many moves of branches the analysis makes at most."""

HeldJoins = tuple[str, ...]
"""The joins that a branch cannot pass while another branch is at a given position."""

PositionSet = int
"""A set of positions: bit `i` stands for the position with index `i`."""


class Position(NamedTuple):
    """A place of a branch: a step, and the discriminators for which the branch is too late."""

    step: str
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Concurrency:
    """The steps that may be active at the same time as each step, as bit sets in the order of `steps`.

    A step is in its own set if several of its visits may overlap. At the steps in `contested`, several
    branches may arrive at the same time, of which only one makes a visit that does something. If
    `is_too_large`, nothing is known.
    """

    steps: tuple[str, ...]
    parallel: Mapping[str, int]
    is_too_large: bool = False
    contested: frozenset[str] = frozenset()

    def parallel_steps(self, step: str) -> frozenset[str]:
        """Return the steps that may be active while `step` is."""
        return frozenset(self.steps[index] for index in bit_indexes(self.parallel.get(step, 0)))

    def unordered_steps(self) -> frozenset[str]:
        """Return the steps of which several visits may run, or be refused, at the same time."""
        parallel = self.parallel
        return self.contested.union(
            step for index, step in enumerate(self.steps) if parallel.get(step, 0) >> index & 1
        )


def find_concurrency(
    cfg: ControlFlowGraph, joins: Joins, visited_once: AbstractSet[str] = frozenset()
) -> Concurrency:
    """Compute which steps may be active at the same time.

    Args:
        cfg: the graph, which may lack edges of the graph that `joins` belongs to.
        joins: the joins. None of them may be on an overlapping cycle.
        visited_once: steps that do nothing on a second visit. A branch that returns to one of them ends.
    """
    steps = tuple(step for step in cfg.targets if step in cfg.reachable)
    solver = _ConcurrencySolver(cfg, joins, steps, visited_once)
    try:
        return Concurrency(steps, solver.solve(), contested=frozenset(solver.contested))
    except _TooManyMovesError:
        return Concurrency(steps, {}, is_too_large=True)


class _TooManyMovesError(Exception):
    """The analysis needs more than `MAX_MOVES` moves."""


class _ConcurrencySolver:
    """The worklist and the facts of the analysis.

    `parallel[p]` is the set of positions of other branches while a branch is at position `p`. It may contain
    positions at joins where other branches wait. `regions_of[s]` are the joins in whose regions step `s`
    lies. `positions_in_region[j]` are the positions in the region of join `j`. `held_joins[p]` are the joins
    that a branch at `p` holds. `contested` are steps as in `Concurrency`.
    """

    def __init__(
        self, cfg: ControlFlowGraph, joins: Joins, steps: tuple[str, ...], visited_once: AbstractSet[str]
    ) -> None:
        self.cfg = cfg
        self.visited_once = visited_once & cfg.reachable
        self.dominator_tree = _dominator_tree(cfg) if self.visited_once else None
        self.joins = joins
        self.steps = steps
        self.successors = {step: tuple(cfg.graph.successors(step)) for step in steps}
        self.regions_of = {step: joins.regions.get(step, ()) for step in steps}
        self.positions: list[Position] = []
        self.index: dict[Position, int] = {}
        self.positions_at_step: dict[str, PositionSet] = dict.fromkeys(cfg.targets, 0)
        self.positions_in_region: dict[str, PositionSet] = dict.fromkeys(joins.dominators, 0)
        self.held_joins: list[HeldJoins] = []
        self.parallel: list[PositionSet] = []
        self.worklist: list[tuple[int, int]] = []
        self.reachable_cache: dict[tuple[int, HeldJoins], PositionSet] = {}
        self.moves = 0
        self.contested: set[str] = set()
        for step in steps:
            self.intern(step)

    def solve(self) -> dict[str, int]:
        """Return, for each step, the set of the steps that may be active at the same time."""
        for component in self.cfg.components:
            # Successors are processed first, so `reachable_cache` is filled from the ends of the graph.
            for step in component:
                self.split_at_forks(self.intern(step))
        while self.worklist:
            _, position = heappop(self.worklist)
            if not self.worklist or self.worklist[0][1] != position:
                self.propagate(position)
        parallel_steps = dict.fromkeys(self.steps, 0)
        for index, (step, _) in enumerate(self.positions):
            parallel_steps[step] |= self.project_to_steps(self.parallel_active(index))
        return parallel_steps

    def is_synchronising(self, step: str) -> bool:
        """Return whether branches wait for each other at `step`."""
        return step in self.joins.dominators and step not in self.joins.discriminators

    def intern(self, step: str, passed: frozenset[str] = frozenset()) -> int:
        """Return the index of a position; create the position on first use."""
        position = Position(step, passed)
        index = self.index.get(position)
        if index is None:
            index = self.index[position] = len(self.positions)
            self.positions.append(position)
            self.parallel.append(0)
            regions = self.regions_of[step]
            held = tuple(join for join in regions if join not in passed) if passed else regions
            self.held_joins.append((*held, step) if self.is_synchronising(step) else held)
            self.positions_at_step[step] |= 1 << index
            for join in regions:
                self.positions_in_region[join] |= 1 << index
            if passed:
                self.split_at_forks(index)
        return index

    def move(self, position: int, target: str) -> int | None:
        """Return the position of a branch that moves from `position` to the step `target`; None if it ends
        there.
        """
        self.moves += 1
        if self.moves > MAX_MOVES:
            raise _TooManyMovesError
        step, passed = self.positions[position]
        if target in passed or self.is_second_visit(target, step):
            return None
        return self.intern(target, passed.intersection(self.regions_of[target]) if passed else passed)

    def is_second_visit(self, step: str, current: str) -> bool:
        """Return whether `step` is visited only once and a branch at the step `current` has visited it."""
        tree = self.dominator_tree
        return tree is not None and step in self.visited_once and tree.dominates(step, current)

    def split_at_forks(self, position: int) -> None:
        """Add the facts that the forks at a position create."""
        for fork in self.cfg.forks_of.get(self.positions[position].step, ()):
            branches = [
                branch for target in fork.targets if (branch := self.move(position, target)) is not None
            ]
            siblings_of: dict[tuple[HeldJoins, str | None], list[PositionSet]] = {}
            for number, branch in enumerate(branches):
                held, discriminator = self.held_joins[branch], self.discriminator_at(branch)
                if (held, discriminator) not in siblings_of:
                    starts = [self.as_straggler(start, discriminator) for start in branches]
                    siblings_of[held, discriminator] = _union_of_others(
                        [self.reach(start, held) for start in starts]
                    )
                self.add_parallel(branch, siblings_of[held, discriminator][number])

    def reach(self, position: int, held: HeldJoins) -> PositionSet:
        """Return the positions that a branch can reach from `position` while another branch holds the joins
        in `held`.
        """
        key = (position, held)
        if key in self.reachable_cache:
            return self.reachable_cache[key]
        reached = 1 << position
        stack = [position]
        while stack:
            current = stack.pop()
            if (cached := self.reachable_cache.get((current, held))) is not None:
                reached |= cached
            elif self.positions[current].step not in held:
                reached |= self.expand(current, reached, stack)
        self.reachable_cache[key] = reached
        return reached

    def expand(self, position: int, reached: PositionSet, stack: list[int]) -> PositionSet:
        """Return the successors of a position that are not in `reached`, and push them on `stack`."""
        added = 0
        for target in self.successors[self.positions[position].step]:
            successor = self.move(position, target)
            if successor is not None and not (reached | added) >> successor & 1:
                added |= 1 << successor
                stack.append(successor)
        return added

    def discriminator_at(self, position: int) -> str | None:
        """Return the discriminator at a position, which a branch passes when it arrives."""
        step = self.positions[position].step
        return step if step in self.joins.discriminators else None

    def as_straggler(self, position: int, discriminator: str | None) -> int:
        """Return the position of a branch after another branch has passed the discriminator."""
        if discriminator is None or not self.positions_in_region[discriminator] >> position & 1:
            return position
        step, passed = self.positions[position]
        return self.intern(step, passed | {discriminator})

    def add_parallel(self, position: int, other_positions: PositionSet) -> None:
        """Record that other branches may be at `other_positions` while a branch is at `position`.

        If one of them is at a discriminator that the branch has not passed, the branch becomes a straggler.
        """
        step, passed = self.positions[position]
        for join in self.regions_of[step]:
            if join in self.joins.discriminators and join not in passed:
                arrived = other_positions & self.positions_at_step[join]
                if arrived:
                    other_positions ^= arrived
                    straggler = self.intern(step, passed | {join})
                    for other in bit_indexes(arrived):
                        self.add_parallel(straggler, self.reach_past(other, self.held_joins[straggler]))
        if self.is_synchronising(step):
            other_positions &= ~self.positions_at_step[step]
        elif step not in self.joins.multi_merges:
            other_positions &= ~(1 << position)
        if step in self.visited_once:
            for other in bit_indexes(other_positions):
                if self.is_second_visit(step, self.positions[other].step):
                    other_positions ^= 1 << other
                    if self.positions[other].step == step and step not in self.joins.dominators:
                        self.contested.add(step)
        if other_positions & ~self.parallel[position]:
            self.parallel[position] |= other_positions
            heappush(self.worklist, (-self.cfg.component_index[step], position))

    def reach_past(self, position: int, held: HeldJoins) -> PositionSet:
        """Return the positions that a branch can reach when it passes the join at `position`."""
        stack: list[int] = []
        reached = 1 << position
        reached |= self.expand(position, reached, stack)
        for successor in stack:
            reached |= self.reach(successor, held)
        return reached

    def parallel_on_departure(self, position: int) -> PositionSet:
        """Return the positions of other branches when a branch leaves; a synchronising join is left when
        its region is empty.
        """
        step = self.positions[position].step
        parallel = self.parallel[position]
        return parallel & ~self.positions_in_region[step] if self.is_synchronising(step) else parallel

    def parallel_active(self, position: int) -> PositionSet:
        """Return the positions of other active branches, without those that wait at a join for the branch
        at `position`.
        """
        parallel = self.parallel_on_departure(position)
        for join in self.joins.joins_waiting_for(self.positions[position].step):
            parallel &= ~self.positions_at_step[join]
        return parallel

    def propagate(self, position: int) -> None:
        """Move the fact of a position along the edges of its step."""
        step = self.positions[position].step
        departing = self.parallel_on_departure(position)
        for target in self.successors[step] if departing else ():
            successor = self.move(position, target)
            if successor is None:
                continue
            held, discriminator = self.held_joins[successor], self.discriminator_at(successor)
            other_positions = departing
            if discriminator is not None:
                for other in bit_indexes(departing & self.positions_in_region[discriminator]):
                    other_positions ^= 1 << other
                    other_positions |= 1 << self.as_straggler(other, discriminator)
            for join in self.joins.joins_waiting_for(step):
                if join not in held:
                    for other in bit_indexes(other_positions & self.positions_at_step[join]):
                        other_positions |= self.reach(other, held)
            self.add_parallel(successor, other_positions)

    def project_to_steps(self, positions: PositionSet) -> int:
        """Return the steps of positions. The first positions are those of the steps themselves, in order."""
        stragglers = positions >> len(self.steps)
        steps = positions ^ stragglers << len(self.steps)
        for offset in bit_indexes(stragglers):
            steps |= 1 << self.intern(self.positions[len(self.steps) + offset].step)
        return steps


def _dominator_tree(cfg: ControlFlowGraph) -> DominatorIntervals:
    graph = cfg.graph
    return DominatorIntervals(
        cfg.start, immediate_dominators(cfg.start, graph.successors, graph.predecessors)
    )


def _union_of_others(sets: Sequence[PositionSet]) -> list[PositionSet]:
    """Return, for each set, the union of all other sets.

    >>> _union_of_others([0b001, 0b010, 0b100])
    [6, 5, 3]
    """
    before, after = [0], [0]
    for members in sets[:-1]:
        before.append(before[-1] | members)
    for members in reversed(sets[1:]):
        after.append(after[-1] | members)
    return [left | right for left, right in zip(before, reversed(after), strict=True)]
