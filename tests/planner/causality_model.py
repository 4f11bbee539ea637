"""A model of the order of visits in parallel mode: which visits does no rule of the language order?

Problem: a write replaces another if it was made after it. A visit comes after an earlier one in the same
branch, after the visits before the fork of its branch, and after every visit that a join waited for. The
check of races must report each pair of steps whose visits these rules leave unordered, and no other pair.

Algorithm: explicit-state model checking by depth-first search (Clarke, Emerson and Sistla 1986). Each branch
carries the set of visits before it: the happens-before relation (Lamport 1978), written out. One event is the
visit of one branch, which takes any case, or ends. The model has no counters and no positions.

Cost: one set entry per state; the number of states is exponential in the number of branches.

Limits: `MAX_STATES` states; past it, `TooManyStates` is raised. After `MAX_VISITS` visits of a step on a
cycle, the next one ends its branch and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import Joins
from tests.planner.branch_model import TooManyStates

MAX_STATES = 4_000
MAX_VISITS = 2

NumberedVisit = tuple[str, int]


class CausalBranch(NamedTuple):
    """A branch on its way to a step, with the visits that come before it.

    `waves` holds the number of its last visit of each dominator of a `join: any`.
    """

    step: str
    visits_before: frozenset[NumberedVisit] = frozenset()
    waves: frozenset[NumberedVisit] = frozenset()


@dataclass(frozen=True)
class CausalState:
    """A state: branches that will visit a step, branches that wait at joins, and all visits, each
    with the visits before it.
    """

    ready: frozenset[tuple[int, CausalBranch]] = frozenset()
    waiting: frozenset[CausalBranch] = frozenset()
    visits: frozenset[tuple[NumberedVisit, frozenset[NumberedVisit]]] = frozenset()
    started_waves: frozenset[NumberedVisit] = frozenset()


@dataclass
class CausalityModel:
    """The model of one playbook. `unordered` are the pairs of steps whose visits may be unordered."""

    cfg: ControlFlowGraph
    joins: Joins
    unordered: set[frozenset[str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.steps_before = {}
        for join, dominator in self.joins.dominators.items():
            graph = self.cfg.graph.subgraph(self.cfg.reachable - {dominator})
            self.steps_before[join] = nx.ancestors(graph, join)

    def explore(self) -> set[frozenset[str]]:
        """Return the pairs of steps whose visits are unordered in some run.

        Raises:
            TooManyStates: the model has too many states.
        """
        first = self._fire_joins(self._arrive(CausalState(), CausalBranch(self.cfg.start)))
        seen, states = {first}, [first]
        while states:
            state = states.pop()
            assert state.ready or not state.waiting
            for following in self._successors(state):
                if following not in seen:
                    seen.add(following)
                    states.append(following)
            if len(seen) > MAX_STATES:
                raise TooManyStates
        return self.unordered

    def _successors(self, state: CausalState) -> Iterator[CausalState]:
        for entry in state.ready:
            branch = entry[1]
            rest = replace(state, ready=state.ready - {entry})
            number = 1 + sum(step == branch.step for (step, _), _ in state.visits)
            if number > MAX_VISITS and self.cfg.is_cyclic(branch.step):
                yield self._fire_joins(rest)
                continue
            visit = (branch.step, number)
            for earlier, _ in state.visits:
                if earlier not in branch.visits_before:
                    self.unordered.add(frozenset((earlier[0], branch.step)))
            after = replace(rest, visits=rest.visits | {(visit, branch.visits_before)})
            waves = branch.waves
            if self.cfg.is_cyclic(branch.step) and branch.step in self.joins.dominators.values():
                waves = frozenset((dict(waves) | {branch.step: number}).items())
            for targets in {(), *self.cfg.targets[branch.step]}:
                moved = after
                for target in targets:
                    moved = self._arrive(moved, CausalBranch(target, branch.visits_before | {visit}, waves))
                yield self._fire_joins(moved)

    def _arrive(self, state: CausalState, branch: CausalBranch) -> CausalState:
        """Return the state after a branch has reached a step: it waits, ends, or is ready to visit it."""
        step = branch.step
        if step in self.joins.discriminators:
            wave = (step, dict(branch.waves).get(self.joins.dominators[step], 0))
            if wave in state.started_waves:
                return state
            state = replace(state, started_waves=state.started_waves | {wave})
        elif step in self.joins.dominators:
            return replace(state, waiting=state.waiting | {branch})
        return self._make_ready(state, branch)

    def _make_ready(self, state: CausalState, branch: CausalBranch) -> CausalState:
        copies = sum(other == branch for _, other in state.ready)
        return replace(state, ready=state.ready | {(copies, branch)})

    def _fire_joins(self, state: CausalState) -> CausalState:
        """Return the state after each join has fired that no branch can reach in this round.

        What leaves the join comes after all visits of branches that it waited for.
        """
        branches = [*(branch for _, branch in state.ready), *state.waiting]
        for join in {branch.step for branch in state.waiting}:
            before = self.steps_before[join]
            if any(branch.step in before for branch in branches):
                continue
            arrived = {branch for branch in state.waiting if branch.step == join}
            visits_before = frozenset().union(*(branch.visits_before for branch in arrived))
            waves: dict[str, int] = {}
            for branch in arrived:
                for step, number in branch.waves:
                    waves[step] = max(number, waves.get(step, 0))
            for visit, earlier in state.visits:
                if visit[0] in before:
                    visits_before |= earlier | {visit}
            state = replace(state, waiting=state.waiting - arrived)
            state = self._make_ready(state, CausalBranch(join, visits_before, frozenset(waves.items())))
        return state
