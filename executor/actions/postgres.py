"""`postgres`: statements of SQL. Values of templates travel beside the text, never in it.

A list of nothing but texts, numbers or booleans is bound as an array, any other list and every object as jsonb.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from executor.actions.action import Call
from executor.errors import ActionError
from executor.sql import Bind, Identifier, Sql
from planner.catalogue import ActionDeclaration, Kind, Parameter, Sink

if TYPE_CHECKING:
    import psycopg

    from executor.actions._connections import Connection

DECLARATION = ActionDeclaration(
    type="postgres",
    description="Runs one statement, or a list of them in one transaction. Of a list, the last one's result is given.",
    parameters={
        "connection": Parameter(
            (Kind.STRING,), "The server, as a URL or as `key=value` words.", required=True, secrets=True
        ),
        "query": Parameter((Kind.STRING, Kind.ARRAY), "A statement or a list of them.", sink=Sink.SQL),
        "params": Parameter(
            (Kind.OBJECT, Kind.ARRAY),
            "Values of `%(name)s` or `%s`. Where it is given, a percent sign is written `%%`.",
            requires=("query",),
        ),
        "fetch": Parameter(
            (Kind.STRING,),
            "`all` unless given: `{rows, rowcount}`. `one`: the first row. `value`: its first column. `none`: no rows.",
            choices=("all", "one", "value", "none"),
            requires=("query",),
        ),
        "rows": Parameter((Kind.ARRAY,), "Objects to run the statement for.", requires=("query",), supported=False),
        "copy_from": Parameter((Kind.OBJECT,), "`{table, file}`: a CSV file to load.", supported=False),
        "copy_to": Parameter((Kind.OBJECT,), "`{query, file}`: a CSV file to write.", supported=False),
    },
    one_of=("query", "copy_from", "copy_to"),
    idempotent=False,
)

_WORTH_REPEATING = ("08", "40", "53", "57P", "58", "55P03", "55006")
"""SQLSTATEs, or how they begin: connection lost, serialisation and deadlock, no resources, shutdown, system, locks."""

_TEMPLATE = "noetl_{}"


def perform(call: Call) -> Any:
    try:
        import psycopg
    except ImportError:
        message = "`postgres` needs the package psycopg: pip install noetl[postgres]"
        raise ActionError("ActionDisabled", message, retryable=False) from None
    from executor.actions._connections import CONNECTIONS

    query = call.parameters["query"]
    statements = [
        _statement(text, call.parameters.get("params")) for text in (query if isinstance(query, list) else [query])
    ]
    if not statements:
        raise _wrong("`query` is an empty list")
    if len(statements) > 1 and isinstance(call.parameters.get("params"), list):
        raise _wrong("`params` is a list, which only one statement can take: give an object")
    try:
        with CONNECTIONS.lend(call.parameters["connection"], call) as connection:
            # One statement stands outside of a transaction, for those that must, such as `vacuum`.
            with connection.transaction() if isinstance(query, list) else nullcontext():
                for text, values in statements:
                    cursor = _execute(connection, text, values, call)
            return _result(cursor, call.parameters.get("fetch", "all"))
    except psycopg.Error as error:
        raise _failed(error, call) from error


def _statement(query: Any, params: Any) -> tuple[str, Any]:
    """A statement as psycopg takes it: text with placeholders, and their values or None."""
    if isinstance(query, str):
        query = Sql((query,))
    if not isinstance(query, Sql):
        raise _wrong("`query` must be text, or a list of texts")
    binds = [part.value for part in query.parts if isinstance(part, Bind)]
    if params is None:
        # Without values psycopg leaves percent signs alone; with any, they are doubled.
        escape = (lambda text: text.replace("%", "%%")) if binds else (lambda text: text)
        return _assembled(query, escape, escape, "%s"), [_bound(value) for value in binds] if binds else None
    if not binds:
        return _assembled(query, str, _doubled, ""), _bound_all(params)
    if isinstance(params, list):
        raise _wrong("`params` is a list, which cannot be told from the templates in `query`: give an object")
    if taken := [name for name in params if name.startswith(_TEMPLATE.format(""))]:
        raise _wrong(f"`params`: {taken[0]!r} is a name that templates use")
    named = {_TEMPLATE.format(at): value for at, value in enumerate(binds)}
    return _assembled(query, str, _doubled, f"%({_TEMPLATE})s"), _bound_all({**params, **named})


def _assembled(query: Sql, text_form: Any, name_form: Any, placeholder: str) -> str:
    pieces: list[str] = []
    count = 0
    for part in query.parts:
        if isinstance(part, Bind):
            pieces.append(placeholder.format(count))
            count += 1
        elif isinstance(part, Identifier):
            if not part.name or "\0" in part.name:
                raise _wrong(f"`query`: {part.name!r} cannot be an identifier")
            pieces.append(name_form(part.quoted))
        else:
            pieces.append(text_form(part))
    return "".join(pieces)


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def _bound_all(params: Any) -> Any:
    if isinstance(params, Mapping):
        return {name: _bound(value) for name, value in params.items()}
    return [_bound(value) for value in params]


def _bound(value: Any) -> Any:
    from psycopg.types.json import Jsonb

    if not isinstance(value, dict | list):
        return value
    kinds = {_kind(item) for item in value if item is not None} if isinstance(value, list) else {None}
    if kinds <= {int, float} and len(kinds) == 2:
        # An array has one type, and a float cannot be every integer.
        return [None if item is None else Decimal(repr(item)) for item in value]
    return value if len(kinds) <= 1 and kinds <= {bool, int, float, str} else Jsonb(value)


def _kind(item: Any) -> type | None:
    """The type of what an array can hold, texts of every kind being one, or None."""
    return next((kind for kind in (bool, int, float, str) if isinstance(item, kind)), None)


def _execute(connection: Connection, text: str, values: Any, call: Call) -> psycopg.Cursor[dict[str, Any]]:
    milliseconds = max(min(math.ceil(call.remaining_seconds() * 1000), 2**31 - 1), 1)
    connection.execute(f"set statement_timeout = {milliseconds}")
    # The text is the author's: the types ask for a literal, which it is not.
    return connection.execute(text.encode(), values)


def _result(cursor: psycopg.Cursor[dict[str, Any]], fetch: str) -> Any:
    has_rows = cursor.description is not None
    if fetch in ("all", "none"):
        rows = [_row(row) for row in cursor] if has_rows and fetch == "all" else []
        return {"rows": rows, "rowcount": cursor.rowcount}
    row = cursor.fetchone() if has_rows else None
    if fetch == "one" or row is None:
        return None if row is None else _row(row)
    return _plain(next(iter(row.values()), None))


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """A value of Postgres as JSON can say it.

    Numerics become numbers where nothing is lost and text where something would be, times ISO 8601, intervals seconds,
    bytes base64, and what JSON knows nothing of is text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)


def _number(value: Decimal) -> int | float | str:
    if not value.is_finite():
        return str(value)
    if value == value.to_integral_value():
        return int(value)
    number = float(value)
    return number if Decimal(repr(number)) == value else str(value)


def _failed(error: psycopg.Error, call: Call) -> ActionError:
    import psycopg

    sqlstate = error.sqlstate
    message = error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__
    if sqlstate == "57014" or sqlstate is None:
        call.remaining_seconds()
    if sqlstate is None and isinstance(error, psycopg.OperationalError):
        return ActionError("ConnectionFailed", f"the connection was lost: {message}", details={"sqlstate": None})
    retryable = sqlstate is not None and sqlstate.startswith(_WORTH_REPEATING) and sqlstate != "57014"
    return ActionError("SQLError", message, retryable=retryable, details={"sqlstate": sqlstate})


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
