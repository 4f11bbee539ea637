"""The contract of stores for triggers that requests and ends of runs fire.

They are found by their paths, and by the playbooks whose ends they await. Their firings do not change them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run
from noetl.executor.model.triggers import Advance, Firing, FiringOutcome, LiveTrigger, firing_id
from noetl.executor.stores.interface import Store
from noetl.planner.plan import Trigger
from noetl.planner.syntax.limits import MAX_TRIGGERS
from noetl.planner.trigger_sources import RunEnd, Webhook, WebhookAuth
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import failed_checks, run_concurrently
from noetl.testing.store_contract.triggers import (
    declare,
    fire,
    list_firings,
    list_names,
    read_trigger,
    register,
    save_plan,
)

STARTED, FILTERED = FiringOutcome.STARTED, FiringOutcome.FILTERED


def webhook(name: str, path: str) -> Trigger:
    return Trigger(name, "webhook", Webhook(path, WebhookAuth("none")))


def run_end(name: str, playbook: str) -> Trigger:
    return Trigger(name, "run", RunEnd(playbook))


def owner_of(store: Store, path: str, tenant: str = "default") -> tuple[str, str] | None:
    """Return the playbook and the name of the trigger at a path, or None."""
    trigger = store.triggers.at_path(tenant, path)
    assert trigger is None or trigger == store.triggers.get(tenant, trigger.playbook, trigger.name)
    return None if trigger is None else (trigger.playbook, trigger.name)


def awaiting(store: Store, playbook: str, tenant: str = "default") -> list[tuple[str, str]]:
    """Return the playbook and the name of each trigger that awaits the end of runs of a playbook."""
    triggers = store.triggers.awaiting(tenant, playbook)
    assert store.outbox.subscribers(tenant, playbook).has_triggers is bool(triggers)
    assert triggers == [store.triggers.get(tenant, t.playbook, t.name) for t in triggers]
    return [(trigger.playbook, trigger.name) for trigger in triggers]


def refusal_of_path(store: Store, *triggers: Trigger, name: str, version: str | None = None) -> str:
    """Return the message of the registration of a playbook whose path is taken."""
    with pytest.raises(RejectedError) as rejected:
        register(store, *triggers, name=name, version=version)
    assert rejected.value.reason == "path_taken"
    return rejected.value.message


def record(trigger: LiveTrigger, key: str, outcome: FiringOutcome, now: float = 5.0) -> Advance:
    """Return a firing that does not change its trigger."""
    id = firing_id(trigger.tenant, trigger.playbook, trigger.name, key)
    names = (trigger.tenant, trigger.playbook, trigger.name, trigger.version)
    run_id = id if outcome is STARTED else None
    return Advance(trigger, trigger, (Firing(id, *names, key, now, outcome, run_id=run_id),))


class TriggerLookupsContract(ContractFixtures):
    """Tests of triggers that requests and ends of runs fire."""

    def test_a_webhook_is_found_at_its_path(self, store: Store, second: Store) -> None:
        assert owner_of(store, "a/b") is None
        register(store, webhook("w", "a/b"), webhook("v", "c"), declare())
        register(second, webhook("w", "a/b"), name="q", tenant="other")
        assert (owner_of(second, "a/b"), owner_of(second, "c")) == (("p", "w"), ("p", "v"))
        assert owner_of(store, "a/b", "other") == ("q", "w")
        assert [owner_of(store, path) for path in ("a", "a/b/", "A/b", "d")] == [None] * 4
        assert failed_checks(store) == []

    def test_a_taken_path_is_rejected_and_nothing_is_written(self, store: Store, second: Store) -> None:
        register(store, webhook("w", "a"))
        register(store, webhook("x", "b"), name="q", version="one")
        before = store.triggers.find("default")
        taken = "path `a` belongs to trigger `w` of playbook `p`"
        assert refusal_of_path(second, webhook("x", "a"), declare(), name="q", version="two") == taken
        assert refusal_of_path(second, run_end("e", "p"), webhook("x", "a"), name="new") == taken
        assert store.registry.get("default", "new") is None
        assert [p.version for p in store.registry.find("default", "q")[0]] == ["one"]
        assert (store.triggers.find("default"), awaiting(store, "p")) == (before, [])
        assert owner_of(store, "b") == ("q", "x")
        assert register(store, webhook("x", "c"), name="q").version == "2"
        assert failed_checks(store) == []

    def test_two_triggers_of_a_playbook_with_one_path_are_rejected(self, store: Store) -> None:
        message = refusal_of_path(store, webhook("w", "a"), webhook("x", "a"), name="p")
        assert message == "path `a` belongs to trigger `w` of playbook `p`"
        assert store.registry.get("default", "p") is None

    def test_a_new_version_moves_and_swaps_its_paths(self, store: Store, second: Store) -> None:
        register(store, webhook("u", "a"), webhook("v", "b"), webhook("w", "c"), now=1.0)
        register(store, webhook("u", "b"), webhook("v", "a"), webhook("w", "c"), now=2.0)
        assert [owner_of(second, path) for path in "abc"] == [("p", "v"), ("p", "u"), ("p", "w")]
        register(store, webhook("n", "a"), webhook("u", "d"), webhook("v", "c"), now=3.0)
        assert [owner_of(second, path) for path in "abcd"] == [("p", "n"), None, ("p", "v"), ("p", "u")]
        register(store, run_end("n", "p"), declare("u"), webhook("v", "b"), now=4.0)
        assert [owner_of(second, path) for path in "abcd"] == [None, ("p", "v"), None, None]
        assert failed_checks(store) == []

    def test_a_removed_version_gives_its_paths_up(self, store: Store, second: Store) -> None:
        register(store, webhook("w", "a"), run_end("e", "x"), version="one", now=1.0)
        register(store, webhook("w", "b"), version="two", now=2.0)
        register(second, webhook("w", "c"), name="q")
        assert (awaiting(store, "x"), owner_of(store, "a")) == ([], None)
        assert store.registry.unregister("default", "p", "two", now=3.0) == 1
        assert (owner_of(store, "a"), owner_of(store, "b")) == (("p", "w"), None)
        assert awaiting(store, "x") == [("p", "e")]
        assert store.registry.unregister("default", "p", now=4.0) == 1
        assert (owner_of(store, "a"), awaiting(store, "x")) == (None, [])
        register(second, webhook("w", "a"), name="q")
        assert owner_of(store, "a") == ("q", "w")
        assert failed_checks(store) == []

    def test_a_version_whose_path_is_taken_does_not_become_the_newest(self, store: Store) -> None:
        register(store, webhook("w", "a"), version="one", now=1.0)
        register(store, version="two", now=2.0)
        register(store, webhook("x", "a"), name="q")
        with pytest.raises(RejectedError) as rejected:
            store.registry.unregister("default", "p", "two", now=3.0)
        assert rejected.value.message == "path `a` belongs to trigger `x` of playbook `q`"
        assert [p.version for p in store.registry.find("default", "p")[0]] == ["two", "one"]
        assert (list_names(store), owner_of(store, "a")) == ([], ("q", "x"))
        assert store.registry.unregister("default", "p", now=3.0) == 2

    def test_one_of_concurrent_registrations_gets_a_path(self, store: Store, second: Store) -> None:
        names = ["p", "q", "r", "s"]
        for name in names:
            save_plan(store, name)

        def try_path(index: int) -> bool:
            try:
                register((store, second)[index % 2], webhook("w", "a"), name=names[index])
            except RejectedError:
                return False
            return True

        winners = [name for name, is_won in zip(names, run_concurrently(4, try_path), strict=True) if is_won]
        assert len(winners) == 1
        assert owner_of(store, "a") == (winners[0], "w")
        registered = [name for name in names if store.registry.get("default", name) is not None]
        assert registered == winners

    def test_concurrent_registrations_await_ends(self, store: Store, second: Store) -> None:
        names = ["p", "q", "r", "s"]

        def add(index: int) -> None:
            register((store, second)[index % 2], run_end("e", "x"), name=names[index])

        run_concurrently(4, add)
        assert awaiting(store, "x") == [(name, "e") for name in names]
        run_concurrently(4, lambda index: store.registry.unregister("default", names[index], now=2.0))
        assert awaiting(store, "x") == []

    def test_triggers_that_await_an_end_are_found_in_their_order(self, store: Store, second: Store) -> None:
        register(store, run_end("f", "x"), run_end("e", "x"), run_end("g", "y"), name="b")
        register(store, run_end("e", "x"), webhook("w", "a"), name="aé")
        register(store, run_end("e", "x"), name="p", tenant="other")
        assert awaiting(second, "x") == [("aé", "e"), ("b", "e"), ("b", "f")]
        assert (awaiting(second, "y"), awaiting(second, "z")) == ([("b", "g")], [])
        assert awaiting(second, "x", "other") == [("p", "e")]
        register(second, run_end("f", "y"), run_end("e", "x"), name="b", now=1.0)
        assert (awaiting(store, "x"), awaiting(store, "y")) == ([("aé", "e"), ("b", "e")], [("b", "f")])
        paused = read_trigger(store, "e", "b")
        assert store.triggers.advance(Advance(paused, replace(paused, is_paused=True, edition=2)))
        assert [trigger.is_paused for trigger in second.triggers.awaiting("default", "x")] == [False, True]

    def test_all_paths_of_a_playbook_change(self, store: Store) -> None:
        """Give each of two versions as many webhooks as a playbook may have, with other names and paths."""
        for number in range(3):
            names = [f"{number} {place:02}" for place in range(MAX_TRIGGERS)]
            register(store, *(webhook(name, f"a/{name}") for name in names), version=str(number), now=number)
            assert [owner_of(store, f"a/{name}") for name in names] == [("p", name) for name in names]
        assert owner_of(store, "a/1 00") is None
        assert store.registry.unregister("default", "p", "2", now=9.0) == 1
        assert owner_of(store, "a/1 00") == ("p", "1 00")
        assert store.registry.unregister("default", "p", now=9.0) == 2
        assert (owner_of(store, "a/1 00"), list_names(store)) == (None, [])

    def test_a_firing_of_a_request_does_not_change_its_trigger(self, store: Store, second: Store) -> None:
        register(store, webhook("t", "a"))
        trigger = read_trigger(store)
        started = record(trigger, "k", STARTED)
        run = fire(store, started, 5.0)
        assert store.runs.get("default", run.id) == run
        assert fire(second, replace(started, firings=record(trigger, "k", STARTED, 6.0).firings), 6.0) == run
        filtered = record(trigger, "l", FILTERED)
        assert [store.triggers.advance(filtered), second.triggers.advance(filtered)] == [True, True]
        assert store.triggers.advance(Advance(trigger, trigger))
        assert sorted(firing.key for firing in list_firings(second)) == ["k", "l"]
        assert read_trigger(second) == trigger

    def test_a_firing_of_a_request_needs_nothing_of_its_trigger(self, store: Store) -> None:
        register(store, webhook("t", "a"))
        trigger = read_trigger(store)
        paused = replace(trigger, is_paused=True, edition=trigger.edition + 1)
        assert store.triggers.advance(Advance(trigger, paused))
        fire(store, record(trigger, "k", STARTED), 5.0)
        assert read_trigger(store) == paused
        store.registry.unregister("default", "p", now=6.0)
        fire(store, record(trigger, "l", STARTED, 7.0), 7.0)
        assert store.triggers.advance(record(trigger, "m", FILTERED, 8.0))
        assert store.triggers.get("default", "p", "t") is None
        assert [firing.key for firing in list_firings(store)] == ["m", "l", "k"]

    def test_concurrent_firings_with_one_key_start_one_run(self, store: Store, second: Store) -> None:
        register(store, webhook("t", "a"))
        trigger = read_trigger(store)

        def start(index: int) -> Run:
            now = 5.0 + index
            return fire((store, second)[index % 2], record(trigger, f"k{index % 2}", STARTED, now), now)

        runs = run_concurrently(6, start)
        assert len({(run.id, run.created_at) for run in runs}) == 2
        assert sorted(firing.key for firing in list_firings(store)) == ["k0", "k1"]
