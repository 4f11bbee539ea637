"""Verification of JSON Web Tokens, and the cache of the issuer's keys."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any

import jwt
import pytest

from noetl.api.auth import jwt as token_module
from noetl.api.auth.authentication import Authenticator
from noetl.api.auth.jwt import KeySetCache, TokenVerifier, read_issuer
from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError
from noetl.executor.stores.interface import Store
from tests.api.fake_issuer import (
    AUDIENCE,
    NAME,
    FakeIssuer,
    claims,
    ec_key,
    ed_key,
    public_jwk,
    rsa_key,
    running_issuer,
    token,
)

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def issuer() -> Iterator[FakeIssuer]:
    with running_issuer() as fake_issuer:
        yield fake_issuer


def settings(issuer: FakeIssuer, **more: str) -> dict[str, str]:
    return {"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": AUDIENCE, "NOETL_JWKS_URL": issuer.url, **more}


def verifier(issuer: FakeIssuer, **more: str) -> TokenVerifier:
    configured = read_issuer(settings(issuer, **more))
    assert configured is not None
    return TokenVerifier(configured)


def encode_part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned_token(header: Any, **changed: Any) -> str:
    return f"{encode_part(header)}.{encode_part(claims(**changed))}."


def altered_token(part: int) -> str:
    """Return a valid token with one of its parts changed."""
    parts = token().split(".")
    parts[part] = parts[part][:-8] + ("AAAAAAAA" if parts[part][-8:] != "AAAAAAAA" else "BBBBBBBB")
    return ".".join(parts)


def public_pem() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def token_signed_with_public_key() -> str:
    """Return a token that is signed with the public key as a shared secret."""
    import hashlib
    import hmac

    text = f"{encode_part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{encode_part(claims())}"
    signature = hmac.new(public_pem(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


NOW = int(time.time())
BAD: Mapping[str, Callable[[], str]] = {
    "no algorithm": lambda: unsigned_token({"alg": "none", "typ": "JWT", "kid": "rsa"}),
    "no algorithm, in capitals": lambda: unsigned_token({"alg": "NONE", "kid": "rsa"}),
    "no algorithm named": lambda: unsigned_token({"typ": "JWT", "kid": "rsa"}),
    "an algorithm that is no text": lambda: unsigned_token({"alg": ["RS256"], "kid": "rsa"}),
    "a shared secret": lambda: jwt.encode(claims(), SECRET, "HS256", {"kid": "rsa"}),
    "the public key as a shared secret": token_signed_with_public_key,
    "signed by another key": lambda: token(rsa_key("other")),
    "signed in another way than the key is for": lambda: token(algorithm="PS256"),
    "signed with a key of another kind": lambda: token(ec_key(), "ES256", kid="rsa"),
    "an unknown key": lambda: token(kid="unknown"),
    "no key named": lambda: token(kid=None),
    "a key inside the token": lambda: token(
        rsa_key("other"), kid="mine", header={"jwk": public_jwk("mine", rsa_key("other"))}
    ),
    "a key at a URL that the token names": lambda: token(
        rsa_key("other"), kid="x", header={"jku": "https://evil.test/keys"}
    ),
    "an extension that must be understood": lambda: token(header={"crit": ["exp"], "exp": 1}),
    "a payload that is not encoded": lambda: token(header={"b64": False, "crit": ["b64"]}),
    "a changed payload": lambda: altered_token(1),
    "a changed signature": lambda: altered_token(2),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "another issuer": lambda: token(iss="https://evil.test/"),
    "an issuer that is alike": lambda: token(iss=NAME.rstrip("/")),
    "no issuer": lambda: token(iss=None),
    "another audience": lambda: token(aud="another"),
    "other audiences": lambda: token(aud=["another", "noetl.test"]),
    "no audience": lambda: token(aud=None),
    "expired": lambda: token(exp=NOW - 60),
    "without an end": lambda: token(exp=None),
    "an end that is no number": lambda: token(exp="tomorrow"),
    "not valid yet": lambda: token(nbf=NOW + 86_400),
    "issued in the future": lambda: token(iat=NOW + 86_400),
    "a payload that is not an object": lambda: jwt.api_jws.encode(b"[1]", rsa_key(), "RS256", {"kid": "rsa"}),
    "empty parts": lambda: "..",
    "not a token": lambda: "this.is.none",
    "four parts": lambda: token() + ".AAAA",
    "not base64": lambda: "\x7f.\x7f.\x7f",
}


@pytest.mark.parametrize("case", BAD)
def test_an_invalid_token_is_refused(issuer: FakeIssuer, case: str) -> None:
    with pytest.raises(Problem) as refused:
        verifier(issuer).verify(BAD[case]())
    assert refused.value.status == 401
    assert refused.value.headers is not None
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert refused.value.detail.startswith("The token is not valid: ")


@pytest.mark.parametrize(
    ("private", "algorithm", "kid"),
    [(rsa_key, "RS256", "rsa"), (ec_key, "ES256", "ec"), (ed_key, "EdDSA", "ed")],
)
def test_a_valid_token_is_accepted(issuer: FakeIssuer, private: Any, algorithm: str, kid: str) -> None:
    assert verifier(issuer).verify(token(private(), algorithm, kid))["sub"] == "alice"
    assert verifier(issuer).verify(
        token(private(), algorithm, kid, aud=["another", AUDIENCE], exp=int(time.time()) - 5)
    )


@pytest.mark.parametrize(
    ("value", "scopes"),
    [
        ("read", {"read"}),
        ("openid run email", {"read", "run"}),
        (["noetl:admin"], {"read", "run", "admin"}),
        ("noetl/run", {"read", "run"}),
        ("other/admin other:run administer READ", set()),
        (None, set()),
        (7, set()),
        ({"admin": True}, set()),
        ([["admin"], 1], set()),
    ],
)
def test_known_scopes_of_a_token_are_expanded(
    issuer: FakeIssuer, store: Store, value: Any, scopes: set[str]
) -> None:
    caller = Authenticator(store, verifier(issuer)).authenticate([f"Bearer {token(scope=value)}"])
    assert caller.scopes == scopes
    assert (caller.tenant, caller.name) == ("default", "token of alice")


def test_scopes_and_tenant_are_read_from_the_configured_claims(issuer: FakeIssuer, store: Store) -> None:
    claim_names = {"NOETL_JWT_SCOPE_CLAIM": "https://noetl.test/roles", "NOETL_JWT_TENANT_CLAIM": "org"}
    claims: dict[str, Any] = {"scope": "admin", "https://noetl.test/roles": ["read"]}
    text = token(**claims)
    caller = Authenticator(store, verifier(issuer, **claim_names)).authenticate([f"bearer {text}"])
    assert caller.scopes == {"read"}
    assert caller.tenant == "sales"


@pytest.mark.parametrize("tenant", [None, "", 7, ["sales"], "a/b", "a b", "x" * 101, "\n", "-a"])
def test_a_token_without_a_valid_tenant_is_refused(issuer: FakeIssuer, store: Store, tenant: Any) -> None:
    authenticator = Authenticator(store, verifier(issuer, NOETL_JWT_TENANT_CLAIM="org"))
    with pytest.raises(Problem, match="claim `org` is not the name of a tenant"):
        authenticator.authenticate([f"Bearer {token(org=tenant)}"])


class TestKeySetCache:
    @pytest.fixture
    def issuer(self) -> Iterator[FakeIssuer]:
        with running_issuer() as found:
            yield found

    @pytest.fixture
    def clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def key_set(self, issuer: FakeIssuer, clock: list[float]) -> KeySetCache:
        return KeySetCache(issuer.url, clock=lambda: clock[0])

    def test_keys_are_fetched_once_while_they_are_fresh(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        for _ in range(3):
            assert key_set.find("rsa") and key_set.find("ec")
        assert issuer.request_count == 1
        clock[0] += token_module.REFRESH_SECONDS + 1
        assert key_set.find("rsa")
        assert issuer.request_count == 2

    def test_a_new_key_is_found_and_an_old_one_is_dropped(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        assert key_set.find("rsa")
        issuer.keys = [public_jwk("new", rsa_key("new"))]
        assert key_set.find("new") is None
        clock[0] += 5.1
        assert key_set.find("new") and key_set.find("rsa") is None

    def test_unknown_keys_do_not_cause_a_fetch_each(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        for index in range(600):
            assert key_set.find(f"unknown {index}") is None
            clock[0] += 0.1
        assert 11 <= issuer.request_count <= 13

    def test_an_issuer_that_fails_is_asked_less_often(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        assert key_set.find("rsa")
        issuer.status = 500
        clock[0] += 5.1
        for index in range(290):
            assert key_set.find(f"unknown {index}") is None
            clock[0] += 0.1
        assert issuer.request_count == 2
        assert key_set.find("rsa")

    def test_the_pause_begins_at_the_end_of_a_read(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        """A slow issuer does not hold the threads of unknown keys all the time."""
        issuer.drip = Event()
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(key_set.find, "unknown")
            while issuer.request_count < 1:
                time.sleep(0.001)
            clock[0] += 4.9
            issuer.drip.set()
            assert reader.result() is None
        clock[0] += 4.9
        assert key_set.find("unknown") is None
        assert issuer.request_count == 1
        clock[0] += 0.2
        assert key_set.find("unknown") is None
        assert issuer.request_count == 2

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (500, None),
            (404, None),
            (200, b"no JSON"),
            (200, b"[]"),
            (200, b"{}"),
            (200, b'{"keys": 7}'),
            (200, b" " * 300_000),
        ],
    )
    def test_known_keys_are_used_for_a_while_after_a_failure(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float], status: int, body: bytes | None
    ) -> None:
        assert key_set.find("rsa")
        issuer.status, issuer.body = status, body
        clock[0] += token_module.REFRESH_SECONDS + 1
        assert key_set.find("rsa")
        clock[0] += token_module.MAX_STALE_SECONDS
        with pytest.raises(Problem) as refused:
            key_set.find("rsa")
        assert refused.value.status == 503

    def test_without_keys_every_token_is_refused(self) -> None:
        with pytest.raises(Problem) as refused:
            KeySetCache("http://127.0.0.1:1/keys").find("rsa")
        assert refused.value.status == 503

    def test_an_issuer_that_drips_is_left_at_the_deadline(
        self, issuer: FakeIssuer, key_set: KeySetCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_module, "FETCH_SECONDS", 0.2)
        issuer.drip = Event()
        with pytest.raises(Problem) as refused:
            key_set.find("rsa")
        assert (refused.value.status, refused.value.headers) == (503, {"Retry-After": "30"})

    def test_few_tokens_wait_for_the_keys(
        self, issuer: FakeIssuer, key_set: KeySetCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        issuer.drip = Event()
        monkeypatch.setattr(token_module, "FETCH_SECONDS", 60.0)
        monkeypatch.setattr(token_module, "MAX_WAITING", 2)
        with ThreadPoolExecutor(20) as pool:
            searches = as_completed([pool.submit(key_set.find, "rsa") for _ in range(20)])
            refused = [next(searches).exception() for _ in range(18)]
            issuer.drip.set()
            found = [search.result() for search in searches]
        assert {getattr(error, "status", None) for error in refused} == {503}
        assert len(found) == 2
        assert all(found)

    def test_known_keys_do_not_wait_for_a_read(
        self, issuer: FakeIssuer, key_set: KeySetCache, clock: list[float]
    ) -> None:
        assert key_set.find("rsa")
        clock[0] += token_module.REFRESH_SECONDS + 1
        issuer.drip = Event()
        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(key_set.find, "rsa")
            while issuer.request_count < 2:
                time.sleep(0.001)
            assert all(key_set.find("rsa") for _ in range(100))
            assert not reader.done()
            issuer.drip.set()
            assert reader.result()

    def test_a_redirect_is_not_followed(self, issuer: FakeIssuer, key_set: KeySetCache) -> None:
        with running_issuer() as other_issuer:
            issuer.status, issuer.location = 302, other_issuer.url
            with pytest.raises(Problem) as refused:
                key_set.find("rsa")
            assert (refused.value.status, other_issuer.request_count) == (503, 0)

    @pytest.mark.parametrize(
        "entry",
        [
            {"kty": "oct", "k": "MDEyMw", "kid": "rsa"},
            {**public_jwk("rsa", rsa_key()), "use": "enc"},
            {**public_jwk("rsa", rsa_key()), "kid": 7},
            {**public_jwk("rsa", rsa_key()), "alg": "HS256"},
            {**public_jwk("rsa", rsa_key()), "alg": "RSA-OAEP"},
            {**public_jwk("rsa", rsa_key()), "d": "AQAB"},
            {"kty": "RSA", "kid": "rsa"},
            {"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ", "kid": "rsa"},
            {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "kid": "rsa"},
            "rsa",
            None,
        ],
    )
    def test_an_entry_that_cannot_verify_is_skipped(
        self, issuer: FakeIssuer, key_set: KeySetCache, entry: Any
    ) -> None:
        issuer.keys = [entry, public_jwk("ec", ec_key())]
        assert key_set.find("rsa") is None
        assert key_set.find("ec")

    def test_a_token_of_a_short_key_is_refused(self, issuer: FakeIssuer) -> None:
        weak = rsa_key("weak", 1024)
        issuer.keys = [public_jwk("weak", weak)]
        with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
            text = token(weak, kid="weak")
        with pytest.raises(Problem) as refused:
            verifier(issuer).verify(text)
        assert refused.value.status == 401


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"NOETL_JWT_ISSUER": NAME}, "NOETL_JWT_AUDIENCE is not set"),
        ({"NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWT_ISSUER is not set"),
        ({"NOETL_JWT_TENANT_CLAIM": "org"}, "NOETL_JWT_ISSUER is not set"),
        ({"NOETL_JWT_ISSUER": "issuer.test", "NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWKS_URL is"),
        ({"NOETL_JWT_ISSUER": "http://issuer.test", "NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWKS_URL is"),
        (
            {"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": "noetl", "NOETL_JWKS_URL": "file:///keys"},
            "NOETL_JWKS_URL is",
        ),
        (
            {"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": "noetl", "NOETL_JWKS_URL": "https://["},
            "NOETL_JWKS_URL is",
        ),
    ],
)
def test_incomplete_settings_are_refused(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        read_issuer(environ)


def test_the_default_url_of_the_keys_is_well_known() -> None:
    for name in ("https://issuer.test/pool", "https://issuer.test/pool/"):
        issuer = read_issuer({"NOETL_JWT_ISSUER": name, "NOETL_JWT_AUDIENCE": "noetl"})
        assert issuer is not None
        assert issuer.keys_url == "https://issuer.test/pool/.well-known/jwks.json"
    assert read_issuer({}) is None
