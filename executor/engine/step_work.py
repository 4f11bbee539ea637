"""The work of a visit in one invocation segment: of its step and of a case, and the tests of its rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from noetl.executor.engine.cached_work import CachedWork, read_values
from noetl.executor.engine.failed_expression import describe_expression, expression_error
from noetl.executor.engine.journal import IN_PLACE, with_used_time
from noetl.executor.engine.loop import LoopRun
from noetl.executor.engine.perform import perform
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.skips import is_set, split_run
from noetl.executor.engine.work_context import InvocationTime, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.finished_items import ITEMS
from noetl.executor.model.gates import SlotRequest, refusal_payload
from noetl.executor.model.outcome import (
    Cancelled,
    Choice,
    Outcome,
    Suspension,
    WorkResult,
    WorkSuspension,
    error_record,
    place_error,
)
from noetl.executor.model.run import Claim, ErrorRecord, Progress
from noetl.executor.model.transition import GuardError, RuleTests
from noetl.executor.model.visit_transition import describe_skip, read_skip, step_skipped
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Case, Loop, Repeat, Step, Work
from noetl.planner.templates.template import EvaluationError, Template, is_true, parse_template

StepResult: TypeAlias = Outcome | Suspension | Cancelled
"""What the work of a step or of a case returns."""


@frozen
class StepWork:
    """The work of a claimed visit, from where it was last suspended, in the scope of the visit.

    `refusal` is why the work of the step must not be performed, or None. With `unmet`, a limit was full, and
    the step succeeds without its work.
    """

    step: Step
    claim: Claim
    scope: Scope
    context: WorkContext
    invocation: InvocationTime
    refusal: ErrorRecord | None
    unmet: SlotRequest | None = None

    def perform(self) -> StepResult:
        """Perform the work of the step. If in-place work was suspended, return the outcome before it."""
        skip = read_skip(self.claim.visit, self.claim.run.resumes)
        if skip is not None:
            return self._skip(skip)
        if self.refusal is not None:
            return Outcome(False, None, self.refusal)
        if self.unmet is not None:
            reason = refusal_payload(self.unmet)
            self.context.events.append(step_skipped(self.claim.visit, reason, self.context.clock()))
            return Outcome(skipped=True, saved=dict(self.scope.saved), left_out=reason)
        if IN_PLACE in self.context.journal:
            entry = self.context.journal[IN_PLACE]
            stored = Outcome.from_list(entry["outcome"])
            failures = tuple(entry.get("failures", ()))
            left_out = entry.get("left_out")
            return replace(stored, saved=dict(self.scope.saved), failures=failures, left_out=left_out)
        progress = self.claim.visit.progress or Progress()
        result = self._perform_round(progress.round)
        if isinstance(result, WorkSuspension):
            return self._suspend(self.context, result, progress.round, self.scope.saved)
        if self.step.repeat is not None and isinstance(result, Outcome) and not result.failed:
            return self._check_repeat(self.step.repeat, result, progress.round + 1)
        return result

    def _skip(self, skip: Mapping[str, Any]) -> StepResult:
        """Return the outcome as if the work had succeeded with a result.

        The result is that of the last action which is no `set`. So its `as` saves it, and the `set` actions
        after it are performed. Those of a loop or of parallel work are not.
        """
        step, context, scope, result = self.step, self.context, self.scope, skip["result"]
        reason = describe_skip(skip)
        context.events.append(step_skipped(self.claim.visit, reason, context.clock()))
        item, later = split_run(step)
        if item is None:
            return Outcome(data=result, saved=dict(scope.saved), left_out=reason)
        names = dict(result) if is_set(item) and isinstance(result, Mapping) else {}
        names |= {} if item.save_as is None else {item.save_as: result}
        try:
            scope.save(names, context.memory_budget)
        except ActionError as problem:
            return self._failed(problem)
        if not later:
            return Outcome(data=result, saved=dict(scope.saved), left_out=reason)
        after = replace(context, journal={"run": {"at": len(step.run) - len(later)}})
        outcome = perform(after, step.run, scope, "run")
        assert not isinstance(outcome, WorkSuspension)
        return replace(outcome, left_out=reason) if isinstance(outcome, Outcome) else outcome

    def suspended_choice(self, outcome: Outcome) -> Choice | None:
        """Return the choice of the case whose in-place work was suspended, or None."""
        begun = self.context.journal.get(IN_PLACE)
        return None if begun is None else Choice(outcome, begun["failed"], begun["case"])

    def perform_in_place(self, choice: Choice, work: tuple[Work, ...]) -> StepResult:
        """Perform the in-place work of the chosen case."""
        context, scope = self.context, self.scope.with_outcome(choice.outcome)
        if IN_PLACE not in context.journal:
            # Its time starts anew, because it may handle a `Timeout`.
            deadlines = self.invocation.deadlines(self.step, self.claim.run, context.clock())
            context = replace(context, deadlines=deadlines)
        result = perform(context, work, scope, f"rule.{choice.case}")
        if isinstance(result, WorkSuspension):
            stored = choice.outcome.to_list()
            entry: dict[str, Any] = {"case": choice.case, "failed": choice.failed, "outcome": stored}
            if choice.outcome.failures:
                entry["failures"] = list(choice.outcome.failures)
            if choice.outcome.left_out is not None:
                entry["left_out"] = dict(choice.outcome.left_out)
            return self._suspend(context, result.with_entry(IN_PLACE, entry), 0, scope.saved)
        if isinstance(result, Cancelled):
            return result
        saved, error = redact_for_storage(result.saved), redact_for_storage(result.error)
        return replace(result, saved=saved, error=error)

    def _perform_round(self, round: int) -> WorkResult:
        """Perform the work of the step once: one round of `repeat`, or one batch of a loop."""
        step, position = self.step, "run" if round == 0 else f"run~{round}"
        if step.loop is None:
            return self._perform_run(self.context, self.scope, position)
        try:
            return self._perform_loop(step.loop, position)
        except ActionError as problem:
            return self._failed(problem)

    def _perform_loop(self, loop: Loop, position: str) -> WorkResult:
        loop_run = LoopRun(self.context, loop, self._perform_run, self.scope, position)
        return loop_run.run(self.scope.lookup("loop"))

    def _perform_run(self, context: WorkContext, scope: Scope, position: str) -> WorkResult:
        """Perform the work of the step, or of an item of its loop, unless the cache has its result."""
        step, cache = self.step, self.step.cache

        def work(work_context: WorkContext) -> WorkResult:
            return perform(work_context, step.run, scope, position, parallel=step.parallel)

        allowed = context.capabilities.actions
        if cache is None or (allowed is not None and not {*cache.types}.issubset(allowed)):
            return work(context)
        lookup = scope.lookup(position)
        return CachedWork(context, cache, scope, position, partial(read_values, cache, lookup)).run(work)

    def _check_repeat(self, repeat: Repeat, outcome: Outcome, rounds: int) -> StepResult:
        """Return the outcome if `repeat.until` is true, a failure if it cannot become true, or a suspension.

        `rounds` is the number of completed rounds.
        """
        lookup = self.scope.with_outcome(outcome).lookup("repeat")
        until = parse_template(repeat.until)
        try:
            is_last = self.context.until_stopped(lambda: is_true(until.evaluate(lookup)))
        except EvaluationError as problem:
            error = expression_error(problem, until, lookup)
            return self._failed(error.at_key("repeat.until").with_key_in_message())
        except ActionError as problem:
            return self._failed(problem.at_key("repeat.until").with_key_in_message())
        if isinstance(is_last, Cancelled):
            return is_last
        if is_last:
            return outcome
        if rounds >= repeat.max_rounds:
            message = f"`repeat.until` is not true after {rounds} rounds"
            place = describe_expression(until, lookup)
            return self._failed(ActionError("RepeatExhausted", message).with_place(place))
        next_round = WorkSuspension({}, self.context.clock() + repeat.every_seconds)
        return self._suspend(self.context, next_round, rounds, outcome.saved)

    def _failed(self, problem: ActionError) -> Outcome:
        place = {**problem.place, "line": self.step.line}
        error = error_record(self.claim.visit, problem.type, problem.message)
        return Outcome(False, None, place_error(error, place))

    def _suspend(
        self, context: WorkContext, suspended: WorkSuspension, round: int, saved: Mapping[str, Any]
    ) -> Suspension:
        """Return the suspension of the visit: what its work waits for and what it has saved, without secrets.

        Unless another attempt follows, the journal has the time that this one has used.
        """
        journal, due_at = self._with_items(context, suspended), suspended.due_at
        if journal and not suspended.batch_results:
            journal = self._with_time(context, journal, is_retried=bool(suspended.retried))
        if self.step.is_finally_step:
            # The deadline of the run does not stop the finally step, which has a time limit of its own. The
            # visit must be due again when that limit is reached.
            remaining = max(context.deadlines.attempt - time.monotonic(), 0.0)
            due_at = min(due_at, context.clock() + remaining)
        return Suspension(
            Progress(round, redact_for_storage(journal)),
            due_at,
            redact_for_storage(dict(saved)),
            tuple(replace(r, outcomes=redact_for_storage(r.outcomes)) for r in suspended.batch_results),
            suspended.awaits,
            suspended.actions,
            suspended.retried,
            tuple(redact_for_storage(suspended.titles)),
        )

    def _with_items(self, context: WorkContext, suspended: WorkSuspension) -> Mapping[str, Any]:
        """Return the journal with the items that loops have finished before a failure.

        Another round does not need them, nor does another batch of their loop.
        """
        over = {result.loop for result in suspended.batch_results}
        records = {
            loop: record for loop, record in context.journal.get(ITEMS, {}).items() if loop not in over
        }
        return {**suspended.journal, ITEMS: records} if suspended.journal and records else suspended.journal

    def _with_time(
        self, context: WorkContext, journal: Mapping[str, Any], *, is_retried: bool
    ) -> Mapping[str, Any]:
        """Return the journal with the time used.

        Suspensions of the finally step count as used time, and so do delays before a retry.
        """
        used_seconds = time.monotonic() - context.deadlines.attempt_started
        counts = self.step.is_finally_step or is_retried
        counts_since = context.clock() if counts else None
        return with_used_time(journal, self.claim, used_seconds, counts_since)


def make_rule_tests(step: Step, scope: Scope) -> RuleTests:
    """Return the conditions of a step, which read the names of a scope."""
    return RuleTests(make_guard_test(scope), _make_retry_test(step, scope))


def make_guard_test(scope: Scope) -> Callable[[Case, Outcome], bool]:
    """Return a predicate that evaluates the guard of a case after an outcome.

    It raises GuardError if the guard has no value.
    """

    def test(case: Case, outcome: Outcome) -> bool:
        assert case.guard is not None
        template, lookup = parse_template(case.guard), scope.with_outcome(outcome).lookup("rule")
        try:
            return is_true(template.evaluate(lookup))
        except EvaluationError as problem:
            if not outcome.failed and _needs_error(template, problem):
                return False
            message = f"guard `{case.guard}` has no value: {problem.message}"
            raise GuardError(message, describe_expression(template, lookup)) from problem

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
