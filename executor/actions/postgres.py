"""`postgres`: statements of SQL, and CSV files in and out. Values of templates travel beside the text, never in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._connections import CONNECTIONS, limit_time
from noetl.executor.actions._copy import prepared_copy_from, prepared_copy_to
from noetl.executor.actions._postgres_values import bound, bound_all, plain, quoted, row_of
from noetl.executor.actions.action import DEFAULT_TIMEOUT_SECONDS, Call
from noetl.executor.errors import ActionError
from noetl.executor.model.json_values import write_json
from noetl.executor.model.sql import Bind, Identifier, Sql
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink
from noetl.planner.kinds import described

if TYPE_CHECKING:
    import psycopg
    from noetl.executor.actions._connections import Connection

_ADDING = re.compile(r"\b(?:insert|merge|call|copy)\b", re.IGNORECASE)
_FOUND_AGAIN = re.compile(r"\bon\s+conflict\b|\bnot\s+exists\b", re.IGNORECASE)


def _may_add_rows(parameters: Mapping[str, Any]) -> bool:
    """Whether the statements may add rows that are there already. Of functions and of sums in updates nobody can tell."""
    query = parameters.get("query")
    statements = query if isinstance(query, list) else [query]
    return "copy_from" in parameters or any(
        isinstance(statement, str) and _ADDING.search(statement) and not _FOUND_AGAIN.search(statement)
        for statement in statements
    )


def _result_of(parameters: Mapping[str, Any]) -> Mapping[str, Kind] | None:
    if "copy_from" in parameters or "copy_to" in parameters:
        return {"rowcount": Kind.INTEGER}
    if "rows" in parameters or parameters.get("fetch", "all") not in ("all", "none"):
        return None
    return {"rows": Kind.ARRAY, "rowcount": Kind.INTEGER}


DECLARATION = ActionDeclaration(
    type="postgres",
    description=(
        "Runs one statement, or a list of them in one transaction. Of a list, the last one's result is given. Without"
        " `timeout`, it may take an hour."
    ),
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
        "rows": Parameter(
            (Kind.ARRAY,),
            "Objects to run the statement for, one after another in one transaction; `%(name)s` is a value of each, or"
            " of `params`. The result is `{rowcount}` of them all, and with `fetch: all` also their `rows`.",
            requires=("query",),
        ),
        "copy_from": Parameter(
            (Kind.OBJECT,),
            "Loads a CSV file into a table, all of it or nothing. An empty cell is null. The result is `{rowcount}`.",
            fields={
                "table": Parameter(
                    (Kind.STRING,),
                    "The table, or schema and table with a dot between, as they are spelt.",
                    required=True,
                ),
                "file": Parameter((Kind.STRING,), "The file, as with the action `file`.", required=True),
                "columns": Parameter(
                    (Kind.ARRAY,),
                    "The columns that the file has, in order: those its header names unless given.",
                ),
                "header": Parameter(
                    (Kind.BOOLEAN,), "Whether the first line is a header: true unless given."
                ),
            },
        ),
        "copy_to": Parameter(
            (Kind.OBJECT,),
            "Writes the rows of a query as a CSV file with a header. The result is `{rowcount}`.",
            fields={
                "query": Parameter(
                    (Kind.STRING,), "The statement that gives the rows.", required=True, sink=Sink.SQL
                ),
                "file": Parameter((Kind.STRING,), "The file, as with the action `file`.", required=True),
            },
        ),
    },
    one_of=("query", "copy_from", "copy_to"),
    idempotent=False,
    acts_twice=_may_add_rows,
    result_of=_result_of,
    is_atomic=True,
)

_WORTH_REPEATING = ("08", "40", "53", "57P", "58", "55P03", "55006")
"""SQLSTATEs, or how they begin: connection lost, serialisation and deadlock, no resources, shutdown, system, locks."""

_TEMPLATE = "noetl_{}"
_PLACEHOLDER = re.compile(r"%(?:%|\(([^)]*)\))")
_ROWS_AT_ONCE = 1_000
_MOST_CHARACTERS = 64 * 1024 * 1024


def perform(call: Call) -> Any:
    try:
        import psycopg
    except ImportError:
        message = (
            "`postgres` needs the package psycopg, which the extra `postgres` of this installation brings"
        )
        raise ActionError("ActionDisabled", message, retryable=False) from None
    call = call.with_default_timeout(DEFAULT_TIMEOUT_SECONDS)
    work = _work(call)
    try:
        with CONNECTIONS.lend(call.parameters["connection"], call) as connection:
            return work(connection)
    except psycopg.Error as error:
        raise _failed(error, call) from error


def _work(call: Call) -> Callable[[Connection], Any]:
    """What is to be done with a connection. Whatever can be wrong without one has been found."""
    given = call.parameters
    if "copy_from" in given:
        return prepared_copy_from(call, **given["copy_from"])
    if "copy_to" in given:
        return prepared_copy_to(call, **given["copy_to"])
    if "rows" in given:
        text, rows = _statement_for_rows(given)
        return lambda connection: _run_for_rows(call, text, rows, connection)
    query, params = given["query"], given.get("params")
    statements = [_statement(text, params) for text in (query if isinstance(query, list) else [query])]
    if not statements:
        raise _wrong("`query` is an empty list")
    if len(statements) > 1 and isinstance(params, list):
        raise _wrong("`params` is a list, which only one statement can take: give an object")
    return lambda connection: _run(call, statements, connection, is_list=isinstance(query, list))


def _run(call: Call, statements: list[tuple[str, Any]], connection: Connection, *, is_list: bool) -> Any:
    # One statement stands outside of a transaction, for those that must, such as `vacuum`.
    with connection.transaction() if is_list else nullcontext():
        for text, values in statements:
            limit_time(connection, call)
            # The text is the author's: the types ask for a literal, which it is not.
            cursor = connection.execute(text.encode(), values)
    return _result(cursor, call.parameters.get("fetch", "all"))


def _run_for_rows(call: Call, text: str, rows: list[Any], connection: Connection) -> dict[str, Any]:
    is_returned = call.parameters.get("fetch") == "all"
    returned = _Rows()
    rowcount = 0
    with connection.transaction(), connection.cursor() as cursor:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            limit_time(connection, call)
            cursor.executemany(text.encode(), rows[start : start + _ROWS_AT_ONCE], returning=is_returned)
            has_more = True
            while has_more:
                rowcount += cursor.rowcount
                if is_returned and cursor.description is not None:
                    returned.take(cursor)
                has_more = is_returned and bool(cursor.nextset())
    return {"rows": returned.all, "rowcount": rowcount} if is_returned else {"rowcount": rowcount}


class _Rows:
    """Rows as a playbook sees them, no more than a step can save: a table that is larger than it was thought to be is
    not to take all the memory there is.
    """

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []
        self._characters = 0

    def take(self, cursor: psycopg.Cursor[dict[str, Any]]) -> None:
        """Add what the cursor has.

        Raises:
            ActionError: `LimitExceeded`.
        """
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            piece = [row_of(row) for row in rows]
            self._characters += len(write_json(piece))
            if self._characters > _MOST_CHARACTERS:
                message = (
                    "the rows have more than 64 MiB: select fewer, or write them to a file with `copy_to`"
                )
                raise ActionError("LimitExceeded", message, retryable=False)
            self.all += piece


def _statement_for_rows(given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A statement and the values of each row for it."""
    if isinstance(given["query"], list):
        raise _wrong("`rows` takes one statement, and `query` is a list")
    if given.get("fetch", "all") not in ("all", "none"):
        raise _wrong("`fetch` must be `all` or `none` with `rows`")
    shared = given.get("params", {})
    if not isinstance(shared, dict):
        raise _wrong("`params` must be an object with `rows`")
    text, values = _statement(given["query"], shared)
    # What a template stands for is not for data to replace.
    names = {name for name in _PLACEHOLDER.findall(text) if name and (name in shared or name not in values)}
    rows = []
    for at, row in enumerate(given["rows"], 1):
        if not isinstance(row, dict):
            raise _wrong(f"`rows`: item {at} is {described(row)}; it must be an object")
        if missing := names - row.keys() - shared.keys():
            raise _wrong(f"`rows`: item {at} has no {min(missing)!r}")
        rows.append({**values, **{name: bound(row[name]) for name in names if name in row}})
    return text, rows


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
        return _assembled(query, escape, escape, "%s"), [bound(value) for value in binds] if binds else None
    if not binds:
        return _assembled(query, str, _doubled, ""), bound_all(params)
    if isinstance(params, list):
        raise _wrong("`params` is a list, which cannot be told from the templates in `query`: give an object")
    if taken := [name for name in params if name.startswith(_TEMPLATE.format(""))]:
        raise _wrong(f"`params`: {taken[0]!r} is a name that templates use")
    named = {_TEMPLATE.format(at): value for at, value in enumerate(binds)}
    return _assembled(query, str, _doubled, f"%({_TEMPLATE})s"), bound_all({**params, **named})


def _assembled(query: Sql, text_form: Any, name_form: Any, placeholder: str) -> str:
    pieces: list[str] = []
    count = 0
    for part in query.parts:
        if isinstance(part, Bind):
            pieces.append(placeholder.format(count))
            count += 1
        elif isinstance(part, Identifier):
            pieces.append(name_form(quoted(part.name)))
        else:
            pieces.append(text_form(part))
    return "".join(pieces)


def _doubled(text: str) -> str:
    return text.replace("%", "%%")


def _result(cursor: psycopg.Cursor[dict[str, Any]], fetch: str) -> Any:
    has_rows = cursor.description is not None
    if fetch in ("all", "none"):
        rows = _Rows()
        if has_rows and fetch == "all":
            rows.take(cursor)
        return {"rows": rows.all, "rowcount": cursor.rowcount}
    row = cursor.fetchone() if has_rows else None
    if fetch == "one" or row is None:
        return None if row is None else row_of(row)
    return plain(next(iter(row.values()), None))


def _failed(error: psycopg.Error, call: Call) -> ActionError:
    import psycopg

    sqlstate = error.sqlstate
    message = error.diag.message_primary or str(error).strip().partition("\n")[0] or type(error).__name__
    if sqlstate == "57014" or sqlstate is None:
        call.remaining_seconds()
    if sqlstate is None and isinstance(error, psycopg.OperationalError):
        return ActionError(
            "ConnectionFailed", f"the connection was lost: {message}", details={"sqlstate": None}
        )
    retryable = sqlstate is not None and sqlstate.startswith(_WORTH_REPEATING) and sqlstate != "57014"
    return ActionError("SQLError", message, retryable=retryable, details={"sqlstate": sqlstate})


def _wrong(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
