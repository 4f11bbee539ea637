"""Witnesses: a short run that reaches a place without a fact.

Problem: If a fact is not in the must set of a step, the message (NP302) shows a run on which it does not
hold. It consists of the path of the branch that reaches the step, and of the moves of other branches.

Algorithm: Breadth-first search backward from the step to the start (Moore 1959), over exits after which the
fact may not hold. Outside of the regions of joins this is a path in a graph. At a join one branch must arrive
without the fact, and each other branch must do so too or end on the way. The least costs of that are the
least fixed point of an and-or graph (Knuth 1977), found by iteration over the region.

Cost: Linear in the edges for the path, plus a few passes over the region of each join on it. The evaluations
count against the limit of the solver.

Limits: Costs are exact for each region, not for the whole run, so a witness is short but may not be minimal.
Guards count as free choices: a witness can need guard values that no input gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from noetl.planner.dataflow.solver import AssignmentSolver
from noetl.planner.dataflow.transfer import FactSet, StepExit
from noetl.planner.graph.joins import ROOT

UNREACHABLE_COST = 1 << 30
"""The cost of what is impossible."""


@dataclass(frozen=True, slots=True)
class WitnessMove:
    """One visit of a step: the index of the case taken, or `None`, and whether the step has failed."""

    step: str
    case: int | None
    failed: bool


@dataclass(frozen=True, slots=True)
class Witness:
    """The moves of the branch that reaches a place, and those of branches that were forked on the way.

    A step in neither may do anything.
    """

    path: tuple[WitnessMove, ...]
    other_moves: tuple[WitnessMove, ...] = ()

    @property
    def moves(self) -> tuple[WitnessMove, ...]:
        """All moves."""
        return (*self.path, *self.other_moves)


def find_witness(solver: AssignmentSolver, step: str, fact: FactSet) -> Witness | None:
    """Return a short run that enters a step without a fact; `None` if none is found."""
    return _WitnessSearch(solver, fact).find_entry(step)


def find_end_witness(solver: AssignmentSolver, fact: FactSet, *, with_failures: bool) -> Witness | None:
    """Return a short run that ends without a fact; `with_failures`, branches may end by failures."""
    return _WitnessSearch(solver, fact).find_end(with_failures=with_failures)


@dataclass(slots=True)
class _RegionCosts:
    """The number of moves, by step of a region, to arrive at the join without the fact, or to end."""

    arrive: dict[str, int]
    end: dict[str, int]

    def least(self, step: str) -> int:
        return min(self.arrive.get(step, UNREACHABLE_COST), self.end.get(step, 0))


class _WitnessSearch:
    def __init__(self, solver: AssignmentSolver, fact: FactSet) -> None:
        self.solver = solver
        self.fact = fact
        self.chosen: dict[str, StepExit] = {}
        self.path: list[WitnessMove] = []
        self.other_moves: list[WitnessMove] = []

    def may_miss_fact(self, step: str, exit_: StepExit) -> bool:
        """Return whether the fact may not hold after an exit."""
        return not self.solver.facts_after(step, exit_) & self.fact

    def find_entry(self, step: str) -> Witness | None:
        route = self.find_route(step)
        if route is None:
            return None
        for source, target in pairwise(route):
            if not self.advance(source, target):
                return None
        return Witness(tuple(self.path), tuple(self.other_moves))

    def find_route(self, step: str) -> list[str] | None:
        """Return the steps from the start to a step; of a join's region only its dominator and the join."""
        next_steps: dict[str, str | None] = {step: None}
        queue = deque([step])
        start = self.solver.cfg.start
        while queue:
            current = queue.popleft()
            if current == start:
                break
            for source in self.sources(current):
                if source not in next_steps:
                    next_steps[source] = current
                    queue.append(source)
        if start not in next_steps:
            return None
        route = [start]
        while (following := next_steps[route[-1]]) is not None:
            route.append(following)
        return route

    def sources(self, step: str) -> Iterable[str]:
        """Return the steps from which a route leads to a step without the fact."""
        solver = self.solver
        if solver.is_waiting_join(step):
            dominator = solver.joins.dominators[step]
            source = solver.cfg.start if dominator == ROOT else dominator
            return [source] if not solver.solution.must[source] & self.fact else []
        return [source for source, exit_ in solver.incoming[step] if self.may_miss_fact(source, exit_)]

    def advance(self, source: str, target: str) -> bool:
        """Add the moves from a step to the next one on the route. Return whether that is possible."""
        if self.solver.is_waiting_join(target):
            return self.advance_to_join(source, target)
        exits = [
            exit_
            for exit_ in self.solver.possible_exits(source)
            if target in exit_.targets and self.may_miss_fact(source, exit_)
        ]
        if not exits:
            return False
        self.choose(source, min(exits, key=lambda exit_: (len(exit_.targets), exit_.failed)), self.path)
        return True

    def choose(self, step: str, exit_: StepExit, moves: list[WitnessMove]) -> None:
        self.chosen[step] = exit_
        moves.append(WitnessMove(step, exit_.case, exit_.failed))

    def advance_to_join(self, source: str, join: str) -> bool:
        """Add the moves of all branches from a step to the join at which they arrive without the fact."""
        costs = self.region_costs(join)
        if source == self.solver.cfg.start and self.solver.joins.dominators[join] == ROOT:
            is_possible = costs.arrive[source] < UNREACHABLE_COST
            return is_possible and self.move_to_join(source, join, costs, self.path)
        costs.arrive[source] = 0
        exits = self.solver.possible_exits(source)
        best = min(exits, key=lambda exit_: self.arrival_cost(source, exit_, costs)[0], default=None)
        if best is None or self.arrival_cost(source, best, costs)[0] >= UNREACHABLE_COST:
            return False
        return self.follow_exit(source, best, join, costs, self.path)

    def follow_exit(
        self, step: str, exit_: StepExit, join: str, costs: _RegionCosts, moves: list[WitnessMove]
    ) -> bool:
        """Add an exit and the moves behind it. Return whether a branch arrives."""
        _, first = self.arrival_cost(step, exit_, costs)
        self.choose(step, exit_, moves)
        has_arrived = self.move_to_join(exit_.targets[first], join, costs, moves)
        for index, target in enumerate(exit_.targets):
            if index != first and has_arrived:
                self.end_or_arrive(target, join, costs)
        return has_arrived

    def move_to_join(self, step: str, join: str, costs: _RegionCosts, moves: list[WitnessMove]) -> bool:
        """Add the moves of a branch that arrives at the join. Return whether it arrives."""
        if step == join:
            return True
        if step in self.chosen:
            return any(target == join or target in costs.arrive for target in self.chosen[step].targets)
        exits = self.solver.possible_exits(step)
        best = min(exits, key=lambda exit_: self.arrival_cost(step, exit_, costs)[0])
        return self.follow_exit(step, best, join, costs, moves)

    def end_or_arrive(self, step: str, join: str, costs: _RegionCosts) -> None:
        """Add the moves of a branch that ends before the join, or arrives without the fact."""
        if step == join or step in self.chosen or step not in costs.end:
            return
        if costs.arrive[step] < costs.end[step]:
            self.move_to_join(step, join, costs, self.other_moves)
            return
        exits = self.solver.possible_exits(step)
        best = min(exits, key=lambda exit_: self.end_cost(step, exit_, costs), default=None)
        if best is not None:
            self.choose(step, best, self.other_moves)
            for target in best.targets:
                self.end_or_arrive(target, join, costs)

    def region_costs(self, join: str) -> _RegionCosts:
        """Return the least costs in the region of a join, as a least fixed point."""
        region = self.solver.regions[join]
        costs = _RegionCosts(dict.fromkeys(region, UNREACHABLE_COST), dict.fromkeys(region, UNREACHABLE_COST))
        costs.arrive[join], costs.end[join] = 0, UNREACHABLE_COST
        is_changed = True
        while is_changed:
            is_changed = False
            for step in region:
                exits = self.solver.possible_exits(step)
                arrive = min(
                    (self.arrival_cost(step, exit_, costs)[0] for exit_ in exits), default=UNREACHABLE_COST
                )
                end = min((self.end_cost(step, exit_, costs) for exit_ in exits), default=UNREACHABLE_COST)
                if (arrive, end) != (costs.arrive[step], costs.end[step]):
                    costs.arrive[step], costs.end[step] = arrive, end
                    is_changed = True
        return costs

    def arrival_cost(self, step: str, exit_: StepExit, costs: _RegionCosts) -> tuple[int, int]:
        """Return the cost if one branch behind an exit arrives, and the index of its target."""
        self.solver.spend()
        targets = exit_.targets
        discriminators = self.solver.joins.discriminators
        if not self.may_miss_fact(step, exit_) and not any(target in discriminators for target in targets):
            return UNREACHABLE_COST, 0
        least = [costs.least(target) for target in targets]
        total = 1 + sum(least)
        options = [
            (min(total - least[index] + costs.arrive[target], UNREACHABLE_COST), index)
            for index, target in enumerate(targets)
            if costs.arrive.get(target, UNREACHABLE_COST) < UNREACHABLE_COST
        ]
        return min(options, default=(UNREACHABLE_COST, 0))

    def end_cost(self, step: str, exit_: StepExit, costs: _RegionCosts) -> int:
        """Return the cost if all branches behind an exit end. In sequential mode, others see their facts."""
        if self.solver.is_sequential and not self.may_miss_fact(step, exit_):
            return UNREACHABLE_COST
        return min(1 + sum(costs.end.get(target, 0) for target in exit_.targets), UNREACHABLE_COST)

    def find_end(self, *, with_failures: bool) -> Witness | None:
        """Return the moves of all branches until the end of a run without the fact."""
        start = self.solver.cfg.start
        costs = dict.fromkeys(self.solver.order, UNREACHABLE_COST)

        def cost_of(exit_: StepExit) -> int:
            return min(1 + sum(costs[target] for target in exit_.targets), UNREACHABLE_COST)

        def candidates(step: str) -> list[StepExit]:
            return [
                exit_
                for exit_ in self.solver.possible_exits(step)
                if self.may_miss_fact(step, exit_) and (with_failures or not exit_.is_unhandled_failure)
            ]

        is_changed = True
        while is_changed:
            is_changed = False
            for step in reversed(self.solver.order):
                self.solver.spend()
                cost = min(map(cost_of, candidates(step)), default=UNREACHABLE_COST)
                if cost != costs[step]:
                    costs[step] = cost
                    is_changed = True
        if costs[start] >= UNREACHABLE_COST:
            return None
        stack = [(start, True)]
        while stack:
            step, is_on_path = stack.pop()
            if step in self.chosen:
                continue
            best = min(candidates(step), key=cost_of)
            self.choose(step, best, self.path if is_on_path else self.other_moves)
            stack += [(target, is_on_path and index == 0) for index, target in enumerate(best.targets)]
        return Witness(tuple(self.path), tuple(self.other_moves))
