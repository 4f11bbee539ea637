"""A model checker for joins: it explores all orders in which branches can move.

Problem: the planner computes counters and dominators of joins. The tests must show that with them every join
fires once, at the right time, in any order of commits.

Algorithm: explicit-state model checking by depth-first search (Clarke, Emerson and Sistla 1986). A state
holds the branches at steps, the branches that wait at joins, the live counters of joins and the visits so
far. One event is the commit of one branch. The model uses the counters as the executor does, and checks its
properties on the graph alone.

Cost: one set entry per state; the number of states is exponential in the number of branches.

Limits: MAX_STATES states; past it, `TooManyStates` is raised. Two of the protocols are wrong on
purpose: the tests prove that the checker finds the errors.
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


class JoinProtocol(Enum):
    """The order in which a join counts and checks.

    `ATOMIC` counts, checks and fires in one event, as a commit does. The others use two events, and do not
    record that a join has fired.
    """

    ATOMIC = auto()
    MARK_THEN_CHECK = auto()
    CHECK_THEN_MARK = auto()


class PropertyViolation(AssertionError):
    """A violated property of joins."""


class TooManyStates(Exception):
    """More states than a test should explore."""


Counts = frozenset[tuple[Step, int]]
LastVisits = frozenset[tuple[Step, int]]
"""The number of the last visit of a branch at each dominator of a join that can be visited again."""


class BranchToken(NamedTuple):
    """A branch at a step or waiting at a join. `visit` is the number of its visit, 0 while it waits."""

    step: Step
    visit: int
    last_visits: LastVisits


def counts(counter: Mapping[Step, int]) -> Counts:
    return frozenset((key, value) for key, value in counter.items() if value)


@dataclass(frozen=True)
class BranchState:
    """A state of all branches.

    `waiting` counts equal branches that have arrived at joins. `started_waves` are the waves of which a
    branch has passed a `join: any`. `pending_events` are the second events of branches: which joins they
    count or check.
    """

    at_steps: frozenset[BranchToken] = frozenset()
    waiting: frozenset[tuple[BranchToken, int]] = frozenset()
    pending_events: tuple[tuple[Any, ...], ...] = ()
    live: Counts = frozenset()
    started_waves: frozenset[tuple[Step, int]] = frozenset()
    visits: Counts = frozenset()

    @property
    def is_final(self) -> bool:
        return not self.at_steps and not self.pending_events

    def arrived(self, join: Step) -> list[BranchToken]:
        return [branch for branch, number in self.waiting if branch.step == join for _ in range(number)]


@dataclass
class BranchModel:
    """The model of one playbook. `modes` holds the mode of every step that is not `join: all`."""

    cfg: ControlFlowGraph
    joins: Joins
    targets: Targets
    protocol: JoinProtocol = JoinProtocol.ATOMIC
    modes: Mapping[Step, str] = field(default_factory=dict)
    _reachable_cache: dict[tuple[Step, frozenset[Step]], frozenset[Step]] = field(default_factory=dict)

    def explore(self) -> set[Counts]:
        """Return the visits of each step at the end of every order of events.

        Raises:
            PropertyViolation: a property does not hold in some order.
            TooManyStates: the model has too many states.
        """
        live = Counter(dict.fromkeys(self.joins.joins_waiting_for(self.cfg.start), 1))
        first = self._enter(BranchState(live=counts(live)), self.cfg.start, frozenset())
        seen = {first}
        stack = [first]
        outcomes = set()
        while stack:
            state = stack.pop()
            if state.is_final:
                self._check_end(state)
                outcomes.add(state.visits)
            for following in self._events(state):
                if following not in seen:
                    seen.add(following)
                    stack.append(following)
            if len(seen) > MAX_STATES:
                raise TooManyStates
        return outcomes

    def _events(self, state: BranchState) -> Iterator[BranchState]:
        for branch in sorted(state.at_steps, key=str):
            rest = replace(state, at_steps=state.at_steps - {branch})
            targets = self.targets(branch.step, branch.visit)
            if self.protocol is JoinProtocol.CHECK_THEN_MARK:
                ready_joins = self._ready(
                    self._moved(rest, branch, targets), self._touched(branch.step, targets)
                )
                yield replace(
                    rest, pending_events=(*rest.pending_events, ("mark", branch, targets, ready_joins))
                )
                continue
            after = self._moved(rest, branch, targets)
            touched = self._touched(branch.step, targets)
            if self.protocol is JoinProtocol.MARK_THEN_CHECK:
                yield replace(after, pending_events=(*after.pending_events, ("check", touched)))
            else:
                for join in self._ready(after, touched):
                    after = self._fire(after, join)
                self._check_waiting(after)
                for entered in after.at_steps - state.at_steps:
                    self._check_entered(after, entered)
                yield after
        for index, event in enumerate(state.pending_events):
            rest = replace(
                state, pending_events=(*state.pending_events[:index], *state.pending_events[index + 1 :])
            )
            match event:
                case ("check", touched):
                    after = rest
                    for join in self._ready(rest, touched):
                        after = self._enter(after, join, frozenset())
                    yield after
                case ("mark", branch, targets, ready_joins):
                    after = self._moved(rest, branch, targets)
                    for join in ready_joins:
                        after = self._fire(after, join)
                    yield after

    def _touched(self, step: Step, targets: tuple[Step, ...]) -> tuple[Step, ...]:
        """Return the joins whose counters the move may change, also by ending branches at a `join: any`."""
        first = [
            join
            for target in targets
            if target in self.joins.discriminators
            for join in self.joins.joins_waiting_for(target)
        ]
        arrived = [target for target in targets if target in self.joins.dominators]
        return tuple(dict.fromkeys([*self.joins.counter_changes(step, targets), *first, *arrived]))

    def _moved(self, state: BranchState, branch: BranchToken, targets: tuple[Step, ...]) -> BranchState:
        """Return the state after a branch has moved to all targets.

        At each target it enters, waits, or ends as a straggler.
        """
        last_visits = branch.last_visits
        if branch.step in self._remembered:
            last_visits = frozenset(
                {(step, visit) for step, visit in last_visits if step != branch.step} | {branch[:2]}
            )
        state = self._counted(state, self.joins.counter_changes(branch.step, targets))
        for target in targets:
            if target in self.joins.discriminators:
                if self.modes.get(target) != "any":
                    raise PropertyViolation(f"{target} is not `join: any`")
                wave = (target, self._wave(target, last_visits))
                if wave in state.started_waves:
                    state = self._counted(state, dict.fromkeys(self.joins.joins_waiting_for(target), -1))
                    continue
                state = replace(state, started_waves=state.started_waves | {wave})
            elif target in self.joins.dominators:
                if target in self.modes:
                    raise PropertyViolation(
                        f"a branch waits at {target}, which is `join: {self.modes[target]}`"
                    )
                waiting = Counter(dict(state.waiting))
                waiting[BranchToken(target, 0, last_visits)] += 1
                state = replace(state, waiting=frozenset(waiting.items()))
                continue
            state = self._enter(state, target, last_visits)
        return state

    def _counted(self, state: BranchState, change: Mapping[Step, int]) -> BranchState:
        live = Counter(dict(state.live))
        for join, delta in change.items():
            live[join] += delta
            if live[join] < 0:
                raise PropertyViolation(f"{live[join]} branches are active before {join}")
        return replace(state, live=counts(live))

    def _ready(self, state: BranchState, joins: tuple[Step, ...]) -> tuple[Step, ...]:
        live = dict(state.live)
        return tuple(join for join in joins if not live.get(join) and state.arrived(join))

    def _fire(self, state: BranchState, join: Step) -> BranchState:
        arrived = state.arrived(join)
        merged = max(len(arrived) - 1, 0)
        state = self._counted(state, dict.fromkeys(self.joins.joins_waiting_for(join), -merged))
        waves = {self._wave(join, branch.last_visits) for branch in arrived}
        if len(waves) > 1:
            raise PropertyViolation(f"branches of {len(waves)} waves meet at {join}")
        last: Counter[Step] = Counter()
        for branch in arrived:
            last |= Counter(dict(branch.last_visits))
        waiting = frozenset((branch, number) for branch, number in state.waiting if branch.step != join)
        return self._enter(replace(state, waiting=waiting), join, counts(last))

    def _enter(self, state: BranchState, step: Step, last_visits: LastVisits) -> BranchState:
        number = dict(state.visits).get(step, 0) + 1
        branch = BranchToken(step, number, last_visits)
        for other in state.at_steps:
            if other.step == step and not self._may_share(branch, other):
                raise PropertyViolation(f"two branches are at {step}")
        if number > 1 and self.modes.get(step) != "each" and not self.cfg.is_cyclic(step):
            raise PropertyViolation(f"{step} is visited twice")
        visits = counts({**dict(state.visits), step: number})
        return replace(state, at_steps=state.at_steps | {branch}, visits=visits)

    def _may_share(self, branch: BranchToken, other: BranchToken) -> bool:
        """Return whether two branches may be at one step.

        They may if the step is `join: each`, or if one of them is a straggler of another wave.
        """
        if self.modes.get(branch.step) == "each":
            return True
        waits = branch.step in self.joins.dominators.keys() - self.joins.discriminators
        return not waits and any(
            self._wave(join, branch.last_visits) != self._wave(join, other.last_visits)
            and join in self._reached(branch.step, frozenset({self.joins.dominators[join]}))
            for join in self.joins.discriminators
        )

    def _check_entered(self, state: BranchState, branch: BranchToken) -> None:
        """Raise PropertyViolation if a branch enters a join that another branch can still reach.

        Branches on the same cycle as the join do not count.
        """
        step = branch.step
        if self.modes.get(step) == "each" or step in self.joins.discriminators:
            return
        component = self.cfg.component_index
        for other in [*state.at_steps, *(waiting for waiting, _ in state.waiting)]:
            if component[other.step] != component[step] and step in self._free(state, other):
                raise PropertyViolation(
                    f"{step} is entered although a branch at {other.step} can still reach it"
                )

    def _check_waiting(self, state: BranchState) -> None:
        """Raise PropertyViolation if a branch waits at a join that no other branch can reach."""
        places = {branch.step for branch in state.at_steps} | {branch.step for branch, _ in state.waiting}
        for branch, _ in state.waiting:
            if not any(branch.step in self._reached(place) for place in places - {branch.step}):
                raise PropertyViolation(f"{branch.step} waits, and no branch can reach it")

    def _check_end(self, state: BranchState) -> None:
        if state.waiting and self.protocol is not JoinProtocol.MARK_THEN_CHECK:
            raise PropertyViolation(f"branches wait forever: {dict(state.waiting)}")
        if state.live:
            raise PropertyViolation(f"counters are left over: {dict(state.live)}")

    @cached_property
    def _remembered(self) -> frozenset[Step]:
        return frozenset(
            step for step in self.joins.dominators.values() if step != ROOT and self.cfg.is_cyclic(step)
        )

    def _wave(self, join: Step, last_visits: LastVisits) -> int:
        """Return the visit of the join's dominator from which the branch started, or 0 if it has only one."""
        return dict(last_visits).get(self.joins.dominators[join], 0)

    def _reached(self, step: Step, closed: frozenset[Step] = frozenset()) -> frozenset[Step]:
        """Return the steps that a branch at the step can reach without entering a closed one."""
        if (step, closed) not in self._reachable_cache:
            graph = self.cfg.graph
            if closed:
                graph = graph.subgraph(graph.nodes - closed | {step})
            reachable = frozenset(nx.descendants(graph, step))
            self._reachable_cache[step, closed] = (
                reachable | {step} if graph.has_edge(step, step) else reachable
            )
        return self._reachable_cache[step, closed]

    def _free(self, state: BranchState, branch: BranchToken) -> frozenset[Step]:
        """Return the reachable steps of a branch. It ends at every `join: any` that its wave has passed."""
        closed = frozenset(
            j
            for j in self.joins.discriminators
            if (j, self._wave(j, branch.last_visits)) in state.started_waves
        )
        reachable: set[Step] = set()
        seen = {(branch.step, closed)}
        stack = [*seen]
        while stack:
            step, closed = stack.pop()
            closed = frozenset(join for join in closed if self.joins.dominators[join] != step)
            for target in self.cfg.graph.successors(step):
                if target not in closed and (target, closed) not in seen:
                    reachable.add(target)
                    seen.add((target, closed))
                    stack.append((target, closed))
        return frozenset(reachable)
