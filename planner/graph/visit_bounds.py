"""An upper bound of the step visits of one run.

Problem: a user wants to know before a run how many steps it may take, for example to estimate its cost. The
planner can answer because every cycle must have a step with `max_visits`.

Algorithm: a longest-path computation over the strongly connected components of the graph (Tarjan 1972).
`max_visits` has the role of a loop bound in worst-case execution time analysis (Li and Malik 1995). The bound
of a step is one visit plus the largest bound of its cases. The bound of a case is the sum over its targets. A
join is visited once for all branches that arrive, so it counts at its dominator and not at the steps before
it. In a cyclic component, each bounded step is entered at most `max_visits` times, and each entry causes the
visits up to the next bounded step. These visits are finite, because the component has no cycle without its
bounded steps. If a component is left only once, the visits after it count once, by the most expensive exit.
Otherwise they count each time that a case leaves it.

Cost: linear in the number of targets, times the number of regions that a target lies in.

Limits: guards are ignored, as if every case could be taken. The bound is then exact for chains, choices,
forks that are joined, and cycles with one bounded step that branches enter one at a time. Numbers above
`MAX_COUNTED_VISITS` are cut.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import networkx as nx

from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import ROOT, Joins
from noetl.planner.plan import MAX_COUNTED_VISITS

Targets = Sequence[str]


def compute_visit_bound(
    cfg: ControlFlowGraph, joins: Joins, max_visits: Mapping[str, int], counted_step: str | None = None
) -> int:
    """Return a number of step visits that no run exceeds, at most `MAX_COUNTED_VISITS`.

    `max_visits` must contain a step of every cycle. A visit that is refused for `max_visits` counts: the
    history contains it, and a case may handle its failure. Retries, rounds of `repeat` and items of loops do
    not count. With `counted_step`, only the visits of this step count.
    """
    return _RunBound(cfg, joins, max_visits, counted_step).solve()


def bound_arrivals(cfg: ControlFlowGraph, joins: Joins) -> dict[str, int]:
    """Return how many branches can arrive at each step, at most `MAX_COUNTED_VISITS`.

    One pass over all edges finds the numbers. They are larger than those of `compute_visit_bound` behind a
    choice, and not bounded on and behind cycles.

    >>> targets = {"a": (("b", "c"),), "b": (("d",),), "c": (("d",),), "d": ()}
    >>> bound_arrivals(ControlFlowGraph("a", targets), Joins({}, {}, ()))
    {'a': 1, 'b': 1, 'c': 1, 'd': 2}
    """
    arrivals = dict.fromkeys(cfg.targets, 0)
    arrivals[cfg.start] = 1
    visits = {ROOT: 1}
    for component in reversed(cfg.components):
        for step in component:
            if cfg.is_cyclic(step):
                arrivals[step] = MAX_COUNTED_VISITS
            visits[step] = arrivals[step]
            if step in joins.dominators:
                visits[step] = min(arrivals[step], visits.get(joins.dominators[step], MAX_COUNTED_VISITS))
            for successor in cfg.graph.succ[step]:
                arrivals[successor] = _capped(arrivals[successor] + visits[step])
    return arrivals


class _RunBound:
    """The bounds of all steps.

    `bounds` holds, for each step, the visits caused by a branch that enters its component there.
    """

    def __init__(
        self, cfg: ControlFlowGraph, joins: Joins, max_visits: Mapping[str, int], counted_step: str | None
    ) -> None:
        self.cfg = cfg
        self.max_visits = max_visits
        self.counted_step = counted_step
        self.multi_merges = joins.multi_merges
        self.regions = joins.regions
        self.dominators = joins.dominators
        self.bounds: dict[str, int] = {}

    def solve(self) -> int:
        for component in self.cfg.components:
            step = next(iter(component))
            if self.cfg.is_cyclic(step):
                self.bounds.update(_CyclicComponentBound(self, component).solve())
            else:
                cases = (self.bound_of_case({step}, targets) for targets in self.cfg.targets[step])
                self.bounds[step] = _capped(self.count_visit(step) + max(cases, default=0))
        roots = {self.cfg.start} | {join for join, dominator in self.dominators.items() if dominator == ROOT}
        return _capped(sum(self.bounds[step] for step in roots))

    def count_visit(self, step: str) -> int:
        """Return how much one visit of a step counts."""
        return 1 if self.counted_step is None or step == self.counted_step else 0

    def bound_of_case(
        self, dominators: Collection[str], targets: Targets, inside: Collection[str] = ()
    ) -> int:
        """Return the visits outside of `inside` that a case causes, with the joins that a step in
        `dominators` dominates.
        """
        entered = {target for target in targets if target not in self.dominators}
        joined = {join for join in self.joins_ahead(targets) if self.dominators[join] in dominators}
        return sum(self.bounds[step] for step in entered | joined if step not in inside)

    def joins_ahead(self, targets: Targets) -> set[str]:
        """Return the joins at which branches to `targets` arrive, or that wait for them."""
        joins = {join for target in targets for join in self.regions.get(target, ())}
        return joins.union(targets) & self.dominators.keys()


class _CyclicComponentBound:
    """The visits from entering a cyclic component to leaving it, with the visits after it.

    `bound_staying` holds, for each step, the visits caused by a branch from there to the next bounded step.
    `bound_leaving` holds the visits if the branch leaves the component instead, with the visits after it.
    `bound_refused` holds, for each bounded step, the visits after a refused visit, which cannot lead back.
    """

    def __init__(self, run: _RunBound, component: frozenset[str]) -> None:
        self.run = run
        self.component = component
        self.bounded = component & run.max_visits.keys()
        acyclic_order = nx.topological_sort(run.cfg.graph.subgraph(component - self.bounded))
        self.order = {step: index for index, step in enumerate(acyclic_order)}
        self.joins = {join for join in component & run.dominators.keys() if self.counts_at_dominator(join)}
        self.is_left_repeatedly = self.may_be_left_repeatedly()
        self.bound_refused = {step: max(self.exit_bounds(step), default=0) for step in self.bounded}
        self.bound_staying = {
            step: run.count_visit(step) + bound * self.is_left_repeatedly
            for step, bound in self.bound_refused.items()
        }
        self.bound_leaving = {
            step: run.count_visit(step) + bound for step, bound in self.bound_refused.items()
        }

    def solve(self) -> dict[str, int]:
        for step in reversed(self.order):
            staying, leaving = self.bounds_after(step)
            counted = self.run.count_visit(step)
            self.bound_staying[step] = _capped(counted + staying)
            self.bound_leaving[step] = _capped(counted + leaving)
        rounds, exits = 0, 0
        for step in self.bounded:
            staying, leaving = self.bounds_after(step)
            visits_of_round = staying - self.bound_staying[step] + self.run.count_visit(step)
            rounds += self.run.max_visits[step] * visits_of_round
            exits = max(exits, leaving - staying)
        return {
            step: _capped(staying + rounds + max(exits, self.bound_leaving[step] - staying))
            for step, staying in self.bound_staying.items()
        }

    def bounds_after(self, step: str) -> tuple[int, int]:
        """Return what a visit that is not refused causes: if its branch stays in the component, and if it
        leaves.
        """
        cases = [self.bounds_of_case(step, targets) for targets in self.run.cfg.targets[step]]
        return max((staying for staying, _ in cases), default=0), max(
            (leaving for _, leaving in cases), default=0
        )

    def bounds_of_case(self, step: str, targets: Targets) -> tuple[int, int]:
        entered = {target for target in targets if target in self.component and target not in self.joins}
        joined = {
            join
            for join in self.run.joins_ahead(targets) & self.joins
            if step in (join, self.run.dominators[join])
        }
        staying = sum(self.bound_staying[name] for name in entered | joined)
        if self.is_left_repeatedly:
            return staying + self.bound_outside(step, targets), 0
        leaving = (staying - self.bound_staying[name] + self.bound_leaving[name] for name in entered | joined)
        return staying, max(leaving, default=self.bound_outside(step, targets))

    def exit_bounds(self, step: str) -> Iterator[int]:
        cases = self.run.cfg.targets[step]
        return (self.bound_outside(step, targets) for targets in cases if self.component.isdisjoint(targets))

    def bound_outside(self, step: str, targets: Targets) -> int:
        """Return the visits outside of the component that a case causes."""
        dominators = {step} if self.is_left_repeatedly else self.component
        return self.run.bound_of_case(dominators, targets, self.component)

    def counts_at_dominator(self, join: str) -> bool:
        """Return whether visits of a join can be counted at its dominator, and at its own cases that lead
        into its region.

        Otherwise they are counted at each arrival.
        """
        if join in self.bounded:
            return True
        dominator = self.run.dominators[join]
        is_before = dominator in self.bounded or self.order.get(dominator, len(self.order)) < self.order[join]
        return is_before and not any(
            join in self.run.joins_ahead(case) for case in self.run.cfg.targets[join]
        )

    def may_be_left_repeatedly(self) -> bool:
        """Return whether steps outside may be entered more than once before the component is left for good.

        This happens if a case keeps some of its branches in the component, or if several branches in the
        component lead to a multi-merge.
        """
        cases = [targets for step in self.component for targets in self.run.cfg.targets[step]]
        staying = [sum(target in self.component for target in targets) for targets in cases]
        if any(0 < number < len(targets) for number, targets in zip(staying, cases, strict=True)):
            return True
        return max(staying) > 1 and any(not self.run.multi_merges.isdisjoint(targets) for targets in cases)


def _capped(visits: int) -> int:
    return min(visits, MAX_COUNTED_VISITS)
