"""What the conditions of a step come to once its work is done: the guards of its rule, and whether it is tried again."""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.engine.scope import Scope
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.transition import GuardError
from noetl.planner.plan import Case, Step
from noetl.planner.templates.template import EvaluationError, Template, is_true, parse_template


def make_guard_test(scope: Scope) -> Callable[[Case, Outcome], bool]:
    """Says of a case and an outcome whether the guard is true; raises GuardError where it has no value."""

    def test(case: Case, outcome: Outcome) -> bool:
        assert case.guard is not None
        template = parse_template(case.guard)
        try:
            return is_true(template.evaluate(scope.with_outcome(outcome).lookup("rule")))
        except EvaluationError as problem:
            if not outcome.failed and _asks_for_error(template, problem):
                return False
            raise GuardError(f"the guard `{case.guard}` has no value: {problem.message}") from problem

    return test


def _asks_for_error(template: Template, problem: EvaluationError) -> bool:
    """Whether a guard has no value only because there is no error whose `type`, say, it could look at."""
    errors = (("error",), ("result", "error"))
    parts = {
        access[len(e)] for access in template.reads for e in errors if access[: len(e)] == e and access != e
    }
    return problem.message in {f"`{part}` is undefined in none" for part in parts}


def make_retry_test(step: Step, scope: Scope) -> Callable[[Outcome], bool]:
    """Says of a failure whether the step is to be tried again; not where nothing can be said about it."""

    def test(outcome: Outcome) -> bool:
        if step.retry.condition is None:
            return True
        try:
            return is_true(
                parse_template(step.retry.condition).evaluate(scope.with_outcome(outcome).lookup("retry"))
            )
        except EvaluationError:
            return False

    return test
