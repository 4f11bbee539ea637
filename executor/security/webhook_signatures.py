"""Signatures of webhooks: the check of received requests, and the signature of sent ones.

Problem: anyone may send a request. A signature proves that its sender knows a secret, and that the body is
the one that was sent.

Algorithm: the sender computes an HMAC (RFC 2104) with the secret. The receiver computes it over the same
bytes, and compares the two in constant time. Where the sender signs a time, that time must be near the time
of the receiver, so that a recorded request is worthless later.

Cost: one HMAC of the body for each secret.

Limits: the schemes of `WebhookAuth`. Asymmetric signatures (`v1a` of Standard Webhooks) are not accepted.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from noetl.planner.trigger_sources import WebhookAuth

STANDARD_PREFIX = "whsec_"
"""What a secret of Standard Webhooks begins with. Base64 follows."""

STANDARD_HEADERS = ("webhook-id", "webhook-timestamp", "webhook-signature")
GITHUB_HEADER = "x-hub-signature-256"
STRIPE_HEADER = "stripe-signature"

_MAX_TIME_DIGITS = 12
_WRONG = "The signature of the request is missing or wrong."
_OLD = "The request was signed too long ago, or its clock is wrong."


class SignatureError(Exception):
    """A request that the expected sender has not signed now. The message says no more than its sender may
    know.
    """


class SigningSecretError(ValueError):
    """A secret that cannot sign: it is empty, or has no valid base64. The message does not contain it."""


def check_signature(
    auth: WebhookAuth, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float
) -> None:
    """Check that one of the secrets has signed a body, by a scheme that signs.

    `headers` have names in lower case. `now` is in seconds since the epoch.

    Raises:
        SignatureError: none of the secrets has signed it, or the signed time is too far from `now`.
        SigningSecretError: a secret cannot sign.
    """
    match auth.scheme:
        case "github":
            given = [headers.get(GITHUB_HEADER, "")]
            _check(given, (f"sha256={_hex(_raw_key(secret), body)}" for secret in secrets))
        case "stripe":
            _check_stripe(auth, secrets, headers, body, now)
        case "standard":
            _check_standard(auth, secrets, headers, body, now)
        case "hmac":
            _check_hmac(auth, secrets, headers, body)
        case _:
            raise ValueError(f"scheme `{auth.scheme}` has no signature")


def check_secret(auth: WebhookAuth, secret: str) -> None:
    """Check that a secret can sign by a scheme.

    Raises:
        SigningSecretError: it is empty, or has no valid base64.
    """
    if auth.scheme == "standard":
        _standard_key(secret)
    else:
        _raw_key(secret)


def signature_headers(auth: WebhookAuth) -> tuple[str, ...]:
    """Return the names of the headers with signatures, in lower case.

    >>> signature_headers(WebhookAuth("hmac", header="X-Signature"))
    ('x-signature',)
    """
    match auth.scheme:
        case "github":
            return (GITHUB_HEADER, "x-hub-signature")
        case "stripe":
            return (STRIPE_HEADER,)
        case "standard":
            return ("webhook-signature",)
    return (auth.header.lower(),) if auth.header else ()


def sign_standard(secret: str, message_id: str, now: float, body: bytes) -> dict[str, str]:
    """Return the headers that sign a body as Standard Webhooks says. `message_id` has no full stop.

    >>> sign_standard("whsec_c2VjcmV0", "msg_1", 1_700_000_000.5, b"{}")["webhook-timestamp"]
    '1700000000'

    Raises:
        SigningSecretError: the secret has no valid base64.
    """
    signed_at = str(int(now))
    signature = _sign(_standard_key(secret), f"{message_id}.{signed_at}.".encode(), body)
    values = (message_id, signed_at, f"v1,{base64.b64encode(signature).decode()}")
    return dict(zip(STANDARD_HEADERS, values, strict=True))


def _check_stripe(
    auth: WebhookAuth, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float
) -> None:
    items = [item.strip().partition("=") for item in headers.get(STRIPE_HEADER, "").split(",")]
    times = [value for key, _, value in items if key == "t"]
    if len(times) != 1:
        raise SignatureError(_WRONG)
    signed = f"{times[0]}.".encode("utf-8", "surrogatepass")
    given = [value for key, _, value in items if key == "v1"]
    _check(given, (_sign(_raw_key(secret), signed, body).hex() for secret in secrets))
    _check_time(times[0], auth.tolerance_seconds, now)


def _check_standard(
    auth: WebhookAuth, secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float
) -> None:
    message_id, signed_at, signatures = (headers.get(name, "") for name in STANDARD_HEADERS)
    if not message_id or "." in message_id:
        # A full stop would move bytes from the id to the body.
        raise SignatureError(_WRONG)
    signed = f"{message_id}.{signed_at}.".encode("utf-8", "surrogatepass")
    # Between the values of two headers there is a comma, too.
    parts = (signature.rstrip(",").partition(",") for signature in signatures.split())
    given = [value for version, _, value in parts if version == "v1"]
    keys = [_standard_key(secret) for secret in secrets]
    _check(given, (base64.b64encode(_sign(key, signed, body)).decode() for key in keys))
    _check_time(signed_at, auth.tolerance_seconds, now)


def _check_hmac(auth: WebhookAuth, secrets: Sequence[str], headers: Mapping[str, str], body: bytes) -> None:
    value = headers.get(auth.header.lower(), "").strip()
    if not value.startswith(auth.prefix):
        raise SignatureError(_WRONG)
    given = value.removeprefix(auth.prefix)
    digests = [hmac.digest(_raw_key(secret), body, auth.algorithm) for secret in secrets]
    if auth.encoding == "hex":
        _check([given.lower()], (digest.hex() for digest in digests))
    else:
        _check([given], (base64.b64encode(digest).decode() for digest in digests))


def _check(given: Sequence[str], expected: Iterable[str]) -> None:
    """Check that one of the given signatures is expected. Every comparison takes the same time."""
    given_bytes = [text.encode("utf-8", "surrogatepass") for text in given]
    is_signed = False
    for text in expected:
        for signature in given_bytes:
            is_signed |= hmac.compare_digest(signature, text.encode())
    if not is_signed:
        raise SignatureError(_WRONG)


def _check_time(text: str, tolerance_seconds: float, now: float) -> None:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_TIME_DIGITS
    if not is_number or abs(now - int(text)) > tolerance_seconds:
        raise SignatureError(_OLD)


def _raw_key(secret: str) -> bytes:
    if not secret:
        raise SigningSecretError("a secret of a webhook is empty")
    return secret.encode("utf-8", "surrogatepass")


def _standard_key(secret: str) -> bytes:
    """Return the key that a secret of Standard Webhooks encodes, with or without its prefix."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(STANDARD_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise SigningSecretError(f"a secret of Standard Webhooks must be `{STANDARD_PREFIX}` and base64")
    return key


def _sign(key: bytes, signed: bytes, body: bytes, algorithm: Literal["sha256"] = "sha256") -> bytes:
    """Return the HMAC of `signed` and the body, without a copy of both."""
    code = hmac.new(key, signed, algorithm)
    code.update(body)
    return code.digest()


def _hex(key: bytes, body: bytes) -> str:
    return _sign(key, b"", body).hex()
