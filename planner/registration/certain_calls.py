"""Calls that every run makes which comes to its end.

Problem: a playbook that calls itself on every path never ends. Whether it does depends on its cases.

Algorithm: reachability in an AND-OR graph, solved in linear time (Dowling and Gallier 1984). A step can be
left without a call if one of its cases can. A case can if all its targets can, because each of them becomes a
branch. The least solution has the steps from which a run can end without a call.

Cost: linear in the number of cases and targets.

Limits: guards are not evaluated: each case may be taken, and without `default` also none. A call with a
condition, a loop or a cache does not count, nor one that is forgiven or that a full limit leaves out. A step
that may fail without an end of the run can be left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import networkx as nx

from noetl.planner.plan import Action, Case, Plan, Step, Work

if TYPE_CHECKING:
    TaskGraph = nx.DiGraph[str]

IsWanted = Callable[[Action], bool]
"""Returns whether an action is one of the calls that are looked for."""


def always_calls(plan: Plan, is_wanted: IsWanted) -> bool:
    """Return whether no run of a plan can succeed without one of the wanted calls."""
    return _CertainCalls(plan, is_wanted).are_always_made()


def is_unconditional(work: Work) -> bool:
    """Return whether work is performed whenever it is reached, and its failure counts."""
    is_cached = isinstance(work, Action) and work.cache is not None
    return work.condition is None and work.loop is None and not work.forgiven and not is_cached


class _CertainCalls:
    """The analysis of one plan for one kind of calls."""

    def __init__(self, plan: Plan, is_wanted: IsWanted) -> None:
        self.plan = plan
        self.is_wanted = is_wanted
        self.calling_tasks: set[str] = set()
        for name in self._tasks_after_those_they_call():
            if self.calls(plan.tasks[name].run):
                self.calling_tasks.add(name)
        self.calling_steps = {
            step.name for step in plan.steps.values() if self._always_works(step) and self.calls(step.run)
        }

    def are_always_made(self) -> bool:
        """Return whether no run can succeed without a wanted call."""
        header = self.plan.header
        return header.finally_step in self.calling_steps or header.start not in self._find_avoiding_steps()

    def calls(self, run: Iterable[Work]) -> bool:
        """Return whether work makes a wanted call whenever it is performed."""
        return any(
            is_unconditional(work)
            and (self.is_wanted(work) if isinstance(work, Action) else work.task in self.calling_tasks)
            for work in run
        )

    def _always_works(self, step: Step) -> bool:
        """Return whether each visit of a step that succeeds has performed its work once."""
        may_skip = any(limit.when_full == "skip" for limit in (*step.concurrency, *step.rate))
        return step.loop is None and step.cache is None and not may_skip

    def _tasks_after_those_they_call(self) -> Iterable[str]:
        calls: TaskGraph = nx.DiGraph()
        calls.add_nodes_from(self.plan.tasks)
        for name, task in self.plan.tasks.items():
            calls.add_edges_from((work.task, name) for work in task.run if not isinstance(work, Action))
        return nx.topological_sort(calls)

    def _find_avoiding_steps(self) -> set[str]:
        """Return the steps from which a run can end without a wanted call."""
        steps = self.plan.steps.values()
        found = {step.name for step in steps if self._may_end_at(step)}
        waiting: dict[tuple[str, int], int] = {}
        cases_to: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for step in steps:
            for number, case in enumerate(step.cases):
                if case.targets and self._may_take_without_call(step, case):
                    waiting[step.name, number] = len(case.targets)
                    for target in case.targets:
                        cases_to[target].append((step.name, number))
        new = list(found)
        while new:
            for place in cases_to[new.pop()]:
                waiting[place] -= 1
                if waiting[place] == 0 and place[0] not in found:
                    found.add(place[0])
                    new.append(place[0])
        return found

    def _may_end_at(self, step: Step) -> bool:
        """Return whether a branch can end at a step without a wanted call."""
        if step.on_error == "continue":
            return True
        if any(
            not case.targets and self._may_take_without_call(step, case) and not self.calls(case.work)
            for case in step.cases
        ):
            return True
        has_default = any(case.guard is None for case in step.cases)
        return not has_default and step.name not in self.calling_steps

    def _may_take_without_call(self, step: Step, case: Case) -> bool:
        """Return whether a case may be taken although the work of its step has made no wanted call."""
        return case.error_aware or step.name not in self.calling_steps
