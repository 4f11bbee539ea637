"""Unreachable cases and exclusive steps: the results of the definite-assignment analysis for other checks.

Problem: Some cases are never taken, because their guard requires facts that cannot hold. Some steps never run
in the same run, because a test of a constant value is true before one and false before the other.

Algorithm: Infeasible branches follow from data-flow facts (Bodik, Gupta and Soffa 1997). The
definite-assignment analysis runs at most twice. The first run has no implications between
facts. Only if a requirement may be unmet, the second run uses the implications of the first one.

Cost: One or two runs of the solver (see `noetl.planner.dataflow.solver`).

Limits: Those of the solver.
"""

from __future__ import annotations

from collections.abc import Mapping

from noetl.planner.dataflow.fact_encoding import FactEncoder
from noetl.planner.dataflow.solver import AssignmentProblem, AssignmentSolver
from noetl.planner.dataflow.step_effects import EffectsAnalysis
from noetl.planner.dataflow.transfer import ALL_FACTS, FactSet
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath

UnreachableCases = frozenset[tuple[str, int]]
"""Cases that are never taken: the step and the index of the case."""


class Unreachable:
    """The cases that no run takes, and the pairs of steps or entries that no run has both.

    Two steps are exclusive if the must sets at their entries have opposite results of one test.
    """

    def __init__(
        self,
        cases: UnreachableCases = frozenset(),
        encoder: FactEncoder | None = None,
        must: Mapping[str, FactSet] = {},
    ) -> None:
        self.cases = cases
        self.encoder = encoder
        self.must = must

    def are_exclusive_steps(self, step: str, other_step: str) -> bool:
        """Return whether no run visits both steps."""
        must = self.must
        return self.are_exclusive(must.get(step, 0), must.get(other_step, 0))

    def are_exclusive(self, facts: FactSet, other_facts: FactSet) -> bool:
        """Return whether no run has both fact sets."""
        return self.encoder is not None and self.encoder.are_exclusive(facts, other_facts)

    def conditions_around(self, entry: DocumentPath) -> FactSet:
        """Return the conditions that hold where an entry does its work, as its `if` says."""
        return 0 if self.encoder is None else self.encoder.conditions_around(entry)


def solve_assignments(program: Program, analysis: EffectsAnalysis) -> AssignmentSolver:
    """Return the solved solver of a program, with implications if a requirement may be unmet without them.

    Raises:
        AnalysisLimitError: the analysis is too large.
    """
    solver = solve_once(program, analysis)
    if has_unmet_requirements(analysis, solver):
        analysis.use_implications(solver.implications())
        solver = solve_once(program, analysis)
    return solver


def solve_once(program: Program, analysis: EffectsAnalysis) -> AssignmentSolver:
    """Return the solved solver of a program, with the present step effects.

    Raises:
        AnalysisLimitError: the analysis is too large.
    """
    default = program.playbook.on_error
    on_failure = {name: step.on_error or default for name, step in program.symbols.steps.items()}
    problem = AssignmentProblem(
        program.cfg,
        program.joins,
        analysis.effects,
        on_failure,
        analysis.encoder.at_start,
        is_sequential=program.playbook.mode == "sequential",
        resolve=analysis.encoder.resolve,
    )
    solver = AssignmentSolver(problem)
    solver.solve()
    return solver


def has_unmet_requirements(analysis: EffectsAnalysis, solver: AssignmentSolver) -> bool:
    """Return whether a step may be entered without a fact that it requires."""
    return any(analysis.effects[step].required & ~must for step, must in solver.solution.must.items())


def find_unreachable_cases(analysis: EffectsAnalysis, solver: AssignmentSolver) -> UnreachableCases:
    """Return the cases of reachable steps that are shadowed, or whose facts are always impossible."""
    unreachable: set[tuple[str, int]] = set()
    for name, must in solver.solution.must.items():
        if must == ALL_FACTS:
            continue
        effects = analysis.effects[name]
        unreachable.update((name, index) for index in effects.shadowed)
        for index, situations in effects.taken.items():
            if not any(solver.is_possible(name, facts) for facts in situations):
                unreachable.add((name, index))
    return frozenset(unreachable)
