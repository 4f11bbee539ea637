"""The attempts of one action: it is called until it succeeds, fails finally, or suspends."""

from __future__ import annotations

import heapq
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from noetl.executor.actions import catalogue, handler
from noetl.executor.actions.action import Call, Suspend
from noetl.executor.engine.cached_work import CachedWork, read_action_key
from noetl.executor.engine.failed_expression import name_parameter
from noetl.executor.engine.kept_data import ActionCall
from noetl.executor.engine.rendering import render_parameters
from noetl.executor.engine.run_bytes import Log, limit_files, limit_log
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import WorkContext
from noetl.executor.errors import PLACE_MEMBERS, ActionError, CancelledError, FencedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.json_values import MAX_DEPTH, is_too_deep, measure_json_value, to_json_value
from noetl.executor.model.memory_budget import AnswerMemory
from noetl.executor.model.outcome import CANCELLED, Cancelled, Outcome, WorkResult, WorkSuspension
from noetl.executor.model.run import ErrorRecord
from noetl.executor.model.stored_json import exceeds
from noetl.executor.model.tracing import make_traceparent, trace_labels, trace_state
from noetl.executor.model.transition import delay_after_failure
from noetl.executor.precedence import end_slice, wait_for_slice
from noetl.executor.security.capabilities import ACTIONS_SETTING
from noetl.executor.security.redaction import redact, redacted_head
from noetl.executor.security.secret_access import SecretAccess
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Action, action_from_json
from noetl.planner.templates.template import EvaluationError, is_true, parse_template

MAX_HELD_DELAY_SECONDS = 1.0
"""How long the delays before retries of an action may keep its thread together. Then they suspend the step.
"""

MAX_ERROR_MESSAGE = 16 * 1024
"""How many characters of the message of an error are kept, as many as of a line of the log."""

MAX_ERROR_TYPE = 200
"""How many characters of the type of an error are kept. A playbook may choose both."""

MAX_ERROR_DETAILS = 256 * 1024
"""How many characters of JSON the details of an error have. Larger entries are none."""

_MAX_LEFT_OUT = 10
"""How many entries are left out of the details of an error."""

PARAMETER_SUFFIX = "~"
"""The end of the position of an action that is a parameter of another action."""

_HALF_PAIR = re.compile("[\\ud800-\\udfff]")

logger = logging.getLogger("noetl.executor")


class _NestedSuspension(Suspend):
    """The suspension of an action that is a parameter of another one, before its next attempt."""

    def __init__(self, suspension: WorkSuspension) -> None:
        super().__init__(None, suspension.due_at)
        self.suspension = suspension


@frozen
class _Attempt:
    """One attempt at an action: its number from 1, when it started, and the state of its last `Suspend`.

    `tries` are the resumes of the run and the attempt of the visit. `is_resumed` is true if they have changed
    since the action began; `begun` counts these changes from 1. `is_new` is true in the segment in which the
    attempt started.
    """

    number: int
    begun: int
    tries: list[int]
    is_resumed: bool
    started_at: float | None = None
    state: Any = None
    is_new: bool = False

    def next(self) -> _Attempt:
        return _Attempt(self.number + 1, self.begun, self.tries, self.is_resumed)


@frozen
class RetryLoop:
    """The attempts of the action at a position of the work."""

    context: WorkContext
    action: Action
    scope: Scope
    position: str

    def run(self) -> WorkResult:
        """Call the action until it succeeds, fails finally, waits, or the run is cancelled.

        The work is also suspended if the delays before retries are long. With a cache, the action is not
        called if it has a result.
        """
        cache, action = self.action.cache, self.action
        if cache is None or self.context.results is None or not self._is_allowed():
            return self.run_attempts()
        lookup, declaration = self.scope.lookup(self.position), catalogue()[action.type]
        cached = CachedWork(
            self.context,
            cache,
            self.scope,
            self.position,
            partial(read_action_key, action, declaration, lookup, cache),
            action.type,
            action.line,
        )
        result = cached.run(lambda context: replace(self, context=context).run_attempts())
        if isinstance(result, WorkSuspension) and "tries" not in result.journal[self.position]:
            return result.with_entry(self.position, self._journal(self._first_attempt())[self.position])
        return result

    def run_attempts(self) -> WorkResult:
        """Call the action as `run` does, without the cache."""
        attempt, held_seconds = self._first_attempt(), 0.0
        while True:
            attempt = self._start(attempt)
            result = self._perform(attempt)
            if not isinstance(result, Outcome):
                self._keep_failure(attempt, None)
                return result
            delay = (
                None
                if result.error is None
                else self._seconds_before_retry(result.error, attempt, held_seconds)
            )
            self._record_end(attempt, result, delay)
            if delay is None:
                return result
            attempt = attempt.next()
            held_seconds += delay
            if self._must_suspend(delay, held_seconds):
                due_at = self.context.clock() + delay
                return WorkSuspension(self._journal(attempt), due_at, retried=(self.action.type,))
            end_slice()
            if self.context.cancelled.wait(delay):
                return CANCELLED

    def _first_attempt(self) -> _Attempt:
        """Return the attempt with which the action begins, or continues after a suspension."""
        entry = self.context.journal.get(self.position)
        tries = [self.scope.run.resumes, self.scope.visit.attempt]
        if entry is None:
            return _Attempt(1, 1, tries, tries != [0, 1])
        is_resumed = tries != entry["tries"]
        number, begun = 1 if is_resumed else entry["attempt"], entry["begun"] + is_resumed
        return _Attempt(number, begun, tries, is_resumed, entry["started_at"], entry.get("memory"))

    def _start(self, attempt: _Attempt) -> _Attempt:
        """Return the attempt with its start. It is new unless it started before a suspension."""
        if attempt.started_at is not None:
            return attempt
        now = self.context.clock()
        return _Attempt(
            attempt.number, attempt.begun, attempt.tries, attempt.is_resumed, now, attempt.state, is_new=True
        )

    def _perform(self, attempt: _Attempt) -> WorkResult:
        """Call the handler once. Its exceptions become results here, and nowhere else."""
        type = self.action.type
        try:
            return self._call_handler(attempt)
        except ActionError as problem:
            return Outcome(False, None, self.scope.failure(problem, type, self.action.line), type)
        except _NestedSuspension as nested:
            journal = {**self._journal(attempt, memory=attempt.state), **nested.suspension.journal}
            return replace(nested.suspension, journal=journal)
        except Suspend as suspend:
            awaits = () if suspend.wait_id is None else (suspend.wait_id,)
            journal = self._journal(attempt, memory=suspend.state)
            titles = _titles_of(catalogue()[type], suspend.state)
            return WorkSuspension(journal, suspend.due_at, awaits, actions=(type,), titles=titles)
        except CancelledError:
            return CANCELLED

    def _call_handler(self, attempt: _Attempt) -> Outcome:
        """Return the data of the handler, with the names that the type of the action saves.

        An unexpected exception becomes an ActionError.
        """
        action = self.action
        declaration = catalogue()[action.type]
        deadline, limit = self._deadline(declaration)
        secrets = SecretAccess(self.scope.run.tenant, self.context.capabilities.secret_hosts)
        call: Call | None = None
        try:
            with self.context.stopping(deadline, limit), self.context.memory_budget.receiving() as answer:
                try:
                    self._check_allowed()
                    wait_for_slice()
                    self.context.actions.take()
                    call = self._make_call(declaration, attempt, answer, secrets)
                    call = replace(call, deadline=deadline, limit=limit)
                finally:
                    self._record_start(attempt, declaration, call, secrets)
                call.remaining_seconds()
                if not declaration.cannot_fail:
                    end_slice()  # The handler may block.
                with self._place_to_wait() if declaration.suspends else nullcontext():
                    data = handler(action.type)(call)
            data = _receive(data)
            saved = read_saved_names(declaration.saved_names(action.parameters), data)
        except ActionError as problem:
            lookup = self.scope.lookup(self.position)
            named = name_parameter(problem, declaration, action.parameters, lookup)
            raise _redacted_error(named) from problem
        except (Suspend, CancelledError, StoreError, FencedError):
            raise
        except Exception as bug:
            raise _unexpected_error(action.type, bug) from bug
        return Outcome(True, data, None, action.type, saved=saved)

    @contextmanager
    def _place_to_wait(self) -> Iterator[None]:
        """Count the action in this block among those that wait, unless it ends without waiting.

        Raises:
            ActionError: `LimitExceeded`, if too many actions of the visit wait.
        """
        self.context.waits.take()
        try:
            yield
        except Suspend:
            raise
        except BaseException:
            self.context.waits.give_back()
            raise
        self.context.waits.give_back()

    def _is_allowed(self) -> bool:
        allowed = self.context.capabilities.actions
        return allowed is None or self.action.type in allowed

    def _check_allowed(self) -> None:
        """Raise an ActionError if the action type is disabled."""
        if not self._is_allowed():
            type = self.action.type
            message = f"action type `{type}` is not allowed here: {ACTIONS_SETTING} does not name it"
            raise ActionError("ActionDisabled", message, retryable=False)

    def _deadline(self, declaration: ActionDeclaration) -> tuple[float, str]:
        """Return the end of the attempt, on `time.monotonic`, and in words the limit that ends there."""
        seconds = None if declaration.suspends else self.action.timeout_seconds
        deadlines = self.context.deadlines
        if seconds is None or (end := time.monotonic() + seconds) >= deadlines.segment:
            return deadlines.segment, deadlines.limit
        return end, f"its `timeout` of {seconds:g} s"

    def _make_call(
        self,
        declaration: ActionDeclaration,
        attempt: _Attempt,
        answer: AnswerMemory | None,
        secrets: SecretAccess,
    ) -> Call:
        """Return the call of the handler, which has no deadline yet.

        Raises:
            ActionError: a parameter cannot be rendered.
            CancelledError: the run was cancelled.
        """
        context, action, scope, position = self.context, self.action, self.scope, self.position
        parameters = render_parameters(declaration, action.parameters, scope.lookup(position), secrets)
        labels = {
            "run": scope.run.id,
            "step": scope.visit.step,
            "visit": scope.visit.number,
            **trace_labels(scope.run),
        }
        return Call(
            parameters,
            scope.idempotency_key(position),
            math.inf,
            context.capabilities,
            labels,
            limit_log(
                labels,
                context.capabilities.log_bytes,
                self._make_log(labels),
                add_to_store=context.add_bytes,
            ),
            context.cancelled,
            now=context.clock(),
            state=attempt.state,
            wait_id=derived_id("wait", scope.visit.id, position, attempt.number, attempt.begun),
            is_resumed=attempt.is_resumed,
            timeout_seconds=action.timeout_seconds,
            external_waits=context.external_waits,
            perform_action=self._perform_nested,
            traceparent=make_traceparent(scope.run, scope.visit.id, scope.visit.attempt, position),
            check_host=secrets.check_host,
            tracestate=trace_state(scope.run),
            count_written=limit_files(
                scope.run.id, context.capabilities.file_bytes, add_to_store=context.add_bytes
            ),
            answer_memory=answer,
            keep_output=lambda stream, text: self._keep_line({"stream": stream, "text": text}),
            tenant=scope.run.tenant,
        )

    def _make_log(self, labels: Mapping[str, Any]) -> Log:
        """Return the log function of the action. It labels each line with the run and step, and keeps it."""
        write = _make_playbook_log(labels)

        def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
            write(level, message, fields)
            details = {"fields": dict(fields)} if fields else {}
            self._keep_line({"stream": "line", "level": level, "text": message, **details})

        return log

    def _keep_line(self, line: Mapping[str, Any]) -> None:
        """Add a line to the history. An empty one is left out."""
        if self.context.kept_data is not None and line["text"]:
            self.context.kept_data.add_line(self.action.type, self.position, line)

    def _perform_nested(self, nested: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
        """Perform an action that is a parameter of this one, with additional local names. Return its data.

        Raises:
            ActionError: the nested action failed.
            CancelledError: the run was cancelled.
            Suspend: the nested action is retried after a long delay. The next segment calls the handler again
                with the state of this call, and continues the nested action at its next attempt.
        """
        action = action_from_json(nested)
        scope = replace(self.scope, local={**self.scope.local, **names})
        result = RetryLoop(self.context, action, scope, self.position + PARAMETER_SUFFIX).run()
        if isinstance(result, Cancelled):
            raise CancelledError
        if isinstance(result, WorkSuspension) and result.retried:
            raise _NestedSuspension(result)
        if isinstance(result, WorkSuspension):
            raise ActionError("ParameterError", f"`{action.type}` cannot wait here", retryable=False)
        if result.error is not None:
            raise _action_error(result.error)
        return result.data

    def _journal(self, attempt: _Attempt, **state: Any) -> dict[str, Any]:
        """Return the journal of the action, with which the next segment continues at this attempt."""
        entry = {
            "action": self.action.type,
            "attempt": attempt.number,
            "begun": attempt.begun,
            "tries": attempt.tries,
            "started_at": attempt.started_at,
        }
        return {self.position: entry | state}

    def _must_suspend(self, seconds: float, held_seconds: float) -> bool:
        """Return whether a retry after `seconds` belongs to a later segment.

        This is so if the delays of this segment are long together, or the last one exceeds its deadline.
        """
        is_past_deadline = time.monotonic() + seconds >= self.context.deadlines.segment
        return held_seconds > MAX_HELD_DELAY_SECONDS or is_past_deadline

    def _seconds_before_retry(
        self, error: ErrorRecord, attempt: _Attempt, held_seconds: float
    ) -> float | None:
        """Return the delay before the next attempt, or None if the action is not retried.

        `held_seconds` are the earlier delays of this segment.
        """
        retry, scope, deadlines = self.action.retry, self.scope, self.context.deadlines
        if attempt.number >= retry.attempts or not error["retryable"]:
            return None
        seed = (scope.run.id, scope.visit.id, self.position)
        delay = delay_after_failure(retry, attempt.number, error, *seed)
        deadline = deadlines.attempt if self._must_suspend(delay, held_seconds + delay) else deadlines.segment
        if time.monotonic() + delay >= deadline or not self._wants_retry(error):
            return None
        return delay

    def _wants_retry(self, error: ErrorRecord) -> bool:
        """Evaluate the condition of the retry. One without a value counts as false."""
        condition = self.action.retry.condition
        if condition is None:
            return True
        try:
            return is_true(parse_template(condition).evaluate(self.scope.lookup(self.position, error)))
        except (EvaluationError, ActionError):
            # The failure of the action says more than the failure of its condition.
            return False

    def _record_start(
        self, attempt: _Attempt, declaration: ActionDeclaration, call: Call | None, secrets: SecretAccess
    ) -> None:
        """Record the start of a new attempt with its input. Without a call, its input has no value."""
        context, started_at, kept = self.context, attempt.started_at, self.context.kept_data
        started = (
            None
            if call is None or kept is None
            else ActionCall(declaration, call.parameters, secrets.has_revealed_short)
        )
        if context.events.drops_events:
            if kept is not None and started is not None:
                kept.remember_call(self.position, started)
            return
        if not attempt.is_new or started_at is None:
            return
        details = {} if kept is None or started is None else kept.describe_input(started)
        self._record_event("action.started", started_at, details)

    def _record_end(self, attempt: _Attempt, outcome: Outcome, delay: float | None) -> None:
        """Record how an attempt ended, and the delay before the next one."""
        if self.context.events.drops_events:
            self._keep_failure(attempt, outcome if delay is None else None)
            return
        now, started_at = self.context.clock(), attempt.started_at
        if outcome.error is None:
            self._record_event("action.completed", now, {}, started_at)
            return
        error = redact(outcome.error)
        if delay is None:
            self._record_event("action.failed", now, {"error": error}, started_at)
        else:
            self._record_event("action.retrying", now, {"error": error, "wait_seconds": delay}, started_at)

    def _keep_failure(self, attempt: _Attempt, outcome: Outcome | None) -> None:
        """Keep the call of an item of a loop until its item has ended if it has failed finally, else drop it.

        Without an outcome, the action waits or is retried.
        """
        kept = self.context.kept_data
        if kept is None:
            return
        if outcome is not None and outcome.error is not None:
            kept.keep_failed_call(self.position, outcome.error, attempt.number)
        else:
            kept.forget_call(self.position)

    def _record_event(
        self, type: str, happened_at: float, details: Mapping[str, Any], started_at: float | None = None
    ) -> None:
        visit = self.scope.visit
        payload = {"action": self.action.type, "position": self.position, **details}
        duration = None if started_at is None else max(happened_at - started_at, 0.0)
        self.context.events.append(
            Event(type, happened_at, visit.step, visit.number, visit.attempt, duration, payload)
        )


def _receive(data: Any) -> Any:
    """Return the data of a handler without secrets, so that no template can take a part of one.

    Raises:
        ActionError: `LimitExceeded`, if the data is nested too deeply.
    """
    if is_too_deep(data):
        message = f"the result is nested more than {MAX_DEPTH} levels deep"
        raise ActionError("LimitExceeded", message, retryable=False)
    return redact(data)


def _unexpected_error(action_type: str, bug: Exception) -> ActionError:
    """Return the error for an exception of a handler. Text that UTF-8 cannot hold is of a parameter."""
    if isinstance(bug, UnicodeEncodeError) and _HALF_PAIR.search(bug.object):
        message = "a text has half of a surrogate pair, which UTF-8 cannot hold"
        return ActionError("ParameterError", message, retryable=False)
    logger.error("the handler of `%s` raised", action_type, exc_info=bug)
    message = f"the handler of `{action_type}` raised: {bug}"
    return ActionError(type(bug).__name__, _redacted_beginning(message, MAX_ERROR_MESSAGE))


def _redacted_error(problem: ActionError) -> ActionError:
    """Return an error without secrets, and without details that are nested too deeply.

    A status, a list of events and a line of the log have its type and its message, so they have limits.
    """
    return ActionError(
        _redacted_beginning(problem.type, MAX_ERROR_TYPE),
        _redacted_beginning(problem.message, MAX_ERROR_MESSAGE),
        retryable=problem.retryable,
        status=problem.status,
        details=None if is_too_deep(problem.details) else redact(_limit_details(problem.details)),
    ).with_place(problem.place)


def _limit_details(details: Any) -> Any:
    """Return details of an error without their largest entries if all together are too large.

    The result of a child run is the largest one, and the error names the run. Details that are still too
    large without some entries are none.
    """
    if details is None or not exceeds(to_json_value(details), MAX_ERROR_DETAILS):
        return details
    if not isinstance(details, Mapping):
        return None
    kept = dict(details)
    sizes = {name: measure_json_value(to_json_value(value), str) for name, value in details.items()}
    for name in heapq.nlargest(_MAX_LEFT_OUT, sizes, key=sizes.__getitem__):
        kept[name] = None
        if not exceeds(to_json_value(kept), MAX_ERROR_DETAILS):
            return kept
    return None


def _redacted_beginning(text: str, length: int) -> str:
    """Return a text without secrets, or its beginning if it is longer.

    >>> _redacted_beginning("abcdef", 3)
    'abc…'
    """
    return str(redact(text)) if len(text) <= length else f"{redacted_head(text, length)}…"


def _titles_of(declaration: ActionDeclaration, state: Any) -> tuple[str, ...]:
    """Return the title of what a suspended action asks a person, if it has one."""
    question = None if declaration.question is None else declaration.question(state)
    title = None if question is None else question.get("title")
    return () if title is None else (title,)


def _action_error(error: ErrorRecord) -> ActionError:
    """Return the exception with which a nested action reports its failure to the handler around it."""
    return ActionError(
        error["type"],
        error["message"],
        retryable=error["retryable"],
        status=error["status"],
        details=error["details"],
    ).with_place({name: value for name, value in error.items() if name in PLACE_MEMBERS})


def read_saved_names(names: Iterable[str], data: Any) -> dict[str, Any]:
    """Return the values of the names that the declaration says it saves, from the result of the handler.

    Raises:
        TypeError: the result has no value for a name, which is a bug of the handler.
    """
    for name in names:
        if not isinstance(data, Mapping) or name not in data:
            raise TypeError(f"its result must have a value for `{name}`")
    return {name: data[name] for name in names}


def _make_playbook_log(labels: Mapping[str, Any]) -> Log:
    """Return the log function of a playbook, which labels each line with its run and step."""

    def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger("noetl.playbook").log(number, message, extra={"fields": fields, "labels": labels})

    return log
