"""The deletion of plans in DynamoDB, in the process of the test (moto).

`noetl/testing/store_contract/plan_deletion.py` has the tests of all stores.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.meter import AwsMeter
from noetl.executor.engine.start import new_run
from noetl.executor.errors import StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import RunStatus
from noetl.executor.model.start_request import StartRequest
from noetl.executor.stores.dynamo import keys, plan_deletion, plan_uses
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.plan_deletion import PlanDeletion
from noetl.executor.stores.dynamo.plan_uses import EXPIRY_DELAY_SECONDS, USE_SECONDS
from noetl.executor.stores.dynamo.sleeping_runs import sleep_update, wake_run
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.retention import DAY_SECONDS
from noetl.infra.dynamodb import upgrade
from noetl.planner.plan import Plan
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract.operations import start_ended_run, start_run
from noetl.testing.store_contract.plan_deletion import delete_old, find_plans, save_plan, start_saved
from tests.aws import Client

RETENTION_SECONDS = 30.0 * DAY_SECONDS


def open_table(retention_seconds: float | None = RETENTION_SECONDS) -> DynamoStore:
    """Return the store as a new process sees it."""
    return DynamoStore("noetl", retention_seconds=retention_seconds)


@pytest.fixture
def store(moto_aws: Client) -> DynamoStore:
    """A store in which the walk through the runs of `late_expiry.py` is over."""
    upgrade("noetl")
    walked = open_table()
    assert not walked.maintenance.late_expiry.set_some()
    return open_table()


def read_use(store: DynamoStore, plan: Plan) -> Item:
    return store.context.table.get(keys.plan_use(plan.hash)) or {}


def end_use(store: DynamoStore, plan: Plan) -> None:
    """Let a plan not be needed any more."""
    store.context.table.update(Update(keys.plan_use(plan.hash), {"due": 1}))


def register(store: DynamoStore, plan: Plan, name: str, version: str | None = None) -> None:
    store.registry.register(RegisteredPlaybook("default", name, version, plan.hash, 0.0))


def intercept(store: DynamoStore, name: str, before: Callable[[], Any], monkeypatch: Any) -> None:
    """Let something happen before the first call of a method of the table."""
    table, calls = store.context.table, list[str]()
    method = getattr(table, name)

    def call(*args: Any, **parameters: Any) -> Any:
        if not calls:
            calls.append(name)
            before()
        return method(*args, **parameters)

    monkeypatch.setattr(table, name, call)


def test_uses_of_plans_cost_a_write_a_day(store: DynamoStore) -> None:
    plan = save_plan(store, "a")
    with AwsMeter().attached("dynamodb") as meter:
        for number in range(3):
            store.plans.save(plan)
            start_saved(store, plan, str(number))
        assert meter.read().requests == {("dynamodb", "PutItem"): 3, ("dynamodb", "BatchGetItem"): 1}
        later = open_table()
        meter.read()
        # The use is read together with the plan.
        start_saved(later, plan, "later")
        assert meter.read().requests == {("dynamodb", "PutItem"): 1, ("dynamodb", "BatchGetItem"): 1}
        delete_old(store)
        search = {
            ("dynamodb", "GetItem"): 2,
            ("dynamodb", "Query"): keys.SHARDS,
            ("dynamodb", "UpdateItem"): 1,
        }
        assert meter.read().requests == search
        for _ in range(3):
            delete_old(store)
        assert not meter.read().requests
        delete_old(open_table())
        assert meter.read().requests == {("dynamodb", "GetItem"): 3}


def test_the_end_of_a_run_lets_its_plan_be_needed_until_it_has_expired(store: DynamoStore) -> None:
    now = store.clock()
    run = start_ended_run(store)
    due = (store.context.table.get(keys.plan_use(run.plan_hash)) or {})["due"]
    assert due > now + RETENTION_SECONDS + EXPIRY_DELAY_SECONDS
    start_ended_run(open_table())
    assert (store.context.table.get(keys.plan_use(run.plan_hash)) or {})["due"] == due


@pytest.mark.parametrize("queue", ["local", "service"])
def test_an_open_run_keeps_its_plan_also_while_it_sleeps(store: DynamoStore, queue: str) -> None:
    plan = save_plan(store, "a")
    request = StartRequest(run_id="r", queue=queue)
    run = store.runs.create(*new_run(plan.header, plan.hash, request, now=1.0))
    for is_asleep in (False, True):
        end_use(store, plan)
        if is_asleep:
            store.context.table.update(sleep_update(store.context.heads.read(run.id)))
        delete_old(open_table())
        assert read_use(store, plan)["due"] > store.clock()
        store.context.table.delete([keys.PLAN_DELETION])
    assert find_plans(open_table(), {"a": plan}) == ["a"]


def test_a_run_that_the_scan_misses_keeps_its_plan(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let a run that sleeps wake while the index is read, from a partition after it to one before it."""
    plan = save_plan(store, "a")
    run = start_saved(store, plan, "r")
    head = store.context.heads.read(run.id)
    store.context.table.update(sleep_update(head))
    end_use(store, plan)
    sweep, worker = open_table(), open_table()
    intercept(
        sweep, "scan_index", lambda: wake_run(worker.context, worker.context.heads.read("r")), monkeypatch
    )
    monkeypatch.setattr(sweep.context.table, "get_many", _without_heads(sweep.context.table.get_many))
    assert sweep.maintenance.delete_old(0.0)
    assert find_plans(open_table(), {"a": plan}) == ["a"]
    assert read_use(store, plan)["due"] > store.clock() + USE_SECONDS


def _without_heads(get_many: Callable[..., Any]) -> Callable[..., Any]:
    def read(item_keys: Any, attributes: Any = ()) -> Any:
        return get_many([key for key in item_keys if key.sk != "H"], attributes)

    return read


@pytest.mark.parametrize("change", ["start", "register"])
def test_a_plan_that_is_needed_again_is_not_deleted(
    store: DynamoStore, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = save_plan(store, "a")
    end_use(store, plan)
    other = open_table()

    def need() -> None:
        if change == "start":
            # The scan reads no run that is so young.
            request = StartRequest(run_id="r")
            other.runs.create(*new_run(plan.header, plan.hash, request, now=other.clock()))
        else:
            other.plans.save(plan)
            register(other, plan, "p")

    sweep = open_table()
    intercept(sweep, "scan_index", need, monkeypatch)
    delete_old(sweep)
    assert find_plans(open_table(), {"a": plan}) == ["a"]


def test_a_plan_that_the_index_shows_late_is_no_candidate(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = save_plan(store, "a")
    end_use(store, plan)
    sweep = open_table()
    intercept(sweep, "get_many", lambda: open_table().context.plan_uses.require(plan.hash), monkeypatch)
    assert not sweep.maintenance.delete_old(0.0)
    assert find_plans(open_table(), {"a": plan}) == ["a"]


def test_a_use_that_changes_while_it_is_postponed_stays(store: DynamoStore) -> None:
    plan = save_plan(store, "a")
    due = read_use(store, plan)["due"]
    deletion = PlanDeletion(store.context)
    deletion._postpone(plan.hash, due - 1, store.clock())
    assert not deletion._delete(plan.hash, due - 1)
    assert not deletion._delete("unknown", due)
    deletion._leave_index(keys.plan_use(plan.hash))
    assert read_use(store, plan)["due"] == due
    assert "wakes" in read_use(store, plan)


def test_a_search_continues_in_another_process(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_deletion, "PAGE_SIZE", 2)
    monkeypatch.setattr(plan_deletion, "MAX_PAGES", 1)
    plans = {str(number): save_plan(store, str(number)) for number in range(6)}
    for name, plan in list(plans.items())[:5]:
        start_saved(store, plan, name)
    for plan in plans.values():
        end_use(store, plan)
    calls = 0
    while open_table().maintenance.delete_old(0.0):
        calls += 1
    assert calls >= 3
    assert find_plans(open_table(), plans) == ["0", "1", "2", "3", "4"]
    assert "plans" not in (store.context.table.get(keys.PLAN_DELETION) or {})


def test_registered_plans_are_counted(store: DynamoStore) -> None:
    plan = save_plan(store, "a")
    for name, version in (("p", "1"), ("p", "2"), ("q", None)):
        register(store, plan, name, version)
    register(store, plan, "q")
    assert read_use(store, plan)["versions"] == 3
    end_use(store, plan)
    delete_old(open_table())
    # A plan that is registered is not examined each day.
    assert "wakes" not in read_use(store, plan)
    assert store.registry.unregister("default", "p", now=1.0) == 2
    register(store, plan, "p", "1")
    assert read_use(store, plan)["versions"] == 2
    assert store.registry.unregister("default", "p", now=1.0) == 1
    assert store.registry.unregister("default", "q", now=1.0) == 1
    store.context.table.delete([keys.PLAN_DELETION])
    delete_old(open_table())
    assert find_plans(open_table(), {"a": plan}) == []


def test_a_plan_of_an_earlier_version_is_kept(store: DynamoStore) -> None:
    """The plan has no use, and versions of playbooks that name it were not counted."""
    plan = save_plan(store, "a")
    store.context.table.delete([keys.plan_use(plan.hash)])
    later = open_table()
    later.plans.save(plan)
    start_saved(open_table(), plan, "r")
    register(later, plan, "p")
    assert later.registry.unregister("default", "p", now=1.0) == 1
    assert read_use(store, plan) == {}
    delete_old(open_table())
    assert find_plans(open_table(), {"a": plan}) == ["a"]


def test_without_retention_a_plan_is_needed_for_ever(moto_aws: Client) -> None:
    """Ended runs of it have no time to live, even if another process has a retention."""
    upgrade("noetl")
    short, long = open_table(), open_table(None)
    plan = save_plan(short, "a")
    assert read_use(short, plan)["due"] < plan_uses.FOR_EVER
    start_saved(long, plan, "r")
    assert read_use(short, plan)["due"] == plan_uses.FOR_EVER
    new = save_plan(long, "b")
    assert read_use(short, new)["due"] == plan_uses.FOR_EVER
    with AwsMeter().attached("dynamodb") as meter:
        RunHarness(long, new.source, folder=Path.cwd()).finish()
        assert read_use(short, new)["due"] == plan_uses.FOR_EVER
        assert open_table().context.plan_uses.require_after_end(new.hash)
        assert read_use(short, new)["due"] == plan_uses.FOR_EVER
        assert meter.read().requests
    assert not long.maintenance.delete_old(0.0)


def test_a_plan_of_several_blocks_is_deleted_as_a_whole(store: DynamoStore) -> None:
    plan = save_plan(store, "a")
    large = Plan(plan.header, plan.steps, plan.tasks, random.Random(7).randbytes(400_000).hex())
    end_use(store, plan)
    delete_old(open_table())
    store = open_table()
    store.plans.save(large)
    assert read_use(store, large)["blocks"] > 1
    assert open_table().plans.get(large.hash).source == large.source
    end_use(store, large)
    store.context.table.delete([keys.PLAN_DELETION])
    delete_old(open_table())
    assert not [item for item in store.context.table.scan() if item["pk"].startswith("P#")]


def test_a_save_that_loses_its_race_begins_again(store: DynamoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process saves the plan between the read and the write."""
    other = open_table()
    plan = save_plan(other, "b")
    store.context.table.delete([keys.plan(plan.hash), keys.plan_use(plan.hash)])
    late = open_table()
    intercept(late, "write", lambda: open_table().plans.save(plan), monkeypatch)
    late.plans.save(plan)
    assert start_saved(late, plan, "r").plan_hash == plan.hash
    lost = open_table()
    monkeypatch.setattr(lost.context.plan_uses, "require", lambda _: False)
    with pytest.raises(StoreError, match="could not be saved: too many concurrent writers"):
        lost.plans.save(plan)


def test_the_uses_that_a_process_remembers_are_bounded(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_uses, "_MAX_REMEMBERED", 2)
    uses = store.context.plan_uses
    for name in ("a", "b", "c"):
        uses.remember(name, None)
    assert [uses.is_required(name) for name in ("a", "b", "c")] == [False, True, True]


def test_a_sweep_without_the_right_to_scan_goes_on(
    store: DynamoStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    end_use(store, save_plan(store, "a"))
    run = start_run(store)

    def refuse(name: str, **_: Any) -> Any:
        raise StoreError("access denied: dynamodb:Scan")

    monkeypatch.setattr(store.context.table, "scan_index", refuse)
    with caplog.at_level(logging.WARNING, "noetl.executor"):
        store.maintenance.sweep(1.0)
    assert [record.getMessage() for record in caplog.records] == [
        "unused plans could not be deleted; a later sweep tries again: access denied: dynamodb:Scan"
    ]
    assert store.runs.stop(run.id, RunStatus.CANCELLED, 1.0).id == run.id
