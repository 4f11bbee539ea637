"""Stores and the action `postgres` behind a real PgBouncer, in each of its modes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from noetl.executor.errors import ActionError, StoreAwayError, StoreError
from noetl.executor.model.run import RunStatus
from noetl.executor.patience import limited_patience
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores.postgres.pooler import Pooler
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql.consistency import check_consistency
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.migrations import upgrade
from noetl.testing.store_contract.operations import DIAMOND, start_run
from tests.action_calls import perform_action
from tests.pgbouncer import running_pgbouncer
from tests.postgres import empty_database, running_server

PROCESSES = 2
RUNS = 4
SESSIONS = 8
TOKEN = "select 'statement of another process'"
INBOX = """
    create table inbox
        (id bigserial primary key, body jsonb, receives integer not null default 0, dead_at timestamptz);
    insert into inbox (body) select to_jsonb(number) from generate_series(0, 11) as number
"""

MODES = ("session", "transaction", "statement")
with_each_pooler = pytest.mark.parametrize(
    "pgbouncer", [(mode, size) for mode in MODES for size in (0, 200)], indirect=True, ids=str
)

with_each_mode = pytest.mark.parametrize(
    "pgbouncer", [(mode, 0) for mode in MODES], indirect=True, ids=lambda case: case[0]
)


class PoolerCase(NamedTuple):
    """The DSN of a database through a PgBouncer with this configuration."""

    dsn: str
    mode: str
    max_prepared: int


@pytest.fixture(scope="module")
def pgbouncer(postgres_server: str, request: pytest.FixtureRequest) -> Iterator[PoolerCase]:
    """A PgBouncer in front of the server. Its parameter is a mode with `max_prepared_statements`."""
    mode, max_prepared = request.param
    with running_pgbouncer(postgres_server, mode, max_prepared, default_pool_size=str(SESSIONS)) as dsn:
        yield PoolerCase(dsn, mode, max_prepared)


@pytest.fixture
def pooler(pgbouncer: PoolerCase, postgres_dsn: str) -> PoolerCase:
    """A PgBouncer in front of an empty database."""
    path = urlsplit(postgres_dsn).path
    return pgbouncer._replace(dsn=urlunsplit(urlsplit(pgbouncer.dsn)._replace(path=path)))


@with_each_pooler
def test_workers_share_sessions_or_are_refused(pooler: PoolerCase, postgres_dsn: str, tmp_path: Path) -> None:
    """Two workers with more connections than there are sessions execute each step once."""
    dsn, mode, max_prepared = pooler
    upgrade(postgres_dsn)
    if mode == "statement":
        with pytest.raises(StoreError, match="a pooler that gives each statement another session"):
            PostgresStore(dsn)
        return
    with ExitStack() as opened:
        stores = [opened.enter_context(closing(PostgresStore(dsn))) for _ in range(PROCESSES)]
        follows = mode == "transaction" and max_prepared > 0
        expected = Pooler.FOLLOWS_PREPARED if follows else Pooler.FORGETS_PREPARED
        assert {store.postgres._pooler for store in stores} == {expected}
        settings = WorkerSettings(local_run_capabilities(tmp_path), threads=2, queue="q")
        workers = [Worker(store, settings) for store in stores]
        for worker in workers:
            worker.start()
            opened.callback(worker.stop)
        runs = [start_run(stores[0], DIAMOND, queue="q", now=float(number)) for number in range(RUNS)]
        for run in runs:
            assert workers[0].wait_until_finished("default", run.id).status == RunStatus.SUCCEEDED
        assert check_consistency(stores[0].database) == []
        names = stores[0].postgres.fetch_all("select name from pg_prepared_statements")
        assert all(row["name"].startswith("PGBOUNCER_") for row in names)
        assert not names or follows


@pytest.mark.parametrize("pgbouncer", [("transaction", 0), ("transaction", 200)], indirect=True, ids=str)
def test_a_statement_of_another_process_is_not_executed(pooler: PoolerCase, postgres_dsn: str) -> None:
    """Another program has prepared statements in all sessions, with the default names of psycopg."""
    dsn, _, _ = pooler
    prepare_in_all_sessions(dsn)
    upgrade(dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute(INBOX)
    bodies: list[str] = []
    with closing(PostgresStore(dsn)) as store, closing(store.message_tables):
        run = start_run(store)
        assert [store.runs.get("default", run.id) for _ in range(12)] == [run] * 12

        def handle(row: Mapping[str, Any]) -> bool:
            bodies.append(row["body"])
            return True

        while store.message_tables.read_batch("inbox", 1, 5, handle):
            pass
    assert bodies == [str(number) for number in range(12)]


@pytest.mark.parametrize("pgbouncer", [("transaction", 0), ("transaction", 200)], indirect=True, ids=str)
def test_settings_stay_in_the_store(pooler: PoolerCase, postgres_dsn: str) -> None:
    """The next client of a session gets no timeout of a statement that is not its own."""
    upgrade(postgres_dsn)
    with closing(PostgresStore(pooler.dsn)) as store:
        start_run(store)
    with ExitStack() as held:
        for _ in range(SESSIONS):
            session = held.enter_context(psycopg.connect(pooler.dsn))
            assert session.execute("show statement_timeout").fetchone() == ("0",)


def prepare_in_all_sessions(dsn: str) -> None:
    """Prepare statements in all sessions of a pooler, with the default names of psycopg."""
    with ExitStack() as held:
        for _ in range(SESSIONS):
            session = held.enter_context(psycopg.connect(dsn))
            for number in range(4):
                session.execute(f"prepare _pg3_{number} as {TOKEN}".encode(), prepare=False)


class TestAction:
    @pytest.fixture(autouse=True)
    def no_idle_connections(self, no_idle_connections: None) -> None:
        """Keep no connection for the next test."""

    @with_each_pooler
    def test_statements_and_transactions(self, pooler: PoolerCase) -> None:
        dsn, mode, _ = pooler
        perform_action("postgres", connection=dsn, query="create table t (n int)")
        assert perform_action("postgres", connection=dsn, query="vacuum t")["rowcount"] == -1
        insert: dict[str, Any] = {
            "query": ["insert into t values (1)", "insert into t values (2) returning n"],
            "fetch": "value",
        }
        rows: dict[str, Any] = {"query": "insert into t values (%(n)s)", "rows": [{"n": 3}, {"n": 4}]}
        if mode != "statement":
            assert perform_action("postgres", connection=dsn, **insert) == 2
            assert perform_action("postgres", connection=dsn, **rows) == {"rowcount": 2}
        else:
            for parameters in (insert, rows):
                with pytest.raises(
                    ActionError, match="use one statement, or a pool of transactions"
                ) as caught:
                    perform_action("postgres", connection=dsn, **parameters)
                assert (caught.value.type, caught.value.retryable) == ("SQLError", False)
        total = perform_action("postgres", connection=dsn, query="select sum(n) from t", fetch="value")
        assert total == (None if mode == "statement" else 10)

    @with_each_mode
    def test_settings_stay_in_the_action(self, pooler: PoolerCase, postgres_dsn: str) -> None:
        """The next client of a session gets no timeout of a statement that is not its own."""
        dsn, mode, _ = pooler
        queries = ["select 1", "select 2"]
        query = "select 1" if mode == "statement" else queries
        perform_action("postgres", connection=dsn, query="select 1", seconds=60)
        perform_action("postgres", connection=dsn, query=query, seconds=60)
        with pytest.raises(ActionError, match="division by zero"):
            perform_action("postgres", connection=dsn, query="select 1 / 0", seconds=60)
        with ExitStack() as held:
            for _ in range(SESSIONS):
                session = held.enter_context(psycopg.connect(dsn, autocommit=mode == "statement"))
                assert session.execute("show statement_timeout").fetchone() == ("0",)

    @with_each_mode
    def test_a_statement_ends_at_its_deadline(self, pooler: PoolerCase, postgres_dsn: str) -> None:
        dsn, mode, _ = pooler
        sleep = "select pg_sleep(60)"
        active = (
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and state = 'active' and query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
        )
        for query in (sleep,) if mode == "statement" else (sleep, ["select 1", sleep]):
            with pytest.raises(ActionError) as caught:
                perform_action("postgres", connection=dsn, query=query, seconds=0.2)
            assert caught.value.type == "Timeout"
            with psycopg.connect(postgres_dsn, autocommit=True) as administrator:
                while administrator.execute(active.encode()).fetchone() != (0,):
                    administrator.execute("select pg_sleep(0.01)")


def test_a_server_that_has_stopped_behind_its_pooler_is_an_absent_store() -> None:
    """Requests then fail at once instead of trying again, each for its patience."""
    with running_server() as server, empty_database(server.dsn) as dsn:
        upgrade(dsn)
        with running_pgbouncer(dsn, "transaction", 100) as pooled, closing(PostgresStore(pooled)) as store:
            run = start_run(store, DIAMOND)
            server.stop("immediate")
            try:
                with limited_patience(0.1):
                    for _ in range(3):
                        with pytest.raises(StoreAwayError):
                            store.runs.get("default", run.id)
            finally:
                server.start()
