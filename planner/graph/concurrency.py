"""Which steps may be at work at the same time in one run.

Two branches part at a fork and move independently until a join brings them together. A join that waits for one of them
holds the other: while a branch stands in the region of a join, a branch that has arrived there does not go on. So what
may meet is known from pairs: where one branch may be while another one is at a given step. For each step these are kept
as a set of bits, which moves along the edges with the branch that it belongs to, and grows by what the other branch can
reach meanwhile.

Branches that come too late for a `join: any` are *stragglers*: they end there, however long the one that came first has
been gone. Where a branch stands therefore says, too, which joins have been passed without it.

A branch that comes to a step which is visited once, and has been, ends there, too. It has been where a branch stands behind the
step: at one that no way leads to but through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

import networkx as nx
from noetl.planner.graph.bitset import bits
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.dominators import immediate_dominators
from noetl.planner.graph.joins import Joins

MAX_MOVES = 1_000_000
"""How many moves of branches are looked at: past it nothing is known."""


Block = tuple[str, ...]
"""The joins that a branch cannot pass while another one stands where it does."""


class Position(NamedTuple):
    """Where a branch stands: at a step, too late for the joins in `passed`."""

    step: str
    passed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Concurrency:
    """For each step the steps that may be at work while it is, as bits in the order of `steps`; itself, where several of its
    visits may overlap. With `is_too_large` nothing is known.
    """

    steps: tuple[str, ...]
    beside: Mapping[str, int]
    is_too_large: bool = False

    def of(self, step: str) -> frozenset[str]:
        """The steps that may be at work while the step is."""
        return frozenset(self.steps[index] for index in bits(self.beside.get(step, 0)))


def find_concurrency(flow: Flow, joins: Joins, once: AbstractSet[str] = frozenset()) -> Concurrency:
    """What may be at work at the same time, whatever guards say. No join may be a `Runaway`; some may wait for ways that the flow
    does not have. The steps in `once` are visited once: they do nothing when a branch comes again, which ends there.
    """
    steps = tuple(step for step in flow.targets if step in flow.reachable)
    try:
        return Concurrency(steps, _Finder(flow, joins, steps, once).beside())
    except _TooLargeError:
        return Concurrency(steps, {}, is_too_large=True)


class _TooLargeError(Exception):
    """There are more than `MAX_MOVES` moves to look at."""


class _Finder:
    """`rows` holds, for each place of one branch, the places of others as bits; a row may have places at joins where others
    wait. `region` are the joins in whose regions a step lies, `around` the places in the region of a join.
    """

    def __init__(self, flow: Flow, joins: Joins, steps: tuple[str, ...], once: AbstractSet[str]) -> None:
        self.flow = flow
        self.once = once & flow.reachable
        self.within = _Within(flow) if self.once else None
        self.joins = joins
        self.steps = steps
        self.forward = {step: tuple(flow.graph.successors(step)) for step in steps}
        self.region = {step: joins.regions.get(step, ()) for step in steps}
        self.forks: dict[str, list[tuple[str, ...]]] = {}
        for step, _, targets in flow.forks():
            self.forks.setdefault(step, []).append(targets)
        self.places: list[Position] = []
        self.index: dict[Position, int] = {}
        self.at_step = dict.fromkeys(flow.targets, 0)
        self.around = dict.fromkeys(joins.dominators, 0)
        self.blocks: list[Block] = []
        self.rows: list[int] = []
        self.changed: list[tuple[int, int]] = []
        self.reached: dict[tuple[int, Block], int] = {}
        self.moves = 0
        for step in steps:
            self.place(step)

    def beside(self) -> dict[str, int]:
        for steps in self.flow.components:
            # From the ends of the flow: what a branch can reach is known when those before it ask.
            for step in steps:
                self.part(self.place(step))
        while self.changed:
            _, place = heappop(self.changed)
            if not self.changed or self.changed[0][1] != place:
                self.move_on(place)
        found = dict.fromkeys(self.steps, 0)
        for place, position in enumerate(self.places):
            found[position.step] |= self.steps_of(self.at_work(place))
        return found

    def waits(self, step: str) -> bool:
        """Whether branches wait for each other at a step."""
        return step in self.joins.dominators and step not in self.joins.discriminators

    def place(self, step: str, passed: frozenset[str] = frozenset()) -> int:
        """The index of a position."""
        position = Position(step, passed)
        found = self.index.get(position)
        if found is None:
            found = self.index[position] = len(self.places)
            self.places.append(position)
            self.rows.append(0)
            block = (
                tuple(join for join in self.region[step] if join not in passed)
                if passed
                else self.region[step]
            )
            self.blocks.append((*block, step) if self.waits(step) else block)
            self.at_step[step] |= 1 << found
            for join in self.region[step]:
                self.around[join] |= 1 << found
            if passed:
                self.part(found)
        return found

    def moved(self, place: int, target: str) -> int | None:
        """Where a branch is when it has gone on to a step; None when it ends there, since it comes too late."""
        self.moves += 1
        if self.moves > MAX_MOVES:
            raise _TooLargeError
        step, passed = self.places[place]
        if target in passed or self.is_over(target, step):
            return None
        return self.place(target, passed.intersection(self.region[target]) if passed else passed)

    def is_over(self, step: str, other: str) -> bool:
        """Whether a step is visited once, and has been when a branch is at the other."""
        return self.within is not None and step in self.once and self.within.is_passed(step, other)

    def part(self, place: int) -> None:
        """Let the branches meet that part at a place."""
        for targets in self.forks.get(self.places[place].step, ()):
            moved = [there for target in targets if (there := self.moved(place, target)) is not None]
            beside: dict[tuple[Block, str | None], list[int]] = {}
            for at, there in enumerate(moved):
                block, first = self.blocks[there], self.is_first_at(there)
                if (block, first) not in beside:
                    others = [self.left_behind(other, first) for other in moved]
                    beside[block, first] = _all_but_one([self.reach(other, block) for other in others])
                self.meet(there, beside[block, first][at])

    def reach(self, place: int, block: Block) -> int:
        """Where a branch can come to from a place while another one keeps it from passing the joins in `block`."""
        key = (place, block)
        if key in self.reached:
            return self.reached[key]
        found = 1 << place
        stack = [place]
        while stack:
            here = stack.pop()
            if (known := self.reached.get((here, block))) is not None:
                found |= known
            elif self.places[here].step not in block:
                found |= self.next_to(here, found, stack)
        self.reached[key] = found
        return found

    def next_to(self, place: int, found: int, stack: list[int]) -> int:
        """The places behind a place; those that are not among the found go on the stack."""
        added = 0
        for target in self.forward[self.places[place].step]:
            there = self.moved(place, target)
            if there is not None and not (found | added) >> there & 1:
                added |= 1 << there
                stack.append(there)
        return added

    def is_first_at(self, place: int) -> str | None:
        """The `join: any` that a branch passes which comes to a place."""
        step = self.places[place].step
        return step if step in self.joins.discriminators else None

    def left_behind(self, place: int, first: str | None) -> int:
        """Where a branch is when another one has passed a join."""
        if first is None or not self.around[first] >> place & 1:
            return place
        step, passed = self.places[place]
        return self.place(step, passed | {first})

    def meet(self, place: int, others: int) -> None:
        """Take note that a branch at a place is beside others. It is late for a `join: any` at which one of them arrives."""
        step, passed = self.places[place]
        for join in self.region[step]:
            if (
                join in self.joins.discriminators
                and join not in passed
                and (first := others & self.at_step[join])
            ):
                others ^= first
                late = self.place(step, passed | {join})
                for other in bits(first):
                    self.meet(late, self.onwards(other, self.blocks[late]))
        if step in self.once:
            for other in bits(others):
                if self.is_over(step, self.places[other].step):
                    others ^= 1 << other
        if self.waits(step):
            others &= ~self.at_step[step]
        elif step not in self.joins.multi:
            others &= ~(1 << place)
        if others & ~self.rows[place]:
            self.rows[place] |= others
            heappush(self.changed, (-self.flow.component[step], place))

    def onwards(self, place: int, block: Block) -> int:
        """Where a branch can come to that passes the join at which it stands."""
        stack: list[int] = []
        found = 1 << place
        found |= self.next_to(place, found, stack)
        for there in stack:
            found |= self.reach(there, block)
        return found

    def going(self, place: int) -> int:
        """The places beside a branch that goes on: from a join it does so when nobody is left to wait for."""
        step = self.places[place].step
        return self.rows[place] & ~self.around[step] if self.waits(step) else self.rows[place]

    def at_work(self, place: int) -> int:
        """The places beside a branch at work, without those at which others wait for it."""
        row = self.going(place)
        for join in self.joins.waiting(self.places[place].step):
            row &= ~self.at_step[join]
        return row

    def move_on(self, place: int) -> None:
        step = self.places[place].step
        row = self.going(place)
        for target in self.forward[step] if row else ():
            there = self.moved(place, target)
            if there is None:
                continue
            block, first = self.blocks[there], self.is_first_at(there)
            beside = row
            if first is not None:
                for other in bits(row & self.around[first]):
                    beside ^= 1 << other
                    beside |= 1 << self.left_behind(other, first)
            for join in self.joins.waiting(step):
                if join not in block:
                    for other in bits(beside & self.at_step[join]):
                        beside |= self.reach(other, block)
            self.meet(there, beside)

    def steps_of(self, row: int) -> int:
        """The steps of places."""
        late = row >> len(self.steps)
        found = row ^ late << len(self.steps)
        for place in bits(late):
            found |= 1 << self.place(self.places[len(self.steps) + place].step)
        return found


class _Within:
    """Which steps are passed on every way to another: those above it in the tree of dominators."""

    def __init__(self, flow: Flow) -> None:
        graph = flow.graph
        above = immediate_dominators(flow.start, graph.successors, graph.predecessors)
        tree: nx.DiGraph[str] = nx.DiGraph((dominator, step) for step, dominator in above.items())
        tree.add_node(flow.start)
        self.entered: dict[str, int] = {}
        self.left: dict[str, int] = {}
        for number, (_, step, edge) in enumerate(nx.dfs_labeled_edges(tree, flow.start)):
            (self.entered if edge == "forward" else self.left)[step] = number

    def is_passed(self, step: str, other: str) -> bool:
        """Whether a branch that is at the other step has been at this one, or is."""
        return self.entered[step] <= self.entered[other] and self.left[other] <= self.left[step]


def _all_but_one(masks: Sequence[int]) -> list[int]:
    """For each mask all the others together."""
    before, behind = [0], [0]
    for mask in masks[:-1]:
        before.append(before[-1] | mask)
    for mask in reversed(masks[1:]):
        behind.append(behind[-1] | mask)
    return [one | other for one, other in zip(before, reversed(behind), strict=True)]
