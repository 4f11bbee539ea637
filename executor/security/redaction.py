"""Redaction: keep the values of secrets out of everything that is stored, logged or returned.

Problem: a playbook may print, save or return the value of a secret, as it is or in another encoding. A server
may send it back. What is searched may be large or deeply nested, and other threads must not wait.

Algorithm: remember each revealed value, and its tenant. Search its written forms in each layer of escapes of
a text (`noetl.executor.security.encodings`) with one automaton, and replace what was found by `***`. The
texts of a nested value are first searched together, in batches: most values have no secret and are returned.
If only the beginning of a text is needed, a part that is a little longer is searched. A secret that begins
there ends in this part, since it is shorter than what follows the beginning, in each layer of escapes.
Source: Aho and Corasick 1975; the masking of secrets in the logs of GitHub Actions. Callback tokens are too
many for an automaton: find the runs of characters that look like a token, and search them in a set.

What belongs to a tenant (`redacting_for`) is searched for the secrets of this tenant only. Otherwise a tenant
would see by a mask that it has guessed the secret of another one, or the password of the store. All secrets
are searched in the rest, such as a log.

Cost: linear in the text, whatever the number of secrets. The search does not hold the lock of the
interpreter. There is an automaton for each tenant with secrets, which is built again after a new one.

Limits: values shorter than `MIN_REDACTED_LENGTH` are not replaced; a service does not reveal them. The oldest
values are forgotten after 10,000 secrets of a tenant and 100,000 tokens. Parts of a value are not found.
"""

from __future__ import annotations

import base64
import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from secrets import token_hex
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from noetl.executor.security.encodings import (
    MAX_LAYERS,
    Positions,
    Span,
    join_lines,
    join_lines_with_positions,
    may_have_escapes,
    to_canonical,
    to_canonical_with_positions,
    undo_all,
    undo_escapes_with_positions,
    written_forms,
)

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

MASK = "***"
MIN_REDACTED_LENGTH = 8
"""Shorter values are not redacted: they would also match unrelated text."""

_MAX_SECRETS = 10_000
_MAX_TOKENS = 100_000
_TOKEN_LENGTH = 48
_TOKEN_REACH = 8 * _TOKEN_LENGTH
"""How many characters around the end of a head are searched for tokens. A token may be in base64."""
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{_TOKEN_LENGTH},}}")
_TOKEN_CANDIDATE = re.compile(rf"[A-Za-z0-9+/_-]{{{_TOKEN_LENGTH},}}")
"""A run of characters that may contain a token, as it is or in base64."""
PART_CHARACTERS = 64 * 1024
"""How many characters are searched for tokens at once. Between the parts, other threads may run."""
_STANDARD_BASE64 = str.maketrans("-_", "+/")
_KEY_LINE = re.compile(r"\S{16,}")
"""A line of a multi-line secret that is a secret by itself, such as a line of a private key."""
_BATCH_CHARACTERS = 1024 * 1024
_SEPARATOR = "\0\1"
_MAX_NUMBER_BITS = 1024
_TENANT: ContextVar[str | None] = ContextVar("noetl_redaction_tenant", default=None)
_MAX_BROKEN_ESCAPES = 512
"""More than the bytes of all escapes that the ends of a part of a text break in two: one an end and layer."""


class _SecretSearch:
    """The search for the forms of some secrets in texts."""

    def __init__(self, values: tuple[str, ...]) -> None:
        from ahocorasick_rs import BytesAhoCorasick

        forms = [written_forms(value) for value in values]
        encoded = {form for _, encoded_forms in forms for form in encoded_forms}
        plain = {form for plain_forms, _ in forms for form in plain_forms}
        self._numbers = frozenset(value for value in values if value[-1].isdigit())
        self._longest = max(map(len, (*plain, *encoded)))
        self._plain: BytesAhoCorasick = BytesAhoCorasick([*plain])
        self._encoded: BytesAhoCorasick = BytesAhoCorasick([*encoded])

    def finds_any(self, text: str) -> bool:
        """Return whether the text has a secret in any layer."""
        layers = enumerate(undo_all(_to_bytes(text)))
        return any(self._find(data, is_undone=layer > 0) for layer, data in layers)

    @property
    def reach(self) -> int:
        """The number of characters after a place that are searched for secrets that begin before it."""
        return 3 * (self._longest + _MAX_BROKEN_ESCAPES)

    def finds_none_before(self, text: str, place: int) -> bool:
        """Return whether no secret begins before a place, as far as the start of the text shows it.

        A secret that begins there and ends after the searched part would have more than its length between
        both, in each layer. Escapes that the ends of a part break in two count for more than they are.
        """
        part = text[: place + self.reach]
        after = _to_bytes(part[place:])
        least = self._longest + _MAX_BROKEN_ESCAPES
        if len(part) == place + self.reach and any(
            len(join_lines(to_canonical(layer))) < least for layer in undo_all(after)
        ):
            return False
        return not self.finds_any(part)

    def redact_text(self, text: str) -> str:
        """Return the text with each secret replaced by the mask."""
        data = _to_bytes(text)
        spans = sorted(self._spans(data))
        if not spans:
            return text
        parts: list[bytes] = []
        end = 0
        for start, stop in _merge(spans):
            parts += (data[end:start], MASK.encode())
            end = stop
        return b"".join((*parts, data[end:])).decode("utf-8", "surrogatepass")

    def redact_number(self, number: float) -> Any:
        """Return a number, or the mask if its text is a secret."""
        if not self._numbers or (isinstance(number, int) and number.bit_length() > _MAX_NUMBER_BITS):
            return number
        return MASK if str(number) in self._numbers else number

    def _find(self, data: bytes, *, is_undone: bool) -> bool:
        return (
            self._has_form(data)
            or ((is_undone or b"\\" in data) and self._has_form(to_canonical(data)))
            or bool(self._encoded.find_matches_as_indexes(join_lines(data)))
        )

    def _has_form(self, data: bytes) -> bool:
        automata = (self._plain, self._encoded)
        return any(automaton.find_matches_as_indexes(data) for automaton in automata)

    def _spans(self, data: bytes) -> Iterator[Span]:
        """Yield the parts of the text that a secret in any of its layers covers."""
        positions: tuple[Positions, ...] = ()
        for _ in range(MAX_LAYERS + 1):
            yield from self._locate(data, positions)
            if self._has_form(to_canonical(data)):
                canonical, canonical_positions = to_canonical_with_positions(data)
                yield from self._locate(canonical, (*positions, canonical_positions))
            if self._encoded.find_matches_as_indexes(join_lines(data)):
                joined, joined_positions = join_lines_with_positions(data)
                yield from _locate_all(self._encoded, joined, (*positions, joined_positions))
            if not may_have_escapes(data):
                return
            undone, layer_positions = undo_escapes_with_positions(data)
            if undone == data:
                return
            data, positions = undone, (*positions, layer_positions)

    def _locate(self, layer: bytes, positions: tuple[Positions, ...]) -> Iterator[Span]:
        for automaton in (self._plain, self._encoded):
            yield from _locate_all(automaton, layer, positions)


@contextmanager
def redacting_for(tenant: str | None) -> Iterator[None]:
    """Let this block redact what belongs to one tenant: only its secrets are searched.

    None searches all secrets again, also those of no tenant.
    """
    token = _TENANT.set(tenant)
    try:
        yield
    finally:
        _TENANT.reset(token)


class RevealedSecrets:
    """The secret values that this process has revealed. Each belongs to a tenant, or to none.

    Of the values of each tenant, the oldest is forgotten past the limit.
    """

    def __init__(self, limit: int = _MAX_SECRETS) -> None:
        self._limit = limit
        self._values = defaultdict[str | None, OrderedDict[str, None]](OrderedDict)
        """The values of each tenant, and under None those of no tenant, newest last."""
        self._searches: dict[str | None, _SecretSearch | None] = {}
        """The search for the values of each tenant, and under None that for all values."""
        self._changes: Counter[str | None] = Counter()
        """How often the values of each tenant have changed."""
        # A thread may log while it holds a lock, if it collects garbage there.
        self._lock = RLock()
        self._building = RLock()
        """Held while a search is built, which may take seconds. Searches that exist are used meanwhile."""

    def add(self, value: str, tenant: str | None = None) -> None:
        """Remember a value, each long line of it, and the password if it is a URL."""
        lines = (line for line in map(str.strip, value.splitlines()) if _KEY_LINE.fullmatch(line))
        secrets = [
            secret
            for secret in (value, _password_of(value), *lines)
            if secret and len(secret) >= MIN_REDACTED_LENGTH
        ]
        if not secrets:
            return
        with self._lock:
            values = self._values[tenant]
            is_new = any(secret not in values for secret in secrets)
            for secret in secrets:
                values[secret] = None
                values.move_to_end(secret)
            while len(values) > self._limit:
                values.popitem(last=False)
            if is_new:
                self._changes[tenant] += 1
                self._searches.pop(None, None)
                self._searches.pop(tenant, None)

    @property
    def reach(self) -> int:
        """The number of characters that `find_clean_head` searches after the head of a text."""
        search = self._find_search()
        return 0 if search is None else search.reach

    def find_clean_head(self, text: str, length: int) -> str | None:
        """Return the first `length` characters of a text if no secret begins in them, else None.

        Of the text, only `length` characters and its `reach` are read. None is also returned if these do not
        suffice to know it, because they have many escapes or blanks.
        """
        search = self._find_search()
        return text[:length] if search is None or search.finds_none_before(text, length) else None

    def redact(self, value: Any) -> Any:
        """Return `value` with each remembered secret, plain or encoded, replaced by the mask.

        Return the same object if it contains none.
        """
        search = self._find_search()
        if search is None or not _is_suspicious(search, value):
            return value
        return _map_leaves(value, search.redact_text, search.redact_number)

    def _find_search(self) -> _SecretSearch | None:
        """Return the search for the secrets of the tenant of this block, or None if there are none."""
        tenant = _TENANT.get()
        with self._lock:
            if tenant is not None and tenant not in self._values:
                return None
            if tenant in self._searches:
                return self._searches[tenant]
        with self._building:
            with self._lock:
                if tenant in self._searches:
                    return self._searches[tenant]
                changes = self._count_changes(tenant)
                owners = self._values if tenant is None else (tenant,)
                values = {value for owner in owners for value in self._values[owner]}
            search = _SecretSearch(tuple(values)) if values else None
            with self._lock:
                if self._count_changes(tenant) == changes:
                    self._searches[tenant] = search
            return search

    def _count_changes(self, tenant: str | None) -> int:
        return self._changes.total() if tenant is None else self._changes[tenant]


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
        return _map_leaves(value, self._redact_text, _unchanged) if self._tokens else value

    def _redact_text(self, text: str) -> str:
        spans = [
            span for start in range(0, len(text), PART_CHARACTERS) for span in self._find_spans(text, start)
        ]
        if not spans:
            return text
        parts: list[str] = []
        end = 0
        for start, stop in _merge(sorted(spans)):
            parts += (text[end:start], MASK)
            end = stop
        return "".join((*parts, text[end:]))

    def _find_spans(self, text: str, start: int) -> Iterator[Span]:
        """Yield the spans of tokens that begin in a part of a text, and those of base64 that contains one."""
        for found in _TOKEN_CANDIDATE.finditer(text, start, start + PART_CHARACTERS + _TOKEN_REACH):
            candidate, begin = found[0], found.start()
            standard = candidate.translate(_STANDARD_BASE64)
            # Four base64 characters are three bytes, and the token may start at any of the four characters.
            decoded = (_decode_base64(standard[offset:]) for offset in range(4))
            if any(True for part in decoded for _ in self._find_tokens(part)):
                yield begin, found.end()
                continue
            for place in self._find_tokens(candidate):
                yield begin + place, begin + place + _TOKEN_LENGTH

    def _find_tokens(self, text: str) -> Iterator[int]:
        """Yield where tokens begin in a text."""
        for run in _HEXADECIMAL.finditer(text):
            for place in range(run.start(), run.end() - _TOKEN_LENGTH + 1):
                if text[place : place + _TOKEN_LENGTH] in self._tokens:
                    yield place


REVEALED_SECRETS = RevealedSecrets()
CALLBACK_TOKENS = CallbackTokens()
"""The tokens of this process. A playbook may log a token, so that someone can use it, but none is stored."""


def redact(value: Any) -> Any:
    """Return a JSON value without the secrets that this process has revealed (see `redacting_for`).

    Secrets of less than `MIN_REDACTED_LENGTH` characters stay.
    """
    return REVEALED_SECRETS.redact(value)


def redact_for_storage(value: Any) -> Any:
    """Return a JSON value without revealed secrets and without callback tokens."""
    return CALLBACK_TOKENS.redact(REVEALED_SECRETS.redact(value))


def redact_cut_text(text: str) -> str:
    """Return the beginning of a longer text without secrets, for a reader that takes the first half at most.

    A secret that the end of the text cuts is not found. Masks must not move it into what is taken.
    """
    redacted = str(redact(text))
    return redacted if len(redacted) > len(text) // 2 else MASK


def redacted_tail(text: str, length: int) -> str:
    """Return the last `length` characters of the redacted text.

    Redact first: a secret that is cut in two would not be found.
    """
    return str(redact(text))[-length:]


def redacted_head(text: str, length: int) -> str:
    """Return the first `length` characters of the redacted text, without a part of a callback token.

    If a short part of the text shows that no secret begins in them, the rest is not searched.
    """
    head = REVEALED_SECRETS.find_clean_head(text, length)
    if head is None:
        text = str(redact(text))
        head = text[:length]
    start = max(length - _TOKEN_REACH, 0)
    end = text[start : length + _TOKEN_REACH]
    masked = CALLBACK_TOKENS.redact(end)
    # A token that is cut in two would be found neither here nor when the head is stored.
    return head if masked is end else head[:start] + masked[: length - start]


def head_reach() -> int:
    """Return how many characters after a head `redacted_head` reads, unless it has to search all."""
    return max(REVEALED_SECRETS.reach, _TOKEN_REACH)


def _unchanged(number: float) -> Any:
    return number


def _is_suspicious(search: _SecretSearch, value: Any) -> bool:
    """Return whether a value may have a secret: its texts are searched together, in batches."""
    batch: list[str] = []
    characters = 0
    for leaf in _leaves(value):
        if isinstance(leaf, str):
            batch.append(leaf)
            characters += len(leaf)
        elif search.redact_number(leaf) is not leaf:
            return True
        if characters > _BATCH_CHARACTERS:
            if search.finds_any(_SEPARATOR.join(batch)):
                return True
            batch, characters = [], 0
    return search.finds_any(_SEPARATOR.join(batch))


def _leaves(value: Any) -> Iterator[str | int | float]:
    """Yield the texts and numbers of a nested value, and its keys."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str | int | float):
            yield item
        elif isinstance(item, Mapping):
            pending += item.keys()
            pending += item.values()
        elif isinstance(item, list | tuple):
            pending += item


def _map_leaves(value: Any, map_text: Callable[[str], str], map_number: Callable[[float], Any]) -> Any:
    """Return a nested value with each text and number mapped. What has no change is the same object.

    It uses no recursion, so the depth does not matter.
    """

    def map_leaf(leaf: Any) -> Any:
        if isinstance(leaf, str):
            mapped = map_text(leaf)
            return leaf if mapped == leaf else mapped
        return map_number(leaf) if isinstance(leaf, int | float) else leaf

    # Each frame: a container, its parts that are not mapped yet (the last first), and its mapped parts.
    root: list[Any] = [value]
    frames: list[tuple[Any, list[Any], list[Any]]] = [(root, [value], [])]
    while True:
        container, pending, mapped = frames[-1]
        if pending:
            part = pending.pop()
            if isinstance(part, Mapping | list | tuple):
                frames.append((part, _parts(part), []))
            else:
                mapped.append(map_leaf(part))
            continue
        frames.pop()
        if container is root:
            return mapped[0]
        frames[-1][2].append(_assemble(container, mapped))


def _parts(container: Any) -> list[Any]:
    """Return the items of a container in reverse order; of a mapping, its values after its keys."""
    parts = [*container, *container.values()] if isinstance(container, Mapping) else list(container)
    parts.reverse()
    return parts


def _assemble(container: Any, mapped: list[Any]) -> Any:
    """Return a container of mapped parts, or the old one if no part is new."""
    if isinstance(container, Mapping):
        count = len(container)
        keys, values = mapped[:count], mapped[count:]
        is_same = all(map(_is_same, keys, container)) and all(map(_is_same, values, container.values()))
        return container if is_same else dict(zip(keys, values, strict=True))
    return container if all(map(_is_same, mapped, container)) else mapped


def _is_same(new: Any, old: Any) -> bool:
    return new is old


def _locate_all(
    automaton: BytesAhoCorasick, layer: bytes, positions: tuple[Positions, ...]
) -> Iterator[Span]:
    """Yield the parts of the text whose layer has a form of the automaton."""
    matches = ((start, end) for _, start, end in automaton.find_matches_as_indexes(layer, overlapping=True))
    for start, end in _merge(sorted(matches)):
        span = (start, end)
        for layer_positions in reversed(positions):
            span = layer_positions.locate(span)
        yield span


def _merge(spans: list[Span]) -> Iterator[Span]:
    """Yield sorted spans, those that overlap as one.

    >>> list(_merge([(0, 3), (2, 5), (5, 6)]))
    [(0, 5), (5, 6)]
    """
    current: Span | None = None
    for span in spans:
        if current is not None and span[0] < current[1]:
            current = (current[0], max(current[1], span[1]))
            continue
        if current is not None:
            yield current
        current = span
    if current is not None:
        yield current


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _password_of(url: str) -> str | None:
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return None


def _decode_base64(text: str) -> str:
    # A last group of two or three characters has one or two bytes. One character has none.
    text = text[:-1] if len(text) % 4 == 1 else text
    return base64.b64decode(text + "=" * (-len(text) % 4)).decode("latin-1")
