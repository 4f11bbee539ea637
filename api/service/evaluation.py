"""The service of expressions: their values in the state of a run, now or at a visit of a step."""

from __future__ import annotations

from typing import Any

from noetl.api.service.past_runs import PastRunService
from noetl.api.service.run_data import RunDataService
from noetl.api.service.runs import RunService
from noetl.executor.engine.failed_expression import describe_expression
from noetl.executor.engine.past_scope import (
    find_reads,
    load_past_scope,
    load_present_scope,
    load_scope_of_names,
)
from noetl.executor.engine.scope import Scope
from noetl.executor.errors import RejectedError
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.diagnostics.wording import join_words
from noetl.planner.frozen import frozen
from noetl.planner.templates.parser import TemplateProblem
from noetl.planner.templates.template import EvaluationError, Template, has_template, parse_template

OUTCOME_NAMES = frozenset({"result", "error", "step"})
"""Names that only have a value at a visit of a step."""

_UNKEPT = ("items", "action", "skipped")
"""The attributes of `result` that the store does not keep after the end of a step."""


@frozen
class ExpressionRequest:
    """An expression, and the visit of a step at which it is evaluated. Without a step, the run as it is now.

    The latest visit of the step is meant if `visit` is None. The braces of the expression may be left out.
    With `event`, the run is taken as it was after this event, by its id or its number from 1.
    """

    expression: str
    step: str | None = None
    visit: int | None = None
    event: str | None = None


@frozen
class EvaluationService:
    """The evaluation of expressions in the state of the runs of one tenant."""

    runs: RunService
    data: RunDataService
    past_runs: PastRunService

    def evaluate(self, run_id: str, request: ExpressionRequest) -> Any:
        """Return the JSON value of an expression. At a visit, it is the value that a guard of the step has.

        Raises:
            NotFoundError: the tenant has no such run, the run has no such step, or the step no such visit.
            RejectedError: `invalid_expression`: it is malformed, reads what has no value here, or fails.
                `unknown_event`, `no_past`.
        """
        template = _parse(request.expression)
        if request.step is None:
            _check_outside_steps(template)
        if request.event is not None:
            scope = self._load_scope_at_event(run_id, request.event, template, request)
        else:
            scope = self._load_scope(run_id, template, request)
        lookup = scope.lookup("rule")
        try:
            return redact_for_storage(template.evaluate(lookup))
        except EvaluationError as problem:
            facts = describe_expression(template, lookup)
            raise _invalid(f"the expression has no value: {problem.message}", **facts) from problem

    def _load_scope(self, run_id: str, template: Template, request: ExpressionRequest) -> Scope:
        run, store, reads = self.runs.get(run_id), self.data.context.store, find_reads(template)
        if request.step is None:
            return load_present_scope(store, run, reads)
        visit = self.data.find_visit(run, request.step, request.visit).visit
        _check_kept(template, has_ended=visit.finished_at is not None)
        return load_past_scope(store, run, visit, self.runs.plan(run_id), reads)

    def _load_scope_at_event(
        self, run_id: str, event: str, template: Template, request: ExpressionRequest
    ) -> Scope:
        """Return the scope of a visit as it was, or that of all branches: of two writes, the later counts."""
        moment, store, reads = (
            self.past_runs.find(run_id, event),
            self.data.context.store,
            find_reads(template),
        )
        if request.step is None:
            return load_scope_of_names(store, moment.run, moment.holders(), reads)
        visit = self.past_runs.find_visit(moment, request.step, request.visit)
        has_ended = visit.finished_at is not None
        _check_kept(template, has_ended=has_ended)
        if has_ended:
            return load_past_scope(store, moment.run, visit, moment.plan, reads)
        return load_scope_of_names(store, moment.run, visit.names, reads)


def _parse(text: str) -> Template:
    """Return the template of an expression, with or without its braces."""
    source = text if has_template(text) else "{{ " + text.strip() + " }}"
    if not text.strip():
        raise _invalid("the expression is empty; write one, such as `total > 100`")
    try:
        template = parse_template(source)
    except TemplateProblem as problem:
        hint = f"; {problem.hint}" if problem.hint else ""
        raise _invalid(f"invalid expression `{text.strip()}`: {problem.message}{hint}") from problem
    if "secrets" in template.names:
        raise _invalid("the expression reads `secrets`, which are not shown; leave them out")
    return template


def _check_outside_steps(template: Template) -> None:
    names = sorted(template.names & OUTCOME_NAMES)
    if names:
        quoted = join_words([f"`{name}`" for name in names], "and")
        verb = "belongs" if len(names) == 1 else "belong"
        raise _invalid(f"{quoted} {verb} to a visit of a step; name the step with `--step`")


def _check_kept(template: Template, *, has_ended: bool) -> None:
    """Check that the expression reads nothing of `result` that is not known any more, or not yet."""
    for path in template.reads:
        if path[0] != "result":
            continue
        if not has_ended:
            raise _invalid("the visit has not ended, so `result` has no value yet")
        if len(path) == 1 or path[1] in _UNKEPT:
            name = ".".join(path[:2])
            hint = "read `result.data`, `result.error`, `result.success` or `result.failures`"
            raise _invalid(f"the store does not keep `{name}` after the end of a step; {hint}")


def _invalid(message: str, **facts: Any) -> RejectedError:
    return RejectedError("invalid_expression", message, **facts)
