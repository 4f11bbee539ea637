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
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from noetl.planner.dataflow.solver import AssignmentSolution
from noetl.planner.dataflow.transfer import AnalysisLimitError, FactSet, StepExit
from noetl.planner.graph.joins import ROOT

IMPOSSIBLE = 1 << 30
"""The cost of what is impossible."""


class Witness(NamedTuple):
    """The exits of the branch that reaches a place, and those of branches that were forked on the way.

    A step in neither may do anything.
    """

    path: Sequence[StepExit]
    other_exits: Sequence[StepExit] = ()


def find_witness(solution: AssignmentSolution, step: str, fact: FactSet) -> Witness | None:
    """Return a short run that enters a step without a fact; `None` if none is found."""
    search = _WitnessSearch(solution, fact)
    try:
        route = search.find_route(step)
        has_found = route is not None and all(search.advance(*steps) for steps in pairwise(route))
    except AnalysisLimitError:
        return None
    return Witness(search.path, search.other_exits) if has_found else None


def find_end_witness(solution: AssignmentSolution, fact: FactSet, *, with_failures: bool) -> Witness | None:
    """Return a short run that ends without a fact; `with_failures`, branches may end by failures."""
    search = _WitnessSearch(solution, fact)
    try:
        has_found = search.find_end(with_failures=with_failures)
    except AnalysisLimitError:
        return None
    return Witness(search.path, search.other_exits) if has_found else None


class _WitnessSearch:
    """The search for a run without a fact, with the exits that are `chosen` so far.

    `arrival_costs` and `end_costs` are by step of the region of one join. They hold the number of exits to
    arrive at the join without the fact, or to end.
    """

    def __init__(self, solution: AssignmentSolution, fact: FactSet) -> None:
        self.solution = solution
        self.graph = solution.graph
        self.fact = fact
        self.chosen: dict[str, StepExit] = {}
        self.path: list[StepExit] = []
        self.other_exits: list[StepExit] = []
        self.arrival_costs: dict[str, int] = {}
        self.end_costs: dict[str, int] = {}

    def _may_miss_fact(self, exit_: StepExit) -> bool:
        """Return whether the fact may not hold after an exit."""
        return not self.solution.facts_after(exit_) & self.fact

    def find_route(self, step: str) -> list[str] | None:
        """Return the steps from the start to a step; of a join's region only its dominator and the join."""
        next_steps: dict[str, str | None] = {step: None}
        queue = deque([step])
        start = self.graph.cfg.start
        while queue and start not in next_steps:
            current = queue.popleft()
            for source in self._sources(current):
                if source not in next_steps:
                    next_steps[source] = current
                    queue.append(source)
        if start not in next_steps:
            return None
        route = [start]
        while (following := next_steps[route[-1]]) is not None:
            route.append(following)
        return route

    def _sources(self, step: str) -> Iterable[str]:
        """Return the steps from which a route leads to a step without the fact."""
        graph = self.graph
        if step in graph.waiting_joins:
            dominator = graph.joins.dominators[step]
            source = graph.cfg.start if dominator == ROOT else dominator
            return [source] if not self.solution.must[source] & self.fact else []
        return [exit_.step for exit_ in graph.incoming[step] if self._may_miss_fact(exit_)]

    def advance(self, source: str, target: str) -> bool:
        """Add the exits from a step to the next one on the route. Return whether that is possible."""
        if target in self.graph.waiting_joins:
            return self._advance_to_join(source, target)
        exits = [
            exit_
            for exit_ in self.solution.possible_exits(source)
            if target in exit_.targets and self._may_miss_fact(exit_)
        ]
        if exits:
            self._choose(min(exits, key=lambda exit_: (len(exit_.targets), exit_.failed)), self.path)
        return bool(exits)

    def _choose(self, exit_: StepExit, exits: list[StepExit]) -> None:
        self.chosen[exit_.step] = exit_
        exits.append(exit_)

    def _advance_to_join(self, source: str, join: str) -> bool:
        """Add the exits of all branches from a step to the join at which they arrive without the fact."""
        self._find_costs(join)
        if source == self.graph.cfg.start and self.graph.joins.dominators[join] == ROOT:
            return self.arrival_costs[source] < IMPOSSIBLE and self._move_to_join(source, join, self.path)
        self.arrival_costs[source] = 0
        exits = self.solution.possible_exits(source)
        cost, _ = min(map(self._arrival_cost, exits), default=(IMPOSSIBLE, 0))
        return cost < IMPOSSIBLE and self._follow_cheapest(exits, join, self.path)

    def _follow_cheapest(self, exits: Sequence[StepExit], join: str, taken: list[StepExit]) -> bool:
        """Add the cheapest exit and the exits behind it. Return whether a branch arrives."""
        exit_ = min(exits, key=lambda exit_: self._arrival_cost(exit_)[0])
        _, first = self._arrival_cost(exit_)
        self._choose(exit_, taken)
        has_arrived = self._move_to_join(exit_.targets[first], join, taken)
        for index, target in enumerate(exit_.targets):
            if index != first and has_arrived:
                self._end_or_arrive(target, join)
        return has_arrived

    def _move_to_join(self, step: str, join: str, taken: list[StepExit]) -> bool:
        """Add the exits of a branch that arrives at the join. Return whether it arrives."""
        if step == join:
            return True
        if step in self.chosen:
            return any(target == join or target in self.arrival_costs for target in self.chosen[step].targets)
        return self._follow_cheapest(self.solution.possible_exits(step), join, taken)

    def _end_or_arrive(self, step: str, join: str) -> None:
        """Add the exits of a branch that ends before the join, or arrives without the fact."""
        if step == join or step in self.chosen or step not in self.end_costs:
            return
        if self.arrival_costs[step] < self.end_costs[step]:
            self._move_to_join(step, join, self.other_exits)
            return
        best = min(self.solution.possible_exits(step), key=self._end_cost, default=None)
        if best is not None:
            self._choose(best, self.other_exits)
            for target in best.targets:
                self._end_or_arrive(target, join)

    def _find_costs(self, join: str) -> None:
        """Find the least costs in the region of a join, as a least fixed point."""
        region = self.graph.regions[join]
        self.arrival_costs = {**dict.fromkeys(region, IMPOSSIBLE), join: 0}
        self.end_costs = dict.fromkeys((*region, join), IMPOSSIBLE)
        is_changed = True
        while is_changed:
            is_changed = False
            for step in region:
                exits = self.solution.possible_exits(step)
                arrival, _ = min(map(self._arrival_cost, exits), default=(IMPOSSIBLE, 0))
                end = min(map(self._end_cost, exits), default=IMPOSSIBLE)
                if (arrival, end) != (self.arrival_costs[step], self.end_costs[step]):
                    self.arrival_costs[step], self.end_costs[step] = arrival, end
                    is_changed = True

    def _arrival_cost(self, exit_: StepExit) -> tuple[int, int]:
        """Return the cost if one branch behind an exit arrives, and the index of its target."""
        self.graph.spend()
        targets, discriminators = exit_.targets, self.graph.joins.discriminators
        misses = self._may_miss_fact(exit_)
        # Behind a discriminator another branch may continue, which does not have the fact.
        arrivals = [
            self.arrival_costs.get(target, IMPOSSIBLE) if misses or target in discriminators else IMPOSSIBLE
            for target in targets
        ]
        least = list(map(min, arrivals, (self.end_costs.get(target, 0) for target in targets)))
        total = 1 + sum(least)
        options = [
            (min(total - least[index] + arrival, IMPOSSIBLE), index)
            for index, arrival in enumerate(arrivals)
            if arrival < IMPOSSIBLE
        ]
        return min(options, default=(IMPOSSIBLE, 0))

    def _end_cost(self, exit_: StepExit) -> int:
        """Return the cost if all branches behind an exit end. In sequential mode, others see their facts."""
        if self.solution.is_sequential and not self._may_miss_fact(exit_):
            return IMPOSSIBLE
        return min(1 + sum(self.end_costs.get(target, 0) for target in exit_.targets), IMPOSSIBLE)

    def find_end(self, *, with_failures: bool) -> bool:
        """Add the exits of all branches until a run ends without the fact. Return whether one does."""
        start, costs = self.graph.cfg.start, dict.fromkeys(self.graph.order, IMPOSSIBLE)

        def cost_of(exit_: StepExit) -> int:
            return min(1 + sum(costs[target] for target in exit_.targets), IMPOSSIBLE)

        def candidates(step: str) -> list[StepExit]:
            return [
                exit_
                for exit_ in self.solution.possible_exits(step)
                if self._may_miss_fact(exit_) and (with_failures or not exit_.is_unhandled_failure)
            ]

        is_changed = True
        while is_changed:
            is_changed = False
            for step in reversed(self.graph.order):
                self.graph.spend()
                cost = min(map(cost_of, candidates(step)), default=IMPOSSIBLE)
                if cost != costs[step]:
                    costs[step] = cost
                    is_changed = True
        if costs[start] >= IMPOSSIBLE:
            return False
        stack = [(start, True)]
        while stack:
            step, is_on_path = stack.pop()
            if step not in self.chosen:
                best = min(candidates(step), key=cost_of)
                self._choose(best, self.path if is_on_path else self.other_exits)
                stack += [(target, is_on_path and index == 0) for index, target in enumerate(best.targets)]
        return True
