"""The contract of stores for the outbox and for channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.start import new_run
from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.channels import Channel
from noetl.executor.model.deliveries import give_up, retry_delivery, undelivered_event
from noetl.executor.model.outbox import (
    NotificationSearch,
    OutboxEntry,
    OutboxKind,
    Subscribers,
    entry_id,
    lane_of,
    notification_id,
)
from noetl.executor.model.run import Claim, Run, RunEnding, RunStatus
from noetl.executor.model.run_entries import entries_of_start
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import FiringOutcome
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    claim_visit,
    current_run,
    end_run,
    failed_checks,
    run_concurrently,
    start_run,
)
from noetl.testing.store_contract.trigger_lookups import record, run_end, webhook
from noetl.testing.store_contract.triggers import fire, read_trigger, register, save_plan

ENDED, LATE, NOTIFICATION = OutboxKind.RUN_ENDED, OutboxKind.LATE, OutboxKind.NOTIFICATION


def entry(id: str, kind: OutboxKind = NOTIFICATION, **fields: Any) -> OutboxEntry:
    values = {"tenant": "default", "created_at": 1.0, "due_at": 5.0, "record": {"run_id": "é", "n": [1]}}
    return OutboxEntry(id=id, kind=kind, **{**values, **fields})


def claim_end(store: Store) -> Claim:
    """Return the claim of the visit that ends a new run."""
    run = start_run(store)
    store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
    return claim_visit(store, run, 1.0)


def finish(store: Store, claim: Claim, *entries: OutboxEntry) -> None:
    store.queue.finish(claim, RunEnding(RunStatus.CANCELLED, None, [], entries), 2.0)


def add(store: Store, *entries: OutboxEntry) -> None:
    """Add entries as the end of a run does."""
    finish(store, claim_end(store), *entries)


def due(store: Store, now: float, *kinds: OutboxKind, limit: int = 10, passed: Any = ()) -> list[str]:
    return [found.id for found in store.outbox.due(kinds, now, limit, passed)]


def notification(
    number: int, channel: str, tenant: str = "default", due_at: float | None = None
) -> OutboxEntry:
    """Return a notification of a channel, with a number in its record. It is due at the number + 1."""
    id = notification_id(f"r{number}", "end 0", tenant, channel)
    record = {"channel": channel, "number": number}
    return entry(id, due_at=number + 1.0 if due_at is None else due_at, tenant=tenant, record=record)


def search(store: Store, **fields: Any) -> list[int]:
    """Return the numbers of due notifications that are found, in their order."""
    request = NotificationSearch(**{"now": 900.0, "limit": 100, "of_channel": 10, "oldest": 1000, **fields})
    return [found.record["number"] for found in store.outbox.due_notifications(request)]


def start_late_run(store: Store, late_at: float | None = 9.0, run_id: str = "r1", now: float = 3.0) -> Run:
    """Start a run that is late at a time."""
    plan = save_plan(store)
    request = StartRequest(origin="local", run_id=run_id)
    run, first = new_run(plan.header, plan.hash, request, now=now)
    return store.runs.create(replace(run, late_at=late_at), first)


def channel(name: str, **fields: Any) -> Channel:
    values = {"tenant": "default", "type": "webhook", "target": "https://é.example", "created_at": 1.0}
    return Channel(name=name, **{**values, **fields})


class OutboxContract(ContractFixtures):
    """Tests of the outbox."""

    def test_the_end_of_a_run_writes_its_entries(self, store: Store, second: Store) -> None:
        entries = [entry("a", ENDED), entry("b", due_at=None, expires_at=1e10), entry("c", LATE, edition=7)]
        claim = claim_end(store)
        assert [second.outbox.get("default", added.id) for added in entries] == [None] * 3
        finish(store, claim, *entries)
        assert [second.outbox.get("default", added.id) for added in entries] == entries
        assert second.outbox.get("other", "a") is None
        assert current_run(second, claim.run).status is RunStatus.CANCELLED
        assert failed_checks(store) == []

    def test_an_entry_is_added_once(self, store: Store, second: Store) -> None:
        first = entry("a", OutboxKind.BACKFILL, expires_at=1e10)
        assert store.outbox.add(first)
        assert not second.outbox.add(replace(first, record={"other": 1}))
        assert second.outbox.get("default", "a") == first
        assert store.outbox.add(replace(first, tenant="other"))
        assert due(second, 5.0, OutboxKind.BACKFILL) == ["a", "a"]
        added = run_concurrently(
            4, lambda index: (store, second)[index % 2].outbox.add(entry("b", record={"n": index}))
        )
        assert sum(added) == 1
        found = store.outbox.get("default", "b")
        assert found is not None
        assert found.record == {"n": added.index(True)}

    def test_a_lost_claim_writes_no_entry(self, store: Store) -> None:
        claim = claim_end(store)
        claim_visit(store, claim.run, 100.0)
        with pytest.raises(FencedError):
            finish(store, claim, entry("a"))
        assert store.outbox.get("default", "a") is None

    def test_the_end_of_a_run_does_not_change_an_entry(self, store: Store) -> None:
        add(store, entry("a", record={"first": True}))
        add(store, entry("a"), entry("b"))
        assert store.outbox.get("default", "a") == entry("a", record={"first": True})
        assert store.outbox.get("default", "b") == entry("b")

    def test_the_start_of_a_run_writes_an_entry_for_its_lateness(self, store: Store, second: Store) -> None:
        run = start_late_run(store)
        (late,) = second.outbox.due([LATE], 9.0, 10)
        assert (late,) == entries_of_start(run)
        assert (late.due_at, late.created_at, late.tenant) == (9.0, 3.0, "default")
        assert late.record == {"run_id": "r1", "playbook": "p"}
        assert second.outbox.change(late, None)
        assert start_late_run(store, now=4.0) == replace(run, late_at=None) == current_run(second, run)
        assert due(second, 1e9, LATE) == []
        start_late_run(store, None, "r2")
        assert due(second, 1e9, LATE) == []

    def test_a_firing_writes_an_entry_for_the_lateness_of_its_run(self, store: Store) -> None:
        register(store, webhook("t", "a"))
        trigger = read_trigger(store)
        run = fire(store, record(trigger, "k", FiringOutcome.STARTED), 5.0)
        plan_header = store.plans.header(run.plan_hash)
        request = StartRequest(origin="local", run_id="late")
        late, first = new_run(plan_header, run.plan_hash, request, now=5.0)
        late = replace(late, late_at=8.0)
        assert due(store, 1e9, LATE) == []
        for _ in range(2):
            store.runs.fire(late, first, record(trigger, "l", FiringOutcome.STARTED))
        assert due(store, 1e9, LATE) == [entries_of_start(late)[0].id]

    def test_entries_of_a_deleted_run_stay(self, store: Store) -> None:
        run = start_late_run(store)
        store.runs.stop(run.id, RunStatus.CANCELLED, 4.0)
        end_run(store, run, RunStatus.CANCELLED, 4.0)
        assert store.maintenance.delete_run("default", run.id)
        assert due(store, 9.0, LATE) == [entries_of_start(run)[0].id]
        assert failed_checks(store) == []

    def test_entries_are_due_in_their_order(self, store: Store, second: Store) -> None:
        add(
            store,
            entry("late", LATE, due_at=7.0),
            entry("soon", due_at=3.5),
            entry("then", due_at=6.0),
            entry("never", due_at=None),
            entry("ended", ENDED, due_at=5.0, tenant="other"),
        )
        kinds = (ENDED, LATE, NOTIFICATION)
        assert due(second, 3.4, *kinds) == []
        assert due(second, 3.5, *kinds) == ["soon"]
        assert due(second, 9.0, *kinds) == ["soon", "ended", "then", "late"]
        assert due(second, 9.0, *kinds, limit=2) == ["soon", "ended"]
        assert due(second, 9.0, NOTIFICATION) == ["soon", "then"]
        assert due(second, 9.0, LATE, ENDED) == ["ended", "late"]
        assert due(second, 9.0, *kinds, passed={"default", "third"}) == ["ended"]
        assert due(second, 9.0, *kinds, limit=1, passed={"other"}) == ["soon"]
        assert due(second, 9.0) == []
        soon = entry("soon", due_at=3.5)
        assert store.outbox.change(soon, replace(soon, due_at=8.0, edition=2))
        assert due(second, 9.0, NOTIFICATION) == ["then", "soon"]
        assert store.outbox.change(replace(soon, edition=2), None)
        assert due(second, 9.0, NOTIFICATION) == ["then"]

    def test_entries_of_a_kind_are_listed_in_pages_newest_first(self, store: Store, second: Store) -> None:
        add(store, *(entry(f"n{n}", created_at=float(n), due_at=None if n % 2 else 5.0) for n in range(5)))
        add(store, entry("other", ENDED), entry("theirs", tenant="other", created_at=9.0))
        found: list[str] = []
        cursor: str | None = None
        for size in (2, 2, 1):
            page, cursor = second.outbox.find("default", NOTIFICATION, limit=2, cursor=cursor)
            assert len(page) == size
            found += [listed.id for listed in page]
        assert (cursor, found) == (None, ["n4", "n3", "n2", "n1", "n0"])
        assert second.outbox.find("default", ENDED) == ([entry("other", ENDED)], None)
        assert second.outbox.find("default", LATE) == ([], None)
        assert second.outbox.find("third", NOTIFICATION) == ([], None)
        last = entry("n3", created_at=3.0, due_at=None)
        assert store.outbox.change(last, replace(last, due_at=6.0, edition=2))
        assert store.outbox.change(entry("n4", created_at=4.0), None)
        page, _ = second.outbox.find("default", NOTIFICATION)
        assert [listed.id for listed in page] == ["n3", "n2", "n1", "n0"]
        assert page[0].due_at == 6.0

    @pytest.mark.parametrize("cursor", ["x", "bnVsbA==", "MQ==", "Ilx1ZDgzZCI="])
    def test_an_invalid_cursor_of_the_outbox_is_rejected(self, store: Store, cursor: str) -> None:
        with pytest.raises(RejectedError) as rejected:
            store.outbox.find("default", NOTIFICATION, cursor=cursor)
        assert rejected.value.reason == "invalid_cursor"

    def test_an_entry_changes_as_it_was_read(self, store: Store, second: Store) -> None:
        first = entry("a")
        add(store, first)
        changed = replace(first, due_at=None, record={"attempts": 1}, edition=2, expires_at=1e9)
        assert second.outbox.change(first, changed)
        assert not store.outbox.change(first, replace(first, due_at=8.0, edition=2), [entry("b")])
        assert not store.outbox.change(first, None, [entry("b")])
        assert not store.outbox.change(entry("c"), None, [entry("b")])
        assert not store.outbox.change(entry("c"), entry("c", edition=2))
        assert (store.outbox.get("default", "a"), store.outbox.get("default", "b")) == (changed, None)
        assert store.outbox.change(changed, replace(changed, due_at=8.0, expires_at=None, edition=3))
        assert due(second, 8.0, NOTIFICATION) == ["a"]

    def test_a_change_adds_entries(self, store: Store, second: Store) -> None:
        kept = entry("b", record={"kept": True}, due_at=None)
        add(store, entry("a", LATE), kept)
        assert store.outbox.change(entry("a", LATE), None, [entry("c"), entry("b"), entry("d")])
        found = [second.outbox.get("default", id) for id in "abcd"]
        assert found == [None, kept, entry("c"), entry("d")]
        assert due(second, 9.0, LATE, NOTIFICATION) in (["c", "d"], ["d", "c"])
        assert store.outbox.change(entry("c"), entry("c", edition=2), [entry("b")])
        assert second.outbox.get("default", "b") == kept

    def test_a_change_appends_an_event_to_the_run(self, store: Store, second: Store) -> None:
        run = start_run(store)
        entries = [entry(id, record={"run_id": run.id, "channel": "é", "event": "late"}) for id in "ab"]
        for added in entries:
            assert store.outbox.add(added)
        failed = [give_up(added, "no", now) for added, now in zip(entries, (0.5, 3.0), strict=True)]
        events = [undelivered_event(added, now) for added, now in zip(failed, (0.5, 3.0), strict=True)]
        assert store.outbox.change(entries[0], failed[0], (), None, events[0])
        store.runs.stop(run.id, RunStatus.CANCELLED, 1.0)
        store.queue.finish(claim_visit(store, run, 1.0), RunEnding(RunStatus.CANCELLED, None, []), 2.0)
        assert second.outbox.change(entries[1], failed[1], (), None, events[1])
        assert not store.outbox.change(entries[1], failed[1], (), None, events[1])
        found = second.runs.events(run.id)
        assert [event.type for event in found][1::2] == ["notification.failed"] * 2
        assert [replace(event, id="") for event in found[1::2]] == events
        payload = {"channel": "é", "event": "late", "notification": "b", "reason": "no"}
        assert (found[3].payload, found[2].type) == (payload, "workflow.cancelled")
        assert second.runs.events(run.id, found[2].id) == [found[3]]
        assert failed_checks(store) == []
        assert store.maintenance.delete_run("default", run.id)
        again = retry_delivery(failed[1], 4.0)
        assert store.outbox.change(failed[1], again, (), None, events[1])
        assert second.outbox.get("default", "b") == again

    def test_one_of_concurrent_changes_of_an_entry_is_written(self, store: Store, second: Store) -> None:
        read = entry("a")
        add(store, read)
        written = [None, *(replace(read, record={"n": n}, edition=2) for n in range(1, 6))]
        changed = run_concurrently(
            6,
            lambda n: (store, second)[n % 2].outbox.change(read, written[n], [entry(f"b{n}"), entry("c")]),
        )
        assert sum(changed) == 1
        winner = changed.index(True)
        assert store.outbox.get("default", "a") == written[winner]
        assert [n for n in range(6) if store.outbox.get("default", f"b{n}")] == [winner]

    def test_subscribers_of_an_end_are_triggers_and_channels(self, store: Store, second: Store) -> None:
        assert store.outbox.subscribers("default", "x") == Subscribers()
        register(store, run_end("e", "x"))
        assert store.channels.put(channel("ops", events=("failed", "late")), None)
        assert store.channels.put(channel("quiet"), None)
        assert store.channels.put(channel("paused", events=("failed",), is_paused=True), None)
        assert store.channels.put(channel("theirs", tenant="other", events=("failed",)), None)
        events = {"ops": ("failed", "late"), "paused": ("failed",)}
        assert second.outbox.subscribers("default", "x") == Subscribers(has_triggers=True, channels=events)
        assert second.outbox.subscribers("default", "y") == Subscribers(channels=events)
        assert second.outbox.subscribers("other", "x").channels == {"theirs": ("failed",)}


class DueNotificationsContract(ContractFixtures):
    """Tests of searches for due notifications of many channels."""

    def test_a_channel_with_many_due_notifications_hides_no_other_one(
        self, store: Store, second: Store
    ) -> None:
        add(store, *(notification(number, "ops") for number in range(30)))
        add(store, notification(30, "audit"), notification(31, "audit"), notification(32, "é"))
        assert search(second, limit=3) == [0, 30, 32]
        assert search(second, limit=6) == [0, 30, 32, 1, 31, 2]
        assert search(second, of_channel=3) == [0, 30, 32, 1, 31, 2]
        assert search(second) == [0, 30, 32, 1, 31, *range(2, 10)]

    def test_the_first_ones_of_all_channels_of_a_tenant_come_first(self, store: Store, second: Store) -> None:
        names = [f"c{number % 12}" for number in range(36)]
        add(store, *(notification(number, name) for number, name in enumerate(names)))
        late = [notification(number, f"c{number}", due_at=100.0 - number) for number in (40, 41)]
        add(store, *late)
        assert search(second, of_channel=1) == [*range(12), 41, 40]
        assert search(second) == [*range(12), 41, 40, *range(12, 36)]
        assert search(second, limit=13) == [*range(12), 41]

    def test_a_tenant_with_many_channels_hides_no_other_one(self, store: Store, second: Store) -> None:
        add(store, *(notification(number, f"c{number}", "many") for number in range(20)))
        add(store, notification(20, "ops", "b"), notification(21, "ops", "b"), notification(22, "ops", "a"))
        assert search(second, limit=6) == [0, 20, 22, 1, 21, 2]
        assert search(second) == [0, 20, 22, 1, 21, *range(2, 20)]

    def test_many_tenants_alternate(self, store: Store, second: Store) -> None:
        for first in (0, 20, 40):
            add(store, *(notification(first + n, "ops", f"t{n}") for n in range(20)))
        assert search(second, limit=25) == list(range(25))
        assert search(second, limit=25, tenants={"t0", "t2"})[:3] == [1, 3, 4]

    def test_the_id_of_an_earlier_version_is_a_channel_of_its_own(self, store: Store, second: Store) -> None:
        # Such an id names no channel. It hides no other tenant.
        earlier = [
            replace(notification(number, "ops", "b"), id=entry_id(f"r{number}", "end 0", "ops"))
            for number in range(20)
        ]
        add(store, *earlier, notification(20, "ops", "b"), notification(21, "ops", "a"))
        assert search(second, of_channel=1, limit=4) == [0, 21, 1, 2]
        assert search(second, of_channel=1) == [0, 21, *range(1, 21)]
        lanes = {("b", lane_of("b", "ops"))}
        assert search(second, lanes=lanes) == [0, 21, *range(1, 20)]

    def test_tenants_and_channels_are_left_out(self, store: Store, second: Store) -> None:
        names = ["ops", "a b", "x'\"{}%;\\", "ü" * 60, "ops", "a b"]
        add(store, *(notification(number, name) for number, name in enumerate(names)))
        theirs = f"{'f' * 16}{lane_of('default', 'ops')}"
        add(store, replace(notification(6, "other", "other"), id=theirs))
        lanes = {("default", lane_of("default", name)) for name in names}
        ops = ("default", lane_of("default", "ops"))
        assert search(second) == [0, 6, 1, 2, 3, 4, 5]
        assert search(second, lanes={ops}) == [1, 6, 2, 3, 5]
        assert search(second, lanes={ops, ("default", "00000000")}, tenants={"third"}) == [1, 6, 2, 3, 5]
        assert search(second, lanes=lanes) == [6]
        assert search(second, tenants={"default"}) == [6]
        assert search(second, lanes={ops}, tenants={"other"}, limit=2) == [1, 2]
        assert search(second, lanes=lanes, tenants={"other"}) == []

    def test_a_search_is_among_the_oldest_that_are_not_left_out(self, store: Store, second: Store) -> None:
        add(store, *(notification(number, "ops") for number in range(12)), notification(12, "audit"))
        lanes = {("default", lane_of("default", "ops"))}
        assert search(second, oldest=12, of_channel=2) == [0, 1]
        assert search(second, oldest=13, of_channel=2) == [0, 12, 1]
        assert search(second, oldest=5, of_channel=2, lanes=lanes) == [12]

    def test_only_due_notifications_are_found(self, store: Store, second: Store) -> None:
        first, later = notification(1, "ops"), notification(4, "ops")
        add(store, first, later, notification(5, "audit"), entry("ended", ENDED), entry("late", LATE))
        add(store, replace(notification(6, "paused"), due_at=None))
        assert search(second, now=1.9) == []
        assert search(second, now=2.0) == [1]
        assert search(second, now=5.9) == [1, 4]
        assert search(second) == [1, 5, 4]
        moved = replace(first, due_at=50.0, edition=2)
        assert store.outbox.change(first, moved)
        assert search(second) == [4, 5, 1]
        assert search(second, now=40.0) == [4, 5]
        assert store.outbox.change(moved, None)
        assert second.outbox.due_notifications(NotificationSearch(900.0, 1, 1, 10)) == [later]


class ChannelsContract(ContractFixtures):
    """Tests of channels."""

    def test_a_channel_is_found(self, store: Store, second: Store) -> None:
        assert (store.channels.get("default", "ops"), store.channels.find("default")) == (None, [])
        ops = channel("ops", events=("failed",), settings={"secret": "S", "n": [1]}, paused_reason="410")
        assert store.channels.put(ops, None)
        assert store.channels.put(channel("Audit"), None)
        assert store.channels.put(channel("é", tenant="other"), None)
        assert second.channels.get("default", "ops") == ops
        assert second.channels.get("other", "ops") is None
        assert second.channels.find("default") == [channel("Audit"), ops]
        assert failed_checks(store) == []

    def test_a_channel_changes_as_it_was_read(self, store: Store, second: Store) -> None:
        first = channel("ops", events=("failed",))
        assert store.channels.put(first, None)
        assert not second.channels.put(channel("ops"), None)
        paused = replace(first, is_paused=True, edition=2)
        assert second.channels.put(paused, first)
        assert not store.channels.put(replace(first, events=(), edition=2), first)
        assert not store.channels.remove(first)
        assert not store.channels.put(channel("new"), channel("new"))
        assert not store.channels.remove(channel("new", events=("late",)))
        assert store.channels.find("default") == [paused]
        assert store.outbox.subscribers("default", "x").channels == {"ops": ("failed",)}

    def test_subscribers_follow_the_events_of_a_channel(self, store: Store, second: Store) -> None:
        def events() -> Any:
            return second.outbox.subscribers("default", "x").channels.get("ops")

        first = channel("ops", events=("failed",))
        written = [
            first,
            replace(first, events=("late", "failed"), edition=2),
            replace(first, events=(), edition=3),
            replace(first, events=("late",), edition=4),
        ]
        read = None
        for changed in written:
            assert store.channels.put(changed, read)
            assert events() == (changed.events or None)
            read = changed
        assert store.channels.remove(written[-1])
        assert (events(), second.channels.get("default", "ops")) == (None, None)
        assert second.channels.put(first, None)
        assert events() == ("failed",)

    def test_one_of_concurrent_channels_of_a_name_is_written(self, store: Store, second: Store) -> None:
        written = run_concurrently(
            6, lambda n: (store, second)[n % 2].channels.put(channel("ops", events=(f"e{n}",)), None)
        )
        assert sum(written) == 1
        winner = written.index(True)
        assert store.outbox.subscribers("default", "x").channels == {"ops": (f"e{winner}",)}

    def test_concurrent_channels_of_several_names_are_written(self, store: Store, second: Store) -> None:
        run_concurrently(
            6, lambda n: (store, second)[n % 2].channels.put(channel(f"c{n}", events=("late",)), None)
        )
        assert store.outbox.subscribers("default", "x").channels == {f"c{n}": ("late",) for n in range(6)}
