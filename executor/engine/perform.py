"""The interpreter of work: it performs the actions and tasks of a step, in order or in parallel.

Work that must wait is suspended: it leaves a journal (`noetl.executor.engine.journal`) and is performed again
from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from noetl.executor.engine.attempts import RetryLoop
from noetl.executor.engine.failed_expression import expression_error
from noetl.executor.engine.item_threads import ItemCrew
from noetl.executor.engine.journal import apply_inverse, changed_names, inverse_changes, item_entry
from noetl.executor.engine.loop import LoopRun
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import MAX_PARALLEL, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.outcome import (
    CANCELLED,
    Cancelled,
    Outcome,
    WorkResult,
    WorkSuspension,
    combine_suspensions,
)
from noetl.executor.security.secret_sources import pack_references, unpack_references
from noetl.planner.frozen import replace
from noetl.planner.plan import Loop, TaskCall, Work
from noetl.planner.templates.template import EvaluationError, is_true, parse_template


def perform(
    context: WorkContext, work: Sequence[Work], scope: Scope, position: str, *, parallel: bool = False
) -> WorkResult:
    """Perform all items and return the outcome of the last one, or of the first unforgiven failure.

    The data of `parallel` work is the list of the items' data.
    """
    if parallel and work:
        return _ParallelRun(context, work, scope, position).run()
    outcome = Outcome()
    first = context.journal.get(position, {}).get("at", 0)
    for index, item in enumerate(work[first:], first):
        result = _perform_item(context, item, scope, f"{position}.{index}")
        if isinstance(result, WorkSuspension):
            return result.with_entry(position, {"at": index})
        if isinstance(result, Cancelled) or result.failed:
            return result
        outcome = result
    return replace(outcome, saved=dict(scope.saved))


class _ParallelRun:
    """The items of parallel work, performed by a crew of threads, each in a scope of its own."""

    def __init__(self, context: WorkContext, work: Sequence[Work], scope: Scope, position: str) -> None:
        self._context = context
        self._work = work
        self._scope = scope
        self._position = position
        self._before = dict(scope.saved)
        self._scopes = [context.scope_of_item(self._key(index), scope) for index in range(len(work))]

    def run(self) -> WorkResult:
        """Perform all items and return the list of their data, or the first failure in their order."""
        budget = self._context.memory_budget
        results = self._perform_all()
        if any(isinstance(result, Cancelled) for result in results):
            return CANCELLED
        outcomes = [result for result in results if isinstance(result, Outcome)]
        suspensions = [result for result in results if isinstance(result, WorkSuspension)]
        budget.release(sum(outcome.size for outcome in outcomes))
        failed = next((outcome for outcome in outcomes if outcome.failed), None)
        if failed is not None:
            for item_scope in self._scopes:
                item_scope.release(budget)
            budget.release(sum(suspension.reserved for suspension in suspensions))
            finished = tuple(items for outcome in outcomes for items in outcome.finished)
            return Outcome(False, None, failed.error, failed.action, finished=finished)
        return self._suspend(results, suspensions) if suspensions else self._combine(outcomes)

    def _perform_all(self) -> list[WorkResult]:
        """Perform all items and return their results, in order."""
        results: dict[int, WorkResult] = {}
        queue = deque(range(len(self._work)))

        def perform_next() -> bool:
            try:
                index = queue.popleft()
            except IndexError:
                return False
            results[index] = self._perform_one(index)
            return True

        ItemCrew(perform_next, min(len(self._work), MAX_PARALLEL), self._context.helpers).run()
        return [results[index] for index in range(len(self._work))]

    def _key(self, index: int) -> str:
        """Return the journal key of an item."""
        return f"{self._position}#{index}"

    def _perform_one(self, index: int) -> WorkResult:
        scope = self._scopes[index]
        result: WorkResult | None = self._context.finished_outcome(self._key(index))
        if result is None:
            result = _perform_item(self._context, self._work[index], scope, f"{self._position}.{index}")
        return self._context.reserve_outcome(result, scope) if isinstance(result, Outcome) else result

    def _suspend(self, results: Sequence[WorkResult], suspensions: Sequence[WorkSuspension]) -> WorkResult:
        """Return the suspension of the work, with a journal entry for each item."""
        journal = {
            self._key(index): item_entry(result, changed_names(self._before, item_scope.saved))
            for index, (result, item_scope) in enumerate(zip(results, self._scopes, strict=True))
        }
        reserved = sum(item_scope.reserved for item_scope in self._scopes)
        return combine_suspensions(journal, suspensions, reserved)

    def _combine(self, outcomes: Sequence[Outcome]) -> Outcome:
        """Return the outcome of the work, whose scope adopts what the items saved."""
        for item_scope in self._scopes:
            self._adopt_saved_names(item_scope)
        success = all(outcome.success for outcome in outcomes)
        error = next((outcome.error for outcome in outcomes if outcome.error), None)
        data = [outcome.data for outcome in outcomes]
        return Outcome(success, data, error, saved=dict(self._scope.saved), forgiven=not success)

    def _adopt_saved_names(self, item_scope: Scope) -> None:
        """Copy what a parallel item saved into the scope, and its reservation with it."""
        scope = self._scope
        scope.saved.update(changed_names(self._before, item_scope.saved))
        self._context.memory_budget.release(sum(scope.sizes.get(name, 0) for name in item_scope.sizes))
        scope.sizes.update(item_scope.sizes)


def _perform_item(context: WorkContext, item: Work, scope: Scope, position: str) -> WorkResult:
    """Perform an item and save its data under `as`. If it fails, drop what it saved.

    A suspension remembers what the item saved, so that a failure in a later segment can drop it.
    """
    frame = _frame_of(item, position)
    before = apply_inverse(scope.saved, context.journal.get(frame, {}).get("undo", {}))
    sizes = dict(scope.sizes)
    result = _perform_and_save(context, item, scope, position)
    if isinstance(result, WorkSuspension):
        inverse = inverse_changes(before, scope.saved)
        return result.with_entry(frame, {"undo": inverse}) if inverse else result
    if isinstance(result, Outcome) and not result.success and context.failures is not None:
        context.failures.set()
    if isinstance(result, Outcome) and result.failed:
        scope.saved = before
        scope.release(context.memory_budget, sizes)
        result = context.without_finished(result) if item.forgiven else result
        return replace(result, forgiven=item.forgiven)
    return result


def _perform_and_save(context: WorkContext, item: Work, scope: Scope, position: str) -> WorkResult:
    try:
        if item.loop is None:
            result = _perform_once(context, item, scope, position)
        else:
            result = _perform_loop(context, item, item.loop, scope, position)
        if item.save_as is not None and isinstance(result, Outcome) and not (result.failed or result.skipped):
            scope.save({item.save_as: result.data}, context.memory_budget)
    except ActionError as problem:
        return _failed(item, scope, problem)
    return result


def _perform_loop(context: WorkContext, item: Work, loop: Loop, scope: Scope, position: str) -> WorkResult:
    """Perform an item of work for each item of its loop.

    Raises:
        ActionError: the items are not a list, or the data is too large.
    """

    def perform_one(item_context: WorkContext, item_scope: Scope, item_position: str) -> WorkResult:
        return _perform_once(item_context, item, item_scope, item_position)

    return LoopRun(context, loop, perform_one, scope, position).run(scope.lookup(position))


def _perform_once(context: WorkContext, item: Work, scope: Scope, position: str) -> WorkResult:
    """Perform an item of work without its loop. The names that its type saves are saved into the scope."""
    if context.cancelled.is_set():
        return CANCELLED
    try:
        context.check_time()
        return context.until_stopped(lambda: _perform_unless_skipped(context, item, scope, position))
    except ActionError as problem:
        return _failed(item, scope, problem)


def _perform_unless_skipped(context: WorkContext, item: Work, scope: Scope, position: str) -> WorkResult:
    condition = item.condition
    if condition is not None and _is_skipped(context, item, condition, scope, position):
        return Outcome(action=_name_of(item), skipped=True)
    if isinstance(item, TaskCall):
        return _perform_task(context, item, scope, position)
    result = RetryLoop(context, item, scope, position).run()
    if isinstance(result, Outcome):
        scope.save(result.saved, context.memory_budget)
    return result


def _is_skipped(context: WorkContext, item: Work, condition: str, scope: Scope, position: str) -> bool:
    """Return whether the `if` of an item is false. It is evaluated once, before the item begins.

    Raises:
        ActionError: the condition has no value.
    """
    if position in context.journal or _frame_of(item, position) in context.journal:
        return False
    template, lookup = parse_template(condition), scope.lookup(position)
    try:
        return not is_true(template.evaluate(lookup))
    except EvaluationError as problem:
        error = expression_error(problem, template, lookup).at_key("if")
        raise error.with_key_in_message() from problem


def _perform_task(context: WorkContext, call: TaskCall, scope: Scope, position: str) -> WorkResult:
    """Perform the work of a task in the scope of its call, with arguments instead of local names."""
    task = context.find_task(call.task)
    frame = _frame_of(call, position)
    entry = context.journal.get(frame)
    if entry is None:
        args = render_at_key("with", dict(call.args), scope.lookup(position))
    else:
        args = unpack_references(entry["args"])
    task_scope = replace(scope, local={}, args=args)
    with context.memory_budget.reserved(args):
        result = perform(context, task.run, task_scope, frame, parallel=task.parallel)
    scope.saved = task_scope.saved
    if isinstance(result, WorkSuspension):
        return result.with_entry(frame, {"args": pack_references(args)})
    if isinstance(result, Outcome) and not result.failed:
        # The call has succeeded, whether or not its last item was skipped or its failure forgiven.
        return Outcome(data=result.data, action=call.task, saved=result.saved)
    return result


def _frame_of(item: Work, position: str) -> str:
    """Return the journal key of an item: its position, and of a task call also the task."""
    return f"{position}/{item.task}" if isinstance(item, TaskCall) else position


def _failed(item: Work, scope: Scope, problem: ActionError) -> Outcome:
    name = _name_of(item)
    return Outcome(False, None, scope.failure(problem, name, item.line), name)


def _name_of(item: Work) -> str:
    """Return the name of an item in error records: the type of an action, or the name of a task."""
    return item.task if isinstance(item, TaskCall) else item.type
