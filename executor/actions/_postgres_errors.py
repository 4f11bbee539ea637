"""Failures of statements: what the server says, with the SQLSTATE, the statement, and the place in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.security.redaction import redacted_head

if TYPE_CHECKING:
    import psycopg

_RETRYABLE_SQLSTATES = ("08", "25P03", "25P04", "40", "53", "57P", "58", "55P03", "55006")
"""SQLSTATEs, or their first characters, of temporary errors.

Lost connection, session that was idle or a transaction that was open for too long, serialization failure and
deadlock, missing resources, shutdown, system error, locks.
"""

_QUERY_CANCELED = "57014"
_PROTOCOL_VIOLATION = "08P01"
"""SQLSTATE of most errors of PgBouncer, temporary ones included."""

_NO_TRANSACTIONS = "transaction blocks not allowed"
"""Part of the message of PgBouncer when it pools by statement."""

_PLACEHOLDER = re.compile(r"%(?:%|s|\(([^)]*)\)s)")
_MAX_STATEMENT = 500
"""How many characters of a statement an error keeps."""
_MAX_DETAIL = 500


@contextmanager
def naming_statement(text: str, *, has_values: bool) -> Iterator[None]:
    """Add the text of the statement, as the server knows it, to an error of this block."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        error.add_note(_text_of_server(text) if has_values else text)
        raise


def _text_of_server(text: str) -> str:
    """Return a statement as psycopg sends it: with numbers instead of placeholders.

    >>> _text_of_server("select %(a)s, %(b)s, %(a)s, 5 %% 2")
    'select $1, $2, $1, 5 % 2'
    """
    numbers: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        name = match[1] if match[1] is not None else f"%{len(numbers)}"
        return f"${numbers.setdefault(name, len(numbers) + 1)}"

    return _PLACEHOLDER.sub(number, text)


def translate_error(error: psycopg.Error, call: Call) -> ActionError:
    """Return the failure of an action for an error of psycopg."""
    import psycopg

    sqlstate = error.sqlstate
    message = error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__
    if sqlstate == _QUERY_CANCELED or sqlstate is None:
        call.remaining_seconds()
    if sqlstate is None and isinstance(error, psycopg.OperationalError):
        return ActionError(
            "ConnectionFailed", f"the connection was lost: {message}", details={"sqlstate": None}
        )
    details = _details_of(error)
    if sqlstate == _PROTOCOL_VIOLATION and _NO_TRANSACTIONS in message:
        advice = "use one statement, or a pool of transactions"
        message = f"the pooler gives each statement another session ({message}): {advice}"
        return ActionError("SQLError", message, retryable=False, details=details)
    is_temporary = sqlstate is not None and sqlstate.startswith(_RETRYABLE_SQLSTATES)
    retryable = is_temporary and sqlstate != _QUERY_CANCELED
    detail = f": {details['detail']}" if "detail" in details else ""
    facts = [f"SQLSTATE {sqlstate}"] if sqlstate else []
    if "line" in details:
        facts.append(f"line {details['line']}, column {details['column']} of the statement")
    place = f" ({', '.join(facts)})" if facts else ""
    return ActionError("SQLError", f"{message}{detail}{place}", retryable=retryable, details=details)


def _details_of(error: psycopg.Error) -> dict[str, Any]:
    """Return the SQLSTATE, and what else is known: detail, hint, statement, and the line and column in it."""
    details: dict[str, Any] = {"sqlstate": error.sqlstate}
    for name, text in (("detail", error.diag.message_detail), ("hint", error.diag.message_hint)):
        if text:
            details[name] = redacted_head(" ".join(text.split()), _MAX_DETAIL)
    statement = next(iter(getattr(error, "__notes__", ())), None)
    if statement is None:
        return details
    details["statement"] = redacted_head(statement.strip(), _MAX_STATEMENT)
    position = error.diag.statement_position
    if position is not None:
        before = statement.lstrip()[: max(int(position) - 1 - _leading_blanks(statement), 0)]
        details["line"] = before.count("\n") + 1
        details["column"] = len(before) - (before.rfind("\n") + 1) + 1
    return details


def _leading_blanks(text: str) -> int:
    return len(text) - len(text.lstrip())
