"""Signatures of webhooks: the vectors that their senders publish, and altered requests."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.security.webhook_signatures import (
    SignatureError,
    SigningSecretError,
    check_signature,
    sign_standard,
    signature_headers,
)
from noetl.planner.trigger_sources import WebhookAuth

SIGNED_AT = 1_614_265_330
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
STANDARD_BODY = b'{"test": 2432232314}'
STANDARD_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(SIGNED_AT),
    "webhook-signature": STANDARD_SIGNATURE,
}
GITHUB = {
    "x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
}
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
STRIPE_SECRET = "whsec_test_secret"
STRIPE_BODY = b'{"id":"evt_test","object":"event"}'
# printf '1614265330.{"id":"evt_test","object":"event"}' | openssl dgst -sha256 -hmac whsec_test_secret
STRIPE_SIGNATURE = "fbd6bf5496b9d6310e422a2c072578f95f5eb492111ab57a5510e9cd79c1b304"
STRIPE = {"stripe-signature": f"t={SIGNED_AT},v1={STRIPE_SIGNATURE},v0=6ffbb59b2300aae63f272406069a9788"}

CASES = {
    "github": (WebhookAuth("github"), GITHUB_SECRET, GITHUB, GITHUB_BODY),
    "stripe": (WebhookAuth("stripe"), STRIPE_SECRET, STRIPE, STRIPE_BODY),
    "standard": (WebhookAuth("standard"), STANDARD_SECRET, STANDARD, STANDARD_BODY),
}
SCHEMES = pytest.mark.parametrize("scheme", list(CASES))


@SCHEMES
def test_the_published_vector_is_accepted(scheme: str) -> None:
    auth, secret, headers, body = CASES[scheme]
    check_signature(auth, [secret], headers, body, SIGNED_AT)


@SCHEMES
def test_one_of_several_secrets_suffices(scheme: str) -> None:
    auth, secret, headers, body = CASES[scheme]
    other = "whsec_" + base64.b64encode(b"other").decode()
    check_signature(auth, [other, secret], headers, body, SIGNED_AT)
    with pytest.raises(SignatureError):
        check_signature(auth, [other], headers, body, SIGNED_AT)


@SCHEMES
def test_a_request_without_a_signature_is_refused(scheme: str) -> None:
    auth, secret, _, body = CASES[scheme]
    with pytest.raises(SignatureError):
        check_signature(auth, [secret], {}, body, SIGNED_AT)


@SCHEMES
def test_without_a_secret_nothing_is_accepted(scheme: str) -> None:
    auth, _, headers, body = CASES[scheme]
    with pytest.raises(SignatureError):
        check_signature(auth, [], headers, body, SIGNED_AT)


@SCHEMES
def test_an_empty_secret_signs_nothing(scheme: str) -> None:
    auth, _, headers, body = CASES[scheme]
    with pytest.raises(SigningSecretError):
        check_signature(auth, [""], headers, body, SIGNED_AT)


@SCHEMES
@given(data=st.data())
def test_each_altered_byte_of_a_body_is_refused(scheme: str, data: st.DataObject) -> None:
    auth, secret, headers, body = CASES[scheme]
    place = data.draw(st.integers(0, len(body) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[place]))
    altered = body[:place] + bytes([value]) + body[place + 1 :]
    with pytest.raises(SignatureError):
        check_signature(auth, [secret], headers, altered, SIGNED_AT)


@SCHEMES
@given(data=st.data())
def test_each_altered_character_of_a_signature_is_refused(scheme: str, data: st.DataObject) -> None:
    auth, secret, headers, body = CASES[scheme]
    signature = {
        "github": GITHUB["x-hub-signature-256"],
        "stripe": STRIPE_SIGNATURE,
        "standard": STANDARD_SIGNATURE,
    }[scheme]
    place = data.draw(st.integers(0, len(signature) - 1))
    character = data.draw(st.characters().filter(lambda given: given != signature[place]))
    altered = signature[:place] + character + signature[place + 1 :]
    changed = {name: value.replace(signature, altered) for name, value in headers.items()}
    with pytest.raises(SignatureError):
        check_signature(auth, [secret], changed, body, SIGNED_AT)


@pytest.mark.parametrize("scheme", ["stripe", "standard"])
@pytest.mark.parametrize("seconds", [-301, 301, -86_400])
def test_a_signed_time_beyond_the_tolerance_is_refused_in_both_directions(scheme: str, seconds: int) -> None:
    auth, secret, headers, body = CASES[scheme]
    check_signature(auth, [secret], headers, body, SIGNED_AT + max(min(seconds, 300), -300))
    with pytest.raises(SignatureError, match="too long ago"):
        check_signature(auth, [secret], headers, body, SIGNED_AT + seconds)


@pytest.mark.parametrize("scheme", ["stripe", "standard"])
def test_the_signed_time_cannot_be_replaced(scheme: str) -> None:
    auth, secret, headers, body = CASES[scheme]
    later = {name: value.replace(str(SIGNED_AT), str(SIGNED_AT + 1000)) for name, value in headers.items()}
    with pytest.raises(SignatureError, match="missing or wrong"):
        check_signature(auth, [secret], later, body, SIGNED_AT + 1000)


@pytest.mark.parametrize("signed_at", ["", "now", "1e9", "-5", "٣", "9" * 400])
def test_a_signed_time_that_is_no_number_is_refused(signed_at: str) -> None:
    content = f"{signed_at}.".encode() + STRIPE_BODY
    signature = hmac.digest(STRIPE_SECRET.encode(), content, "sha256").hex()
    with pytest.raises(SignatureError):
        check_signature(
            WebhookAuth("stripe"),
            [STRIPE_SECRET],
            {"stripe-signature": f"t={signed_at},v1={signature}"},
            STRIPE_BODY,
            SIGNED_AT,
        )


def test_one_of_several_signatures_of_stripe_suffices() -> None:
    header = f"t={SIGNED_AT}, v1={'0' * 64}, v1={STRIPE_SIGNATURE}"
    check_signature(
        WebhookAuth("stripe"), [STRIPE_SECRET], {"stripe-signature": header}, STRIPE_BODY, SIGNED_AT
    )


def test_two_times_of_stripe_are_refused() -> None:
    header = f"t={SIGNED_AT},t={SIGNED_AT},v1={STRIPE_SIGNATURE}"
    with pytest.raises(SignatureError):
        check_signature(
            WebhookAuth("stripe"), [STRIPE_SECRET], {"stripe-signature": header}, STRIPE_BODY, SIGNED_AT
        )


def test_one_of_several_signatures_of_standard_webhooks_suffices() -> None:
    signatures = f"v1a,AAAA v1,AAAA {STANDARD_SIGNATURE}"
    headers = {**STANDARD, "webhook-signature": signatures}
    check_signature(WebhookAuth("standard"), [STANDARD_SECRET], headers, STANDARD_BODY, SIGNED_AT)


@pytest.mark.parametrize("signatures", [f"{STANDARD_SIGNATURE}, v1,AAAA", f"v1,AAAA, {STANDARD_SIGNATURE}"])
def test_a_signature_of_standard_webhooks_may_be_in_one_of_two_headers(signatures: str) -> None:
    headers = {**STANDARD, "webhook-signature": signatures}
    check_signature(WebhookAuth("standard"), [STANDARD_SECRET], headers, STANDARD_BODY, SIGNED_AT)


def test_a_secret_of_standard_webhooks_may_lack_its_prefix() -> None:
    secret = STANDARD_SECRET.removeprefix("whsec_")
    check_signature(WebhookAuth("standard"), [secret], STANDARD, STANDARD_BODY, SIGNED_AT)


def test_bytes_cannot_move_from_the_body_to_the_id() -> None:
    body = b"5.rest"
    headers = sign_standard(STANDARD_SECRET, "msg", SIGNED_AT, body)
    moved = {**headers, "webhook-id": f"msg.{SIGNED_AT}", "webhook-timestamp": "5"}
    with pytest.raises(SignatureError, match="missing or wrong"):
        check_signature(WebhookAuth("standard"), [STANDARD_SECRET], moved, b"rest", 5)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64!", "whsec_ä"])
def test_a_secret_without_base64_is_reported_without_its_value(secret: str) -> None:
    with pytest.raises(SigningSecretError) as caught:
        check_signature(WebhookAuth("standard"), [secret], STANDARD, STANDARD_BODY, SIGNED_AT)
    assert "base64" in str(caught.value)
    assert "not base64!" not in str(caught.value)


def test_a_body_is_signed_as_standard_webhooks_publishes_it() -> None:
    headers = sign_standard(STANDARD_SECRET, STANDARD["webhook-id"], SIGNED_AT + 0.9, STANDARD_BODY)
    assert headers == STANDARD


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("prefix", ["", "sha=", "v0:"])
@given(body=st.binary(max_size=50))
def test_an_hmac_is_read_as_it_is_declared(algorithm: str, encoding: str, prefix: str, body: bytes) -> None:
    written = {"algorithm": algorithm, "encoding": encoding, "prefix": prefix, "header": "X-Signature"}
    auth = WebhookAuth.from_json({**WebhookAuth("hmac").to_json(), **written})
    digest = hmac.new(b"key", body, getattr(hashlib, algorithm)).digest()
    text = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    headers = {"x-signature": f" {prefix}{text} "}
    check_signature(auth, ["key"], headers, body, SIGNED_AT)
    with pytest.raises(SignatureError):
        check_signature(auth, ["key"], headers, body + b"\0", SIGNED_AT)
    if prefix:
        with pytest.raises(SignatureError):
            check_signature(auth, ["key"], {"x-signature": text}, body, SIGNED_AT)


def test_hexadecimal_digits_may_be_upper_case() -> None:
    auth = WebhookAuth("hmac", header="X-Signature")
    digest = hmac.digest(b"key", b"body", "sha256").hex().upper()
    check_signature(auth, ["key"], {"x-signature": digest}, b"body", SIGNED_AT)


def test_other_schemes_have_no_signature() -> None:
    with pytest.raises(ValueError, match="no signature"):
        check_signature(WebhookAuth("none"), [], {}, b"", SIGNED_AT)


def test_the_headers_with_signatures_are_known() -> None:
    assert signature_headers(WebhookAuth("stripe")) == ("stripe-signature",)
    assert signature_headers(WebhookAuth("standard")) == ("webhook-signature",)
    assert "x-hub-signature-256" in signature_headers(WebhookAuth("github"))
    assert signature_headers(WebhookAuth("none")) == ()
