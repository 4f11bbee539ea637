"""Every store changes the states of visits as the table of transitions says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.model.run import END, RunStatus, VisitStatus
from noetl.executor.model.visit_states import VisitTrigger
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import Store
from noetl.executor.stores.postgres.store import PostgresStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.infra.dynamodb import upgrade as upgrade_dynamodb
from noetl.infra.migrations import upgrade as upgrade_postgres
from noetl.testing.store_contract.operations import claim_visit, start_run
from tests.aws import Client
from tests.contract.transition_contract import SqlTransitionContract, TransitionContract, check_row


class TestSqliteTransitions(SqlTransitionContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[SqliteStore]:
        opened = SqliteStore(str(tmp_path / "noetl.db"))
        yield opened
        opened.close()


class TestPostgresTransitions(SqlTransitionContract):
    @pytest.fixture
    def store(self, postgres_dsn: str) -> Iterator[PostgresStore]:
        upgrade_postgres(postgres_dsn)
        opened = PostgresStore(postgres_dsn)
        yield opened
        opened.close()


class TestDynamoTransitions(TransitionContract):
    @pytest.fixture
    def store(self, aws: Client) -> Iterator[DynamoStore]:
        upgrade_dynamodb("noetl")
        opened = DynamoStore("noetl")
        yield opened
        opened.close()

    def test_a_claim_that_crosses_a_stop_is_revoked(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The run is stopped between the write of the claim and the read of the head."""
        update = store.context.table.update

        def claim_and_stop(observed: Store) -> None:
            run = start_run(observed)

            def update_then_stop(write: Update) -> Any:
                item = update(write)
                if write.set.get("status") == VisitStatus.RUNNING:
                    monkeypatch.setattr(store.context.table, "update", update)
                    observed.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
                return item

            monkeypatch.setattr(store.context.table, "update", update_then_stop)
            assert claim_visit(observed, run, 1.0).visit.step == END

        check_row(store, (VisitStatus.RUNNING, VisitTrigger.REVOKE), claim_and_stop)
