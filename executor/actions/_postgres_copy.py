"""Transfer of CSV files to and from Postgres with COPY, in chunks of bounded size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._files import (
    TenantFiles,
    file_error,
    open_for_reading,
    os_file_error,
    replace_file,
)
from noetl.executor.actions._formats import FormatError, read_header
from noetl.executor.actions._postgres_pool import limit_statement_time
from noetl.executor.actions._postgres_values import check_values, quote_identifier, to_parameter
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.sql import MAX_STATEMENT, Bind, Sql
from noetl.planner.lexers.sql import SqlLexer

if TYPE_CHECKING:
    from noetl.executor.actions._postgres_connection import BoundedConnection as Connection

_CHUNK_BYTES = 256 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def prepare_copy_from(
    call: Call, *, table: str, file: str, columns: list[Any] | None = None, header: bool = True
) -> Callable[[Connection], dict[str, Any]]:
    """Return a function that loads a CSV file into a table through a connection.

    Raises:
        ActionError: the file is forbidden, or an identifier is invalid.
    """
    path = TenantFiles.of_call(call, "`copy_from`").resolve(file)
    quoted_table = ".".join(quote_identifier(part) for part in table.split("."))
    if not all(isinstance(name, str) for name in columns or ()):
        raise ActionError("ParameterError", "`columns` must be a list of texts", retryable=False)

    def copy(connection: Connection) -> dict[str, Any]:
        try:
            with open_for_reading(path, file) as source, connection.cursor() as cursor:
                chunk = source.read(_CHUNK_BYTES).removeprefix(_BYTE_ORDER_MARK)
                names = _header_of(chunk, file) if columns is None and header else columns or []
                column_list = f" ({', '.join(map(quote_identifier, names))})" if names else ""
                limit_statement_time(connection, call)
                options = f"format csv, header {header}, encoding 'UTF8'"
                statement = f"copy {quoted_table}{column_list} from stdin ({options})"
                with cursor.copy(statement.encode()) as sink:
                    while chunk:
                        call.remaining_seconds()
                        call.count_written(len(chunk))
                        sink.write(chunk)
                        chunk = source.read(_CHUNK_BYTES)
                return {"rowcount": cursor.rowcount}
        except OSError as error:
            raise os_file_error(file, error) from None

    return copy


def prepare_copy_to(call: Call, *, query: Sql, file: str) -> Callable[[Connection], dict[str, Any]]:
    """Return a function that writes the rows of a query to a CSV file through a connection.

    Raises:
        ActionError: the file is forbidden.
    """
    path = TenantFiles.of_call(call, "`copy_to`").resolve(file)

    def copy(connection: Connection) -> dict[str, Any]:
        # The line break ends a comment at the end of the query.
        inner = _inline_values(query, connection).rstrip().rstrip(";")
        statement = f"copy (\n{inner}\n) to stdout (format csv, header true, encoding 'UTF8')"
        try:
            with replace_file(path) as sink, connection.transaction(), connection.cursor() as cursor:
                limit_statement_time(connection, call)
                with cursor.copy(statement.encode()) as source:
                    for chunk in source:
                        call.remaining_seconds()
                        call.count_written(len(chunk))
                        sink.write(chunk)
                        connection.start_chunk()
                return {"rowcount": cursor.rowcount}
        except OSError as error:
            raise os_file_error(file, error) from None

    return copy


def _header_of(chunk: bytes, file: str) -> list[str]:
    try:
        return read_header(chunk.decode("utf-8", "replace"))
    except FormatError as error:
        raise file_error(file, str(error)) from None


def _inline_values(query: Sql, connection: Connection) -> str:
    """Return the statement with its values as SQL literals, because COPY takes no parameters."""
    from psycopg import sql

    # The statement holds the values as text.
    check_values([part.value for part in query.parts if isinstance(part, Bind)], MAX_STATEMENT)
    lexer = SqlLexer()
    texts = []
    for part in query.parts:
        if isinstance(part, str):
            lexer.feed(part)
            texts.append(part)
        elif lexer.context:
            message = f"`query` must not contain a template inside {lexer.context}"
            raise ActionError("ParameterError", message, retryable=False)
        elif isinstance(part, Bind):
            texts.append(sql.Literal(to_parameter(part.value)).as_string(connection))
        else:
            texts.append(quote_identifier(part.name))
    return "".join(texts)
