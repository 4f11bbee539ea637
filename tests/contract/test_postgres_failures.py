"""Failures of Postgres: lost connections, restarts, too many connections, and their messages."""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import PoolTimeout

from noetl.executor.errors import FencedError, SettingError, StoreError
from noetl.executor.model.run import RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.postgres import database
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.stores.sql.database import UnwrittenError
from noetl.executor.stores.sql.retry import MAX_RETRIES, retry_unwritten
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import CHAIN, DIAMOND, LEASE, claim_visit, start_run, succeed
from tests.postgres import PostgresServer, empty_database, running_server

SECRET = "hunter22"


@pytest.fixture
def store(postgres_store_dsn: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(postgres_store_dsn)) as opened:
        yield opened


@pytest.fixture
def administrator(postgres_store_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def restartable_server() -> Iterator[PostgresServer]:
    """A server that tests may stop and start."""
    with running_server(
        max_connections="12", superuser_reserved_connections="0", synchronous_commit="on"
    ) as server:
        yield server


@pytest.fixture
def restartable_dsn(restartable_server: PostgresServer) -> Iterator[str]:
    with empty_database(restartable_server.dsn) as dsn:
        upgrade(dsn)
        yield dsn


def end_sessions(administrator: psycopg.Connection[Any], state: str = "idle") -> int:
    """End the other sessions of this database with this state, and return how many there were."""
    query = (
        "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and application_name = 'noetl'"
        " and state = %s and query not like 'listen%%'"
    )
    row = administrator.execute(query, [state]).fetchone()
    assert row is not None
    return int(row[0])


def wait_for_blocked_session(administrator: psycopg.Connection[Any]) -> int:
    """Wait until a session waits for a lock, and return its process id."""
    query = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while (row := administrator.execute(query).fetchone()) is None:
        administrator.execute("select pg_sleep(0.01)")
    return int(row[0])


class TestRepetition:
    @pytest.fixture(autouse=True)
    def pauses(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        pauses: list[float] = []
        monkeypatch.setattr("time.sleep", pauses.append)
        return pauses

    @pytest.mark.parametrize("failures", range(MAX_RETRIES + 2))
    def test_retries_are_limited(self, pauses: list[float], failures: int) -> None:
        errors = [UnwrittenError("no")] * failures

        @retry_unwritten
        def operation(answer: int) -> int:
            if errors:
                raise errors.pop()
            return answer

        if failures > MAX_RETRIES:
            with pytest.raises(StoreError, match="no"):
                operation(3)
        else:
            assert operation(3) == 3
        assert len(pauses) == min(failures, MAX_RETRIES)
        for index, pause in enumerate(pauses):
            longest = min(0.01 * 2**index, 1.0)
            assert longest / 2 <= pause <= longest

    @pytest.mark.parametrize("error", [StoreError("no"), FencedError("no"), ValueError("no")])
    def test_only_unwritten_operations_are_retried(self, pauses: list[float], error: Exception) -> None:
        @retry_unwritten
        def operation() -> None:
            raise error

        with pytest.raises(type(error)):
            operation()
        assert pauses == []


class TestLostConnections:
    def test_an_idle_connection_that_is_lost_is_replaced(
        self, store: PostgresStore, administrator: psycopg.Connection[Any]
    ) -> None:
        run = start_run(store)
        assert end_sessions(administrator) > 0
        claim = claim_visit(store, run)
        assert end_sessions(administrator) > 0
        assert store.queue.commit(succeed(store, claim), 1.0, LEASE).following is not None
        assert end_sessions(administrator) > 0
        assert [visit.step for visit in store.runs.visits(run.id)] == ["a", "b"]

    def test_a_connection_lost_in_a_transaction_is_retried(
        self, store: PostgresStore, administrator: psycopg.Connection[Any]
    ) -> None:
        """The transaction wrote nothing, so it is retried."""
        run = start_run(store)
        with ThreadPoolExecutor(1) as pool:
            with administrator.transaction():
                administrator.execute("select 1 from runs for update")
                future = pool.submit(store.runs.stop, run.id, RunStatus.CANCELLED, 1.0)
                administrator.execute(
                    "select pg_terminate_backend(%s)", [wait_for_blocked_session(administrator)]
                )
            assert future.result().stop is RunStatus.CANCELLED

    def test_a_connection_lost_in_a_read_is_retried(
        self, store: PostgresStore, administrator: psycopg.Connection[Any]
    ) -> None:
        run = start_run(store)
        with ThreadPoolExecutor(1) as pool:
            with administrator.transaction():
                administrator.execute("lock table runs")
                future = pool.submit(store.runs.get, "default", run.id)
                administrator.execute(
                    "select pg_terminate_backend(%s)", [wait_for_blocked_session(administrator)]
                )
            assert future.result() == run

    @pytest.mark.parametrize("text", [CHAIN, DIAMOND], ids=["one statement", "a transaction"])
    def test_a_connection_lost_at_the_commit_is_reported(
        self, store: PostgresStore, administrator: psycopg.Connection[Any], text: str
    ) -> None:
        """The result is unknown: a plain StoreError. The next claim after the lease starts again."""
        run = start_run(store, text)
        claim = claim_visit(store, run)
        administrator.execute("""
            create function hold() returns trigger language plpgsql as
                'begin perform pg_advisory_xact_lock(1); return null; end';
            create constraint trigger hold after insert on visits deferrable initially deferred
                for each row execute function hold();
        """)
        with ThreadPoolExecutor(1) as pool:
            with administrator.transaction():
                administrator.execute("select pg_advisory_xact_lock(1)")
                future = pool.submit(store.queue.commit, succeed(store, claim), 1.0, LEASE)
                administrator.execute(
                    "select pg_terminate_backend(%s)", [wait_for_blocked_session(administrator)]
                )
            error = future.exception()
        assert isinstance(error, StoreError) and not isinstance(error, UnwrittenError)
        assert [visit.status for visit in store.runs.visits(run.id)] == ["running"]
        again = claim_visit(store, run, 30.0)
        assert again.visit.fence == claim.visit.fence + 1
        store.queue.commit(succeed(store, again), 31.0)
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, claim), 31.0)
        assert check_consistency(store.database) == []


class CuttingProxy:
    """A proxy in front of a server, which cuts a connection when a client sends `cut`.

    `loses` is "request" to lose the data of the client, or "response" to lose the data of the server.
    """

    def __init__(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        folder = parse_qs(parts.query)["host"][0]
        self._server = f"{folder}/.s.PGSQL.5432"
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.cut: bytes | None = None
        self.loses = "response"
        port = self._listening.getsockname()[1]
        self.dsn = f"postgresql://postgres@127.0.0.1:{port}{parts.path}?sslmode=disable&gssencmode=disable"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def has_cut(self) -> bool:
        """Return whether the connection was cut."""
        return self.cut is None

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with self._listening, suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._threads.append(threading.Thread(target=self._pass, args=(client,)))
                self._threads[-1].start()

    def _pass(self, client: socket.socket) -> None:
        with (
            client,
            socket.socket(socket.AF_UNIX) as server,
            selectors.DefaultSelector() as selector,
            suppress(OSError),
        ):
            server.connect(self._server)
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select():
                    source: Any = key.fileobj
                    if not (sent := source.recv(65536)):
                        return
                    if source is client and self.cut is not None and self.cut in sent:
                        self.cut = None
                        if self.loses == "response":
                            server.sendall(sent)
                            server.shutdown(socket.SHUT_WR)
                            # Wait until the server has executed the statement and closed the connection.
                            while server.recv(65536):
                                pass
                        return
                    key.data.sendall(sent)


@pytest.fixture
def proxy(restartable_dsn: str) -> Iterator[CuttingProxy]:
    with closing(CuttingProxy(restartable_dsn)) as proxy:
        yield proxy


@pytest.mark.parametrize("loses", ["request", "response"])
@pytest.mark.parametrize(
    ("text", "cut"), [(CHAIN, b"), entered as"), (DIAMOND, b"COMMIT\0")], ids=["chain", "fork"]
)
def test_a_commit_with_a_lost_response_is_made_at_most_once(
    proxy: CuttingProxy, text: str, cut: bytes, loses: str
) -> None:
    """The commit fails with a StoreError. After the lease the run continues, and nothing happens twice."""
    with closing(PostgresStore(proxy.dsn)) as store:
        play = RunHarness(store, text, folder=Path.cwd())
        claim = play.claim()
        assert claim is not None
        proxy.loses, proxy.cut = loses, cut
        with pytest.raises(StoreError) as raised:
            play.executor().execute(claim)
        assert not isinstance(raised.value, UnwrittenError)
        assert proxy.has_cut()
        play.finish()
        assert play.status is RunStatus.SUCCEEDED
        assert set(play.visit_counts.values()) == {1}
        assert play.event_types().count("workflow.completed") == 1
        assert play.event_types("a").count("step.completed") == 1
        assert check_consistency(store.database) == []


class TestRestarts:
    @pytest.mark.parametrize("mode", ["fast", "immediate"])
    def test_workers_survive_a_restart(
        self, restartable_server: PostgresServer, restartable_dsn: str, tmp_path: Path, mode: str
    ) -> None:
        with closing(PostgresStore(restartable_dsn)) as store:
            worker = Worker(
                store,
                WorkerSettings(local_run_capabilities(tmp_path), threads=2, queue="q", lease_seconds=1.0),
            )
            worker.start()
            before = worker.wait_until_finished("default", start_run(store, queue="q", now=1.0).id)
            restartable_server.stop(mode)
            restartable_server.start()
            after = worker.wait_until_finished("default", start_run(store, queue="q", now=2.0).id)
            worker.stop()
            assert (before.status, after.status) == ("succeeded", "succeeded")
            assert check_consistency(store.database) == []

    def test_notifications_resume_after_a_restart(
        self, restartable_server: PostgresServer, restartable_dsn: str
    ) -> None:
        with (
            closing(PostgresStore(restartable_dsn)) as store,
            closing(PostgresStore(restartable_dsn)) as other,
        ):
            restartable_server.stop()
            restartable_server.start()
            notifications = store.work.count
            while store.work.count == notifications:
                start_run(other)
                store.work.wait(notifications, 0.05)

    def test_a_server_that_stays_down_is_reported(
        self, restartable_server: PostgresServer, restartable_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(PostgresStore(restartable_dsn)) as store:
            store.postgres._pool.timeout = 0.2
            restartable_server.stop()
            try:
                with pytest.raises(
                    StoreError, match=r"^The store in Postgres failed: connection .* failed: .*\.$"
                ):
                    start_run(store)
            finally:
                restartable_server.start()
            store.postgres._pool.timeout = 10.0
            assert start_run(store).status is RunStatus.QUEUED


class TestTooManyConnections:
    @contextmanager
    def take_connections(self, dsn: str, left: int = 0) -> Iterator[None]:
        """Use up all connections of the server except `left`."""
        with ExitStack() as held:
            taken: list[psycopg.Connection[Any]] = []
            with suppress(psycopg.OperationalError):
                while True:
                    taken.append(held.enter_context(psycopg.connect(dsn)))
            for connection in taken[:left]:
                connection.close()
            yield

    def test_too_many_connections_are_reported(self, restartable_dsn: str) -> None:
        reason = r"^The store in Postgres failed: .*too many clients already\.$"
        with self.take_connections(restartable_dsn), pytest.raises(StoreError, match=reason):
            PostgresStore(restartable_dsn)

    def test_one_connection_is_enough(self, restartable_dsn: str) -> None:
        """Several threads share one connection, also for plans that are not cached yet."""
        with closing(PostgresStore(restartable_dsn)) as store, self.take_connections(restartable_dsn):
            store.plans.save(compile_text(DIAMOND))
            with ThreadPoolExecutor(4) as pool:
                runs = list(pool.map(lambda _: start_run(store, DIAMOND), range(4)))
                claims = list(pool.map(lambda run: claim_visit(store, run), runs))
                list(pool.map(lambda claim: store.queue.commit(succeed(store, claim), 1.0), claims))
            assert {len(store.runs.visits(run.id)) for run in runs} == {5}

    def test_an_exhausted_pool_reports_the_reason(self, restartable_dsn: str) -> None:
        with (
            closing(PostgresStore(restartable_dsn)) as store,
            self.take_connections(restartable_dsn),
            ExitStack() as held,
        ):
            store.postgres._pool.timeout = 0.2
            with suppress(PoolTimeout):
                while True:
                    held.enter_context(store.postgres._pool.connection())
            with pytest.raises(StoreError, match=r"too many clients already\.$"):
                store.runs.get("default", "x")

    def test_a_pool_without_a_connection_says_whether_it_is_full(
        self, postgres_store_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database, "MAX_CONNECTIONS", 1)
        with closing(PostgresStore(postgres_store_dsn)) as store, store.postgres._pool.connection():
            store.postgres._pool.timeout = 0.2
            with pytest.raises(StoreError, match="all connections of this process are in use"):
                store.runs.get("default", "x")
            store.postgres._pool.resize(1, 2)
            assert "was away for some seconds" in str(store.postgres._connection_failure())

    @pytest.mark.parametrize(("threads", "connections"), [(1, 9), (16, 24), (1000, 64), (None, 16)])
    def test_connections_follow_the_threads(
        self, postgres_store_dsn: str, threads: int | None, connections: int
    ) -> None:
        with closing(open_store(postgres_store_dsn, threads=threads)) as store:
            assert isinstance(store, PostgresStore)
            assert store.postgres._pool.max_size == connections

    def test_connections_do_not_grow_with_restarts(
        self, restartable_server: PostgresServer, restartable_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All threads connect at once after a restart. Later the pool closes what it does not need."""
        monkeypatch.setattr(database, "EXTRA_CONNECTIONS", 1)
        monkeypatch.setattr(database, "MAX_IDLE_SECONDS", 0.2)
        with closing(PostgresStore(restartable_dsn, threads=2)) as store, ThreadPoolExecutor(12) as pool:
            run = start_run(store)
            for _ in range(2):
                restartable_server.stop()
                restartable_server.start()
                reads = [pool.submit(store.runs.get, "default", run.id) for _ in range(48)]
                assert all(read.result() == run for read in reads)
                assert store.postgres._pool.get_stats()["pool_size"] <= 3
            while store.postgres._pool.get_stats()["pool_size"] > 1:
                store.runs.get("default", run.id)


class TestAddress:
    @pytest.mark.parametrize(
        "uri",
        [
            f"postgresql://u:{SECRET}@127.0.0.1:1/db?connect_timeout=1",
            f"postgresql://u:{SECRET}@127.0.0.1:port/db",
            f"postgresql://u:%zz{SECRET}@127.0.0.1:1/db",
            f"postgresql://u:{SECRET}%00@127.0.0.1:1/db",
            f"postgresql://u:a/{SECRET}@127.0.0.1:1/db",
            f"postgresql://u:1/{SECRET}@127.0.0.1:1/db",
            f"postgresql://u:a@{SECRET}@127.0.0.1:1/db?connect_timeout=1",
            f"postgresql://u:a#{SECRET}@127.0.0.1:1/db",
            f"postgresql://u:a?{SECRET}@127.0.0.1:1/db",
            f"postgresql://u:[{SECRET}@127.0.0.1:1/db",
            f"postgresql://127.0.0.1:1/db?user=u&password={SECRET}&connect_timeout=1",
            f"postgresql://127.0.0.1:1/db?pasword={SECRET}",
            f"postgresql://127.0.0.1:1/db?password={SECRET}&sslmode=nonsense",
            f"postgres://u:{SECRET}@127.0.0.1:1,127.0.0.1:2/db?connect_timeout=1",
            f"postgresql:/u:{SECRET}@127.0.0.1/db",
            f"host=127.0.0.1 password={SECRET}",
            f"postgresql+psycopg://u:{SECRET}@127.0.0.1/db",
            f"mysql://u:{SECRET}@127.0.0.1/db",
        ],
    )
    def test_messages_and_logs_hide_passwords(self, uri: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        for use in (
            (open_store, upgrade) if uri.startswith(("postgres://", "postgresql://")) else (open_store,)
        ):
            with pytest.raises((StoreError, SettingError)) as raised:
                use(uri)
            error = raised.value
            assert SECRET not in "".join(traceback.format_exception(type(error), error, error.__traceback__))
            assert "\n" not in str(error)
        assert SECRET not in caplog.text

    @pytest.mark.parametrize(
        ("uri", "reason"),
        [
            ("postgresql://h/db?nonsense=1", 'invalid URI query parameter: "nonsense"'),
            ("postgresql://h:port/db", "its port must be a number"),
            ("postgresql://u:p@ss@h/db", "must be encoded as in %40"),
            ("postgresql://u:1/a@h/db", "must be encoded as in %40"),
        ],
    )
    def test_the_reason_why_a_uri_is_invalid(self, uri: str, reason: str) -> None:
        with pytest.raises(StoreError) as raised:
            PostgresStore(uri)
        assert reason in str(raised.value)
        assert str(raised.value).startswith("The URI of the store in Postgres is invalid: ")

    def test_parameters_of_libpq_are_accepted(self, postgres_dsn: str) -> None:
        uri = postgres_dsn.replace("postgresql://", "postgres://")
        upgrade(uri)
        parameters = (
            "&sslmode=disable&connect_timeout=7&options=-c%20statement_timeout%3D5s&application_name=mine"
        )
        with closing(open_store(uri + parameters)) as store:
            assert isinstance(store, PostgresStore)
            shown = {
                name: self.read_setting(store, name) for name in ("statement_timeout", "application_name")
            }
            assert shown == {"statement_timeout": "5s", "application_name": "mine"}

    def test_default_settings_of_sessions(self, store: PostgresStore) -> None:
        names = ("statement_timeout", "idle_in_transaction_session_timeout", "application_name")
        assert [self.read_setting(store, name) for name in names] == ["30s", "20s", "noetl"]

    def test_settings_of_the_database_are_kept(self, postgres_store_dsn: str) -> None:
        """The isolation level is an exception, because transactions depend on it."""
        name = urlsplit(postgres_store_dsn).path[1:]
        with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
            connection.execute(f"alter database {name} set statement_timeout = '7s'".encode())
            connection.execute(
                f"alter database {name} set default_transaction_isolation = 'serializable'".encode()
            )
        with closing(PostgresStore(postgres_store_dsn)) as store:
            shown = [
                self.read_setting(store, name)
                for name in ("statement_timeout", "default_transaction_isolation")
            ]
            assert shown == ["7s", "read committed"]

    def test_a_read_only_server_is_not_ready(self, postgres_store_dsn: str) -> None:
        """A replica is such a server, and one whose administrator has made it read-only."""
        name = urlsplit(postgres_store_dsn).path[1:]
        with closing(PostgresStore(postgres_store_dsn)) as store:
            store.maintenance.probe()
        with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
            connection.execute(f"alter database {name} set default_transaction_read_only = on".encode())
        with (
            closing(PostgresStore(postgres_store_dsn)) as store,
            pytest.raises(StoreError, match="is read-only"),
        ):
            store.maintenance.probe()

    def test_a_user_without_the_right_to_write_is_not_ready(self, postgres_store_dsn: str) -> None:
        role = f"reader_{secrets.token_hex(4)}"
        with psycopg.connect(postgres_store_dsn, autocommit=True) as connection:
            connection.execute(f"create role {role} login".encode())
            connection.execute(f"grant select on all tables in schema public to {role}".encode())
            try:
                with closing(PostgresStore(make_conninfo(postgres_store_dsn, user=role))) as store:
                    with pytest.raises(StoreError, match="is read-only"):
                        store.maintenance.probe()
                    writes = "grant insert, update on all tables in schema public to"
                    connection.execute(f"{writes} {role}".encode())
                    store.maintenance.probe()
            finally:
                connection.execute(f"drop owned by {role}".encode())
                connection.execute(f"drop role {role}".encode())

    def test_a_server_without_room_is_not_ready(self, postgres_store_dsn: str) -> None:
        """A trigger fails as the server does whose disk is full, which no test can fill."""
        refusal = "begin raise exception 'could not extend file' using errcode = 'disk_full'; end"
        with (
            psycopg.connect(postgres_store_dsn, autocommit=True) as connection,
            closing(PostgresStore(postgres_store_dsn)) as store,
        ):
            connection.execute(
                f"create function refuse() returns trigger language plpgsql as $${refusal}$$".encode()
            )
            for table in ("plans", "runs"):
                connection.execute(
                    f"create trigger refusal before insert on {table} execute function refuse()".encode()
                )
            store.maintenance.probe()
            for operation in (lambda: start_run(store), store.maintenance.probe, store.maintenance.probe):
                with pytest.raises(StoreError, match="could not extend file"):
                    operation()
            connection.execute(b"drop function refuse cascade")
            store.maintenance.probe()
            assert connection.execute(b"select count(*) from plans").fetchone() == (0,)
            start_run(store)

    def test_a_session_that_may_not_write_is_replaced(self, postgres_store_dsn: str) -> None:
        """A session that began while the server was read-only stays so."""
        with closing(PostgresStore(postgres_store_dsn)) as store:
            with store.postgres._pool.connection() as connection:
                connection.execute("set default_transaction_read_only = on")
            with pytest.raises(StoreError, match="read-only"):
                start_run(store)
            assert start_run(store).status is RunStatus.QUEUED

    def read_setting(self, store: PostgresStore, name: str) -> str:
        return str(store.postgres.fetch_one("select current_setting(:name) as value", name=name)["value"])


class TestPrepared:
    def read_run_often(self, store: PostgresStore, run_id: str) -> None:
        for _ in range(12):
            assert store.runs.get("default", run_id) is not None

    def test_sessions_may_lose_prepared_statements(
        self, store: PostgresStore, administrator: psycopg.Connection[Any]
    ) -> None:
        """A connection pooler may give each transaction another session."""
        run = start_run(store)
        self.read_run_often(store, run.id)
        pool = store.postgres._pool
        for _ in range(12):
            with ExitStack() as held:
                for _ in range(pool.get_stats()["pool_size"]):
                    # Hidden from the client, which would otherwise forget the statements too.
                    connection = held.enter_context(pool.connection())
                    connection.execute("do $$ begin execute 'deallocate all'; end $$", prepare=False)
            assert store.runs.get("default", run.id) == run
        assert store.postgres._prepare_after is None
        assert start_run(store).status is RunStatus.QUEUED

    def test_statements_of_two_processes_have_different_names(
        self, store: PostgresStore, postgres_store_dsn: str
    ) -> None:
        """Behind a pooler, a process may get the session of another one, with its prepared statements."""
        run = start_run(store)
        with closing(PostgresStore(postgres_store_dsn)) as other:
            names = []
            for process in (store, other):
                self.read_run_often(process, run.id)
                rows = process.postgres.fetch_all("select name from pg_prepared_statements")
                names.append({row["name"] for row in rows})
            assert names[0]
            assert names[1]
            assert names[0].isdisjoint(names[1])

    def test_a_table_may_get_another_column(
        self, store: PostgresStore, administrator: psycopg.Connection[Any]
    ) -> None:
        """A later release migrates the schema while this one is running."""
        run = start_run(store)
        self.read_run_often(store, run.id)
        administrator.execute("alter table runs add column later text")
        assert store.runs.get("default", run.id) == run


class TestText:
    @pytest.mark.parametrize("text", ["a\0b", "\ud83d", "\0"])
    def test_text_that_no_column_can_hold_is_not_found(self, store: PostgresStore, text: str) -> None:
        run = start_run(store)
        assert store.runs.get("default", text) is None
        assert store.runs.get(text, run.id) is None
        assert store.runs.find(RunFilter(playbook=text)) == ([], None)
        assert store.runs.events(text) == []
        assert store.registry.get("default", text) is None
        assert store.registry.find("default", text) == ([], None)

    @pytest.mark.parametrize("tag", ["a\0b", "\ud83d", '"', "\\", ",", "é", "a'b", "%", "?"])
    def test_tags_may_be_any_text(self, store: PostgresStore, tag: str) -> None:
        run = start_run(store, tags=[tag, "x"])
        start_run(store, tags=["y", f"{tag}{tag}"])
        assert [run_with_tag.id for run_with_tag in store.runs.find(RunFilter(tags=(tag,)))[0]] == [run.id]
        assert [run_with_tag.id for run_with_tag in store.runs.find(RunFilter(tags=("x",)))[0]] == [run.id]
