"""Verification of JSON Web Tokens.

Problem: decide whether a token was issued by the configured issuer for this service, and is valid now. The
sender of a token controls all of its content, also the header that names the algorithm and the key.

Algorithm: JWT (RFC 7519) with signatures by JWS (RFC 7515). Only asymmetric algorithms of a fixed list are
accepted (RFC 8725, section 3.1). The `kid` of the header selects a key in the JSON Web Key Set of the issuer
(RFC 7517). Keys in the token, and URLs that the token names, are never used. `iss`, `aud` and `exp` are
required; `nbf` and `iat` are checked if present.

Cost: one signature check a request. The key set is fetched when it is older than `REFRESH_SECONDS`, or when a
key is unknown. The next fetch begins at least `PAUSE_SECONDS` after the end of the last one, or
`FAILURE_PAUSE_SECONDS` if that has failed. So tokens with invented key ids cannot make the service flood the
issuer, and a new key of the issuer is known after some seconds.

Limits: a revoked token is accepted until it expires. While the issuer does not answer, known keys are used
for `MAX_STALE_SECONDS`; after that every token is answered with 503. A read of the key set may take
`FETCH_SECONDS` over all its bytes. Tokens with a known key do not wait for it. Of the others, MAX_WAITING
wait, and the rest is answered with 503.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noetl.api.auth.api_keys import is_tenant
from noetl.api.auth.key_set_read import KeySetRead
from noetl.api.auth.loopback import is_loopback
from noetl.api.http.problems import Problem, unauthenticated
from noetl.executor.errors import SettingError

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Accepted signature algorithms. All are asymmetric: a party that can verify a token cannot sign one."""

LEEWAY_SECONDS = 30
"""Accepted difference between the clocks of the issuer and of this machine."""

REFRESH_SECONDS = 600.0
"""Age of the key set at which it is fetched again."""

PAUSE_SECONDS = 5.0
"""Least time between a fetch of the key set and the next one. So long may tokens of a new key be refused."""

FAILURE_PAUSE_SECONDS = 30.0
"""Least time after a fetch that has failed. Each one makes requests wait for up to FETCH_SECONDS."""

MAX_STALE_SECONDS = 3600.0
"""Age of the key set up to which it is used while the issuer does not answer."""

FETCH_SECONDS = 5.0
"""How long a read of the key set may take, over all its bytes."""

MAX_WAITING = 8
"""How many requests may wait for a read of the key set. Each occupies a thread that others need."""

_log = logging.getLogger("noetl.api")


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """The issuer whose tokens are accepted if they are for `audience`.

    `scope_claim` names the claim with the scopes of a token, `tenant_claim` the claim with its tenant.
    Without `tenant_claim`, tokens are for the default tenant.
    """

    name: str
    audience: str
    keys_url: str
    scope_claim: str = "scope"
    tenant_claim: str | None = None


def read_issuer(environ: Mapping[str, str]) -> TokenIssuer | None:
    """Return the issuer that the settings name, or None.

    Raises:
        SettingError: a setting is missing or not valid.
    """
    issuer, audience, scope_claim, tenant_claim, keys_url = (
        environ.get(name, "").strip()
        for name in (
            "NOETL_JWT_ISSUER",
            "NOETL_JWT_AUDIENCE",
            "NOETL_JWT_SCOPE_CLAIM",
            "NOETL_JWT_TENANT_CLAIM",
            "NOETL_JWKS_URL",
        )
    )
    if not issuer and not (audience or scope_claim or tenant_claim or keys_url):
        return None
    for name, value in (("NOETL_JWT_ISSUER", issuer), ("NOETL_JWT_AUDIENCE", audience)):
        if not value:
            raise SettingError(f"{name} is not set; tokens need NOETL_JWT_ISSUER and NOETL_JWT_AUDIENCE.")
    keys_url = keys_url or f"{issuer.rstrip('/')}/.well-known/jwks.json"
    if not _is_safe_url(keys_url):
        raise SettingError(f"NOETL_JWKS_URL is {keys_url!r}; it must be an https URL.")
    if not _can_verify_signatures():
        from noetl.executor.extras import install_command

        command = install_command("jwt", sys.executable)
        raise SettingError(
            f"NOETL_JWT_ISSUER is set, but tokens need the package PyJWT. Install it with `{command}`."
        )
    return TokenIssuer(issuer, audience, keys_url, scope_claim or "scope", tenant_claim or None)


def _is_safe_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or "")))


def _can_verify_signatures() -> bool:
    try:
        import jwt.algorithms
    except ImportError:
        return False
    return jwt.algorithms.has_crypto


class TokenVerifier:
    """A verifier of the tokens of an issuer. Safe to share between threads."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self._issuer = issuer
        self._keys = KeySetCache(issuer.keys_url)

    def verify(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token.

        Raises:
            Problem: 401, the token is not valid; 503, the keys of the issuer are not available.
        """
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            is_accepted = header.get("alg") in ALGORITHMS
            key = self._keys.find(kid) if is_accepted and isinstance(kid, str) else None
            if key is None or "crit" in header or header.get("b64") is False:
                raise _invalid_token("it is not signed by a key of the issuer")
            return jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._issuer.audience,
                issuer=self._issuer.name,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except jwt.ExpiredSignatureError:
            raise _invalid_token("it has expired") from None
        except jwt.ImmatureSignatureError:
            raise _invalid_token("it is not valid yet") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as error:
            raise _invalid_token(f"{str(error)[:1].lower()}{str(error)[1:]}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid_token("it is not a token that the issuer has signed") from None

    def scopes(self, claims: Mapping[str, Any]) -> list[str]:
        """Return the scopes in the claims of a token, without the prefixes `noetl:` and `noetl/`.

        The claim is a list of words, or a text with blanks between words.
        """
        value = claims.get(self._issuer.scope_claim)
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        return [re.sub(r"^noetl[:/]", "", word) for word in words if isinstance(word, str)]

    def tenant(self, claims: Mapping[str, Any]) -> str | None:
        """Return the tenant in the claims of a token, or None if no claim names tenants.

        Raises:
            Problem: 401, the claim is missing or is not the name of a tenant.
        """
        if self._issuer.tenant_claim is None:
            return None
        tenant = claims.get(self._issuer.tenant_claim)
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise _invalid_token(f"its claim `{self._issuer.tenant_claim}` is not the name of a tenant")
        return tenant


def _invalid_token(reason: str) -> Problem:
    return unauthenticated(f"The token is not valid: {reason}.")


@dataclass
class KeySetCache:
    """The JSON Web Key Set at a URL, fetched when a key is needed."""

    url: str
    clock: Callable[[], float] = time.monotonic
    _keys: dict[str, PyJWK] = field(default_factory=dict)
    _fetched_at: float | None = None
    _next_read_at: float = -math.inf
    _read: KeySetRead | None = None
    _waiting: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, id: str) -> PyJWK | None:
        """Return the key with an id, or None if the issuer does not have it.

        Raises:
            Problem: 503, the key set is not available, or it is read and the key is not known yet.
        """
        read = self._join_read(id)
        if read is not None:
            try:
                if not read.wait(FETCH_SECONDS):
                    read.cut()
            finally:
                with self._lock:
                    self._waiting -= 1
        with self._lock:
            if self._since(self._fetched_at) > MAX_STALE_SECONDS:
                raise _unavailable("are not available", int(FAILURE_PAUSE_SECONDS))
            return self._keys.get(id)

    def _join_read(self, id: str) -> KeySetRead | None:
        """Return the read that the caller must wait for, or None. Start one if it is due.

        Raises:
            Problem: 503, too many others wait for it.
        """
        with self._lock:
            is_known = id in self._keys and self._since(self._fetched_at) <= MAX_STALE_SECONDS
            is_due = self._since(self._fetched_at) > REFRESH_SECONDS or id not in self._keys
            if self._read is None:
                if not is_due or self.clock() < self._next_read_at:
                    return None
                self._start_read()
            elif is_known:
                return None
            elif self._waiting >= MAX_WAITING:
                raise _unavailable("are being read", 1)
            self._waiting += 1
            return self._read

    def _start_read(self) -> None:
        begun_at = self.clock()

        def finish(body: bytes | None, problem: str) -> None:
            self._finish_read(body, problem, begun_at)

        self._read = KeySetRead(self.url, finish)
        self._read.start()

    def _finish_read(self, body: bytes | None, problem: str, begun_at: float) -> None:
        keys: dict[str, PyJWK] | None = None
        try:
            if body is not None:
                keys = _parse_key_set(body)
        except (ValueError, RecursionError) as error:
            problem = str(error)
        finally:
            with self._lock:
                self._read = None
                self._next_read_at = self.clock() + (FAILURE_PAUSE_SECONDS if keys is None else PAUSE_SECONDS)
                if keys is not None:
                    self._keys, self._fetched_at = keys, begun_at
        if keys is None:
            _log.warning(
                "cannot fetch the keys of the token issuer from %s (NOETL_JWKS_URL): %s", self.url, problem
            )

    def _since(self, moment: float | None) -> float:
        """Return the seconds since `moment`; infinity if it is None."""
        return float("inf") if moment is None else self.clock() - moment


def _unavailable(state: str, retry_seconds: int) -> Problem:
    headers = {"Retry-After": str(retry_seconds)}
    return Problem(503, f"The keys of the token issuer {state}.", slug="issuer-unavailable", headers=headers)


def _parse_key_set(body: bytes) -> dict[str, PyJWK]:
    """Return the keys that can verify signatures, by their ids. Skip other entries."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    document = json.loads(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("the response is not a JSON Web Key Set")  # noqa: TRY004  The text is wrong.
    keys: dict[str, PyJWK] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
            continue
        if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig" or "d" in entry:
            continue
        try:
            key = PyJWK.from_dict(entry)
        except (PyJWTError, ValueError, TypeError, KeyError):
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[entry["kid"]] = key
    return keys
