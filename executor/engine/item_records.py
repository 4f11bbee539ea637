"""Finished items of the failed loops of a visit: a commit records them, and its next attempt takes them.

The format and its limits are in `noetl.executor.model.finished_items`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noetl.executor.errors import PayloadLostError
from noetl.executor.model.finished_items import (
    ITEMS,
    LoopRecord,
    RecordedItem,
    read_items,
    read_records,
    record_loop,
)
from noetl.executor.model.outcome import FinishedItems
from noetl.executor.model.run import BatchResult, Commit, Progress, Visit
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace

HashWork = Callable[[str], str]
"""A function that returns the hash of the work of the loop at a position."""


class ItemRecords:
    """The finished items of the failed loops of a visit. They are read when a loop first needs them."""

    def __init__(self, store: Store, visit: Visit, hash_work: HashWork) -> None:
        self._store = store
        self._visit = visit
        self._hash_work = hash_work
        self._records = read_records(visit)
        self._parts: dict[str, Sequence[Any]] | None = None
        self._lock = threading.Lock()

    def items_of(self, loop: str) -> Mapping[int, RecordedItem]:
        """Return the items that the loop at a position need not do again, unless its work has changed.

        Raises:
            PayloadLostError: they were deleted from the store.
        """
        record = self._records.get(loop)
        if record is None or record.work != self._hash_work(loop):
            return {}
        return read_items(self._read_parts().get(loop, ()))

    def add_to(self, commit: Commit, loops: Sequence[FinishedItems], *, is_too_large: bool) -> Commit:
        """Return the commit of an unhandled failure with the items that its loops have finished.

        With `is_too_large`, only their number is recorded.
        """
        if not commit.visit.has_ended_branch or not any(items.outcomes or items.lost for items in loops):
            return commit
        records, parts = dict(self._records), self._find_earlier_parts()
        for items in loops:
            work = self._hash_work(items.loop)
            lost = items.lost + (len(items.outcomes) if is_too_large else 0)
            if lost:
                earlier = records.get(items.loop, LoopRecord(items.total, [], work))
                records[items.loop] = replace(earlier, lost=lost)
            else:
                records[items.loop], parts[items.loop] = record_loop(items, work)
        progress = commit.visit.progress or Progress()
        entry = {loop: record.to_entry() for loop, record in records.items()}
        progress = replace(progress, journal={**progress.journal, ITEMS: entry})
        commit = replace(commit, visit=replace(commit.visit, progress=progress))
        if is_too_large:
            return commit
        part = BatchResult(ITEMS, 0, redact_for_storage([[loop, stored] for loop, stored in parts.items()]))
        return replace(commit, batch_results=(*commit.batch_results, part))

    def _find_earlier_parts(self) -> dict[str, Sequence[Any]]:
        """Return the items of other loops, which a commit writes again. Those that are lost are left out."""
        try:
            return dict(self._read_parts())
        except PayloadLostError:
            return {}

    def _read_parts(self) -> dict[str, Sequence[Any]]:
        """Return the stored items of all failed loops, by the positions of the loops."""
        with self._lock:
            if self._parts is None:
                self._parts = self._load_parts() if self._records else {}
            return self._parts

    def _load_parts(self) -> dict[str, Sequence[Any]]:
        stored = self._store.runs.batch_results(self._visit.run_id, self._visit.id, ITEMS)
        return {loop: items for part in stored for loop, items in part}
