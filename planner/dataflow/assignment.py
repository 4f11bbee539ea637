"""The definite-assignment analysis of a program: its facts, its solution, and the implications of both.

Problem: checks and editors need the same analysis of a program. Implications make it more precise, but they
cost a second solution.

Algorithm: solve without implications. Only if some step may lack what it requires, find the implications of
the solution, and solve again with them (see `noetl.planner.dataflow.solver`).

Cost: that of one solution or of two. `Program.result_of` keeps the result of a program.

Limits: past the limit of the solver, there is no solution.
"""

from __future__ import annotations

from typing import NamedTuple

from noetl.planner.dataflow.fact_encoding import FactTable
from noetl.planner.dataflow.solver import AssignmentSolution, solve
from noetl.planner.dataflow.step_effects import NO_IMPLICATIONS, step_effects
from noetl.planner.dataflow.transfer import AnalysisLimitError, Implications
from noetl.planner.program.program import Program


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
