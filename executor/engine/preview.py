"""Previews: the beginning of a value as text, for reports of failures.

Problem: a value may be large, deeply nested, or contain secrets, and a report must be short.

Algorithm: prune the value to its first parts, replace the secrets in them, and cut the JSON text. A text is
cut only after the replacement, because a part of a secret would not be found.

Cost: at most `_MAX_PARTS` parts and `_MAX_SEARCHED` characters of each preview, however large the value is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from noetl.executor.security.redaction import MASK, redact_for_storage
from noetl.executor.security.secret_sources import SecretReference
from noetl.planner.templates.functions import describe

MAX_PREVIEW = 160
"""How many characters a preview has at most."""

_MAX_PARTS = 40
_MAX_SEARCHED = 1 << 17
"""How many characters of a value are searched for secrets. A secret has at most half as many."""


def preview(value: Any, length: int = MAX_PREVIEW) -> str:
    """Return the first `length` characters of a value as JSON, without secrets.

    >>> preview({"units": 0, "tags": ["a"]}), preview([1, 2, 3], 6)
    ('{"units": 0, "tags": ["a"]}', '[1, 2…')
    """
    pruned = _Pruning().prune(value)
    text = json.dumps(redact_for_storage(pruned), ensure_ascii=False, default=describe)
    return text if len(text) <= length else text[: length - 1] + "…"


def cut(text: str, length: int) -> str:
    """Return the first `length` characters of a text, without secrets."""
    searched = text[:_MAX_SEARCHED]
    redacted = str(redact_for_storage(searched))
    if len(text) > len(searched) and redacted != searched:
        return MASK  # The search may have ended within another secret.
    return redacted if len(redacted) <= length else redacted[: length - 1] + "…"


class _Pruning:
    """The parts and characters that a preview may still have."""

    def __init__(self) -> None:
        self._parts = _MAX_PARTS
        self._characters = _MAX_SEARCHED

    def prune(self, value: Any) -> Any:
        """Return the first parts of a value. What is left out is `…`."""
        self._parts -= 1
        if isinstance(value, SecretReference):
            return MASK
        if isinstance(value, str):
            return self._prune_text(value)
        if isinstance(value, Mapping):
            kept: dict[str, Any] = {}
            for key, item in value.items():
                if self._parts <= 0:
                    return {**kept, "…": "…"}
                kept[self._prune_text(str(key))] = self.prune(item)
            return kept
        if isinstance(value, list | tuple):
            items: list[Any] = []
            for item in value:
                if self._parts <= 0:
                    return [*items, "…"]
                items.append(self.prune(item))
            return items
        return value

    def _prune_text(self, text: str) -> str:
        if len(text) <= self._characters:
            self._characters -= len(text)
            return text
        if self._characters < _MAX_SEARCHED:
            self._characters = 0
            return "…"
        self._characters = 0
        return cut(text, MAX_PREVIEW)
