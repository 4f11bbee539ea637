"""Records of the items that a failed loop has finished: a resume takes their outcomes, and does the others.

Problem: when an item of a loop fails, its step fails. A resume performs the step again, but an item that
has succeeded must not be performed again.

Algorithm: checkpoint and replay, as for a suspension. The commit of the failure adds an entry to the journal
of the visit. It has the numbers of the items that have succeeded in each failed loop, and a hash of the work.
A part of the visit holds their outcomes, each with a hash of its item and of the items of the loops around
it. A resume takes an outcome if both hashes are still the same.

Cost: nothing unless a visit fails. Then one more part in the same write, and one more read at its resume.

Limits: the outcomes of a loop must fit into `MAX_LOOP_RESULT`, and those of a visit into the payload limit of
its store. Otherwise only their number is recorded, and all items are done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from noetl.executor.model.json_values import round_trip_json
from noetl.executor.model.outcome import FinishedItems
from noetl.executor.model.run import Progress, Visit
from noetl.planner.frozen import frozen, replace

ITEMS = "items"
"""The key of the journal entry of finished items, and of the part that holds their outcomes."""

DIGEST_DIGITS = 24


@frozen
class RecordedItem:
    """A finished item: the hash of what it was, and its stored outcome."""

    digest: str
    outcome: Sequence[Any]


@frozen
class LoopRecord:
    """The record of a failed loop: `total` items, of which those with the numbers in `done` have succeeded.

    The pairs in `done` are the first and the last number of a range. `work` is the hash of the work of an
    item. `lost` more items have succeeded, but their outcomes were too large.
    """

    total: int
    done: Sequence[Sequence[int]]
    work: str
    lost: int = 0

    @property
    def done_count(self) -> int:
        """The number of items that need not be done again."""
        return sum(last - first + 1 for first, last in self.done)

    def open_numbers(self) -> Iterator[int]:
        """Yield the numbers of the items that are done again.

        >>> list(LoopRecord(7, [[1, 3], [5, 6]], "").open_numbers())
        [4, 7]
        """
        start = 1
        for first, last in self.done:
            yield from range(start, first)
            start = last + 1
        yield from range(start, self.total + 1)

    def to_entry(self) -> dict[str, Any]:
        """Return the stored form."""
        lost = {"lost": self.lost} if self.lost else {}
        return {"total": self.total, "done": [list(pair) for pair in self.done], "work": self.work, **lost}


def read_records(visit: Visit) -> dict[str, LoopRecord]:
    """Return the records of the failed loops of a visit, by the positions of the loops."""
    entry = {} if visit.progress is None else visit.progress.journal.get(ITEMS, {})
    return {loop: LoopRecord(**stored) for loop, stored in entry.items()}


def record_loop(finished: FinishedItems, work: str) -> tuple[LoopRecord, Sequence[Any]]:
    """Return the record of a failed loop, and the stored form of its finished items."""
    digest = make_digest(finished.enclosing)
    stored = [
        (index, hashed, outcome.to_list())
        for index, (item, outcome) in sorted(finished.outcomes.items())
        if (hashed := digest(item)) is not None
    ]
    before = range(1, finished.before + 1)
    done = list(find_ranges([*before, *(index + 1 for index, _, _ in stored)]))
    return LoopRecord(finished.total, done, work, finished.lost), stored


def read_items(stored: Iterable[Any]) -> dict[int, RecordedItem]:
    """Return the finished items of a loop in their stored form, by their indexes."""
    return {index: RecordedItem(digest, outcome) for index, digest, outcome in stored}


def make_digest(enclosing: Sequence[Any]) -> Callable[[Any], str | None]:
    """Return the function that hashes an item of a loop with the items of the loops around it.

    It returns None for an item that is not JSON.

    >>> make_digest([])({"a": 1, "b": 2}) == make_digest([])({"b": 2, "a": 1})
    True
    """
    try:
        prefix = hashlib.sha256(_canonical_text(list(enclosing)))
    except (TypeError, ValueError, RecursionError):
        return lambda _item: None

    def digest(item: Any) -> str | None:
        hashed = prefix.copy()
        try:
            hashed.update(_canonical_text(item))
        except (TypeError, ValueError, RecursionError):
            return None
        return hashed.hexdigest()[:DIGEST_DIGITS]

    return digest


def find_ranges(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Yield the first and the last of each range of consecutive numbers, which are in ascending order.

    >>> list(find_ranges([1, 2, 3, 5, 8, 9]))
    [[1, 3], [5, 5], [8, 9]]
    """
    current: list[int] | None = None
    for number in numbers:
        if current is not None and number == current[1] + 1:
            current[1] = number
            continue
        if current is not None:
            yield current
        current = [number, number]
    if current is not None:
        yield current


def forget_items(visit: Visit) -> Visit:
    """Return a visit that does all items of its failed loops again, also those of earlier batches."""
    progress = visit.progress or Progress()
    loops = {key for key, entry in progress.journal.items() if "next" in entry}
    inside = tuple(f"{loop}{mark}" for loop in loops for mark in ("#", "["))
    journal = {
        key: {"undo": entry["undo"]} if key in loops else entry
        for key, entry in progress.journal.items()
        if key != ITEMS and not key.startswith(inside) and (key not in loops or "undo" in entry)
    }
    return replace(visit, progress=replace(progress, journal=journal))


def _canonical_text(value: Any) -> bytes:
    return json.dumps(round_trip_json(value), sort_keys=True, separators=(",", ":")).encode()
