"""The items of a loop: gone through one after another or together, all of them or the batch that is next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from noetl.executor.engine.journal import WorkSuspended, changed_names, item_entry
from noetl.executor.engine.rendering import render
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import MAX_PARALLEL, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.events import Event
from noetl.executor.model.memory_budget import MAX_LOOP_RESULT, json_size
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import BatchResult
from noetl.planner.frozen import frozen
from noetl.planner.kinds import describe_kind_of
from noetl.planner.plan import Loop
from noetl.planner.templates.template import Lookup


@frozen
class LoopProgress:
    """How many items of a loop are done, how many of them failed, and how many there are."""

    done: int
    failed: int
    total: int

    def plus(self, outcomes: Iterable[Outcome]) -> LoopProgress:
        """The counts when these are done, too."""
        failures = [outcome.failed for outcome in outcomes]
        return LoopProgress(self.done + len(failures), self.failed + sum(failures), self.total)


One = Callable[[WorkContext, Scope, str], Outcome]
"""What a loop does for an item, in the scope and at the position of that, in a piece that tells nothing."""


def go_through(
    piece: WorkContext, loop: Loop, lookup: Lookup, one: One, scope: Scope, position: str
) -> Outcome:
    """The outcome of `one` for each item, `loop.concurrency` of them at a time: the list of their data, in order.

    An item's own actions leave no events; the loop leaves one for each batch, with counts, and others where something is told
    while a batch is at work.

    Raises:
        Suspended: an item waits, or a batch is done and another one left.
        ActionError: there is nothing to go through, or it or all that the items have given is more than can be held.
    """
    items = _items(loop, lookup)
    with piece.memory_budget.reserved(items):
        entry = piece.journal.get(position, {"next": 0, "failed": 0, "total": len(items), "given": 0})
        first = entry["next"]
        before = LoopProgress(first, entry["failed"], len(items))
        batch = items[first : first + loop.batch] if loop.batch else items[first:]
        try:
            outcomes = _each(piece, loop, batch, before, one, scope, position)
        except WorkSuspended as suspended:
            suspended.journal[position] = entry
            raise
        size = sum(json_size(outcome.data) for outcome in outcomes)
        piece.memory_budget.reserve(-size)
        given = entry.get("given", 0) + size
        if first and given > MAX_LOOP_RESULT:
            message = f"the loop has given more than {MAX_LOOP_RESULT:,} characters as JSON"
            raise ActionError("PayloadTooLarge", message, retryable=False)
        counts = before.plus(outcomes)
        _tell(piece, scope, position, counts, is_final=True)
        if counts.failed and not loop.forgiving:
            return _gather(outcomes, loop)
        if counts.done < counts.total:
            part = BatchResult(position, first, [outcome.to_list() for outcome in outcomes])
            entry = {"next": counts.done, "failed": counts.failed, "total": counts.total, "given": given}
            raise WorkSuspended({position: entry}, piece.clock(), batch_results=[part])
        return _gather([*(piece.batch_outcomes_of(position) if first else ()), *outcomes], loop)


def _items(loop: Loop, lookup: Lookup) -> list[Any]:
    """The items a loop goes through.

    Raises:
        ActionError: they have no value here, or are not a list.
    """
    items = render(loop.items, None, lookup)
    if not isinstance(items, list):
        message = f"`loop.items` must be a list, and is {describe_kind_of(items)}"
        raise ActionError("ParameterError", message, retryable=False)
    return items


def _each(
    piece: WorkContext,
    loop: Loop,
    items: Sequence[Any],
    before: LoopProgress,
    one: One,
    scope: Scope,
    position: str,
) -> list[Outcome]:
    """The outcomes of `items`, which come behind those `before`; up to the first failure, if that ends the loop.

    Those that were begun before are gone on with first. One that waits is still at work: it keeps another from being
    begun where `loop.concurrency` are.
    """
    quiet = piece.without_events()
    first, total = before.done, before.total
    places = [f"{position}#{first + index}" for index in range(len(items))]
    outcomes = {
        i: done for i, place in enumerate(places) if (done := piece.finished_outcome(place)) is not None
    }
    piece.memory_budget.reserve(sum(json_size(outcome.data) for outcome in outcomes.values()))
    suspended: dict[int, WorkSuspended] = {}
    own: dict[int, Scope] = {}
    left = sorted(set(range(len(items))) - outcomes.keys(), key=lambda i: (places[i] not in piece.journal, i))
    queue = iter(left)
    lock = threading.Lock()
    at_work = 0
    counts = before.plus(outcomes.values())
    has_failed = False

    def work() -> None:
        nonlocal at_work, counts, has_failed
        while True:
            with lock:
                if has_failed or at_work >= loop.concurrency or (index := next(queue, None)) is None:
                    return
                at_work += 1
            at = first + index
            local = {loop.name: items[index], "loop": _position_in_loop(at, total)}
            own[index] = piece.scope_of_item(places[index], scope, local)
            try:
                outcome = one(quiet, own[index], f"{position}[{at}]")
            except WorkSuspended as waits:
                suspended[index] = waits
                continue
            done = own.pop(index)
            done.release(piece.memory_budget)
            outcome = piece.reserve_outcome(outcome, done)
            with lock:
                at_work -= 1
                outcomes[index] = _numbered(outcome, at, total)
                has_failed |= outcome.failed and not loop.forgiving
                counts = counts.plus([outcome])
                if not has_failed and len(outcomes) < len(items):
                    _tell(piece, scope, position, counts, is_final=False)

    threads = min(loop.concurrency, len(left), MAX_PARALLEL)
    if threads <= 1:
        work()
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="noetl-loop") as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
    if suspended and not has_failed:
        journal = {places[index]: item_entry(outcome, {}) for index, outcome in outcomes.items()}
        for index, waits in suspended.items():
            journal[places[index]] = item_entry(waits, changed_names(scope.saved, own[index].saved))
        held = sum(json_size(outcome.data) for outcome in outcomes.values()) + sum(
            saves.reserved for saves in own.values()
        )
        raise WorkSuspended.combine(journal, suspended.values(), held)
    for index, waits in suspended.items():
        own[index].release(piece.memory_budget)
        piece.memory_budget.reserve(-waits.reserved)
    return [outcomes[index] for index in sorted(outcomes)]


def _position_in_loop(index: int, length: int) -> dict[str, Any]:
    return {
        "index": index + 1,
        "index0": index,
        "first": index == 0,
        "last": index == length - 1,
        "length": length,
    }


def _numbered(outcome: Outcome, index: int, total: int) -> Outcome:
    """The outcome, whose failure says which item it is of."""
    if not outcome.failed or outcome.error is None:
        return outcome
    message = f"item {index + 1:,} of {total:,}: {outcome.error['message']}"
    return replace(outcome, error=outcome.error | {"message": message})


def _gather(outcomes: Sequence[Outcome], loop: Loop) -> Outcome:
    """The outcome of a loop from those of its items."""
    failed = next((outcome for outcome in outcomes if outcome.failed), None)
    if failed is not None and not loop.forgiving:
        return Outcome(False, None, failed.error, failed.action)
    items = tuple(outcome.as_result() for outcome in outcomes) if loop.forgiving else None
    data = [outcome.data for outcome in outcomes]
    error = None if failed is None else failed.error
    return Outcome(failed is None, data, error, forgiven=failed is not None, items=items)


def _tell(piece: WorkContext, scope: Scope, position: str, counts: LoopProgress, *, is_final: bool) -> None:
    """Say how far a loop has come: when its batch is done, and before."""
    visit = scope.visit

    def event() -> Event:
        payload = {"position": position, **asdict(counts)}
        return Event("loop.progress", piece.clock(), visit.step, visit.number, visit.attempt, payload=payload)

    piece.events.report_progress(position, event, is_final=is_final)
