"""Authentication of requests by an API key of the store or a token of the configured issuer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from noetl.api.auth.api_keys import SCOPES, is_valid, key_id
from noetl.api.auth.event_tickets import EventTickets
from noetl.api.auth.jwt import TokenVerifier
from noetl.api.auth.latest_values import LatestValues
from noetl.api.http.problems import Problem, missing_credentials, unauthenticated
from noetl.executor.errors import StoreError
from noetl.executor.model.ids import hash_secret
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.stores.interface import Store

MAX_CREDENTIALS_LENGTH = 8 * 1024
RECHECK_SECONDS = 2.0
"""Time between two queries whether the store has a first key."""

RECENT_SECONDS = 1.0
"""How long credentials that were accepted are accepted again without a check. So long may a key that was
revoked be in use."""

MAX_RECENT = 10_000
"""Number of credentials that were accepted latest, which a process remembers."""

RECORD_USE_SECONDS = 60.0
"""Least time between two records of the last use of a key, so that not every request writes."""

_BEARER = re.compile(r"bearer +(?P<credentials>[\x21-\x7e]+) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated sender of a request. `name` is for logs.

    A caller with a ticket may only open the event stream of one run, `run_id`.
    """

    name: str
    tenant: str
    scopes: frozenset[str]
    run_id: str | None = None

    def may(self, scope: str) -> bool:
        """Return whether the caller has `scope`."""
        return scope in self.scopes


LOCAL_CALLER = Caller("this machine", DEFAULT_TENANT, frozenset(SCOPES))
"""Caller of every request from this machine while no authentication is configured."""


def expand_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Return the known scopes among `scopes`, with the scopes that they include.

    >>> sorted(expand_scopes(["run", "openid"]))
    ['read', 'run']
    """
    ranks = [SCOPES.index(scope) for scope in scopes if scope in SCOPES]
    return frozenset(SCOPES[: max(ranks, default=-1) + 1])


class Authenticator:
    """An authenticator of requests by API keys of a store, and by tokens of an issuer if one is configured.

    With `always`, credentials are required even if the store has no key and there is no issuer.
    Safe to share between threads.
    """

    def __init__(
        self,
        store: Store,
        tokens: TokenVerifier | None,
        *,
        always: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self.tickets = EventTickets(store)
        self._is_required = always or tokens is not None
        self._checked_at = -RECHECK_SECONDS
        self._recorded_uses: dict[str, float] = {}
        self._recent = LatestValues[tuple[Caller, float, float]](MAX_RECENT)

    def is_known_as_optional(self) -> bool:
        """Return whether the last query says that requests need no credentials, and is still valid."""
        return not self._is_required and time.monotonic() - self._checked_at < RECHECK_SECONDS

    def is_known_as_required(self) -> bool:
        """Return whether it is known that requests need credentials. This reads no store."""
        return self._is_required

    def is_required(self) -> bool:
        """Return whether requests need credentials: there is an issuer, or the store has or had a key.

        Raises:
            StoreError: the store does not answer.
        """
        if not self._is_required and not self.is_known_as_optional():
            self._is_required = self._store.keys.any_exist()
            self._checked_at = time.monotonic()
        return self._is_required

    def authenticate(self, authorization: list[str]) -> Caller:
        """Return the caller that the `Authorization` headers of a request identify.

        Raises:
            Problem: 401, the credentials are not accepted; 503, the keys of the issuer are not available.
        """
        if not authorization:
            raise missing_credentials()
        bearer = _BEARER.fullmatch(authorization[0])
        is_too_long = len(authorization[0]) > MAX_CREDENTIALS_LENGTH
        if len(authorization) != 1 or bearer is None or is_too_long:
            raise unauthenticated(
                "The header `Authorization` must be one `Bearer` with an API key or a token."
            )
        digest, check = hash_secret(authorization[0]), (time.monotonic(), self._clock())
        try:
            caller = self._authenticate(bearer["credentials"])
        except Problem:
            self._recent.remove(digest)
            raise
        self._recent.put(digest, (caller, *check))
        return caller

    def recent_caller(self, authorization: list[str]) -> Caller | None:
        """Return the caller that the same headers have identified within RECENT_SECONDS, or None.

        This reads no store. The time must be recent on both clocks: one may stand still while a function is
        frozen, and the other may be set back.
        """
        if len(authorization) != 1:
            return None
        recent = self._recent.find(hash_secret(authorization[0]))
        if recent is None:
            return None
        caller, checked_at, checked_on = recent
        elapsed, elapsed_by_date = time.monotonic() - checked_at, self._clock() - checked_on
        return caller if elapsed < RECENT_SECONDS and 0.0 <= elapsed_by_date < RECENT_SECONDS else None

    def authenticate_ticket(self, ticket: str, run_id: str) -> Caller:
        """Return the caller that has a ticket for the event stream of a run.

        Raises:
            Problem: 401, the ticket is not valid for this run.
        """
        claims = self.tickets.verify(ticket, run_id)
        return Caller(
            f"ticket for run {claims.run_id}", claims.tenant, expand_scopes(["read"]), claims.run_id
        )

    def _authenticate(self, credentials: str) -> Caller:
        if credentials.startswith("noetl_"):
            return self._authenticate_key(credentials)
        if self._tokens is None:
            raise unauthenticated("The API key is unknown, and tokens are not accepted here.")
        return self._caller_of_claims(self._tokens, self._tokens.verify(credentials))

    def _authenticate_key(self, text: str) -> Caller:
        id = key_id(text)
        key = None if id is None else self._store.keys.get(id)
        if not is_valid(text, key) or key is None:
            raise unauthenticated("The API key is unknown or revoked.")
        self._record_use(key.id, key.last_used_at)
        return Caller(f"key {key.id}", key.tenant, expand_scopes(key.scopes))

    def _caller_of_claims(self, tokens: TokenVerifier, claims: Mapping[str, object]) -> Caller:
        tenant = tokens.tenant(claims) or DEFAULT_TENANT
        subject = claims.get("sub", "an unnamed subject")
        return Caller(f"token of {subject}", tenant, expand_scopes(tokens.scopes(claims)))

    def _record_use(self, id: str, last_used_at: float | None) -> None:
        now = self._clock()
        if now - max(last_used_at or 0.0, self._recorded_uses.get(id, 0.0)) < RECORD_USE_SECONDS:
            return
        self._recorded_uses[id] = now
        with suppress(StoreError):  # A failed record is no reason to refuse the request.
            self._store.keys.touch(id, now)
