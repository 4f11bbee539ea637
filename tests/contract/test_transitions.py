"""The table of transitions agrees with the contract of stores. Only DynamoDB revokes claims."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.model.run import END, RunStatus, VisitStatus
from noetl.executor.model.visit_states import COMBINED, TRANSITIONS, VisitTrigger
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import Store
from noetl.infra.dynamodb import upgrade
from noetl.testing.store_contract.operations import claim_visit, start_run
from noetl.testing.store_contract.transitions import COMBINED_SCENARIOS, REPAIRS, SCENARIOS, check_row
from noetl.testing.transition_observer import rows_of
from tests.aws import Client

REVOKED_CLAIM = (VisitStatus.RUNNING, VisitTrigger.REVOKE)


def test_every_row_of_the_table_is_played() -> None:
    assert sorted(map(str, [*SCENARIOS, *REPAIRS, REVOKED_CLAIM])) == sorted(map(str, rows_of(TRANSITIONS)))
    assert set(COMBINED_SCENARIOS) == set(COMBINED)


def test_a_claim_in_dynamodb_that_crosses_a_stop_is_revoked(
    aws: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped between the write of the claim and the read of the head."""
    upgrade("noetl")
    store = DynamoStore("noetl")
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

    check_row(store, REVOKED_CLAIM, claim_and_stop)
