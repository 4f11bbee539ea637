"""How many step visits a run has at most.

A branch that enters a step causes that visit and all that follows from it, by its costliest case. A compiled join is
visited once for all the branches that arrive, so it counts as caused where its region begins: at its dominator.

On a cycle, the number of visits that a step with `max_visits` lets through is known. Each of them causes what lies
between it and the next such step: without these steps, no way leads back. All of them belong to one stay on the cycle,
which ends once, so that what lies behind the cycle is counted once, by the costliest way out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import networkx as nx
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.joins import ROOT, Joins
from noetl.planner.plan import MOST_COUNTED

Targets = Sequence[str]


def most_visits(flow: Flow, joins: Joins, max_visits: Mapping[str, int]) -> int:
    """A number of step visits that no run exceeds, cut at `MOST_COUNTED`. Every cycle has a step in `max_visits`.

    A visit refused for `max_visits` counts: the history has it, and a case may handle its failure. Retries, rounds of
    `repeat` and items of loops do not. As if every case could be taken, whatever its guard says, the number is exact for
    chains, choices, forks that are joined, and cycles with one bounded step that branches enter one at a time.
    """
    return _Count(flow, joins, max_visits).of_run()


class _Count:
    def __init__(self, flow: Flow, joins: Joins, max_visits: Mapping[str, int]) -> None:
        self.flow = flow
        self.max_visits = max_visits
        self.multi = joins.multi
        self.regions = joins.regions
        self.dominators = joins.dominators
        self.caused: dict[str, int] = {}
        """For each step, the visits caused by a branch that enters it from outside its component."""

    def of_run(self) -> int:
        for steps in self.flow.components:
            step = next(iter(steps))
            if self.flow.is_cyclic(step):
                self.caused.update(_Stay(self, steps).caused())
            else:
                behind = (self.behind({step}, targets) for targets in self.flow.targets[step])
                self.caused[step] = _capped(1 + max(behind, default=0))
        entered = {self.flow.start} | {join for join, over in self.dominators.items() if over == ROOT}
        return _capped(sum(self.caused[step] for step in entered))

    def behind(self, closing: Collection[str], targets: Targets, inside: Collection[str] = ()) -> int:
        """The visits outside of `inside` caused by a branch to each of the targets, with the joins that `closing` dominate."""
        entered = {target for target in targets if target not in self.dominators}
        closed = {join for join in self.joins_ahead(targets) if self.dominators[join] in closing}
        return sum(self.caused[step] for step in entered | closed if step not in inside)

    def joins_ahead(self, targets: Targets) -> set[str]:
        """The joins that branches to the targets arrive at or have to be waited for by."""
        ahead = {join for target in targets for join in self.regions.get(target, ())}
        return ahead.union(targets) & self.dominators.keys()


class _Stay:
    """The visits from entering a cyclic component to leaving it, and what lies behind."""

    def __init__(self, count: _Count, steps: frozenset[str]) -> None:
        self.count = count
        self.steps = steps
        self.bounded = steps & count.max_visits.keys()
        between = nx.topological_sort(count.flow.graph.subgraph(steps - self.bounded))
        self.order = {step: index for index, step in enumerate(between)}
        self.joins = {
            join for join in steps & count.dominators.keys() if self.is_caused_where_it_begins(join)
        }
        self.leaves_often = self.may_be_left_often()
        self.refused = {step: max(self.ways_out(step), default=0) for step in self.bounded}
        """For each bounded step, what lies behind a visit that is refused, and so cannot lead back."""
        self.staying = {step: 1 + behind * self.leaves_often for step, behind in self.refused.items()}
        """For each step, the visits caused by a branch that enters it until it has entered a bounded one."""
        self.leaving = {step: 1 + behind for step, behind in self.refused.items()}
        """The same, where the stay ends meanwhile, with what lies behind."""

    def caused(self) -> dict[str, int]:
        for step in reversed(self.order):
            staying, leaving = self.onwards(step)
            self.staying[step], self.leaving[step] = _capped(1 + staying), _capped(1 + leaving)
        around, end = 0, 0
        for step in self.bounded:
            staying, leaving = self.onwards(step)
            around += self.count.max_visits[step] * (staying - self.staying[step] + 1)
            end = max(end, leaving - staying)
        return {
            step: _capped(staying + around + max(end, self.leaving[step] - staying))
            for step, staying in self.staying.items()
        }

    def onwards(self, step: str) -> tuple[int, int]:
        """What a visit that is not refused causes behind it, where the stay goes on and where it ends."""
        cases = [self.by_case(step, targets) for targets in self.count.flow.targets[step]]
        return max((staying for staying, _ in cases), default=0), max(
            (leaving for _, leaving in cases), default=0
        )

    def by_case(self, step: str, targets: Targets) -> tuple[int, int]:
        entered = {target for target in targets if target in self.steps and target not in self.joins}
        closed = {
            join
            for join in self.count.joins_ahead(targets) & self.joins
            if step in (join, self.count.dominators[join])
        }
        staying = sum(self.staying[name] for name in entered | closed)
        if self.leaves_often:
            return staying + self.behind(step, targets), 0
        ends = (staying - self.staying[name] + self.leaving[name] for name in entered | closed)
        return staying, max(ends, default=self.behind(step, targets))

    def ways_out(self, step: str) -> Iterator[int]:
        cases = self.count.flow.targets[step]
        return (self.behind(step, targets) for targets in cases if self.steps.isdisjoint(targets))

    def behind(self, step: str, targets: Targets) -> int:
        """What a case causes outside."""
        return self.count.behind({step} if self.leaves_often else self.steps, targets, self.steps)

    def is_caused_where_it_begins(self, join: str) -> bool:
        """Whether a visit of the join can be counted with that of its dominator, and with its own that leads back into its
        region; else it is counted at each arrival.
        """
        if join in self.bounded:
            return True
        dominator = self.count.dominators[join]
        before = dominator in self.bounded or self.order.get(dominator, len(self.order)) < self.order[join]
        return before and not any(
            join in self.count.joins_ahead(case) for case in self.count.flow.targets[join]
        )

    def may_be_left_often(self) -> bool:
        """Whether steps outside may be entered more than once in one stay: from a case that keeps some of its branches on the
        cycle, or as steps that are visited for each of the branches that are on it at once.
        """
        cases = [targets for step in self.steps for targets in self.count.flow.targets[step]]
        staying = [sum(target in self.steps for target in targets) for targets in cases]
        if any(0 < number < len(targets) for number, targets in zip(staying, cases, strict=True)):
            return True
        return max(staying) > 1 and any(not self.count.multi.isdisjoint(targets) for targets in cases)


def _capped(visits: int) -> int:
    return min(visits, MOST_COUNTED)
