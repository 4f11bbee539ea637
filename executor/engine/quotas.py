"""The quotas of a tenant: how many active branches and backfills it may have, and settings of other limits.

Problem: a tenant that starts runs without end fills the store, and delays its own runs.

Algorithm: active branches of a tenant are its visits that are due, run or wait. The store counts them up to
the limit, at most once in COUNT_SECONDS for each tenant; starts in between are added.

Cost: a look-up for each start. The count reads index entries, at most as many as the limit.

Limits: starts in between are counted in one process. Several processes may exceed the quota of a tenant by
what they start in COUNT_SECONDS.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from noetl.executor.errors import RejectedError, SettingError
from noetl.executor.model.child_runs import CHILD_RUNS_SETTING, DEFAULT_CHILD_RUNS
from noetl.executor.model.count_budget import ACTIONS_SETTING, DEFAULT_ACTIONS, DEFAULT_WAITS, WAITS_SETTING
from noetl.executor.model.outbox import OutboxKind
from noetl.executor.model.run import SERVICE_QUEUE
from noetl.executor.stores.interface import Store

COUNT_SECONDS = 1.0
MAX_CACHED_TENANTS = 10_000
BRANCHES_SETTING = "NOETL_MAX_BRANCHES"
DEFAULT_BRANCHES = 100_000
BACKFILLS_SETTING = "NOETL_MAX_BACKFILLS"
DEFAULT_BACKFILLS = 100

MAX_COUNTED_PAGES = 10
COUNTED_BACKFILLS = 500
"""How many backfills are on each page that is read to count those that have not ended."""


def read_limit(name: str, default: int, environ: Mapping[str, str] = os.environ) -> int:
    """Return the limit that a setting names.

    Raises:
        SettingError: the setting is not a whole number from 1 to 1,000,000,000.
    """
    text = environ.get(name, "").strip() or str(default)
    if not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= 1_000_000_000:
        raise SettingError(f"{name} is {text!r}; it must be a whole number from 1 to 1000000000.")
    return int(text)


def read_child_run_limit(queue: str) -> int | None:
    """Return how many child runs the root of a run in a queue may have. Local runs have no limit: None.

    Raises:
        SettingError: the setting is invalid.
    """
    return read_limit(CHILD_RUNS_SETTING, DEFAULT_CHILD_RUNS) if queue == SERVICE_QUEUE else None


def check_quota_settings(store: Store, environ: Mapping[str, str] = os.environ) -> None:
    """Check the settings of quotas for a store.

    Raises:
        SettingError: a setting is invalid, or the store does not count what it limits.
    """
    read_limit(CHILD_RUNS_SETTING, DEFAULT_CHILD_RUNS, environ)
    read_limit(ACTIONS_SETTING, DEFAULT_ACTIONS, environ)
    read_limit(WAITS_SETTING, DEFAULT_WAITS, environ)
    read_limit(BRANCHES_SETTING, DEFAULT_BRANCHES, environ)
    read_limit(BACKFILLS_SETTING, DEFAULT_BACKFILLS, environ)
    if environ.get(BRANCHES_SETTING, "").strip() and not store.queue.counts_active:
        message = f"{BRANCHES_SETTING} is set, but this store does not count the branches of a tenant."
        raise SettingError(f"{message} Remove the setting, or use a store in SQLite or Postgres.")


class BranchQuota:
    """The active branches of each tenant in a store, as they were counted last, and the starts since then."""

    def __init__(self, store: Store) -> None:
        # The store is the weak key under which this object is found, so only its queue is kept.
        self._count_active = store.queue.count_active if store.queue.counts_active else None
        self._counted: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def check(self, tenant: str) -> None:
        """Count a start of a run of a tenant.

        Raises:
            RejectedError: `quota_exceeded`, if the tenant has too many active branches.
            SettingError: the setting is invalid.
        """
        if self._count_active is None:
            return
        limit = read_limit(BRANCHES_SETTING, DEFAULT_BRANCHES)
        now = time.monotonic()
        with self._lock:
            counted_at, count = self._counted.get(tenant, (-COUNT_SECONDS, 0))
        if now - counted_at >= COUNT_SECONDS:
            counted_at, count = now, self._count_active(SERVICE_QUEUE, tenant, limit)
        with self._lock:
            if len(self._counted) >= MAX_CACHED_TENANTS:
                self._counted.clear()
            self._counted[tenant] = (counted_at, count + 1)
        if count >= limit:
            message = f"the tenant has {limit:,} branches that are due, run or wait ({BRANCHES_SETTING})"
            raise RejectedError("quota_exceeded", message, limit=limit, setting=BRANCHES_SETTING)


_BRANCH_QUOTAS: WeakKeyDictionary[Any, BranchQuota] = WeakKeyDictionary()


def check_branch_quota(store: Store, tenant: str, queue: str) -> None:
    """Count a start of a run of a tenant. Local runs have no quota.

    Raises:
        RejectedError: `quota_exceeded`, if the tenant has too many active branches.
        SettingError: a setting is invalid, or the store does not count what it limits.
    """
    if queue == SERVICE_QUEUE:
        check_quota_settings(store)
        quota = _BRANCH_QUOTAS.get(store) or _BRANCH_QUOTAS.setdefault(store, BranchQuota(store))
        quota.check(tenant)


def check_backfill_quota(store: Store, tenant: str) -> None:
    """Check that a tenant may have another backfill that has not ended.

    The newest 5,000 are counted. Several requests at once may exceed the quota by their number.

    Raises:
        RejectedError: `quota_exceeded`.
        SettingError: the setting is invalid.
    """
    limit = read_limit(BACKFILLS_SETTING, DEFAULT_BACKFILLS)
    count, cursor = 0, None
    for _ in range(MAX_COUNTED_PAGES):
        page, cursor = store.outbox.find(tenant, OutboxKind.BACKFILL, limit=COUNTED_BACKFILLS, cursor=cursor)
        count += sum(entry.record["finished_at"] is None for entry in page)
        if count >= limit:
            message = f"the tenant has {limit:,} backfills that have not ended ({BACKFILLS_SETTING})"
            raise RejectedError("quota_exceeded", message, limit=limit, setting=BACKFILLS_SETTING)
        if cursor is None:
            return
