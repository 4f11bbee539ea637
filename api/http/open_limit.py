"""A limit of what clients hold open at the same time in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError

RETRY_SECONDS = 5
MAX_STREAMS_SETTING = "NOETL_MAX_STREAMS"
DEFAULT_MAX_STREAMS = 1000


class OpenLimit:
    """A limit of open things of a kind, such as event streams; one tenant may take half of it.

    `slug` names the problem of too many, and `setting` the setting of the limit. Only one thread may use it.
    """

    def __init__(self, limit: int, *, kind: str, slug: str, setting: str) -> None:
        self.limit = limit
        self.share = max(limit // 2, 1)
        self._kind = kind
        self._slug = slug
        self._setting = setting
        self._counts: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """Number of things that are open now."""
        return self._counts.total()

    @contextmanager
    def open(self, tenant: str) -> Iterator[None]:
        """Count one more open thing of a tenant during this block.

        Raises:
            Problem: 503, the process has too many; 429, the tenant has its share.
        """
        if self._counts[tenant] >= self.share:
            raise self._problem(429, "quota-exceeded", f"{self.share} {self._kind} of this tenant")
        if self.count >= self.limit:
            raise self._problem(503, self._slug, f"{self.limit} {self._kind}")
        self._counts[tenant] += 1
        try:
            yield
        finally:
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]

    def _problem(self, status: int, slug: str, subject: str) -> Problem:
        detail = f"{subject} are open in this process, which is the limit ({self._setting})."
        return Problem(status, detail, slug=slug, headers={"Retry-After": str(RETRY_SECONDS)})


def stream_limit(environ: Mapping[str, str]) -> OpenLimit:
    """Return the limit of open event streams that `NOETL_MAX_STREAMS` sets.

    Raises:
        SettingError: the setting is not a whole number from 1 to 100,000.
    """
    text = environ.get(MAX_STREAMS_SETTING, "").strip() or str(DEFAULT_MAX_STREAMS)
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or not 1 <= int(text) <= 100_000:
        raise SettingError(f"{MAX_STREAMS_SETTING} is {text!r}; it must be a whole number from 1 to 100000.")
    return OpenLimit(int(text), kind="event streams", slug="too-many-streams", setting=MAX_STREAMS_SETTING)
