"""The logs of services on stderr: one line of JSON for each log record."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from noetl.executor.model.events import timestamp
from noetl.executor.runtime.repeat_limit import RepeatLimit
from noetl.executor.security.redaction import redact, redacting_for

LOG_CONTEXT: ContextVar[Mapping[str, Any]] = ContextVar("LOG_CONTEXT", default={})  # noqa: B039
"""Fields for the log lines of the current thread: run, step and request. Labels of a record replace them."""


def log_as_json_lines() -> None:
    """Write the logs of this process as JSON lines, with the existing handlers or else to stderr.

    A fault that is repeated has a few lines a minute.
    """
    root = logging.getLogger()
    for handler in root.handlers or [logging.StreamHandler()]:
        # A handler without a terminator, as in Lambda, ends a line only where its text does.
        handler.setFormatter(_JsonLines("" if hasattr(handler, "terminator") else "\n"))
        if not any(isinstance(limit, RepeatLimit) for limit in handler.filters):
            handler.addFilter(RepeatLimit())
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("botocore").setLevel(logging.WARNING)


class _JsonLines(logging.Formatter):
    """A formatter that writes a record as one line of JSON, without control characters for a terminal."""

    def __init__(self, end: str = "") -> None:
        super().__init__()
        self._end = end

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_run_fields(record),
            "fields": getattr(record, "fields", {}),
        }
        if left_out := getattr(record, "left_out", 0):
            line["left_out"] = left_out
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["error"] = record.exc_text
        with redacting_for(None):  # A log is that of all tenants.
            return str(redact(json.dumps(redact(line), default=str))) + self._end


def _run_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of the run, step and trace that a record is about."""
    labels = getattr(record, "labels", None)
    labels = {} if labels is None else labels
    names = {"workflow_id": "run", "step": "step", "visit": "visit"}
    fields = {name: labels[label] for name, label in names.items() if label in labels}
    fields |= {name: labels[name] for name in ("trace_id", "trace_flags", "trace_state") if name in labels}
    return {**LOG_CONTEXT.get(), **fields}
