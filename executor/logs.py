"""What services write to stderr: a line of JSON for each thing that happens."""

from __future__ import annotations

import json
import logging
from typing import Any

from executor.records import timestamp


def log_as_json_lines() -> None:
    """From now on this process logs so."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class _JsonLines(logging.Formatter):
    """A record as one line of JSON, in which nothing is left that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_whose(record),
            "fields": getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _whose(record: logging.LogRecord) -> dict[str, Any]:
    """The run and step that a playbook's own line comes from."""
    labels = getattr(record, "labels", None)
    return {} if labels is None else {"workflow_id": labels["run"], "step": labels["step"], "visit": labels["visit"]}
