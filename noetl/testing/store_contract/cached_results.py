"""The contract of stores for cached results of work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from noetl.executor.errors import NotJsonError
from noetl.executor.model.cached_results import (
    HOLD_SECONDS,
    CachedResult,
    CacheEntry,
    CacheFilter,
    CacheHolder,
    CacheRequest,
)
from noetl.executor.model.run import Claim, RunStatus
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.operations import (
    claim_visit,
    end_run,
    run_concurrently,
    start_run,
    succeed,
)

RESULT = [[True, {"naïve": "\U0001f600, 'quoted'", "n": 1.5}, None], {"x": [None]}]
ONE_STEP = "steps: [{name: a, run: [{action: set, set: {n: 1}}]}]"


def make_request(claim: Claim, digest: str = "d1", **changes: Any) -> CacheRequest:
    """Return the request of a claimed visit."""
    holder = CacheHolder(claim.run.id, claim.visit.id, claim.visit.fence, "run.0")
    request = CacheRequest(claim.run.tenant, digest, "play", "a", "", holder, since=0.0)
    return replace(request, **changes)


def claim_step(store: Store, **options: Any) -> Claim:
    """Start a run and claim its only step."""
    return claim_visit(store, start_run(store, ONE_STEP, **options))


def save_result(store: Store, request: CacheRequest, value: Any = RESULT, *, now: float = 1.0) -> None:
    """Compute a result for a request, which is used for a hundred seconds."""
    assert store.cache.claim(request, now) is None
    assert store.cache.save(request, value, now + 100.0, now)


class CachedResultsContract(ContractFixtures):
    """Tests of cached results."""

    def test_a_result_is_used_by_a_later_run(self, store: Store, second: Store) -> None:
        request = make_request(claim_step(store))
        save_result(store, request)
        later = make_request(claim_step(second))
        expected = CachedResult(RESULT, request.holder.run_id, 1.0)
        assert [used.cache.claim(later, 2.0) for used in (second, store)] == [expected, expected]

    def test_a_result_is_of_its_digest_and_its_tenant(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        other = make_request(claim_step(store))
        assert store.cache.claim(replace(other, digest="d2"), 2.0) is None
        assert store.cache.claim(replace(other, tenant="another"), 2.0) is None

    def test_a_result_expires(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        other = make_request(claim_step(store))
        assert isinstance(store.cache.claim(other, 100.9), CachedResult)
        assert store.cache.claim(other, 101.0) is None
        assert store.cache.save(other, ["new"], 300.0, 150.0)
        answer = store.cache.claim(make_request(claim_step(store)), 151.0)
        assert answer == CachedResult(["new"], other.holder.run_id, 150.0)

    def test_a_result_may_be_too_old_for_a_request(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        strict, lenient = make_request(claim_step(store), since=1.5), make_request(claim_step(store))
        assert store.cache.claim(strict, 2.0) is None
        # The older result stays usable while another is computed.
        assert isinstance(store.cache.claim(lenient, 2.0), CachedResult)
        assert store.cache.save(strict, ["new"], 300.0, 3.0)
        answer = store.cache.claim(lenient, 4.0)
        assert isinstance(answer, CachedResult)
        assert (answer.value, answer.created_at) == (["new"], 3.0)

    def test_one_visit_computes_a_result(self, store: Store, second: Store) -> None:
        request, other = make_request(claim_step(store)), make_request(claim_step(second))
        assert store.cache.claim(request, 1.0) is None
        assert second.cache.claim(other, 1.0) == request.holder
        assert not second.cache.save(other, RESULT, 100.0, 1.0)
        # The holder may ask again.
        assert store.cache.claim(request, 2.0) is None
        assert store.cache.save(request, RESULT, 100.0, 2.0)
        assert isinstance(second.cache.claim(other, 3.0), CachedResult)

    def test_another_position_of_a_visit_is_not_the_holder(self, store: Store) -> None:
        request = make_request(claim_step(store))
        other = replace(request, holder=replace(request.holder, position="run.1"))
        assert store.cache.claim(request, 1.0) is None
        assert store.cache.claim(other, 1.0) == request.holder

    def test_of_concurrent_requests_one_becomes_the_holder(self, store: Store) -> None:
        requests = [make_request(claim_step(store)) for _ in range(6)]
        answers = run_concurrently(6, lambda index: store.cache.claim(requests[index], 1.0))
        holders = [
            request.holder for request, answer in zip(requests, answers, strict=True) if answer is None
        ]
        assert len(holders) == 1
        assert [answer for answer in answers if answer is not None] == holders * 5

    def test_a_holder_that_gives_up_is_followed_by_another(self, store: Store, second: Store) -> None:
        request, other = make_request(claim_step(store)), make_request(claim_step(second))
        assert store.cache.claim(request, 1.0) is None
        second.cache.release(other)
        assert second.cache.claim(other, 1.0) == request.holder
        store.cache.release(request)
        assert second.cache.claim(other, 1.0) is None
        assert not store.cache.save(request, RESULT, 100.0, 1.0)

    def test_a_release_keeps_an_older_result(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        strict = make_request(claim_step(store), since=1.5)
        assert store.cache.claim(strict, 2.0) is None
        store.cache.release(strict)
        assert isinstance(store.cache.claim(make_request(claim_step(store)), 2.0), CachedResult)

    def test_a_holder_whose_lease_has_ended_does_not_count(self, store: Store) -> None:
        claim = claim_step(store)
        request, other = make_request(claim), make_request(claim_step(store))
        assert store.cache.claim(request, 1.0) is None
        assert store.queue.renew(claim.visit, 60.0)
        assert store.cache.claim(other, 59.0) == request.holder
        assert store.cache.claim(other, 60.0) is None

    def test_a_holder_whose_visit_has_ended_does_not_count(self, store: Store) -> None:
        claim = claim_step(store)
        request, other = make_request(claim), make_request(claim_step(store))
        assert store.cache.claim(request, 1.0) is None
        store.queue.commit(succeed(store, claim, case=None), 1.0)
        assert store.cache.claim(other, 1.0) is None

    def test_a_holder_whose_visit_was_claimed_again_does_not_count(self, store: Store) -> None:
        claim = claim_step(store)
        request, other = make_request(claim), make_request(claim_step(store))
        assert store.cache.claim(request, 1.0) is None
        store.queue.release(claim.visit, 1.0, counts=False)
        assert store.cache.claim(other, 1.0) is None
        store.cache.release(other)
        assert store.cache.claim(request, 1.0) is None
        again = claim_visit(store, claim.run, 1.0)
        assert again.visit.fence > claim.visit.fence
        assert store.cache.claim(other, 1.0) is None

    def test_a_holder_whose_run_is_unknown_does_not_count(self, store: Store) -> None:
        request = make_request(claim_step(store))
        lost = replace(request, holder=CacheHolder("gone", "gone", 1, "run.0"))
        assert store.cache.claim(lost, 1.0) is None
        assert store.cache.claim(request, 1.0) is None

    def test_a_result_survives_the_deletion_of_its_run(self, store: Store) -> None:
        claim = claim_step(store)
        value = [["x" * 50_000], {}]
        save_result(store, make_request(claim), value)
        store.queue.commit(succeed(store, claim, case=None), 1.0)
        end_run(store, claim.run, RunStatus.SUCCEEDED)
        assert store.maintenance.delete_run(claim.run.tenant, claim.run.id)
        answer = store.cache.claim(make_request(claim_step(store)), 2.0)
        assert isinstance(answer, CachedResult)
        assert answer.value == value

    def test_what_is_no_json_is_refused(self, store: Store) -> None:
        request = make_request(claim_step(store))
        assert store.cache.claim(request, 1.0) is None
        with pytest.raises(NotJsonError):
            store.cache.save(request, [float("nan")], 100.0, 1.0)

    def test_entries_are_listed_newest_first(self, store: Store, second: Store) -> None:
        first = make_request(claim_step(store), label="customer 7")
        save_result(store, first)
        save_result(store, make_request(claim_step(store), "d2", step="b"), now=2.0)
        assert store.cache.claim(make_request(claim_step(store), "d3"), 3.0) is None
        found = second.cache.find(CacheFilter("default"), 4.0, 10)
        assert [entry.digest for entry in found] == ["d2", "d1"]
        size = found[1].size
        assert size > 0
        expected = CacheEntry("d1", "play", "a", "customer 7", first.holder.run_id, 1.0, 101.0, size)
        assert found[1] == expected
        assert [entry.digest for entry in store.cache.find(CacheFilter("default"), 4.0, 1)] == ["d2"]
        assert [entry.digest for entry in store.cache.find(CacheFilter("default"), 101.0, 10)] == ["d2"]
        assert store.cache.find(CacheFilter("another"), 4.0, 10) == []

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({"playbook": "play"}, ["d2", "d1"]),
            ({"playbook": "other"}, []),
            ({"step": "b"}, ["d2"]),
            ({"key": "customer"}, ["d1"]),
            ({"key": "Customer"}, []),
            ({"key": "d"}, ["d2", "d1"]),
            ({"key": "%"}, []),
            ({"before": 2.0}, ["d1"]),
            ({"step": "a", "before": 1.0}, []),
        ],
    )
    def test_a_filter_selects_entries(
        self, store: Store, fields: dict[str, Any], expected: list[str]
    ) -> None:
        save_result(store, make_request(claim_step(store), label="customer 7"))
        save_result(store, make_request(claim_step(store), "d2", step="b"), now=2.0)
        cache_filter = CacheFilter("default", **fields)
        assert [entry.digest for entry in store.cache.find(cache_filter, 4.0, 10)] == expected
        assert store.cache.clear(cache_filter) == len(expected)
        left = {entry.digest for entry in store.cache.find(CacheFilter("default"), 4.0, 10)}
        assert left == {"d1", "d2"} - set(expected)

    def test_a_tenant_clears_its_own_entries(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        assert store.cache.clear(CacheFilter("another")) == 0
        assert store.cache.clear(CacheFilter("default")) == 1
        assert store.cache.clear(CacheFilter("default")) == 0
        assert store.cache.claim(make_request(claim_step(store)), 2.0) is None

    def test_expired_entries_are_deleted(self, store: Store) -> None:
        save_result(store, make_request(claim_step(store)))
        held = make_request(claim_step(store), "d2")
        assert store.cache.claim(held, 1.0) is None
        store.maintenance.delete_old(50.0)
        assert len(store.cache.find(CacheFilter("default"), 50.0, 10)) == 1
        store.maintenance.delete_old(2 * HOLD_SECONDS)
        assert store.cache.find(CacheFilter("default"), 50.0, 10) == [] or not self.deletes_expired
        assert store.cache.save(held, RESULT, 100.0, 1.0) is not self.deletes_expired

    deletes_expired = True
    """Whether `delete_old` deletes expired entries; otherwise the database does so itself."""
