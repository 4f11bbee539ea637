"""Sequential mode: the facts that earlier branches leave to later ones (`mode: sequential`).

Problem: In sequential mode the branches of a run are on a stack, and the one on top is executed. All branches
share one set of names. So when a branch of a fork is executed, the facts of the targets before it hold too.
They hold as far as the earlier branches have ended. A branch that waits at a join has not ended. The join
fires when no branch can reach it any more. It then goes on top of the stack.

Algorithm: Two backward data-flow problems over the control-flow graph (Kam and Ullman 1977). `may_ahead` is
the union of all that a branch may add from a step on. `must_when_done` is the intersection of what it has
added when it ends. Each waiting join has a *mark*, a bit above all facts: it says that a branch of the
step may still wait there. `fire_joins` replaces the marks of joins that cannot wait any more by the facts of
these joins.

Cost: A few evaluations per step and join, counted by `ExitGraph.spend`.

Limits: Two joins may fire at the same time. The one with the earlier first arrival is then visited first. The
analysis ignores this order, so neither join has the facts of the other in its must set.
"""

from __future__ import annotations

from collections.abc import Mapping

from noetl.planner.dataflow.transfer import ALL_FACTS, EMPTY, ExitGraph, FactSet, StepExit, split_facts
from noetl.planner.graph.joins import ROOT


class SequentialMode:
    """The facts that branches of one playbook leave to later branches.

    By step, `may_ahead` holds the facts that a branch which enters it may add. `must_when_done` holds those
    that the branch has added when it ends, with the marks of joins at which one of its branches may wait.
    `joins_ahead` holds the marks of the joins that a branch at the step can still reach. `joins_held` holds
    the marks of the joins that may have to wait for a branch after the one at the step.
    """

    def __init__(self, graph: ExitGraph) -> None:
        self.graph = graph
        facts = [exit_.gen | exit_.may_gen for exits in graph.exits.values() for exit_ in exits]
        self.fact_count = max((fact.bit_length() for fact in facts if fact != ALL_FACTS), default=0)
        joins = [join for join in graph.joins.dominators if join in graph.waiting_joins]
        self.marks = {join: FactSet(1 << self.fact_count + index) for index, join in enumerate(joins)}
        self.joins_by_mark = {mark: join for join, mark in self.marks.items()}
        self.joins_ahead = dict.fromkeys(graph.order, EMPTY)
        self.joins_held = dict.fromkeys(graph.order, EMPTY)
        for join, mark in self.marks.items():
            for step in (*graph.regions[join], join):
                self.joins_ahead[step] |= mark
        for join in joins:
            self._hold_join(join)
        self.may_ahead = graph.solve_backward(EMPTY, self._evaluate_may_ahead)
        self.must_when_done = graph.solve_backward(ALL_FACTS, self._evaluate_must_when_done)
        self._facts_before_targets: dict[int, Mapping[str, tuple[FactSet, FactSet]]] = {}

    def _hold_join(self, join: str) -> None:
        """Mark the steps in the region of a join where a later branch may still have to reach the join."""
        graph, mark, dominator = self.graph, self.marks[join], self.graph.joins.dominators[join]
        stack = []
        for step in (*graph.regions[join], *(() if dominator == ROOT else (dominator,))):
            for exit_ in graph.exits[step]:
                graph.spend(len(exit_.targets))
                leading = [target for target in exit_.targets if self.joins_ahead[target] & mark]
                stack += leading[:-1]
        while stack:
            step = stack.pop()
            if step != join and not self.joins_held[step] & mark:
                graph.spend()
                self.joins_held[step] |= mark
                successors = graph.cfg.graph.successors(step)
                stack += [target for target in successors if self.joins_ahead[target] & mark]

    def _evaluate_may_ahead(self, step: str, may_ahead: Mapping[str, FactSet]) -> FactSet:
        facts = EMPTY
        for exit_ in self.graph.exits[step]:
            facts |= exit_.may_gen
            for target in exit_.targets:
                facts |= may_ahead[target]
        return facts

    def _evaluate_must_when_done(self, step: str, must_when_done: Mapping[str, FactSet]) -> FactSet:
        facts = ALL_FACTS
        for exit_ in self.graph.exits[step]:
            self.graph.spend(len(exit_.targets))
            after = exit_.gen
            for target in exit_.targets:
                after |= self.marks.get(target) or must_when_done[target]
            facts &= self._fire_joins(after, self.joins_held[step], must_when_done)
        return facts

    def _must_when_target_done(self, target: str) -> FactSet:
        """Return what a branch that goes to a target has added when it is done; at a join, it waits."""
        return self.marks.get(target) or self.must_when_done[target]

    def _fire_joins(self, facts: FactSet, held: FactSet, must_when_done: Mapping[str, FactSet]) -> FactSet:
        """Replace the marks of joins that are not held by the facts of these joins."""
        is_mark = FactSet(-1 << self.fact_count)
        visited = held
        while facts != ALL_FACTS and (marks := facts & ~visited & is_mark):
            visited |= marks
            for mark in split_facts(marks):
                after_join = must_when_done[self.joins_by_mark[mark]]
                if after_join == ALL_FACTS:
                    return ALL_FACTS
                facts = facts & ~mark | after_join
        return facts

    def _facts_without_marks(self, facts: FactSet, held: FactSet) -> FactSet:
        """Return the facts of branches that have ended, where only the held joins may still wait."""
        fired = self._fire_joins(facts, held, self.must_when_done)
        return fired if fired == ALL_FACTS else fired & FactSet((1 << self.fact_count) - 1)

    def facts_before_targets(self, exit_: StepExit) -> Mapping[str, tuple[FactSet, FactSet]]:
        """Return, for each target of an exit, what others may and must have added when it is entered."""
        cached = self._facts_before_targets.get(id(exit_))
        if cached is not None:
            return cached
        self.graph.spend(len(exit_.targets))
        held = [self.joins_held[exit_.step]]
        for target in reversed(exit_.targets):
            held.append(held[-1] | self.joins_ahead[target])
        facts = {}
        may = must = EMPTY
        for target, held_later in zip(exit_.targets, reversed(held[1:]), strict=True):
            facts[target] = (may, self._facts_without_marks(must, held_later))
            may |= self.may_ahead[target]
            must |= self._must_when_target_done(target)
        self._facts_before_targets[id(exit_)] = facts
        return facts

    def facts_left_for_join(self, exit_: StepExit, join: str) -> Mapping[int, FactSet]:
        """Return what branches that miss a join leave to a branch that arrives later, by target index."""
        facts = {}
        mark, held, precedes_arrival = self.marks[join], self.joins_held[exit_.step], False
        for index in range(len(exit_.targets) - 1, -1, -1):
            target = exit_.targets[index]
            if self.joins_ahead[target] & mark:
                precedes_arrival = True
            elif precedes_arrival:
                facts[index] = self._facts_without_marks(self._must_when_target_done(target), held)
            held |= self.joins_ahead[target]
        return facts
