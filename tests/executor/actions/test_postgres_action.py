from __future__ import annotations

import csv
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from noetl.executor.actions import _postgres_pool, handler, postgres
from noetl.executor.errors import ActionError
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from tests.action_calls import create_call, perform_action
from tests.http_server import find_free_port

pytestmark = pytest.mark.usefixtures("no_idle_connections")


def test_fetch_selects_the_form_of_the_result(postgres_dsn: str) -> None:
    def query(text: str, **more: Any) -> Any:
        return perform_action("postgres", connection=postgres_dsn, query=text, **more)

    two = "select n, n * 2 as twice from generate_series(1, 2) as n"
    none = "select 1 as n where false"
    assert query(two) == {"rows": [{"n": 1, "twice": 2}, {"n": 2, "twice": 4}], "rowcount": 2}
    assert query(two, fetch="one") == {"n": 1, "twice": 2}
    assert query(two, fetch="value") == 1
    assert query(two, fetch="none") == {"rows": [], "rowcount": 2}
    assert query(none, fetch="one") is None
    assert query(none, fetch="value") is None
    assert query("create table t (a int)", fetch="one") is None
    assert query("insert into t values (1), (2)") == {"rows": [], "rowcount": 2}


def test_more_rows_than_a_step_can_save_are_refused(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is checked after each batch of rows."""
    monkeypatch.setattr(postgres, "_MAX_CHARACTERS", 40_000)
    query = "select i, repeat('x', 10) as text from generate_series(1, {}) i"
    assert len(perform_action("postgres", connection=postgres_dsn, query=query.format(1000))["rows"]) == 1000
    for parameters in (
        {"query": query.format(100_000)},
        {"query": query.format(500), "rows": [{}, {}, {}], "fetch": "all"},
    ):
        with pytest.raises(ActionError, match="exceed 64 MiB: select fewer") as caught:
            perform_action("postgres", connection=postgres_dsn, **parameters)
        assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)


def test_a_list_of_statements_is_one_transaction(postgres_dsn: str) -> None:
    perform_action("postgres", connection=postgres_dsn, query="create table t (a int primary key)")
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres",
            connection=postgres_dsn,
            query=["insert into t values (1)", "insert into t values (1)"],
        )
    assert (caught.value.type, caught.value.retryable) == ("SQLError", False)
    problem = 'duplicate key value violates unique constraint "t_pkey"'
    assert caught.value.message == f"{problem}: Key (a)=(1) already exists. (SQLSTATE 23505)"
    assert caught.value.details == {
        "sqlstate": "23505",
        "detail": "Key (a)=(1) already exists.",
        "statement": "insert into t values (1)",
    }
    assert (
        perform_action("postgres", connection=postgres_dsn, query="select count(*) from t", fetch="value")
        == 0
    )
    last = perform_action(
        "postgres",
        connection=postgres_dsn,
        query=["insert into t values (1)", "select a from t"],
        fetch="value",
    )
    assert last == 1


def test_a_single_statement_runs_without_a_transaction(postgres_dsn: str) -> None:
    assert perform_action("postgres", connection=postgres_dsn, query="vacuum") == {"rows": [], "rowcount": -1}


VALUES = [
    ("1::int8", 1),
    ("true", True),
    ("null", None),
    ("1.5::float8", 1.5),
    ("'NaN'::float8", "nan"),
    ("'x'::text", "x"),
    ("10.00::numeric", 10),
    ("0.1::numeric", 0.1),
    ("0.1234567890123456789::numeric", "0.1234567890123456789"),
    ("100000000000000000000::numeric", 10**20),
    ("date '2026-02-03'", "2026-02-03"),
    ("timestamp '2026-02-03 04:05:06'", "2026-02-03T04:05:06"),
    ("timestamptz '2026-02-03 04:05:06+00'", "2026-02-03T04:05:06+00:00"),
    ("time '04:05'", "04:05:00"),
    ("interval '1 minute 500 ms'", 60.5),
    ("'6f1f0a5e-0d7a-4f6e-8a58-3c9a5d1c7c11'::uuid", "6f1f0a5e-0d7a-4f6e-8a58-3c9a5d1c7c11"),
    ("'\\x00ff'::bytea", "AP8="),
    ("'{\"a\": [1, null]}'::jsonb", {"a": [1, None]}),
    ("array[1.5, 2]::numeric[]", [1.5, 2]),
    ("'10.0.0.1'::inet", "10.0.0.1"),
    ("row(1, 'a')", ["1", "a"]),
]


@pytest.mark.parametrize(("expression", "expected"), VALUES)
def test_values_of_a_result_are_converted_to_json(postgres_dsn: str, expression: str, expected: Any) -> None:
    session = f"select {expression} as v"
    assert (
        perform_action(
            "postgres", connection=f"{postgres_dsn}&options=-ctimezone%3DUTC", query=session, fetch="value"
        )
        == expected
    )


@pytest.mark.parametrize(
    ("value", "column", "expected"),
    [
        (1, "int", 1),
        (True, "bool", True),
        (None, "text", None),
        ("2026-02-03", "date", "2026-02-03"),
        ([1, 2], "int[]", [1, 2]),
        ([1, 2.5, None], "float8[]", [1, 2.5, None]),
        (["a", "b"], "text[]", ["a", "b"]),
        ([], "text[]", []),
        ({"a": [1]}, "jsonb", {"a": [1]}),
        ([{"a": 1}, {"b": 2}], "jsonb", [{"a": 1}, {"b": 2}]),
        ([1, "a"], "jsonb", [1, "a"]),
        ([[1], [2]], "jsonb", [[1], [2]]),
    ],
)
def test_values_are_converted_to_the_type_of_the_column(
    postgres_dsn: str, value: Any, column: str, expected: Any
) -> None:
    perform_action("postgres", connection=postgres_dsn, query=f"create table t (v {column})")
    perform_action(
        "postgres", connection=postgres_dsn, query="insert into t values ({{ v }})", names={"v": value}
    )
    assert (
        perform_action("postgres", connection=postgres_dsn, query="select v from t", fetch="value")
        == expected
    )


def test_percent_signs_are_preserved(postgres_dsn: str) -> None:
    def value(text: str, **more: Any) -> Any:
        return perform_action("postgres", connection=postgres_dsn, query=text, fetch="value", **more)

    assert value("select 'a%b%s'") == "a%b%s"
    assert value("select 'a%b%s' || {{ x }}", names={"x": "%c"}) == "a%b%s%c"
    assert value("select 7 % {{ n }}", names={"n": 4}) == 3
    assert value("select %s || '%%'", params=["x"]) == "x%"
    assert value("select %(a)s || {{ b }} || '%%'", params={"a": "x"}, names={"b": "y"}) == "xy%"
    perform_action("postgres", connection=postgres_dsn, query='create table "a%s""b" (v int)')
    assert (
        perform_action(
            "postgres",
            connection=postgres_dsn,
            query="select * from {{ t | identifier }} where v = {{ 1 }}",
            names={"t": 'a%s"b'},
        )["rowcount"]
        == 0
    )
    assert (
        value(
            "select count(*) from {{ t | identifier }} where v = %(a)s", names={"t": 'a%s"b'}, params={"a": 1}
        )
        == 0
    )


@pytest.mark.parametrize(
    ("query", "params", "message"),
    [
        ("select %s, {{ 1 }}", [1], "must be an object if `query` has templates"),
        (["select %s", "select %s"], [1], "must be an object if `query` has several statements"),
        ("select {{ 1 }}", {"noetl_0": 1}, "reserved for templates"),
        ([], None, "an empty list"),
        ("select {{ '' | identifier }}", None, "cannot be an identifier"),
        ("{{ 'select 1' }}", None, "cannot come from data"),
    ],
)
def test_invalid_statements_are_refused(query: Any, params: Any, message: str) -> None:
    with pytest.raises(ActionError, match=message) as caught:
        perform_action(
            "postgres",
            connection="postgresql://127.0.0.1:1/x",
            query=query,
            **({"params": params} if params else {}),
        )
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


@pytest.mark.parametrize(
    ("query", "sqlstate"),
    [
        ("selec 1", "42601"),
        ("select * from missing", "42P01"),
        ("select 1 / 0", "22012"),
        ("select {{ 'a' }}::int", "22P02"),
    ],
)
def test_errors_of_sql_are_not_retried(postgres_dsn: str, query: str, sqlstate: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("postgres", connection=postgres_dsn, query=query)
    assert (caught.value.type, caught.value.retryable, caught.value.details["sqlstate"]) == (
        "SQLError",
        False,
        sqlstate,
    )


def test_the_place_in_a_statement_is_that_of_the_text_in_the_playbook(postgres_dsn: str) -> None:
    query = "\n  select %(a)s::int,\n    5 %% 2, nosuch"
    with pytest.raises(ActionError) as caught:
        perform_action("postgres", connection=postgres_dsn, query=query, params={"a": 1})
    assert caught.value.message == (
        'column "nosuch" does not exist (SQLSTATE 42703, line 2, column 12 of the statement)'
    )
    assert caught.value.details["statement"] == "select $1::int,\n    5 % 2, nosuch"


@pytest.mark.parametrize("sqlstate", ["25P03", "40001", "40P01", "53300", "55P03", "57P03"])
def test_temporary_errors_are_retryable(postgres_dsn: str, sqlstate: str) -> None:
    raising = f"do $$ begin raise exception using errcode = '{sqlstate}'; end $$"
    with pytest.raises(ActionError) as caught:
        perform_action("postgres", connection=postgres_dsn, query=raising)
    assert (caught.value.type, caught.value.retryable, caught.value.details["sqlstate"]) == (
        "SQLError",
        True,
        sqlstate,
    )


def test_a_statement_ends_at_its_deadline(postgres_dsn: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("postgres", connection=postgres_dsn, query="select pg_sleep(600)", seconds=0.3)
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)


def test_a_statement_that_waits_for_a_lock_ends_at_its_deadline(postgres_dsn: str) -> None:
    with psycopg.connect(postgres_dsn) as rival:
        rival.execute("create table t (a int)")
        rival.commit()
        rival.execute("lock table t")
        with pytest.raises(ActionError) as caught:
            perform_action(
                "postgres", connection=postgres_dsn, query=["select 1", "select * from t"], seconds=0.3
            )
    assert caught.value.type == "Timeout"


def test_a_statement_without_a_timeout_ends_after_the_default(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "DEFAULT_TIMEOUT_SECONDS", 0.3)
    with pytest.raises(ActionError) as caught:
        perform_action("postgres", connection=postgres_dsn, query="select pg_sleep(600)", seconds=60)
    assert caught.value.type == "Timeout"
    parameters = {"connection": postgres_dsn, "query": "select pg_sleep(0.5)", "fetch": "value"}
    call = replace(create_call("postgres", parameters), timeout_seconds=60)
    assert handler("postgres")(call) == ""


@pytest.mark.parametrize("parameter", ["", "&connect_timeout=2"])
def test_connecting_to_a_silent_server_times_out(parameter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shortest timeout of the driver is two seconds.
    monkeypatch.setattr(_postgres_pool, "CONNECT_SECONDS", 0.1 if not parameter else 60)
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ActionError, match="timeout") as caught,
    ):
        connection = f"postgresql://a@127.0.0.1:{listener.getsockname()[1]}/x?sslmode=disable{parameter}"
        perform_action("postgres", connection=connection, query="select 1", seconds=60)
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)


def test_a_driver_error_without_a_message_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise psycopg.OperationalError

    monkeypatch.setattr(_postgres_pool, "_connect_to", refuse)
    with pytest.raises(ActionError, match="OperationalError") as caught:
        perform_action("postgres", connection="postgresql://a@127.0.0.1/x", query="select 1")
    assert caught.value.type == "ConnectionFailed"


def test_a_server_that_stops_responding_times_out(postgres_server: str) -> None:
    """A fake server completes the handshake and then sends nothing."""
    ready = b"R\0\0\0\x08\0\0\0\0" + b"Z\0\0\0\x05I"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                while length := client.recv(4):
                    message = client.recv(int.from_bytes(length, "big") - 4)
                    if message.startswith(b"\0\x03\0\0"):
                        client.sendall(ready)
                        break
                    client.sendall(b"N")
                while client.recv(1024):
                    pass

        server = threading.Thread(target=answer)
        server.start()
        port = listener.getsockname()[1]
        with pytest.raises(ActionError) as caught:
            perform_action(
                "postgres", connection=f"postgresql://ann@127.0.0.1:{port}/x", query="select 1", seconds=0.5
            )
        server.join()
    assert caught.value.type == "Timeout"


def backend(dsn: str) -> Any:
    return perform_action("postgres", connection=dsn, query="select pg_backend_pid()", fetch="value")


def test_connections_are_reused_and_reset(postgres_dsn: str) -> None:
    first = backend(postgres_dsn)
    perform_action(
        "postgres",
        connection=postgres_dsn,
        query=["create temp table left_over (a int)", "set timezone to 'Asia/Tokyo'"],
    )
    left = perform_action(
        "postgres",
        connection=postgres_dsn,
        query=(
            "select to_regclass('left_over')::text as t, current_setting('timezone') as z,"
            " pg_backend_pid() as p"
        ),
        fetch="one",
    )
    assert left["t"] is None
    assert left["z"] != "Asia/Tokyo"
    assert left["p"] == first


def test_a_dead_connection_is_replaced(postgres_dsn: str, postgres_server: str) -> None:
    first = backend(postgres_dsn)
    with psycopg.connect(postgres_server, autocommit=True) as operator:
        assert operator.execute("select pg_terminate_backend(%s, 10000)", [first]).fetchone() == (True,)
    assert backend(postgres_dsn) != first


def test_a_connection_lost_in_a_statement_is_retryable(postgres_dsn: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres", connection=postgres_dsn, query="select pg_terminate_backend(pg_backend_pid())"
        )
    assert caught.value.retryable
    assert caught.value.type in ("SQLError", "ConnectionFailed")


def test_each_thread_has_its_own_connection(postgres_dsn: str) -> None:
    barrier = threading.Barrier(4)
    results: list[Any] = []

    def work(n: int) -> None:
        barrier.wait()
        results.append(
            perform_action(
                "postgres",
                connection=postgres_dsn,
                query="select {{ n }}::int",
                names={"n": n},
                fetch="value",
            )
        )

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]


def test_a_refused_connection_is_retryable() -> None:
    unused_port = find_free_port()
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres", connection=f"postgresql://ann:word@127.0.0.1:{unused_port}/x", query="select 1"
        )
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", True)
    assert "word" not in caught.value.message
    assert caught.value.message.endswith(f"port {unused_port} failed: Connection refused")


def test_a_refusal_of_the_server_is_not_retried(postgres_server: str) -> None:
    with pytest.raises(ActionError, match="does not exist") as caught:
        perform_action(
            "postgres", connection=postgres_server.replace("/postgres?", "/missing?"), query="select 1"
        )
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", False)


@contextmanager
def refusing_server(message: str) -> Iterator[int]:
    """Yield the port of a server that refuses each connection as Postgres does, with a message."""

    def refuse() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(1024)
                    body = b"SFATAL\0VFATAL\0C57P03\0M" + message.encode() + b"\0\0"
                    client.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("message", "is_retryable"),
    [
        ("the database system is starting up", True),
        ("the database system is shutting down", True),
        ("the database system is in recovery mode", True),
        ("the database system is not yet accepting connections", True),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", True),
        ("sorry, too many clients already", True),
        ("das Datenbanksystem startet", True),
        # A server in another language refuses for ever, but its words are unknown.
        ("Passwort-Authentifizierung für Benutzer »ann« fehlgeschlagen", True),
        ("Datenbank »x« existiert nicht", True),
        (
            "server login has been failing, cached error: password authentication failed",
            True,
        ),
        ('password authentication failed for user "ann"', False),
        ('database "x" does not exist', False),
        ('role "ann" is not permitted to log in', False),
    ],
)
def test_only_a_user_or_database_is_refused_for_ever(message: str, is_retryable: bool) -> None:
    with refusing_server(message) as port, pytest.raises(ActionError) as caught:
        url = f"postgresql://ann:word@127.0.0.1:{port}/x?sslmode=disable&gssencmode=disable"
        perform_action("postgres", connection=url, query="select 1")
    assert message in caught.value.message
    assert (caught.value.type, caught.value.retryable) == ("ConnectionFailed", is_retryable)


def test_the_error_of_an_invalid_connection_string_does_not_quote_it() -> None:
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres",
            connection="postgresql://ann:secret-word@host:port-word/x?nonsense=1",
            query="select 1",
        )
    assert caught.value.type == "ParameterError"
    assert "-word" not in caught.value.message


def test_the_error_of_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ActionError, match=r"pip install 'psycopg\["):
        perform_action("postgres", connection="postgresql://127.0.0.1/x", query="select 1")


@pytest.fixture
def table(postgres_dsn: str) -> str:
    """The DSN of a database with an empty table `t (a int primary key, b text, c jsonb)`."""
    perform_action(
        "postgres", connection=postgres_dsn, query="create table t (a int primary key, b text, c jsonb)"
    )
    return postgres_dsn


def contents(dsn: str, query: str = "select * from t order by a") -> Any:
    return perform_action("postgres", connection=dsn, query=query)["rows"]


INSERT = "insert into t (a, b) values (%(a)s, %(b)s)"


def test_rows_are_inserted_in_bulk(table: str) -> None:
    rows = [{"a": n, "b": f"{n}%", "more": [n]} for n in range(2_500)]
    given: dict[str, Any] = {"connection": table, "rows": "{{ rows }}", "names": {"rows": rows}}
    assert perform_action("postgres", query=INSERT, **given) == {"rowcount": 2_500}
    assert contents(table, "select count(*) as n, min(b) as b from t") == [{"n": 2_500, "b": "0%"}]
    assert perform_action(
        "postgres", query="update t set b = '%%' where a = %(a)s", fetch="none", **given
    ) == {"rowcount": 2_500}


def test_statements_for_rows_can_return_rows(table: str) -> None:
    rows = [{"a": n, "b": None} for n in range(1_001)]
    done = perform_action("postgres", connection=table, query=f"{INSERT} returning a", rows=rows, fetch="ALL")
    assert done == {"rows": [{"a": n} for n in range(1_001)], "rowcount": 1_001}
    assert perform_action("postgres", connection=table, query=INSERT, rows=[]) == {"rowcount": 0}


def test_rows_are_combined_with_params_and_templates(table: str) -> None:
    perform_action(
        "postgres",
        connection=table,
        query="insert into {{ 't' | identifier }} (a, b, c) values (%(a)s, %(b)s, {{ c }})",
        params={"b": "shared"},
        rows=[{"a": 1, "c": "not this"}, {"a": 2, "b": "own", "noetl_0": "nor this"}],
        names={"c": {"x": [1]}},
    )
    assert contents(table) == [
        {"a": 1, "b": "shared", "c": {"x": [1]}},
        {"a": 2, "b": "own", "c": {"x": [1]}},
    ]


def test_rows_are_inserted_completely_or_not_at_all(table: str) -> None:
    rows = [{"a": n % 1_500, "b": ""} for n in range(2_000)]
    with pytest.raises(ActionError, match="duplicate key") as caught:
        perform_action("postgres", connection=table, query=INSERT, rows=rows)
    assert (caught.value.type, caught.value.retryable) == ("SQLError", False)
    assert contents(table) == []


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rows": [{"a": 1, "b": 2}, {"a": 1}]}, "item 2: missing 'b'"),
        ({"rows": [[1, 2]]}, "item 1 must be an object, not a list"),
        ({"rows": [], "query": [INSERT]}, "one statement"),
        ({"rows": [], "params": [1]}, "`params` must be an object"),
        ({"rows": [], "fetch": "one"}, "`fetch` must be `all` or `none`"),
    ],
)
def test_invalid_rows_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ActionError, match=message) as caught:
        perform_action("postgres", connection="postgresql://127.0.0.1:1/x", **{"query": INSERT, **parameters})
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("a,b\n1,x\n2,\n", {}),
        ("\ufeffb:string,a:integer\r\nx,1\r\n,2\r\n", {}),
        ('whatever,it says\n1,"x"\n2,', {"columns": ["a", "b"]}),
        ("x,1\n,2\n", {"header": False, "columns": ["b", "a"]}),
        ("1,x,\n2,,\n", {"header": False}),
    ],
)
def test_a_file_is_loaded_into_a_table(table: str, tmp_path: Path, text: str, how: dict[str, Any]) -> None:
    (tmp_path / "in.csv").write_text(text, "utf-8", newline="")
    capabilities = local_run_capabilities(tmp_path)
    copy = {"table": "public.{{ name }}", "file": "in.csv", **how}
    done = perform_action(
        "postgres", connection=table, copy_from=copy, names={"name": "t"}, capabilities=capabilities
    )
    assert done == {"rowcount": 2}
    assert contents(table, "select a, b from t order by a") == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_a_long_file_is_loaded_and_written_back(table: str, tmp_path: Path) -> None:
    lines = "".join(f'{n},"grüße, ""{n}"""\n' for n in range(50_000))
    (tmp_path / "in.csv").write_text(f"a,b\n{lines}", "utf-8")
    capabilities = local_run_capabilities(tmp_path)
    loaded = perform_action(
        "postgres", connection=table, copy_from={"table": "t", "file": "in.csv"}, capabilities=capabilities
    )
    written = perform_action(
        "postgres",
        connection=table,
        copy_to={
            "query": "select a, b from t where a >= {{ low }} order by a -- all;",
            "file": "out/{{ low }}.csv",
        },
        names={"low": 0},
        capabilities=capabilities,
    )
    assert loaded == written == {"rowcount": 50_000}
    assert (tmp_path / "out" / "0.csv").read_bytes() == (tmp_path / "in.csv").read_bytes()


NASTY = "'; drop table t; -- \\' $$ %"


def test_values_in_a_query_to_copy_are_quoted(table: str, tmp_path: Path) -> None:
    names = {"text": NASTY, "list": ["a'", "b"], "object": {"k": NASTY}, "column": 'a"%'}
    perform_action(
        "postgres",
        connection=table,
        copy_to={
            "query": (
                "select {{ text }} as {{ column | identifier }}, {{ list }}::text[] as l,"
                " {{ object }} as o, {{ none }} as n;"
            ),
            "file": "out.csv",
        },
        names=names,
        capabilities=local_run_capabilities(tmp_path),
    )
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row['a"%'], row["l"], json.loads(row["o"]), row["n"]) == (NASTY, "{a',b}", {"k": NASTY}, "")


def test_a_copy_that_fails_changes_nothing(table: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,x\n1,y\n")
    (tmp_path / "out.csv").write_text("before")
    for copy in (
        {"copy_from": {"table": "t", "file": "in.csv"}},
        {"copy_from": {"table": "t", "file": "in.csv", "columns": ["a", "none"]}},
        {"copy_to": {"query": "select 1 / (a - 3) from generate_series(1, 5) as g(a)", "file": "out.csv"}},
    ):
        with pytest.raises(ActionError) as caught:
            perform_action(
                "postgres", connection=table, capabilities=local_run_capabilities(tmp_path), **copy
            )
        assert (caught.value.type, caught.value.retryable) == ("SQLError", False)
    assert contents(table) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]
    assert (tmp_path / "out.csv").read_text() == "before"
    assert perform_action("postgres", connection=table, query="select 1", fetch="value") == 1


def test_a_copy_ends_at_its_deadline(table: str, tmp_path: Path) -> None:
    copy = {"query": "select pg_sleep(600)", "file": "out.csv"}
    with pytest.raises(ActionError) as caught:
        perform_action(
            "postgres",
            connection=table,
            copy_to=copy,
            capabilities=local_run_capabilities(tmp_path),
            seconds=0.3,
        )
    assert (caught.value.type, caught.value.retryable) == ("Timeout", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("copy", "type_", "message"),
    [
        ({"copy_from": {"table": "t", "file": "../in.csv"}}, "FileError", "outside the folder"),
        ({"copy_to": {"query": "select 1", "file": "/etc/out.csv"}}, "FileError", "outside the folder"),
        ({"copy_from": {"table": "t", "file": "none.csv"}}, "FileError", "no such file"),
        ({"copy_from": {"table": "t", "file": "."}}, "FileError", "not a file|is a directory"),
        ({"copy_from": {"table": "t", "file": "twice.csv"}}, "FileError", "duplicate column 'a'"),
        ({"copy_from": {"table": "t.", "file": "in.csv"}}, "ParameterError", "cannot be an identifier"),
        ({"copy_from": {"table": "t", "file": "in.csv", "columns": [1]}}, "ParameterError", "list of texts"),
        ({"copy_from": {"table": "t"}}, "ParameterError", "missing field `file` of `copy_from`"),
        (
            {"copy_to": {"query": "select '{{ x }}'", "file": "out.csv"}},
            "ParameterError",
            "template inside quotes",
        ),
        ({"copy_to": {"query": "{{ x }}", "file": "out.csv"}}, "ParameterError", "cannot come from data"),
        ({"copy_to": "{{ copy }}"}, "ParameterError", "literal mapping"),
    ],
)
def test_invalid_copies_are_refused(
    table: str, tmp_path: Path, copy: dict[str, Any], type_: str, message: str
) -> None:
    (tmp_path / "twice.csv").write_text("a,a\n1,1\n")
    names = {"x": "y", "copy": {"query": "drop table t", "file": "out.csv"}}
    with pytest.raises(ActionError, match=message) as caught:
        perform_action(
            "postgres", connection=table, names=names, capabilities=local_run_capabilities(tmp_path), **copy
        )
    assert (caught.value.type, caught.value.retryable) == (type_, False)


def test_copies_are_disabled_without_an_allowed_folder() -> None:
    copies: list[dict[str, Any]] = [
        {"copy_from": {"table": "t", "file": "x"}},
        {"copy_to": {"query": "select 1", "file": "x"}},
    ]
    for copy in copies:
        with pytest.raises(ActionError, match="NOETL_FILES_ROOT") as caught:
            perform_action(
                "postgres", connection="postgresql://127.0.0.1:1/x", capabilities=Capabilities(), **copy
            )
        assert caught.value.type == "ActionDisabled"


def test_idle_connections_are_closed_at_the_end_of_the_process() -> None:
    program = (
        "from types import SimpleNamespace as Entry\n"
        "from noetl.executor.actions._postgres_pool import CONNECTION_POOL\n"
        "CONNECTION_POOL._idle.append(Entry(connection=Entry(close=lambda: print('closed'))))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "closed\n"
