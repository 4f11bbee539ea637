"""Redaction of log records, before any handler has them.

Problem: every handler has a formatter of its own. The operator, the server and libraries add handlers, and
none of their formatters knows which texts are secrets. Libraries also log what they send.

Algorithm: wrap the factory of log records of the process. The arguments of a record that has a secret are
redacted one by one, because some formatters need them. If a secret is still there, the text replaces message
and arguments. A traceback with a secret is kept as redacted text.

Cost: one search of the text of each record.

Limits: values of `extra` are added later, so the code that passes them redacts them.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from noetl.executor.security.redaction import redact, redacting_for


def redact_log_records() -> None:
    """Redact each log record that this process creates from now on. A second call changes nothing."""
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _RedactingFactory):
        logging.setLogRecordFactory(_RedactingFactory(factory))


class _RedactingFactory:
    """A factory of log records whose texts have no revealed secret."""

    def __init__(self, create: Any) -> None:
        self._create = create

    def __call__(self, *arguments: Any, **options: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._create(*arguments, **options)
        with redacting_for(None):
            _redact_message(record)
            _redact_traceback(record)
        return record


def _redact_message(record: logging.LogRecord) -> None:
    if not _has_secret(record):
        return
    record.msg, record.args = redact(str(record.msg)), _redacted_arguments(record.args)
    if _has_secret(record):
        # The secret is in the text of an object, or in several arguments together.
        record.msg, record.args = _redacted_text(record), ()


def _has_secret(record: logging.LogRecord) -> bool:
    text = _text_of(record)
    return text is None or redact(text) != text


def _redacted_text(record: logging.LogRecord) -> str:
    text = _text_of(record)
    return f"{redact(str(record.msg))} (its arguments do not fit)" if text is None else str(redact(text))


def _text_of(record: logging.LogRecord) -> str | None:
    """Return the text of a record, or None if its arguments do not fit. A handler would print them."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001  The text of an object is code of any library.
        return None


def _redacted_arguments(arguments: Any) -> Any:
    if isinstance(arguments, Mapping):
        return {name: redact(value) for name, value in arguments.items()}
    return tuple(map(redact, arguments or ()))


def _redact_traceback(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[0] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        redacted = redact(text)
        if redacted != text:
            record.exc_info, record.exc_text = None, redacted
    if record.stack_info:
        record.stack_info = redact(record.stack_info)
