"""The attempts of one action: it is called until it succeeds, fails finally, or suspends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call, Suspend
from noetl.executor.engine.journal import WorkSuspended
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import ActionError, CancelledError, FencedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.tracing import make_traceparent, trace_id
from noetl.executor.model.transition import retry_delay_seconds
from noetl.executor.security.capabilities import ACTIONS_SETTING
from noetl.executor.security.redaction import redact
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.frozen import frozen
from noetl.planner.plan import Action, action_from_json
from noetl.planner.templates.template import EvaluationError, is_true, parse_template

MAX_HELD_DELAY_SECONDS = 10.0
"""The longest delay before a retry that keeps its thread. A longer one suspends the step."""

PARAMETER_SUFFIX = "~"
"""The end of the position of an action that is a parameter of another action."""

logger = logging.getLogger("noetl.executor")


@frozen
class RetryLoop:
    """The attempts of the action at a position of the work. `args` are those of the enclosing task."""

    context: WorkContext
    action: Action
    scope: Scope
    position: str
    args: Mapping[str, Any] | None

    @property
    def declaration(self) -> ActionDeclaration:
        """The declaration of the action's type."""
        return catalogue()[self.action.type]

    def run(self) -> Any:
        """Call the action until it succeeds, and return its result.

        Raises:
            ActionError: the last attempt failed.
            WorkSuspended: the action waits, or the delay before its retry is long.
            CancelledError: the run was cancelled during the delay before a retry.
        """
        action, scope, position, clock = self.action, self.scope, self.position, self.context.clock
        entry = self.context.journal.get(position)
        tries = [scope.run.resumes, scope.visit.attempt]
        is_resumed = tries != ([0, 1] if entry is None else entry["tries"])
        attempt = 1 if entry is None or is_resumed else entry["attempt"]
        begun = 1 if entry is None else entry["begun"] + is_resumed
        state = None if entry is None else entry.get("memory")
        while True:
            started_at = None if entry is None else entry["started_at"]
            if started_at is None:
                started_at = clock()
                self._record_event(
                    "action.started", started_at, {"action": action.type, "position": position}
                )
            wait_id = derived_id("wait", scope.visit.id, position, attempt, begun)
            try:
                data = self._attempt(wait_id, state, is_resumed=is_resumed)
            except Suspend as suspend:
                waiting = self._entry(attempt, begun, tries, started_at) | {"memory": suspend.state}
                awaits = [suspend.wait_id] if suspend.wait_id is not None else []
                raise WorkSuspended(
                    {position: waiting}, suspend.due_at, awaits, actions=[action.type]
                ) from None
            except ActionError as problem:
                seconds = self._record_failure(problem, attempt, started_at)
                if seconds is None:
                    raise
                entry = state = None
                attempt += 1
                if self._must_suspend(seconds):
                    retrying = self._entry(attempt, begun, tries, None)
                    raise WorkSuspended(
                        {position: retrying}, clock() + seconds, retried=[action.type]
                    ) from None
                if self.context.cancelled.wait(seconds):
                    raise CancelledError from None
            else:
                payload = {"action": action.type, "position": position}
                self._record_event("action.completed", clock(), payload, started_at)
                return data

    def _entry(self, attempt: int, begun: int, tries: list[int], started_at: float | None) -> dict[str, Any]:
        """Return the journal entry of the action."""
        return {
            "action": self.action.type,
            "attempt": attempt,
            "begun": begun,
            "tries": tries,
            "started_at": started_at,
        }

    def _record_failure(self, problem: ActionError, attempt: int, started_at: float) -> float | None:
        """Record that an attempt failed. Return the seconds before the next attempt, or None."""
        error = self.scope.failure(problem, self.action.type)
        payload = {"action": self.action.type, "position": self.position, "error": redact(error)}
        seconds = self._seconds_before_retry(problem, attempt)
        if seconds is None:
            self._record_event("action.failed", self.context.clock(), payload, started_at)
        else:
            payload |= {"wait_seconds": seconds}
            self._record_event("action.retrying", self.context.clock(), payload, started_at)
        return seconds

    def _attempt(self, wait_id: str, state: Any, *, is_resumed: bool) -> Any:
        """Render the parameters, call the handler once, and return its result."""
        context, action, scope, position = self.context, self.action, self.scope, self.position
        allowed = context.capabilities.actions
        if allowed is not None and action.type not in allowed:
            message = f"action type `{action.type}` is not allowed here: {ACTIONS_SETTING} does not name it"
            raise ActionError("ActionDisabled", message, retryable=False)
        declaration = self.declaration
        if declaration.suspends:
            context.wait_ids.add(wait_id)
        deadline = context.deadline
        if action.timeout_seconds is not None and not declaration.suspends:
            deadline = min(deadline, time.monotonic() + action.timeout_seconds)
        parameters = render_parameters(declaration, action.parameters, scope.lookup(position, self.args))
        labels = {
            "run": scope.run.id,
            "step": scope.visit.step,
            "visit": scope.visit.number,
            "trace": trace_id(scope.run),
        }
        call = Call(
            parameters,
            scope.idempotency_key(position),
            deadline,
            context.capabilities,
            labels,
            _make_playbook_log(labels),
            context.cancelled,
            now=context.clock(),
            state=state,
            wait_id=wait_id,
            is_resumed=is_resumed,
            timeout_seconds=action.timeout_seconds,
            external_waits=context.external_waits,
            perform_action=self._perform_nested,
            traceparent=make_traceparent(scope.run, scope.visit.id, scope.visit.attempt, position),
        )
        call.remaining_seconds()
        try:
            data = handler(action.type)(call)
            check_saved_names(declaration.saved_names(action.parameters), data)
        except (ActionError, Suspend, CancelledError, StoreError, FencedError):
            raise
        except Exception as bug:
            logger.exception("the handler of `%s` raised", action.type)
            raise ActionError(type(bug).__name__, f"the handler of `{action.type}` raised: {bug}") from bug
        return data

    def _perform_nested(self, nested: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
        """Perform an action that is a parameter of this one, with additional local names."""
        scope = replace(self.scope, local={**self.scope.local, **names})
        position = self.position + PARAMETER_SUFFIX
        return RetryLoop(self.context, action_from_json(nested), scope, position, self.args).run()

    def _must_suspend(self, seconds: float) -> bool:
        """Return whether a retry after `seconds` belongs to a later segment.

        This is so after a long delay, or one past the deadline of this segment. A nested action cannot be
        suspended.
        """
        is_too_long = seconds > MAX_HELD_DELAY_SECONDS or time.monotonic() + seconds >= self.context.deadline
        return is_too_long and not self.position.endswith(PARAMETER_SUFFIX)

    def _seconds_before_retry(self, problem: ActionError, attempt: int) -> float | None:
        """Return the delay before the next attempt, or None if the action is not retried."""
        retry, scope, context = self.action.retry, self.scope, self.context
        if attempt >= retry.attempts or not problem.retryable:
            return None
        delay = retry_delay_seconds(retry, attempt, scope.run.id, scope.visit.id, self.position)
        deadline = context.attempt_deadline if self._must_suspend(delay) else context.deadline
        if time.monotonic() + delay >= deadline:
            return None
        if retry.condition is not None:
            lookup = scope.lookup(self.position, self.args, scope.failure(problem, self.action.type))
            try:
                if not is_true(parse_template(retry.condition).evaluate(lookup)):
                    return None
            except EvaluationError:
                # The failure of the action says more than the failure of its condition.
                return None
        return delay

    def _record_event(
        self, type: str, happened_at: float, payload: Mapping[str, Any], started_at: float | None = None
    ) -> None:
        visit = self.scope.visit
        duration = None if started_at is None else max(happened_at - started_at, 0.0)
        self.context.events.append(
            Event(type, happened_at, visit.step, visit.number, visit.attempt, duration, payload)
        )


def check_saved_names(names: Iterable[str], data: Any) -> None:
    """Check that the result of a handler has a value for each name that its declaration says it saves.

    Raises:
        TypeError: a value is missing.
    """
    for name in names:
        if not isinstance(data, Mapping) or name not in data:
            raise TypeError(f"its result must have a value for `{name}`")


def _make_playbook_log(labels: Mapping[str, Any]) -> Callable[[str, str, Mapping[str, Any]], None]:
    """Return the log function of a playbook, which labels each line with its run and step."""

    def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger("noetl.playbook").log(number, message, extra={"fields": fields, "labels": labels})

    return log
