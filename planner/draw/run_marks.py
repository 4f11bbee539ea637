"""The marks of a run in a picture: states of steps, edges that were taken, and edges that may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.planner.draw.chart import ChartEdge

MAY_RUN = "may"
WILL_NOT_RUN = "never"

WORDS = {
    "pending": "queued",
    "running": "running",
    "waiting": "waiting",
    "retrying": "retrying",
    "succeeded": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    MAY_RUN: "may run",
    WILL_NOT_RUN: "will not run",
}

_BY_URGENCY = (
    "failed", "waiting", "retrying", "running", "cancelled", MAY_RUN, "pending", "succeeded", WILL_NOT_RUN
)  # fmt: skip
_ALIVE = frozenset({"running", "waiting", "retrying"})


@dataclass(frozen=True)
class DrawnRun:
    """A run, as far as a picture shows it.

    `states` are the states of the steps. `visits` counts the visits of each step. `taken` counts how often
    each case of each step was taken; case -1 is an end because no case applied. `status` and `id` are those
    of the run.
    """

    states: Mapping[str, str]
    taken: Mapping[tuple[str, int], int] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)
    status: str = ""
    id: str = ""


_OPEN = ("", "queued", "running", "waiting")
"""The statuses of a run that has not ended, and that of a run whose status is not known."""


@dataclass(frozen=True)
class RunMarks:
    """The marks of a run. `states` has `may` and `never` for the steps that have not started."""

    states: Mapping[str, str]
    run: DrawnRun

    @property
    def status(self) -> str:
        """The status of the run."""
        return self.run.status

    def state_of(self, steps: Sequence[str]) -> str:
        """Return the state of a step, or the most urgent one of several."""
        states = {self.states.get(name, WILL_NOT_RUN) for name in steps}
        return next((state for state in _BY_URGENCY if state in states), WILL_NOT_RUN)

    def words_of(self, steps: Sequence[str]) -> str:
        """Return the state of a step in words, or how many of several steps have which urgent state."""
        if len(steps) == 1:
            state = self.states.get(steps[0], WILL_NOT_RUN)
            visits = self.run.visits.get(steps[0], 0)
            return f"{WORDS.get(state, state)}, {visits} visits" if visits > 1 else WORDS.get(state, state)
        state = self.state_of(steps)
        count = sum(self.states.get(name, WILL_NOT_RUN) == state for name in steps)
        return f"{count:,} {WORDS.get(state, state)}"

    def count_of(self, edge: ChartEdge) -> int:
        """Return how often an edge was taken."""
        if not edge.routes:
            return 1
        return sum(self.run.taken.get((step, case), 0) for step, case, _ in edge.routes)

    def may_follow(self, edge: ChartEdge) -> bool:
        """Return whether the edge may still be taken."""
        return any(
            self.states.get(step) in _ALIVE or self.states.get(step) in (MAY_RUN, "pending")
            for step, _, _ in edge.routes
        )


def mark_run(plan: Plan, run: DrawnRun) -> RunMarks:
    """Return the marks of a run. Steps that have not started may run if a living branch can reach them."""
    is_over = run.status not in _OPEN
    reachable = set() if is_over else _reachable(plan, run)
    shown = {}
    for name in plan.steps:
        state = run.states.get(name, "pending")
        if state == "pending" and (is_over or not run.visits.get(name)):
            state = MAY_RUN if name in reachable else WILL_NOT_RUN
        shown[name] = state
    return RunMarks(shown, run)


def _reachable(plan: Plan, run: DrawnRun) -> set[str]:
    """Return the steps that are alive, and those that the plan's edges lead to from them."""
    states, visits = run.states, run.visits
    alive = [
        name
        for name in plan.steps
        if states.get(name) in _ALIVE or (states.get(name) == "pending" and visits.get(name))
    ]
    # Between two visits, a branch has no visit that is alive. Then any step may follow.
    found = set(alive or [plan.header.start])
    stack = list(found)
    while stack:
        for case in plan.steps[stack.pop()].cases:
            fresh = [target for target in case.targets if target not in found]
            found.update(fresh)
            stack += fresh
    if plan.header.finally_step is not None:
        found.add(plan.header.finally_step)
    return found
