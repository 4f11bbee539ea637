"""Cached results of work in the store in memory.

The author of a store needs a table by tenant and digest, and makes a claim of a key atomic. Of two visits
that ask at the same time, one becomes the holder. An entry belongs to no run, so it survives each of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from noetl.executor.errors import NotJsonError
from noetl.executor.model.cached_results import (
    HOLD_SECONDS,
    CachedResult,
    CacheEntry,
    CacheFilter,
    CacheHolder,
    CacheRequest,
    is_computing,
    is_usable,
)
from noetl.executor.model.json_values import write_json
from noetl.executor.model.metrics import RESULT_REUSED
from noetl.executor.stores.memory.facts import add_fact
from noetl.executor.stores.memory.state import CacheRecord, MemoryState
from noetl.planner.frozen import replace


class MemoryCache:
    """The cached results of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def claim(self, request: CacheRequest, now: float) -> CachedResult | CacheHolder | None:
        key, holder = (request.tenant, request.digest), request.holder
        with self._state.lock:
            record = self._state.cached_results.get(key)
            if record is not None and record.text is not None:
                entry = record.entry
                if is_usable(entry.created_at, entry.expires_at, request.since, now):
                    run = self._state.runs.get(holder.run_id)
                    if run is not None:
                        add_fact(self._state, run.run, RESULT_REUSED)
                    return CachedResult(json.loads(record.text), entry.run_id, entry.created_at)
            current = None if record is None else record.holder
            if current is not None and current != holder and self._is_computing(current, now):
                return current
            if record is not None and record.text is not None and now < record.entry.expires_at:
                self._state.cached_results[key] = replace(record, holder=holder)
            else:
                entry = _entry_of(request, now, now + HOLD_SECONDS, 0)
                self._state.cached_results[key] = CacheRecord(entry, None, holder)
            return None

    def save(self, request: CacheRequest, value: Any, expires_at: float, now: float) -> bool:
        try:
            text = write_json(value)
        except (TypeError, ValueError) as error:
            raise NotJsonError(f"a result cannot be written as JSON: {error}") from error
        key = (request.tenant, request.digest)
        with self._state.lock:
            record = self._state.cached_results.get(key)
            if record is None or record.holder != request.holder:
                return False
            entry = _entry_of(request, now, expires_at, len(text))
            self._state.cached_results[key] = CacheRecord(entry, text, None)
            return True

    def release(self, request: CacheRequest) -> None:
        key = (request.tenant, request.digest)
        with self._state.lock:
            record = self._state.cached_results.get(key)
            if record is None or record.holder != request.holder:
                return
            if record.text is None:
                del self._state.cached_results[key]
            else:
                self._state.cached_results[key] = replace(record, holder=None)

    def find(self, cache_filter: CacheFilter, now: float, limit: int) -> list[CacheEntry]:
        with self._state.lock:
            records = [self._state.cached_results[key] for key in self._find_keys(cache_filter)]
        entries = [record.entry for record in records if record.text is not None]
        current = [entry for entry in entries if now < entry.expires_at]
        return sorted(current, key=lambda entry: (-entry.created_at, entry.digest))[:limit]

    def clear(self, cache_filter: CacheFilter) -> int:
        with self._state.lock:
            found = [*self._find_keys(cache_filter)]
            deleted = [self._state.cached_results.pop(key) for key in found]
        return sum(record.text is not None for record in deleted)

    def _find_keys(self, cache_filter: CacheFilter) -> Iterator[tuple[str, str]]:
        for key, record in self._state.cached_results.items():
            if key[0] == cache_filter.tenant and cache_filter.accepts(record.entry):
                yield key

    def _is_computing(self, holder: CacheHolder, now: float) -> bool:
        run = self._state.runs.get(holder.run_id)
        return is_computing(holder, None if run is None else run.visits.get(holder.visit_id), now)


def delete_expired(state: MemoryState, now: float) -> None:
    """Delete the entries that have expired."""
    state.cached_results = {
        key: record for key, record in state.cached_results.items() if now < record.entry.expires_at
    }


def _entry_of(request: CacheRequest, now: float, expires_at: float, size: int) -> CacheEntry:
    return CacheEntry(
        request.digest,
        request.playbook,
        request.step,
        request.label,
        request.holder.run_id,
        now,
        expires_at,
        size,
    )
