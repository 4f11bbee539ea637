"""The contract of stores for API keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import SERVICE_TENANT, ApiKey
from noetl.executor.model.request_counts import SLOTS, RequestBatch
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import run_concurrently


def build_key(id: str = "0123456789ab", *, tenant: str = "default", created_at: float = 1.5) -> ApiKey:
    """Return an API key that was never used. The store does not interpret its hash."""
    return ApiKey(id, f"hash of {id}", tenant, "naïve \U0001f600, 'quoted'", ("read", "run"), created_at)


class KeysContract(ContractFixtures):
    """Tests of API keys."""

    def test_a_key_is_found_under_its_id(self, store: Store, second: Store) -> None:
        store.keys.add(build_key())
        for used in (store, second):
            assert used.keys.get("0123456789ab") == build_key()
            assert used.keys.get("0123456789ac") is None
            assert used.keys.get("") is None

    def test_an_id_is_unique_over_all_tenants(self, store: Store) -> None:
        store.keys.add(build_key())
        for tenant in ("default", "another"):
            with pytest.raises(RejectedError) as rejected:
                store.keys.add(replace(build_key(tenant=tenant), hash="of another"))
            assert rejected.value.reason == "key_exists"
        assert store.keys.get("0123456789ab") == build_key()
        assert store.keys.find("another") == []

    def test_a_key_of_the_service_belongs_to_no_tenant(self, store: Store, second: Store) -> None:
        store.keys.add(build_key("event-tickets", tenant=SERVICE_TENANT))
        assert second.keys.get("event-tickets") is not None
        assert second.keys.find("default") == []
        assert not store.keys.revoke("default", "event-tickets", 2.0)
        # Otherwise a service without keys would ask all of its callers for one.
        assert not second.keys.any_exist()
        store.keys.add(build_key())
        assert second.keys.any_exist()

    def test_has_keys_is_true_after_the_first_key(self, store: Store, second: Store) -> None:
        assert not store.keys.any_exist()
        store.keys.add(build_key(tenant="another"))
        assert store.keys.any_exist()
        assert second.keys.any_exist()
        store.keys.revoke("another", "0123456789ab", 2.0)
        assert store.keys.any_exist()

    def test_keys_of_a_tenant_are_sorted_by_age(self, store: Store) -> None:
        ids = [("c", 1.0), ("a", 3.0), ("d", 2.0), ("b", 2.0)]
        for id, created_at in ids:
            store.keys.add(build_key(id, created_at=created_at))
        store.keys.add(build_key("e", tenant="another"))
        assert [stored.id for stored in store.keys.find("default")] == ["c", "b", "d", "a"]
        assert store.keys.find("another") == [build_key("e", tenant="another")]
        assert store.keys.find("unknown") == []

    def test_a_revoked_key_is_still_listed(self, store: Store, second: Store) -> None:
        store.keys.add(build_key())
        assert store.keys.revoke("default", "0123456789ab", 5.0)
        assert store.keys.revoke("default", "0123456789ab", 9.0)
        revoked = replace(build_key(), revoked_at=5.0)
        assert second.keys.get("0123456789ab") == revoked
        assert second.keys.find("default") == [revoked]

    def test_a_tenant_cannot_revoke_the_key_of_another(self, store: Store) -> None:
        store.keys.add(build_key())
        assert not store.keys.revoke("another", "0123456789ab", 5.0)
        assert not store.keys.revoke("default", "0123456789ac", 5.0)
        assert store.keys.get("0123456789ab") == build_key()
        assert store.keys.get("0123456789ac") is None

    def test_the_latest_time_of_use_is_kept(self, store: Store) -> None:
        store.keys.add(build_key())
        for now in (7.5, 9.25, 8.0):
            store.keys.touch("0123456789ab", now)
        store.keys.touch("0123456789ac", 9.0)
        assert store.keys.get("0123456789ab") == replace(build_key(), last_used_at=9.25)
        assert store.keys.get("0123456789ac") is None
        assert [stored.id for stored in store.keys.find("default")] == ["0123456789ab"]

    def test_concurrent_additions_of_one_id_add_one_key(self, store: Store, second: Store) -> None:
        def add(index: int) -> bool:
            try:
                (second if index % 2 else store).keys.add(replace(build_key(), hash=str(index)))
            except RejectedError:
                return False
            return True

        assert sum(run_concurrently(6, add)) == 1

    # Requests

    def test_stores_count_requests_together_up_to_the_limit(self, store: Store, second: Store) -> None:
        batch = RequestBatch("a", 1000, 3, 10)
        assert [used.keys.count_requests(batch) for used in (store, second, store, second)] == [
            True,
            True,
            True,
            False,
        ]
        assert second.keys.count_requests(replace(batch, size=1))
        assert not store.keys.count_requests(replace(batch, size=1))
        assert store.keys.count_requests(replace(batch, subject="b"))

    def test_requests_count_until_the_window_has_passed(self, store: Store) -> None:
        batch = RequestBatch("a", 1000, 5, 10)
        assert store.keys.count_requests(batch)
        assert store.keys.count_requests(replace(batch, slot=1004))
        for slot in (1004, 1005, 1000 + SLOTS):
            assert not store.keys.count_requests(replace(batch, slot=slot))
        assert store.keys.count_requests(replace(batch, slot=1001 + SLOTS))
        assert not store.keys.count_requests(replace(batch, slot=1001 + SLOTS))
        assert store.keys.count_requests(replace(batch, slot=5000, size=10))

    def test_requests_that_are_counted_at_once_stay_within_the_limit(
        self, store: Store, second: Store
    ) -> None:
        batch = RequestBatch("a", 1000, 1, 20)
        stores = [store, second] * 20
        with ThreadPoolExecutor(4) as threads:
            counted = list(threads.map(lambda used: used.keys.count_requests(batch), stores))
        assert sum(counted) == 20

    def test_requests_of_a_clock_that_was_ahead_refuse_none(self, store: Store, second: Store) -> None:
        batch = RequestBatch("a", 1000, 10, 10)
        for slot in range(5000, 5000 + 2 * SLOTS):
            assert store.keys.count_requests(replace(batch, slot=slot, size=1, limit=100))
        assert second.keys.count_requests(batch)
        assert not store.keys.count_requests(replace(batch, slot=1000 + SLOTS))
        assert store.keys.count_requests(replace(batch, slot=1001 + SLOTS))

    def test_requests_are_taken_back_from_their_slot(self, store: Store, second: Store) -> None:
        first, later = RequestBatch("key x", 100, 1, 1), RequestBatch("key x", 104, 1, 1)
        assert store.keys.count_requests(first)
        assert not second.keys.count_requests(later)
        assert second.keys.count_requests(replace(first, size=-1))
        assert store.keys.count_requests(later)
        assert not second.keys.count_requests(later)
