"""Runs that ended, and plans that were used, while no retention was set, on DynamoDB (moto)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.meter import AwsMeter
from noetl.executor.errors import StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.stores.dynamo import keys, late_expiry
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.date_clock import DateClock
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.late_expiry import PAUSE_SECONDS
from noetl.executor.stores.dynamo.plan_uses import (
    EXPIRY_DELAY_SECONDS,
    FOR_EVER,
    RENEWAL_SECONDS,
    USE_SECONDS,
)
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.retention import DAY_SECONDS
from noetl.infra.dynamodb import upgrade
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import claim_visit, end_run, open_wait, start_run, succeed
from noetl.testing.store_contract.plan_deletion import find_plans, save_plan, start_saved
from tests.aws import Client

RETENTION_SECONDS = 30.0 * DAY_SECONDS
FORK = """
steps:
- {name: a, run: [{action: set, set: {n: 1}}], rule: [{case: default, run: [b, c]}]}
- {name: b, run: [{action: set, set: {x: 1}}]}
- {name: c, run: [{action: set, set: {y: 1}}]}
"""


def open_table(retention_seconds: float | None = RETENTION_SECONDS) -> DynamoStore:
    """Return the store as a new process sees it."""
    return DynamoStore("noetl", retention_seconds=retention_seconds)


@pytest.fixture
def old(moto_aws: Client) -> DynamoStore:
    """The store of a process without a retention."""
    upgrade("noetl")
    return open_table(None)


def expire_all(store: DynamoStore) -> int:
    """Let everything expire, and return the number of calls that this has taken."""
    calls = 1
    while store.maintenance.late_expiry.set_some():
        calls += 1
    return calls


def finish(store: DynamoStore, source: str = FORK) -> RunHarness:
    """Execute a run of a playbook."""
    return RunHarness(store, source, folder=Path.cwd()).finish()


def items_of(store: DynamoStore, run: Run | RunHarness) -> list[Item]:
    """Return the items of a run, its head first."""
    found = [item for item in store.context.table.scan() if item["pk"].startswith(f"R#{run.id}")]
    return sorted(found, key=lambda item: item["sk"] != "H")


class LaterClock(DateClock):
    """The clock of a table, some seconds ahead."""

    def __init__(self, clock: DateClock, seconds: float) -> None:
        super().__init__(lambda: None)
        self._clock = clock
        self._seconds = seconds

    def __call__(self) -> float:
        return self._clock() + self._seconds


def pass_time(store: DynamoStore, seconds: float) -> None:
    """Move the clock of a store."""
    store.context.table.clock = LaterClock(store.context.table.clock, seconds)


def test_a_run_that_ended_before_gets_its_time(old: DynamoStore) -> None:
    ended, open_run = finish(old), start_run(old)
    assert not any("expires" in item for item in items_of(old, ended))
    finished_at = int(old.clock() - 5 * DAY_SECONDS)
    old.context.table.update(Update(keys.head(ended.id), {"finished": finished_at}))
    store = open_table()
    expire_all(store)
    head, *rest = items_of(old, ended)
    assert head["expires"] == finished_at + RETENTION_SECONDS
    assert len(rest) > 3
    assert {item["expires"] for item in rest} == {head["expires"] + DAY_SECONDS}
    assert not any("expires" in item for item in items_of(old, open_run))
    assert store.maintenance.check_consistency() == []


def test_tokens_and_idempotency_keys_expire_with_their_run(old: DynamoStore) -> None:
    run = start_run(old, key=("k", "body"))
    open_wait(old, claim_visit(old, run), "token")
    old.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    old.queue.commit(succeed(old, claim_visit(old, run, 30.0)), 31.0)
    end_run(old, run, RunStatus.CANCELLED, 100.0)
    expire_all(open_table())
    kinds: dict[str, Any] = {item["sk"][0]: item.get("expires") for item in old.context.table.scan()}
    assert kinds["T"] == kinds["I"] == kinds["V"] == kinds["H"] + DAY_SECONDS


def test_a_time_that_is_over_since_years_begins_now(old: DynamoStore) -> None:
    """DynamoDB keeps items whose time was over five years ago."""
    run = finish(old)
    old.context.table.update(Update(keys.head(run.id), {"finished": 1.0}))
    store = open_table()
    before = int(store.clock())
    expire_all(store)
    assert items_of(old, run)[0]["expires"] >= before


def test_a_walk_continues_in_another_process(old: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_expiry, "PAGE_SIZE", 2)
    monkeypatch.setattr(late_expiry, "MAX_PAGES", 1)
    runs = [finish(old) for _ in range(5)]
    calls = 0
    while open_table().maintenance.late_expiry.set_some():
        calls += 1
    assert calls >= 3
    assert all("expires" in item for run in runs for item in items_of(old, run))


def test_a_call_gives_few_runs_their_times(old: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_expiry, "PAGE_SIZE", 1)
    monkeypatch.setattr(late_expiry, "MAX_EXPIRED", 2)
    runs = [finish(old) for _ in range(3)]
    store = open_table()
    assert store.maintenance.late_expiry.set_some()
    assert sum("expires" in items_of(old, run)[0] for run in runs) == 2
    expire_all(store)
    assert all("expires" in items_of(old, run)[0] for run in runs)


def test_a_sweep_between_two_walks_makes_no_request(old: DynamoStore) -> None:
    finish(old)
    store = open_table()
    expire_all(store)
    with AwsMeter().attached("dynamodb") as meter:
        assert not store.maintenance.late_expiry.set_some()
        assert not meter.read().requests
        other = open_table()
        meter.read()
        assert not other.maintenance.late_expiry.set_some()
        assert meter.read().requests == {("dynamodb", "GetItem"): 1}
    late = finish(old)
    pass_time(store, PAUSE_SECONDS + 1.0)
    expire_all(store)
    assert "expires" in items_of(old, late)[0]


def test_without_a_retention_nothing_expires(old: DynamoStore) -> None:
    run = finish(old)
    with AwsMeter().attached("dynamodb") as meter:
        assert not old.maintenance.late_expiry.set_some()
        assert not meter.read().requests
    assert not any("expires" in item for item in items_of(old, run))


@pytest.mark.parametrize("is_first", [True, False], ids=["before the items", "before the head"])
def test_a_resume_at_the_same_time_keeps_its_run(
    old: DynamoStore, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finish(old, "steps: [{name: a, run: [{action: fail, message: no}]}]")
    assert run.status is RunStatus.FAILED
    store = open_table()
    table, update = store.context.table, store.context.table.update
    resumed: list[RunHarness] = []

    def resume() -> None:
        resumed.append(run)
        old.runs.resume(run.id, old.clock(), deadline_at=None, values={})

    def update_after_resume(change: Update) -> Item:
        if not resumed and "expires" in change.set and (is_first or change.key == keys.head(run.id)):
            resume()
        return update(change)

    monkeypatch.setattr(table, "update", update_after_resume)
    expire_all(store)
    assert resumed
    assert not any("expires" in item for item in items_of(old, run))


def test_plans_are_needed_until_their_runs_have_expired(old: DynamoStore) -> None:
    used, unused, registered = (save_plan(old, name) for name in ("used", "unused", "registered"))
    old.registry.register(RegisteredPlaybook("default", "p", None, registered.hash, 0.0))
    RunHarness(old, used.source, folder=Path.cwd()).finish()
    store = open_table()
    expire_all(store)
    pass_time(store, RETENTION_SECONDS + EXPIRY_DELAY_SECONDS + PAUSE_SECONDS - DAY_SECONDS)
    plans = {"used": used, "unused": unused, "registered": registered}
    delete_all(store)
    assert find_plans(open_table(), plans) == ["used", "unused", "registered"]
    pass_time(store, 4 * DAY_SECONDS)
    for run in store.context.table.scan():
        if run["sk"] == "H" and "expires" in run:
            store.maintenance.delete_run("default", run["pk"][2:])
    delete_all(store)
    assert find_plans(open_table(), plans) == ["registered"]


def delete_all(store: DynamoStore) -> None:
    """Delete all plans that are not needed, as if the last search were long ago."""
    store.context.table.delete([keys.PLAN_DELETION])
    store.maintenance.plan_deletion._next_at = 0.0
    while store.maintenance.plan_deletion.delete_some():
        pass


def read_due(store: DynamoStore, plan: Plan) -> float:
    use = store.context.table.get(keys.plan_use(plan.hash))
    assert use is not None
    return float(use["due"])


def test_a_process_without_a_retention_learns_of_it_within_a_day(old: DynamoStore) -> None:
    """Let it not rely on what it remembers for longer than the plan is needed."""
    plan = save_plan(old, "a")
    start_saved(old, plan, "before")
    expire_all(open_table())
    assert RETENTION_SECONDS < read_due(old, plan) - old.clock() < FOR_EVER / 2
    start_saved(old, plan, "remembered")
    assert read_due(old, plan) < FOR_EVER
    assert RENEWAL_SECONDS + USE_SECONDS < EXPIRY_DELAY_SECONDS
    pass_time(old, RENEWAL_SECONDS + 1.0)
    start_saved(old, plan, "checked")
    assert read_due(old, plan) == FOR_EVER


def test_a_failure_is_logged_and_the_sweep_goes_on(
    old: DynamoStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = start_run(old)
    store = open_table()

    def refuse(name: str, **_: Any) -> Any:
        raise StoreError("access denied: dynamodb:Scan")

    monkeypatch.setattr(store.context.table, "scan_index", refuse)
    with caplog.at_level(logging.WARNING, "noetl.executor"):
        store.maintenance.sweep(1.0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("old runs have no time to live yet; a later sweep tries again: access denied")
    assert store.runs.stop(run.id, RunStatus.CANCELLED, 1.0).id == run.id


def test_an_item_that_was_deleted_meanwhile_stays_deleted(
    old: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finish(old)
    store = open_table()
    intercept_query(store, lambda: store.maintenance.delete_run("default", run.id), monkeypatch)
    expire_all(store)
    assert items_of(old, run) == []


def intercept_query(
    store: DynamoStore, before: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let something happen after the first query of a partition."""
    table, query = store.context.table, store.context.table.query
    calls: list[str] = []

    def call(*arguments: Any) -> Any:
        found = list(query(*arguments))
        if not calls:
            calls.append("query")
            before()
        return found

    monkeypatch.setattr(table, "query", call)
