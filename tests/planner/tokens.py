"""A small model of how branches move: all orders of events, explored one state after another.

A state holds the branches that stand at steps, those that wait at joins, the live counters of joins, and the visits so
far. One event is the commit of one branch. What a plan says of joins is used as the executor uses it; whether it was right
is judged by the graph alone. How a join looks at its counters is a `Protocol`, of which two are broken on purpose.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cached_property
from typing import Any, NamedTuple

import networkx as nx
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import ROOT, Joins

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
Past = frozenset[tuple[Step, int]]
"""The number of the last visit that a branch made at each dominator of a join that can be visited again."""


class Branch(NamedTuple):
    """A branch that stands at a step, or waits at a join: the number of its visit, 0 while it waits, and its past."""

    step: Step
    visit: int
    past: Past


def counts(counter: Mapping[Step, int]) -> Counts:
    return frozenset((key, value) for key, value in counter.items() if value)


@dataclass(frozen=True)
class State:
    """`waiting` are branches that have arrived at joins, several of which may look the same; `begun` the waves of which a
    branch has passed a `join: any`; `moving` branches whose second event is still to come: what they count, or where they
    look.
    """

    standing: frozenset[Branch] = frozenset()
    waiting: frozenset[tuple[Branch, int]] = frozenset()
    moving: tuple[tuple[Any, ...], ...] = ()
    live: Counts = frozenset()
    begun: frozenset[tuple[Step, int]] = frozenset()
    visits: Counts = frozenset()

    @property
    def is_final(self) -> bool:
        return not self.standing and not self.moving

    def arrived(self, join: Step) -> list[Branch]:
        return [branch for branch, number in self.waiting if branch.step == join for _ in range(number)]


@dataclass
class Model:
    """`modes` holds the mode of every step that is not `join: all`."""

    cfg: ControlFlowGraph
    joins: Joins
    targets: Targets
    protocol: Protocol = Protocol.ATOMIC
    modes: Mapping[Step, str] = field(default_factory=dict)
    _ahead: dict[tuple[Step, frozenset[Step]], frozenset[Step]] = field(default_factory=dict)

    def outcomes(self) -> set[Counts]:
        """The visits of each step at the end of every order of events.

        Raises:
            Broken: in some order a property does not hold.
            TooMany: there are too many orders.
        """
        live = Counter(dict.fromkeys(self.joins.joins_waiting_for(self.cfg.start), 1))
        first = self._enter(State(live=counts(live)), self.cfg.start, frozenset())
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
        for branch in sorted(state.standing, key=str):
            rest = replace(state, standing=state.standing - {branch})
            targets = self.targets(branch.step, branch.visit)
            if self.protocol is Protocol.CHECK_THEN_MARK:
                looked = self._ready(self._moved(rest, branch, targets), self._touched(branch.step, targets))
                yield replace(rest, moving=(*rest.moving, ("mark", branch, targets, looked)))
                continue
            after = self._moved(rest, branch, targets)
            touched = self._touched(branch.step, targets)
            if self.protocol is Protocol.MARK_THEN_CHECK:
                yield replace(after, moving=(*after.moving, ("check", touched)))
            else:
                for join in self._ready(after, touched):
                    after = self._fire(after, join)
                self._check_waiting(after)
                for entered in after.standing - state.standing:
                    self._check_entered(after, entered)
                yield after
        for index, move in enumerate(state.moving):
            rest = replace(state, moving=(*state.moving[:index], *state.moving[index + 1 :]))
            match move:
                case ("check", touched):
                    after = rest
                    for join in self._ready(rest, touched):
                        after = self._enter(after, join, frozenset())
                    yield after
                case ("mark", branch, targets, looked):
                    after = self._moved(rest, branch, targets)
                    for join in looked:
                        after = self._fire(after, join)
                    yield after

    def _touched(self, step: Step, targets: tuple[Step, ...]) -> tuple[Step, ...]:
        """The joins whose counters the move may change, also by ending branches at a `join: any`."""
        first = [
            join
            for target in targets
            if target in self.joins.discriminators
            for join in self.joins.joins_waiting_for(target)
        ]
        arrived = [target for target in targets if target in self.joins.dominators]
        return tuple(dict.fromkeys([*self.joins.counter_changes(step, targets), *first, *arrived]))

    def _moved(self, state: State, branch: Branch, targets: tuple[Step, ...]) -> State:
        """The state after a branch has gone to all targets, where it enters, waits, or ends because another was first."""
        past = branch.past
        if branch.step in self._remembered:
            past = frozenset({(step, visit) for step, visit in past if step != branch.step} | {branch[:2]})
        state = self._counted(state, self.joins.counter_changes(branch.step, targets))
        for target in targets:
            if target in self.joins.discriminators:
                if self.modes.get(target) != "any":
                    raise Broken(f"{target} does not wait")
                begun = (target, self._wave(target, past))
                if begun in state.begun:
                    state = self._counted(state, dict.fromkeys(self.joins.joins_waiting_for(target), -1))
                    continue
                state = replace(state, begun=state.begun | {begun})
            elif target in self.joins.dominators:
                if target in self.modes:
                    raise Broken(f"a branch waits at {target}, which is `join: {self.modes[target]}`")
                waiting = Counter(dict(state.waiting))
                waiting[Branch(target, 0, past)] += 1
                state = replace(state, waiting=frozenset(waiting.items()))
                continue
            state = self._enter(state, target, past)
        return state

    def _counted(self, state: State, change: Mapping[Step, int]) -> State:
        live = Counter(dict(state.live))
        for join, delta in change.items():
            live[join] += delta
            if live[join] < 0:
                raise Broken(f"{live[join]} branches are on their way to {join}")
        return replace(state, live=counts(live))

    def _ready(self, state: State, joins: tuple[Step, ...]) -> tuple[Step, ...]:
        live = dict(state.live)
        return tuple(join for join in joins if not live.get(join) and state.arrived(join))

    def _fire(self, state: State, join: Step) -> State:
        arrived = state.arrived(join)
        merged = max(len(arrived) - 1, 0)
        state = self._counted(state, dict.fromkeys(self.joins.joins_waiting_for(join), -merged))
        waves = {self._wave(join, branch.past) for branch in arrived}
        if len(waves) > 1:
            raise Broken(f"branches of {len(waves)} rounds meet at {join}")
        last: Counter[Step] = Counter()
        for branch in arrived:
            last |= Counter(dict(branch.past))
        waiting = frozenset((branch, number) for branch, number in state.waiting if branch.step != join)
        return self._enter(replace(state, waiting=waiting), join, counts(last))

    def _enter(self, state: State, step: Step, past: Past) -> State:
        number = dict(state.visits).get(step, 0) + 1
        branch = Branch(step, number, past)
        for other in state.standing:
            if other.step == step and not self._may_share(branch, other):
                raise Broken(f"two branches stand at {step}")
        if number > 1 and self.modes.get(step) != "each" and not self.cfg.is_cyclic(step):
            raise Broken(f"{step} is visited twice")
        visits = counts({**dict(state.visits), step: number})
        return replace(state, standing=state.standing | {branch}, visits=visits)

    def _may_share(self, one: Branch, other: Branch) -> bool:
        """Whether two branches may stand at one step: it is `join: each`, or one of them is left over from a wave of which
        another branch was first.
        """
        if self.modes.get(one.step) == "each":
            return True
        waits = one.step in self.joins.dominators.keys() - self.joins.discriminators
        return not waits and any(
            self._wave(join, one.past) != self._wave(join, other.past)
            and join in self._reached(one.step, frozenset({self.joins.dominators[join]}))
            for join in self.joins.discriminators
        )

    def _check_entered(self, state: State, branch: Branch) -> None:
        """A branch enters a join when no other can come to it, other than by a cycle that both are on."""
        step = branch.step
        if self.modes.get(step) == "each" or step in self.joins.discriminators:
            return
        component = self.cfg.component_index
        for other in [*state.standing, *(waiting for waiting, _ in state.waiting)]:
            if component[other.step] != component[step] and step in self._free(state, other):
                raise Broken(f"{step} is entered although a branch at {other.step} can still reach it")

    def _check_waiting(self, state: State) -> None:
        """A join waits for a branch that can reach it, as far as the graph says, and for nothing else."""
        places = {branch.step for branch in state.standing} | {branch.step for branch, _ in state.waiting}
        for branch, _ in state.waiting:
            if not any(branch.step in self._reached(place) for place in places - {branch.step}):
                raise Broken(f"{branch.step} waits, and no branch can reach it")

    def _check_end(self, state: State) -> None:
        if state.waiting and self.protocol is not Protocol.MARK_THEN_CHECK:
            raise Broken(f"branches wait for ever: {dict(state.waiting)}")
        if state.live:
            raise Broken(f"counters are left over: {dict(state.live)}")

    @cached_property
    def _remembered(self) -> frozenset[Step]:
        return frozenset(
            step for step in self.joins.dominators.values() if step != ROOT and self.cfg.is_cyclic(step)
        )

    def _wave(self, join: Step, past: Past) -> int:
        """The visit of the join's dominator that the branch comes from, where it can be visited more than once."""
        return dict(past).get(self.joins.dominators[join], 0)

    def _reached(self, step: Step, closed: frozenset[Step] = frozenset()) -> frozenset[Step]:
        """The steps that a branch at the step can go to without entering a closed one."""
        if (step, closed) not in self._ahead:
            graph = self.cfg.graph
            if closed:
                graph = graph.subgraph(graph.nodes - closed | {step})
            ahead = frozenset(nx.descendants(graph, step))
            self._ahead[step, closed] = ahead | {step} if graph.has_edge(step, step) else ahead
        return self._ahead[step, closed]

    def _free(self, state: State, branch: Branch) -> frozenset[Step]:
        """The steps that the branch can go to, if it ends at every `join: any` that another of its wave has passed."""
        closed = frozenset(
            j for j in self.joins.discriminators if (j, self._wave(j, branch.past)) in state.begun
        )
        found: set[Step] = set()
        seen = {(branch.step, closed)}
        stack = [*seen]
        while stack:
            step, closed = stack.pop()
            closed = frozenset(join for join in closed if self.joins.dominators[join] != step)
            for target in self.cfg.graph.successors(step):
                if target not in closed and (target, closed) not in seen:
                    found.add(target)
                    seen.add((target, closed))
                    stack.append((target, closed))
        return frozenset(found)
