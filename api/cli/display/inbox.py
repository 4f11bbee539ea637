"""A question of the inbox as lines of text, with the command that answers it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.model.json_values import write_json
from noetl.planner.diagnostics.terminal_text import to_printable

_ID_LENGTH = 8
_MAX_LENGTH = 500


def format_entry(entry: Mapping[str, Any]) -> str:
    """Return the lines about a question. `entry` is an item of the response to `GET /inbox`."""
    until = "" if entry["expires_at"] is None else f"  until {entry['expires_at'][:19]}Z"
    run = f"{to_printable(entry['playbook'])}  {entry['workflow_id'][:_ID_LENGTH]}"
    lines = [f"{run}  {to_printable(entry['step'])}{until}"]
    if entry.get("title"):
        lines.append(f"  {_shorten(entry['title'])}")
    if entry.get("details") is not None:
        lines.append(f"  details: {_shorten(write_json(entry['details']))}")
    for name, field in (entry.get("answer") or {}).items():
        lines.append(f"  answer.{to_printable(name)}: {field['type']}")
    for case in entry["cases"]:
        targets = ", ".join(map(to_printable, case["targets"])) or "end"
        lines.append(f"  {_shorten(case['guard'] or 'default')} → {targets}")
    return "".join(f"{line}\n" for line in lines)


def _shorten(text: str) -> str:
    printable = to_printable(text)
    return printable if len(printable) <= _MAX_LENGTH else f"{printable[:_MAX_LENGTH]}…"
