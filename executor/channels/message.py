"""The message of a notification: what a receiver reads, for programs and for people.

The data are those of the entry of the outbox, so a message is the same in each attempt.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from noetl.executor.model.events import timestamp
from noetl.executor.model.outbox import OutboxEntry
from noetl.planner.frozen import frozen

_WORDS = {
    "succeeded": "has succeeded",
    "completed_with_errors": "has completed with errors",
    "failed": "has failed",
    "timed_out": "has timed out",
    "cancelled": "was cancelled",
}


@frozen
class Message:
    """A notification as it is sent: the id that all its attempts have, and its content."""

    id: str
    type: str
    body: dict[str, Any]
    text: str


def make_message(entry: OutboxEntry, public_url: str | None) -> Message:
    """Return the message of a notification. `public_url` is the address of the service, if it is known."""
    record = entry.record
    link = None if public_url is None else f"{public_url.rstrip('/')}/ui/runs/{quote(record['run_id'])}"
    event_type = "test" if record["event"] == "test" else f"run.{record['event']}"
    data = {
        "tenant": entry.tenant,
        "workflow_id": record["run_id"],
        "playbook": record["playbook"],
        "version": record["version"],
        "status": record["status"],
        "error": record.get("error"),
        "url": link,
    }
    body = {"type": event_type, "timestamp": timestamp(entry.created_at), "data": data}
    return Message(f"msg_{entry.id}", event_type, body, _text(entry, link))


def _text(entry: OutboxEntry, link: str | None) -> str:
    """Return the message in one or two lines for people."""
    record = entry.record
    if record["event"] == "test":
        return "This is a test of NoETL. The channel works."
    words = "is late" if record["event"] == "late" else _WORDS[record["status"]]
    text = f"{record['playbook']} {words} (run {record['run_id'][:8]})"
    if error := record.get("error"):
        place = f" in {error['step']}" if error["step"] else ""
        text += f": {error['type']}{place}: {error['message']}"
    return f"{text}\n{link}" if link else text
