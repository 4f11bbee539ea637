"""JSON Web Tokens (RFC 7519) of an issuer that is believed."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit

from noetl.api.auth.api_keys import is_tenant
from noetl.api.auth.loopback import is_loopback
from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError

if TYPE_CHECKING:
    from jwt import PyJWK

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""The signatures that are believed: those that whoever checks them cannot make."""

LEEWAY_SECONDS = 30
"""How far the clocks of the issuer and of this machine may be apart."""

FRESH_SECONDS = 600.0
"""How long the issuer's keys are known before they are asked for again."""

AGAIN_SECONDS = 30.0
"""How long after they were asked for a key that is unknown makes them be asked for again."""

STALE_SECONDS = 3600.0
"""How long known keys are believed while the issuer does not answer."""

MAX_KEYS_BYTES = 256 * 1024
FETCH_SECONDS = 5.0

_log = logging.getLogger("noetl.api")


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are believed, if they are meant for `audience`; where its keys are; and which claims say what a token
    allows and in which tenant (None: in the default one).
    """

    name: str
    audience: str
    keys_url: str
    scope_claim: str = "scope"
    tenant_claim: str | None = None


def issuer_of(environ: Mapping[str, str]) -> Issuer | None:
    """The issuer that the settings name, or None.

    Raises:
        SettingError: they are not complete, or cannot be used.
    """
    names = ("ISSUER", "AUDIENCE", "SCOPE_CLAIM", "TENANT_CLAIM")
    issuer, audience, scope_claim, tenant_claim = (
        environ.get(f"NOETL_JWT_{name}", "").strip() for name in names
    )
    keys_url = environ.get("NOETL_JWKS_URL", "").strip()
    if not issuer and not (audience or scope_claim or tenant_claim or keys_url):
        return None
    for name, value in (("NOETL_JWT_ISSUER", issuer), ("NOETL_JWT_AUDIENCE", audience)):
        if not value:
            raise SettingError(f"{name} is not set; tokens need NOETL_JWT_ISSUER and NOETL_JWT_AUDIENCE.")
    keys_url = keys_url or f"{issuer.rstrip('/')}/.well-known/jwks.json"
    if not _is_safe(keys_url):
        raise SettingError(f"NOETL_JWKS_URL is {keys_url!r}; it must be an https URL.")
    try:
        import jwt.algorithms

        has_signatures = jwt.algorithms.has_crypto
    except ImportError:
        has_signatures = False
    if not has_signatures:
        raise SettingError("NOETL_JWT_ISSUER is set, and tokens need the extra `jwt` of this installation.")
    return Issuer(issuer, audience, keys_url, scope_claim or "scope", tenant_claim or None)


def _is_safe(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host or "")))


class Tokens:
    """Checks the tokens of an issuer. Threads may share it."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._keys = Keyring(issuer.keys_url)

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says that is valid now.

        Raises:
            Problem: 401, it is not to be believed; 503, the issuer's keys cannot be had.
        """
        import jwt

        try:
            header = jwt.get_unverified_header(token)
            kid = header.get("kid")
            key = self._keys.key(kid) if isinstance(kid, str) and header.get("alg") in ALGORITHMS else None
            if key is None or "crit" in header or header.get("b64") is False:
                raise _not_believed("it is not signed by a key of the issuer")
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
            raise _not_believed("it has expired") from None
        except jwt.ImmatureSignatureError:
            raise _not_believed("it is not valid yet") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError, jwt.MissingRequiredClaimError) as error:
            raise _not_believed(f"{str(error)[:1].lower()}{str(error)[1:]}") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _not_believed("it is not a token that the issuer has signed") from None

    def scopes(self, claims: Mapping[str, Any]) -> list[str]:
        """What the token allows: words of a text or a list, also behind `noetl:` or `noetl/`."""
        given = claims.get(self._issuer.scope_claim)
        words = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
        return [re.sub(r"^noetl[:/]", "", word) for word in words if isinstance(word, str)]

    def tenant(self, claims: Mapping[str, Any]) -> str | None:
        """The tenant that the token is for; None where tokens do not say.

        Raises:
            Problem: 401, this one does not say, or not in a way that can be used.
        """
        if self._issuer.tenant_claim is None:
            return None
        tenant = claims.get(self._issuer.tenant_claim)
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise _not_believed(f"its claim `{self._issuer.tenant_claim}` names no tenant")
        return tenant


def _not_believed(why: str) -> Problem:
    from noetl.api.http.problems import unauthenticated

    return unauthenticated(f"The token is not valid: {why}.")


@dataclass
class Keyring:
    """The keys of an issuer, as its JSON Web Key Set (RFC 7517) lists them. They are asked for when one is needed."""

    url: str
    clock: Callable[[], float] = time.monotonic
    _keys: dict[str, PyJWK] = field(default_factory=dict)
    _had_at: float | None = None
    _asked_at: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, id: str) -> PyJWK | None:
        """The key with an id, if the issuer has one.

        Raises:
            Problem: 503, the issuer does not say.
        """
        with self._lock:
            since_asked = _passed(self.clock(), self._asked_at)
            is_due = _passed(self.clock(), self._had_at) > FRESH_SECONDS or id not in self._keys
            if is_due and since_asked > AGAIN_SECONDS:
                self._ask()
            if _passed(self.clock(), self._had_at) > STALE_SECONDS:
                detail = "The keys of the tokens' issuer cannot be had."
                raise Problem(503, detail, slug="issuer-unavailable", headers={"Retry-After": "30"})
            return self._keys.get(id)

    def _ask(self) -> None:
        self._asked_at = self.clock()
        try:
            self._keys = _read_keys(_fetched(self.url))
            self._had_at = self._asked_at
        except (OSError, ValueError, URLError, RecursionError) as error:
            _log.warning("the keys at %s (NOETL_JWKS_URL) cannot be had: %s", self.url, error)


def _passed(now: float, since: float | None) -> float:
    return float("inf") if since is None else now - since


class _StaysThere(urllib.request.HTTPRedirectHandler):
    """Whoever is believed says where its keys are; a redirect does not."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _fetched(url: str) -> bytes:
    opener = urllib.request.build_opener(_StaysThere)
    opener.addheaders = [("Accept", "application/json"), ("User-Agent", "noetl")]
    with opener.open(url, timeout=FETCH_SECONDS) as answer:
        body: bytes = answer.read(MAX_KEYS_BYTES + 1)
    if len(body) > MAX_KEYS_BYTES:
        raise ValueError(f"the answer has more than {MAX_KEYS_BYTES:,} bytes")
    return body


def _read_keys(body: bytes) -> dict[str, PyJWK]:
    """The keys that can check signatures, by their ids. What is none of them is passed over."""
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    document = json.loads(body)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the answer is no JSON Web Key Set")  # noqa: TRY004  It is the text that is wrong.
    keys: dict[str, PyJWK] = {}
    for entry in listed:
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
