"""NP203, NP206, NP208, NP404: every case of a rule can be taken, and one is taken whatever the values are."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.guards.coverage import Dead, Verdict, candidate_of
from noetl.planner.guards.formulas import Known
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import Case


def check_guards(subject: Subject) -> None:
    """Report cases that can never be taken, and choices that leave some values out."""
    for step in subject.playbook.steps:
        if step.rule:
            verdict = subject.verdicts[step.path]
            repeated = _repeated_defaults(subject, step.rule)
            for dead in verdict.dead:
                if dead.case not in repeated:
                    _dead(subject, step.rule, dead)
            if not verdict.dead:
                _left_open(subject, step.rule, verdict)


def _repeated_defaults(subject: Subject, cases: Sequence[Case]) -> set[int]:
    """Report every `default` but the first; returns where they are."""
    first, *others = [at for at, case in enumerate(cases) if case.case == "default"] or [0]
    for at in others:
        label = _first_one(subject, cases[first])
        subject.report("NP206", "`default` is there already", (*cases[at].path, "case"), labels=[label])
    return set(others)


def _dead(subject: Subject, cases: Sequence[Case], dead: Dead) -> None:
    case = cases[dead.case]
    labels: list[Label] = []
    if dead.is_never_true:
        reason = "its guard is never true"
    elif dead.by is None:
        reason = "the cases before it take everything"
    else:
        before = cases[dead.by]
        formula = candidate_of(case.case).formula
        if formula == candidate_of(before.case).formula and not isinstance(formula, Known):
            hint = "ask for something else, or remove the case"
            message = "a case before it has the same guard, so that this one is never taken"
            path = (*case.path, "case")
            subject.report("NP404", message, path, hint, labels=[_first_one(subject, before)])
            return
        always = "always " if dead.always else ""
        fails = ", or fails" if dead.may_fail else ""
        when = "" if dead.always else f"{',' if fails else ''} whenever its guard is true"
        reason = f"a case before it is {always}taken{fails}{when}"
        labels = [Label(subject.document.span((*before.path, "case")), "this one")]
    message = f"the case can never be taken: {reason}"
    subject.report("NP203", message, (*case.path, "case"), labels=labels, key=True)


def _first_one(subject: Subject, case: Case) -> Label:
    return Label(subject.document.span((*case.path, "case")), "the first one is here")


def _left_open(subject: Subject, cases: Sequence[Case], verdict: Verdict) -> None:
    """Report a choice between several cases none of which may be true. One alone says on which condition a branch goes on, and
    of a guard that is not an expression nobody knows what it was to be.
    """
    if verdict.left_open is None or verdict.choices < 2:
        return
    if all(candidate_of(case.case).formula is not None for case in cases):
        values = f" where {verdict.left_open}" if verdict.left_open else ""
        message = f"it may be that no case is true{values}: the branch then ends here"
        hint = "say what is to happen then: `case: default`, with `run: []` if nothing is"
        subject.report("NP208", message, cases[0].path[:-1], hint, key=True)
