"""Loops of a plan, and the steps that have one, with which its runs are shown."""

from __future__ import annotations

import re
from collections.abc import Callable

from noetl.executor.stores.interface import Store
from noetl.planner.plan import Loop, Step, Task, TaskCall

_INDEX = re.compile(r"\.(\d+)")
_WORK = re.compile(r"(?:run|rule\.(\d+))(?:~\d+)?")


def find_loop_steps(store: Store, plan_hash: str) -> frozenset[str]:
    """Return the names of the steps of a plan that have a loop."""
    plan = store.plans.get(plan_hash)
    return frozenset(name for name, step in plan.steps.items() if has_loop(step, plan.tasks.__getitem__))


def has_loop(step: Step, task_of: Callable[[str], Task]) -> bool:
    """Return whether a step has a loop, in its own work, in that of its cases, or in tasks that it calls."""
    if step.loop is not None:
        return True
    seen: set[str] = set()
    work = [*step.run, *(item for case in step.cases for item in case.work)]
    while work:
        item = work.pop()
        if item.loop is not None:
            return True
        if isinstance(item, TaskCall) and item.task not in seen:
            seen.add(item.task)
            work += task_of(item.task).run
    return False


def find_loop(step: Step, task_of: Callable[[str], Task], position: str) -> Loop | None:
    """Return the loop of a step at a position, such as `run`, `run.0` or `rule.1.0/notify.2`.

    It is None if the plan has no loop there.
    """
    match = _WORK.match(position)
    if match is None:
        return None
    work = step.run if match[1] is None else step.cases[int(match[1])].work
    rest = position[match.end() :]
    if not rest:
        return step.loop
    while index := _INDEX.match(rest):
        item, rest = work[int(index[1])], rest[index.end() :]
        if not rest:
            return item.loop
        if not isinstance(item, TaskCall) or not rest.startswith(f"/{item.task}."):
            return None
        work, rest = task_of(item.task).run, rest[len(item.task) + 1 :]
    return None
