"""The cache of results as the work of one claimed visit uses it: claims of keys, and saves within limits."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from noetl.executor.errors import NotJsonError, PayloadTooLargeError, SettingError
from noetl.executor.model.cached_results import (
    MAX_LABEL_LENGTH,
    MAX_RESULT_CHARACTERS,
    CachedResult,
    CacheHolder,
    CacheRequest,
)
from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.run import Claim
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen
from noetl.planner.syntax.durations import MAX_TTL_SECONDS, parse_duration

SETTING = "NOETL_CACHE_TTL"

logger = logging.getLogger("noetl.executor")


def read_longest_ttl(environ: Mapping[str, str] = os.environ) -> float:
    """Return the longest time for which a cached result is used, `NOETL_CACHE_TTL`. 0 turns the cache off.

    Raises:
        SettingError: the setting is neither a duration nor `off`.
    """
    text = environ.get(SETTING, "").strip().lower()
    if not text:
        return MAX_TTL_SECONDS
    try:
        return 0.0 if text == "off" else min(parse_duration(text), MAX_TTL_SECONDS)
    except ValueError:
        raise SettingError(f"{SETTING} is {text!r}; it must be a duration such as 7d, or off.") from None


@frozen
class ResultCache:
    """The cached results of the tenant of a claimed visit. `longest_ttl` is the operator's limit."""

    store: Store
    claim: Claim
    clock: Callable[[], float]
    longest_ttl: float

    def request(self, digest: str, label: str, position: str, ttl_seconds: float) -> CacheRequest:
        """Return the request for the result with a digest, for the work at a position."""
        run, visit = self.claim.run, self.claim.visit
        holder = CacheHolder(run.id, visit.id, visit.fence, position)
        since = self.clock() - self.limit(ttl_seconds)
        shown = "".join(letter if letter.isprintable() else "?" for letter in label[:MAX_LABEL_LENGTH])
        return CacheRequest(run.tenant, digest, run.playbook, visit.step, shown, holder, since)

    def limit(self, ttl_seconds: float) -> float:
        """Return the time for which a result is used, within the operator's limit."""
        return min(ttl_seconds, self.longest_ttl)

    def ask(self, request: CacheRequest) -> CachedResult | CacheHolder | None:
        """Return a result, the visit that computes it, or None if this visit has to."""
        return self.store.cache.claim(request, self.clock())

    def save(self, request: CacheRequest, value: Any, ttl_seconds: float) -> str | None:
        """Save a result, and return why it was not saved, or None."""
        problem = self._try_to_save(request, value, ttl_seconds)
        if problem is None:
            return None
        self.release(request)
        logger.warning("a result of `%s` is not cached: %s", request.step, problem)
        return problem

    def _try_to_save(self, request: CacheRequest, value: Any, ttl_seconds: float) -> str | None:
        if json_size(value) > MAX_RESULT_CHARACTERS:
            return f"it is longer than {MAX_RESULT_CHARACTERS:,} characters of JSON"
        now = self.clock()
        try:
            self.store.cache.save(request, value, now + self.limit(ttl_seconds), now)
        except (NotJsonError, PayloadTooLargeError) as error:
            return str(error)
        return None

    def release(self, request: CacheRequest) -> None:
        """Let another visit compute the result."""
        self.store.cache.release(request)
