"""The contract of stores for aliases of playbooks: versions are promoted, and `live` follows the newest one.

The triggers of a playbook are those of its live version, at each time.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import MAX_ALIASES, PlaybookAlias, RegisteredPlaybook
from noetl.executor.model.triggers import Advance
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import LIVE
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import failed_checks, run_concurrently
from noetl.testing.store_contract.registry import build_playbook, register_versions
from noetl.testing.store_contract.trigger_lookups import awaiting, owner_of, run_end, webhook
from noetl.testing.store_contract.triggers import (
    advance_by,
    declare,
    fire,
    list_firings,
    list_names,
    read_trigger,
    register,
)


def promote(
    store: Store, version: str, alias: str = LIVE, *, name: str = "p", now: float = 50.0
) -> PlaybookAlias | None:
    """Let an alias of a playbook name a version."""
    return store.registry.promote(PlaybookAlias("default", name, alias, version, now, "key 1"))


def version_of(store: Store, alias: str = LIVE, name: str = "p") -> str | None:
    """Return the version that an alias names, or None."""
    playbook = store.registry.get("default", name, alias=alias)
    assert playbook is None or playbook == store.registry.get("default", name, playbook.version)
    return None if playbook is None else playbook.version


def list_aliases(store: Store, *names: str) -> list[tuple[str, str, str]]:
    """Return the playbook, the name and the version of each alias of some playbooks."""
    aliases = store.registry.aliases("default", names or ("p",))
    return [(alias.playbook, alias.name, alias.version) for alias in aliases]


def refusal_of(store: Store, version: str, alias: str) -> str:
    """Return the reason why an alias cannot name a version."""
    with pytest.raises(RejectedError) as rejected:
        promote(store, version, alias)
    return rejected.value.reason


def assert_triggers_are_live(store: Store, name: str = "p") -> None:
    """Check that all triggers of a playbook are those of its live version."""
    versions = {trigger.version for trigger in store.triggers.find("default", name)[0]}
    assert versions <= {version_of(store, LIVE, name)}
    assert failed_checks(store) == []


class AliasesContract(ContractFixtures):
    """Tests of aliases, promotions, and the triggers of the live version."""

    def test_live_is_the_newest_version_until_one_is_promoted(self, store: Store, second: Store) -> None:
        assert version_of(store) is None
        register_versions(store, "1", "2", name="p")
        assert (version_of(second), list_aliases(store)) == ("2", [])
        alias = promote(store, "1", now=7.5)
        assert alias == PlaybookAlias("default", "p", LIVE, "1", 7.5, "key 1")
        assert second.registry.aliases("default", ["p"]) == [alias]
        register_versions(second, "3", name="p")
        newest = store.registry.get("default", "p")
        assert newest is not None
        assert (newest.version, version_of(store), version_of(second)) == ("3", "1", "1")
        assert promote(second, "3")
        assert version_of(store) == "3"

    def test_live_follows_the_newest_version_after_its_alias_is_removed(self, store: Store) -> None:
        register_versions(store, "1", "2", name="p")
        assert promote(store, "1")
        assert store.registry.remove_alias("default", "p", LIVE, now=60.0)
        assert (version_of(store), list_aliases(store)) == ("2", [])
        assert not store.registry.remove_alias("default", "p", LIVE, now=61.0)
        assert not store.registry.remove_alias("default", "unknown", LIVE, now=61.0)
        register_versions(store, "3", name="p")
        assert version_of(store) == "3"

    def test_a_playbook_has_several_aliases(self, store: Store, second: Store) -> None:
        register_versions(store, "1", "2", name="p")
        register_versions(store, "1", name="q")
        for version, alias, name in (("1", "stable", "p"), ("2", "EU.1-x", "p"), ("1", "stable", "q")):
            assert promote(store, version, alias, name=name)
        assert (version_of(second, "stable"), version_of(second, "EU.1-x")) == ("1", "2")
        assert (version_of(second), version_of(second, "other")) == ("2", None)
        assert version_of(second, "stable", "unknown") is None
        listed = [("p", "EU.1-x", "2"), ("p", "stable", "1"), ("q", "stable", "1")]
        assert list_aliases(second, "q", "p", "r") == listed
        assert (second.registry.aliases("default", []), second.registry.aliases("other", ["p"])) == ([], [])
        assert store.registry.remove_alias("default", "p", "stable", now=60.0)
        assert list_aliases(second, "p", "q") == [listed[0], listed[2]]

    def test_the_same_promotion_again_changes_nothing(self, store: Store) -> None:
        register_versions(store, "1", "2", name="p")
        for alias in (LIVE, "stable"):
            first = promote(store, "1", alias, now=1.0)
            assert promote(store, "1", alias, now=2.0) == first
            assert promote(store, "2", alias, now=3.0) != first

    def test_an_unknown_version_is_not_promoted(self, store: Store) -> None:
        assert promote(store, "1") is None
        register_versions(store, "1", "2", name="p")
        store.registry.unregister("default", "p", "1", now=5.0)
        assert [promote(store, "1"), promote(store, "3", "stable")] == [None, None]
        assert list_aliases(store) == []

    def test_no_alias_has_the_name_of_a_version(self, store: Store) -> None:
        register_versions(store, "beta", "2", name="p")
        assert refusal_of(store, "2", "beta") == "version_exists"
        store.registry.unregister("default", "p", "beta", now=5.0)
        assert refusal_of(store, "2", "beta") == "version_exists"
        assert promote(store, "2", "stable")
        for version in ("stable", LIVE):
            with pytest.raises(RejectedError) as rejected:
                register_versions(store, version, name="p")
            assert rejected.value.reason == "alias_exists"
        assert store.registry.remove_alias("default", "p", "stable", now=6.0)
        register_versions(store, "stable", name="p")
        register_versions(store, "stable", name="p")
        assert refusal_of(store, "2", "stable") == "version_exists"

    def test_the_number_of_aliases_is_bounded(self, store: Store) -> None:
        register_versions(store, "1", "2", name="p")
        for number in range(MAX_ALIASES):
            assert promote(store, "1", f"a{number}")
        assert refusal_of(store, "1", "more") == refusal_of(store, "1", LIVE) == "too_many_aliases"
        assert promote(store, "2", "a0")
        assert store.registry.remove_alias("default", "p", "a0", now=1.0)
        assert promote(store, "2")
        assert len(list_aliases(store)) == MAX_ALIASES

    def test_a_version_with_an_alias_is_not_removed(self, store: Store) -> None:
        register_versions(store, "1", "2", "3", name="p")
        assert promote(store, "1")
        assert promote(store, "2", "a")
        assert promote(store, "2", "b")
        for version, message in (
            ("1", "`live` is an alias of version `1` of `p`; move or remove it first"),
            ("2", "`a` and `b` are aliases of version `2` of `p`; move or remove them first"),
        ):
            with pytest.raises(RejectedError) as rejected:
                store.registry.unregister("default", "p", version, now=5.0)
            assert (rejected.value.reason, rejected.value.message) == ("alias_in_use", message)
        assert store.registry.unregister("default", "p", "3", now=6.0) == 1
        assert version_of(store) == "1"
        assert store.registry.unregister("default", "p", now=7.0) == 2
        assert (version_of(store), list_aliases(store)) == (None, [])
        register_versions(store, "1", name="p")
        assert (version_of(store), list_aliases(store)) == ("1", [])

    def test_many_versions_are_removed_with_their_aliases(self, store: Store) -> None:
        for number in range(15):
            register(store, declare(), version=str(number), now=float(number))
        assert promote(store, "3")
        assert store.registry.unregister("default", "p", now=60.0) == 15
        assert (version_of(store), list_aliases(store), list_names(store)) == (None, [], [])
        assert failed_checks(store) == []

    def test_each_tenant_has_its_own_aliases(self, store: Store) -> None:
        for tenant in ("default", "other"):
            for version in ("1", "2"):
                playbook = RegisteredPlaybook(tenant, "p", version, f"{tenant} {version}", 0.0)
                store.registry.register(playbook)
        assert store.registry.promote(PlaybookAlias("other", "p", LIVE, "1", 1.0))
        live = store.registry.get("other", "p", alias=LIVE)
        assert live is not None
        assert (live.version, live.plan_hash, version_of(store)) == ("1", "other 1", "2")
        assert store.registry.aliases("other", ["p"]) == [PlaybookAlias("other", "p", LIVE, "1", 1.0)]

    def test_who_registered_a_promoted_version_is_known(self, store: Store) -> None:
        playbook = replace(build_playbook("p", "1", registered_at=1.25), registered_by=None)
        store.registry.register(playbook)
        register_versions(store, "2", name="p")
        assert promote(store, "1")
        assert store.registry.get("default", "p", alias=LIVE) == playbook


class LiveTriggersContract(ContractFixtures):
    """Tests of triggers when the live version changes."""

    def test_a_promotion_replaces_the_triggers(self, store: Store, second: Store) -> None:
        register(store, declare("t"), declare("u"), version="one", now=0.0)
        register(store, declare("t"), declare("v"), version="two", now=10.0)
        assert promote(store, "one", now=20.0)
        assert list_names(second) == ["t", "u"]
        assert_triggers_are_live(second)
        assert promote(store, "two", now=30.0)
        assert list_names(second) == ["t", "v"]
        assert_triggers_are_live(second)

    def test_a_registration_leaves_the_triggers_of_a_promoted_version(self, store: Store) -> None:
        first = register(store, declare("t"), version="one", now=0.0)
        assert promote(store, "one")
        before = read_trigger(store)
        register(store, declare("t"), declare("u"), version="two", now=60.0)
        assert store.registry.register(first, triggers=(declare("t"),)) == first
        assert (read_trigger(store), list_names(store)) == (before, ["t"])
        assert store.registry.unregister("default", "p", "two", now=62.0) == 1
        assert read_trigger(store) == before
        assert_triggers_are_live(store)

    def test_the_triggers_of_the_newest_version_come_back_with_it(self, store: Store) -> None:
        register(store, declare("t"), version="one", now=0.0)
        assert promote(store, "one")
        register(store, declare("u"), version="two", now=60.0)
        assert store.registry.remove_alias("default", "p", LIVE, now=70.0)
        assert list_names(store) == ["u"]
        assert_triggers_are_live(store)
        assert store.registry.unregister("default", "p", "two", now=80.0) == 1
        assert list_names(store) == ["t"]
        assert_triggers_are_live(store)

    def test_another_alias_leaves_the_triggers(self, store: Store) -> None:
        register(store, declare("t"), version="one", now=0.0)
        register(store, declare("u"), version="two", now=10.0)
        before = read_trigger(store, "u")
        assert promote(store, "one", "stable")
        assert store.registry.remove_alias("default", "p", "stable", now=60.0)
        assert (list_names(store), read_trigger(store, "u")) == (["u"], before)

    def test_a_promotion_keeps_pauses_and_next_firings(self, store: Store) -> None:
        register(store, declare("t"), declare("u"), declare("v", 60.0), version="one", now=0.0)
        register(store, declare("t"), declare("u"), declare("v", 7.0), version="two", now=10.0)
        for name in ("t", "u"):
            trigger = read_trigger(store, name)
            written = replace(trigger, next_at=120.0, due_at=120.0, edition=trigger.edition + 1)
            if name == "u":
                written = replace(written, is_paused=True, due_at=None)
            assert store.triggers.advance(Advance(trigger, written))
        assert promote(store, "one", now=12.0)
        kept, paused, changed = (read_trigger(store, name) for name in ("t", "u", "v"))
        assert (kept.version, kept.next_at, kept.due_at) == ("one", 120.0, 120.0)
        assert (paused.is_paused, paused.next_at, paused.due_at) == (True, 120.0, None)
        assert (changed.next_at, changed.due_at) == (60.0, 60.0)

    def test_a_removed_trigger_keeps_its_history(self, store: Store) -> None:
        register(store, version="one", now=0.0)
        register(store, declare("t"), version="two", now=0.0)
        run = fire(store, advance_by(read_trigger(store), 61.0), 61.0)
        assert promote(store, "one", now=70.0)
        assert list_names(store) == []
        assert [firing.run_id for firing in list_firings(store)] == [run.id]
        assert store.registry.remove_alias("default", "p", LIVE, now=80.0)
        assert list_names(store) == ["t"]
        assert [firing.run_id for firing in list_firings(store)] == [run.id]

    def test_a_promotion_invalidates_a_firing_that_was_read_before(self, store: Store) -> None:
        register(store, declare("t"), version="one", now=0.0)
        register(store, declare("t"), version="two", now=1.0)
        advance = advance_by(read_trigger(store), 61.0)
        assert promote(store, "one", now=60.5)
        assert not store.triggers.advance(advance)
        assert read_trigger(store).version == "one"

    def test_paths_and_awaited_ends_are_those_of_the_live_version(self, store: Store) -> None:
        register(store, webhook("w", "a"), run_end("e", "x"), version="one", now=0.0)
        register(store, webhook("w", "b"), run_end("e", "y"), version="two", now=1.0)
        assert promote(store, "one")
        assert (owner_of(store, "a"), owner_of(store, "b")) == (("p", "w"), None)
        assert (awaiting(store, "x"), awaiting(store, "y")) == ([("p", "e")], [])
        register(store, webhook("x", "b"), name="q")
        assert_triggers_are_live(store)

    def test_a_version_whose_path_is_taken_does_not_become_live(self, store: Store, second: Store) -> None:
        register(store, webhook("w", "a"), version="one", now=0.0)
        register(store, webhook("w", "b"), version="two", now=1.0)
        register(store, webhook("x", "a"), name="q")
        assert refusal_of(store, "one", LIVE) == "path_taken"
        assert (version_of(second), list_aliases(second)) == ("two", [])
        assert owner_of(store, "b") == ("p", "w")
        assert promote(store, "two")
        register(store, webhook("w", "a"), version="three", now=2.0)
        with pytest.raises(RejectedError) as rejected:
            store.registry.remove_alias("default", "p", LIVE, now=3.0)
        assert rejected.value.reason == "path_taken"
        assert (version_of(second), list_aliases(second)) == ("two", [("p", LIVE, "two")])
        assert_triggers_are_live(store)

    def test_a_live_version_whose_plan_is_lost_has_no_triggers(self, store: Store) -> None:
        store.registry.register(RegisteredPlaybook("default", "p", "lost", "unknown", 0.0))
        register(store, declare("t"), version="two", now=1.0)
        assert promote(store, "lost")
        assert list_names(store) == []

    def test_promotions_and_registrations_at_once_agree_with_the_triggers(
        self, store: Store, second: Store
    ) -> None:
        for number in range(3):
            register(store, declare(f"t{number}"), version=f"v{number}", now=float(number))

        def change(index: int) -> None:
            used = second if index % 2 else store
            match index % 3:
                case 0:
                    assert promote(used, f"v{index % 2}", now=10.0 + index)
                case 1:
                    register(used, declare(f"t{index}"), version=f"v{index + 3}", now=10.0 + index)
                case _:
                    used.registry.remove_alias("default", "p", LIVE, now=10.0 + index)

        for _ in range(3):
            run_concurrently(6, change)
            live = version_of(store)
            assert live is not None
            assert list_names(store) == [f"t{int(live[1:]) - (3 if int(live[1:]) > 2 else 0)}"]
            assert_triggers_are_live(second)
