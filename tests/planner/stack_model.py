"""A model of sequential mode: it explores all runs of a small playbook, one turn at a time.

Problem: the assignment analysis says which names have a value when a step is entered in sequential mode. The
tests must show that this holds in every run.

Algorithm: explicit-state model checking by depth-first search (Clarke, Emerson and Sistla 1986). A state is a
stack of branches, the branches that wait at joins, and the one history of the run. Whether a branch can still
reach a join is decided on the graph, so the model has no counters. Guards about names, steps and failures
have their real truth values.

Cost: one set entry per state; the number of states is exponential in the number of guards with both values.

Limits: `MAX_STATES` states; past it, `is_too_large` is set. A run that an unhandled failure stops is not
recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import Joins
from noetl.planner.plan import Case, Plan, Step

MAX_STATES = 3_000
OPAQUE = "{{ run.id["
"""The beginning of a guard that has both values, and may have no value."""


class StackBranch(NamedTuple):
    """A branch. With `has_joined` it is what a join lets go on, and visits the join on its next turn.

    `last_visits` holds the number of its own last visit of each dominator of a `join: any`.
    """

    step: str
    last_visits: frozenset[tuple[str, int]] = frozenset()
    has_joined: bool = False


@dataclass(frozen=True)
class StackState:
    """A state between two turns. The first branch of `stack` is on top.

    `waiting` holds the joins at which branches wait, in the order of the first arrivals. `statuses` says of
    each visited step whether its last visit succeeded.
    """

    stack: tuple[StackBranch, ...]
    waiting: tuple[StackBranch, ...] = ()
    started_waves: frozenset[tuple[str, int]] = frozenset()
    names: frozenset[str] = frozenset()
    statuses: frozenset[tuple[str, bool]] = frozenset()
    visits: frozenset[tuple[str, int]] = frozenset()
    has_failed_branches: bool = False


@dataclass
class StackModel:
    """The model of one playbook, and the names that it found on entry of each step and at the end.

    `steps_before` holds the steps from which a branch can still reach a join in the same round.
    """

    plan: Plan
    cfg: ControlFlowGraph
    joins: Joins
    entered: dict[str, set[frozenset[str]]] = field(default_factory=dict)
    ended: set[frozenset[str]] = field(default_factory=set)
    ended_with_failures: set[frozenset[str]] = field(default_factory=set)
    is_too_large: bool = False

    def __post_init__(self) -> None:
        self.steps_before = {}
        for join, dominator in self.joins.dominators.items():
            graph = self.cfg.graph.subgraph(self.cfg.reachable - {dominator})
            self.steps_before[join] = nx.ancestors(graph, join) | {join}

    def explore(self) -> None:
        first = StackState((StackBranch(self.cfg.start),))
        seen, states = {first}, [first]
        while states:
            state = states.pop()
            for following in self.successors(state):
                if not following.stack:
                    self.record_end(following)
                elif following not in seen:
                    seen.add(following)
                    states.append(following)
            if len(seen) > MAX_STATES:
                self.is_too_large = True
                return

    def record_end(self, state: StackState) -> None:
        assert not state.waiting
        self.ended_with_failures.add(state.names)
        if not state.has_failed_branches:
            self.ended.add(state.names)

    def successors(self, state: StackState) -> Iterator[StackState]:
        """Yield the states after the turn of the branch on top."""
        branch, state = state.stack[0], replace(state, stack=state.stack[1:])
        is_join = branch.step in self.joins.dominators
        if is_join and branch.step not in self.joins.discriminators and not branch.has_joined:
            yield self.fire_joins(self.wait(state, branch))
            return
        if branch.step in self.joins.discriminators:
            wave = (branch.step, dict(branch.last_visits).get(self.joins.dominators[branch.step], 0))
            if wave in state.started_waves:
                yield self.fire_joins(state)
                return
            state = replace(state, started_waves=state.started_waves | {wave})
        for following in self.visit(state, branch):
            yield self.fire_joins(following)

    def wait(self, state: StackState, branch: StackBranch) -> StackState:
        """Return the state after a branch has arrived at a join."""
        waiting = {other.step: other for other in state.waiting}
        earlier = waiting.get(branch.step, branch)
        last_visits = dict(earlier.last_visits)
        for step, number in branch.last_visits:
            last_visits[step] = max(number, last_visits.get(step, 0))
        waiting[branch.step] = StackBranch(branch.step, frozenset(last_visits.items()))
        return replace(state, waiting=tuple(waiting.values()))

    def fire_joins(self, state: StackState) -> StackState:
        """Put each join on top that no branch can still reach."""
        fired = [
            join
            for join in state.waiting
            if not any(
                other.step in self.steps_before[join.step]
                for other in (*state.stack, *state.waiting)
                if other is not join
            )
        ]
        waiting = tuple(join for join in state.waiting if join not in fired)
        on_top = tuple(join._replace(has_joined=True) for join in fired)
        return replace(state, stack=on_top + state.stack, waiting=waiting)

    def visit(self, state: StackState, branch: StackBranch) -> Iterator[StackState]:
        """Yield the states after a visit, for each case and each failure that is possible."""
        step = self.plan.steps[branch.step]
        self.entered.setdefault(step.name, set()).add(state.names)
        number = dict(state.visits).get(step.name, 0) + 1
        is_refused = step.max_visits is not None and number > step.max_visits
        last_visits = branch.last_visits
        if self.cfg.is_cyclic(step.name) and step.name in self.joins.dominators.values():
            last_visits = frozenset((dict(last_visits) | {step.name: number}).items())
        begun = replace(state, visits=frozenset((dict(state.visits) | {step.name: number}).items()))
        for failed in (True,) if is_refused else (False, True):
            if failed and not is_refused and not self.can_fail(state, step):
                continue
            for case in self.possible_cases(state, step, failed=failed, is_refused=is_refused):
                saved = frozenset(() if failed or not step.run else step.saves)
                after = replace(
                    begun,
                    names=state.names | saved | {f"steps.{step.name}"},
                    statuses=frozenset((dict(state.statuses) | {step.name: not failed}).items()),
                )
                if failed and case is None:
                    if step.on_error == "continue":
                        yield replace(after, has_failed_branches=True)
                    continue
                targets = () if case is None else case.targets
                pushed = tuple(StackBranch(target, last_visits) for target in targets)
                yield replace(after, stack=pushed + after.stack)

    def can_fail(self, state: StackState, step: Step) -> bool:
        """Return whether the work of a step can fail, or a guard that is read after a success."""
        if step.run:
            return True
        for case in step.cases:
            if case.guard is not None and case.guard.startswith(OPAQUE):
                return True
            if self.truth(state, step, case, failed=False) is True:
                return False
        return False

    def possible_cases(
        self, state: StackState, step: Step, *, failed: bool, is_refused: bool
    ) -> Iterator[Case | None]:
        """Yield the cases that a visit may take, and None if it may take no case."""
        for case in step.cases:
            if (failed and not case.error_aware) or (is_refused and case.leads_back):
                continue
            truth = self.truth(state, step, case, failed=failed)
            if truth is not False:
                yield case
            if truth is True:
                return
        yield None

    def truth(self, state: StackState, step: Step, case: Case, *, failed: bool) -> bool | None:
        """Return whether a guard is true; `None` if both values are possible."""
        guard = case.guard
        assigned = state.names | (frozenset() if failed or not step.run else frozenset(step.saves))
        if guard is None or guard == "{{ result.success }}":
            return not failed
        if guard == "{{ error }}":
            return failed
        if guard.startswith(OPAQUE):
            return None
        if guard.endswith("is undefined }}"):
            return "x" not in assigned
        if guard.endswith("is defined }}"):
            is_assigned = guard.split(" is ")[0].split()[-1] in assigned
            return is_assigned and not ("not error" in guard and failed)
        name = guard.split()[1].split(".")[1]
        if "visits" in guard:
            return f"steps.{name}" in state.names
        return dict(state.statuses).get(name, False)
