"""A small model of how branches move: all orders of events, explored one state after another.

A state holds the branches that stand at steps, the arrivals and live counters of joins, and the visits so far. One event
is the commit of one branch. How a join looks at its counters is a `Protocol`, of which two are broken on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import networkx as nx

from planner.graph import Flow
from planner.joins import Joins

Step = str
Targets = Callable[[Step, int], tuple[Step, ...]]
MAX_STATES = 30_000


class Protocol(Enum):
    """`ATOMIC` counts, looks and fires in one event, as a commit does. The others count and look in two, and nothing says
    that a join has been fired already.
    """

    ATOMIC = auto()
    MARK_THEN_CHECK = auto()
    CHECK_THEN_MARK = auto()


class Broken(AssertionError):
    """A property of joins does not hold."""


class TooMany(Exception):
    """There are more states than a test should look at."""


Counts = frozenset[tuple[Step, int]]


def counts(counter: Mapping[Step, int]) -> Counts:
    return frozenset((key, value) for key, value in counter.items() if value)


@dataclass(frozen=True)
class State:
    """`moving` are branches whose second event is still to come: what they count, or where they look."""

    standing: frozenset[tuple[Step, int]] = frozenset()
    moving: tuple[tuple[Any, ...], ...] = ()
    live: Counts = frozenset()
    arrived: Counts = frozenset()
    visits: Counts = frozenset()

    @property
    def is_final(self) -> bool:
        return not self.standing and not self.moving


@dataclass
class Model:
    flow: Flow
    joins: Joins
    targets: Targets
    protocol: Protocol = Protocol.ATOMIC
    acyclic: bool = False
    _reach: dict[Step, set[Step]] = field(default_factory=dict)

    def outcomes(self) -> set[Counts]:
        """The visits of each step at the end of every order of events.

        Raises:
            Broken: in some order a property does not hold.
            TooMany: there are too many orders.
        """
        live = Counter(dict.fromkeys(self.joins.regions.get(self.flow.start, ()), 1))
        first = self._enter(State(live=counts(live)), self.flow.start)
        seen = {first}
        stack = [first]
        found = set()
        while stack:
            state = stack.pop()
            if state.is_final:
                self._check_end(state)
                found.add(state.visits)
            for following in self._events(state):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
            if len(seen) > MAX_STATES:
                raise TooMany
        return found

    def _events(self, state: State) -> Iterator[State]:
        for branch in sorted(state.standing):
            step, visit = branch
            rest = replace(state, standing=state.standing - {branch})
            targets = self.targets(step, visit)
            if self.protocol is Protocol.CHECK_THEN_MARK:
                looked = self._ready(self._counted(rest, step, targets)[0], self._touched(step, targets))
                yield replace(rest, moving=(*rest.moving, ("mark", step, targets, looked)))
                continue
            after, entered = self._counted(rest, step, targets)
            for target in entered:
                after = self._enter(after, target)
            touched = self._touched(step, targets)
            if self.protocol is Protocol.MARK_THEN_CHECK:
                yield replace(after, moving=(*after.moving, ("check", touched)))
            else:
                for join in self._ready(after, touched):
                    after = self._fire(after, join)
                self._check_waiting(after)
                yield after
        for index, move in enumerate(state.moving):
            rest = replace(state, moving=(*state.moving[:index], *state.moving[index + 1 :]))
            match move:
                case ("check", touched):
                    after = rest
                    for join in self._ready(rest, touched):
                        after = self._enter(after, join)
                    yield after
                case ("mark", step, targets, looked):
                    after, entered = self._counted(rest, step, targets)
                    for target in entered:
                        after = self._enter(after, target)
                    for join in looked:
                        after = self._fire(after, join)
                    yield after

    def _touched(self, step: Step, targets: tuple[Step, ...]) -> tuple[Step, ...]:
        change = self.joins.change(step, targets)
        return tuple(dict.fromkeys([*change, *(t for t in targets if t in self.joins.dominators)]))

    def _counted(self, state: State, step: Step, targets: tuple[Step, ...]) -> tuple[State, list[Step]]:
        """The state after a branch has moved, and the steps that are no joins, which it enters at once."""
        live, arrived = Counter(dict(state.live)), Counter(dict(state.arrived))
        for join, delta in self.joins.change(step, targets).items():
            live[join] += delta
            if live[join] < 0:
                raise Broken(f"{live[join]} branches are on their way to {join}")
        for target in targets:
            arrived[target] += target in self.joins.dominators
        entered = [target for target in targets if target not in self.joins.dominators]
        return replace(state, live=counts(live), arrived=counts(arrived)), entered

    def _ready(self, state: State, joins: tuple[Step, ...]) -> tuple[Step, ...]:
        live, arrived = dict(state.live), dict(state.arrived)
        return tuple(join for join in joins if not live.get(join) and arrived.get(join))

    def _fire(self, state: State, join: Step) -> State:
        live, arrived = Counter(dict(state.live)), Counter(dict(state.arrived))
        merged = max(arrived.pop(join, 0) - 1, 0)
        for outer in self.joins.regions.get(join, ()):
            live[outer] -= merged
        return self._enter(replace(state, live=counts(live), arrived=counts(arrived)), join)

    def _enter(self, state: State, step: Step) -> State:
        if any(other == step for other, _ in state.standing):
            raise Broken(f"two branches stand at {step}")
        visits = Counter(dict(state.visits))
        visits[step] += 1
        if self.acyclic:
            if visits[step] > 1:
                raise Broken(f"{step} is visited twice")
            late = [other for other, _ in state.standing if step in self._reached(other)]
            late += [other for other, _ in state.arrived if step in self._reached(other)]
            if late:
                raise Broken(f"{step} is entered although a branch at {late[0]} can still reach it")
        return replace(state, standing=state.standing | {(step, visits[step])}, visits=counts(visits))

    def _check_waiting(self, state: State) -> None:
        """A join of an acyclic flow waits for a branch that can still reach it, and for nothing else."""
        if self.acyclic:
            places = [step for step, _ in state.standing] + [step for step, _ in state.arrived]
            for join, _ in state.arrived:
                if not any(join in self._reached(place) for place in places):
                    raise Broken(f"{join} waits, and no branch can reach it")

    def _check_end(self, state: State) -> None:
        if state.arrived and self.protocol is not Protocol.MARK_THEN_CHECK:
            raise Broken(f"branches wait for ever: {dict(state.arrived)}")
        if state.live:
            raise Broken(f"counters are left over: {dict(state.live)}")

    def _reached(self, step: Step) -> set[Step]:
        if step not in self._reach:
            self._reach[step] = nx.descendants(self.flow.graph, step)
        return self._reach[step]
