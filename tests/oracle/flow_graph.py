"""The graph of steps, and for which branches a join waits: sections 2 and 5 of the language reference.

A default join waits for a branch that can still reach it. Paths through the join itself do not count.
In `s → a, b; a → c → k; b → k; k → s` the step `c` does not wait for `b`: `b` reaches `c` only in the next
round, and `k` does not begin that round before `c` has ended. So a path is not counted if it leads through a
default join at which the two branches meet first: one that the waiting step reaches without entering a step
that every path to the other branch passes, since that begins a new round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from itertools import combinations
from typing import Any


def step_targets(case: Mapping[str, Any], steps: Collection[str], tasks: Collection[str]) -> list[str]:
    """Return the steps that a case names. A plain text names a step or a task (section 2)."""
    targets = []
    for entry in case.get("run") or ():
        if isinstance(entry, str) and entry in steps and entry not in tasks:
            targets.append(entry)
        elif isinstance(entry, Mapping) and "step" in entry:
            targets.append(entry["step"])
    return targets


class FlowGraph:
    """The steps of a playbook, with an edge for each target of a case."""

    def __init__(self, playbook: Mapping[str, Any]) -> None:
        tasks = playbook.get("tasks") or ()
        self.tasks: dict[str, Mapping[str, Any]] = (
            {name: {"run": run} for name, run in tasks.items()}
            if isinstance(tasks, Mapping)
            else {task["name"]: task for task in tasks}
        )
        self.steps: dict[str, Mapping[str, Any]] = {step["name"]: step for step in playbook["steps"]}
        self.start: str = playbook.get("start") or playbook["steps"][0]["name"]
        self.edges: dict[str, list[str]] = {
            name: [
                target
                for case in step.get("rule") or ()
                for target in step_targets(case, self.steps, self.tasks)
            ]
            for name, step in self.steps.items()
        }
        self._dominators = self._find_dominators()
        self.join = cache(self._join)
        self.can_reach = cache(self._can_reach)
        self.waits_for = cache(self._waits_for)
        self.parting_step = cache(self._parting_step)

    def _join(self, step: str) -> str:
        """Return `all`, `any` or `each`. A step where at most one branch can arrive is `each`: no join."""
        is_join = self._can_meet_at(step) and not self._is_reached_by_one_branch(step)
        return str(self.steps[step].get("join", "all")) if is_join else "each"

    def _can_meet_at(self, step: str) -> bool:
        """Return whether two branches of a fork can arrive, and do not become one at a step before.

        They do at a default join that both must pass, and at a discriminator outside cycles.
        """
        if self.steps[step].get("join", "all") != "all":
            return True
        merging = [
            name
            for name, other in self.steps.items()
            if name != step and (mode := other.get("join", "all")) != "each"
            if mode == "all" or name not in self.reachable(name)
        ]
        for case in (case for other in self.steps.values() for case in other.get("rule") or ()):
            targets = step_targets(case, self.steps, self.tasks)
            for first, second in combinations(targets, 2):
                passes = [self._passes(first, step, closed=()), self._passes(second, step, closed=())]
                is_narrow = any(
                    not self._passes(first, step, closed=(name,))
                    and not self._passes(second, step, closed=(name,))
                    for name in merging
                )
                if all(passes) and not is_narrow:
                    return True
        return False

    def _passes(self, start: str, step: str, closed: Collection[str]) -> bool:
        """Return whether a path leads from a step, which it enters, to another one."""
        return start not in closed and (start == step or step in self.reachable(start, closed=closed))

    def _is_reached_by_one_branch(self, step: str) -> bool:
        """Return whether one step leads to a step, in visits that are rounds after each other."""
        sources = self._sources(step)
        if step == self.start or len(sources) != 1 or self.steps[step].get("join", "all") != "all":
            return False
        seen = {step}
        source = sources.pop()
        while source not in seen:
            seen.add(source)
            if self.steps[source].get("join", "all") != "all":
                return bool(self.steps[source]["join"] == "any")
            sources = self._sources(source)
            if source == self.start or len(sources) != 1:
                return True
            source = sources.pop()
        return False

    def _sources(self, step: str) -> set[str]:
        """Return the steps that lead to a step and that a run can visit."""
        reachable = {self.start, *self.reachable(self.start)}
        return {source for source in reachable if step in self.edges[source]}

    def reachable(self, step: str, closed: Collection[str] = ()) -> set[str]:
        """Return the steps at the ends of paths from a step that enter no closed step."""
        seen: set[str] = set()
        todo = [step]
        while todo:
            for target in self.edges[todo.pop()]:
                if target not in seen and target not in closed:
                    seen.add(target)
                    todo.append(target)
        return seen

    def _can_reach(self, step: str, target: str) -> bool:
        return target in self.reachable(step)

    def _find_dominators(self) -> dict[str, frozenset[str]]:
        """Return for each step those that every path from the start to it passes, itself included."""
        everything = {self.start, *self.reachable(self.start)}
        dominators = {step: frozenset(everything) for step in self.steps}
        for removed in everything - {self.start}:
            kept = {self.start, *self.reachable(self.start, closed={removed})}
            for step in kept:
                dominators[step] -= {removed}
        dominators[self.start] = frozenset({self.start})
        return dominators

    def _waits_for(self, join: str, position: str, performs: bool) -> bool:
        """Return whether a default join, with an arrival, waits for a branch at a position.

        `performs`: the branch performs that step. Otherwise it stands before it, and has to pass it first.
        """
        rounds = self._dominators[join] & self._dominators[position]
        if not performs and position == join:
            return True
        is_before_round = not performs and position in rounds and self.join(position) == "all"
        if is_before_round and self.can_reach(join, position):
            return False  # the branch is before a new round, which waits for this join
        # A discriminator that the arrival has passed absorbs the other branches of its wave.
        closed_joins = {step for step in self._dominators[join] if self.join(step) == "any"}
        if join not in rounds:
            following = self.reachable(join, closed=self._dominators[position] - {position})
            closed_joins |= {step for step in following if self.join(step) == "all"}
        if not performs and position in closed_joins:
            return False
        return join in self.reachable(position, closed=closed_joins - {join})

    def _parting_step(self, join: str) -> str | None:
        """Return where the branches of a `join: any` parted; None if that is only the beginning of the run.

        It is the last step that every path to the join passes, and after which a fork lets two branches
        arrive, or one of them begin the next round.
        """
        for step in sorted(self._dominators[join] - {join}, key=lambda step: -len(self._dominators[step])):
            region = {step, *self.reachable(step, closed={step})}
            for fork in region:
                for case in self.steps[fork].get("rule") or ():
                    targets = step_targets(case, self.steps, self.tasks)
                    arriving = {t for t in targets if t != step and self._passes(t, join, closed=(step,))}
                    again = {t for t in targets if self._passes(t, step, closed=())}
                    if arriving and len(arriving | again) > 1:
                        return step
        return None

    def wave(self, join: str, visits: Collection[tuple[str, int]]) -> tuple[str, int, int]:
        """Return the wave of a branch that arrives at a `join: any`, given the visits that it comes from.

        A wave is the branches from one visit of the step where they parted. A branch that comes from a visit
        of the join itself, on a cycle, belongs to a new round.
        """
        parting = self.parting_step(join)
        last = [
            max((number for step, number in visits if step == name), default=0) for name in (parting, join)
        ]
        return join, last[0], last[1]
