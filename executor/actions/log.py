"""`log`: write a structured log line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call
from noetl.executor.model.json_values import to_text, write_json
from noetl.executor.security.redaction import redact, redacted_head
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

_MIN_FIELDS_LENGTH = 1024
"""The characters that the fields of a line may have in any case."""

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
    message = _cut(to_text(call.parameters["message"]), MAX_LINE_LENGTH)
    call.log(level, message, _cut_fields(call.parameters.get("fields", {}), MAX_LINE_LENGTH - len(message)))


def _cut(text: str, length: int) -> str:
    """Return a text without secrets, shortened to about `length` characters with a mark that says so.

    >>> _cut("abcdef", 3)
    'abc… (3 characters are left out)'
    """
    if len(text) <= length:
        return str(redact(text))
    return f"{redacted_head(text, length)}… ({len(text) - length:,} characters are left out)"


def _cut_fields(fields: Mapping[str, Any], length: int) -> Mapping[str, Any]:
    """Return the fields without secrets. Fields that are too long become one field, with the cut text."""
    text = write_json(fields)
    if len(text) <= max(length, _MIN_FIELDS_LENGTH):
        return dict(redact(fields))
    return {"cut": _cut(text, max(length, _MIN_FIELDS_LENGTH))}
