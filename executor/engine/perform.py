"""Performs the work of a step: its actions and tasks, one after another or together.

Work that waits for something suspends: it leaves a journal of what has been done and what is needed to go on, and
is performed again from there.
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
from noetl.executor.engine.loop import go_through
from noetl.executor.engine.rendering import render
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import MAX_PARALLEL, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.outcome import Outcome
from noetl.executor.security.secret_sources import pack_references, unpack_references
from noetl.planner.plan import Loop, TaskCall, Work
from noetl.planner.templates.template import EvaluationError, Lookup, is_true, parse_template


def perform(
    piece: WorkContext,
    work: Sequence[Work],
    scope: Scope,
    position: str,
    *,
    parallel: bool = False,
    args: Mapping[str, Any] | None = None,
) -> Outcome:
    """The outcome of all items: that of the last one, or of the first that failed and was not forgiven. Of `parallel` ones
    the data is a list.

    Raises:
        Suspended: an item waits.
    """
    if parallel and work:
        return _together(piece, work, scope, position, args)
    outcome = Outcome()
    first = piece.journal.get(position, {}).get("at", 0)
    for index, item in enumerate(work[first:], first):
        try:
            outcome = _item(piece, item, scope, f"{position}.{index}", args)
        except WorkSuspended as suspended:
            suspended.journal[position] = {"at": index}
            raise
        if outcome.failed:
            return outcome
    return replace(outcome, saved=dict(scope.saved))


def _together(
    piece: WorkContext, work: Sequence[Work], scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    before = dict(scope.saved)
    scopes = [piece.scope_of_item(f"{position}#{index}", scope) for index in range(len(work))]

    def one(index: int) -> Outcome | WorkSuspended:
        done = piece.finished_outcome(f"{position}#{index}")
        try:
            found = done or _item(piece, work[index], scopes[index], f"{position}.{index}", args)
        except WorkSuspended as waits:
            return waits
        return piece.reserve_outcome(found, scopes[index])

    with ThreadPoolExecutor(min(len(work), MAX_PARALLEL), thread_name_prefix="noetl-item") as pool:
        outcomes = list(pool.map(one, range(len(work))))
    finished = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    suspended = [outcome for outcome in outcomes if isinstance(outcome, WorkSuspended)]
    piece.memory_budget.reserve(-sum(json_size(outcome.data) for outcome in finished))
    failed = next((outcome for outcome in finished if outcome.failed), None)
    if failed is not None:
        for own in scopes:
            own.release(piece.memory_budget)
        piece.memory_budget.reserve(-sum(waits.reserved for waits in suspended))
        return Outcome(False, None, failed.error, failed.action)
    if suspended:
        journal = {
            f"{position}#{index}": item_entry(outcome, changed_names(before, scopes[index].saved))
            for index, outcome in enumerate(outcomes)
        }
        raise WorkSuspended.combine(journal, suspended, sum(own.reserved for own in scopes))
    for own in scopes:
        scope.saved.update(changed_names(before, own.saved))
        piece.memory_budget.reserve(-sum(scope.sizes.get(name, 0) for name in own.sizes))
        scope.sizes.update(own.sizes)
    success = all(outcome.success for outcome in finished)
    error = next((outcome.error for outcome in finished if outcome.error), None)
    data = [outcome.data for outcome in finished]
    return Outcome(success, data, error, saved=dict(scope.saved), forgiven=not success)


def _item(
    piece: WorkContext, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    place = f"{position}/{item.task}" if isinstance(item, TaskCall) else position
    before = apply_inverse(scope.saved, piece.journal.get(place, {}).get("undo", {}))
    sizes = dict(scope.sizes)
    try:
        if item.loop is None:
            outcome = _once(piece, item, scope, position, args)
        else:
            outcome = _looped(piece, item, item.loop, scope, position, args)
        if not outcome.failed and not outcome.skipped and item.save_as is not None:
            scope.save({item.save_as: outcome.data}, piece.memory_budget)
    except WorkSuspended as suspended:
        if taken_back := inverse_changes(before, scope.saved):
            suspended.journal[place]["undo"] = taken_back
        raise
    except ActionError as problem:
        outcome = _failed(item, scope, problem)
    if outcome.failed:
        scope.saved = before
        scope.release(piece.memory_budget, sizes)
        return replace(outcome, forgiven=item.forgiven)
    return outcome


def _looped(
    piece: WorkContext, item: Work, loop: Loop, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    """Raises ActionError: there is nothing to go through, or it is too much."""

    def one(quiet: WorkContext, own: Scope, at: str) -> Outcome:
        return _once(quiet, item, own, at, args)

    return go_through(piece, loop, scope.lookup(position, args), one, scope, position)


def _once(
    piece: WorkContext, item: Work, scope: Scope, position: str, args: Mapping[str, Any] | None
) -> Outcome:
    """The outcome of an item of work, its loop left aside. `set` saves into the scope."""
    name = _name(item)
    lookup = scope.lookup(position, args)
    try:
        piece.check_time()
        is_begun = position in piece.journal or f"{position}/{name}" in piece.journal
        if not is_begun and item.condition is not None and not _is_met(item.condition, lookup):
            return Outcome(action=name, skipped=True)
        if isinstance(item, TaskCall):
            return _task(piece, item, scope, position, lookup)
        data = RetryLoop(piece, item, scope, position, args).run()
        if item.type == "set":
            scope.save(data, piece.memory_budget)
    except ActionError as problem:
        return _failed(item, scope, problem)
    return Outcome(True, data, None, name)


def _task(piece: WorkContext, call: TaskCall, scope: Scope, position: str, lookup: Lookup) -> Outcome:
    task = piece.find_task(call.task)
    inner = f"{position}/{call.task}"
    entry = piece.journal.get(inner)
    args = render(dict(call.args), None, lookup) if entry is None else unpack_references(entry["args"])
    inside = replace(scope, local={})
    try:
        with piece.memory_budget.reserved(args):
            return perform(piece, task.run, inside, inner, parallel=task.parallel, args=args)
    except WorkSuspended as suspended:
        suspended.journal[inner] = {**suspended.journal.get(inner, {}), "args": pack_references(args)}
        raise
    finally:
        scope.saved = inside.saved


def _is_met(condition: str, lookup: Lookup) -> bool:
    """Raises ActionError: the condition has no value."""
    try:
        return is_true(parse_template(condition).evaluate(lookup))
    except EvaluationError as problem:
        raise ActionError(problem.type, f"`if`: {problem.message}", retryable=False) from problem


def _failed(item: Work, scope: Scope, problem: ActionError) -> Outcome:
    name = _name(item)
    return Outcome(False, None, scope.failure(problem, name), name)


def _name(item: Work) -> str:
    """What is said of where a failure comes from: the type of an action, or the name of a task."""
    return item.task if isinstance(item, TaskCall) else item.type
