"""Whose tokens are believed, and which."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from noetl.api.auth import jwt as ours
from noetl.api.auth.authentication import Authentication
from noetl.api.auth.jwt import Keyring, Tokens, issuer_of
from noetl.api.http.problems import Problem
from noetl.executor.errors import SettingError
from noetl.executor.stores.interface import Store

from tests.api.issuer import AUDIENCE, NAME, Issuer, claims, ec_key, ed_key, public, rsa_key, serving, token

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with serving() as found:
        yield found


def settings(issuer: Issuer, **more: str) -> dict[str, str]:
    return {"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": AUDIENCE, "NOETL_JWKS_URL": issuer.url, **more}


def tokens(issuer: Issuer, **more: str) -> Tokens:
    found = issuer_of(settings(issuer, **more))
    assert found is not None
    return Tokens(found)


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def unsigned(header: Any, **changed: Any) -> str:
    return f"{encoded(header)}.{encoded(claims(**changed))}."


def resigned(part: int) -> str:
    """A good token with one of its parts changed."""
    parts = token().split(".")
    parts[part] = parts[part][:-8] + ("AAAAAAAA" if parts[part][-8:] != "AAAAAAAA" else "BBBBBBBB")
    return ".".join(parts)


def public_pem() -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def confused() -> str:
    """The public key taken for a shared secret."""
    import hashlib
    import hmac

    text = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa'})}.{encoded(claims())}"
    signature = hmac.new(public_pem(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


NOW = int(time.time())
BAD = {
    "no algorithm": lambda: unsigned({"alg": "none", "typ": "JWT", "kid": "rsa"}),
    "no algorithm, in capitals": lambda: unsigned({"alg": "NONE", "kid": "rsa"}),
    "no algorithm named": lambda: unsigned({"typ": "JWT", "kid": "rsa"}),
    "an algorithm that is no text": lambda: unsigned({"alg": ["RS256"], "kid": "rsa"}),
    "a shared secret": lambda: jwt.encode(claims(), SECRET, "HS256", {"kid": "rsa"}),
    "the public key as a shared secret": confused,
    "signed by another key": lambda: token(rsa_key("other")),
    "signed in another way than the key is for": lambda: token(algorithm="PS256"),
    "signed with a key of another kind": lambda: token(ec_key(), "ES256", kid="rsa"),
    "an unknown key": lambda: token(kid="unknown"),
    "no key named": lambda: token(kid=None),
    "a key that it brings along": lambda: token(rsa_key("other"), kid="mine", header={"jwk": public("mine", rsa_key("other"))}),
    "a key from an address that it names": lambda: token(rsa_key("other"), kid="x", header={"jku": "https://evil.test/keys"}),
    "an extension that must be understood": lambda: token(header={"crit": ["exp"], "exp": 1}),
    "a payload that is not encoded": lambda: token(header={"b64": False, "crit": ["b64"]}),
    "a changed payload": lambda: resigned(1),
    "a changed signature": lambda: resigned(2),
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
    "not valid yet": lambda: token(nbf=NOW + 600),
    "issued in the future": lambda: token(iat=NOW + 600),
    "no object": lambda: jwt.api_jws.encode(b"[1]", rsa_key(), "RS256", {"kid": "rsa"}),
    "nothing": lambda: "..",
    "words": lambda: "this.is.none",
    "four parts": lambda: token() + ".AAAA",
    "not base64": lambda: "\x7f.\x7f.\x7f",
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_believed(issuer: Issuer, case: str) -> None:
    with pytest.raises(Problem) as refused:
        tokens(issuer).claims(BAD[case]())
    assert refused.value.status == 401
    assert refused.value.headers is not None
    assert refused.value.headers["WWW-Authenticate"].startswith("Bearer")
    assert refused.value.detail.startswith("The token is not valid: ")


@pytest.mark.parametrize(
    ("private", "algorithm", "kid"),
    [(rsa_key, "RS256", "rsa"), (ec_key, "ES256", "ec"), (ed_key, "EdDSA", "ed")],
)
def test_what_is_believed(issuer: Issuer, private: Any, algorithm: str, kid: str) -> None:
    assert tokens(issuer).claims(token(private(), algorithm, kid))["sub"] == "somebody"
    assert tokens(issuer).claims(
        token(private(), algorithm, kid, aud=["another", AUDIENCE], exp=int(time.time()) - 5)
    )


@pytest.mark.parametrize(
    ("said", "scopes"),
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
def test_scopes_of_a_token(issuer: Issuer, store: Store, said: Any, scopes: set[str]) -> None:
    caller = Authentication(store, tokens(issuer)).caller([f"Bearer {token(scope=said)}"])
    assert (caller.scopes, caller.tenant, caller.name) == (scopes, "default", "token of somebody")


def test_scopes_and_tenant_in_claims_of_other_names(issuer: Issuer, store: Store) -> None:
    named = {"NOETL_JWT_SCOPE_CLAIM": "https://noetl.test/roles", "NOETL_JWT_TENANT_CLAIM": "org"}
    text = token(**{"scope": "admin", "https://noetl.test/roles": ["read"]})
    caller = Authentication(store, tokens(issuer, **named)).caller([f"bearer {text}"])
    assert (caller.scopes, caller.tenant) == ({"read"}, "sales")


@pytest.mark.parametrize("tenant", [None, "", 7, ["sales"], "a/b", "a b", "x" * 101, "\n", "-a"])
def test_a_token_for_no_tenant(issuer: Issuer, store: Store, tenant: Any) -> None:
    authentication = Authentication(store, tokens(issuer, NOETL_JWT_TENANT_CLAIM="org"))
    with pytest.raises(Problem, match="claim `org` names no tenant"):
        authentication.caller([f"Bearer {token(org=tenant)}"])


class TestKeyring:
    @pytest.fixture
    def issuer(self) -> Iterator[Issuer]:
        with serving() as found:
            yield found

    @pytest.fixture
    def now(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def keyring(self, issuer: Issuer, now: list[float]) -> Keyring:
        return Keyring(issuer.url, clock=lambda: now[0])

    def test_keys_are_asked_for_once_while_they_are_fresh(
        self, issuer: Issuer, keyring: Keyring, now: list[float]
    ) -> None:
        for _ in range(3):
            assert keyring.key("rsa") and keyring.key("ec")
        assert issuer.asked == 1
        now[0] += ours.FRESH_SECONDS + 1
        assert keyring.key("rsa")
        assert issuer.asked == 2

    def test_a_new_key_is_found_and_an_old_one_forgotten(
        self, issuer: Issuer, keyring: Keyring, now: list[float]
    ) -> None:
        assert keyring.key("rsa")
        issuer.keys = [public("new", rsa_key("new"))]
        now[0] += ours.AGAIN_SECONDS + 1
        assert keyring.key("new") and keyring.key("rsa") is None

    def test_unknown_keys_do_not_make_us_ask_again_and_again(
        self, issuer: Issuer, keyring: Keyring, now: list[float]
    ) -> None:
        for index in range(100):
            assert keyring.key(f"unknown {index}") is None
            now[0] += 0.1
        assert issuer.asked == 1

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
    def test_known_keys_are_believed_for_a_while(
        self, issuer: Issuer, keyring: Keyring, now: list[float], status: int, body: bytes | None
    ) -> None:
        assert keyring.key("rsa")
        issuer.status, issuer.body = status, body
        now[0] += ours.FRESH_SECONDS + 1
        assert keyring.key("rsa")
        now[0] += ours.STALE_SECONDS
        with pytest.raises(Problem) as refused:
            keyring.key("rsa")
        assert refused.value.status == 503

    def test_without_an_answer_nobody_is_believed(self) -> None:
        with pytest.raises(Problem) as refused:
            Keyring("http://127.0.0.1:1/keys").key("rsa")
        assert refused.value.status == 503

    def test_a_redirect_is_not_followed(self, issuer: Issuer, keyring: Keyring) -> None:
        with serving() as elsewhere:
            issuer.status, issuer.location = 302, elsewhere.url
            with pytest.raises(Problem) as refused:
                keyring.key("rsa")
            assert (refused.value.status, elsewhere.asked) == (503, 0)

    @pytest.mark.parametrize(
        "entry",
        [
            {"kty": "oct", "k": "MDEyMw", "kid": "rsa"},
            {**public("rsa", rsa_key()), "use": "enc"},
            {**public("rsa", rsa_key()), "kid": 7},
            {**public("rsa", rsa_key()), "alg": "HS256"},
            {**public("rsa", rsa_key()), "alg": "RSA-OAEP"},
            {**public("rsa", rsa_key()), "d": "AQAB"},
            {"kty": "RSA", "kid": "rsa"},
            {"kty": "EC", "crv": "secp256k1", "x": "AQ", "y": "AQ", "kid": "rsa"},
            {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ", "kid": "rsa"},
            "rsa",
            None,
        ],
    )
    def test_what_is_no_key_for_us_is_passed_over(self, issuer: Issuer, keyring: Keyring, entry: Any) -> None:
        issuer.keys = [entry, public("ec", ec_key())]
        assert keyring.key("rsa") is None
        assert keyring.key("ec")

    def test_a_key_that_is_too_short_signs_nothing(self, issuer: Issuer) -> None:
        weak = rsa_key("weak", 1024)
        issuer.keys = [public("weak", weak)]
        with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
            text = token(weak, kid="weak")
        with pytest.raises(Problem) as refused:
            tokens(issuer).claims(text)
        assert refused.value.status == 401


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"NOETL_JWT_ISSUER": NAME}, "NOETL_JWT_AUDIENCE is not set"),
        ({"NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWT_ISSUER is not set"),
        ({"NOETL_JWT_TENANT_CLAIM": "org"}, "NOETL_JWT_ISSUER is not set"),
        ({"NOETL_JWT_ISSUER": "issuer.test", "NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWKS_URL is"),
        ({"NOETL_JWT_ISSUER": "http://issuer.test", "NOETL_JWT_AUDIENCE": "noetl"}, "NOETL_JWKS_URL is"),
        ({"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": "noetl", "NOETL_JWKS_URL": "file:///keys"}, "NOETL_JWKS_URL is"),
        ({"NOETL_JWT_ISSUER": NAME, "NOETL_JWT_AUDIENCE": "noetl", "NOETL_JWKS_URL": "https://["}, "NOETL_JWKS_URL is"),
    ],
)  # fmt: skip
def test_settings_that_make_no_issuer(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        issuer_of(environ)


def test_keys_are_where_issuers_keep_them() -> None:
    for name in ("https://issuer.test/pool", "https://issuer.test/pool/"):
        found = issuer_of({"NOETL_JWT_ISSUER": name, "NOETL_JWT_AUDIENCE": "noetl"})
        assert found is not None
        assert found.keys_url == "https://issuer.test/pool/.well-known/jwks.json"
    assert issuer_of({}) is None
