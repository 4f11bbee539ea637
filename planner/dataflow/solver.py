"""Definite-assignment analysis: the facts that may and that must hold when a step is entered.

Problem: For each step compute two fact sets. `may`: facts that hold on some path, whatever guards say.
`must`: facts that hold on every path. A name in `must` is definitely assigned; a name outside of `may` is
definitely unassigned.

Algorithm: A forward data-flow problem (Kildall 1973; Kam and Ullman 1977) over the control-flow graph of
steps. `may` is the least fixed point with union, `must` the greatest with intersection. Strongly connected
components are solved in topological order. Those of several steps are solved in sweeps in reverse postorder
(Hecht and Ullman 1975). Each sweep evaluates only the steps whose inputs have changed.

A step that branches enter one by one takes the meet over its incoming exits. At a join the facts of all
arrived branches are united, and some branches may have ended on the way. So `must` at a join is the meet over
the possible sets of arrivals. A backward pass over the region of the join finds the *join contribution* of
each step. It consists of the facts that hold if a branch at the step arrives, and whether it may and must
arrive.

In sequential mode a branch also sees what earlier branches have assigned
(`noetl.planner.dataflow.sequential`).

Implications between facts make the result more precise. They follow from a first solution, so they cost a
second one. It is made only if some step may lack what it requires. Checks and editors share the result of a
program.

Cost: Outside of cycles each step is evaluated once. On a cycle it is evaluated again when the facts of a step
that it depends on change. That is at most once per fact and such step, in practice a few times. Each
evaluation of a join evaluates its region. `noetl.planner.dataflow.transfer.MAX_EVALUATIONS` bounds the sum.

Limits: Past `MAX_EVALUATIONS` it raises `AnalysisLimitError`, and the checks that need it report
nothing. Guards that do not test facts count as unknown: both values are possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

from noetl.planner.dataflow.fact_encoding import FactTable
from noetl.planner.dataflow.sequential import SequentialMode
from noetl.planner.dataflow.step_effects import NO_IMPLICATIONS, step_effects
from noetl.planner.dataflow.transfer import (
    ALL_FACTS,
    EMPTY,
    AbstractState,
    AnalysisLimitError,
    ExitGraph,
    FactSet,
    Implications,
    StepEffects,
    StepExit,
    split_facts,
)
from noetl.planner.graph.joins import ROOT
from noetl.planner.program.program import Program


class JoinContribution(NamedTuple):
    """The contribution to a join of the branches that continue from a step.

    `facts` hold at the join if one of them arrives. `facts_if_ended` hold there even if none of them arrives,
    but another branch does. With `keeps_own_facts` the branch that arrives still has the facts that held at
    the step. It does not if a `join: any` on the way may have continued with another branch.
    """

    facts: FactSet = ALL_FACTS
    may_arrive: bool = False
    must_arrive: bool = True
    keeps_own_facts: bool = True
    facts_if_ended: FactSet = ALL_FACTS


AT_JOIN = JoinContribution(EMPTY, may_arrive=True, facts_if_ended=EMPTY)
OUTSIDE_REGION = JoinContribution(ALL_FACTS, must_arrive=False, facts_if_ended=EMPTY)


class Assignment(NamedTuple):
    """The facts of a program, and the solution with the implications that it uses."""

    table: FactTable
    solution: AssignmentSolution | None
    implications: Implications = NO_IMPLICATIONS


def analyse_assignment(program: Program) -> Assignment:
    """Return the analysis of the names that templates of a program read.

    There is no solution if there are no facts, or if the analysis is too large.
    """
    table = FactTable(program)
    try:
        return Assignment(table, *solve_table(program, table)) if table.bits else Assignment(table, None)
    except AnalysisLimitError:
        return Assignment(table, None)


def solve_table(
    program: Program, table: FactTable, *, assumes_worker_loss: bool = False
) -> tuple[AssignmentSolution, Implications]:
    """Return the solution of the facts of a program, and the implications that it uses.

    There are none unless some step may lack what it requires.

    Raises:
        AnalysisLimitError: the analysis is too large.
    """
    effects = step_effects(program, table, assumes_worker_loss=assumes_worker_loss)
    solution = solve(program, table, effects)
    if not any(effects[step].required & ~must for step, must in solution.must.items()):
        return solution, NO_IMPLICATIONS
    implications = solution.implications()
    effects = step_effects(program, table, implications, assumes_worker_loss=assumes_worker_loss)
    return solve(program, table, effects), implications


def solve(program: Program, table: FactTable, effects: Mapping[str, StepEffects]) -> AssignmentSolution:
    """Return the facts that may and must hold when each step of a program is entered.

    Raises:
        AnalysisLimitError: the analysis takes more than `MAX_EVALUATIONS` evaluations.
    """
    is_sequential = program.playbook.mode == "sequential"
    graph = ExitGraph(program.cfg, program.joins, effects)
    solution = AssignmentSolution(graph, table, effects, is_sequential=is_sequential)
    _AssignmentSolver(solution).fill()
    return solution


class AssignmentSolution:
    """The facts that may and must hold when each reachable step is entered, and at the end of a run.

    `must_on_reentry` holds on entry from within the cycle of a step, for the steps where that is tracked.
    `end_must` holds if no branch has failed, `end_must_after_failures` also if branches have failed and the
    run continued; with `tolerates_failures` that is possible.
    """

    def __init__(
        self, graph: ExitGraph, table: FactTable, effects: Mapping[str, StepEffects], *, is_sequential: bool
    ) -> None:
        self.graph = graph
        self.table = table
        self.effects = effects
        self.is_sequential = is_sequential
        self.may = dict.fromkeys(graph.order, EMPTY)
        self.must = dict.fromkeys(graph.order, ALL_FACTS)
        self.must_on_reentry: dict[str, FactSet] = {}
        self.end_may = table.at_start
        self.end_must = self.end_must_after_failures = ALL_FACTS
        self.tolerates_failures = False

    def is_possible(self, step: str, place: StepExit | AbstractState) -> bool:
        """Return whether the facts on entry of a step allow an exit, or a state."""
        return (
            not place.unassigned_on_entry & self.must[step] and not place.assigned_on_entry & ~self.may[step]
        )

    def possible_exits(self, step: str) -> Sequence[StepExit]:
        """Return the exits of a step that the facts on its entry allow."""
        return [exit_ for exit_ in self.graph.exits[step] if self.is_possible(step, exit_)]

    def facts_after(self, exit_: StepExit) -> FactSet:
        """Return the facts that hold after an exit: all, if the exit is impossible."""
        known = self.must[exit_.step]
        if exit_.on_reentry:
            known |= self.must_on_reentry.get(exit_.step, EMPTY)
        has_precondition = exit_.unassigned_on_entry or exit_.assigned_on_entry
        if known == ALL_FACTS or (has_precondition and not self.is_possible(exit_.step, exit_)):
            return ALL_FACTS
        return self.table.resolve(known | exit_.gen)

    def implications(self) -> Implications:
        """Return what names and visits imply: A implies B if B holds after every exit that may add A.

        This is sound because a branch never loses a fact.
        """
        names, at_start = self.table.name_facts, self.table.at_start
        implied = dict.fromkeys(split_facts(at_start & names), at_start)
        for exit_ in chain.from_iterable(self.graph.exits.values()):
            after = self.facts_after(exit_)
            for fact in split_facts(exit_.may_gen & names):
                implied[fact] = implied.get(fact, ALL_FACTS) & after
        return {fact: facts for fact, facts in implied.items() if facts != ALL_FACTS}


class _AssignmentSolver:
    """The iteration that fills a solution."""

    def __init__(self, solution: AssignmentSolution) -> None:
        self.solution = solution
        self.graph = solution.graph
        is_sequential = solution.is_sequential and any(self.graph.cfg.forks())
        self.sequential = SequentialMode(self.graph) if is_sequential else None
        self.joins_by_dominator: dict[str, list[str]] = {}
        for join, dominator in self.graph.joins.dominators.items():
            self.joins_by_dominator.setdefault(dominator, []).append(join)

    def fill(self) -> None:
        """Compute the solution."""
        graph, solution = self.graph, self.solution
        tracked = filter(self._tracks_reentry, graph.order)
        solution.must_on_reentry = dict.fromkeys(tracked, ALL_FACTS)
        for steps in graph.components:
            self._solve_component(steps)
        exits = [*chain.from_iterable(graph.exits.values())]
        for exit_ in exits:
            solution.end_may |= exit_.may_gen
        solution.end_must = solution.end_must_after_failures = self._must_at_end(with_failures=False)
        solution.tolerates_failures = any(exit_.is_unhandled_failure for exit_ in exits)
        if solution.tolerates_failures:
            solution.end_must_after_failures &= self._must_at_end(with_failures=True)

    def _tracks_reentry(self, step: str) -> bool:
        """Return whether to track the facts on re-entry of a step separately.

        The step must be on a cycle, be no join, and be visited by one branch only. It must have an exit that
        is taken only after MaxVisitsExceeded.
        """
        joins, exits = self.graph.joins, self.graph.exits[step]
        is_single = step not in joins.dominators and step not in joins.multi_merges
        return is_single and step in self.graph.cfg.cyclic_steps and any(exit_.on_reentry for exit_ in exits)

    def _solve_component(self, steps: Sequence[str]) -> None:
        """Solve a strongly connected component whose predecessors are solved."""
        graph, solution = self.graph, self.solution
        may, must, on_reentry = solution.may, solution.must, solution.must_on_reentry
        is_cyclic = steps[0] in graph.cfg.cyclic_steps
        # A step behind in the order waits for the next sweep. Else it would be evaluated after each change.
        queue = [(0, graph.order[step], step) for step in steps]
        queued = set(steps) if is_cyclic else set()
        while queue:
            sweep, place, step = heappop(queue)
            queued.discard(step)
            # `must` comes first: `may` ignores the exits of steps that cannot be entered.
            entered = solution.table.resolve(self._must_on_entry(step))
            previous = (may[step], must[step], on_reentry.get(step))
            must[step] = entered
            may[step] = self._may_on_entry(step)
            if step in on_reentry:
                on_reentry[step] = self._must_on_reentry(step)
            if is_cyclic and (may[step], entered, on_reentry.get(step)) != previous:
                for dependent in self._dependents(step) - queued:
                    queued.add(dependent)
                    order = graph.order[dependent]
                    heappush(queue, (sweep + (order <= place), order, dependent))

    def _dependents(self, step: str) -> set[str]:
        """Return a step, and the steps of its component whose facts depend on those of the step."""
        graph, component = self.graph, self.graph.cfg.component_index
        steps = (
            *graph.cfg.graph.successors(step),
            *graph.joins.regions.get(step, ()),
            *self.joins_by_dominator.get(step, ()),
            step,
        )
        return {dependent for dependent in steps if component[dependent] == component[step]}

    def _may_on_entry(self, step: str) -> FactSet:
        """Return the facts that may hold when a step is entered: the union over its incoming exits."""
        graph, solution, sequential = self.graph, self.solution, self.sequential
        facts = solution.table.at_start
        for exit_ in graph.incoming[step]:
            if solution.must[exit_.step] == ALL_FACTS or not solution.is_possible(exit_.step, exit_):
                continue
            facts |= solution.may[exit_.step] | exit_.may_gen
            if sequential is not None:
                facts |= sequential.facts_before_targets(exit_)[step][0]
        if sequential is not None and (dominator := graph.joins.dominators.get(step)) is not None:
            facts |= sequential.may_ahead[graph.cfg.start if dominator == ROOT else dominator]
        return facts

    def _must_on_entry(self, step: str) -> FactSet:
        """Return the facts that hold whenever a step is entered: the intersection over its incoming exits."""
        graph, sequential = self.graph, self.sequential
        facts = self.solution.table.at_start if step == graph.cfg.start else ALL_FACTS
        if step in graph.waiting_joins:
            return facts & self._must_at_join(step)
        graph.spend(len(graph.incoming[step]))
        for exit_ in graph.incoming[step]:
            after = self.solution.facts_after(exit_)
            if sequential is not None:
                after |= sequential.facts_before_targets(exit_)[step][1]
            facts &= after
        return facts

    def _must_on_reentry(self, step: str) -> FactSet:
        """Return the facts that hold whenever a step is entered from its own cycle."""
        graph, component = self.graph, self.graph.cfg.component_index
        facts = ALL_FACTS
        graph.spend(len(graph.incoming[step]))
        for exit_ in graph.incoming[step]:
            if component[exit_.step] == component[step]:
                facts &= self.solution.facts_after(exit_)
        return facts

    def _must_at_join(self, join: str) -> FactSet:
        """Return the facts that hold whenever a join continues, from the contributions of its region."""
        graph = self.graph
        dominator, contributions = graph.joins.dominators[join], self._region_contributions(join)
        facts = ALL_FACTS
        if dominator == ROOT:
            facts = contributions.get(graph.cfg.start, OUTSIDE_REGION).facts
        for source in (dominator, join):
            for exit_ in graph.exits.get(source, ()):
                contribution = self._exit_contribution(exit_, contributions, join)
                if contribution is not None and contribution.may_arrive:
                    facts &= contribution.facts
        return facts

    def _region_contributions(self, join: str) -> Mapping[str, JoinContribution]:
        """Return the contribution of a branch at each step of the region of a join, and at the join."""
        region, cyclic_steps = self.graph.regions[join], self.graph.cfg.cyclic_steps
        contributions = dict.fromkeys(region, JoinContribution())
        contributions[join] = AT_JOIN
        is_changed = True
        while is_changed:
            is_changed = False
            for step in region:
                contribution = self._step_contribution(step, contributions, join)
                if contribution != contributions[step]:
                    contributions[step] = contribution
                    is_changed = is_changed or step in cyclic_steps
        return contributions

    def _step_contribution(
        self, step: str, contributions: Mapping[str, JoinContribution], join: str
    ) -> JoinContribution:
        """Return the contribution of a branch at a step: the meet over its possible exits."""
        facts, may_arrive, must_arrive, keeps_own, if_ended = ALL_FACTS, False, True, True, ALL_FACTS
        for exit_ in self.graph.exits[step]:
            contribution = self._exit_contribution(exit_, contributions, join)
            if contribution is None:
                continue
            must_arrive = must_arrive and contribution.must_arrive
            if_ended &= contribution.facts_if_ended
            if contribution.may_arrive:
                facts &= contribution.facts
                may_arrive = True
                keeps_own = keeps_own and contribution.keeps_own_facts
        return JoinContribution(facts, may_arrive, must_arrive, keeps_own, if_ended)

    def _exit_contribution(
        self, exit_: StepExit, contributions: Mapping[str, JoinContribution], join: str
    ) -> JoinContribution | None:
        """Return the joint contribution of the branches behind an exit; `None` if the exit is impossible."""
        self.graph.spend(max(len(exit_.targets), 1))
        after = self.solution.facts_after(exit_)
        if after == ALL_FACTS and not self.solution.is_possible(exit_.step, exit_):
            return None
        if len(exit_.targets) == 1 and not self.solution.is_sequential:
            # The general case below, shortened for one target.
            only = self._target_contribution(exit_.targets[0], contributions)
            if not only.may_arrive:
                return only
            facts = only.facts | after if only.keeps_own_facts else only.facts
            return JoinContribution(
                facts, True, only.must_arrive, only.keeps_own_facts, facts if only.must_arrive else EMPTY
            )
        branches = [self._target_contribution(target, contributions) for target in exit_.targets]
        if self.sequential is not None:
            for index, left in self.sequential.facts_left_for_join(exit_, join).items():
                branches[index] = JoinContribution(ALL_FACTS, must_arrive=False, facts_if_ended=left)
        return self._unite_branches(branches, after)

    def _unite_branches(self, branches: Sequence[JoinContribution], after: FactSet) -> JoinContribution:
        """Return the joint contribution of the branches of a fork, where the facts of `after` hold."""
        arriving = [branch for branch in branches if branch.may_arrive]
        certain = [branch for branch in branches if branch.must_arrive]
        left = EMPTY
        if self.solution.is_sequential:
            left = after
            for branch in branches:
                left |= branch.facts_if_ended
        if not arriving:
            return JoinContribution(
                may_arrive=False, must_arrive=bool(certain), facts_if_ended=ALL_FACTS if certain else left
            )
        if certain:
            keeps_own = any(branch.keeps_own_facts for branch in certain)
        else:
            keeps_own = all(branch.keeps_own_facts for branch in arriving)
        facts = _meet_over_arrivals(branches)
        if keeps_own:
            facts |= after
        return JoinContribution(facts, True, bool(certain), keeps_own, facts | left if certain else left)

    def _target_contribution(
        self, target: str, contributions: Mapping[str, JoinContribution]
    ) -> JoinContribution:
        """Return the contribution of a branch that enters a step."""
        contribution = contributions.get(target, OUTSIDE_REGION)
        if target in self.graph.joins.discriminators and contribution.keeps_own_facts:
            return contribution._replace(keeps_own_facts=False)
        return contribution

    def _must_at_end(self, *, with_failures: bool) -> FactSet:
        """Return the facts that hold when all branches have ended; `with_failures`, also by failures."""

        def evaluate(step: str, at_end: Mapping[str, FactSet]) -> FactSet:
            facts = ALL_FACTS
            for exit_ in self.graph.exits[step]:
                if with_failures or not exit_.is_unhandled_failure:
                    after = self.solution.facts_after(exit_)
                    for target in exit_.targets:
                        after |= at_end[target]
                    facts &= after
            return facts

        return self.graph.solve_backward(ALL_FACTS, evaluate)[self.graph.cfg.start]


def _meet_over_arrivals(branches: Sequence[JoinContribution]) -> FactSet:
    """Return the facts that hold at a join if at least one of these branches arrives, whichever it is.

    Where one branch arrives, each other branch adds at least its `facts_if_ended`.

    >>> first = JoinContribution(facts=FactSet(0b011), may_arrive=True, facts_if_ended=EMPTY)
    >>> second = JoinContribution(facts=FactSet(0b110), may_arrive=True, facts_if_ended=FactSet(0b100))
    >>> bin(_meet_over_arrivals([first, second]))
    '0b110'
    """
    if len(branches) == 1:
        return branches[0].facts
    before, after = [EMPTY], [EMPTY]
    for branch in branches[:-1]:
        before.append(before[-1] | branch.facts_if_ended)
    for branch in reversed(branches[1:]):
        after.append(after[-1] | branch.facts_if_ended)
    facts = ALL_FACTS
    for branch, earlier, later in zip(branches, before, reversed(after), strict=True):
        if branch.may_arrive:
            facts &= branch.facts | earlier | later
    return facts
