"""Definite-assignment analysis: the facts that may and that must hold when a step is entered.

Problem: For each step compute two fact sets. `may`: facts that hold on some path, whatever guards say.
`must`: facts that hold on every path. A name in `must` is definitely assigned; a name outside of `may` is
definitely unassigned.

Algorithm: A forward data-flow problem (Kildall 1973; Kam and Ullman 1977) over the control-flow graph of
steps. `may` is the least fixed point with union, `must` the greatest with intersection. Strongly connected
components are solved in topological order, the steps of one component with a priority queue in reverse
postorder.

A step that branches enter one by one takes the meet over its incoming exits. At a join the facts of all
arrived branches are united, and some branches may have ended on the way. So `must` at a join is the meet over
the possible sets of arrivals. A backward pass over the region of the join finds the *join contribution* of
each step. It consists of the facts that hold if a branch at the step arrives, and whether it may and must
arrive.

In sequential mode a branch also sees what earlier branches have assigned
(`noetl.planner.dataflow.sequential`).

Cost: Outside of cycles each step is evaluated once. On a cycle it is evaluated again when the facts of a step
that it depends on change. That is at most once per fact and such step, in practice a few times. Each
evaluation of a join evaluates its region. `MAX_EVALUATIONS` bounds the sum.

Limits: Past `MAX_EVALUATIONS` the solver raises `AnalysisLimitError`, and the checks that need it report
nothing. Guards that do not test facts count as unknown: both values are possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

from noetl.planner.dataflow.sequential import SequentialMode
from noetl.planner.dataflow.transfer import ALL_FACTS, CaseFacts, FactSet, Implications, StepEffects, StepExit
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import ROOT, Joins

MAX_EVALUATIONS = 250_000
"""How many evaluations of step exits one analysis may take."""


class AnalysisLimitError(Exception):
    """The analysis would take more than `MAX_EVALUATIONS` evaluations."""


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


AT_JOIN = JoinContribution(0, may_arrive=True, facts_if_ended=0)
OUTSIDE_REGION = JoinContribution(ALL_FACTS, must_arrive=False, facts_if_ended=0)


@dataclass(slots=True)
class AssignmentSolution:
    """The facts that may and must hold when each reachable step is entered, and at the end of a run.

    `must_on_reentry` holds on entry from within the cycle of a step, for the steps where that is tracked.
    `end_must` holds if no branch has failed, `end_must_after_failures` also if branches have failed and the
    run continued.
    """

    may: dict[str, FactSet] = field(default_factory=dict)
    must: dict[str, FactSet] = field(default_factory=dict)
    must_on_reentry: dict[str, FactSet] = field(default_factory=dict)
    end_may: FactSet = 0
    end_must: FactSet = 0
    end_must_after_failures: FactSet = 0


@dataclass(frozen=True, slots=True)
class AssignmentProblem:
    """The input of the solver.

    `on_failure` is the `on_error` mode of each step, `at_start` the facts at the start of a run. `resolve`
    extends a fact set by the facts that follow from its clauses. `joins` must have no overlapping cycles.
    """

    cfg: ControlFlowGraph
    joins: Joins
    effects: Mapping[str, StepEffects]
    on_failure: Mapping[str, str]
    at_start: FactSet
    is_sequential: bool
    resolve: Callable[[FactSet], FactSet]


class AssignmentSolver:
    """The solver of one problem. `solve` fills `solution`.

    `order` is the position of each reachable step in reverse postorder. `exits` are the exits of each step,
    `incoming` those that lead to it, with their steps. `regions` are the steps of the region of each join,
    from the join backward. `components` are the strongly connected components in topological order.
    """

    def __init__(self, problem: AssignmentProblem) -> None:
        cfg, joins = problem.cfg, problem.joins
        self.cfg = cfg
        self.joins = joins
        self.at_start = problem.at_start
        self.is_sequential = problem.is_sequential
        self.resolve = problem.resolve
        self.solution = AssignmentSolution()
        self.evaluations = 0
        self.order = {step: position for position, step in enumerate(_reverse_postorder(cfg))}
        self.steps = list(self.order)
        self.joins_by_dominator: dict[str, list[str]] = {}
        for join, dominator in joins.dominators.items():
            self.joins_by_dominator.setdefault(dominator, []).append(join)
        self.exits = {
            step: tuple(
                exit_
                for exit_ in problem.effects[step].exits
                if not exit_.is_unhandled_failure or problem.on_failure[step] == "continue"
            )
            for step in self.order
        }
        self.incoming: dict[str, list[tuple[str, StepExit]]] = {step: [] for step in self.order}
        for step in self.order:
            for exit_ in self.exits[step]:
                for target in exit_.targets:
                    self.incoming[target].append((step, exit_))
        self.sequential: SequentialMode | None = None
        self.regions: dict[str, list[str]] = {join: [] for join in joins.dominators}
        self.components = [sorted(steps, key=self.order.__getitem__) for steps in reversed(cfg.components)]
        for steps in reversed(self.components):
            for step in reversed(steps):
                for join in joins.regions.get(step, ()):
                    self.regions[join].append(step)

    def solve(self) -> AssignmentSolution:
        """Compute and return the solution.

        Raises:
            AnalysisLimitError: the analysis takes more than `MAX_EVALUATIONS` evaluations.
        """
        solution = self.solution
        if self.is_sequential and any(self.cfg.forks()):
            self.sequential = SequentialMode(self)
        solution.may = dict.fromkeys(self.order, 0)
        solution.must = dict.fromkeys(self.order, ALL_FACTS)
        solution.must_on_reentry = {step: ALL_FACTS for step in self.order if self.tracks_reentry(step)}
        for steps in self.components:
            self.solve_component(steps)
        solution.end_may = self.at_start
        for exits in self.exits.values():
            for exit_ in exits:
                solution.end_may |= exit_.may_gen
        solution.end_must = self.must_at_end(with_failures=False)
        solution.end_must_after_failures = solution.end_must
        if self.tolerates_failures:
            solution.end_must_after_failures &= self.must_at_end(with_failures=True)
        return solution

    def implications(self) -> Implications:
        """Return the implications between facts: what holds after every exit that may add a fact."""
        definitions = (
            (exit_.may_gen, self.facts_after(step, exit_))
            for step in self.order
            for exit_ in self.exits[step]
        )
        return Implications(chain([(self.at_start, self.at_start)], definitions))

    @property
    def tolerates_failures(self) -> bool:
        """True if a branch may end by a failure while the run continues."""
        return any(exit_.is_unhandled_failure for exits in self.exits.values() for exit_ in exits)

    def solve_component(self, steps: Sequence[str]) -> None:
        """Solve a strongly connected component whose predecessors are solved."""
        may, must, on_reentry = self.solution.may, self.solution.must, self.solution.must_on_reentry
        is_cyclic = self.cfg.is_cyclic(steps[0])
        queue = [self.order[step] for step in steps]
        queued = set(queue) if is_cyclic else set()
        while queue:
            position = heappop(queue)
            queued.discard(position)
            step = self.steps[position]
            # `must` comes first: `may` ignores the exits of steps that cannot be entered.
            entered = self.resolve(self.must_on_entry(step))
            previous = (may[step], must[step], on_reentry.get(step))
            must[step] = entered
            may[step] = self.may_on_entry(step)
            if step in on_reentry:
                on_reentry[step] = self.must_on_reentry(step)
            if is_cyclic and (may[step], entered, on_reentry.get(step)) != previous:
                for dependent in {self.order[name] for name in self.dependents(step)} - queued:
                    queued.add(dependent)
                    heappush(queue, dependent)

    def dependents(self, step: str) -> Iterator[str]:
        """Return a step, and the steps of its component whose facts depend on those of the step."""
        component = self.cfg.component_index
        steps = (
            *self.cfg.graph.successors(step),
            *self.joins.regions.get(step, ()),
            *self.joins_by_dominator.get(step, ()),
            step,
        )
        return (dependent for dependent in steps if component[dependent] == component[step])

    def spend(self, evaluations: int = 1) -> None:
        """Count evaluations.

        Raises:
            AnalysisLimitError: there are more than `MAX_EVALUATIONS` of them.
        """
        self.evaluations += evaluations
        if self.evaluations > MAX_EVALUATIONS:
            raise AnalysisLimitError

    def is_waiting_join(self, step: str) -> bool:
        """Return whether branches wait for each other at a step."""
        return step in self.joins.dominators and step not in self.joins.discriminators

    def may_on_entry(self, step: str) -> FactSet:
        """Return the facts that may hold when a step is entered: the union over its incoming exits."""
        facts = self.at_start
        for source, exit_ in self.incoming[step]:
            if self.solution.must[source] == ALL_FACTS or not self.is_possible(source, exit_):
                continue
            facts |= self.solution.may[source] | exit_.may_gen
            if self.sequential is not None:
                facts |= self.sequential.facts_before_targets(source, exit_)[step][0]
        if self.sequential is not None and (dominator := self.joins.dominators.get(step)) is not None:
            facts |= self.sequential.may_ahead[self.cfg.start if dominator == ROOT else dominator]
        return facts

    def must_on_entry(self, step: str) -> FactSet:
        """Return the facts that hold whenever a step is entered: the intersection over its incoming exits."""
        facts = self.at_start if step == self.cfg.start else ALL_FACTS
        if self.is_waiting_join(step):
            return facts & self.must_at_join(step)
        for source, exit_ in self.incoming[step]:
            self.spend()
            after = self.facts_after(source, exit_)
            if self.sequential is not None:
                after |= self.sequential.facts_before_targets(source, exit_)[step][1]
            facts &= after
        return facts

    def tracks_reentry(self, step: str) -> bool:
        """Return whether to track the facts on re-entry of a step separately.

        The step must be on a cycle, be no join, and be visited by one branch only. It must have an exit that
        is taken only after MaxVisitsExceeded.
        """
        is_single = step not in self.joins.dominators and step not in self.joins.multi_merges
        return is_single and self.cfg.is_cyclic(step) and any(exit_.on_reentry for exit_ in self.exits[step])

    def must_on_reentry(self, step: str) -> FactSet:
        """Return the facts that hold whenever a step is entered from its own cycle."""
        component = self.cfg.component_index
        facts = ALL_FACTS
        for source, exit_ in self.incoming[step]:
            if component[source] == component[step]:
                self.spend()
                facts &= self.facts_after(source, exit_)
        return facts

    def facts_after(self, step: str, exit_: StepExit) -> FactSet:
        """Return the facts that hold after an exit: all, if the exit is impossible."""
        known = self.solution.must[step]
        if exit_.on_reentry:
            known |= self.solution.must_on_reentry.get(step, 0)
        has_precondition = exit_.unassigned_on_entry or exit_.assigned_on_entry
        if known == ALL_FACTS or (has_precondition and not self.is_possible(step, exit_)):
            return ALL_FACTS
        return self.resolve(known | exit_.gen)

    def is_possible(self, step: str, exit_or_case: StepExit | CaseFacts) -> bool:
        """Return whether the facts on entry of a step allow an exit, or the facts of a case."""
        return (
            not exit_or_case.unassigned_on_entry & self.solution.must[step]
            and not exit_or_case.assigned_on_entry & ~self.solution.may[step]
        )

    def possible_exits(self, step: str) -> list[StepExit]:
        """Return the exits of a step that the facts on its entry allow."""
        return [exit_ for exit_ in self.exits[step] if self.is_possible(step, exit_)]

    def must_at_join(self, join: str) -> FactSet:
        """Return the facts that hold whenever a join continues, from the contributions of its region."""
        dominator = self.joins.dominators[join]
        contributions = self.region_contributions(join)
        facts = ALL_FACTS
        for source in (dominator, join):
            if source == ROOT:
                facts &= contributions.get(self.cfg.start, OUTSIDE_REGION).facts
                continue
            for exit_ in self.exits[source]:
                contribution = self.exit_contribution(source, exit_, contributions, join)
                if contribution is not None and contribution.may_arrive:
                    facts &= contribution.facts
        return facts

    def region_contributions(self, join: str) -> dict[str, JoinContribution]:
        """Return the contribution of a branch at each step of the region of a join, and at the join."""
        region = self.regions[join]
        contributions = dict.fromkeys(region, JoinContribution())
        contributions[join] = AT_JOIN
        is_changed = True
        while is_changed:
            is_changed = False
            for step in region:
                contribution = self.step_contribution(step, contributions, join)
                if contribution != contributions[step]:
                    contributions[step] = contribution
                    is_changed = is_changed or self.cfg.is_cyclic(step)
        return contributions

    def step_contribution(
        self, step: str, contributions: Mapping[str, JoinContribution], join: str
    ) -> JoinContribution:
        """Return the contribution of a branch at a step: the meet over its possible exits."""
        facts, may_arrive, must_arrive, keeps_own, if_ended = ALL_FACTS, False, True, True, ALL_FACTS
        for exit_ in self.exits[step]:
            contribution = self.exit_contribution(step, exit_, contributions, join)
            if contribution is None:
                continue
            must_arrive = must_arrive and contribution.must_arrive
            if_ended &= contribution.facts_if_ended
            if contribution.may_arrive:
                facts &= contribution.facts
                may_arrive = True
                keeps_own = keeps_own and contribution.keeps_own_facts
        return JoinContribution(facts, may_arrive, must_arrive, keeps_own, if_ended)

    def exit_contribution(
        self, step: str, exit_: StepExit, contributions: Mapping[str, JoinContribution], join: str
    ) -> JoinContribution | None:
        """Return the joint contribution of the branches behind an exit; `None` if the exit is impossible."""
        self.spend(max(len(exit_.targets), 1))
        after = self.facts_after(step, exit_)
        if after == ALL_FACTS and not self.is_possible(step, exit_):
            return None
        if len(exit_.targets) == 1 and not self.is_sequential:
            # The general case below, shortened for one target.
            only = self.target_contribution(exit_.targets[0], contributions)
            if not only.may_arrive:
                return only
            facts = only.facts | after if only.keeps_own_facts else only.facts
            return JoinContribution(
                facts, True, only.must_arrive, only.keeps_own_facts, facts if only.must_arrive else 0
            )
        branches = [self.target_contribution(target, contributions) for target in exit_.targets]
        if self.sequential is not None:
            for index, left in self.sequential.facts_left_for_join(step, exit_, join).items():
                branches[index] = JoinContribution(ALL_FACTS, must_arrive=False, facts_if_ended=left)
        return self._unite_branches(branches, after)

    def _unite_branches(self, branches: Sequence[JoinContribution], after: FactSet) -> JoinContribution:
        """Return the joint contribution of the branches of a fork, where the facts of `after` hold."""
        arriving = [branch for branch in branches if branch.may_arrive]
        certain = [branch for branch in branches if branch.must_arrive]
        left = 0
        if self.is_sequential:
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
        facts = meet_over_arrivals(branches)
        if keeps_own:
            facts |= after
        return JoinContribution(facts, True, bool(certain), keeps_own, facts | left if certain else left)

    def target_contribution(
        self, target: str, contributions: Mapping[str, JoinContribution]
    ) -> JoinContribution:
        """Return the contribution of a branch that enters a step."""
        contribution = contributions.get(target, OUTSIDE_REGION)
        if target in self.joins.discriminators and contribution.keeps_own_facts:
            return contribution._replace(keeps_own_facts=False)
        return contribution

    def must_at_end(self, *, with_failures: bool) -> FactSet:
        """Return the facts that hold when all branches have ended; `with_failures`, also by failures."""
        at_end = dict.fromkeys(self.order, ALL_FACTS)

        def evaluate(step: str) -> FactSet:
            facts = ALL_FACTS
            for exit_ in self.exits[step]:
                if with_failures or not exit_.is_unhandled_failure:
                    after = self.facts_after(step, exit_)
                    for target in exit_.targets:
                        after |= at_end[target]
                    facts &= after
            return facts

        self.solve_backward(at_end, evaluate)
        return at_end[self.cfg.start]

    def solve_backward(self, values: dict[str, FactSet], evaluate: Callable[[str], FactSet]) -> None:
        """Solve a backward problem in place: `evaluate(step)` reads the values of later steps."""
        for steps in reversed(self.components):
            is_cyclic = self.cfg.is_cyclic(steps[0])
            is_changed = True
            while is_changed:
                is_changed = False
                for step in reversed(steps):
                    self.spend()
                    value = evaluate(step)
                    if value != values[step]:
                        values[step] = value
                        is_changed = is_cyclic


def meet_over_arrivals(branches: Sequence[JoinContribution]) -> FactSet:
    """Return the facts that hold at a join if at least one of these branches arrives, whichever it is.

    Where one branch arrives, each other branch adds at least its `facts_if_ended`.

    >>> first = JoinContribution(facts=0b011, may_arrive=True, facts_if_ended=0)
    >>> second = JoinContribution(facts=0b110, may_arrive=True, facts_if_ended=0b100)
    >>> bin(meet_over_arrivals([first, second]))
    '0b110'
    """
    if len(branches) == 1:
        return branches[0].facts
    before, after = [0], [0]
    for branch in branches[:-1]:
        before.append(before[-1] | branch.facts_if_ended)
    for branch in reversed(branches[1:]):
        after.append(after[-1] | branch.facts_if_ended)
    facts = ALL_FACTS
    for branch, earlier, later in zip(branches, before, reversed(after), strict=True):
        if branch.may_arrive:
            facts &= branch.facts | earlier | later
    return facts


def _reverse_postorder(cfg: ControlFlowGraph) -> Iterator[str]:
    """Return the reachable steps, each before the steps that it leads to, as far as cycles allow."""
    postorder: list[str] = []
    seen = {cfg.start}
    stack = [(cfg.start, iter(cfg.graph.successors(cfg.start)))]
    while stack:
        step, successors = stack[-1]
        for target in successors:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(cfg.graph.successors(target))))
                break
        else:
            postorder.append(step)
            stack.pop()
    return reversed(postorder)
