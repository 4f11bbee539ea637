"""A fake issuer of tokens on this machine. Tests change its key set while it serves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

NAME = "https://issuer.test/"
AUDIENCE = "noetl"


@cache
def rsa_key(id: str = "rsa", bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_jwk(kid: str, private: Any, **members: Any) -> dict[str, Any]:
    """Return the entry of a key in a JSON Web Key Set."""
    algorithm: Any = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }[
        next(
            kind
            for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)
            if isinstance(private, kind)
        )
    ]
    return {**algorithm.to_jwk(private.public_key(), as_dict=True), "kid": kid, "use": "sig", **members}


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a valid token, with changes. None leaves a claim out."""
    now = int(time.time())
    valid = {
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "exp": now + 300,
        "scope": "run",
        "org": "sales",
    }
    return {name: value for name, value in {**valid, **changed}.items() if value is not None}


def token(
    private: Any = None, algorithm: str = "RS256", kid: str | None = "rsa", header: Any = None, **changed: Any
) -> str:
    """Return a token, signed with the key `rsa` unless another one is given."""
    headers = {**({} if kid is None else {"kid": kid}), **(header or {})}
    return jwt.encode(claims(**changed), rsa_key() if private is None else private, algorithm, headers)


@dataclass
class FakeIssuer:
    """A server of the key set `keys`, which counts the requests."""

    url: str = ""
    keys: list[Any] = field(default_factory=list)
    status: int = 200
    body: bytes | None = None
    location: str | None = None
    request_count: int = 0
    drip: Event | None = None
    """If it is there, a byte of the response is sent every 10 ms until it is set."""


@contextmanager
def running_issuer() -> Iterator[FakeIssuer]:
    """Run a fake issuer with one key of each kind."""
    issuer = FakeIssuer(
        keys=[public_jwk("rsa", rsa_key()), public_jwk("ec", ec_key()), public_jwk("ed", ed_key())]
    )

    class KeySetHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.request_count += 1
            body = issuer.body if issuer.body is not None else json.dumps({"keys": issuer.keys}).encode()
            self.send_response(issuer.status)
            if issuer.location is not None:
                self.send_header("Location", issuer.location)
            if issuer.drip is None:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            while issuer.drip is not None and not issuer.drip.wait(0.01):
                try:
                    self.wfile.write(b" ")
                except OSError:
                    return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), KeySetHandler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    issuer.url = f"http://127.0.0.1:{server.server_port}/keys"
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
