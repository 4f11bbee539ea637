"""Performs the work of a step: its actions and tasks, one after another or together."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from executor.actions import catalogue, handler
from executor.actions.action import Call, Capabilities
from executor.errors import ActionError
from executor.records import ErrorRecord, Event
from executor.rendering import render, render_parameters
from executor.scope import Scope
from executor.secrets import scrub
from executor.transition import Outcome, error_record, retry_delay_seconds
from planner.plan import Action, Task, TaskCall, Work
from planner.templates import EvaluationError, Lookup, is_true, parse

MAX_PARALLEL = 32
logger = logging.getLogger("noetl.executor")


@dataclass(slots=True)
class Performance:
    """One attempt at the work of a visit. `deadline` is on the clock of `time.monotonic`; `events` grow as it goes."""

    task_of: Callable[[str], Task]
    capabilities: Capabilities
    deadline: float
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    events: list[Event] = field(default_factory=list)

    def run(
        self,
        work: Sequence[Work],
        scope: Scope,
        position: str,
        *,
        parallel: bool = False,
        args: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """The outcome of all items: that of the last one, or of the first that failed and was not forgiven."""
        if parallel and len(work) > 1:
            return self._together(work, scope, position, args)
        outcome = Outcome()
        for index, item in enumerate(work):
            outcome = self._item(item, scope, f"{position}.{index}", args)
            if outcome.failed:
                return outcome
        return replace(outcome, saved=dict(scope.saved))

    def _together(self, work: Sequence[Work], scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        scopes = [scope.copy() for _ in work]
        with ThreadPoolExecutor(min(len(work), MAX_PARALLEL), thread_name_prefix="noetl-item") as pool:
            pending = [
                pool.submit(self._item, item, own, f"{position}.{index}", args)
                for index, (item, own) in enumerate(zip(work, scopes, strict=True))
            ]
            outcomes = [future.result() for future in pending]
        before = dict(scope.saved)
        for own in scopes:
            scope.saved.update({n: v for n, v in own.saved.items() if n not in before or before[n] is not v})
        for outcome in outcomes:
            if outcome.failed:
                return Outcome(False, None, outcome.error, outcome.action)
        success = all(outcome.success for outcome in outcomes)
        error = next((outcome.error for outcome in outcomes if outcome.error), None)
        data = [outcome.data for outcome in outcomes]
        return Outcome(success, data, error, saved=dict(scope.saved), forgiven=not success)

    def _item(self, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        name = item.task if isinstance(item, TaskCall) else item.type
        lookup = scope.lookup(position, args)
        before = dict(scope.saved)
        try:
            if item.condition is not None and not is_true(_evaluate(item.condition, lookup, "if")):
                return Outcome(action=name, skipped=True)
            if isinstance(item, TaskCall):
                outcome = self._task(item, scope, position, lookup)
            else:
                outcome = Outcome(True, self._action(item, scope, position, args), None, name)
        except ActionError as problem:
            outcome = Outcome(False, None, _record(scope, problem, name), name)
        if outcome.failed:
            scope.saved = before
            return replace(outcome, forgiven=item.forgiven)
        if item.save_as is not None:
            scope.saved[item.save_as] = outcome.data
        if isinstance(item, Action) and item.type == "set":
            scope.saved.update(outcome.data)
        return outcome

    def _task(self, call: TaskCall, scope: Scope, position: str, lookup: Lookup) -> Outcome:
        task = self.task_of(call.task)
        args = render(dict(call.args), None, lookup)
        return self.run(task.run, scope, f"{position}/{call.task}", parallel=task.parallel, args=args)

    def _action(self, action: Action, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Any:
        attempt = 0
        while True:
            attempt += 1
            started = self.clock()
            self._note(scope, "action.started", started, {"action": action.type, "position": position})
            try:
                data = self._attempt(action, scope, position, args)
            except ActionError as problem:
                record = _record(scope, problem, action.type)
                payload = {"action": action.type, "position": position, "error": scrub(record)}
                wait = self._wait_before_retry(action, scope, position, args, problem, attempt)
                if wait is None:
                    self._note(scope, "action.failed", self.clock(), payload, started)
                    raise
                self._note(scope, "action.retrying", self.clock(), payload | {"wait_seconds": wait}, started)
                self.pause(wait)
            else:
                payload = {"action": action.type, "position": position}
                self._note(scope, "action.completed", self.clock(), payload, started)
                return data

    def _attempt(self, action: Action, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Any:
        deadline = self.deadline
        if action.timeout_seconds is not None:
            deadline = min(deadline, time.monotonic() + action.timeout_seconds)
        lookup = scope.lookup(position, args)
        parameters = render_parameters(catalogue()[action.type], action.parameters, lookup)
        labels = {"run": scope.run.id, "step": scope.visit.step, "visit": scope.visit.number}
        call = Call(parameters, scope.idempotency_key(position), deadline, self.capabilities, labels)
        call.remaining_seconds()
        try:
            return handler(action.type)(call)
        except ActionError:
            raise
        except Exception as bug:
            logger.exception("the handler of `%s` raised", action.type)
            raise ActionError(type(bug).__name__, f"the handler of `{action.type}` raised: {bug}") from bug

    def _wait_before_retry(
        self,
        action: Action,
        scope: Scope,
        position: str,
        args: Mapping[str, Any] | None,
        problem: ActionError,
        attempt: int,
    ) -> float | None:
        retry = action.retry
        if attempt >= retry.attempts or not problem.retryable:
            return None
        wait = retry_delay_seconds(retry, attempt, scope.run.id, scope.visit.id, position)
        if time.monotonic() + wait >= self.deadline:
            return None
        if retry.condition is not None:
            lookup = scope.lookup(position, args, _record(scope, problem, action.type))
            try:
                if not is_true(parse(retry.condition).evaluate(lookup)):
                    return None
            except EvaluationError:
                # As for a step, the failure is worth more than why nothing can be said about it.
                return None
        return wait

    def _note(
        self, scope: Scope, type: str, at: float, payload: Mapping[str, Any], started: float | None = None
    ) -> None:
        visit = scope.visit
        duration = None if started is None else max(at - started, 0.0)
        self.events.append(Event(type, at, visit.step, visit.number, visit.attempt, duration, payload))


def _evaluate(text: str, lookup: Lookup, what: str) -> Any:
    try:
        return parse(text).evaluate(lookup)
    except EvaluationError as problem:
        raise ActionError(problem.type, f"`{what}`: {problem.message}", retryable=False) from problem


def _record(scope: Scope, problem: ActionError, action: str) -> ErrorRecord:
    return error_record(
        scope.visit,
        problem.type,
        problem.message,
        action=action,
        retryable=problem.retryable,
        status=problem.status,
        details=problem.details,
    )
