"""The contract of stores for triggers of registered playbooks and for their firings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand
from noetl.executor.engine.start import new_run
from noetl.executor.errors import RejectedError, TriggerChangedError
from noetl.executor.model.registry import PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.run import Run
from noetl.executor.model.run_summary import summarize
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import (
    CHANGED_REASON,
    PAUSED_REASON,
    REMOVED_REASON,
    Advance,
    Firing,
    FiringOutcome,
    LiveTrigger,
    firing_id,
    instant_key,
    pause_trigger,
    position_at,
)
from noetl.executor.stores.cursors import write_key_cursor
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import LIVE
from noetl.planner.plan import Plan, Trigger
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.syntax.limits import MAX_TRIGGERS
from noetl.planner.trigger_sources import Webhook, WebhookAuth
from noetl.testing.run_harness import compile_text
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import claim_visit, failed_checks, run_concurrently

TEXT = "steps: [{name: a, run: [{action: set, set: {n: 1}}]}]"
STARTED, MISSED = FiringOutcome.STARTED, FiringOutcome.MISSED


def save_plan(store: Store, name: str = "p", *triggers: Trigger, text: str = TEXT) -> Plan:
    """Save a plan with triggers, and return it."""
    compiled = compile_text(f"name: {name!r}\n{text}")
    plan = replace(compiled, header=replace(compiled.header, triggers=triggers))
    store.plans.save(plan)
    return plan


def declare(name: str = "t", seconds: float = 60.0) -> Trigger:
    return Trigger(name, "schedule", Schedule(every_seconds=seconds))


def register(
    store: Store,
    *triggers: Trigger,
    name: str = "p",
    version: str | None = None,
    tenant: str = "default",
    now: float = 0.0,
) -> RegisteredPlaybook:
    """Register a new version of a playbook with triggers."""
    marked = TEXT.replace("n: 1", f"n: '{version} {now} {len(triggers)}'")
    plan = save_plan(store, name, *triggers, text=marked)
    playbook = RegisteredPlaybook(tenant, name, version, plan.hash, now)
    return store.registry.register(playbook, triggers=triggers)


def list_names(store: Store, name: str = "p", tenant: str = "default") -> list[str]:
    return [trigger.name for trigger in store.triggers.find(tenant, name)[0]]


def read_trigger(store: Store, name: str = "t", playbook: str = "p") -> LiveTrigger:
    trigger = store.triggers.get("default", playbook, name)
    assert trigger is not None
    return trigger


def advance_by(trigger: LiveTrigger, now: float, outcome: FiringOutcome = STARTED) -> Advance:
    """Return the performance of the next firing of a trigger that fires each minute."""
    assert trigger.next_at is not None
    key = instant_key(trigger.next_at)
    id = firing_id(trigger.tenant, trigger.playbook, trigger.name, key)
    run_id = id if outcome is STARTED else None
    firing = Firing(
        id,
        trigger.tenant,
        trigger.playbook,
        trigger.name,
        trigger.version,
        key,
        now,
        outcome,
        trigger.next_at,
        run_id=run_id,
    )
    next_at = trigger.next_at + 60.0
    written = replace(trigger, next_at=next_at, due_at=next_at, last_run=run_id, edition=trigger.edition + 1)
    return Advance(trigger, written, (firing,))


def fire(store: Store, advance: Advance, now: float = 60.0) -> Run:
    """Start the run of a firing."""
    trigger, firing = advance.read, advance.firings[-1]
    header = store.plans.header(trigger.plan_hash)
    shown = {"name": trigger.name, "type": "schedule", "scheduled_at": firing.key}
    request = StartRequest(
        tenant=trigger.tenant, origin="local", run_id=firing.id, version=trigger.version, trigger=shown
    )
    run, first = new_run(header, trigger.plan_hash, request, now=now)
    return store.runs.fire(run, first, advance)


def list_firings(store: Store, name: str = "t") -> Sequence[Firing]:
    firings, cursor = store.triggers.firings("default", "p", name)
    assert cursor is None
    return firings


def show_firings(store: Store, name: str = "t") -> list[tuple[str, float | None, int, FiringOutcome, Any]]:
    """Return version, instant, count, outcome and reason of each firing."""
    firings = list_firings(store, name)
    return [(f.version, f.scheduled_at, f.count, f.outcome, f.reason) for f in firings]


def log_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines of firings."""
    return [record.getMessage() for record in caplog.records if record.name == "noetl.triggers"]


class TriggersContract(ContractFixtures):
    """Tests of triggers and their firings."""

    def test_a_repeated_firing_has_a_record_of_each_outcome(self, store: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        # An item that is read again after a crash has the time at which it arrived.
        started = advance_by(trigger, 60.0).firings[0]
        missed = replace(started, outcome=MISSED, run_id=None, reason=PAUSED_REASON)
        for firing in (started, missed, started, missed):
            assert store.triggers.advance(Advance(trigger, trigger, (firing,)))
        assert list_firings(store) == [started, missed]
        page, cursor = store.triggers.firings("default", "p", "t", limit=1)
        assert page == [started]
        assert store.triggers.firings("default", "p", "t", limit=1, cursor=cursor) == ([missed], None)

    def test_each_change_of_a_timing_records_the_instants_that_it_leaves(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        for version, seconds, now in (("one", 60.0, 0.0), ("two", 100.0, 250.0), ("three", 7.0, 520.0)):
            register(store, declare(seconds=seconds), version=version, now=now)
        trigger = read_trigger(store)
        # The newest instant is still due.
        assert (trigger.next_at, trigger.last_at, trigger.last_outcome) == (500.0, 400.0, MISSED)
        assert show_firings(store) == [
            ("two", 400.0, 3, MISSED, CHANGED_REASON),
            ("one", 180.0, 3, MISSED, CHANGED_REASON),
        ]
        assert log_messages(caplog) == ["firing missed: trigger t of p"] * 2

    def test_a_webhook_knows_for_how_long_earlier_versions_remembered(self, store: Store) -> None:
        for number, seconds in enumerate((60.0, 90.0, 90.0, 70.0)):
            source = Webhook("hook", WebhookAuth("none"), remember_seconds=seconds)
            register(store, Trigger("t", "webhook", source), version=str(number), now=float(number))
        assert read_trigger(store).earlier_windows == ((60.0, 1.0), (90.0, 3.0))

    def test_a_change_of_the_timing_in_a_pause_records_all_instants(self, store: Store) -> None:
        register(store, declare(seconds=60.0), version="one")
        assert store.triggers.advance(pause_trigger(read_trigger(store), 130.0))
        register(store, declare(seconds=100.0), version="two", now=250.0)
        trigger, [missed] = read_trigger(store), list_firings(store)
        assert (trigger.is_paused, trigger.next_at, trigger.due_at) == (True, 300.0, None)
        assert (missed.scheduled_at, missed.count, missed.reason) == (240.0, 4, PAUSED_REASON)

    def test_a_schedule_that_gets_another_type_records_all_instants(self, store: Store) -> None:
        register(store, declare(seconds=60.0), version="one")
        register(
            store, Trigger("t", "webhook", Webhook("hook", WebhookAuth("none"))), version="two", now=250.0
        )
        trigger = read_trigger(store)
        assert (trigger.type, trigger.next_at, trigger.due_at) == ("webhook", None, None)
        assert show_firings(store) == [("one", 240.0, 4, MISSED, CHANGED_REASON)]

    def test_a_removed_trigger_leaves_a_record_of_its_instants(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        register(store, declare(seconds=60.0), declare("later", 300.0), version="one")
        register(store, declare("renamed", 60.0), version="two", now=250.0)
        expected = [("one", 240.0, 4, MISSED, REMOVED_REASON)]
        assert (list_names(store), show_firings(store)) == (["renamed"], expected)
        assert (show_firings(store, "later"), show_firings(store, "renamed")) == ([], [])
        assert log_messages(caplog) == ["firing missed: trigger t of p"]
        assert read_trigger(store, "renamed").next_at == 300.0
        # It does not perform again what is recorded.
        assert store.registry.unregister("default", "p", "two", now=260.0) == 1
        assert read_trigger(store).next_at == 300.0
        assert failed_checks(store) == []

    def test_a_paused_trigger_that_is_removed_has_missed_its_instants_in_its_pause(
        self, store: Store
    ) -> None:
        register(store, declare(), version="one")
        assert store.triggers.advance(pause_trigger(read_trigger(store), 30.0))
        register(store, version="two", now=130.0)
        assert show_firings(store) == [("one", 120.0, 2, MISSED, PAUSED_REASON)]

    @pytest.mark.parametrize("version", ["one", None])
    def test_a_playbook_that_is_removed_leaves_a_record_of_its_instants(
        self, store: Store, caplog: pytest.LogCaptureFixture, version: str | None
    ) -> None:
        register(store, declare(), version="one")
        assert store.registry.unregister("default", "p", version, now=130.0) == 1
        assert show_firings(store) == [("one", 120.0, 2, MISSED, REMOVED_REASON)]
        assert log_messages(caplog) == ["firing missed: trigger t of p"]

    def test_an_alias_that_moves_leaves_a_record_of_the_instants(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        register(store, declare("u"), version="one")
        register(store, declare(), version="two")
        assert store.registry.promote(PlaybookAlias("default", "p", LIVE, "one", 70.0))
        assert show_firings(store) == [("two", 60.0, 1, MISSED, REMOVED_REASON)]
        assert store.registry.remove_alias("default", "p", LIVE, now=130.0)
        assert show_firings(store, "u") == [("one", 120.0, 1, MISSED, REMOVED_REASON)]
        messages = [f"firing missed: trigger {name} of p" for name in "tu"]
        assert log_messages(caplog) == messages

    def test_a_removed_trigger_without_its_plan_has_missed_the_instant_that_it_knows(
        self, store: Store
    ) -> None:
        lost = RegisteredPlaybook("default", "p", "lost", "unknown", 0.0)
        store.registry.register(lost, triggers=(declare(),))
        register(store, version="two", now=250.0)
        assert show_firings(store) == [("lost", 60.0, 1, MISSED, REMOVED_REASON)]

    def test_as_many_late_schedules_as_possible_are_replaced_by_webhooks(self, store: Store) -> None:
        names = [f"{place:02}" for place in range(MAX_TRIGGERS)]
        register(store, *map(declare, names), version="one")
        hooks = [Trigger(f"h{name}", "webhook", Webhook(name, WebhookAuth("none"))) for name in names]
        register(store, *hooks, version="two", now=70.0)
        for name in names:
            assert show_firings(store, name) == [("one", 60.0, 1, MISSED, REMOVED_REASON)]
        assert list_names(store) == [f"h{name}" for name in names]

    def test_a_registered_trigger_is_found(self, store: Store, second: Store) -> None:
        assert store.triggers.get("default", "p", "t") is None
        playbook = register(store, declare(), declare("u", 7.0), now=100.0)
        trigger = read_trigger(second)
        assert (trigger.version, trigger.plan_hash, trigger.next_at) == ("1", playbook.plan_hash, 120.0)
        assert (trigger.due_at, trigger.is_paused, trigger.changed_at) == (120.0, False, 100.0)
        assert list_names(second) == ["t", "u"]
        assert second.triggers.get("other", "p", "t") is None
        assert failed_checks(store) == []

    def test_a_firing_starts_a_run_and_moves_its_trigger(self, store: Store, second: Store) -> None:
        register(store, declare())
        advance = advance_by(read_trigger(store), 61.0)
        run = fire(store, advance, 61.0)
        assert run.trigger == {"name": "t", "type": "schedule", "scheduled_at": "1970-01-01T00:01:00Z"}
        assert second.runs.get("default", run.id) == run
        assert second.runs.summary("default", run.id) == summarize(run)
        assert read_trigger(second) == advance.written
        assert list_firings(second) == list(advance.firings)
        assert [visit.step for visit in store.runs.visits(run.id)] == ["a"]
        assert claim_visit(second, run, 61.0).run.trigger == run.trigger
        started = next(iter(second.runs.events(run.id)))
        assert started.payload == {"playbook": run.playbook, "trigger": run.trigger}
        assert failed_checks(store) == []

    def test_a_firing_starts_one_run(self, store: Store) -> None:
        register(store, declare())
        advance = advance_by(read_trigger(store), 61.0)
        run = fire(store, advance, 61.0)
        assert (
            fire(store, replace(advance, firings=(replace(advance.firings[0], fired_at=62.0),)), 62.0) == run
        )
        assert read_trigger(store) == advance.written
        assert list_firings(store) == list(advance.firings)

    def test_a_changed_trigger_starts_nothing(self, store: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        paused = replace(trigger, is_paused=True, due_at=None, edition=trigger.edition + 1)
        assert store.triggers.advance(Advance(trigger, paused))
        advance = advance_by(trigger, 61.0)
        with pytest.raises(TriggerChangedError, match=r"trigger `t` of playbook `p` was changed"):
            fire(store, advance)
        assert store.runs.get("default", advance.firings[0].id) is None
        assert not store.triggers.advance(advance)
        assert (read_trigger(store), list_firings(store)) == (paused, [])
        store.registry.unregister("default", "p", now=1.0)
        with pytest.raises(TriggerChangedError):
            fire(store, advance)
        assert not store.triggers.advance(advance)
        assert store.triggers.get("default", "p", "t") is None
        assert failed_checks(store) == []

    def test_a_trigger_that_comes_back_is_another_one(self, store: Store) -> None:
        playbook = register(store, declare())
        advance = advance_by(read_trigger(store), 61.0)
        store.registry.unregister("default", "p", now=1.0)
        store.registry.register(replace(playbook, registered_at=2.0), triggers=(declare(),))
        trigger = read_trigger(store)
        with pytest.raises(TriggerChangedError):
            fire(store, advance)
        assert not store.triggers.advance(advance)
        assert read_trigger(store) == trigger

    def test_concurrent_firings_of_one_instant_start_one_run(self, store: Store, second: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        runs = run_concurrently(
            6, lambda index: fire((store, second)[index % 2], advance_by(trigger, 60.0 + index), 60.0 + index)
        )
        assert len({run.created_at for run in runs}) == 1
        assert read_trigger(store).edition == trigger.edition + 1
        assert [firing.run_id for firing in list_firings(store)] == [runs[0].id]

    def test_all_concurrent_firings_by_hand_start_runs(self, store: Store, second: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        fired = run_concurrently(
            8,
            lambda index: fire_by_hand(
                (store, second)[index % 2], trigger, HandFiring(f"k{index}"), 60.0 + index
            ),
        )
        assert [is_new for _, is_new in fired] == [True] * 8
        ids = {run.id for run, _ in fired}
        assert {firing.run_id for firing in list_firings(store)} == ids
        after = read_trigger(store)
        assert (len(ids), after.edition, after.last_run in ids) == (8, trigger.edition + 8, True)

    def test_one_of_the_firings_with_the_same_start_key_starts_a_run(
        self, store: Store, second: Store
    ) -> None:
        register(store, declare())
        trigger = read_trigger(store)

        def fire_with(number: int, start_key: str | None = "border") -> Run:
            id = firing_id("default", "p", "t", str(number))
            names = ("default", "p", "t", trigger.version, str(number))
            firing = Firing(id, *names, 60.0 + number, STARTED, run_id=id)
            return fire(
                (store, second)[number % 2], Advance(trigger, trigger, (firing,), start_key), 60.0 + number
            )

        first, *repeated = run_concurrently(6, fire_with)
        assert {run.id for run in repeated} == {first.id}
        assert [firing.run_id for firing in list_firings(store)] == [first.id]
        assert fire_with(7).id == first.id
        assert fire_with(8, None).id != first.id
        assert fire_with(9, "other").id != first.id
        assert fire_with(8).id == first.id
        assert len(list_firings(store)) == 3
        assert read_trigger(store) == trigger
        assert failed_checks(store) == []

    def test_one_of_concurrent_changes_is_written(self, store: Store, second: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        advances = [advance_by(trigger, 61.0 + index, MISSED) for index in range(6)]
        written = run_concurrently(
            6, lambda index: (store, second)[index % 2].triggers.advance(advances[index])
        )
        assert sum(written) == 1
        assert list_firings(store) == list(advances[written.index(True)].firings)

    def test_a_trigger_keeps_its_state_in_the_next_version(self, store: Store) -> None:
        register(store, declare(), declare("paused"), declare("changed"), now=10.0)
        paused = read_trigger(store, "paused")
        stopped = replace(paused, is_paused=True, due_at=None, edition=paused.edition + 1)
        assert store.triggers.advance(Advance(paused, stopped))
        assert store.triggers.advance(advance_by(read_trigger(store), 60.0, MISSED))
        register(store, declare(), declare("paused"), declare("changed", 7.0), declare("new"), now=50.0)
        trigger, changed = read_trigger(store), read_trigger(store, "changed")
        assert (trigger.version, trigger.next_at, trigger.due_at) == ("2", 120.0, 120.0)
        assert (changed.next_at, read_trigger(store, "new").next_at) == (56.0, 60.0)
        paused = read_trigger(store, "paused")
        assert (paused.is_paused, paused.due_at, paused.next_at) == (True, None, 60.0)

    def test_a_removed_trigger_keeps_its_firings(self, store: Store, second: Store) -> None:
        register(store, declare(), declare("u"))
        run = fire(store, advance_by(read_trigger(store), 61.0), 61.0)
        register(second, declare("u"), now=70.0)
        assert list_names(store) == ["u"]
        assert [firing.run_id for firing in list_firings(store)] == [run.id]
        register(store, now=80.0)
        assert list_names(store) == []
        assert failed_checks(store) == []

    def test_the_newest_version_has_the_triggers(self, store: Store) -> None:
        first = register(store, declare(), version="one", now=10.0)
        register(store, declare("u"), version="two", now=20.0)
        before = store.triggers.find("default")
        assert store.registry.register(first, triggers=(declare(),)) == first
        assert store.triggers.find("default") == before
        assert store.registry.unregister("default", "p", "one", now=30.0) == 1
        assert store.triggers.find("default") == before
        assert store.registry.register(first, triggers=(declare(),)) == first
        assert store.registry.unregister("default", "p", "two", now=130.0) == 1
        assert list_names(store) == ["t"]
        assert (read_trigger(store).version, read_trigger(store).next_at) == ("one", 180.0)
        assert failed_checks(store) == []
        assert store.registry.unregister("default", "p", now=140.0) == 1
        assert list_names(store) == []
        assert store.registry.register(replace(first, registered_at=200.0), triggers=(declare(),)) == first
        assert read_trigger(store).next_at == 240.0

    def test_all_versions_with_many_triggers_are_removed(self, store: Store) -> None:
        """Write as many triggers at once as a playbook may have, and remove as many of the version before."""
        for number in range(21):
            names = [f"{number % 2} {place:02}" for place in range(MAX_TRIGGERS)]
            register(store, *map(declare, names), version=str(number), now=float(number))
            assert list_names(store) == names
        assert store.registry.unregister("default", "p", now=30.0) == 21
        assert list_names(store) == []
        assert failed_checks(store) == []

    def test_a_version_that_is_registered_again_changes_nothing(self, store: Store) -> None:
        first = register(store, declare(), now=10.0)
        trigger = read_trigger(store)
        again = replace(first, version=None, registered_at=500.0)
        assert store.registry.register(again, triggers=(declare(),)) == first
        assert read_trigger(store) == trigger

    def test_a_playbook_without_its_plan_is_unregistered(self, store: Store) -> None:
        """Leave no trigger of the removed version, also if the plan of the newest one is lost."""
        store.registry.register(RegisteredPlaybook("default", "p", "lost", "unknown", 0.0))
        register(store, declare(), version="two")
        assert store.registry.unregister("default", "p", "two", now=1.0) == 1
        assert list_names(store) == []

    def test_triggers_are_listed_in_pages(self, store: Store) -> None:
        for name in ("b", "a", "aé", "ab"):
            register(store, declare("x"), declare("y"), name=name)
        register(store, declare("z"), name="a", tenant="other")
        found: list[tuple[str, str]] = []
        cursor: str | None = None
        for size in (3, 3, 2):
            page, cursor = store.triggers.find("default", limit=3, cursor=cursor)
            assert len(page) == size
            found += [(trigger.playbook, trigger.name) for trigger in page]
        assert cursor is None
        assert found == [(name, trigger) for name in ("a", "ab", "aé", "b") for trigger in ("x", "y")]
        page, cursor = store.triggers.find("default", "a", limit=1)
        assert [trigger.name for trigger in page] == ["x"]
        page, cursor = store.triggers.find("default", "a", limit=1, cursor=cursor)
        assert ([trigger.name for trigger in page], cursor) == (["y"], None)
        assert list_names(store, "a", "other") == ["z"]
        assert store.triggers.find("default", "c") == ([], None)

    def test_the_newest_firings_of_several_triggers_are_read_together(self, store: Store) -> None:
        register(store, declare(), declare("u"), declare("v"))
        for name, count in (("t", 5), ("u", 2)):
            for number in range(1, count + 1):
                now = 60.0 * number + (name == "u")
                assert store.triggers.advance(advance_by(read_trigger(store, name), now, MISSED))
        keys = [("p", name) for name in ("u", "t", "v", "unknown")]
        for until, limit in ((1e6, 3), (1e6, 1), (181.0, 2), (181.0, 100), (0.0, 5)):
            before = position_at(until)
            found = store.triggers.newest_firings("default", keys, before, limit)
            assert found.keys() <= set(keys)
            for playbook, name in keys:
                page, _ = store.triggers.firings(
                    "default", playbook, name, limit=limit, cursor=write_key_cursor(before)
                )
                assert list(found.get((playbook, name), ())) == page
        assert len(store.triggers.newest_firings("default", keys, position_at(1e6), 9)[keys[1]]) == 5
        assert not any(store.triggers.newest_firings("other", keys, position_at(1e6), 9).values())
        assert store.triggers.newest_firings("default", [], position_at(1e6), 9) == {}

    def test_firings_are_listed_in_pages_newest_first(self, store: Store) -> None:
        register(store, declare(), declare("u"))
        instants = [61.0, 70.5, 70.5, 200.0, 1e9]
        for instant in instants:
            assert store.triggers.advance(advance_by(read_trigger(store), instant, MISSED))
        assert store.triggers.advance(advance_by(read_trigger(store, "u"), 61.0, MISSED))
        found: list[Firing] = []
        cursor: str | None = None
        for size in (2, 2, 1):
            page, cursor = store.triggers.firings("default", "p", "t", limit=2, cursor=cursor)
            assert len(page) == size
            found += page
        assert cursor is None
        assert [firing.fired_at for firing in found] == instants[::-1]
        assert [firing.scheduled_at for firing in found] == [300.0, 240.0, 180.0, 120.0, 60.0]
        assert [firing.fired_at for firing in list_firings(store, "u")] == [61.0]

    @pytest.mark.parametrize("cursor", ["x", "bnVsbA==", "WzEsIDJd", "WyJhIl0=", "MQ==", "Ilx1ZDgzZCI="])
    def test_an_invalid_cursor_is_rejected(self, store: Store, cursor: str) -> None:
        with pytest.raises(RejectedError) as rejected:
            store.triggers.find("default", cursor=cursor)
        assert rejected.value.reason == "invalid_cursor"
        with pytest.raises(RejectedError) as rejected:
            store.triggers.firings("default", "p", "t", cursor=cursor)
        assert rejected.value.reason == "invalid_cursor"

    def test_triggers_are_due_in_their_order(self, store: Store, second: Store) -> None:
        register(store, declare("late", 100.0), declare("soon", 10.0), declare("off", 20.0))
        register(store, declare("soon", 30.0), name="q", tenant="other")
        off = read_trigger(store, "off")
        assert store.triggers.advance(Advance(off, replace(off, is_paused=True, due_at=None, edition=2)))

        def due(now: float, limit: int = 10) -> list[tuple[str, str]]:
            return [(trigger.tenant, trigger.name) for trigger in second.triggers.due(now, limit)]

        assert due(9.9) == []
        assert due(10.0) == [("default", "soon")]
        assert due(100.0) == [("default", "soon"), ("other", "soon"), ("default", "late")]
        assert due(100.0, 2) == [("default", "soon"), ("other", "soon")]
        assert second.triggers.due(100.0, 1, {"default", "third"}) == second.triggers.due(100.0, 3)[1:2]
        assert second.triggers.due(100.0, 9, {"default", "other"}) == []
        soon = read_trigger(store, "soon")
        assert second.triggers.due(10.0, 1) == [soon]
        assert store.triggers.advance(advance_by(soon, 11.0, MISSED))
        assert due(69.9) == [("other", "soon")]
        store.registry.unregister("other", "q", now=12.0)
        assert due(70.0) == [("default", "soon")]

    def test_a_trigger_does_not_start_a_run_by_a_sweep(self, store: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        store.maintenance.sweep(1e6)
        assert store.triggers.due(1e6, 10) == [trigger]
        assert failed_checks(store) == []

    def test_a_registration_and_a_firing_do_not_undo_each_other(self, store: Store, second: Store) -> None:
        register(store, declare())
        trigger = read_trigger(store)
        advance = advance_by(trigger, 61.0)

        def change(index: int) -> bool:
            if index == 0:
                register(second, declare(), now=50.0)
                return True
            try:
                fire(store, advance, 61.0)
            except TriggerChangedError:
                return False
            return True

        _, is_fired = run_concurrently(2, change)
        edition, trigger = trigger.edition, read_trigger(store)
        assert (trigger.version, trigger.edition) == ("2", edition + (2 if is_fired else 1))
        assert trigger.next_at == (120.0 if is_fired else 60.0)
        assert (store.runs.get("default", advance.firings[0].id) is not None) is is_fired
        assert len(list_firings(store)) == int(is_fired)
        assert failed_checks(store) == []
