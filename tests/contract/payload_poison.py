"""Payloads that cannot be decoded, which show that an operation does not read them."""

from __future__ import annotations

from contextlib import closing

import pytest

from noetl.api.service.services import create_services
from noetl.executor.actions import catalogue
from noetl.executor.errors import DamagedRunError
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.stores.sql.store import SqlStore
from noetl.testing.store_contract.operations import claim_visit, start_run, succeed

RUN_DATA = ("input", "environment", "variables")


def check_payloads_are_not_read(store: SqlStore) -> None:
    """Check lists, the status, the graph, the events, cancellation and the probe, and close the store."""
    with closing(store):
        run = start_run(store, tags=["x"])
        store.queue.commit(succeed(store, claim_visit(store, run), saved={"n": 1}), 1.0)
        with store.database.transaction() as db:
            db.execute("update runs set result = '{', errors = '{'")
            poisoned = dict.fromkeys(RUN_DATA, "{")
            db.write_run_data(run.id, poisoned)
            for name in db.columns_of_run(poisoned):
                db.execute(f"update runs set {name} = '{{'")
            db.execute("update visits set saved = '{', result = '{', failures = '{'")
        services = create_services(store, catalogue())
        assert [entry.workflow_id for entry in services.runs.find(RunFilter(tags=("x",))).items] == [run.id]
        assert services.runs.report(run.id).progress.finished == 1
        assert services.data.drawn_run(run.id)[1].states["a"] == "succeeded"
        assert services.runs.summary(run.id).tags == ("x",)
        assert services.runs.events(run.id).items
        assert services.runs.plan(run.id).hash == run.plan_hash
        store.maintenance.probe()
        with pytest.raises(DamagedRunError, match="cannot be read"):
            services.runs.get(run.id)
