"""Cached results of work in a SQL store.

A hit is one read without a lock. Otherwise a transaction locks the key, so that one of concurrent requests
becomes the holder. Whether a holder still works is read from the row of its visit. Entries are cleared in
several transactions, in the order of their keys. One that is saved meanwhile may be cleared or stay.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.errors import NotJsonError
from noetl.executor.model.cached_results import (
    HOLD_SECONDS,
    CachedResult,
    CacheEntry,
    CacheFilter,
    CacheHolder,
    CacheRequest,
    is_usable,
)
from noetl.executor.model.metrics import RESULT_REUSED
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import add_fact
from noetl.executor.stores.sql.rows import Row, decode_json

MAX_CLEARED = 500
"""How many entries one transaction of `clear` deletes. Other writers have their turns between them."""


class SqlCache:
    """The cached results of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def claim(self, request: CacheRequest, now: float) -> CachedResult | CacheHolder | None:
        database = self._context.database
        rows = database.fetch_all("cache.find", tenant=request.tenant, digest=request.digest)
        result = _usable_result(rows[0], request, now) if rows else None
        if result is None:
            with database.transaction() as db:
                answer = _hold(db, request, now)
            if not isinstance(answer, CachedResult):
                return answer
            result = answer
        with database.transaction() as db:
            add_fact(db, request.holder.run_id, RESULT_REUSED)
        return result

    def save(self, request: CacheRequest, value: Any, expires_at: float, now: float) -> bool:
        try:
            text = encode_json(value)
        except (TypeError, ValueError) as error:
            raise NotJsonError(f"a result cannot be written as JSON: {error}") from error
        with self._context.database.transaction() as db:
            saved = db.execute(
                "cache.save",
                tenant=request.tenant,
                digest=request.digest,
                playbook=request.playbook,
                step=request.step,
                label=request.label,
                holder=_encode_holder(request),
                run_id=request.holder.run_id,
                now=now,
                expires_at=expires_at,
                size=len(text),
                value=text,
            )
            return saved.rowcount == 1

    def release(self, request: CacheRequest) -> None:
        key = {"tenant": request.tenant, "digest": request.digest, "holder": _encode_holder(request)}
        with self._context.database.transaction() as db:
            if db.execute("cache.delete_hold", **key).rowcount == 0:
                db.execute("cache.release", **key)

    def find(self, cache_filter: CacheFilter, now: float, limit: int) -> list[CacheEntry]:
        values = _values_of(cache_filter)
        rows = self._context.database.fetch_all("cache.find_entries", now=now, limit=limit, **values)
        return [
            CacheEntry(
                row["digest"],
                row["playbook"],
                row["step"],
                row["label"],
                row["run_id"],
                row["created_at"],
                row["expires_at"],
                row["size"],
            )
            for row in rows
        ]

    def clear(self, cache_filter: CacheFilter) -> int:
        database, values = self._context.database, _values_of(cache_filter)
        found, after, cleared = MAX_CLEARED, "", 0
        while found == MAX_CLEARED:
            # They are found before the transaction, which keeps other writers waiting on SQLite.
            rows = database.fetch_all("cache.find_cleared", after=after, limit=MAX_CLEARED, **values)
            digests, found = [row["digest"] for row in rows], len(rows)
            if not digests:
                break
            with database.transaction() as db:
                deleted = db.execute("cache.clear", ids=database.encode_list(digests), **values).fetchall()
            cleared += sum(row["size"] > 0 for row in deleted)
            after = digests[-1]
        return cleared


def _hold(db: Writer, request: CacheRequest, now: float) -> CachedResult | CacheHolder | None:
    """Answer a request in a transaction. Let its visit be the holder unless there is an answer."""
    db.lock_name(f"cache {request.tenant} {request.digest}")
    row = db.execute("cache.find", tenant=request.tenant, digest=request.digest).fetchone()
    if row is not None:
        result = _usable_result(row, request, now)
        if result is not None:
            return result
        current = None if row["holder"] is None else CacheHolder.from_list(decode_json(row["holder"]))
        if current is not None and current != request.holder and _is_computing(db, current, now):
            return current
    db.execute(
        "cache.hold",
        tenant=request.tenant,
        digest=request.digest,
        playbook=request.playbook,
        step=request.step,
        label=request.label,
        holder=_encode_holder(request),
        run_id=request.holder.run_id,
        now=now,
        expires_at=now + HOLD_SECONDS,
    )
    return None


def _usable_result(row: Row, request: CacheRequest, now: float) -> CachedResult | None:
    created_at, expires_at = row["created_at"], row["expires_at"]
    if row["value"] is None or not is_usable(created_at, expires_at, request.since, now):
        return None
    return CachedResult(decode_json(row["value"]), row["run_id"], created_at)


def _is_computing(db: Writer, holder: CacheHolder, now: float) -> bool:
    """Return whether the visit of a holder is claimed as it was (as `is_computing` says)."""
    claim = {"run_id": holder.run_id, "visit_id": holder.visit_id, "fence": holder.fence}
    return db.execute("cache.find_claim", now=now, **claim).fetchone() is not None


def _encode_holder(request: CacheRequest) -> str:
    return encode_json(request.holder.to_list())


def _values_of(cache_filter: CacheFilter) -> dict[str, Any]:
    """Return the values of a filter that are given."""
    values = {
        "tenant": cache_filter.tenant,
        "playbook": cache_filter.playbook,
        "step": cache_filter.step,
        "key": cache_filter.key,
        "before": cache_filter.before,
    }
    return {name: value for name, value in values.items() if value is not None}
