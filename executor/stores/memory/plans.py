"""Plans in the store in memory.

The author of a store decides how it splits a plan. An invocation reads one step at a time. So a store on a
disk or behind a network stores header, steps and tasks separately. It may cache them: plans never change.
"""

from __future__ import annotations

from noetl.executor.stores.memory.state import MemoryState
from noetl.planner.plan import Header, Plan, Step, Task


class MemoryPlans:
    """The plans of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def save(self, plan: Plan) -> None:
        with self._state.lock:
            self._state.plans.setdefault(plan.hash, plan)
            self._state.use_plan(plan.hash)

    def header(self, plan_hash: str) -> Header:
        return self._state.plan(plan_hash).header

    def step(self, plan_hash: str, name: str) -> Step:
        return self._state.plan(plan_hash).steps[name]

    def task(self, plan_hash: str, name: str) -> Task:
        return self._state.plan(plan_hash).tasks[name]

    def step_names(self, plan_hash: str) -> tuple[str, ...]:
        return tuple(self._state.plan(plan_hash).steps)

    def get(self, plan_hash: str) -> Plan:
        return self._state.plan(plan_hash)
