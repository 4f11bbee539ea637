"""What services write to stderr: a line of JSON for each thing that happens."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from noetl.executor.model.events import timestamp

LOG_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("ABOUT", default={})  # noqa: B039  Nobody changes it.
"""What the lines of a thread are about, where their writers do not say more."""


def log_as_json_lines() -> None:
    """From now on this process logs so: where it does already, or to stderr."""
    root = logging.getLogger()
    for handler in root.handlers or [logging.StreamHandler()]:
        # Where there is no terminator, as in Lambda, lines end only where their text does.
        handler.setFormatter(_JsonLines("" if hasattr(handler, "terminator") else "\n"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    """A record as one line of JSON, in which nothing is left that a terminal would obey."""

    def __init__(self, end: str = "") -> None:
        super().__init__()
        self._end = end

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
        return json.dumps(line, default=str) + self._end


def _whose(record: logging.LogRecord) -> dict[str, Any]:
    """The run, step and trace that a line is about."""
    labels = getattr(record, "labels", None)
    named = {"workflow_id": "run", "step": "step", "visit": "visit", "trace_id": "trace"}
    own = {} if labels is None else {name: labels[label] for name, label in named.items() if label in labels}
    return {**LOG_CONTEXT.get(), **own}
