"""Cached results of work, and the claims by which one visit computes a result for all.

Problem: a result may serve many runs, and runs that need it at the same time must compute it once. A worker
that computes it may die.

Algorithm: a shared cache with request coalescing (compare `singleflight` of Go). The entry of a key names the
visit that computes its result. This claim has no lease of its own: it holds while the claim of that visit on
the queue does. So it needs no renewal, and ends with the worker.

Cost: one read for a hit. One write to begin and one to end the work of a miss.

Limits: a visit that waits asks again after a growing delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noetl.executor.model.run import Visit, VisitStatus
from noetl.planner.frozen import frozen

MAX_RESULT_CHARACTERS = 8 * 1024 * 1024
"""The longest result that is cached, in characters of JSON."""

MAX_LABEL_LENGTH = 200
"""Characters of a key that lists show."""

HOLD_SECONDS = 86_400.0
"""How long an entry without a result is kept, since its holder is asked whether it still works."""

WAITS_KEY = "cache_waits"
"""The key of the journal entry of work that waits, with the number of its requests."""

CACHE_WAIT = "cache"
"""Stands among the types of waiting actions for work whose result another visit computes."""

MAX_LISTED = 1000
"""How many entries a list has at most."""


@frozen
class CacheHolder:
    """The visit that computes a result, by the fence of its claim, and the position of the work in it."""

    run_id: str
    visit_id: str
    fence: int
    position: str

    def to_list(self) -> list[Any]:
        return [self.run_id, self.visit_id, self.fence, self.position]

    @classmethod
    def from_list(cls, stored: Sequence[Any]) -> CacheHolder:
        return cls(*stored)


@frozen
class CacheRequest:
    """The request of a visit for the result of work.

    `digest` identifies the work and its key among those of `tenant`. `playbook`, `step` and `label` are shown
    in lists; `label` is the beginning of a key that the playbook gives. A result from before `since` does not
    count.
    """

    tenant: str
    digest: str
    playbook: str
    step: str
    label: str
    holder: CacheHolder
    since: float


@frozen
class CachedResult:
    """A result in the cache, as the engine has encoded it, the run that computed it, and when."""

    value: Any
    run_id: str
    created_at: float


@frozen
class CacheEntry:
    """A result in the cache as lists show it. `size` is its length in characters of JSON."""

    digest: str
    playbook: str
    step: str
    label: str
    run_id: str
    created_at: float
    expires_at: float
    size: int


@frozen
class CacheFilter:
    """A selection of the entries of a tenant.

    `key` is the beginning of a label or a digest. Entries were created before `before`.
    """

    tenant: str
    playbook: str | None = None
    step: str | None = None
    key: str | None = None
    before: float | None = None

    def accepts(self, entry: CacheEntry) -> bool:
        """Return whether an entry of the tenant is selected."""
        is_named = self.playbook in (None, entry.playbook) and self.step in (None, entry.step)
        is_old = self.before is None or entry.created_at < self.before
        texts = (entry.label, entry.digest)
        return is_named and is_old and (self.key is None or any(text.startswith(self.key) for text in texts))


def is_usable(created_at: float, expires_at: float, since: float, now: float) -> bool:
    """Return whether a result may be used: it is not expired, and not older than the request allows.

    >>> is_usable(10.0, 20.0, since=5.0, now=19.0), is_usable(10.0, 20.0, since=11.0, now=19.0)
    (True, False)
    """
    return since <= created_at and now < expires_at


def is_computing(holder: CacheHolder, visit: Visit | None, now: float) -> bool:
    """Return whether the holder of a key still works. `visit` is its visit, or None if it was deleted."""
    if visit is None or visit.status is not VisitStatus.RUNNING:
        return False
    return visit.fence == holder.fence and now < visit.due_at
