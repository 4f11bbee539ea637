"""Loops: perform work for each item of a list, sequentially or concurrently, in batches or all at once.

Problem: a loop may have many items, some of which wait for days. It must continue after a suspension without
repeating finished items, stop at the first failure unless failures are forgiven, and bound its memory.

Algorithm: a crew of threads with one shared queue of item indexes. Items that were started before a
suspension are taken from the queue first. An item that suspends keeps its place among the `concurrency`
running items. After the items of a batch, the loop suspends with their outcomes, which the store appends to
the result; the last batch reads them back. A failed loop returns its finished items, which a resume does not
repeat (`noetl.executor.model.finished_items`). Source: the bulkhead pattern; journal format in
docs/decisions/0005-invocation-segments.md.

A suspended loop continues by the indexes of its items. So it keeps hashes of those in the batch under way and
in the one before. If another input or environment has put other items there, it fails. Items that have not
begun may change.

Cost: at most min(`concurrency`, `MAX_PARALLEL`) threads, fewer if the process has no more
(`noetl.executor.engine.item_threads`); one suspension for each batch, with a hash of its items.

Limits: the outcomes of all batches must fit into `MAX_LOOP_RESULT`, and those of one batch into the memory
budget.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from noetl.executor.engine.failed_expression import describe_expression
from noetl.executor.engine.item_threads import ItemCrew
from noetl.executor.engine.journal import changed_names, item_entry
from noetl.executor.engine.preview import preview
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import MAX_PARALLEL, WorkContext
from noetl.executor.errors import ActionError
from noetl.executor.model.events import Event
from noetl.executor.model.finished_items import make_digest
from noetl.executor.model.memory_budget import MAX_LOOP_RESULT
from noetl.executor.model.outcome import (
    CANCELLED,
    Cancelled,
    FinishedItems,
    Outcome,
    WorkResult,
    WorkSuspension,
    combine_suspensions,
)
from noetl.executor.model.run import BatchResult, ErrorRecord, FailedItem
from noetl.executor.precedence import wait_for_slice
from noetl.executor.security.redaction import redact_for_storage
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.plan import Loop, canonical_json
from noetl.planner.templates.template import Lookup, parse_template

_CHANGES_BY_ITSELF = re.compile(r"\b(now|uuid|random)\b")
"""What makes the items of a loop differ at each evaluation."""


@frozen
class LoopProgress:
    """The number of finished items of a loop, of failed ones among them, and of all items.

    The field names are those of the event `loop.progress`.
    """

    done: int
    failed: int
    total: int

    def plus(self, outcomes: Iterable[Outcome]) -> LoopProgress:
        """Return the progress after these outcomes.

        >>> LoopProgress(1, 0, 3).plus([Outcome(), Outcome(success=False)])
        LoopProgress(done=3, failed=1, total=3)
        """
        failures = [outcome.failed for outcome in outcomes]
        return LoopProgress(self.done + len(failures), self.failed + sum(failures), self.total)


ItemWork = Callable[[WorkContext, Scope, str], WorkResult]
"""A function that performs the work of one item: (context without events, scope and position of the item)."""


@frozen
class LoopRun:
    """The loop at a position of the work: it performs `item_work` for each item, in the scope of the loop."""

    context: WorkContext
    loop: Loop
    item_work: ItemWork
    scope: Scope
    position: str

    def run(self, lookup: Lookup) -> WorkResult:
        """Perform the work for the items of the next batch. The outcome has the list of their data, in order.

        The work is suspended if an item waits, or if another batch follows. Items record no events. The loop
        records its progress after each batch, and in between whenever events are written.

        Raises:
            ActionError: the items are not a list, or the items or their data are too large.
        """
        items = self.context.until_stopped(lambda: _evaluate_items(self.loop, lookup))
        if isinstance(items, Cancelled):
            return items
        with self.context.memory_budget.reserved(items):
            start = _BatchStart.read(self.context.journal.get(self.position), items)
            first, size = start.progress.done, self.loop.batch or len(items)
            batch = _BatchRun(self, items[first : first + size], start.progress)
            result = batch.run()
            if isinstance(result, Cancelled):
                return result
            if isinstance(result, WorkSuspension):
                return result.with_entry(self.position, start.to_entry())
            outcome = self._finish_batch(start, result, items)
            return outcome if isinstance(outcome, WorkSuspension) else self._with_finished(outcome, batch)

    def _with_finished(self, outcome: Outcome, batch: _BatchRun) -> Outcome:
        """Return the outcome of the loop. That of a failure has the finished items of the batch."""
        if not outcome.failed:
            return outcome
        finished = batch.find_finished()
        self.context.memory_budget.count(sum(items.size for items in finished))
        return replace(outcome, finished=finished)

    def _finish_batch(
        self, start: _BatchStart, outcomes: Sequence[Outcome], items: Sequence[Any]
    ) -> Outcome | WorkSuspension:
        """Return the outcome of the loop after its last batch, or the suspension between two batches.

        Raises:
            ActionError: the data of the items is too large.
        """
        context, loop, position, first = self.context, self.loop, self.position, start.progress.done
        size = sum(outcome.size for outcome in outcomes)
        context.memory_budget.release(size)
        end = _BatchStart(start.progress.plus(outcomes), start.result_size + size)
        if first and end.result_size > MAX_LOOP_RESULT:
            message = f"the result of the loop is longer than {MAX_LOOP_RESULT:,} characters of JSON"
            raise ActionError("PayloadTooLarge", message, retryable=False)
        self.report_progress(end.progress, is_final=True)
        if end.progress.failed and not loop.forgiving:
            return _combine(outcomes, items, loop)
        if end.progress.done < end.progress.total:
            result = BatchResult(position, first, [outcome.to_list() for outcome in outcomes])
            end = replace(end, batch_before=(first, _hash_to_keep(loop, items[first : end.progress.done])))
            return WorkSuspension({position: end.to_entry()}, context.clock(), batch_results=(result,))
        # An attempt that was given up may have left later batches of a longer list.
        earlier = context.batch_outcomes_of(position)[:first] if first else ()
        return _combine([*earlier, *outcomes], items, loop)

    def report_progress(self, progress: LoopProgress, *, is_final: bool) -> None:
        """Record the progress of the loop as an event."""
        context, visit = self.context, self.scope.visit

        def make_event() -> Event:
            payload = {"position": self.position, **asdict(progress)}
            return Event(
                "loop.progress", context.clock(), visit.step, visit.number, visit.attempt, payload=payload
            )

        context.events.report_progress(self.position, make_event, is_final=is_final)

    def report_failed_item(
        self, describe_item: Callable[[], FailedItem], cause: ErrorRecord, error: ErrorRecord
    ) -> None:
        """Record a failed item as an event. An inner loop leaves it to the loop around it.

        `error` follows from the `cause`, which the work of the item has returned.
        """
        kept = self.context.kept_data
        if kept is None:
            return
        if self.context.events.drops_events:
            kept.replace_error(cause, error)
        else:
            kept.add_failed_item(self.position, describe_item(), cause, error)


@frozen
class _BatchStart:
    """The state of a loop between two batches: its progress, the size of its results, and the batch before.

    The size is in characters of JSON. Of the batch before, it is the index of its first item and the hash of
    its items.
    """

    progress: LoopProgress
    result_size: int = 0
    batch_before: tuple[int, str] | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any] | None, items: Sequence[Any]) -> _BatchStart:
        """Return the state in a journal entry, or that of a loop over `items` before its first batch.

        Raises:
            ActionError: `items` has other items where the batch before was.
        """
        if entry is None:
            return cls(LoopProgress(0, 0, len(items)))
        progress = LoopProgress(entry["next"], entry["failed"], len(items))
        if "batch" not in entry:
            return cls(progress, entry.get("given", 0))
        first, hash_before = entry["batch"]
        _check_items(hash_before, first, items[first : progress.done])
        return cls(progress, entry["given"], (first, hash_before))

    def to_entry(self) -> dict[str, Any]:
        progress = self.progress
        before = {} if self.batch_before is None else {"batch": list(self.batch_before)}
        return {
            "next": progress.done,
            "failed": progress.failed,
            "total": progress.total,
            "given": self.result_size,
            **before,
        }


def _hash_to_keep(loop: Loop, items: Sequence[Any]) -> str:
    """Return the hash of items of a loop that are to be compared later, or "" if they are not.

    They are not if they depend on the time or on chance, or hold secrets: a hash of these could be guessed.
    """
    if _CHANGES_BY_ITSELF.search(str(loop.items)) or redact_for_storage(items) != items:
        return ""
    return _hash_items(items)


def _hash_items(items: Sequence[Any]) -> str:
    digest = hashlib.sha256()
    for item in items:
        wait_for_slice()
        digest.update(canonical_json(item).encode() + b"\n")
    return digest.hexdigest()[:32]


def _check_items(hash_before: str, first: int, items: Sequence[Any]) -> None:
    """Check that items which have begun are still the same. `first` is the index of the first of them.

    Raises:
        ActionError: they are not.
    """
    if hash_before and _hash_items(items) != hash_before:
        message = (
            f"the list has changed at item {first + 1:,}, which has begun. Resume the run with the input "
            "that it had, or with all items, or start a new run at this step with `--from`"
        )
        raise ActionError("ItemsChanged", message, retryable=False).at_key("loop.items")


def _evaluate_items(loop: Loop, lookup: Lookup) -> list[Any]:
    """Return the items of a loop.

    Raises:
        ActionError: `loop.items` has no value, or is not a list.
    """
    items = render_at_key("loop.items", loop.items, lookup)
    if not isinstance(items, list):
        message = f"`loop.items` must be a list, not {describe_kind_of(items)}"
        place = {"key": "loop.items"}
        if isinstance(loop.items, str):
            place |= describe_expression(parse_template(loop.items), lookup)
        raise ActionError("ParameterError", message, retryable=False).with_place(place)
    return items


class _BatchRun:
    """The items of one batch, performed by a crew of threads. The first unforgiven failure stops it.

    `before` is the progress of the batches before it.
    """

    def __init__(self, loop_run: LoopRun, items: Sequence[Any], before: LoopProgress) -> None:
        context, position = loop_run.context, loop_run.position
        wait_for_slice()  # The keys of 100,000 items take some 20 ms.
        self._loop_run = loop_run
        self._loop = loop_run.loop
        self._context = context
        self._item_context = context.without_events()
        self._items = items
        self._first = before.done
        self._total = before.total
        self._keys = [f"{position}#{before.done + index}" for index in range(len(items))]
        self._outcomes = {
            index: outcome
            for index, key in enumerate(self._keys)
            if (outcome := context.finished_outcome(key)) is not None
        }
        for index, key in enumerate(self._keys):
            if "item" in (entry := context.journal.get(key, {})):
                _check_items(entry["item"], before.done + index, items[index : index + 1])
        self._outcomes |= self._read_recorded()
        context.memory_budget.reserve(sum(outcome.size for outcome in self._outcomes.values()))
        self._suspended: dict[int, WorkSuspension] = {}
        self._scopes: dict[int, Scope] = {}
        self._progress = before.plus(self._outcomes.values())
        self._running = 0
        self._has_failed = False
        self._is_cancelled = False
        self._lock = threading.Lock()

    def run(self) -> list[Outcome] | WorkSuspension | Cancelled:
        """Perform the items and return their outcomes, in order, up to a failure that ended the loop.

        Items that were started before come first. A suspended item still counts as running, so it keeps
        another item from starting.
        """
        journal = self._context.journal
        wait_for_slice()
        pending = [index for index in range(len(self._items)) if index not in self._outcomes]
        begun = [index for index in pending if self._keys[index] in journal]
        untried = (index for index in pending if self._keys[index] not in journal)
        queue = itertools.chain(begun, untried)
        threads = min(self._loop.concurrency, len(pending), MAX_PARALLEL)
        ItemCrew(lambda: self._perform_next(queue), threads, self._context.helpers).run()
        if self._is_cancelled:
            return CANCELLED
        if self._suspended and not self._has_failed:
            return self._suspend()
        for index, suspended in self._suspended.items():
            self._scopes[index].release(self._context.memory_budget)
            self._context.memory_budget.release(suspended.reserved)
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    def _read_recorded(self) -> dict[int, Outcome]:
        """Return the outcomes of items that a failed attempt has finished and that are still the same."""
        recorded = self._context.items_of(self._loop_run.position)
        if not recorded:
            return {}
        digest = make_digest(redact_for_storage(self._loop_run.scope.enclosing))
        journal = self._context.journal
        found: dict[int, Outcome] = {}
        for index, item in enumerate(self._items):
            earlier = recorded.get(self._first + index)
            if (
                earlier is None
                or self._keys[index] in journal
                or digest(redact_for_storage(item)) != earlier.digest
            ):
                continue
            found[index] = Outcome.from_list(earlier.outcome)
            wait_for_slice()
        return found

    def find_finished(self) -> tuple[FinishedItems, ...]:
        """Return the items that have succeeded, and those of failed loops in the items that have failed."""
        loop_run, outcomes = self._loop_run, sorted(self._outcomes.items())
        done = {index: outcome for index, outcome in outcomes if not outcome.failed}
        inside = [items for _, outcome in outcomes for items in outcome.finished]
        # A hash of a secret could be guessed.
        enclosing = redact_for_storage(loop_run.scope.enclosing)
        empty = FinishedItems(loop_run.position, self._total, enclosing, before=self._first)
        if sum(outcome.size for outcome in done.values()) > MAX_LOOP_RESULT:
            return (replace(empty, lost=len(done)), *inside)
        found = {
            self._first + index: (redact_for_storage(self._items[index]), outcome)
            for index, outcome in done.items()
        }
        return (replace(empty, outcomes=found), *inside)

    def _perform_next(self, queue: Iterator[int]) -> bool:
        """Perform the next item, and return whether there was one: the loop may end early, or enough run."""
        index = self._start_next(queue)
        if index is None:
            return False
        item_number = self._first + index
        local = {self._loop.name: self._items[index], "loop": _loop_variable(item_number, self._total)}
        item_scope = self._context.scope_of_item(self._keys[index], self._loop_run.scope, local)
        item_scope.enclosing = (*item_scope.enclosing, self._items[index])
        self._scopes[index] = item_scope
        item_position = f"{self._loop_run.position}[{item_number}]"
        result = self._loop_run.item_work(self._item_context, item_scope, item_position)
        if isinstance(result, Cancelled):
            self._is_cancelled = True
        elif isinstance(result, WorkSuspension):
            self._suspended[index] = result
        else:
            self._finish_item(index, result)
        return True

    def _start_next(self, queue: Iterator[int]) -> int | None:
        """Take the next item from the queue, or return None if no item may start."""
        with self._lock:
            if self._has_failed or self._is_cancelled or self._running >= self._loop.concurrency:
                return None
            index = next(queue, None)
            if index is not None:
                self._running += 1
            return index

    def _finish_item(self, index: int, outcome: Outcome) -> None:
        """Add the outcome of an item, and drop what the item saved."""
        item_scope = self._scopes.pop(index)
        item_scope.release(self._context.memory_budget)
        cause = outcome.error
        outcome = self._context.reserve_outcome(outcome, item_scope, self._describe_item(index))
        if outcome.failed and outcome.error is not None:
            self._loop_run.report_failed_item(
                self._describe_item(index), cause or outcome.error, outcome.error
            )
        if outcome.failed and self._loop.forgiving:
            outcome = self._context.without_finished(outcome)
        with self._lock:
            self._running -= 1
            self._outcomes[index] = outcome
            self._has_failed |= outcome.failed and not self._loop.forgiving
            self._progress = self._progress.plus([outcome])
            if not self._has_failed and len(self._outcomes) < len(self._items):
                self._loop_run.report_progress(self._progress, is_final=False)

    def _describe_item(self, index: int) -> Callable[[], FailedItem]:
        """Return the function that describes an item after its failure."""
        return lambda: FailedItem(
            number=self._first + index + 1, total=self._total, value=preview(self._items[index])
        )

    def _suspend(self) -> WorkSuspension:
        """Return the suspension of the batch, with an entry for each finished and each suspended item."""
        journal = {self._keys[index]: item_entry(outcome, {}) for index, outcome in self._outcomes.items()}
        waiting = dict(sorted(self._suspended.items()))
        for index, suspended in waiting.items():
            changes = changed_names(self._loop_run.scope.saved, self._scopes[index].saved)
            journal[self._keys[index]] = item_entry(suspended, changes)
        for index in (*self._outcomes, *waiting):
            journal[self._keys[index]]["item"] = _hash_to_keep(self._loop, self._items[index : index + 1])
        finished_size = sum(outcome.size for outcome in self._outcomes.values())
        saved_size = sum(item_scope.reserved for item_scope in self._scopes.values())
        return combine_suspensions(journal, waiting.values(), finished_size + saved_size)


def _loop_variable(index: int, length: int) -> dict[str, Any]:
    return {
        "index": index + 1,
        "index0": index,
        "first": index == 0,
        "last": index == length - 1,
        "length": length,
    }


def _combine(outcomes: Sequence[Outcome], items: Sequence[Any], loop: Loop) -> Outcome:
    """Return the outcome of a loop over `items` from the outcomes of the items."""
    failed = next((outcome for outcome in outcomes if outcome.failed), None)
    if failed is not None and not loop.forgiving:
        return Outcome(False, None, failed.error, failed.action)
    data = [outcome.data for outcome in outcomes]
    if not loop.forgiving:
        return Outcome(data=data)
    failures = tuple(
        {"index": index, "item": item, "error": outcome.error}
        for index, (item, outcome) in enumerate(zip(items, outcomes, strict=False), 1)
        if outcome.failed
    )
    return Outcome(
        failed is None,
        data,
        None if failed is None else failed.error,
        forgiven=failed is not None,
        items=tuple(outcome.as_item() for outcome in outcomes),
        failures=failures,
    )
