"""Secrets are resolved where they are needed, and redacted everywhere else."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import write_json
from noetl.executor.security import redaction
from noetl.executor.security.redaction import MASK, CallbackTokens, RevealedSecrets, redact, redacted_head
from noetl.executor.security.secret_sources import SecretReference, resolve_secret

VALUE = 's3cret/"väl ue"+\\x'


def test_a_secret_reference_never_shows_its_name() -> None:
    secret = SecretReference("TOKEN")
    seen = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret!r:>20}",
        "%s" % secret,  # noqa: UP031
        secret + "",
        write_json([secret]),
    ]
    seen += [
        base64.b64encode(secret.encode()).decode(),
        secret.upper(),
        "".join(c for c in secret),
        str({"a": secret}),
    ]
    assert not any("TOKEN" in text for text in seen)
    for copied in (copy.deepcopy(secret), pickle.loads(pickle.dumps(secret))):
        assert (type(copied), copied.name) == (SecretReference, "TOKEN")


def test_secrets_are_resolved_from_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "A").write_text("of a file\n")
    (tmp_path / "B").write_text("of a file")
    environ = {
        "NOETL_SECRETS_DIR": str(tmp_path),
        "NOETL_SECRET_B": "of the environment",
        "NOETL_SECRET_EMPTY": "",
    }
    assert resolve_secret("A", environ) == "of a file"
    assert resolve_secret("B", environ) == "of the environment"
    assert resolve_secret("EMPTY", environ) == ""


@pytest.mark.parametrize("name", ["../A", "A/B", "", "a-b", "A\0", "."])
def test_a_name_cannot_be_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "A").write_text("x")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ActionError, match="not a valid name of a secret") as caught:
        resolve_secret(name, {"NOETL_SECRETS_DIR": str(tmp_path / "sub")})
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


def test_the_error_of_a_missing_secret_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "BYTES").write_bytes(b"\xff")
    environ = {"NOETL_SECRETS_DIR": str(tmp_path)}
    with pytest.raises(ActionError, match="NOETL_SECRET_MISSING, or set NOETL_SECRETS_DIR"):
        resolve_secret("MISSING", environ)
    with pytest.raises(ActionError, match="unknown secret `FOLDER`"):
        resolve_secret("FOLDER", environ)
    with pytest.raises(ActionError, match="`BYTES` in NOETL_SECRETS_DIR cannot be read"):
        resolve_secret("BYTES", environ)


FORMS = [
    VALUE,
    f"Bearer {VALUE}!",
    quote(VALUE),
    quote(VALUE, safe=""),
    quote_plus(VALUE),
    json.dumps(VALUE),
    json.dumps(VALUE, ensure_ascii=False),
    base64.b64encode(VALUE.encode()).decode(),
    base64.urlsafe_b64encode(VALUE.encode()).decode(),
    *(base64.b64encode(f"{user}:{VALUE}:x".encode()).decode() for user in ("a", "ab", "abc")),
]


@pytest.mark.parametrize("text", FORMS)
def test_every_encoding_of_a_revealed_value_is_redacted(text: str) -> None:
    revealed = RevealedSecrets()
    revealed.add(VALUE)
    scrubbed = revealed.redact({"a": [{text: text}], "n": 1})
    (key, value), *_ = scrubbed["a"][0].items()
    assert key == value
    assert MASK in value
    # What base64 mixes with its neighbours may stay: less than a byte on either side.
    assert len(value.replace(MASK, "")) <= len(text) - len(VALUE) + 8
    assert scrubbed["n"] == 1


def test_a_value_without_secrets_is_returned_unchanged() -> None:
    revealed = RevealedSecrets()
    value = {"a": [1, "text", {"b": None}]}
    assert revealed.redact(value) is value
    revealed.add(VALUE)
    assert revealed.redact(value) is value


def test_short_values_are_not_redacted() -> None:
    revealed = RevealedSecrets()
    revealed.add("1234567")
    assert revealed.redact("1234567") == "1234567"
    revealed.add("12345678")
    assert revealed.redact("12345678") == MASK


def test_the_password_in_a_url_is_redacted_separately() -> None:
    revealed = RevealedSecrets()
    revealed.add("postgresql://ann:long-p%40ssword@db.test/x")
    assert revealed.redact("the word long-p@ssword is wrong") == f"the word {MASK} is wrong"


def test_each_line_of_a_secret_is_redacted_separately() -> None:
    revealed = RevealedSecrets()
    revealed.add("-----BEGIN KEY-----\r\nfirst-line-of-a-key\n  an-indented-line\nshort\napi_version: v1\n")
    assert revealed.redact(["first-line-of-a-key", "and an-indented-line"]) == [MASK, f"and {MASK}"]
    assert revealed.redact(["short", "api_version: v1"]) == ["short", "api_version: v1"]


def test_numbers_are_redacted() -> None:
    revealed = RevealedSecrets()
    revealed.add("1234567890")
    revealed.add("True-or-false")
    assert revealed.redact([1234567890, 123456789, 12345678901, True]) == [MASK, 123456789, 12345678901, True]


def test_longer_secrets_are_redacted_first() -> None:
    revealed = RevealedSecrets()
    revealed.add("password")
    revealed.add("password-and-more")
    assert revealed.redact("password-and-more password") == f"{MASK} {MASK}"


def test_the_oldest_secret_is_discarded_beyond_the_limit() -> None:
    revealed = RevealedSecrets(limit=2)
    for value in ("secret-one", "secret-two", "secret-one", "secret-three"):
        revealed.add(value)
    assert revealed.redact("secret-one secret-two secret-three") == f"{MASK} secret-two {MASK}"


@pytest.mark.parametrize("before", ["", "a", "code", "https://x.test/?t="])
@pytest.mark.parametrize("encode", [str.encode, base64.b64encode, base64.urlsafe_b64encode])
def test_tokens_are_redacted_in_any_context(before: str, encode: Callable[[Any], bytes]) -> None:
    tokens = CallbackTokens()
    token, unknown_token = tokens.create(), CallbackTokens().create()
    tokens.create()

    def encode_in_context(token: str) -> str:
        text = f"{before}{token}/heartbeat?"
        return (encode(text) if encode is str.encode else encode(text.encode())).decode()

    unknown = encode_in_context(unknown_token)
    assert tokens.redact(["plain", {"a": unknown}]) == ["plain", {"a": unknown}]
    encoded = encode_in_context(token)
    redacted = tokens.redact([encoded, {encoded: 1}])
    assert MASK in redacted[0] and redacted[1] == {redacted[0]: 1}
    assert token not in redacted[0] and len(redacted[0]) < len(encoded) - 40


@pytest.mark.parametrize("encode", [str.encode, base64.b64encode])
def test_tokens_are_redacted_where_the_parts_of_a_text_meet(encode: Callable[[Any], bytes]) -> None:
    tokens = CallbackTokens()
    token = tokens.create()
    encoded = (encode(token) if encode is str.encode else encode(token.encode())).decode()
    part = redaction.PART_CHARACTERS
    for before in (part - len(encoded) - 1, part - 30, part - 1, part, part + 1):
        assert tokens.redact(f"{' ' * before} {encoded} end") == f"{' ' * before} {MASK} end"
    assert tokens.redact("f" * part + token) == "f" * part + MASK


def test_many_tokens_in_one_text_are_redacted_one_by_one() -> None:
    tokens = CallbackTokens()
    made = [tokens.create() for _ in range(3000)]
    assert tokens.redact(" ".join(made)) == " ".join([MASK] * len(made))


def test_the_oldest_token_is_discarded_beyond_the_limit() -> None:
    tokens = CallbackTokens(limit=2)
    made = [tokens.create() for _ in range(3)]
    assert [tokens.redact(token) for token in made] == [made[0], MASK, MASK]


@pytest.mark.parametrize("before", ["", "u:", "ab:", "abc:"])
def test_a_token_at_the_end_of_base64_is_redacted(before: str) -> None:
    """The last group of base64 may have one or two bytes, as in the header of basic authentication."""
    tokens = CallbackTokens()
    encoded = base64.b64encode(f"{before}{tokens.create()}".encode()).decode()
    assert tokens.redact(f"Basic {encoded}").rstrip("=") == f"Basic {MASK}"


@pytest.mark.parametrize("length", [1, 100, 128, 500, 620, 1000])
def test_a_token_is_not_cut_in_two(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    tokens = CallbackTokens()
    monkeypatch.setattr(redaction, "CALLBACK_TOKENS", tokens)
    token = tokens.create()
    for shown in (token, base64.b64encode(f"/{token}".encode()).decode()):
        for before in range(max(length - len(shown), 0), length + 1):
            text = f"{' ' * before}{shown} {'x ' * 1000}"
            head = redacted_head(text, length)
            assert len(head) == length
            assert not set(head) - set(f" x={MASK}")


def test_threads_may_reveal_and_redact_at_the_same_time() -> None:
    revealed = RevealedSecrets()
    wrong: list[str] = []

    def work(n: int) -> None:
        for index in range(10):
            value = f"secret-{n}-{index}-value"
            revealed.add(value)
            if revealed.redact(value) != MASK:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_resolved_secrets_are_redacted() -> None:
    resolve_secret("X", {"NOETL_SECRET_X": "resolved-by-a-test"})
    assert redact({"message": "x resolved-by-a-test y"}) == {"message": f"x {MASK} y"}
