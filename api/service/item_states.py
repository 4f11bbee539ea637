"""States of the items of a loop, as far as the records of a visit tell them.

Problem: the engine stores nothing for most items that succeed, and a page of items must say only what is
true.

Algorithm: four records are combined. Events have the counts of a loop and its failed items. The journal of a
paused visit has an entry for each item that has begun in the current batch. That of a failed visit has the
numbers of the items that a resume does not repeat. The plan says how many items run at once. From these
follow a prefix of items that have ended, single items with a known state, and one state of all others. If the
counts say that more items have ended than are known, the others have no known state. They are counted as
unlisted.

Cost: one pass over the events of the visit and over its journal. Finished visits have no journal.

Limits: while a visit runs, the records are as old as the last renewal of its lease. If its worker dies, an
item may run again, and is shown as failed until the visit has ended.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeAlias

from noetl.api.service.loop_states import ItemState
from noetl.api.service.views import LoopReport
from noetl.executor.model.events import Event
from noetl.executor.model.finished_items import LoopRecord, read_records
from noetl.executor.model.outcome import Outcome
from noetl.executor.model.run import ErrorRecord, Visit, VisitStatus
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Loop

FindLoop: TypeAlias = Callable[[str], Loop | None]
"""A function that returns the loop of the plan at a position of the work."""

_PAUSED = (VisitStatus.WAITING, VisitStatus.READY, VisitStatus.PARKED)


@frozen
class KnownItem:
    """An item whose state is recorded. `failure` is the payload of its event `loop.item_failed`.

    `entries` are the journal entries of its actions by their positions.
    """

    state: ItemState
    error: ErrorRecord | None = None
    failure: Mapping[str, Any] = field(default_factory=dict)
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        return self.state in (ItemState.SUCCEEDED, ItemState.FAILED)


@frozen
class LoopFacts:
    """Facts of one loop of a visit, as its records tell them.

    `done` items have ended, and `failed` of them have failed. Those up to the number `prefix` have ended.
    `known` are single items by their numbers, and `rest` is the state of those that have not ended and have
    no record.
    """

    position: str
    done: int
    failed: int
    total: int
    prefix: int = 0
    known: Mapping[int, KnownItem] = field(default_factory=dict)
    rest: ItemState = ItemState.OPEN

    @property
    def report(self) -> LoopReport:
        return LoopReport(position=self.position, done=self.done, failed=self.failed, total=self.total)

    def counts(self) -> dict[ItemState, int]:
        """Return the numbers of items by state. Their sum is the number of all items."""
        paused = {state: self._count_known(state) for state in (ItemState.WAITING, ItemState.RETRYING)}
        rest = max(self.total - self.done - sum(paused.values()), 0)
        succeeded = max(self.done - self.failed, 0)
        counts = {ItemState.SUCCEEDED: succeeded, ItemState.FAILED: self.failed, **paused, self.rest: rest}
        return {state: count for state, count in counts.items() if count}

    def unlisted(self) -> dict[ItemState, int]:
        """Return the numbers of items by state of which is not recorded which they are."""
        counts = self.counts()
        succeeded, rest = counts.get(ItemState.SUCCEEDED, 0), counts.get(self.rest, 0)
        missing = {ItemState.FAILED: self._missing_failures}
        if self._missing_failures:
            missing[ItemState.SUCCEEDED] = succeeded - self._count_known(ItemState.SUCCEEDED)
        elif self._missing_ends:
            missing[ItemState.SUCCEEDED] = self._missing_ends
        if self._missing_ends:
            missing[self.rest] = rest
        return {state: count for state, count in missing.items() if count > 0}

    def states(self, after: int, state: ItemState | None) -> Iterator[tuple[int, ItemState]]:
        """Yield the numbers and states of the items after a number that have a state, or any."""
        if state in (ItemState.FAILED, ItemState.WAITING, ItemState.RETRYING):
            yield from (
                (number, item.state)
                for number, item in sorted(self.known.items())
                if number > after and item.state is state
            )
            return
        prefix = None if self._missing_failures else ItemState.SUCCEEDED
        rest = None if self._missing_ends else self.rest
        last = self.total
        if state is ItemState.SUCCEEDED:
            last = max(self.prefix, max(self.known, default=0))
        elif state is not None:
            after = max(after, self.prefix)
        for number in range(after + 1, last + 1):
            item = self.known.get(number)
            found = item.state if item is not None else prefix if number <= self.prefix else rest
            if found is not None and state in (None, found):
                yield number, found

    @property
    def _missing_failures(self) -> int:
        return max(self.failed - self._count_known(ItemState.FAILED), 0)

    @property
    def _missing_ends(self) -> int:
        later = sum(item.has_ended for number, item in self.known.items() if number > self.prefix)
        return max(self.done - self.prefix - later, 0)

    def _count_known(self, state: ItemState) -> int:
        return sum(item.state is state for item in self.known.values())


def read_loops(
    visit: Visit, events: Iterable[Event], find_loop: FindLoop, *, is_cancelled: bool
) -> dict[str, LoopFacts]:
    """Return what is recorded of the loops of a visit, by their positions, in the order of their begin.

    `is_cancelled` is true if the run was cancelled.
    """
    records = _read_events(events, find_loop)
    journal = {} if visit.progress is None or visit.finished_at is not None else visit.progress.journal
    for position, entry in journal.items():
        if "next" in entry and "[" not in position:
            records.setdefault(position, _LoopRecord(find_loop(position))).read_journal(
                position, entry, journal
            )
    for position, recorded in read_records(visit).items():
        if position in records:
            records[position].read_finished(recorded, is_over=visit.has_ended_branch)
    rest = _state_of_rest(visit, is_cancelled=is_cancelled)
    is_paused = visit.status in _PAUSED and rest is not ItemState.CANCELLED
    return {
        position: record.conclude(position, rest, is_paused=is_paused)
        for position, record in records.items()
        if record.total is not None
    }


def _state_of_rest(visit: Visit, *, is_cancelled: bool) -> ItemState:
    """Return the state of the items that have not ended."""
    if visit.finished_at is not None or (is_cancelled and visit.status is VisitStatus.PARKED):
        return ItemState.CANCELLED
    return ItemState.OPEN if visit.status is VisitStatus.RUNNING else ItemState.PENDING


class _LoopRecord:
    """The records of one loop, each of which is read when it is needed."""

    def __init__(self, loop: Loop | None) -> None:
        self._loop = loop
        self.done = self.failed = self.committed = 0
        self.total: int | None = None
        self.known: dict[int, KnownItem] = {}
        self.is_in_order = loop is not None and loop.concurrency == 1
        self.finished: Sequence[Sequence[int]] = ()

    def read_progress(self, payload: Mapping[str, Any]) -> None:
        self.done, self.failed, self.total = payload["done"], payload["failed"], payload["total"]

    def read_failure(self, payload: Mapping[str, Any]) -> None:
        item = payload["item"]
        self.known[item["number"]] = KnownItem(ItemState.FAILED, payload["error"], payload)
        self.total = item["total"] if self.total is None else self.total

    def start_again(self) -> None:
        """Drop the items after the last batch that was committed, because another attempt repeats them."""
        self.committed = self._begin_of_batch(self.done)
        self.known = {number: item for number, item in self.known.items() if number <= self.committed}
        self.done, self.failed = self.committed, len(self.known)

    def read_finished(self, recorded: LoopRecord, *, is_over: bool) -> None:
        """Add the items that a failed attempt has finished.

        If the visit goes on, it may do some of them again, and items have not ended in their order.
        """
        is_prefix = len(recorded.done) == 1 and recorded.done[0][0] == 1
        self.is_in_order = self.is_in_order and is_over and is_prefix
        self.finished = recorded.done if is_over else ()

    def read_journal(self, position: str, entry: Mapping[str, Any], journal: Mapping[str, Any]) -> None:
        """Add the items of a paused loop. Its entry counts those of the batches before."""
        self.committed, failed, ended = entry["next"], entry["failed"], 0
        item_key = re.compile(re.escape(position) + r"(?:#(\d+)$|\[(\d+)\])")
        entries: dict[int, dict[str, Any]] = {}
        for key, value in journal.items():
            match = item_key.match(key)
            if match is None:
                continue
            number = int(match[1] or match[2]) + 1
            begun = entries.setdefault(number, {})
            if match[1] is None:
                begun[key] = value
            elif "done" in value:
                outcome = Outcome.from_list(value["done"])
                ended, failed = ended + 1, failed + outcome.failed
                recorded = self.known.get(number)
                state = ItemState.FAILED if outcome.failed else ItemState.SUCCEEDED
                failure = recorded.failure if recorded is not None and outcome.failed else {}
                self.known[number] = KnownItem(state, outcome.error, failure)
        for number, begun in entries.items():
            if number not in self.known:
                actions = {key: value for key, value in begun.items() if "action" in value}
                is_retried = actions and all("memory" not in value for value in actions.values())
                state = ItemState.RETRYING if is_retried else ItemState.WAITING
                self.known[number] = KnownItem(state, entries=actions)
        if self.total is None or self.done <= self.committed + ended:
            self.done, self.failed, self.total = self.committed + ended, failed, entry["total"]

    def conclude(self, position: str, rest: ItemState, *, is_paused: bool) -> LoopFacts:
        """Return the facts. `rest` is the state of items that have not ended, unless the visit is paused."""
        total = self.total or 0
        waits = () if is_paused else (ItemState.WAITING, ItemState.RETRYING)
        known = {number: item for number, item in self.known.items() if item.state not in waits}
        if self.done == total or self.is_in_order:
            prefix = self.done
        elif self.finished:
            prefix = self.finished[0][1] if self.finished[0][0] == 1 else self.committed
            later_ranges = itertools.chain.from_iterable(range(a, b + 1) for a, b in self.finished)
            known = {
                number: KnownItem(ItemState.SUCCEEDED) for number in later_ranges if number > prefix
            } | known
        elif rest is ItemState.CANCELLED:
            prefix = self._begin_of_batch(self.done)
        else:
            prefix = self.committed
        # A failure may have been written before the progress that counts it.
        failed = max(self.failed, sum(item.state is ItemState.FAILED for item in known.values()))
        later = sum(item.has_ended for number, item in known.items() if number > prefix)
        done = max(self.done, prefix + later)
        return LoopFacts(position, done, failed, total, prefix, known, rest)

    def _begin_of_batch(self, done: int) -> int:
        """Return the number of items before the batch in which the item with the number `done` is."""
        batch = None if self._loop is None else self._loop.batch
        return max(done - 1, 0) // batch * batch if batch else 0


def _read_events(events: Iterable[Event], find_loop: FindLoop) -> dict[str, _LoopRecord]:
    records: dict[str, _LoopRecord] = {}
    for event in events:
        if event.type == "step.started":
            for record in records.values():
                record.start_again()
        elif event.type in ("loop.progress", "loop.item_failed"):
            position = event.payload["position"]
            if position not in records:
                records[position] = _LoopRecord(find_loop(position))
            if event.type == "loop.progress":
                records[position].read_progress(event.payload)
            else:
                records[position].read_failure(event.payload)
    return records


def with_error(facts: LoopFacts, error: ErrorRecord | None) -> LoopFacts:
    """Return the facts with the failed item that the error of the visit names, if it has no event."""
    if (
        error is None
        or "item" not in error
        or facts.failed != 1
        or facts.unlisted().get(ItemState.FAILED) != 1
    ):
        return facts
    if error["item"]["total"] != facts.total:
        return facts  # It is an item of another loop.
    failure = {"item": error["item"]}
    known = {**facts.known, error["item"]["number"]: KnownItem(ItemState.FAILED, error, failure)}
    return replace(facts, known=known)
