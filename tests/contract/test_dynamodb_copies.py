"""Starts and resumes of runs in DynamoDB that are interrupted, in an emulator."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from noetl.executor.engine.restart import RestartPoint, begin_from_records, find_restart_state
from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo.run_deletion import LATE_SECONDS
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.infra.dynamodb import upgrade
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.continued_runs import fork
from noetl.testing.store_contract.operations import failed_checks
from noetl.testing.store_contract.skips import FAILS, skip_steps
from tests.aws import Client
from tests.aws_faults import DENIED, faulty_table
from tests.contract.test_dynamodb_deletion import list_items, sweep


@pytest.fixture
def store(aws: Client) -> DynamoStore:
    del aws
    upgrade("noetl")
    return DynamoStore("noetl")


def test_an_interrupted_start_leaves_nothing_or_the_run(store: DynamoStore) -> None:
    """Stop the start at each of its requests in turn."""
    harness = RunHarness(store, fork(), {"bad": False}).finish()
    point = RestartPoint(harness.run, harness.plan, store.runs.visits_with_outputs(harness.id), "b2")
    records, _ = find_restart_state(point)
    before = list_items(store)
    for allowed in count():
        continued = begin_from_records(records, harness.plan, {}, store.clock())
        requests = iter(range(allowed))

        def refuse(operation: str, requests: Iterator[int] = requests) -> str | None:
            del operation
            return None if next(requests, None) is not None else DENIED

        is_interrupted = False
        with faulty_table(refuse):
            try:
                store.runs.create_continued(continued)
            except StoreError:
                is_interrupted = True
        run_id = continued.run.id
        assert failed_checks(store) == []
        if is_interrupted:
            assert store.runs.get("default", run_id) is None
            assert store.runs.visits(run_id) == []
            sweep(store, LATE_SECONDS + 60.0)
            sweep(store, 2 * LATE_SECONDS + 120.0)
            assert list_items(store) == before, allowed
            continue
        run = store.runs.get("default", run_id)
        assert run is not None
        assert (run.live, len(store.runs.visits(run_id))) == (2, 5)
        sweep(store, LATE_SECONDS + 60.0)
        assert len(store.runs.visits(run_id)) == 5
        assert allowed >= 8
        return


def test_an_interrupted_resume_leaves_out_the_step(store: DynamoStore) -> None:
    """Stop the resume at each of its requests in turn. A sweep completes it."""
    for allowed in count():
        text = FAILS.format(mode="mode: parallel", on_error="abort")
        harness = RunHarness(store, text, origin="service").finish()
        requests = iter(range(allowed))

        def refuse(operation: str, requests: Iterator[int] = requests) -> str | None:
            del operation
            return None if next(requests, None) is not None else DENIED

        is_interrupted = False
        with faulty_table(refuse):
            try:
                skip_steps(harness, load={"rows": [1]})
            except StoreError:
                is_interrupted = True
        if harness.status == "failed":
            assert is_interrupted
            skip_steps(harness, load={"rows": [1]})
        store.maintenance.sweep(harness.clock())
        harness.finish()
        assert (harness.status, harness.result["taken"]) == ("succeeded", "small"), allowed
        if not is_interrupted:
            assert allowed > 4
            return
