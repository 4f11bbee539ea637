"""The contract of stores on Postgres, its schema and its queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, StoreError
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.outbox import OutboxKind
from noetl.executor.model.run import Claim, RunStatus, WaitKey
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores import open_store
from noetl.executor.stores.cursors import write_cursor, write_key_cursor, write_wait_cursor
from noetl.executor.stores.postgres.database import SCHEMA_VERSION, STATEMENTS, PostgresResult, PostgresWriter
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sql import latest_visits
from noetl.executor.stores.sql.outbox import delete_expired_entries
from noetl.executor.stores.sql.statements import to_numbered
from noetl.infra.migrations import migrations, upgrade
from noetl.planner.plan import Plan
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract import (
    FactsContract,
    MaintenanceContract,
    StoreContract,
    SwitchesContract,
)
from noetl.testing.store_contract.operations import CHAIN, DIAMOND, LEASE, claim_visit, start_run, succeed
from tests.contract.earlier_waits import EARLIER_WAITS
from tests.contract.payload_poison import check_payloads_are_not_read
from tests.contract.sql_damage import SqlDamage
from tests.postgres import empty_database

LIMIT = 4096


class TestPostgres(
    StoreContract,
    SwitchesContract,
    FactsContract,
    MaintenanceContract,
):
    limits = PayloadLimits(payload_bytes=LIMIT, answer_bytes=LIMIT)
    damage = SqlDamage()

    @pytest.fixture
    def store(self, reused_postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
        opened = PostgresStore(reused_postgres_dsn, limits=PayloadLimits(LIMIT, LIMIT))
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: PostgresStore, reused_postgres_dsn: str) -> Iterator[PostgresStore]:
        opened = PostgresStore(reused_postgres_dsn, limits=PayloadLimits(LIMIT, LIMIT))
        yield opened
        opened.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_values_larger_than_a_socket_buffer_are_stored(postgres_store_dsn: str, size: int) -> None:
    """A pipeline sends a large value with other statements, and neither side blocks."""
    with closing(PostgresStore(postgres_store_dsn)) as store:
        source = compile_text(DIAMOND)
        plan = Plan(source.header, source.steps, source.tasks, source.source + "#" * size)
        store.plans.save(plan)
        assert store.plans.get(plan.hash).source == plan.source
        run = store.runs.create(*new_run(plan.header, plan.hash, StartRequest(origin="local"), now=1.0))
        claim = claim_visit(store, run, 1.0)
        store.queue.commit(succeed(store, claim, saved={"n": "x" * size}), 1.0)
        (visit,) = store.runs.visits_with_outputs(run.id, [claim.visit.id])
        assert visit.saved == {"n": "x" * size}
        with pytest.raises(FencedError):
            store.queue.commit(succeed(store, claim, saved={"n": "y" * size}), 1.0)
        (visit,) = store.runs.visits_with_outputs(run.id, [claim.visit.id])
        assert visit.saved == {"n": "x" * size}


@pytest.mark.parametrize(("text", "statements"), [(CHAIN, 1), (DIAMOND, 2)], ids=["chain", "branch"])
def test_a_commit_of_a_step_takes_few_statements(
    postgres_store_dsn: str, text: str, statements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain takes one statement, and an arrival one more that locks the run. Both claim the next visit."""
    with closing(PostgresStore(postgres_store_dsn)) as store:
        run = start_run(store, text)
        claim = claim_visit(store, run)
        following = store.queue.commit(succeed(store, claim, saved={"n": 1}), 1.0, LEASE).following
        assert following is not None
        commit = succeed(store, Claim(claim.run, following))
        store.queue._queue_of(run.id)  # each process reads it once
        statements_sent: list[str] = []
        execute = PostgresWriter.execute

        def count_statement(self: PostgresWriter, query: str, /, **values: Any) -> PostgresResult:
            statements_sent.append(query)
            return execute(self, query, **values)

        monkeypatch.setattr(PostgresWriter, "execute", count_statement)
        after = store.queue.commit(commit, 2.0, LEASE).following
        assert len(statements_sent) == statements, statements_sent
        assert after is not None
        assert (after.status, after.fence, after.worker, after.due_at) == ("running", 1, LEASE.worker, 32.0)
        (began,) = [
            event
            for event in store.runs.events(run.id)
            if event.type == "step.started" and event.step == after.step
        ]
        assert (began.at, began.visit, began.attempt, began.payload) == (2.0, 1, 1, {"worker": LEASE.worker})


class TestSchema:
    def test_the_store_knows_all_migrations(self) -> None:
        assert len(migrations()) == SCHEMA_VERSION

    def test_upgrade_applies_each_migration_once(self, postgres_dsn: str) -> None:
        assert upgrade(postgres_dsn) == list(range(1, SCHEMA_VERSION + 1))
        assert upgrade(postgres_dsn) == []

    def test_upgrade_needs_no_right_to_create_if_nothing_is_missing(self, postgres_dsn: str) -> None:
        upgrade(postgres_dsn)
        role = f"role_{uuid4().hex}"
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(f"create role {role}".encode())
            try:
                connection.execute(f"grant select on noetl_migrations to {role}".encode())
                dsn = make_conninfo(postgres_dsn, options=f"-crole={role}")
                assert upgrade(dsn) == []
                connection.execute("delete from noetl_migrations where number > 1")
                with pytest.raises(StoreError, match="cannot be upgraded"):
                    upgrade(dsn)
            finally:
                connection.execute(f"drop owned by {role}".encode())
                connection.execute(f"drop role {role}".encode())

    def test_open_refuses_a_database_without_schema(self, postgres_dsn: str) -> None:
        with pytest.raises(StoreError, match="noetl db upgrade"):
            PostgresStore(postgres_dsn)

    def test_a_failed_upgrade_leaves_nothing(
        self, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "noetl.infra.migrations.migrations", lambda: [*migrations(), "create table half (x no_such_type)"]
        )
        with pytest.raises(StoreError, match="no_such_type"):
            upgrade(postgres_dsn)
        with psycopg.connect(postgres_dsn) as connection:
            assert connection.execute("select to_regclass('runs')").fetchone() == (None,)


def test_open_store_accepts_a_postgres_url(postgres_dsn: str) -> None:
    upgrade(postgres_dsn)
    store = open_store(postgres_dsn)
    assert isinstance(store, PostgresStore)
    store.close()


def test_lists_and_the_status_read_no_payload(postgres_dsn: str) -> None:
    upgrade(postgres_dsn)
    check_payloads_are_not_read(PostgresStore(postgres_dsn))


def test_an_upgrade_finds_earlier_runs_by_their_tags(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("noetl.infra.migrations.migrations", lambda: migrations()[:9])
        upgrade(postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute(
            "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input, environment,"
            " variables, tags, created_at, live) values ('r', 'default', 'p', 'h', 'succeeded', 'service',"
            ' \'service\', \'{}\', \'{}\', \'{}\', \'["x", "\\u00e9\\ud83d", "x", "k=\\"v", "=y"]\', 1.0, 0)'
        )
    upgrade(postgres_dsn)
    with closing(PostgresStore(postgres_dsn)) as store:
        for tag, count in (("x", 1), ("é\ud83d", 1), ("y", 0), ('k="v', 1), ("k", 1), ("", 0)):
            assert len(store.runs.find(RunFilter(tags=(tag,)))[0]) == count


def test_an_upgrade_keeps_playbooks_without_their_callers(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("noetl.infra.migrations.migrations", lambda: migrations()[:17])
        upgrade(postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        connection.execute("insert into playbooks values ('default', 'a', '1', 1, 'hash', 1.5, null)")
    upgrade(postgres_dsn)
    with closing(PostgresStore(postgres_dsn)) as store:
        (playbook,) = store.registry.find("default")[0]
        assert (playbook.registered_at, playbook.registered_by) == (1.5, None)


def test_an_upgrade_lists_open_waits_of_runs_that_have_not_ended(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("noetl.infra.migrations.migrations", lambda: migrations()[:18])
        upgrade(postgres_dsn)
    with psycopg.connect(postgres_dsn) as connection:
        for statement in EARLIER_WAITS:
            connection.execute(statement)
    upgrade(postgres_dsn)
    with closing(PostgresStore(postgres_dsn)) as store:
        assert [wait.key.run_id for wait in store.waits.find_open("default")[0]] == ["open"]


def test_an_unreachable_server_is_reported() -> None:
    with pytest.raises(StoreError, match="The store in Postgres failed"):
        PostgresStore("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")


@pytest.fixture(scope="module")
def filled_store(postgres_server: str, postgres_template: str) -> Iterator[PostgresStore]:
    with (
        empty_database(postgres_server, template=postgres_template) as dsn,
        closing(PostgresStore(dsn)) as store,
    ):
        add_rows(store)
        yield store


def add_rows(store: PostgresStore) -> None:
    """Add runs, visits and waits, most of which have ended, with triggers and entries of the outbox."""
    with store.database.transaction() as db:
        visits = (
            "insert into visits (run_id, id, step, queue, status, position, clock, names, number, due_at,"
            " finished_at) select 'run' || n / 100, 'v' || n, 's', 'service', :status, n, 1, '{}', 1, n,"
            " case when :status = 'succeeded' then 1.0 end from generate_series(:first::int, :last) n"
        )
        db.execute(visits, status="succeeded", first=1, last=40_000)
        db.execute(visits, status="ready", first=40_001, last=42_000)
        db.execute(
            "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input,"
            " environment, variables, tags, created_at, live)"
            " select 'run' || n, 't' || n % 3, 'p', 'h', 'running', 'service', 'service',"
            " '{}', '{}', '{}', '[]', n, 1 from generate_series(0, 6000) n"
        )
        db.execute(
            "insert into runs (id, tenant, playbook, plan_hash, status, origin, queue, input,"
            " environment, variables, tags, created_at, finished_at, live)"
            " select 'past' || n, 'past', 'p' || n % 100, 'h',"
            " case when n % 100 = 0 then 'failed' else 'succeeded' end, 'service', 'service',"
            " '{}', '{}', '{}', '[]', n, n, 0 from generate_series(0, 20000) n"
        )
        db.execute(
            "insert into run_tags select 'past', '\"' || n % 100 || '\"', n, 'past' || n"
            " from generate_series(0, 20000) n"
        )
        db.execute(
            "insert into waits (run_id, visit_id, id, tenant, rank, answered_at) select 'run' || n / 100,"
            " 'v' || n, 'w', 't1', n, case when n % 10 > 0 then 1.0 end from generate_series(1, 40000) n"
        )
        db.execute(
            "insert into triggers (tenant, playbook, name, version, path, awaits, edition, record)"
            " select 't' || n % 3, 'p' || n, 't', '1', case when n % 9 = 0 then 'a' || n end,"
            " case when n % 7 = 0 then 'p' || n % 100 end, 1, '{}' from generate_series(1, 20000) n"
        )
        db.execute(
            "insert into outbox (tenant, id, kind, position, due_at, expires_at, edition, record)"
            " select 't' || n % 3, 'e' || n, case when n % 5 = 0 then 'late' else 'notification' end,"
            " 10000 + n, case when n % 2 = 0 then n end, case when n % 3 = 0 then n end, 1, '{}'"
            " from generate_series(1, 20000) n"
        )
        db.execute("analyze visits, runs, run_tags, waits, triggers, outbox")


@pytest.mark.xdist_group("queries of Postgres")
class TestQueries:
    """Frequent queries, which use an index even if most visits are finished."""

    @pytest.fixture
    def store(self, filled_store: PostgresStore) -> PostgresStore:
        return filled_store

    def explain_queries(
        self,
        store: PostgresStore,
        operation: Callable[[], object],
        monkeypatch: pytest.MonkeyPatch,
        table: str,
    ) -> list[str]:
        """Return the plans of the queries of a table, with their values and without."""
        statements_sent: dict[str, dict[str, Any]] = {}
        execute = PostgresWriter.execute

        def record_query(writer: PostgresWriter, query: str, /, **values: Any) -> Any:
            statement = STATEMENTS.find(query)
            statements_sent[statement.text_without(statement.parameters - values.keys())] = values
            return execute(writer, query, **values)

        with monkeypatch.context() as patch:
            patch.setattr(PostgresWriter, "execute", record_query)
            operation()
        plans = []
        for text, values in statements_sent.items():
            if f" from {table}" in text.replace("\n", " ") and " for update" not in text:
                rows = store.database.fetch_all(f"explain {text}", **values)
                numbered = to_numbered(text).text.replace("?", "$")
                rows += store.database.fetch_all(f"explain (generic_plan) {numbered}")
                plans.append("\n".join(row["QUERY PLAN"] for row in rows))
        assert plans
        return plans

    def test_the_search_for_due_visits_uses_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_queries() -> None:
            claim = store.queue.claim("service", LEASE, 1e9)
            assert claim is not None and int(claim.visit.id[1:]) > 40_000
            assert store.queue.next_due("service") is not None

        for plan in self.explain_queries(store, run_queries, monkeypatch, "visits"):
            assert "using visits_due" in plan and "Filter: (tenant" not in plan, plan
            assert "Seq Scan" not in plan and "Sort" not in plan

    def test_pages_of_runs_use_an_index(self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
        def run_queries() -> None:
            page, cursor = store.runs.find(RunFilter("t1", limit=50))
            next_page, _ = store.runs.find(RunFilter("t1", limit=50, cursor=cursor))
            assert len({run.id for run in (*page, *next_page)}) == 100

        for plan in self.explain_queries(store, run_queries, monkeypatch, "runs"):
            assert plan.count("using runs_newest") == 2, plan
            assert "Seq Scan" not in plan and "Sort" not in plan

    @pytest.mark.parametrize(
        ("run_filter", "index"),
        [
            (RunFilter("past", statuses=(RunStatus.FAILED,), limit=20), "runs_by_status"),
            (RunFilter("past", playbook="p7", limit=20), "runs_of_playbook"),
            (RunFilter("past", tags=("7",), limit=20), "run_tags_pkey"),
            (RunFilter("past", since=19_900.0, limit=20), "runs_newest"),
            (RunFilter("t1", statuses=(RunStatus.WAITING,), limit=20), "runs_live"),
            (RunFilter("t1", statuses=(RunStatus.RUNNING,), limit=20), "runs_"),
            (RunFilter("past", parent="p", limit=20), "runs_children"),
            (RunFilter("past", since=10.0, until=90.0, is_oldest_first=True, limit=20), "runs_newest"),
            (RunFilter("past", tags=("7",), is_oldest_first=True, limit=20), "run_tags_pkey"),
        ],
    )
    def test_filters_of_runs_use_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch, run_filter: RunFilter, index: str
    ) -> None:
        def run_queries() -> None:
            store.runs.find(run_filter)
            store.runs.find(replace(run_filter, cursor=write_cursor(1e9, "")))

        for plan in self.explain_queries(store, run_queries, monkeypatch, "run"):
            assert index in plan, plan
            assert "Seq Scan on runs" not in plan, plan
            # The few runs that wait may be sorted after they are found in an index of open runs.
            assert "Sort" not in plan or run_filter.statuses == (RunStatus.WAITING,), plan

    def test_a_page_of_open_waits_uses_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cursor = write_wait_cursor(5.0, WaitKey("r", "v", "w"))
        plans = self.explain_queries(
            store, lambda: store.waits.find_open("t1", limit=20, cursor=cursor), monkeypatch, "waits"
        )
        for plan in plans:
            assert plan.count("using waits_open") == 2, plan
            assert "Seq Scan" not in plan and "Sort" not in plan, plan

    def test_triggers_and_entries_are_found_by_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run_queries() -> None:
            assert store.triggers.at_path("t1", "none") is None
            assert store.triggers.awaiting("t1", "none") == []
            assert not store.outbox.subscribers("t1", "none").has_triggers
            assert store.outbox.due([OutboxKind.LATE], 1.0, 20) == []
            assert store.outbox.find("t3", OutboxKind.LATE, cursor=write_key_cursor("5")) == ([], None)
            delete_expired_entries(store.context, 0.0)

        for table in ("triggers where", "outbox where"):
            for plan in self.explain_queries(store, run_queries, monkeypatch, table):
                assert "Seq Scan" not in plan, plan

    def test_the_latest_visits_are_read_in_one_scan_of_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loop over steps within a loop over visits would take seconds for a large run."""
        reads = (
            partial(store.runs.overview, "t0", "run3"),
            partial(store.visits.overviews, "t0", ["run3", "run6"]),
        )
        for plan in chain.from_iterable(
            self.explain_queries(store, read, monkeypatch, "visits where run_id") for read in reads
        ):
            assert "Seq Scan" not in plan, plan
            assert "Join" not in plan and "Nested Loop" not in plan, plan

    def test_the_latest_visits_of_long_runs_are_looked_up(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A plan that reads and sorts all visits of a run would take as long as a scan."""
        monkeypatch.setattr(latest_visits, "MANY_VISITS", 0)
        read = partial(store.visits.overviews, "t0", ["run3", "run6"])
        (plan,) = self.explain_queries(store, read, monkeypatch, "visits where run_id")
        assert plan.count("Backward using visits_of_steps") == 6, plan
        assert "visits_active" in plan, plan
        assert "Seq Scan on visits" not in plan, plan
        assert "Incremental Sort" not in plan, plan

    def test_the_slots_of_a_page_of_runs_are_found_by_indexes(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each part of a queue is counted once: the greatest place is 999, and 100 runs are read."""
        with store.database.transaction() as db:
            db.execute(
                "insert into gates (id, tenant, name, units, held, waiting, ceiling, edition, clock)"
                " select 'g' || n, 't1', 'g', 0, 0, 1000, 0, 1, 0 from generate_series(1, 20) n"
            )
            db.execute(
                "insert into slots (gate_id, gate_tenant, run_id, visit_id, units, flow, rank, queued_at)"
                " select 'g' || n % 20 + 1, 't1', 'run' || n, 'v', 1, '', n, n"
                " from generate_series(0, 19999) n"
            )
            db.execute(
                "insert into flows (gate_id, gate_tenant, flow, tag, waiting)"
                " select 'g' || n, 't1', '', 1, 1000 from generate_series(1, 20000) n"
            )
            db.execute("analyze gates, slots, flows")
        ids = [f"run{20 * number}" for number in range(900, 1000)]
        found = store.gates.queued_slots(ids, 1.0)
        assert [found[id][0].queued_before for id in ids] == list(range(900, 1000))
        read = partial(store.gates.queued_slots, ids, 1.0)
        for plan in self.explain_queries(store, read, monkeypatch, "slots where run_id"):
            assert "Seq Scan on slots" not in plan and "Seq Scan on flows" not in plan, plan
        (plan,) = self.explain_queries(store, read, monkeypatch, "wanted")
        assert "Index Cond" in plan and "slots_queue" in plan, plan

    def test_the_status_of_a_run_uses_an_index(
        self, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for plan in self.explain_queries(
            store, lambda: store.runs.find(RunFilter("t1", limit=5)), monkeypatch, "visits"
        ):
            assert "Index" in plan and "Seq Scan" not in plan, plan
