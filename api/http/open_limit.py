"""Limits of what clients hold open at the same time in this process, shared by dynamic thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from noetl.api.http.dynamic_threshold import DynamicThreshold
from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError
from noetl.planner.frozen import frozen

RETRY_SECONDS = 5

STRANGERS = " public"
"""The holder that all requests without a caller are together. No tenant has a blank in its name."""


@frozen
class OpenKind:
    """A kind of things that clients hold open, with the setting of their limit and its default.

    `slug` names the problem of too many. Behind a gateway, the default is `gateway_default` if it is set.
    Each holder may open `min_share` while one is free. Requests without a caller together may open one of
    `stranger_parts`.
    """

    name: str
    slug: str
    setting: str
    default: int
    gateway_default: int | None = None
    min_share: int = 1
    stranger_parts: int = 2


STREAMS = OpenKind("event streams", "too-many-streams", "NOETL_MAX_STREAMS", 1000)
WAITING_REQUESTS = OpenKind(
    "waiting requests", "too-many-waiting-requests", "NOETL_MAX_WAITING_REQUESTS", 1000, 50
)
BODIES = OpenKind("unfinished bodies", "too-many-bodies", "NOETL_MAX_BODIES", 512)
REQUESTS = OpenKind(
    "requests", "too-many-connections", "NOETL_MAX_CONNECTIONS", 2000, min_share=8, stranger_parts=4
)
"""A browser sends six requests at the same time, so the page would not load with a smaller share."""
OPEN_KINDS = (STREAMS, WAITING_REQUESTS, BODIES, REQUESTS)


class OpenLimit:
    """A limit of open things of a kind, which the holders share. Only one thread may use it.

    A holder may open one more while it has fewer than are free. A problem says with `owner` what a holder is,
    and with `group` whose part of the setting the limit is.
    """

    def __init__(self, limit: int, kind: OpenKind, *, owner: str = "tenant", group: str = "") -> None:
        self._open = DynamicThreshold(limit, kind.min_share)
        self._kind = kind
        self._owner = owner
        self._group = group

    @property
    def limit(self) -> int:
        return self._open.limit

    @property
    def count(self) -> int:
        """Number of things that are open now."""
        return self._open.total

    def may_open(self, holder: str) -> bool:
        """Return whether the holder may open one more."""
        return self._open.may_take(holder)

    def check(self, holder: str) -> None:
        """Raise a problem if the holder may not open one more.

        Raises:
            Problem: 429, the holder has as many as it may have; 503, the process has too many.
        """
        if self.may_open(holder):
            return
        held, name, setting = self._open.held_by(holder), self._kind.name, self._kind.setting
        if held >= self._open.min_share:
            owner = f"of this {self._owner}" if holder != STRANGERS else "without a caller"
            detail = (
                f"{held} {name} {owner} are open in this process. More may be opened while fewer are open"
                f" than are free ({setting})."
            )
            raise _too_many(429, "quota-exceeded", detail)
        if self._group:
            detail = (
                f"{self.limit} {name} {self._group} are open, which is their part of the limit ({setting})."
            )
        else:
            detail = f"{self.limit} {name} are open in this process, which is the limit ({setting})."
        raise _too_many(503, self._kind.slug, detail)

    def add(self, holder: str) -> None:
        """Count one more open thing of a holder."""
        self._open.take(holder)

    def remove(self, holder: str) -> None:
        """Count one open thing less of a holder."""
        self._open.give_back(holder)

    @contextmanager
    def open(self, holder: str) -> Iterator[None]:
        """Count one more open thing of a holder during this block.

        Raises:
            Problem: as `check`.
        """
        self.check(holder)
        self.add(holder)
        try:
            yield
        finally:
            self.remove(holder)


class ClientLimit:
    """A limit of open things of tenants, and of addresses whose requests have no caller.

    All addresses are one holder of the limit, and they share its part in the same way.
    """

    def __init__(self, limit: int, kind: OpenKind) -> None:
        part = min(max(limit // kind.stranger_parts, kind.min_share), limit)
        self._of_all = OpenLimit(limit, kind)
        self._of_strangers = OpenLimit(part, kind, owner="address", group="without a caller")

    def check(self, tenant: str | None, address: str) -> None:
        """Raise a problem if the tenant, or the address without a tenant, may not open one more.

        Raises:
            Problem: 429, it has as many as it may have; 503, there are too many.
        """
        if tenant is None:
            self._of_strangers.check(address)
        self._of_all.check(STRANGERS if tenant is None else tenant)

    def add(self, tenant: str | None, address: str) -> None:
        """Count one more open thing."""
        if tenant is None:
            self._of_strangers.add(address)
        self._of_all.add(STRANGERS if tenant is None else tenant)

    def remove(self, tenant: str | None, address: str) -> None:
        """Count one open thing less."""
        if tenant is None:
            self._of_strangers.remove(address)
        self._of_all.remove(STRANGERS if tenant is None else tenant)

    @contextmanager
    def open(self, tenant: str | None, address: str) -> Iterator[None]:
        """Count one more open thing during this block.

        Raises:
            Problem: as `check`.
        """
        self.check(tenant, address)
        self.add(tenant, address)
        try:
            yield
        finally:
            self.remove(tenant, address)


def _too_many(status: int, slug: str, detail: str) -> Problem:
    return Problem(status, detail, slug=slug, headers={"Retry-After": str(RETRY_SECONDS)})


def read_open_limit(environ: Mapping[str, str], kind: OpenKind, *, has_gateway: bool = False) -> int:
    """Return the limit that the setting of a kind sets.

    Raises:
        SettingError: the setting is not a whole number from 1 to 100,000.
    """
    default = kind.gateway_default if has_gateway and kind.gateway_default is not None else kind.default
    text = environ.get(kind.setting, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or len(text) > 6 or not 1 <= int(text) <= 100_000:
        raise SettingError(f"{kind.setting} is {text!r}; it must be a whole number from 1 to 100000.")
    return int(text)
