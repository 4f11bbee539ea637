"""The contract of stores for registered playbooks."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import run_concurrently


def build_playbook(
    name: str = "a", version: str | None = None, text: str = "one", *, registered_at: float = 1.0
) -> RegisteredPlaybook:
    """Return a playbook that is not registered yet. The registry does not interpret its hash."""
    return RegisteredPlaybook("default", name, version, text, registered_at, "key 1")


def register_versions(store: Store, *versions: str | None, name: str = "a") -> None:
    """Register versions in this order, each with its own text."""
    for version in versions:
        store.registry.register(build_playbook(name, version, f"{name} {version}"))


def list_versions(store: Store, name: str | None = None) -> list[tuple[str, str | None]]:
    playbooks, cursor = store.registry.find("default", name)
    assert cursor is None
    return [(playbook.name, playbook.version) for playbook in playbooks]


class RegistryContract(ContractFixtures):
    """Tests of registered playbooks."""

    def test_a_playbook_is_found_under_its_name(self, store: Store, second: Store) -> None:
        registered = store.registry.register(build_playbook("a b/ü\U0001f600", "3 β", registered_at=7.5))
        assert registered == build_playbook("a b/ü\U0001f600", "3 β", registered_at=7.5)
        for used in (store, second):
            assert used.registry.get("default", "a b/ü\U0001f600") == registered
            assert used.registry.get("default", "a b/ü\U0001f600", "3 β") == registered
        assert store.registry.get("default", "a b/ü\U0001f600", "3") is None
        assert store.registry.get("default", "a b") is None

    def test_a_playbook_without_version_gets_the_next_number(self, store: Store) -> None:
        assert [
            store.registry.register(build_playbook(text=text)).version for text in ("one", "two", "three")
        ] == [
            "1",
            "2",
            "3",
        ]
        assert store.registry.register(build_playbook("b")).version == "1"

    def test_a_number_used_as_a_version_is_skipped(self, store: Store) -> None:
        register_versions(store, "2", "x", "4")
        assert [store.registry.register(build_playbook(text=text)).version for text in ("one", "two")] == [
            "5",
            "6",
        ]
        register_versions(store, "2", name="b")
        register_versions(store, None, name="b")
        assert list_versions(store, "b") == [("b", "3"), ("b", "2")]

    def test_the_same_text_again_changes_nothing(self, store: Store) -> None:
        for version in (None, "x"):
            registered = store.registry.register(
                build_playbook("a", version, f"text {version}", registered_at=1.0)
            )
            assert (
                store.registry.register(build_playbook("a", version, f"text {version}", registered_at=9.0))
                == registered
            )
        assert list_versions(store, "a") == [("a", "x"), ("a", "1")]

    def test_each_version_keeps_who_registered_it_first(self, store: Store, second: Store) -> None:
        callers = ("key a", None, "token of ü\U0001f600␀")
        for index, caller in enumerate(callers):
            added = replace(build_playbook(text=str(index), registered_at=float(index)), registered_by=caller)
            assert store.registry.register(added) == replace(added, version=str(index + 1))
        again = build_playbook("a", "3", "2", registered_at=9.0)
        assert store.registry.register(again).registered_by == callers[2]
        for remaining in (3, 2, 1):
            newest = second.registry.get("default", "a")
            assert newest is not None
            assert second.registry.get("default", "a", str(remaining)) == newest
            assert second.registry.find("default")[0] == [newest]
            expected = [(callers[index], float(index)) for index in reversed(range(remaining))]
            found = second.registry.find("default", "a")[0]
            assert [(kept.registered_by, kept.registered_at) for kept in found] == expected
            store.registry.unregister("default", "a", str(remaining), now=5.0)
        assert store.registry.register(build_playbook("a", "1", "0")).registered_by == callers[0]
        restored = second.registry.get("default", "a")
        assert restored is not None
        assert (restored.registered_by, restored.registered_at) == (callers[0], 0.0)

    def test_an_earlier_text_gets_another_number(self, store: Store) -> None:
        for text in ("one", "two", "one"):
            store.registry.register(build_playbook(text=text))
        assert [version.plan_hash for version in store.registry.find("default", "a")[0]] == [
            "one",
            "two",
            "one",
        ]

    def test_a_version_keeps_its_text_for_ever(self, store: Store) -> None:
        registered = store.registry.register(build_playbook("a", "x", "one"))
        store.registry.register(build_playbook("b", "x", "two"))
        for _ in range(2):
            with pytest.raises(RejectedError) as rejected:
                store.registry.register(build_playbook("a", "x", "two"))
            assert rejected.value.reason == "version_exists"
            store.registry.unregister("default", "a", "x", now=5.0)
        assert store.registry.register(build_playbook("a", "x", "one", registered_at=9.0)) == registered
        assert store.registry.get("default", "a", "x") == registered

    def test_a_removed_number_is_not_reused(self, store: Store) -> None:
        register_versions(store, None)
        store.registry.unregister("default", "a", now=5.0)
        assert store.registry.get("default", "a") is None
        assert store.registry.register(build_playbook(text="a None")).version == "2"

    def test_the_newest_is_the_one_registered_last(self, store: Store) -> None:
        register_versions(store, "9", "1", "5")
        register_versions(store, "9")
        newest = store.registry.get("default", "a")
        assert newest is not None
        assert newest.version == "5"

    def test_removed_versions_are_not_found(self, store: Store) -> None:
        register_versions(store, "1", "2", "3")
        register_versions(store, "1", name="b")
        assert store.registry.unregister("default", "a", "3", now=5.0) == 1
        assert store.registry.unregister("default", "a", "3", now=6.0) == 0
        assert store.registry.get("default", "a", "3") is None
        newest = store.registry.get("default", "a")
        assert newest is not None
        assert newest.version == "2"
        assert list_versions(store) == [("a", "2"), ("b", "1")]
        assert list_versions(store, "a") == [("a", "2"), ("a", "1")]
        assert store.registry.unregister("default", "a", now=7.0) == 2
        assert store.registry.unregister("default", "a", now=8.0) == 0
        assert store.registry.unregister("default", "c", now=8.0) == 0
        assert (list_versions(store, "a"), list_versions(store)) == ([], [("b", "1")])

    def test_the_list_has_the_newest_version_of_each_playbook(self, store: Store) -> None:
        register_versions(store, "1", "2", name="b")
        register_versions(store, "7", name="a")
        register_versions(store, "1", name="B")
        assert list_versions(store) == [("B", "1"), ("a", "7"), ("b", "2")]

    def test_playbooks_are_returned_in_pages(self, store: Store) -> None:
        for index in range(7):
            register_versions(store, "1", "2", name=f"p{index}")
        register_versions(store, *map(str, range(7)), name="p")
        for name, expected in ((None, list_versions(store)), ("p", list_versions(store, "p"))):
            listed: list[tuple[str, str | None]] = []
            cursor = None
            while True:
                page, cursor = store.registry.find("default", name, limit=3, cursor=cursor)
                listed += [(entry.name, entry.version) for entry in page]
                register_versions(store, f"new {len(listed)}", name=name or "a new one")
                if cursor is None:
                    break
            assert listed == expected

    @pytest.mark.parametrize("name", [None, "p"])
    def test_invalid_cursors_are_refused(self, store: Store, name: str | None) -> None:
        register_versions(store, "1", "2", "3", name="p")
        register_versions(store, "1", name="q")
        _, by_name = store.registry.find("default", limit=1)
        _, by_number = store.registry.find("default", "p", limit=1)
        assert by_name is not None
        assert by_number is not None
        ours = by_name if name is None else by_number
        foreign = {by_name, by_number} - {ours}
        # true, null, [], {}, a lone surrogate, 10**30, text that is not base64
        broken = (
            "dHJ1ZQ==",
            "bnVsbA==",
            "W10=",
            "e30=",
            "Ilx1ZDgwMCI=",
            "MTAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAw",
            "",
            "!",
            "é",
        )
        for cursor in (*foreign, *broken):
            with pytest.raises(RejectedError) as rejected:
                store.registry.find("default", name, cursor=cursor)
            assert rejected.value.reason == "invalid_cursor"

    def test_a_name_that_no_database_holds_is_unknown(self, store: Store) -> None:
        assert store.registry.get("default", "a\0b") is None
        with suppress(RejectedError):  # A store that cannot search for the name refuses it.
            assert store.registry.unregister("default", "a\0b", now=1.0) == 0

    def test_each_tenant_has_its_own_registry(self, store: Store) -> None:
        mine, theirs = (
            replace(build_playbook("a", "1", tenant), tenant=tenant) for tenant in ("mine", "theirs")
        )
        assert store.registry.register(mine) == mine
        assert store.registry.register(theirs) == theirs
        assert store.registry.get("mine", "a") == mine
        assert store.registry.find("theirs") == ([theirs], None)
        assert store.registry.find("nobody") == ([], None)
        assert store.registry.unregister("mine", "a", now=5.0) == 1
        assert store.registry.get("theirs", "a", "1") == theirs

    def test_concurrent_registrations_of_several_texts(self, store: Store, second: Store) -> None:
        def register(index: int) -> str | None:
            return (second if index % 2 else store).registry.register(build_playbook(text=str(index))).version

        assert sorted(map(str, run_concurrently(6, register))) == ["1", "2", "3", "4", "5", "6"]

    def test_a_version_that_is_not_the_newest_is_refused(self, store: Store) -> None:
        def register(text: str, newest: str, version: str | None = None) -> str:
            try:
                added = store.registry.register(build_playbook("a", version, text), newest=newest)
            except RejectedError as error:
                return error.reason
            return str(added.version)

        assert register("one", "1") == "playbook_changed"
        assert register("one", "") == "1"
        assert register("one", "") == register("one", "5", "1") == "1"
        for newest in ("", "2", "0"):
            assert register("two", newest) == "playbook_changed"
        assert register("two", "1") == "2"
        assert register("one", "1", "1") == "playbook_changed"
        assert register("one", "2", "1") == "1"
        assert register("other", "2", "1") == "version_exists"
        store.registry.unregister("default", "a", "2", now=5.0)
        assert register("three", "2") == "playbook_changed"
        assert register("three", "1") == "3"
        assert register("two", "1", "2") == "playbook_changed"
        store.registry.unregister("default", "a", now=6.0)
        assert register("four", "3") == "playbook_changed"
        assert register("four", "") == "4"
        assert list_versions(store, "a") == [("a", "4")]

    @pytest.mark.parametrize("version", [None, "x"])
    def test_one_of_concurrent_registrations_with_one_newest_version_succeeds(
        self, store: Store, second: Store, version: str | None
    ) -> None:
        for newest in ("", "x" if version else "1"):

            def register(index: int, newest: str = newest) -> str:
                name = None if version is None else f"{version}{index if newest else ''}"
                playbook = build_playbook("a", name, f"{newest} {index}")
                used = second if index % 2 else store
                try:
                    used.registry.register(playbook, newest=newest)
                except RejectedError as error:
                    return error.reason
                return "registered"

            outcomes = run_concurrently(6, register)
            assert sorted(outcomes) == ["playbook_changed"] * 5 + ["registered"]
        assert len(list_versions(store, "a")) == 2

    def test_concurrent_registrations_of_one_text(self, store: Store, second: Store) -> None:
        registered = run_concurrently(
            6,
            lambda index: (second if index % 2 else store).registry.register(
                build_playbook(registered_at=float(index))
            ),
        )
        assert len(set(registered)) == 1

    def test_concurrent_registrations_of_one_version(self, store: Store, second: Store) -> None:
        def register(index: int) -> bool:
            try:
                (second if index % 2 else store).registry.register(build_playbook("a", "x", str(index)))
            except RejectedError:
                return False
            return True

        assert sum(run_concurrently(6, register)) == 1
