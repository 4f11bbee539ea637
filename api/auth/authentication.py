"""Who calls: a key of ours or a token of an issuer that is believed, and what that allows."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from noetl.api.auth.api_keys import SCOPES, id_of, is_valid
from noetl.api.auth.jwt import Tokens
from noetl.api.http.problems import unauthenticated
from noetl.api.service.runs import DEFAULT_TENANT
from noetl.executor.errors import StoreError
from noetl.executor.stores.interface import Store

MAX_CREDENTIALS = 8 * 1024
LOOK_AGAIN_SECONDS = 2.0
"""How long it is believed that there is no key yet: the first one is noticed by services that are at work."""

NOTE_USE_SECONDS = 60.0
"""How much later a key must be used again for that to be noted."""

_BEARER = re.compile(r"bearer +(?P<credentials>[\x21-\x7e]+) *", re.IGNORECASE)

_log = logging.getLogger("noetl.api")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has asked, in words for logs; of which tenant; and what they may do."""

    name: str
    tenant: str
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        return scope in self.scopes


LOCAL = Caller("this machine", DEFAULT_TENANT, frozenset(SCOPES))
"""Whoever is on this machine, while no authentication is configured."""


def including(scopes: Iterable[str]) -> frozenset[str]:
    """The scopes with those that they include; what is none is left out."""
    given = [SCOPES.index(scope) for scope in scopes if scope in SCOPES]
    return frozenset(SCOPES[: max(given, default=-1) + 1])


class Authentication:
    """Tells callers apart by the keys in a store and by the tokens of an issuer, if there is one. Threads may share it.

    With `always`, nobody is served without credentials, even while there is nothing yet that could be believed.
    """

    def __init__(
        self,
        store: Store,
        tokens: Tokens | None,
        *,
        always: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._is_configured = always or tokens is not None
        self._looked_at = -LOOK_AGAIN_SECONDS
        self._noted: dict[str, float] = {}

    def is_configured(self) -> bool:
        """Whether callers need credentials: there is an issuer, or there has ever been a key.

        Raises:
            StoreError: the store cannot tell.
        """
        if not self._is_configured and time.monotonic() - self._looked_at >= LOOK_AGAIN_SECONDS:
            self._is_configured = self._store.has_keys()
            self._looked_at = time.monotonic()
        return self._is_configured

    def caller(self, authorization: list[str]) -> Caller:
        """Who stands behind the `Authorization` headers of a request.

        Raises:
            Problem: 401, nobody that is believed; 503, that cannot be told now.
        """
        if not authorization:
            raise unauthenticated(
                "This needs an API key or a token, as `Authorization: Bearer …`.", error=None
            )
        bearer = _BEARER.fullmatch(authorization[0])
        if len(authorization) != 1 or bearer is None or len(authorization[0]) > MAX_CREDENTIALS:
            raise unauthenticated(
                "The header `Authorization` is not one `Bearer` with an API key or a token behind it."
            )
        credentials = bearer["credentials"]
        if credentials.startswith("noetl_"):
            return self._of_key(credentials)
        if self._tokens is None:
            raise unauthenticated("The API key is not one that is known here, and tokens are not accepted.")
        return self._of_claims(self._tokens, self._tokens.claims(credentials))

    def _of_key(self, text: str) -> Caller:
        id = id_of(text)
        key = None if id is None else self._store.key(id)
        if not is_valid(text, key) or key is None:
            raise unauthenticated("The API key is not one that is known here, or it has been revoked.")
        self._note_use(key.id, key.last_used_at)
        return Caller(f"key {key.id}", key.tenant, including(key.scopes))

    def _of_claims(self, tokens: Tokens, claims: Mapping[str, object]) -> Caller:
        tenant = tokens.tenant(claims)
        return Caller(
            f"token of {claims.get('sub', 'nobody')}",
            tenant or DEFAULT_TENANT,
            including(tokens.scopes(claims)),
        )

    def _note_use(self, id: str, last_used_at: float | None) -> None:
        now = self._clock()
        if now - max(last_used_at or 0.0, self._noted.get(id, 0.0)) < NOTE_USE_SECONDS:
            return
        self._noted[id] = now
        with suppress(StoreError):  # that is no reason to refuse
            self._store.touch_key(id, now)
