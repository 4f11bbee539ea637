"""The cached results of a tenant: lists of them, and their deletion."""

from __future__ import annotations

from collections.abc import Sequence

from noetl.api.service.tenant import TenantContext
from noetl.api.service.views import Timestamp, View
from noetl.executor.model.cached_results import CacheEntry, CacheFilter
from noetl.executor.model.events import timestamp
from noetl.planner.frozen import frozen

ENTRIES_PER_PAGE = 100


class CachedEntry(View, schema_name="CachedResult"):
    """Result in the cache. `label` is the beginning of the `key` of the playbook, empty for a default key.

    `digest` identifies the work and its key. `size` is in characters of JSON, and `workflow_id` is the run
    that has computed the result.
    """

    digest: str
    label: str
    playbook: str
    step: str
    workflow_id: str
    created_at: Timestamp
    expires_at: Timestamp
    size: int


class CachePage(View, schema_name="CachedResults"):
    """Newest results of a filter. `has_more` says that there are older ones."""

    items: Sequence[CachedEntry]
    has_more: bool


class ClearReport(View, schema_name="ClearedResults"):
    """Number of results that were deleted."""

    cleared: int


@frozen
class CacheQuery:
    """A selection of cached results, by the members of `CacheFilter`. `older_than` is an age in seconds."""

    playbook: str | None = None
    step: str | None = None
    key: str | None = None
    older_than: float | None = None


class CacheService:
    """The cached results of a tenant."""

    def __init__(self, context: TenantContext) -> None:
        self._context = context

    def find(self, query: CacheQuery, limit: int = ENTRIES_PER_PAGE) -> CachePage:
        """Return the newest results of a query."""
        now = self._context.clock()
        entries = self._context.store.cache.find(self._filter(query, now), now, limit + 1)
        return CachePage(items=list(map(_to_view, entries[:limit])), has_more=len(entries) > limit)

    def clear(self, query: CacheQuery) -> ClearReport:
        """Delete the results of a query. Results that are being computed are not saved."""
        cache_filter = self._filter(query, self._context.clock())
        return ClearReport(cleared=self._context.store.cache.clear(cache_filter))

    def _filter(self, query: CacheQuery, now: float) -> CacheFilter:
        before = None if query.older_than is None else now - query.older_than
        return CacheFilter(self._context.tenant, query.playbook, query.step, query.key, before)


def _to_view(entry: CacheEntry) -> CachedEntry:
    return CachedEntry(
        digest=entry.digest,
        label=entry.label,
        playbook=entry.playbook,
        step=entry.step,
        workflow_id=entry.run_id,
        created_at=timestamp(entry.created_at),
        expires_at=timestamp(entry.expires_at),
        size=entry.size,
    )
