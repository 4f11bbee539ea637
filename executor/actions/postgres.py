"""`postgres`: run SQL statements, and copy CSV files in and out.

Values of templates are sent as parameters, never as a part of the statement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._postgres_copy import prepare_copy_from, prepare_copy_to
from noetl.executor.actions._postgres_errors import naming_statement, translate_error
from noetl.executor.actions._postgres_pool import CONNECTION_POOL, limit_statement_time
from noetl.executor.actions._postgres_values import (
    check_values,
    quote_identifier,
    to_parameter,
    to_parameters,
    to_plain_row,
)
from noetl.executor.actions.action import DEFAULT_TIMEOUT_SECONDS, Call
from noetl.executor.errors import ActionError
from noetl.executor.model.arriving_data import json_weight
from noetl.executor.model.json_values import write_json
from noetl.executor.model.memory_budget import json_size
from noetl.executor.model.sql import Bind, Sql, SqlIdentifier
from noetl.planner.catalogue import ActionDeclaration, Destination, Kind, Parameter, Sink
from noetl.planner.diagnostics.wording import quote_text
from noetl.planner.kinds import describe_kind_of

if TYPE_CHECKING:
    from noetl.executor.actions._postgres_connection import BoundedConnection as Connection

_ADDS_ROWS = re.compile(r"\b(?:insert|merge|call|copy)\b", re.IGNORECASE)
_DETECTS_DUPLICATES = re.compile(r"\bon\s+conflict\b|\bnot\s+exists\b", re.IGNORECASE)


_READS = re.compile(r"\s*(?:select|values|table|show|with)\b", re.IGNORECASE)
_WRITES = re.compile(
    r"\|\s*raw\b|\b(?:insert|update|delete|merge|call|copy|into|truncate|create|alter|drop|grant|revoke"
    r"|lock|share|nextval|setval|set_config|notify|pg_notify|pg_advisory\w*)\b",
    re.IGNORECASE,
)


def _only_reads(parameters: Mapping[str, Any]) -> bool:
    """Return whether the statements have no effect but their rows.

    Effects of functions are not seen, except for a few.
    """
    query = parameters.get("query")
    statements = query if isinstance(query, list) else [query]
    return "rows" not in parameters and all(
        isinstance(statement, str) and _READS.match(statement) and not _WRITES.search(statement)
        for statement in statements
    )


def _may_duplicate_rows(parameters: Mapping[str, Any]) -> bool:
    """Return whether a repeat of the statements may add the same rows again.

    Effects of functions and of sums in an `update` are not detected.
    """
    query = parameters.get("query")
    statements = query if isinstance(query, list) else [query]
    return "copy_from" in parameters or any(
        isinstance(statement, str)
        and _ADDS_ROWS.search(statement)
        and not _DETECTS_DUPLICATES.search(statement)
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
    extra=("postgres", "psycopg"),
    description=(
        "Runs one statement, or a list of statements in one transaction. The result of a list is that of its"
        " last statement. Default timeout: one hour."
    ),
    parameters={
        "connection": Parameter(
            (Kind.STRING,),
            "The server, as a URL or as `key=value` words.",
            required=True,
            secrets=True,
            is_connection_string=True,
        ),
        "query": Parameter((Kind.STRING, Kind.ARRAY), "A statement or a list of statements.", sink=Sink.SQL),
        "params": Parameter(
            (Kind.OBJECT, Kind.ARRAY),
            "Values for `%(name)s` or `%s`. With `params`, write a percent sign as `%%`.",
            requires=("query",),
        ),
        "fetch": Parameter(
            (Kind.STRING,),
            "Default: `all`, which gives `{rows, rowcount}`. `one`: the first row. `value`: its first column."
            " `none`: no rows.",
            choices=("all", "one", "value", "none"),
            requires=("query",),
        ),
        "rows": Parameter(
            (Kind.ARRAY,),
            "Objects to run the statement for, one by one in one transaction."
            " `%(name)s` is a value of the object or of `params`."
            " The result is the total `{rowcount}`, with `fetch: all` also the `rows`.",
            requires=("query",),
        ),
        "copy_from": Parameter(
            (Kind.OBJECT,),
            "Loads a CSV file into a table, completely or not at all. An empty cell is null. The result is"
            " `{rowcount}`.",
            fields={
                "table": Parameter(
                    (Kind.STRING,),
                    "The table, or schema and table separated by a dot. The case of letters matters.",
                    required=True,
                ),
                "file": Parameter((Kind.STRING,), "The file, as with the action `file`.", required=True),
                "columns": Parameter(
                    (Kind.ARRAY,), "The columns of the file, in order. Default: those that its header names."
                ),
                "header": Parameter((Kind.BOOLEAN,), "Whether the first line is a header. Default: true."),
            },
        ),
        "copy_to": Parameter(
            (Kind.OBJECT,),
            "Writes the rows of a query as a CSV file with a header. The result is `{rowcount}`.",
            fields={
                "query": Parameter(
                    (Kind.STRING,), "The statement that selects the rows.", required=True, sink=Sink.SQL
                ),
                "file": Parameter((Kind.STRING,), "The file, as with the action `file`.", required=True),
            },
        ),
    },
    destination=Destination("connection", lambda connection: _hosts_of(connection)),  # noqa: PLW0108
    one_of=("query", "copy_from", "copy_to"),
    summary=lambda parameters: next((name for name in ("copy_from", "copy_to") if name in parameters), ""),
    idempotent=False,
    idempotent_when=lambda parameters: not _may_duplicate_rows(parameters),
    result_for=_result_of,
    is_atomic=True,
    reads_only_when=lambda parameters: _only_reads(parameters),  # noqa: PLW0108
)

_TEMPLATE_NAME = "noetl_{}"
"""Name of the parameter for the value of a template, by its index."""

_PLACEHOLDER = re.compile(r"%(?:%|\(([^)]*)\))")
_ROWS_PER_BATCH = 1_000
_BATCH_CHARACTERS = 8 * 1024 * 1024
"""How many characters of values that all rows have are written together."""
_MAX_CHARACTERS = 64 * 1024 * 1024
"""Limit of the rows of a result, in characters of JSON."""

_Statement = tuple[str, Any]
"""Text for psycopg with placeholders, and their values or None."""


def _hosts_of(connection: str) -> list[str]:
    """Return the hosts in a connection string; one without a name is that of this machine.

    Raises:
        ActionError: `ParameterError`, if the string is invalid.
    """
    _import_driver()
    from noetl.executor.actions._postgres_servers import parse

    keywords = parse(connection)
    return [host for name in ("host", "hostaddr") if name in keywords for host in keywords[name].split(",")]


def _import_driver() -> Any:
    try:
        import psycopg
    except ImportError:
        from noetl.executor.extras import install_command

        message = f"`postgres` needs the package psycopg; install it with `{install_command('postgres')}`"
        raise ActionError("ActionDisabled", message, retryable=False) from None
    return psycopg


def perform(call: Call) -> Any:
    psycopg = _import_driver()
    call = call.with_default_timeout(DEFAULT_TIMEOUT_SECONDS)
    work = _prepare(call)
    try:
        with (
            call.receive() as arriving,
            CONNECTION_POOL.connection(call.parameters["connection"], call, arriving) as connection,
        ):
            return work(connection)
    except psycopg.Error as error:
        raise translate_error(error, call) from error


def _prepare(call: Call) -> Callable[[Connection], Any]:
    """Check the parameters, and return the function that does the work through a connection."""
    parameters = call.parameters
    if "copy_from" in parameters:
        return prepare_copy_from(call, **parameters["copy_from"])
    if "copy_to" in parameters:
        return prepare_copy_to(call, **parameters["copy_to"])
    if "rows" in parameters:
        text, rows = _bind_rows(parameters)
        batches = _divide(rows, parameters)
        return lambda connection: _run_for_rows(call, text, batches, connection)
    query, params = parameters["query"], parameters.get("params")
    statements = [_bind(text, params) for text in (query if isinstance(query, list) else [query])]
    if not statements:
        raise _parameter_error("`query` is an empty list")
    if len(statements) > 1 and isinstance(params, list):
        raise _parameter_error("`params` must be an object if `query` has several statements")
    return lambda connection: _run(call, statements, connection, is_list=isinstance(query, list))


def _run(call: Call, statements: list[_Statement], connection: Connection, *, is_list: bool) -> Any:
    from noetl.executor.actions._postgres_connection import ChunkCursor

    fetch = call.parameters.get("fetch", "all")
    result: Any = None
    # A single statement runs without a transaction, because `vacuum` and others must.
    with connection.transaction() if is_list else nullcontext():
        for number, (text, values) in enumerate(statements, 1):
            limit_statement_time(connection, call)
            with naming_statement(text, has_values=bool(values)), ChunkCursor(connection) as cursor:
                chunks = cursor.execute_in_chunks(connection, text, values)
                collector = _RowCollector(connection, fetch if number == len(statements) else "none")
                collector.add_all(chunks)
                result = collector.result(cursor.row_count)
    return result


def _divide(rows: list[Any], parameters: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Return the values of rows in batches. The driver writes values that all rows have once for each."""
    binds = [part.value for part in getattr(parameters["query"], "parts", ()) if isinstance(part, Bind)]
    shared = json_size([binds, parameters.get("params")])
    size = min(_ROWS_PER_BATCH, _BATCH_CHARACTERS // shared + 1)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _run_for_rows(
    call: Call, text: str, batches: Iterable[list[Any]], connection: Connection
) -> dict[str, Any]:
    fetch = "all" if call.parameters.get("fetch") == "all" else "none"
    collector = _RowCollector(connection, fetch)
    rowcount = 0
    with connection.transaction(), connection.cursor() as cursor:
        for batch in batches:
            limit_statement_time(connection, call)
            connection.start_chunk()
            with naming_statement(text, has_values=True):
                cursor.executemany(text.encode(), batch, returning=fetch == "all")
            has_more = True
            while has_more:
                rowcount += cursor.rowcount
                if fetch == "all" and cursor.description is not None:
                    collector.add_all(iter(lambda: cursor.fetchmany(_ROWS_PER_BATCH), []))
                has_more = fetch == "all" and bool(cursor.nextset())
    return {"rows": collector.rows, "rowcount": rowcount} if fetch == "all" else {"rowcount": rowcount}


class _RowCollector:
    """Rows of a result as JSON values, up to the limit of what a step can save.

    `fetch` is the parameter of that name. Rows that it does not ask for are dropped.
    """

    def __init__(self, connection: Connection, fetch: str) -> None:
        self.rows: list[dict[str, Any]] = []
        self._connection = connection
        self._fetch = fetch
        self._characters = 0

    def add_all(self, chunks: Iterable[list[dict[str, Any]]]) -> None:
        """Add the rows of all chunks. Check the limit after each chunk, so that memory use stays bounded.

        Raises:
            ActionError: `LimitExceeded`.
        """
        meter = self._connection.meter
        assert meter is not None
        for chunk in chunks:
            wanted = chunk if self._fetch == "all" else chunk[:1]
            if self._fetch == "none" or (self.rows and self._fetch != "all"):
                continue
            rows = [to_plain_row(row) for row in wanted]
            text = write_json(rows)
            self._characters += len(text)
            if self._characters > _MAX_CHARACTERS:
                message = "the rows exceed 64 MiB: select fewer, or write them to a file with `copy_to`"
                raise meter.fail(ActionError("LimitExceeded", message, retryable=False))
            meter.arriving.keep(json_weight(text))
            self.rows += rows

    def result(self, row_count: int) -> Any:
        """Return the result of the action for the collected rows."""
        if self._fetch in ("all", "none"):
            return {"rows": self.rows, "rowcount": row_count}
        row = self.rows[0] if self.rows else None
        return row if self._fetch == "one" or row is None else next(iter(row.values()), None)


def _bind_rows(parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """Return the text of the statement, and its values for each row."""
    if isinstance(parameters["query"], list):
        raise _parameter_error("`query` must be one statement with `rows`, not a list")
    if parameters.get("fetch", "all") not in ("all", "none"):
        raise _parameter_error("`fetch` must be `all` or `none` with `rows`")
    shared = parameters.get("params", {})
    if not isinstance(shared, dict):
        raise _parameter_error("`params` must be an object with `rows`")
    check_values(parameters["rows"])
    text, values = _bind(parameters["query"], shared)
    # Rows must not replace the values of templates.
    names = {name for name in _PLACEHOLDER.findall(text) if name and (name in shared or name not in values)}
    rows = []
    for number, row in enumerate(parameters["rows"], 1):
        if not isinstance(row, dict):
            raise _parameter_error(f"`rows`: item {number} must be an object, not {describe_kind_of(row)}")
        if missing := names - row.keys() - shared.keys():
            raise _parameter_error(f"`rows`: item {number}: missing {quote_text(min(missing))}")
        rows.append({**values, **{name: to_parameter(row[name]) for name in names if name in row}})
    return text, rows


def _bind(query: Any, params: Any) -> _Statement:
    """Return a statement with its values, which come from templates and from `params`."""
    if isinstance(query, str):
        query = Sql((query,))
    if not isinstance(query, Sql):
        raise _parameter_error("`query` must be text, or a list of texts")
    values = [part.value for part in query.parts if isinstance(part, Bind)]
    check_values([values, params])
    if params is None:
        # psycopg interprets percent signs only if there are values.
        escape = _double_percent_signs if values else str
        text = _join_parts(query, escape, escape, "%s")
        return text, [to_parameter(value) for value in values] if values else None
    if not values:
        return _join_parts(query, str, _double_percent_signs, ""), to_parameters(params)
    if isinstance(params, list):
        raise _parameter_error("`params` must be an object if `query` has templates")
    if reserved := [name for name in params if name.startswith(_TEMPLATE_NAME.format(""))]:
        raise _parameter_error(f"`params`: the name {quote_text(reserved[0])} is reserved for templates")
    named = {_TEMPLATE_NAME.format(index): value for index, value in enumerate(values)}
    text = _join_parts(query, str, _double_percent_signs, f"%({_TEMPLATE_NAME})s")
    return text, to_parameters({**params, **named})


def _join_parts(
    query: Sql, escape_text: Callable[[str], str], escape_name: Callable[[str], str], placeholder: str
) -> str:
    """Return the text of a statement. `placeholder` is formatted with the index of the value."""
    texts: list[str] = []
    value_count = 0
    for part in query.parts:
        if isinstance(part, Bind):
            texts.append(placeholder.format(value_count))
            value_count += 1
        elif isinstance(part, SqlIdentifier):
            texts.append(escape_name(quote_identifier(part.name)))
        else:
            texts.append(escape_text(part))
    return "".join(texts)


def _double_percent_signs(text: str) -> str:
    return text.replace("%", "%%")


def _parameter_error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)
