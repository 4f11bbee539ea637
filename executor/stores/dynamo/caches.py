"""Caches of a process, so that it reads the table less often: heads of runs, claims and fences.

A cache is a hint. The spread of a run never changes, and a claim is valid as long as its fence. Whether a
run is open is read again before a decision depends on it.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TypeVar

from noetl.executor.model.run import SERVICE_QUEUE, Visit
from noetl.executor.model.run_transition import unknown_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.run_items import run_id_of, spread_of
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.planner.frozen import frozen

MAX_CACHED = 10_000
"""Number of entries of each cache of claims, fences and spreads."""

K = TypeVar("K")
V = TypeVar("V")


class RunHeads:
    """The heads of runs, with the spreads and the open runs that this process has seen.

    Open runs of the service are remembered only with `remembers_service`, since a store with an external
    queue learns of them from messages.
    """

    def __init__(self, table: DynamoTable, *, remembers_service: bool) -> None:
        self._table = table
        self._remembers_service = remembers_service
        self._spreads: OrderedDict[str, int] = OrderedDict()
        self._open_runs: dict[str, set[str]] = {}
        self._marked: OrderedDict[str, bool] = OrderedDict()
        self._lock = Lock()

    def read(self, run_id: str) -> Item:
        """Return the head of a run, or raise UnknownRunError if there is no such run."""
        head = self._table.get(keys.head(run_id))
        if head is None:
            raise unknown_run(run_id)
        self.remember(head)
        return head

    def remember(self, head: Item) -> None:
        """Remember the spread of a run, and whether it is open."""
        run_id = run_id_of(head)
        with self._lock:
            _add(self._spreads, run_id, spread_of(head))
            if "finished" in head:
                self._open_runs.get(head["queue"], set()).discard(run_id)
            elif head["queue"] != SERVICE_QUEUE or self._remembers_service:
                self._open_runs.setdefault(head["queue"], set()).add(run_id)

    def open_runs(self, queue: str) -> set[str]:
        """Return the runs that this process has seen open; the index may not contain them yet."""
        with self._lock:
            return set(self._open_runs.get(queue, ()))

    def remember_slots(self, run_id: str) -> None:
        """Remember that the head of a run says that it has slots."""
        with self._lock:
            _add(self._marked, run_id, True)

    def has_slots(self, run_id: str) -> bool:
        """Return whether this process knows that the head of a run says that it has slots."""
        return run_id in self._marked

    def spread(self, run_id: str) -> int:
        """Return the number of partitions of a run; 1 for a run that does not exist."""
        spread = self._spreads.get(run_id)
        if spread is None:
            head = self._table.get(keys.head(run_id))
            if head is None:
                return 1
            self.remember(head)
            spread = spread_of(head)
        return spread

    def visit_key(self, run_id: str, visit_id: str) -> keys.ItemKey:
        """Return the key of a visit."""
        return keys.visit(run_id, visit_id, self.spread(run_id))


class VisitIds:
    """The ids of visits by run, step and number. A reader of a visit compares its step and its number."""

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, str, int], str] = OrderedDict()
        self._lock = Lock()

    def remember(self, visit: Visit) -> None:
        with self._lock:
            _add(self._ids, (visit.run_id, visit.step, visit.number), visit.id)

    def get(self, run_id: str, step: str, number: int) -> str | None:
        """Return the id of a visit if this process has seen it."""
        return self._ids.get((run_id, step, number))


@frozen
class CachedClaim:
    """The data that was read for a claim of this process: the visit and the head of its run."""

    item: VisitItem
    head: Item


class ClaimCache:
    """The claims that this process has made, and the newest fence of each visit."""

    def __init__(self) -> None:
        self._claims: OrderedDict[tuple[str, str], CachedClaim] = OrderedDict()
        self._fences: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._lock = Lock()

    def add(self, claim: CachedClaim) -> bool:
        """Remember a claim; return False if another thread has claimed the visit since."""
        visit = claim.item.visit
        with self._lock:
            if self._fences.get((visit.run_id, visit.id), 0) > visit.fence:
                return False
            _add(self._fences, (visit.run_id, visit.id), visit.fence)
            _add(self._claims, (visit.run_id, visit.id), claim)
        return True

    def get(self, visit: Visit) -> CachedClaim | None:
        """Return what was read for a claim, or None if another process has made it."""
        claim = self._claims.get((visit.run_id, visit.id))
        return claim if claim is not None and claim.item.visit.fence == visit.fence else None

    def remove(self, visit: Visit) -> None:
        """Remove a claim; its fence is kept."""
        with self._lock:
            self._claims.pop((visit.run_id, visit.id), None)


def _add(cache: OrderedDict[K, V], key: K, value: V) -> None:
    """Add an entry, and remove the oldest if there are more than MAX_CACHED."""
    cache[key] = value
    while len(cache) > MAX_CACHED:
        cache.popitem(last=False)
