"""The conditions that are evaluated after a step's work: guards of its rule, and its retry condition."""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.engine.scope import Scope
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.transition import GuardError, RuleTests
from noetl.planner.plan import Case, Step
from noetl.planner.templates.template import EvaluationError, Template, is_true, parse_template


def make_rule_tests(step: Step, scope: Scope) -> RuleTests:
    """Return the conditions of a step, which read the names of a scope."""
    return RuleTests(make_guard_test(scope), _make_retry_test(step, scope))


def make_guard_test(scope: Scope) -> Callable[[Case, Outcome], bool]:
    """Return a predicate that evaluates the guard of a case after an outcome.

    It raises GuardError if the guard has no value.
    """

    def test(case: Case, outcome: Outcome) -> bool:
        assert case.guard is not None
        template = parse_template(case.guard)
        try:
            return is_true(template.evaluate(scope.with_outcome(outcome).lookup("rule")))
        except EvaluationError as problem:
            if not outcome.failed and _needs_error(template, problem):
                return False
            raise GuardError(f"guard `{case.guard}` has no value: {problem.message}") from problem

    return test


def _needs_error(template: Template, problem: EvaluationError) -> bool:
    """Return whether a guard has no value only because it reads an attribute of a missing `error`."""
    errors = (("error",), ("result", "error"))
    parts = {
        access[len(e)] for access in template.reads for e in errors if access[: len(e)] == e and access != e
    }
    return problem.message in {f"`{part}` is undefined in none" for part in parts}


def _make_retry_test(step: Step, scope: Scope) -> Callable[[Outcome], bool]:
    """Return a predicate that decides whether to retry after a failure.

    A condition that raises counts as false.
    """

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
