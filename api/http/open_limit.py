"""A limit of what clients hold open at the same time in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError
from noetl.planner.frozen import frozen

RETRY_SECONDS = 5


@frozen
class OpenKind:
    """A kind of things that clients hold open, with the setting of their limit and its default.

    `slug` names the problem of too many. Behind a gateway, the default is `gateway_default` if it is set.
    Each holder may open at least `min_share`, if the limit allows as many.
    """

    name: str
    slug: str
    setting: str
    default: int
    gateway_default: int | None = None
    min_share: int = 1


STREAMS = OpenKind("event streams", "too-many-streams", "NOETL_MAX_STREAMS", 1000)
WAITING_REQUESTS = OpenKind(
    "waiting requests", "too-many-waiting-requests", "NOETL_MAX_WAITING_REQUESTS", 1000, 50
)
BODIES = OpenKind("unfinished bodies", "too-many-bodies", "NOETL_MAX_BODIES", 512)
REQUESTS = OpenKind("requests", "too-many-connections", "NOETL_MAX_CONNECTIONS", 2000, min_share=8)
"""A browser sends six requests at the same time, so the page would not load with a smaller share."""
OPEN_KINDS = (STREAMS, WAITING_REQUESTS, BODIES, REQUESTS)


class OpenLimit:
    """A limit of open things of a kind; one tenant may take half of it. Only one thread may use it.

    If `owner` names other holders than tenants, one of them may take one of `parts`, or `min_share`.
    """

    def __init__(self, limit: int, kind: OpenKind, *, owner: str = "tenant", parts: int = 2) -> None:
        self.limit = limit
        self.share = min(max(limit // parts, kind.min_share), limit)
        self._kind = kind
        self._owner = owner
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
            raise self._problem(
                429, "quota-exceeded", f"{self.share} {self._kind.name} of this {self._owner}"
            )
        if self.count >= self.limit:
            raise self._problem(503, self._kind.slug, f"{self.limit} {self._kind.name}")
        self._counts[tenant] += 1
        try:
            yield
        finally:
            self._counts[tenant] -= 1
            if not self._counts[tenant]:
                del self._counts[tenant]

    def may_open(self, tenant: str) -> bool:
        """Return whether the tenant may open one more."""
        return self._counts[tenant] < self.share and self.count < self.limit

    def _problem(self, status: int, slug: str, subject: str) -> Problem:
        detail = f"{subject} are open in this process, which is the limit ({self._kind.setting})."
        return Problem(status, detail, slug=slug, headers={"Retry-After": str(RETRY_SECONDS)})


def read_open_limit(environ: Mapping[str, str], kind: OpenKind, *, has_gateway: bool = False) -> OpenLimit:
    """Return the limit that the setting of a kind sets.

    Raises:
        SettingError: the setting is not a whole number from 1 to 100,000.
    """
    default = kind.gateway_default if has_gateway and kind.gateway_default is not None else kind.default
    text = environ.get(kind.setting, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or not 1 <= int(text) <= 100_000:
        raise SettingError(f"{kind.setting} is {text!r}; it must be a whole number from 1 to 100000.")
    return OpenLimit(int(text), kind)
