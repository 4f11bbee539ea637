"""The marks of a run in a picture: states of steps, edges that were taken, and edges that may be."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.planner.draw.chart import ChartEdge

TAKEN = "taken"
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


@dataclass(frozen=True, slots=True)
class DrawnLoop:
    """The items of a loop: how many have ended, how many of those have failed, and how many there are."""

    done: int
    failed: int
    total: int


@dataclass(frozen=True)
class DrawnRun:
    """A run, as far as a picture shows it.

    `states` are the states of the steps. `visits` counts the visits of each step. `taken` counts how often
    each case of each step was taken; case -1 is an end because no case applied. `status` and `id` are those
    of the run. `last_visits` has the place of the latest visit of each step among all visits, in the order of
    their creation. `last_taken` has the place of the latest visit that took a case. `loops` are the loops of
    the latest visits of steps, as one for each step. `left_out` are the steps whose latest visits have
    succeeded without their work.
    """

    states: Mapping[str, str]
    taken: Mapping[tuple[str, int], int] = field(default_factory=dict)
    visits: Mapping[str, int] = field(default_factory=dict)
    status: str = ""
    id: str = ""
    last_visits: Mapping[str, int] = field(default_factory=dict)
    last_taken: Mapping[tuple[str, int], int] = field(default_factory=dict)
    loops: Mapping[str, DrawnLoop] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JoinWait:
    """A join that waits: the steps from which a branch has arrived, and those from which one may arrive."""

    arrived: tuple[str, ...]
    missing: tuple[str, ...]


_OPEN = ("", "queued", "running", "waiting", "paused")
"""The statuses of a run that has not ended, and that of a run whose status is not known."""


@dataclass(frozen=True)
class RunMarks:
    """The marks of a run. `states` has `may` and `never` for the steps that have not started.

    `joins` are the joins at which a branch waits for others.
    """

    states: Mapping[str, str]
    run: DrawnRun
    joins: Mapping[str, JoinWait] = field(default_factory=dict)

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
        if len(steps) == 1 and (wait := self.joins.get(steps[0])) is not None:
            arrived = len(wait.arrived)
            return f"waits, {arrived} of {arrived + len(wait.missing)} here"
        if (loop := self.loop_of(steps)) is not None:
            return f"{f'{loop.failed:,} failed, ' if loop.failed else ''}{loop.done:,} of {loop.total:,}"
        if len(steps) == 1:
            state = self.states.get(steps[0], WILL_NOT_RUN)
            words = "left out" if steps[0] in self.run.left_out else WORDS.get(state, state)
            visits = self.run.visits.get(steps[0], 0)
            return f"{words}, {visits} visits" if visits > 1 else words
        state = self.state_of(steps)
        count = sum(self.states.get(name, WILL_NOT_RUN) == state for name in steps)
        return f"{count:,} {WORDS.get(state, state)}"

    def loop_of(self, steps: Sequence[str]) -> DrawnLoop | None:
        """Return the loop of a step that has started one. Several steps have none."""
        return self.run.loops.get(steps[0]) if len(steps) == 1 else None

    def count_of(self, edge: ChartEdge) -> int:
        """Return how often an edge was taken."""
        if not edge.routes:
            return 1
        return sum(self.run.taken.get((step, case), 0) for step, case, _ in edge.routes)

    def mark_of(self, edge: ChartEdge) -> str:
        """Return `taken` for an edge that was taken, else `may` or `never`: whether it may still be."""
        if self.count_of(edge):
            return TAKEN
        may_follow = any(
            self.states.get(step) in _ALIVE or self.states.get(step) in (MAY_RUN, "pending")
            for step, _, _ in edge.routes
        )
        return MAY_RUN if may_follow else WILL_NOT_RUN


def mark_run(plan: Plan, run: DrawnRun) -> RunMarks:
    """Return the marks of a run. Steps that have not started may run if a living branch can reach them."""
    is_over = run.status not in _OPEN
    entered = {} if is_over else _entered_steps(plan, run)
    # Between two visits, a branch has no visit that is alive. Then any step may follow.
    alive = () if is_over else _living_steps(plan, run, entered) or (plan.header.start,)
    reachable = _reach(plan, alive)
    if not is_over and plan.header.finally_step is not None:
        reachable.add(plan.header.finally_step)
    shown = {}
    for name in plan.steps:
        state = run.states.get(name, "pending")
        if state == "pending" and (is_over or not run.visits.get(name)):
            state = MAY_RUN if name in reachable else WILL_NOT_RUN
        shown[name] = state
    joins = {name: sources for name, sources in entered.items() if plan.steps[name].join is not None}
    return RunMarks(shown, run, _find_missing(plan, joins, alive))


def _entered_steps(plan: Plan, run: DrawnRun) -> dict[str, list[str]]:
    """Return the steps that branches have entered without a visit, with the steps from which they came.

    These are joins that wait, and in sequential mode the branches whose turn is to come. A branch has entered
    a step if it took a case to the step after the latest visit of the step. A join has no branch of an
    earlier round, because it is visited only when no branch is left between its fork and it.
    """
    entered: dict[str, list[str]] = {}
    for (name, number), place in run.last_taken.items():
        cases = plan.steps[name].cases if name in plan.steps else ()
        for target in cases[number].targets if 0 <= number < len(cases) else ():
            join = plan.steps[target].join
            # The branches that are not the first at a join of mode `any` have ended there.
            if place > run.last_visits.get(target, -1) and (join is None or join.mode == "all"):
                entered.setdefault(target, []).append(name)
    return entered


def _living_steps(plan: Plan, run: DrawnRun, entered: Collection[str]) -> tuple[str, ...]:
    states, visits = run.states, run.visits
    return tuple(
        name
        for name in plan.steps
        if name in entered
        or states.get(name) in _ALIVE
        or (states.get(name) == "pending" and visits.get(name))
    )


def _reach(plan: Plan, sources: Sequence[str], barrier: str | None = None) -> set[str]:
    """Return the sources, and the steps that edges lead to from them by a path not through `barrier`."""
    found = set(sources)
    stack = [name for name in sources if name != barrier]
    while stack:
        for case in plan.steps[stack.pop()].cases:
            fresh = [target for target in case.targets if target not in found]
            found.update(fresh)
            stack += [name for name in fresh if name != barrier]
    return found


def _find_missing(
    plan: Plan, joins: Mapping[str, Sequence[str]], alive: Sequence[str]
) -> dict[str, JoinWait]:
    """Return the joins that wait, of which `joins` has the steps from which a branch has arrived."""
    sources: dict[str, list[str]] = {name: [] for name in joins}
    for name, step in plan.steps.items() if joins else ():
        for target in {target for case in step.cases for target in case.targets} & joins.keys():
            sources[target].append(name)
    waits = {}
    for join, arrived in joins.items():
        reachable = _reach(plan, alive, barrier=join) - {join, *arrived}
        missing = tuple(name for name in sources[join] if name in reachable)
        waits[join] = JoinWait(tuple(dict.fromkeys(arrived)), missing)
    return waits
