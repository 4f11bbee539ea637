"""CSV files into and out of Postgres, through COPY: read and written piece by piece, whatever their length."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from noetl.executor.actions._connections import limit_time
from noetl.executor.actions._files import allowed_folder, failed, inside, of_system, reader, replacement
from noetl.executor.actions._formats import FormatError, header_names
from noetl.executor.actions._postgres_values import bound, quoted
from noetl.executor.actions.action import Call
from noetl.executor.errors import ActionError
from noetl.executor.model.sql import Bind, Sql
from noetl.planner.lexers.sql import SqlLexer

if TYPE_CHECKING:
    from noetl.executor.actions._connections import Connection

_CHUNK_BYTES = 256 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def prepared_copy_from(
    call: Call, *, table: str, file: str, columns: list[Any] | None = None, header: bool = True
) -> Callable[[Connection], dict[str, Any]]:
    """What loads a CSV file into a table, given a connection.

    Raises:
        ActionError: the file may not be touched, or a name cannot be one.
    """
    target = inside(allowed_folder(call.capabilities, "`copy_from`"), file)
    place = ".".join(quoted(part) for part in table.split("."))
    if not all(isinstance(name, str) for name in columns or ()):
        raise ActionError("ParameterError", "`columns` must be a list of texts", retryable=False)

    def copy(connection: Connection) -> dict[str, Any]:
        try:
            with reader(target, file) as source, connection.cursor() as cursor:
                chunk = source.read(_CHUNK_BYTES).removeprefix(_BYTE_ORDER_MARK)
                names = _header(chunk, file) if columns is None and header else columns or []
                listed = f" ({', '.join(map(quoted, names))})" if names else ""
                limit_time(connection, call)
                statement = f"copy {place}{listed} from stdin (format csv, header {header}, encoding 'UTF8')"
                with cursor.copy(statement.encode()) as sink:
                    while chunk:
                        call.remaining_seconds()
                        sink.write(chunk)
                        chunk = source.read(_CHUNK_BYTES)
                return {"rowcount": cursor.rowcount}
        except OSError as error:
            raise of_system(file, error) from None

    return copy


def prepared_copy_to(call: Call, *, query: Sql, file: str) -> Callable[[Connection], dict[str, Any]]:
    """What writes the rows of a query as a CSV file, given a connection.

    Raises:
        ActionError: the file may not be touched.
    """
    target = inside(allowed_folder(call.capabilities, "`copy_to`"), file)

    def copy(connection: Connection) -> dict[str, Any]:
        # A comment at the end of the query must not swallow the bracket.
        inner = _with_literals(query, connection).rstrip().rstrip(";")
        statement = f"copy (\n{inner}\n) to stdout (format csv, header true, encoding 'UTF8')"
        try:
            with replacement(target) as sink, connection.transaction(), connection.cursor() as cursor:
                limit_time(connection, call)
                with cursor.copy(statement.encode()) as source:
                    for chunk in source:
                        call.remaining_seconds()
                        sink.write(chunk)
                return {"rowcount": cursor.rowcount}
        except OSError as error:
            raise of_system(file, error) from None

    return copy


def _header(chunk: bytes, file: str) -> list[str]:
    try:
        return header_names(chunk.decode("utf-8", "replace"))
    except FormatError as error:
        raise failed(file, str(error)) from None


def _with_literals(query: Sql, connection: Connection) -> str:
    """The statement with its values in it, as the driver quotes them: COPY takes none beside the text."""
    from psycopg import sql

    lexer = SqlLexer()
    pieces = []
    for part in query.parts:
        if isinstance(part, str):
            lexer.feed(part)
            pieces.append(part)
        elif lexer.context:
            raise ActionError(
                "ParameterError", f"`query` has a template inside {lexer.context}", retryable=False
            )
        elif isinstance(part, Bind):
            pieces.append(sql.Literal(bound(part.value)).as_string(connection))
        else:
            pieces.append(quoted(part.name))
    return "".join(pieces)
