"""Sequential mode: the facts that earlier branches leave to later ones (`mode: sequential`).

Problem: In sequential mode one branch runs at a time, in the order of the targets. A later branch reads what
earlier ones have assigned. So when a target of a fork is entered, the facts of the targets before it hold
too, as far as those branches have ended. A branch that waits at a join has not ended. The join continues as
soon as no live branch can still reach it, and it runs before all steps that are ready.

Algorithm: Two backward data-flow problems over the control-flow graph (Kam and Ullman 1977). `may_ahead` is
the union of all that a branch may add from a step on. `must_when_done` is the intersection of what it has
added when it ends. Each waiting join has a *mark*, a bit above all facts: it says that a branch of the
step may still wait there. `fire_joins` replaces the marks of joins that cannot wait any more by the facts of
these joins.

Cost: A few evaluations per step and join, counted by `FlowProblem.spend`.

Limits: If two joins could continue at the same time, their order is not promised. So neither has the facts of
the other in its must set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from noetl.planner.dataflow.transfer import ALL_FACTS, FactSet, StepExit
from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import ROOT, Joins


class FlowProblem(Protocol):
    """The part of the solver that sequential mode needs: the graph, its exits, and a backward iteration."""

    cfg: ControlFlowGraph
    joins: Joins
    order: dict[str, int]
    exits: dict[str, tuple[StepExit, ...]]
    regions: dict[str, list[str]]

    def is_waiting_join(self, step: str) -> bool:
        """Return whether branches wait for each other at a step."""

    def spend(self, evaluations: int = 1) -> None:
        """Count evaluations against the limit of the analysis."""

    def solve_backward(self, values: dict[str, FactSet], evaluate: Callable[[str], FactSet]) -> None:
        """Solve a backward problem in place."""


class SequentialMode:
    """The facts that branches of one playbook leave to later branches.

    By step, `may_ahead` holds the facts that a branch which enters it may add. `must_when_done` holds those
    that the branch has added when it ends, with the marks of joins at which one of its branches may wait.
    `joins_ahead` holds the marks of the joins that a branch at the step can still reach. `joins_held` holds
    the marks of the joins that may have to wait for a branch after the one at the step.
    """

    def __init__(self, solver: FlowProblem) -> None:
        self.solver = solver
        self.fact_count = max(
            (
                max(exit_.gen.bit_length(), exit_.may_gen.bit_length())
                for exits in solver.exits.values()
                for exit_ in exits
            ),
            default=0,
        )
        self.joins = [join for join in solver.joins.dominators if solver.is_waiting_join(join)]
        self.marks = {join: 1 << self.fact_count + index for index, join in enumerate(self.joins)}
        self.joins_ahead = dict.fromkeys(solver.order, 0)
        self.joins_held = dict.fromkeys(solver.order, 0)
        for join in self.joins:
            for step in (*solver.regions[join], join):
                self.joins_ahead[step] |= self.marks[join]
        for join in self.joins:
            self.find_steps_that_precede(join)
        self.may_ahead = dict.fromkeys(solver.order, 0)
        self.must_when_done = dict.fromkeys(solver.order, ALL_FACTS)
        solver.solve_backward(self.may_ahead, self._evaluate_may_ahead)
        solver.solve_backward(self.must_when_done, self._evaluate_must_when_done)
        self._facts_before_targets: dict[int, dict[str, tuple[FactSet, FactSet]]] = {}

    def find_steps_that_precede(self, join: str) -> None:
        """Mark the steps in the region of a join where a later branch may still have to reach the join."""
        solver, mark, dominator = self.solver, self.marks[join], self.solver.joins.dominators[join]
        stack = []
        for step in (*solver.regions[join], *(() if dominator == ROOT else (dominator,))):
            for exit_ in solver.exits[step]:
                solver.spend(len(exit_.targets))
                is_held = False
                for target in reversed(exit_.targets):
                    leads_to_join = self.joins_ahead[target] & mark
                    if is_held and leads_to_join:
                        stack.append(target)
                    is_held = is_held or bool(leads_to_join and not solver.is_waiting_join(target))
        while stack:
            step = stack.pop()
            if step != join and not self.joins_held[step] & mark:
                solver.spend()
                self.joins_held[step] |= mark
                successors = solver.cfg.graph.successors(step)
                stack += [target for target in successors if self.joins_ahead[target] & mark]

    def _evaluate_may_ahead(self, step: str) -> FactSet:
        facts = 0
        for exit_ in self.solver.exits[step]:
            facts |= exit_.may_gen
            for target in exit_.targets:
                facts |= self.may_ahead[target]
        return facts

    def _evaluate_must_when_done(self, step: str) -> FactSet:
        facts = ALL_FACTS
        for exit_ in self.solver.exits[step]:
            self.solver.spend(len(exit_.targets))
            after = exit_.gen
            for target in exit_.targets:
                after |= self.facts_when_ended(target)
            facts &= self.fire_joins(after, self.joins_held[step])
        return facts

    def facts_when_ended(self, target: str) -> FactSet:
        """Return the facts and marks of a branch that entered a step and has ended, or waits at it."""
        return self.marks[target] if target in self.marks else self.must_when_done[target]

    def fire_joins(self, facts: FactSet, held: FactSet) -> FactSet:
        """Replace the marks of joins that are not held by the facts of these joins."""
        visited = held
        while facts != ALL_FACTS and (marks := (facts & ~visited) >> self.fact_count):
            visited |= marks << self.fact_count
            for index in bit_indexes(marks):
                join = self.joins[index]
                if self.must_when_done[join] == ALL_FACTS:
                    return ALL_FACTS
                facts = facts & ~self.marks[join] | self.must_when_done[join]
        return facts

    def without_marks(self, facts: FactSet) -> FactSet:
        """Return the facts without the marks of joins."""
        return facts if facts == ALL_FACTS else facts & (1 << self.fact_count) - 1

    def facts_before_targets(self, fork: str, exit_: StepExit) -> Mapping[str, tuple[FactSet, FactSet]]:
        """Return, for each target of a fork, what others may and must have added when it is entered."""
        facts = self._facts_before_targets.get(id(exit_))
        if facts is None:
            facts = dict(self._find_facts_before(fork, exit_.targets))
            self._facts_before_targets[id(exit_)] = facts
        return facts

    def _find_facts_before(
        self, fork: str, targets: Sequence[str]
    ) -> list[tuple[str, tuple[FactSet, FactSet]]]:
        solver = self.solver
        solver.spend(len(targets))
        # A branch arrives at a waiting join at once, whatever the position of the join among the targets.
        may = must = 0
        for target in targets:
            if solver.is_waiting_join(target):
                may |= self.may_ahead[target]
                must |= self.marks[target]
        held = [self.joins_held[fork]]
        for target in reversed(targets):
            held.append(held[-1] | (0 if solver.is_waiting_join(target) else self.joins_ahead[target]))
        facts = []
        for target, held_later in zip(targets, reversed(held[1:]), strict=True):
            fired = self.fire_joins(must, held_later | self.joins_ahead[target])
            facts.append((target, (may, self.without_marks(fired))))
            may |= self.may_ahead[target]
            must |= self.facts_when_ended(target)
        return facts

    def facts_left_for_join(self, fork: str, exit_: StepExit, join: str) -> Mapping[int, FactSet]:
        """Return what branches that miss a join leave to a branch that arrives later, by target index."""
        facts = {}
        mark = self.marks[join]
        held, precedes_arrival = self.joins_held[fork], False
        for index in range(len(exit_.targets) - 1, -1, -1):
            target = exit_.targets[index]
            if self.joins_ahead[target] & mark:
                precedes_arrival = precedes_arrival or not self.solver.is_waiting_join(target)
            elif precedes_arrival:
                facts[index] = self.without_marks(self.fire_joins(self.facts_when_ended(target), held))
            held |= 0 if self.solver.is_waiting_join(target) else self.joins_ahead[target]
        return facts
