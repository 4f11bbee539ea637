"""Secrets: where they come from, how they travel unseen, and how they are kept out of everything that is written.

A secret is known by its name until it is rendered into a parameter that may carry it. From then on its value is
remembered here, and `scrub` blots it out of whatever is stored, logged or returned.
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
"""Shorter values are not scrubbed: they would blot out text that only looks like them."""

_MOST_REMEMBERED = 1_000
_MOST_TOKENS = 100_000
_TOKEN_CHARACTERS = 48
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_TOKEN_CHARACTERS},}}")
_RUN = re.compile(rf"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{{{_TOKEN_CHARACTERS},}}")
"""What a token may be a part of, as it is or in base64."""
_STANDARD = str.maketrans("-_", "+/")
_KEY = re.compile(r"\S{16,}")
"""A line that is a secret by itself, as those of a key are, and not one that may stand in any file of its kind."""


class RevealedSecrets:
    """The values that have been revealed in this process, newest last; past the bound the oldest is forgotten."""

    def __init__(self, most: int = _MOST_REMEMBERED) -> None:
        self._most = most
        self._values: OrderedDict[str, None] = OrderedDict()
        self._pattern: re.Pattern[str] | None = None
        self._lock = Lock()

    def add(self, value: str) -> None:
        """Remember a value, and the password in it where it is an address."""
        values = [found for found in (value, _password(value)) if found and len(found) >= MIN_REDACTED_LENGTH]
        with self._lock:
            for found in values:
                if found not in self._values:
                    self._pattern = None
                self._values[found] = None
                self._values.move_to_end(found)
            while len(self._values) > self._most:
                self._values.popitem(last=False)
                self._pattern = None

    def redact(self, value: Any) -> Any:
        """`value` with every remembered value in it, plain or encoded, replaced by stars; itself where there is none."""
        pattern = self._compiled()
        return value if pattern is None else _scrub(value, lambda text: pattern.sub(MASK, text))

    def _compiled(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._pattern is None and self._values:
                forms = {form for value in self._values for form in _forms(value)}
                self._pattern = re.compile(
                    "|".join(map(re.escape, sorted(forms, key=lambda form: (-len(form), form))))
                )
            return self._pattern


class CallbackTokens:
    """Tokens that answer callbacks. There are as many as callbacks, and all look alike: whatever looks like one is looked up,
    so that it takes no longer to look for many of them. Past the bound the oldest is forgotten.
    """

    def __init__(self, most: int = _MOST_TOKENS) -> None:
        self._most = most
        self._known: OrderedDict[str, None] = OrderedDict()
        self._lock = Lock()

    def create(self) -> str:
        """Another one: random bytes in hexadecimal, without the dash that begins the options of a command."""
        token = token_hex(_TOKEN_CHARACTERS // 2)
        with self._lock:
            self._known[token] = None
            if len(self._known) > self._most:
                self._known.popitem(last=False)
        return token

    def redact(self, value: Any) -> Any:
        """`value` with every token in it, plain or in base64, replaced by stars; itself where there is none."""
        return _scrub(value, self._without) if self._known else value

    def _without(self, text: str) -> str:
        for run in set(_RUN.findall(text)):
            for token in self._in(run):
                text = text.replace(token, MASK)
            standard = run.translate(_STANDARD)
            # Three bytes are four characters: where the first of a token begins, the text does not say.
            if any(self._in(_unpacked(standard[offset:])) for offset in range(4)):
                text = text.replace(run, MASK)
        return text

    def _in(self, text: str) -> list[str]:
        pieces = (
            run[at : at + _TOKEN_CHARACTERS]
            for run in _HEXADECIMAL.findall(text)
            for at in range(len(run) - _TOKEN_CHARACTERS + 1)
        )
        return [piece for piece in pieces if piece in self._known]


def _unpacked(text: str) -> str:
    return base64.b64decode(text[: len(text) // 4 * 4]).decode("latin-1")


REVEALED_SECRETS = RevealedSecrets()
CALLBACK_TOKENS = CallbackTokens()
"""Tokens of this process. A playbook may log one, for somebody to answer with, and none is stored."""


def redact(value: Any) -> Any:
    """A plain value without any secret that this process has revealed. Values of less than 8 characters stay."""
    return REVEALED_SECRETS.redact(value)


def redact_for_storage(value: Any) -> Any:
    """A plain value as it may be stored: without secrets, and without tokens that answer callbacks."""
    return CALLBACK_TOKENS.redact(REVEALED_SECRETS.redact(value))


def redacted_tail(text: str, most: int) -> str:
    """The last `most` characters of a text without secrets: of one that was cut in two, a part would not be known again."""
    return str(redact(text))[-most:]


def redacted_head(text: str, most: int) -> str:
    """The first `most` characters of a text without secrets."""
    return str(redact(text))[:most]


def _scrub(value: Any, without: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return without(value)
    if isinstance(value, Mapping):
        scrubbed = {_scrub(key, without): _scrub(item, without) for key, item in value.items()}
        return value if _same(scrubbed.items(), value.items()) else scrubbed
    if isinstance(value, list | tuple):
        items = [_scrub(item, without) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if isinstance(value, int | float) and without(str(value)) == MASK:
        return MASK
    return value


def _same(new: Any, old: Any) -> bool:
    return all(a is c and b is d for (a, b), (c, d) in zip(new, old, strict=False)) and len(new) == len(old)


def _password(value: str) -> str | None:
    try:
        return unquote(urlsplit(value).password or "")
    except ValueError:
        return None


def _forms(value: str) -> Iterator[str]:
    """How a value may be written: as it is, line by line, for URLs, in JSON, in base64 at any offset."""
    yield value
    yield from (line for line in map(str.strip, value.splitlines()) if _KEY.fullmatch(line))
    yield quote(value, safe="")
    yield quote(value)
    yield quote_plus(value)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    raw = value.encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        yield encode(raw).decode()
        for offset in range(3):
            # Three bytes are four characters; those that also hold bits of a neighbour are left out.
            text = encode(b"\0" * offset + raw).decode()
            start = (0, 2, 3)[offset]
            rest = (offset + len(raw)) % 3
            yield text[start : len(text) - (0, 3, 2)[rest]]
