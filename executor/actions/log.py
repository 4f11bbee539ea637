"""`log`: write a structured log line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.model.json_values import begin_json, to_text, write_json
from noetl.executor.model.large_json import is_large
from noetl.executor.security.redaction import redact, redact_cut_text, redacted_head
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

_MIN_FIELDS_LENGTH = 1024
"""The characters that the fields of a line may have in any case."""

_MAX_SEARCHED = 1024 * 1024
"""The characters of a large value that are searched for secrets. A secret has far fewer."""

DECLARATION = ActionDeclaration(
    type="log",
    description="Writes a structured log line of at most 16 KB.",
    parameters={
        "message": Parameter((Kind.ANY,), "The text of the line.", required=True),
        "level": Parameter(
            (Kind.STRING,), "The log level. Default: `info`.", choices=("debug", "info", "warning", "error")
        ),
        "fields": Parameter((Kind.OBJECT,), "Additional fields of the line, for programs that read it."),
    },
    cannot_fail=True,
    reads_only=True,
)


MAX_LINE_LENGTH = 16 * 1024
"""Limit of the characters of a line: its message and, as JSON, its fields."""


def perform(call: Call) -> None:
    level = call.parameters.get("level", "info").lower()
    message = _cut_message(call.parameters["message"])
    call.log(level, message, _cut_fields(call.parameters.get("fields", {}), MAX_LINE_LENGTH - len(message)))


def _cut(text: str, length: int) -> str:
    """Return a text without secrets, shortened to about `length` characters with a mark that says so.

    >>> _cut("abcdef", 3)
    'abc… (3 characters are left out)'
    """
    if len(text) <= length:
        return str(redact(text))
    return f"{redacted_head(text, length)}… ({len(text) - length:,} characters are left out)"


def _cut_message(message: Any) -> str:
    """Return the text of a message. Of a very large value, only the beginning is written as JSON."""
    beginning = None if isinstance(message, str | None) else _begin(message)
    return _cut(to_text(message), MAX_LINE_LENGTH) if beginning is None else beginning[:MAX_LINE_LENGTH] + "…"


def _begin(value: Any) -> str | None:
    """Return the beginning of the JSON of a very large value without secrets, or None for another value."""
    if not is_large(value, _MAX_SEARCHED):
        return None
    return redact_cut_text(begin_json(value, _MAX_SEARCHED))


def _cut_fields(fields: Mapping[str, Any], length: int) -> Mapping[str, Any]:
    """Return the fields without secrets. Fields that are too long become one field, with the cut text."""
    if (beginning := _begin(fields)) is not None:
        return {"cut": beginning[: max(length, _MIN_FIELDS_LENGTH)] + "…"}
    text = write_json(fields)
    if len(text) <= max(length, _MIN_FIELDS_LENGTH):
        return dict(redact(fields))
    return {"cut": _cut(text, max(length, _MIN_FIELDS_LENGTH))}
