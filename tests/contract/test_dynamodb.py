"""The contract of stores on DynamoDB, in an emulator."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.errors import MessageError, RejectedError, SettingError
from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Gate, GateKey, Slot, SlotOwner
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Claim, Run, RunStatus, VisitStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.run_summary import latest_visits
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.security.capabilities import local_run_capabilities
from noetl.executor.stores import open_store
from noetl.executor.stores.dynamo import keys, run_list, run_overview
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.child_run_counts import choose_counter
from noetl.executor.stores.dynamo.date_clock import DateClock
from noetl.executor.stores.dynamo.expressions import Put, Update
from noetl.executor.stores.dynamo.gate_items import slot_writes
from noetl.executor.stores.dynamo.keys import ItemKey
from noetl.executor.stores.dynamo.open_runs import list_open_runs
from noetl.executor.stores.dynamo.plan_deletion import PlanDeletion
from noetl.executor.stores.dynamo.plan_uses import (
    EXPIRY_DELAY_SECONDS,
    RENEWAL_SECONDS,
    USE_SECONDS,
    DynamoPlanUses,
)
from noetl.executor.stores.dynamo.run_list import merge_shards
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.store import DynamoStore
from noetl.executor.stores.interface import MessageOutcome, Store, SweepResult
from noetl.executor.stores.retention import DAY_SECONDS, read_retention_seconds
from noetl.executor.stores.sqs.due_message import GIVE_UP_DELAY_SECONDS, GRACE_SECONDS, DueMessage
from noetl.executor.worker import Worker, WorkerSettings
from noetl.infra.dynamodb import upgrade
from noetl.planner.frozen import replace
from noetl.testing.run_harness import RunHarness
from noetl.testing.store_contract import (
    ConsistencyContract,
    DamagedRunsContract,
    GateConsistencyContract,
    PlanDeletionContract,
    StoreContract,
    SwitchesContract,
)
from noetl.testing.store_contract.operations import (
    DIAMOND,
    LEASE,
    claim_visit,
    end_run,
    fail,
    lose_workers,
    open_wait,
    run_contents,
    start_child,
    start_run,
    succeed,
    suspend_claim,
)
from noetl.testing.store_contract.outbox import add, entry
from tests.aws import Client

LIMIT = 4096


class ItemDamage:
    """Damage to items."""

    _names: ClassVar = {"finished_at": "finished", "due_at": "due", "plan_hash": "plan"}
    leftover_kinds = (
        "visits",
        "joins",
        "counters",
        "visit counts",
        "waits",
        "tokens",
        "parts",
        "history",
        "slots",
        "idempotency keys",
    )
    unreadable_run: ClassVar = {"parent": ["x"]}

    def update_visit(self, store: DynamoStore, run: Run, step: str, **values: Any) -> None:
        (visit,) = (visit for visit in store.runs.visits(run.id) if visit.step == step)
        key = keys.visit(run.id, visit.id, 1)
        first = {"step": step, "due": visit.due_at, "status": visit.status.value}
        sets = {self._names.get(name, name): value for name, value in values.items()}
        store.context.table.write(
            [Update(key, sets, keep={name: value for name, value in first.items() if name not in sets})]
        )

    def update_run(self, store: DynamoStore, run_id: str, **values: Any) -> None:
        live = values.pop("live", None)
        if live is not None:
            # No counter includes the first branch of a run.
            store.context.table.write([Update(keys.counter(run_id, 0), {"live": live - 1})])
            return
        sets = {self._names.get(name, name): value for name, value in values.items()}
        store.context.table.write([Update(keys.head(run_id), sets)])

    def set_live(self, store: DynamoStore, run: Run, join: str, live: int) -> None:
        store.context.table.write([Update(keys.counter(run.id, 0), {f"j#{join}": live})])

    def add_arrival(self, store: DynamoStore, run: Run, join: str) -> None:
        store.context.table.write([Update(keys.counter(run.id, 0), {f"a#{join}": ["x"]})])

    def set_parent(self, store: DynamoStore, run_id: str, parent: str) -> None:
        store.context.table.write([Update(keys.head(run_id), {"parent": [parent, "v", "w"]})])

    def add_version(self, store: DynamoStore, name: str, version: str, plan_hash: str) -> None:
        store.registry.register(RegisteredPlaybook("default", name, version, plan_hash, 0.0))

    def add_leftover(self, store: DynamoStore, kind: str, run_id: str) -> None:
        key = {
            "visits": keys.visit(run_id, "v", 1),
            "joins": keys.join(run_id, "a"),
            "counters": keys.counter(run_id, 3),
            "visit counts": keys.visit_count(run_id, "a"),
            "waits": keys.wait(run_id, "v", "w", 1),
            "tokens": keys.token("t"),
            "parts": keys.loop_part(run_id, "v", "run", 0, 1),
            "history": keys.history_page(run_id, 1),
            "slots": keys.slot(GateKey("own:p:0", "t"), SlotOwner(run_id, "v")),
            "idempotency keys": keys.idempotency("default", "k"),
        }[kind]
        store.context.table.write([Put(key, {"run": run_id})])

    def put_slot(self, store: DynamoStore, slot: Slot) -> None:
        gate = Gate(slot.gate, slot.limit, 1)
        store.context.table.write([replace(write, when=()) for write in slot_writes(slot, gate)])

    def put_flow(self, store: DynamoStore, flow: Flow) -> None:
        item = {"tag": flow.tag, "waiting": flow.waiting}
        store.context.table.write([Update(keys.flow(flow.gate, flow.name), item)])

    def delete_visit(self, store: DynamoStore, run: Run, step: str) -> None:
        """Raise NotImplementedError: only the contract of sweeps needs it, and it is not for DynamoDB."""
        raise NotImplementedError

    def set_retention(self, store: DynamoStore, seconds: float) -> None:
        store.context.plan_uses.retention_seconds = seconds

    def restore_without_plans(self, store: DynamoStore) -> None:
        """Delete all plans. No table is restored in place: another one gets its name, so processes start."""
        table = store.context.table
        table.delete([ItemKey(item["pk"], item["sk"]) for item in table.scan() if item["pk"][0] == "P"])
        _forget_uses(store)

    def age_plans(self, store: DynamoStore, seconds: float) -> None:
        """Let DynamoDB delete all items that have a time to live, too."""
        table = store.context.table
        for item in list(table.scan()):
            if "expires" in item:
                table.delete([ItemKey(item["pk"], item["sk"])])
            elif item["sk"] == "U" and "due" in item:
                table.update(Update(ItemKey(item["pk"], item["sk"]), add={"due": -seconds}))
        table.delete([keys.PLAN_DELETION])
        _forget_uses(store)


def _forget_uses(store: DynamoStore) -> None:
    """Let a store know of no plan, as in a new process."""
    context = store.context
    context.plan_uses = DynamoPlanUses(context.table, context.plan_uses.retention_seconds)
    context.plans.uses = context.plan_uses
    context.plans._stored.clear()
    store.maintenance.plan_deletion = PlanDeletion(context)


OVERVIEWS = {
    "nested cycles": """
        steps:
        - {name: once, rule: [{case: default, run: [outer]}]}
        - {name: outer, max_visits: 90, rule: [{case: "{{ run.id }}", run: [inner]}]}
        - name: inner
          max_visits: 90
          rule: [{case: "{{ run.id }}", run: [inner]}, {case: default, run: [outer]}]
    """,
    "branches on cycles": """
        steps:
        - {name: a, max_visits: 90, rule: [{case: "{{ run.id }}", run: [b, c]}]}
        - {name: b, max_visits: 90, rule: [{case: "{{ run.id }}", run: [c]}, {case: default, run: [b]}]}
        - {name: c, max_visits: 90, rule: [{case: "{{ run.id }}", run: [c]}, {case: default, run: [d]}]}
        - {name: d, max_visits: 90, rule: [{case: "{{ run.id }}", run: [c]}]}
    """,
    "a join on a cycle": """
        steps:
        - {name: a, max_visits: 90, rule: [{case: "{{ run.id }}", run: [b, c]}]}
        - {name: b, rule: [{case: default, run: [meet]}]}
        - {name: c, rule: [{case: default, run: [meet]}]}
        - {name: meet, rule: [{case: "{{ run.id }}", run: [a]}, {case: default, run: [e]}]}
        - {name: e, rule: [{case: default, run: [a]}]}
    """,
    "sequential branches on cycles": """
        mode: sequential
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, max_visits: 90, rule: [{case: "{{ run.id }}", run: [b]}, {case: default, run: [d]}]}
        - {name: c, max_visits: 90, rule: [{case: "{{ run.id }}", run: [c]}, {case: default, run: [d]}]}
        - {name: d, run: [{action: log, message: x}]}
    """,
}


class TestDynamo(
    StoreContract,
    SwitchesContract,
    ConsistencyContract,
    GateConsistencyContract,
    DamagedRunsContract,
    PlanDeletionContract,
):
    unused_seconds = USE_SECONDS + RENEWAL_SECONDS
    seconds_after_end = EXPIRY_DELAY_SECONDS + 100.0
    deletes_runs = False
    deletes_expired = False
    limits = PayloadLimits(payload_bytes=LIMIT, answer_bytes=LIMIT)
    damage = ItemDamage()

    @pytest.fixture
    def store(self, aws: Client) -> Iterator[DynamoStore]:
        assert upgrade("noetl") == ["table noetl", "time to live"]
        opened = DynamoStore("noetl", limits=self.limits)
        yield opened
        opened.close()

    @pytest.fixture
    def second(self, store: DynamoStore) -> Iterator[DynamoStore]:
        opened = DynamoStore("noetl", limits=self.limits)
        yield opened
        opened.close()


@pytest.mark.parametrize("text", OVERVIEWS.values(), ids=OVERVIEWS)
def test_an_overview_without_most_visits_is_complete(
    aws: Client, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_overview, "MIN_READ_VISITS", 0)
    upgrade("noetl")
    store = DynamoStore("noetl")
    run = start_run(store, text)
    for number in range(1, 18):
        claim = claim_visit(store, run, float(number))
        cases = len(store.plans.step(run.plan_hash, claim.visit.step).cases)
        commit = succeed(store, claim, case=(0 if number % 8 else cases - 1) if cases else None)
        if number > 12:
            claimed = store.runs.overview("default", run.id)
            assert claimed is not None
            assert claimed.steps == latest_visits(store.runs.visits(run.id))
        store.queue.commit(commit, float(number))
    overview, current = store.runs.overview("default", run.id), store.runs.get("default", run.id)
    assert overview is not None
    assert current is not None
    assert overview.steps == latest_visits(store.runs.visits(run.id))
    assert overview.summary.status is current.status


@pytest.mark.parametrize("difference", [3600.0, -3600.0])
def test_a_worker_whose_clock_differs_by_an_hour_takes_no_live_claim(aws: Client, difference: float) -> None:
    upgrade("noetl")
    first, second = DynamoStore("noetl"), DynamoStore("noetl")
    table = second.context.table
    table.clock = DateClock(lambda: table.get(keys.SCHEMA), lambda: time.time() + difference)
    run = start_run(second, now=first.clock())
    assert abs(second.clock() - first.clock()) < 5.0
    claim = claim_visit(first, run, first.clock() + 5.0)
    assert second.queue.claim(run.id, LEASE, second.clock()) is None
    # Its own claim is valid for the others as long as that of any worker.
    first.queue.commit(suspend_claim(claim, due_at=0.0), first.clock())
    again = claim_visit(second, run, second.clock() + 10.0)
    assert abs(again.visit.due_at - first.clock() - 40.0) < 10.0


class TestRetention:
    @pytest.fixture
    def store(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> DynamoStore:
        upgrade("noetl")
        monkeypatch.setenv("NOETL_RETENTION_DAYS", "2")
        opened = open_store("dynamodb://noetl")
        assert isinstance(opened, DynamoStore)
        return opened

    def test_items_of_an_ended_run_expire(self, store: DynamoStore) -> None:
        run = start_run(store, key=("k", "body"))
        open_wait(store, claim_visit(store, run), "token")
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.commit(succeed(store, claim_visit(store, run, 30.0)), 31.0)
        assert not any("expires" in item for item in store.context.table.scan())
        end_run(store, run, RunStatus.CANCELLED, 100.0)
        times = {item["sk"][0]: item.get("expires") for item in store.context.table.scan()}
        after = 100 + 3 * DAY_SECONDS
        assert times == {
            "H": after - DAY_SECONDS,
            "V": after,
            "W": after,
            "T": after,
            "I": after,
            "B": None,
            "U": None,
        }
        assert store.maintenance.check_consistency() == []
        with pytest.raises(RejectedError, match="retention period"):
            store.runs.resume(run.id, after, deadline_at=None, values={})
        store.runs.resume(run.id, 200.0, deadline_at=None, values={})
        assert not any("expires" in item for item in store.context.table.scan())

    def test_counts_of_child_runs_expire(self, store: DynamoStore) -> None:
        root = start_run(store)
        for number in range(40):
            start_child(store, root, None, f"c{number}", 100.0, root=root.id, max_child_runs=10_000)
        counts = [item for item in store.context.table.scan() if item["sk"] == "D"]
        assert len(counts) > 1
        assert sum(item["started"] for item in counts) == 40
        assert {item["expires"] for item in counts} == {100 + 2 * DAY_SECONDS}

    def test_entries_of_the_outbox_expire(self, store: DynamoStore) -> None:
        add(store, entry("a", expires_at=100.5), entry("b"))
        items = {item["pk"]: item for item in store.context.table.scan()}
        assert (items["Y#a"]["expires"], "expires" in items["Y#b"]) == (100, False)
        assert store.outbox.change(entry("a", expires_at=100.5), entry("a", edition=2))
        assert "expires" not in (store.context.table.get(keys.outbox_entry("default", "a")) or {})

    def test_no_counter_refuses_a_child_run_before_the_limit(self) -> None:
        limit = 10_000
        counts: Counter[int] = Counter()
        for run in range(limit):
            number, allowed = choose_counter(str(run), limit)
            counts[number] += 1
            assert counts[number] <= allowed
        assert len(counts) * allowed <= limit * 1.1

    @pytest.mark.parametrize("days", ["x", "0", "-1", "nan", "1e9"])
    def test_an_invalid_retention_is_refused(self, days: str) -> None:
        with pytest.raises(SettingError, match="NOETL_RETENTION_DAYS"):
            read_retention_seconds({"NOETL_RETENTION_DAYS": days})


PAUSING = {
    "a fork": """
        steps:
        - {name: a, rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [{action: wait, seconds: 10}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [{action: wait, seconds: 20}], rule: [{case: default, run: [e]}]}
        - {name: d, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [e]}]}
        - {name: e, run: [{action: wait, seconds: 10}, {action: wait, seconds: 10}]}
    """,
    "retries": """
        steps:
        - name: a
          retry: {attempts: 3, delay: 10s}
          run: [{action: fail, message: no}]
          rule: [{case: "{{ error }}", run: [b]}]
        - {name: b, run: [{action: wait, seconds: 10}]}
    """,
    "sequential mode": """
        mode: sequential
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: wait, seconds: 10}], rule: [{case: default, run: [d]}]}
        - {name: c, run: [{action: wait, seconds: 10}], rule: [{case: default, run: [d]}]}
        - {name: d, run: [{action: wait, seconds: 10}]}
    """,
    "a finally step": """
        finally: z
        steps:
        - {name: a, rule: [{case: default, run: [b, c]}]}
        - {name: b, run: [{action: wait, seconds: 10}]}
        - {name: c, run: [{action: set, set: {x: 1}}, {action: wait, seconds: 10}]}
        - {name: z, run: [{action: wait, seconds: 10}]}
    """,
}
"""Playbooks of runs that wait in all ways."""


class TestLists:
    """Lists of runs, which are merged from several shards of an index."""

    @pytest.fixture
    def store(self, aws: Client) -> DynamoStore:
        upgrade("noetl")
        return DynamoStore("noetl")

    def test_pages_of_runs_of_several_shards(self, store: DynamoStore) -> None:
        chance = random.Random(7)
        times = [float(chance.randrange(20)) for _ in range(60)]
        ids = {start_run(store, now=time, origin="service").id: time for time in times}
        expected = sorted(ids, key=lambda run_id: (ids[run_id], run_id), reverse=True)
        shards = {str(item["tenant"]) for item in store.context.table.scan() if item["sk"] == "H"}
        assert shards == {f"default#{number}" for number in range(keys.SHARDS)}
        assert sorted(list_open_runs(store.context, "service")) == sorted(ids)
        for limit in (1, 7, 59, 60, 100):
            run_ids: list[str] = []
            cursor: str | None = None
            while True:
                page, cursor = store.runs.find(RunFilter(limit=limit, cursor=cursor))
                run_ids += [run.id for run in page]
                if cursor is None:
                    break
                assert len(page) == limit
            assert run_ids == expected
        newest, _ = store.runs.find(RunFilter(since=12.0))
        assert [run.id for run in newest] == [id for id in expected if ids[id] >= 12.0]

    def test_successive_sweeps_examine_all_runs(self, store: DynamoStore) -> None:
        for _ in range(20):
            start_run(store, now=1.0, origin="service")
        swept = [store.maintenance.sweep(2.0, limit=9).runs for _ in range(20)]
        # Each examines one run of a shard, and starts again at the end of the shard. All may end at once.
        assert max(swept) <= keys.SHARDS
        assert sum(swept) >= 20

    def test_runs_of_versions_without_shards_are_listed(self, store: DynamoStore) -> None:
        old, new = (start_run(store, now=now, origin="service") for now in (1.0, 2.0))
        plain = {"tenant": "default", "open": "service", "owner": None}
        store.context.table.update(Update(keys.head(old.id), plain))
        runs, _ = store.runs.find(RunFilter())
        assert [(run.id, run.tenant) for run in runs] == [(new.id, "default"), (old.id, "default")]
        assert store.runs.get("default", old.id) is not None
        assert sorted(list_open_runs(store.context, "service")) == sorted((old.id, new.id))
        assert store.maintenance.sweep(3.0).runs == 2

    @pytest.mark.parametrize("name", PAUSING)
    def test_the_status_in_a_list_is_that_of_the_visits(self, store: DynamoStore, name: str) -> None:
        """A list reads counters. After each operation, they say what the visits say."""
        play = RunHarness(store, PAUSING[name])
        seen: set[RunStatus] = set()

        def is_open() -> bool:
            snapshot = read_snapshot(store.context, play.id)
            run = store.runs.summary("default", play.id)
            assert snapshot is not None and run is not None
            assert run.status == snapshot.status()
            seen.add(run.status)
            return not run.status.is_final

        def execute_next() -> None:
            if not play.execute_next():
                play.clock.advance(10.0)

        for _ in range(4):
            assert is_open()
            execute_next()
        store.runs.stop(play.id, RunStatus.CANCELLED, play.clock())
        while is_open():
            execute_next()
        play.resume()
        while is_open():
            execute_next()
        assert play.status is RunStatus.SUCCEEDED
        assert RunStatus.WAITING in seen

    def test_a_run_that_an_earlier_version_has_suspended_is_listed(self, store: DynamoStore) -> None:
        """An earlier version marked the head, and counted nothing."""
        play = RunHarness(store, "steps: [{name: a, run: [{action: wait, seconds: 10}]}]")
        assert play.execute_next()
        (visit,) = store.runs.visits(play.id)
        table = store.context.table
        table.update(Update(keys.visit(play.id, visit.id, 1), {"paused": None}))
        table.update(Update(keys.counter(play.id, 0), {"paused": None}))
        table.update(Update(keys.head(play.id), {"waits": True}))
        assert [run.id for run in store.runs.find(RunFilter(statuses=(RunStatus.WAITING,)))[0]] == [play.id]
        assert play.status is RunStatus.WAITING
        assert play.finish().status is RunStatus.SUCCEEDED

    def test_a_page_of_waiting_runs_is_full(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_list, "MIN_CANDIDATES", 4)
        runs = [start_run(store, now=float(number)) for number in range(14)]
        waiting = [runs[number] for number in (0, 6, 13)]
        for run in waiting:
            store.queue.commit(suspend_claim(claim_visit(store, run, 200.0)), 200.0)
        page, cursor = store.runs.find(RunFilter(statuses=(RunStatus.WAITING,), limit=2))
        assert [run.id for run in page] == [waiting[2].id, waiting[1].id]
        page, cursor = store.runs.find(RunFilter(statuses=(RunStatus.WAITING,), limit=2, cursor=cursor))
        assert ([run.id for run in page], cursor) == ([waiting[0].id], None)

    def test_a_page_of_open_waits_reads_few_more_visits(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(30):
            claim = claim_visit(store, start_run(store))
            store.waits.open_wait(claim, "w", f"token {number}", None, float(number))
            store.queue.commit(suspend_claim(claim, "w"), 1.0)
        get_many, read = store.context.table.get_many, set[ItemKey]()

        def get(places: Sequence[ItemKey], attributes: Sequence[str] = ()) -> dict[ItemKey, Item]:
            read.update(key for key in places if key.sk.startswith("V#"))
            return get_many(places, attributes)

        monkeypatch.setattr(store.context.table, "get_many", get)
        page, _ = store.waits.find_open("default", limit=12)
        assert [wait.rank for wait in page] == [float(number) for number in range(12)]
        assert len(read) == 13

    def test_a_filter_that_excludes_many_runs_leaves_no_page_short(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each partition of the index is read in pages of two entries, one page at once."""
        runs = [start_run(store, now=float(n), tags=["x"] if n % 12 == 0 else []) for n in range(25)]
        expected = [runs[24].id, runs[12].id, runs[0].id]
        query_index = store.context.table.query_index
        monkeypatch.setattr(
            store.context.table,
            "query_index",
            lambda name, **query: query_index(name, **query | {"Limit": 2}),
        )
        monkeypatch.setattr(run_list, "MAX_PAGES", 1)
        monkeypatch.setattr(run_list, "MAX_ROUNDS", 40)
        assert [run.id for run in store.runs.find(RunFilter(tags=("x",), limit=3))[0]] == expected
        monkeypatch.setattr(run_list, "MAX_ROUNDS", 3)
        pages: list[list[str]] = []
        cursor: str | None = None
        while cursor is not None or not pages:
            page, cursor = store.runs.find(RunFilter(tags=("x",), limit=3, cursor=cursor))
            pages.append([run.id for run in page])
        assert len(pages) > 1
        assert [id for page in pages for id in page] == expected

    def test_a_run_that_is_only_in_the_index_is_skipped(
        self, store: DynamoStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = [start_run(store, now=float(index), origin="service") for index in range(3)]
        expired = keys.head(runs[1].id)
        get_many = store.context.table.get_many

        def get_unexpired(
            wanted: Sequence[keys.ItemKey], attributes: Sequence[str] = ()
        ) -> dict[keys.ItemKey, Item]:
            return {key: item for key, item in get_many(wanted, attributes).items() if key != expired}

        monkeypatch.setattr(store.context.table, "get_many", get_unexpired)
        page, cursor = store.runs.find(RunFilter(limit=2))
        assert ([run.id for run in page], cursor) == ([runs[2].id, runs[0].id], None)


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 30), unique=True), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_shards_are_merged_without_a_gap(drawn: list[tuple[list[int], bool]], wanted: int) -> None:
    """Each shard is read to its end, or it is cut after its newest runs."""
    held = [
        [f"{number:02}.{index}" for number in sorted(numbers, reverse=True)]
        for index, (numbers, _) in enumerate(drawn)
    ]
    shards = []
    for all_of_it, (_, is_cut) in zip(held, drawn, strict=True):
        seen = all_of_it[: len(all_of_it) // 2]
        shards.append(
            (seen[:wanted], seen[-1])
            if is_cut and seen and len(seen) < wanted
            else (all_of_it[:wanted], None)
        )
    merged, end = merge_shards(shards, wanted)
    newest = sorted((key for shard in held for key in shard), reverse=True)
    assert merged == newest[: len(merged)]
    if end is None:
        assert len(merged) == min(wanted, len(newest))
    else:
        assert merged == [key for key in newest if key >= end]


class TestQueue:
    """Runs of a service, which are executed from messages."""

    @pytest.fixture
    def queue(self, aws: Client, monkeypatch: pytest.MonkeyPatch) -> str:
        upgrade("noetl")
        url = str(
            aws("sqs").create_queue(QueueName="noetl", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]
        )
        monkeypatch.setenv("NOETL_QUEUE", url)
        monkeypatch.setenv("NOETL_STORE", "dynamodb://noetl")
        return url

    def test_workers_execute_runs_from_messages(self, queue: str, aws: Client) -> None:
        first, second = (create_worker(open_store()) for _ in range(2))
        store = open_store()
        runs = [start_run(store, DIAMOND, now=time.time(), origin="service") for _ in range(4)]
        for worker in (first, second):
            worker.start()
        ended = [first.wait_until_finished(run.tenant, run.id, timeout_seconds=60.0) for run in runs]
        for worker in (first, second):
            worker.stop()
        assert [run.status for run in ended] == [RunStatus.SUCCEEDED] * 4
        for run in runs:
            steps = [visit.step for visit in store.runs.visits(run.id)]
            assert sorted(steps) == ["@end", "a", "b1", "b2", "b3", "b4", "c", "d"]
        attributes = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=attributes)["Attributes"]
        assert {int(counts[name]) for name in attributes} == {0}

    def test_a_message_of_a_chain_is_claimed_once(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = start_run(store, origin="service", now=time.time())
        body = receive_message(aws, queue)
        claim = store.queue.claim_message(body, LEASE, time.time())
        assert isinstance(claim, Claim)
        assert (claim.run.id, claim.visit.step, claim.visit.fence) == (run.id, "a", 1)
        assert store.queue.claim_message(body, LEASE, time.time()) is MessageOutcome.HELD
        store.queue.commit(succeed(store, claim, saved={"n": 1}), time.time())
        following = receive_message(aws, queue)
        # The acknowledgement was lost, so the message arrives again, and the next message is sent again.
        assert store.queue.claim_message(body, LEASE, time.time()) is MessageOutcome.DONE
        assert receive_message(aws, queue) == following
        again = store.queue.claim_message(following, LEASE, time.time())
        assert isinstance(again, Claim)
        assert [(visit.step, dict(visit.saved)) for visit in again.prefetched] == [("a", {"n": 1})]

    @pytest.mark.parametrize(
        "body", ["", "x", "null", "[]", '{"v": 1}', '{"v": 2, "run": "r"}', '{"v":1,"run":1,"visit":2}']
    )
    def test_a_message_of_another_sender_is_refused(self, queue: str, body: str) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        with pytest.raises(MessageError):
            store.queue.claim_message(body, LEASE, 1.0)

    def test_a_message_about_an_unknown_visit_is_done(self, queue: str) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = start_run(store, origin="service", now=1.0)
        before = run_contents(store, run)
        for run_id, cause in (("no", ""), ("no", "x"), (run.id, "x"), (run.id, None), (run.id, "")):
            message = DueMessage(run_id, "v", "b", 1.0, cause=cause)
            assert store.queue.claim_message(message.encode(), LEASE, 2.0) is MessageOutcome.DONE
        assert run_contents(store, run) == before
        assert store.runs.get("default", "no") is None

    def test_a_message_about_a_visit_that_lost_no_worker_is_not_given_up(
        self, queue: str, aws: Client
    ) -> None:
        """Such a message was received too often because the store was away, or refused the function."""
        store = open_store()
        assert isinstance(store, DynamoStore)
        now = time.time()
        run = start_run(store, origin="service", now=now)
        body = receive_message(aws, queue)
        for claims in range(MAX_CLAIMS):
            done = store.queue.claim_message(body, LEASE, now, give_up=True)
            assert done is MessageOutcome.DONE
            assert count_messages(aws, queue, delayed=True) == claims + 1
            claim = store.queue.claim_message(body, LEASE, now + GIVE_UP_DELAY_SECONDS)
            assert isinstance(claim, Claim)
            store.queue.release(claim.visit, now, counts=True)
        assert [visit.claims for visit in store.runs.visits(run.id)] == [MAX_CLAIMS]

    def test_a_run_starts_while_the_queue_is_away(
        self, queue: str, aws: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The run exists, so its caller must not start another one."""
        store = open_store()
        assert isinstance(store, DynamoStore)
        aws("sqs").delete_queue(QueueUrl=queue)
        run = start_run(store, origin="service", now=1.0)
        assert "no message was sent about run" in caplog.text
        aws("sqs").create_queue(QueueName=queue.rpartition("/")[2])
        assert store.maintenance.sweep(1.0 + 2 * GRACE_SECONDS) == SweepResult(1, 1)
        assert DueMessage.decode(receive_message(aws, queue)).run_id == run.id

    def test_a_claim_that_gives_up_fails_the_visit(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        run = start_run(store, origin="service", now=time.time())
        body = receive_message(aws, queue)
        lose_workers(store, body)
        claim = store.queue.claim_message(body, LEASE, time.time(), give_up=True)
        assert isinstance(claim, Claim)
        VisitExecutor(store, LEASE, local_run_capabilities(Path.cwd()), continues=lambda: False).execute(
            claim
        )
        (visit, *_) = store.runs.visits(run.id)
        assert (visit.status, visit.error and visit.error["type"]) == ("failed", "WorkerLost")

    def test_an_early_message_is_sent_again(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        now = time.time()
        run = start_run(store, origin="service", now=now)
        claim = store.queue.claim_message(receive_message(aws, queue), LEASE, now + 0.5)
        assert isinstance(claim, Claim)
        store.queue.commit(fail(store, claim, retry_at=now + 500.0), now)
        assert count_messages(aws, queue, delayed=True) == 1
        assert (
            store.queue.claim_message(DueMessage(run.id, claim.visit.id, "a", now).encode(), LEASE, now + 1)
            is MessageOutcome.DONE
        )
        assert store.runs.visits(run.id)[0].status is VisitStatus.RETRYING
        assert count_messages(aws, queue, delayed=True) == 2

    def test_a_sweep_sends_lost_messages_again(self, queue: str, aws: Client) -> None:
        store = open_store()
        assert isinstance(store, DynamoStore)
        now = time.time()
        run = start_run(store, origin="service", now=now)
        receive_message(aws, queue)  # the message is lost
        assert store.maintenance.sweep(now + 1.0) == SweepResult(1, 0)
        assert store.maintenance.sweep(now + 1000.0) == SweepResult(1, 1)
        claim = store.queue.claim_message(receive_message(aws, queue), LEASE, time.time())
        assert isinstance(claim, Claim)
        assert claim.run.id == run.id


def create_worker(store: Store) -> Worker:
    return Worker(store, WorkerSettings(local_run_capabilities(Path.cwd()), threads=2, lease_seconds=5.0))


def receive_message(aws: Client, queue: str) -> str:
    """Receive and delete the next message, and return its body."""
    sqs = aws("sqs")
    (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)["Messages"]
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return str(message["Body"])


def count_messages(aws: Client, queue: str, *, delayed: bool) -> int:
    """Return the number of messages in the queue."""
    name = "ApproximateNumberOfMessagesDelayed" if delayed else "ApproximateNumberOfMessages"
    counts = aws("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"]
    return int(counts[name])


def test_the_check_includes_the_bucket_and_the_queue(aws: Client) -> None:
    upgrade("noetl")
    queue = aws("sqs").create_queue(QueueName="steps")["QueueUrl"]
    aws("s3").create_bucket(Bucket="values")
    assert DynamoStore("noetl", queue_url=queue, bucket="values").maintenance.check_consistency() == []
    findings = DynamoStore("noetl", queue_url=f"{queue}-", bucket="no-values").maintenance.check_consistency()
    missing = "there is no {} in this account and region; create it."
    assert [(finding.check, finding.message.partition(" failed: ")[2]) for finding in findings] == [
        ("bucket", missing.format("bucket no-values (NOETL_BUCKET)")),
        ("queue", missing.format(f"queue {queue}- (NOETL_QUEUE)")),
    ]
