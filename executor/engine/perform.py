"""The interpreter of work: it performs the actions and tasks of a step, in order or in parallel.

Work that must wait is suspended: it leaves a journal (`noetl.executor.engine.journal`) and is performed again
from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from noetl.executor.engine.attempts import RetryLoop
from noetl.executor.engine.journal import (
    WorkSuspended,
    apply_inverse,
    changed_names,
    inverse_changes,
    item_entry,
)
from noetl.executor.engine.loop import LoopRun
from noetl.executor.engine.rendering import render
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import MAX_PARALLEL, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.outcome import Outcome
from noetl.executor.security.secret_sources import pack_references, unpack_references
from noetl.planner.plan import TaskCall, Work
from noetl.planner.templates.template import EvaluationError, Lookup, is_true, parse_template


def perform(
    context: WorkContext,
    work: Sequence[Work],
    scope: Scope,
    position: str,
    *,
    parallel: bool = False,
    args: Mapping[str, Any] | None = None,
) -> Outcome:
    """Perform all items and return the outcome of the last one, or of the first unforgiven failure.

    The data of `parallel` work is the list of the items' data.

    Raises:
        WorkSuspended: an item waits.
    """
    if parallel and work:
        return _perform_parallel(context, work, scope, position, args)
    outcome = Outcome()
    first = context.journal.get(position, {}).get("at", 0)
    for index, item in enumerate(work[first:], first):
        try:
            outcome = _perform_item(context, item, scope, f"{position}.{index}", args)
        except WorkSuspended as suspended:
            suspended.journal[position] = {"at": index}
            raise
        if outcome.failed:
            return outcome
    return replace(outcome, saved=dict(scope.saved))


def _perform_parallel(
    context: WorkContext, work: Sequence[Work], scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    before = dict(scope.saved)
    scopes = [context.scope_of_item(f"{position}#{index}", scope) for index in range(len(work))]

    def perform_one(index: int) -> Outcome | WorkSuspended:
        finished = context.finished_outcome(f"{position}#{index}")
        try:
            outcome = finished or _perform_item(
                context, work[index], scopes[index], f"{position}.{index}", args
            )
        except WorkSuspended as suspended:
            return suspended
        return context.reserve_outcome(outcome, scopes[index])

    with ThreadPoolExecutor(min(len(work), MAX_PARALLEL), thread_name_prefix="noetl-item") as pool:
        results = list(pool.map(perform_one, range(len(work))))
    finished = [result for result in results if isinstance(result, Outcome)]
    suspended = [result for result in results if isinstance(result, WorkSuspended)]
    context.memory_budget.release(sum(json_size(outcome.data) for outcome in finished))
    failed = next((outcome for outcome in finished if outcome.failed), None)
    if failed is not None:
        for item_scope in scopes:
            item_scope.release(context.memory_budget)
        context.memory_budget.release(sum(suspension.reserved for suspension in suspended))
        return Outcome(False, None, failed.error, failed.action)
    if suspended:
        journal = {
            f"{position}#{index}": item_entry(result, changed_names(before, scopes[index].saved))
            for index, result in enumerate(results)
        }
        raise WorkSuspended.combine(journal, suspended, sum(item_scope.reserved for item_scope in scopes))
    for item_scope in scopes:
        _adopt_saved_names(context, scope, item_scope, before)
    success = all(outcome.success for outcome in finished)
    error = next((outcome.error for outcome in finished if outcome.error), None)
    data = [outcome.data for outcome in finished]
    return Outcome(success, data, error, saved=dict(scope.saved), forgiven=not success)


def _adopt_saved_names(
    context: WorkContext, scope: Scope, item_scope: Scope, before: Mapping[str, Any]
) -> None:
    """Copy what a parallel item saved into the scope, and its reservation with it."""
    scope.saved.update(changed_names(before, item_scope.saved))
    context.memory_budget.release(sum(scope.sizes.get(name, 0) for name in item_scope.sizes))
    scope.sizes.update(item_scope.sizes)


def _perform_item(
    context: WorkContext, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    frame = f"{position}/{item.task}" if isinstance(item, TaskCall) else position
    before = apply_inverse(scope.saved, context.journal.get(frame, {}).get("undo", {}))
    sizes = dict(scope.sizes)
    try:
        if item.loop is None:
            outcome = _perform_once(context, item, scope, position, args)
        else:
            outcome = _perform_loop(context, item, scope, position, args)
        if not outcome.failed and not outcome.skipped and item.save_as is not None:
            scope.save({item.save_as: outcome.data}, context.memory_budget)
    except WorkSuspended as suspended:
        if inverse := inverse_changes(before, scope.saved):
            suspended.journal[frame]["undo"] = inverse
        raise
    except ActionError as problem:
        outcome = _failed(item, scope, problem)
    if outcome.failed:
        scope.saved = before
        scope.release(context.memory_budget, sizes)
        return replace(outcome, forgiven=item.forgiven)
    return outcome


def _perform_loop(
    context: WorkContext, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    """Perform an item of work for each item of its loop.

    Raises:
        ActionError: the items are not a list, or the data is too large.
    """
    assert item.loop is not None

    def perform_one(item_context: WorkContext, item_scope: Scope, item_position: str) -> Outcome:
        return _perform_once(item_context, item, item_scope, item_position, args)

    loop_run = LoopRun(context, item.loop, perform_one, scope, position)
    return loop_run.run(scope.lookup(position, args))


def _perform_once(
    context: WorkContext, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    """Perform an item of work without its loop and return its outcome.

    The names that its type saves are saved into the scope.
    """
    name = _name_of(item)
    lookup = scope.lookup(position, args)
    try:
        context.check_time()
        has_begun = position in context.journal or f"{position}/{name}" in context.journal
        if not has_begun and item.condition is not None and not _is_true(item.condition, lookup):
            return Outcome(action=name, skipped=True)
        if isinstance(item, TaskCall):
            return _perform_task(context, item, scope, position, lookup)
        attempts = RetryLoop(context, item, scope, position, args)
        data = attempts.run()
        names = attempts.declaration.saved_names(item.parameters)
        scope.save({name: data[name] for name in names}, context.memory_budget)
    except ActionError as problem:
        return _failed(item, scope, problem)
    return Outcome(True, data, None, name)


def _perform_task(
    context: WorkContext, call: TaskCall, scope: Scope, position: str, lookup: Lookup
) -> Outcome:
    task = context.find_task(call.task)
    frame = f"{position}/{call.task}"
    entry = context.journal.get(frame)
    args = render(dict(call.args), None, lookup) if entry is None else unpack_references(entry["args"])
    task_scope = replace(scope, local={})
    try:
        with context.memory_budget.reserved(args):
            return perform(context, task.run, task_scope, frame, parallel=task.parallel, args=args)
    except WorkSuspended as suspended:
        suspended.journal[frame] = {**suspended.journal.get(frame, {}), "args": pack_references(args)}
        raise
    finally:
        scope.saved = task_scope.saved


def _is_true(condition: str, lookup: Lookup) -> bool:
    """Evaluate an `if`.

    Raises:
        ActionError: the condition has no value.
    """
    try:
        return is_true(parse_template(condition).evaluate(lookup))
    except EvaluationError as problem:
        raise ActionError(problem.type, f"`if`: {problem.message}", retryable=False) from problem


def _failed(item: Work, scope: Scope, problem: ActionError) -> Outcome:
    name = _name_of(item)
    return Outcome(False, None, scope.failure(problem, name), name)


def _name_of(item: Work) -> str:
    """Return the name of an item in error records: the type of an action, or the name of a task."""
    return item.task if isinstance(item, TaskCall) else item.type
