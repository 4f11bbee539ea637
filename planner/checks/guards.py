"""NP203, NP206, NP208 and NP404: every case of a rule can be taken, and the rule is exhaustive."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.guards.coverage import DeadCase, RuleCoverage, make_guarded_case
from noetl.planner.guards.formulas import Constant
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import Case


def check_guards(program: Program) -> None:
    """Report cases that can never be taken, and choices between cases that leave some values out."""
    for step in program.playbook.steps:
        if step.rule:
            coverage = program.rule_coverage[step.path]
            duplicates = _report_duplicate_defaults(program, step.rule)
            for dead in coverage.dead_cases:
                if dead.case not in duplicates:
                    _report_dead_case(program, step.rule, dead)
            if not coverage.dead_cases:
                _report_uncovered_values(program, step.rule, coverage)


def _report_duplicate_defaults(program: Program, cases: Sequence[Case]) -> set[int]:
    """Report every `default` but the first, and return their indexes."""
    first, *duplicates = [index for index, case in enumerate(cases) if case.case == "default"] or [0]
    for index in duplicates:
        label = _label_first(program, cases[first])
        program.report("NP206", "duplicate case `default`", (*cases[index].path, "case"), labels=[label])
    return set(duplicates)


def _report_dead_case(program: Program, cases: Sequence[Case], dead: DeadCase) -> None:
    case = cases[dead.case]
    path = (*case.path, "case")
    if dead.is_never_true:
        program.report("NP203", "unreachable case: its guard is never true", path, key=True)
        return
    if dead.covered_by is None:
        program.report("NP203", "unreachable case: earlier cases cover all values", path, key=True)
        return
    earlier = cases[dead.covered_by]
    formula = make_guarded_case(case.case).formula
    if formula == make_guarded_case(earlier.case).formula and not isinstance(formula, Constant):
        message = "duplicate guard: an earlier case has the same guard, so this case is never taken"
        hint = "change the guard, or remove the case"
        program.report("NP404", message, path, hint, labels=[_label_first(program, earlier)])
        return
    always = "always " if dead.covers_always else ""
    fails = ", or fails" if dead.may_fail else ""
    when = "" if dead.covers_always else f"{',' if fails else ''} whenever this guard is true"
    message = f"unreachable case: an earlier case is {always}taken{fails}{when}"
    label = Label(program.document.span((*earlier.path, "case")), "the earlier case is here")
    program.report("NP203", message, path, labels=[label], key=True)


def _label_first(program: Program, case: Case) -> Label:
    return Label(program.document.span((*case.path, "case")), "the first one is here")


def _report_uncovered_values(program: Program, cases: Sequence[Case], coverage: RuleCoverage) -> None:
    """Report a choice between several cases that is not exhaustive.

    A rule with one case is a condition, not a choice. A guard that is not an expression is reported
    elsewhere.
    """
    if coverage.uncovered_values is None or coverage.choices < 2:
        return
    if all(make_guarded_case(case.case).formula is not None for case in cases):
        values = coverage.uncovered_values
        problem = f"no case matches if {values}" if values else "it is possible that no case matches"
        message = f"rule is not exhaustive: {problem}, and the branch ends"
        hint = "add `case: default`; with `run: []` it ends the branch"
        program.report("NP208", message, cases[0].path[:-1], hint, key=True)
