"""The attempts at one action: it is called until it succeeds, has failed for good, or waits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
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
from noetl.planner.frozen import frozen
from noetl.planner.plan import Action, action_from_json
from noetl.planner.templates.template import EvaluationError, is_true, parse_template

MAX_HELD_DELAY_SECONDS = 10.0
"""A longer wait between two attempts of an action is a pause of its step: it holds no thread."""

PARAMETER_SUFFIX = "~"
"""What the position of an action ends with that is a parameter of another one."""

logger = logging.getLogger("noetl.executor")


@frozen
class RetryLoop:
    """The attempts at an action that stands at a position of the work. `args` are those of the task that it is in."""

    context: WorkContext
    action: Action
    scope: Scope
    position: str
    args: Mapping[str, Any] | None

    def run(self) -> Any:
        """What the action gives in the end.

        Raises:
            ActionError: it fails, and is not tried again.
            Suspended: it waits, or is tried again much later.
            CancelledError: it is given up while it waits to be tried again.
        """
        action, scope, position, clock = self.action, self.scope, self.position, self.context.clock
        kept = self.context.journal.get(position)
        tries = [scope.run.resumes, scope.visit.attempt]
        again = tries != ([0, 1] if kept is None else kept["tries"])
        attempt = 1 if kept is None or again else kept["attempt"]
        begun = 1 if kept is None else kept["begun"] + again
        memory = None if kept is None else kept.get("memory")
        while True:
            started = None if kept is None else kept["started_at"]
            if started is None:
                started = clock()
                self._note("action.started", started, {"action": action.type, "position": position})
            wait = derived_id("wait", scope.visit.id, position, attempt, begun)
            try:
                data = self._attempt(wait, memory, again=again)
            except Suspend as waits:
                entry = {
                    "action": action.type,
                    "attempt": attempt,
                    "begun": begun,
                    "tries": tries,
                    "started_at": started,
                    "memory": waits.state,
                }
                awaits = [waits.wait_id] if waits.wait_id is not None else []
                raise WorkSuspended({position: entry}, waits.due_at, awaits, actions=[action.type]) from None
            except ActionError as problem:
                error = scope.failure(problem, action.type)
                payload = {"action": action.type, "position": position, "error": redact(error)}
                seconds = self._seconds_before_retry(problem, attempt)
                if seconds is None:
                    self._note("action.failed", clock(), payload, started)
                    raise
                self._note("action.retrying", clock(), payload | {"wait_seconds": seconds}, started)
                kept = memory = None
                attempt += 1
                if self._pauses(seconds):
                    entry = {
                        "action": action.type,
                        "attempt": attempt,
                        "begun": begun,
                        "tries": tries,
                        "started_at": None,
                    }
                    raise WorkSuspended({position: entry}, clock() + seconds, retried=[action.type]) from None
                if self.context.cancelled.wait(seconds):
                    raise CancelledError from None
            else:
                payload = {"action": action.type, "position": position}
                self._note("action.completed", clock(), payload, started)
                return data

    def _attempt(self, wait: str, memory: Any, *, again: bool) -> Any:
        piece, action, scope, position = self.context, self.action, self.scope, self.position
        allowed = piece.capabilities.actions
        if allowed is not None and action.type not in allowed:
            message = f"`{action.type}` may not be used here: {ACTIONS_SETTING} does not name it"
            raise ActionError("ActionDisabled", message, retryable=False)
        declaration = catalogue()[action.type]
        if declaration.suspends:
            piece.wait_ids.add(wait)
        deadline = piece.deadline
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
            piece.capabilities,
            labels,
            _logged(labels),
            piece.cancelled,
            now=piece.clock(),
            state=memory,
            wait_id=wait,
            is_resumed=again,
            timeout_seconds=action.timeout_seconds,
            external_waits=piece.outside,
            perform_action=self._act,
            traceparent=make_traceparent(scope.run, scope.visit.id, scope.visit.attempt, position),
        )
        call.remaining_seconds()
        try:
            return handler(action.type)(call)
        except (ActionError, Suspend, CancelledError, StoreError, FencedError):
            raise
        except Exception as bug:
            logger.exception("the handler of `%s` raised", action.type)
            raise ActionError(type(bug).__name__, f"the handler of `{action.type}` raised: {bug}") from bug

    def _act(self, nested: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
        """What an action gives that is a parameter of this one."""
        inside = replace(self.scope, local={**self.scope.local, **known})
        return RetryLoop(
            self.context, action_from_json(nested), inside, self.position + PARAMETER_SUFFIX, self.args
        ).run()

    def _pauses(self, seconds: float) -> bool:
        """Whether the action is tried again in another piece: after a long wait, or one that this piece has no time for. One that is a
        parameter of another one cannot be.
        """
        is_too_long = seconds > MAX_HELD_DELAY_SECONDS or time.monotonic() + seconds >= self.context.deadline
        return is_too_long and not self.position.endswith(PARAMETER_SUFFIX)

    def _seconds_before_retry(self, problem: ActionError, attempt: int) -> float | None:
        """How long to wait before the next attempt; None where there is none."""
        retry, scope, piece = self.action.retry, self.scope, self.context
        if attempt >= retry.attempts or not problem.retryable:
            return None
        wait = retry_delay_seconds(retry, attempt, scope.run.id, scope.visit.id, self.position)
        if time.monotonic() + wait >= (piece.attempt_deadline if self._pauses(wait) else piece.deadline):
            return None
        if retry.condition is not None:
            lookup = scope.lookup(self.position, self.args, scope.failure(problem, self.action.type))
            try:
                if not is_true(parse_template(retry.condition).evaluate(lookup)):
                    return None
            except EvaluationError:
                # As for a step, the failure is worth more than why nothing can be said about it.
                return None
        return wait

    def _note(self, type: str, at: float, payload: Mapping[str, Any], started: float | None = None) -> None:
        visit = self.scope.visit
        duration = None if started is None else max(at - started, 0.0)
        self.context.events.append(
            Event(type, at, visit.step, visit.number, visit.attempt, duration, payload)
        )


def _logged(labels: Mapping[str, Any]) -> Callable[[str, str, Mapping[str, Any]], None]:
    """Writes what a playbook logs, with what tells its run from others."""

    def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger("noetl.playbook").log(number, message, extra={"fields": fields, "labels": labels})

    return log
