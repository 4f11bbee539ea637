"""Performs the work of a step: its actions and tasks, one after another or together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from executor.actions import catalogue, handler
from executor.actions.action import Call, Capabilities
from executor.actions.wait import due
from executor.errors import ActionError
from executor.records import ErrorRecord, Event
from executor.rendering import render, render_parameters
from executor.scope import Scope
from executor.secrets import scrub
from executor.transition import Outcome, error_record, retry_delay_seconds
from executor.values import plain
from planner.kinds import described
from planner.plan import Action, Loop, Task, TaskCall, Work
from planner.templates import EvaluationError, Lookup, is_true, parse

MAX_PARALLEL = 32
logger = logging.getLogger("noetl.executor")


class Suspended(Exception):
    """The item at `index` waits until `due_at` with nothing held."""

    def __init__(self, index: int, due_at: float) -> None:
        super().__init__()
        self.index = index
        self.due_at = due_at


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
        paused_at: int | None = None,
    ) -> Outcome:
        """The outcome of all items: that of the last one, or of the first that failed and was not forgiven.

        With `paused_at` the work goes on behind the pause at the item of that index.

        Raises:
            Suspended: an item waits.
        """
        if parallel and work:
            return self._together(work, scope, position, args)
        outcome = Outcome()
        for index, item in enumerate(work):
            if paused_at is not None and index <= paused_at:
                continue
            if isinstance(item, Action) and item.type == "wait":
                outcome = self._wait(item, index, scope, f"{position}.{index}", args)
                if outcome.failed:
                    return outcome
                continue
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

    def loop(
        self, loop: Loop, items: Sequence[Any], one: Callable[[Scope, str], Outcome], scope: Scope, position: str
    ) -> Outcome:
        """The outcome of `one` for each item, `loop.concurrency` of them at a time: the list of their data, in order.

        An item's own actions leave no events; the loop leaves one, with counts.
        """
        outcomes = self.each(loop, items, 0, len(items), one, scope, position)
        failed = sum(outcome.failed for outcome in outcomes)
        self.count_items(scope, position, len(outcomes), failed, len(items))
        return gather(outcomes, loop)

    def count_items(self, scope: Scope, position: str, done: int, failed: int, total: int) -> None:
        """Leave the event that tells how far a loop has come."""
        counts = {"position": position, "done": done, "failed": failed, "total": total}
        self._note(scope, "loop.progress", self.clock(), counts)

    def each(
        self,
        loop: Loop,
        items: Sequence[Any],
        first: int,
        total: int,
        one: Callable[[Scope, str], Outcome],
        scope: Scope,
        position: str,
    ) -> list[Outcome]:
        """The outcomes of `items`, which begin at index `first` of `total`; up to the first failure, if that ends the loop."""
        outcomes: dict[int, Outcome] = {}
        remaining: Iterator[tuple[int, Any]] = iter(enumerate(items))
        lock = threading.Lock()

        def work() -> None:
            nonlocal remaining
            while True:
                with lock:
                    index, item = next(remaining, (None, None))
                if index is None:
                    return
                at = first + index
                local = {loop.name: item, "loop": _position_in_loop(at, total)}
                outcome = _numbered(one(scope.copy(local), f"{position}[{at}]"), at, total)
                with lock:
                    outcomes[index] = outcome
                    if outcome.failed and not loop.forgiving:
                        remaining = iter(())

        threads = min(loop.concurrency, len(items), MAX_PARALLEL)
        if threads <= 1:
            work()
        else:
            with ThreadPoolExecutor(threads, thread_name_prefix="noetl-loop") as pool:
                for future in [pool.submit(work) for _ in range(threads)]:
                    future.result()
        return [outcomes[index] for index in sorted(outcomes)]

    def quiet(self) -> Performance:
        """The same performance, whose events nobody reads."""
        return replace(self, events=[])

    def _item(self, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        before = dict(scope.saved)
        if item.loop is None:
            outcome = self.once(item, scope, position, args)
        else:
            outcome = self._looped(item, item.loop, scope, position, args)
        if outcome.failed:
            scope.saved = before
            return replace(outcome, forgiven=item.forgiven)
        if not outcome.skipped and item.save_as is not None:
            scope.saved[item.save_as] = outcome.data
        return outcome

    def _looped(self, item: Work, loop: Loop, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        quiet = self.quiet()

        def one(own: Scope, at: str) -> Outcome:
            return quiet.once(item, own, at, args)

        try:
            items = items_of(loop, scope.lookup(position, args))
        except ActionError as problem:
            name = item.task if isinstance(item, TaskCall) else item.type
            return Outcome(False, None, _record(scope, problem, name), name)
        return self.loop(loop, items, one, scope, position)

    def once(self, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        """The outcome of an item of work, its loop left aside. `set` saves into the scope."""
        name = item.task if isinstance(item, TaskCall) else item.type
        lookup = scope.lookup(position, args)
        try:
            _check_time(self.deadline)
            if item.condition is not None and not is_true(_evaluate(item.condition, lookup, "if")):
                return Outcome(action=name, skipped=True)
            if isinstance(item, TaskCall):
                return self._task(item, scope, position, lookup)
            data = self._action(item, scope, position, args)
        except ActionError as problem:
            return Outcome(False, None, _record(scope, problem, name), name)
        if item.type == "set":
            scope.saved.update(data)
        return Outcome(True, data, None, name)

    def _wait(self, action: Action, index: int, scope: Scope, position: str, args: Mapping[str, Any] | None) -> Outcome:
        """Raises Suspended unless the time has come, or the action is skipped or fails."""
        lookup = scope.lookup(position, args)
        try:
            if action.condition is not None and not is_true(_evaluate(action.condition, lookup, "if")):
                return Outcome(action=action.type, skipped=True)
            due_at = due(render_parameters(catalogue()[action.type], action.parameters, lookup), self.clock())
        except ActionError as problem:
            return Outcome(False, None, _record(scope, problem, action.type), action.type, forgiven=action.forgiven)
        if due_at <= self.clock():
            return Outcome(action=action.type)
        raise Suspended(index, due_at)

    def _task(self, call: TaskCall, scope: Scope, position: str, lookup: Lookup) -> Outcome:
        task = self.task_of(call.task)
        args = render(dict(call.args), None, lookup)
        inside = replace(scope, local={})
        outcome = self.run(task.run, inside, f"{position}/{call.task}", parallel=task.parallel, args=args)
        scope.saved = inside.saved
        return outcome

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
        call = Call(parameters, scope.idempotency_key(position), deadline, self.capabilities, labels, _logged(labels))
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


def items_of(loop: Loop, lookup: Lookup) -> list[Any]:
    """The items a loop goes over.

    Raises:
        ActionError: they have no value here, or are not a list.
    """
    items = render(loop.items, None, lookup)
    if not isinstance(items, list):
        message = f"`loop.items` must be a list, and is {described(items)}"
        raise ActionError("ParameterError", message, retryable=False)
    return items


def gather(outcomes: Sequence[Outcome], loop: Loop) -> Outcome:
    """The outcome of a loop from those of its items."""
    failed = next((outcome for outcome in outcomes if outcome.failed), None)
    if failed is not None and not loop.forgiving:
        return Outcome(False, None, failed.error, failed.action)
    items = tuple(outcome.as_result() for outcome in outcomes) if loop.forgiving else None
    data = [outcome.data for outcome in outcomes]
    error = None if failed is None else failed.error
    return Outcome(failed is None, data, error, forgiven=failed is not None, items=items)


def _numbered(outcome: Outcome, index: int, total: int) -> Outcome:
    """The outcome, whose failure says which item it is of."""
    if not outcome.failed or outcome.error is None:
        return outcome
    message = f"item {index + 1:,} of {total:,}: {outcome.error['message']}"
    return replace(outcome, error=outcome.error | {"message": message})


def _position_in_loop(index: int, length: int) -> dict[str, Any]:
    return {"index": index + 1, "index0": index, "first": index == 0, "last": index == length - 1, "length": length}


def _logged(labels: Mapping[str, Any]) -> Callable[[str, str, Mapping[str, Any]], None]:
    """Writes what a playbook logs, with what tells its run from others."""

    def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = logging.getLevelNamesMapping()[level.upper()]
        logging.getLogger("noetl.playbook").log(number, message, extra={"fields": fields, "labels": labels})

    return log


def _check_time(deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise ActionError("Timeout", "the action ran out of time")


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
        details=plain(problem.details),
    )
