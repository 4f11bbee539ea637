"""Redaction: keep the values of secrets out of everything that is stored, logged or returned.

Problem: a playbook may print, save or return the value of a secret, as it is or in another encoding. The
value is known only from the moment when it is revealed to an action.

Algorithm: remember each revealed value. Build one regular expression from its written forms: plain, by
line, URL-encoded, in JSON, and in base64 at three offsets. Replace every match by `***`. Callback tokens are
too many for a pattern: find the runs of characters that look like a token, and search them in a set.
Source: the masking of secrets in the logs of GitHub Actions.

Cost: one pass over each text; the pattern is compiled again only after a new secret. Values without a match
are returned unchanged, as the same object.

Limits: values shorter than `MIN_REDACTED_LENGTH` are not replaced. The oldest values are forgotten after
1,000 secrets and 100,000 tokens. Other encodings, and parts of a value, are not found.
"""

from __future__ import annotations

import base64
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from secrets import token_hex
from threading import Lock
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
MIN_REDACTED_LENGTH = 8
"""Shorter values are not redacted: they would also match unrelated text."""

_MAX_SECRETS = 1_000
_MAX_TOKENS = 100_000
_TOKEN_LENGTH = 48
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_TOKEN_LENGTH},}}")
_TOKEN_CANDIDATE = re.compile(rf"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{{{_TOKEN_LENGTH},}}")
"""A run of characters that may contain a token, as it is or in base64."""
_STANDARD_BASE64 = str.maketrans("-_", "+/")
_KEY_LINE = re.compile(r"\S{16,}")
"""A line of a multi-line secret that is a secret by itself, such as a line of a private key."""


class RevealedSecrets:
    """The secret values that this process has revealed, newest last.

    The oldest is forgotten past the limit.
    """

    def __init__(self, limit: int = _MAX_SECRETS) -> None:
        self._limit = limit
        self._values: OrderedDict[str, None] = OrderedDict()
        self._pattern: re.Pattern[str] | None = None
        self._lock = Lock()

    def add(self, value: str) -> None:
        """Remember a value; if it is a URL with a password, remember the password as well."""
        secrets = [
            secret for secret in (value, _password_of(value)) if secret and len(secret) >= MIN_REDACTED_LENGTH
        ]
        with self._lock:
            for secret in secrets:
                if secret not in self._values:
                    self._pattern = None
                self._values[secret] = None
                self._values.move_to_end(secret)
            while len(self._values) > self._limit:
                self._values.popitem(last=False)
                self._pattern = None

    def redact(self, value: Any) -> Any:
        """Return `value` with each remembered secret, plain or encoded, replaced by the mask.

        Return the same object if it contains none.
        """
        pattern = self._compile()
        return value if pattern is None else _redact(value, lambda text: pattern.sub(MASK, text))

    def _compile(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._pattern is None and self._values:
                forms = {form for value in self._values for form in _written_forms(value)}
                alternatives = sorted(forms, key=lambda form: (-len(form), form))
                self._pattern = re.compile("|".join(map(re.escape, alternatives)))
            return self._pattern


class CallbackTokens:
    """The callback tokens that this process has created. The oldest is forgotten past the limit.

    Tokens are numerous and have one form, so each text of this form is searched in a set. The cost does not
    depend on the number of tokens.
    """

    def __init__(self, limit: int = _MAX_TOKENS) -> None:
        self._limit = limit
        self._tokens: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def create(self) -> str:
        """Return a new token: random bytes in hexadecimal. It never starts with `-`, as an option would."""
        token = token_hex(_TOKEN_LENGTH // 2)
        with self._lock:
            self._tokens[token] = None
            if len(self._tokens) > self._limit:
                self._tokens.popitem(last=False)
        return token

    def redact(self, value: Any) -> Any:
        """Return `value` with each token, plain or in base64, replaced by the mask.

        Return the same object if it contains none.
        """
        return _redact(value, self._redact_text) if self._tokens else value

    def _redact_text(self, text: str) -> str:
        for candidate in set(_TOKEN_CANDIDATE.findall(text)):
            for token in self._find_tokens(candidate):
                text = text.replace(token, MASK)
            standard = candidate.translate(_STANDARD_BASE64)
            # Four base64 characters are three bytes, and the token may start at any of the four characters.
            if any(self._find_tokens(_decode_base64(standard[offset:])) for offset in range(4)):
                text = text.replace(candidate, MASK)
        return text

    def _find_tokens(self, text: str) -> list[str]:
        windows = (
            run[start : start + _TOKEN_LENGTH]
            for run in _HEXADECIMAL.findall(text)
            for start in range(len(run) - _TOKEN_LENGTH + 1)
        )
        return [window for window in windows if window in self._tokens]


REVEALED_SECRETS = RevealedSecrets()
CALLBACK_TOKENS = CallbackTokens()
"""The tokens of this process. A playbook may log a token, so that someone can use it, but none is stored."""


def redact(value: Any) -> Any:
    """Return a JSON value without the secrets that this process has revealed.

    Secrets of less than `MIN_REDACTED_LENGTH` characters stay.
    """
    return REVEALED_SECRETS.redact(value)


def redact_for_storage(value: Any) -> Any:
    """Return a JSON value without revealed secrets and without callback tokens."""
    return CALLBACK_TOKENS.redact(REVEALED_SECRETS.redact(value))


def redacted_tail(text: str, length: int) -> str:
    """Return the last `length` characters of the redacted text.

    Redact first: a secret that is cut in two would not be found.
    """
    return str(redact(text))[-length:]


def redacted_head(text: str, length: int) -> str:
    """Return the first `length` characters of the redacted text."""
    return str(redact(text))[:length]


def _redact(value: Any, redact_text: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        redacted = {_redact(key, redact_text): _redact(item, redact_text) for key, item in value.items()}
        return value if _are_same_objects(redacted.items(), value.items()) else redacted
    if isinstance(value, list | tuple):
        items = [_redact(item, redact_text) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, int | float) and redact_text(str(value)) == MASK:
        return MASK
    return value


def _are_same_objects(new: Any, old: Any) -> bool:
    return all(a is c and b is d for (a, b), (c, d) in zip(new, old, strict=False)) and len(new) == len(old)


def _password_of(url: str) -> str | None:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return None


def _decode_base64(text: str) -> str:
    return base64.b64decode(text[: len(text) // 4 * 4]).decode("latin-1")


def _written_forms(value: str) -> Iterator[str]:
    """Yield the texts in which a value may appear: plain, by line, for URLs, in JSON, and in base64."""
    yield value
    yield from (line for line in map(str.strip, value.splitlines()) if _KEY_LINE.fullmatch(line))
    yield quote(value, safe="")
    yield quote(value)
    yield quote_plus(value)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    raw = value.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        for offset in range(3):
            # Three bytes are four characters. Leave out characters that also hold bits of a neighbour.
            text = encode(b"\0" * offset + raw).decode()
            start = (0, 2, 3)[offset]
            remainder = (offset + len(raw)) % 3
            yield text[start : len(text) - (0, 3, 2)[remainder]]
