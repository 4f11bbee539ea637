"""Rate limits: how many requests a caller may send in a minute, over all processes of a service.

Problem: processes that share a store must allow a caller at most its limit together. A write to the store
for each request would cost more than the request.

Algorithm: a sliding window of SLOTS slots, counted in the store. A process takes batches of requests from
the count (leases), and uses them up without the store. A 64th of the limit is free in each process and
minute, so callers far below their limit cause no writes. A refusal holds until the next slot. Failed
attempts are counted for each address and process by a token bucket (Turner, "New directions in
communications", 1986).

Cost: at most 64 writes in a minute for each caller and process, however many requests arrive.

Clients behind one proxy may have one address. So credentials of an address without an attempt left are
checked nevertheless, a few at a time. Right ones are accepted, and wrong ones are 429. Each wrong one is read
from the store, so a second token bucket has SPARE_FACTOR times the limit. If that is empty, too, nothing new
is checked. Credentials, and tokens of callbacks, that were accepted lately are.

Limits: in any minute, each process may allow 5 % of the limit beyond it. Of addresses and credentials, the
MAX_ADDRESSES and MAX_FAMILIAR latest are remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Self
from weakref import WeakValueDictionary

from noetl.api.auth.authentication import Caller
from noetl.api.auth.latest_values import LatestValues
from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError
from noetl.executor.model.request_counts import SLOT_SECONDS, WINDOW_SECONDS, RequestBatch
from noetl.planner.frozen import frozen

BATCHES = 64
"""How many batches a limit consists of."""

MAX_ADDRESSES = 10_000
MAX_FAMILIAR = 10_000
MAX_CALLERS = 10_000
_IPV6_NETWORK_BITS = 64
_IPV4_BITS = 0xFFFF_FFFF
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
"""The addresses of IPv4 clients that a translator passes on as those of IPv6 (RFC 6052)."""

SPARE_FACTOR = 20
"""How many times the limit of failures an address may fail in a minute until nothing of it is checked. With
60 failures, 60 clients behind a proxy may send one wrong key in 3 s each."""

SPARE_CHECKS = 16
"""How many credentials of addresses without an attempt left are checked at a time. Each takes a thread, and
up to `jwt.MAX_WAITING` of them may wait for the keys of the token issuer."""

MAX_SPARE_CHECKS = 1000
"""How many of them may be checked or wait for it."""

ADDRESS_PART = 4
"""The places and the waiting requests of one address are all divided by this number."""

CountRequests = Callable[[RequestBatch], bool]
"""A function that counts a batch of requests unless the limit would be exceeded, and returns whether it did.
"""


@frozen
class RateSettings:
    """Requests in a minute: of a key or token, of a tenant, failed ones and callbacks of an address.

    Webhooks of an address have the limit of its callbacks.

    0 is no limit.
    """

    key: int
    tenant: int
    failures: int
    callbacks: int


NO_RATE_LIMITS = RateSettings(0, 0, 0, 0)

_DEFAULTS = {
    "NOETL_RATE_PER_KEY": 30_000,
    "NOETL_RATE_PER_TENANT": 60_000,
    "NOETL_RATE_FAILURES": 60,
    "NOETL_RATE_CALLBACKS": 30_000,
}
MAX_RATE = 100_000_000


def read_rate_settings(settings: Mapping[str, str]) -> RateSettings:
    """Return the rate limits of a service.

    Raises:
        SettingError: a limit is not a whole number from 0 to MAX_RATE.
    """
    return RateSettings(*(_read_rate(settings, name, default) for name, default in _DEFAULTS.items()))


def _read_rate(settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_RATE:
        message = f"{name} is {text!r}; it must be a number of requests in a minute, 0 to {MAX_RATE}."
        raise SettingError(f"{message} 0 is no limit.")
    return int(text)


@dataclass(slots=True, eq=False)
class _Allowance:
    """The requests that a caller may still send to this process without a query of the store.

    Its methods need the lock.
    """

    free: int = 0
    free_until: float = 0.0
    leased: int = 0
    leased_until: float = 0.0
    refused_until: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has_one(self, limit: int, now: float) -> bool:
        """Return whether a request is left that needs no store."""
        if now >= self.free_until:
            self.free, self.free_until = limit // BATCHES, now + WINDOW_SECONDS
        return self.free > 0 or (self.leased > 0 and now < self.leased_until)

    def take_one(self) -> None:
        """Take one of the requests that are left."""
        if self.free:
            self.free -= 1
        else:
            self.leased -= 1


class RateLimiter:
    """The limits of callers. Safe to share between threads.

    `clock` is that of the store, which all processes share. Requests that need no store are counted by the
    `timer` of this process, so that a clock that is set back refuses no caller.
    """

    def __init__(
        self,
        settings: RateSettings,
        count: CountRequests,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._count = count
        self._clock = clock
        self._timer = timer
        self._allowances = LatestValues[_Allowance](MAX_CALLERS)

    def check(self, caller: Caller) -> None:
        """Count a request of a caller.

        Raises:
            Problem: 429, the caller or its tenant has sent too many requests.
        """
        for policy, subject, limit in self._limits_of(caller):
            refused_until = self._refusal(subject, limit)
            if refused_until is not None:
                raise too_many_requests(policy, limit, refused_until - self._timer())

    def check_at_once(self, caller: Caller) -> bool:
        """Count a request of a caller if this takes no query of the store. Return whether it was counted."""
        now, allowances = self._timer(), list[_Allowance]()
        with ExitStack() as locks:
            for _, subject, limit in self._limits_of(caller):
                allowance = self._allowances.get(subject, _Allowance)
                if not allowance.lock.acquire(blocking=False):  # Another thread may wait for the store.
                    return False
                locks.callback(allowance.lock.release)
                if now < allowance.refused_until or not allowance.has_one(limit, now):
                    return False
                allowances.append(allowance)
            for allowance in allowances:
                allowance.take_one()
        return True

    def _limits_of(self, caller: Caller) -> Iterator[tuple[str, str, int]]:
        """Yield the policy, the subject and the number of each limit of a caller."""
        # Tokens of several tenants may have one subject, or none. No tenant has a blank in its name.
        names = {"key": f"{caller.tenant} {caller.name}", "tenant": caller.tenant}
        for policy, limit in (("key", self._settings.key), ("tenant", self._settings.tenant)):
            if limit:
                name = names[policy].encode("utf-8", "surrogatepass")
                yield policy, f"{policy} {hashlib.sha256(name).hexdigest()[:32]}", limit

    def _refusal(self, subject: str, limit: int) -> float | None:
        """Count a request, and return None. Or return until when requests are refused."""
        allowance = self._allowances.get(subject, _Allowance)
        with allowance.lock:
            now = self._timer()
            if now < allowance.refused_until:
                return allowance.refused_until
            if allowance.has_one(limit, now):
                allowance.take_one()
                return None
            (slot, passed), size = divmod(self._clock(), SLOT_SECONDS), max(limit // BATCHES, 1)
            if not self._count(RequestBatch(subject, int(slot), size, limit)):
                allowance.refused_until = now + SLOT_SECONDS - passed
                return allowance.refused_until
            allowance.leased, allowance.leased_until = size - 1, now + WINDOW_SECONDS
            return None


@dataclass(slots=True, eq=False)
class _Bucket:
    """The attempts that an address has left, and when that was computed."""

    left: float
    updated_at: float


class AddressLimiter:
    """A limit of attempts in a minute for each address, on this process. `policy` names it to clients.

    Safe to share between threads: credentials are checked on several. One lock covers the check and the count
    of an attempt, so that no two threads use the last one.
    """

    def __init__(self, policy: str, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._limit = limit
        self._clock = clock
        self._buckets = LatestValues[_Bucket](MAX_ADDRESSES)
        self._lock = threading.Lock()

    def refusal(self, address: str) -> Problem | None:
        """Return the problem of an address without an attempt left, 429, or None."""
        return self._count(address, 0)

    def take(self, address: str) -> None:
        """Count an attempt of an address.

        Raises:
            Problem: 429, the address has no attempt left.
        """
        if (refusal := self._count(address, 1)) is not None:
            raise refusal

    def begin(self, address: str) -> CountedAttempt:
        """Count an attempt of an address, before it is known whether it fails. See `CountedAttempt`."""
        refusal = self._count(address, 1)
        return CountedAttempt(self if refusal is None else None, address, refusal)

    def give_back(self, address: str) -> None:
        """Count an attempt of an address no longer, because it has not failed."""
        if self._limit:
            with self._lock:
                self._refilled(address).left += 1

    def _count(self, address: str, attempts: int) -> Problem | None:
        """Count attempts of an address, or return the problem of one without an attempt left."""
        if not self._limit:
            return None
        with self._lock:
            bucket = self._refilled(address)
            left = bucket.left
            if left >= 1:
                bucket.left -= attempts
                return None
        return too_many_requests(self._policy, self._limit, (1 - left) * WINDOW_SECONDS / self._limit)

    def _refilled(self, address: str) -> _Bucket:
        """Return the bucket of an address, refilled up to now. The caller has the lock."""
        now = self._clock()
        bucket = self._buckets.get(network_of(address), lambda: _Bucket(float(self._limit), now))
        gained = (now - bucket.updated_at) * self._limit / WINDOW_SECONDS
        bucket.left, bucket.updated_at = min(bucket.left + gained, float(self._limit)), now
        return bucket


class CountedAttempt:
    """An attempt of an address that is counted during a block, and afterwards if it has failed.

    So an attempt without an outcome is not counted: its request was cancelled, or the store was away.
    `refusal` is the problem to answer if it fails, or None. `limiter` is None if nothing was counted.
    """

    def __init__(self, limiter: AddressLimiter | None, address: str, refusal: Problem | None) -> None:
        self.refusal = refusal
        self._limiter = limiter
        self._address = address
        self._has_failed = False

    def fail(self) -> None:
        """Count the attempt also after the block.

        Raises:
            Problem: the refusal, if there is one.
        """
        self._has_failed = True
        if self.refusal is not None:
            raise self.refusal from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._limiter is not None and not self._has_failed:
            self._limiter.give_back(self._address)


class FailureLimiter:
    """A limit of failed attempts in a minute for each address, and SPARE_FACTOR times as many beyond it.

    Those beyond the limit are checked, because others may have the same address. If they fail, they are 429.
    """

    def __init__(self, policy: str, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limited = AddressLimiter(policy, limit, clock)
        self._spare = AddressLimiter(policy, limit * SPARE_FACTOR, clock)

    def refusal(self, address: str) -> Problem | None:
        """Return the problem of an attempt that would fail, 429, or None within the limit.

        Raises:
            Problem: 429, nothing of the address is checked.
        """
        refusal = self._limited.refusal(address)
        if refusal is not None and self._spare.refusal(address) is not None:
            raise refusal
        return refusal

    def begin(self, address: str) -> CountedAttempt:
        """Count an attempt of an address, before it is known whether it fails.

        Raises:
            Problem: 429, nothing of the address is checked.
        """
        attempt = self._limited.begin(address)
        if attempt.refusal is None:
            return attempt
        if self._spare.begin(address).refusal is not None:
            raise attempt.refusal
        return CountedAttempt(self._spare, address, attempt.refusal)

    def take(self, address: str) -> None:
        """Count a failed attempt of an address.

        Raises:
            Problem: 429, the address has no attempt left.
        """
        if (refusal := self.begin(address).refusal) is not None:
            raise refusal


class _AddressChecks:
    """The checks of one address: their places, and how many are in one or wait."""

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(SPARE_CHECKS // ADDRESS_PART)
        self.count = 0


class SpareChecks:
    """The checks of credentials of addresses without an attempt left, a few at a time in one event loop."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(SPARE_CHECKS)
        self._count = 0
        self._addresses: WeakValueDictionary[str, _AddressChecks] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, address: str, refusal: Problem) -> AsyncIterator[None]:
        """Take a place for a check of an address. The background does not pause for such a check.

        Raises:
            Problem: the refusal, if too many wait for a place, or too many of this address.
        """
        checks = self._addresses.setdefault(network_of(address), _AddressChecks())
        if self._count >= MAX_SPARE_CHECKS or checks.count >= MAX_SPARE_CHECKS // ADDRESS_PART:
            raise refusal
        self._count += 1
        checks.count += 1
        try:
            async with checks.places, self._places:
                yield
        finally:
            self._count -= 1
            checks.count -= 1


class FamiliarCredentials:
    """The credentials that were accepted lately, with their tenants. Tokens of callbacks have none: "".

    Failures of others at their address do not stop them. They are authenticated nevertheless.
    """

    def __init__(self) -> None:
        self._tenants = LatestValues[str](MAX_FAMILIAR)

    def add(self, credentials: str, tenant: str = "") -> None:
        """Remember credentials that were accepted."""
        self._tenants.get(_digest(credentials), lambda: tenant)

    def forget(self, credentials: str) -> None:
        """Remove credentials that are no longer accepted, so that their failures count."""
        self._tenants.remove(_digest(credentials))

    def tenant_of(self, credentials: str) -> str | None:
        """Return the tenant of credentials that were accepted lately, or None."""
        return self._tenants.find(_digest(credentials))


def too_many_requests(policy: str, limit: int, wait_seconds: float) -> Problem:
    """Return the problem of a request beyond a limit, with the headers of the IETF draft for rate limits."""
    seconds = max(math.ceil(wait_seconds), 1)
    headers = {
        "Retry-After": str(seconds),
        "RateLimit-Policy": f'"{policy}";q={limit};w={WINDOW_SECONDS}',
        "RateLimit": f'"{policy}";r=0;t={seconds}',
    }
    detail = f"Too many requests: the limit `{policy}` is {limit:,} in a minute. Try again in {seconds} s."
    return Problem(429, detail, slug="too-many-requests", headers=headers)


def network_of(address: str) -> str:
    """Return the network that one client is assumed to control: an IPv4 address, or 64 bits of IPv6.

    A socket that serves both families has IPv4 addresses in IPv6, which would all be of one network. So has
    one behind a translator with the prefix of RFC 6052.

    >>> network_of("192.0.2.1"), network_of("2001:db8::1:2:3")
    ('192.0.2.1', '2001:db8::/64')
    >>> network_of("::ffff:192.0.2.1"), network_of("64:ff9b::192.0.2.1")
    ('192.0.2.1', '192.0.2.1')
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None or parsed in _TRANSLATED:
        return str(ipaddress.IPv4Address(int(parsed) & _IPV4_BITS))
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK_BITS), strict=False))


def _digest(credentials: str) -> str:
    return hashlib.sha256(credentials.encode("utf-8", "surrogatepass")).hexdigest()


@frozen
class RequestLimits:
    """The limits of the requests to an app."""

    callers: RateLimiter
    failures: FailureLimiter
    familiar: FamiliarCredentials
    spare_checks: SpareChecks
    callbacks: AddressLimiter
    unknown_tokens: FailureLimiter
    familiar_tokens: FamiliarCredentials
    webhooks: AddressLimiter
    unknown_senders: AddressLimiter


def create_request_limits(
    settings: RateSettings, count: CountRequests, clock: Callable[[], float]
) -> RequestLimits:
    """Return the limits of an app whose store counts requests with `count`, and has a `clock`."""
    return RequestLimits(
        RateLimiter(settings, count, clock),
        FailureLimiter("failures", settings.failures),
        FamiliarCredentials(),
        SpareChecks(),
        AddressLimiter("callbacks", settings.callbacks),
        FailureLimiter("unknown-tokens", settings.failures),
        FamiliarCredentials(),
        AddressLimiter("webhooks", settings.callbacks),
        AddressLimiter("unknown-senders", settings.failures),
    )
