"""The contract of rates: no window has more units than a rate allows, and a slot is held from its time on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from unittest.mock import ANY

import pytest

from noetl.executor.errors import FencedError, RejectedError
from noetl.executor.model.gates import (
    SHARED_TENANT,
    Gate,
    GateKey,
    LimitKind,
    SlotOwner,
    SlotRequest,
    named_gate,
    new_gate,
    own_gate,
    own_rate_gate,
)
from noetl.executor.model.rate_gates import reserve_now
from noetl.executor.model.rates import MAX_ENTRIES, RateLog, Reservation
from noetl.executor.model.run import Claim, CommitResult
from noetl.executor.model.transition import wait_for_slot
from noetl.executor.stores.interface import Store
from noetl.testing.store_contract.fixtures import ContractFixtures
from noetl.testing.store_contract.gates import (
    NAMED,
    OWN,
    RATE,
    acquire,
    ask,
    find_due,
    give_back,
    hold,
    numbers_of,
    slots_of_visit,
)
from noetl.testing.store_contract.operations import (
    CHAIN,
    DIAMOND,
    LEASE,
    claim_visit,
    failed_checks,
    run_concurrently,
    start_run,
    succeed,
    visit_states,
)

OWN_RATE = own_rate_gate("default", "play", "a", 0, None)
"""The gate of a step's own rate."""

LAST_GATE = own_gate("default", "play", "z", 0, None)
"""The gate of a limit that is locked after that of the rate."""


def ask_rate(key: GateKey = OWN_RATE, size: int | None = 1, units: int = 1, per: float = 60.0) -> SlotRequest:
    """Return a request for units of a rate."""
    window = None if size is None else per
    return replace(ask(key, size, units), is_rate=True, per=window)


def commit_with_request(store: Store, claim: Claim, request: SlotRequest, now: float) -> CommitResult:
    """Commit a visit that gives its slot back, if it has one, and claim the next one with a request."""
    held = tuple(slots_of_visit(store, claim))
    commit = replace(succeed(store, claim), gives_back=bool(held), held_slots=held, requests=(request,))
    return store.queue.commit(commit, now, LEASE)


def is_free(gate: Gate) -> bool:
    """Return whether a unit of a rate can be taken at 10 s."""
    assert gate.rate is not None
    return gate.rate.find_time(gate.units, 1, 10.0) == 10.0


class RatesContract(ContractFixtures):
    """Tests of rates. `store` is an empty store."""

    def test_units_of_a_rate_are_reserved_in_time(self, store: Store) -> None:
        first, second = (claim_visit(store, start_run(store)) for _ in range(2))
        (held,) = acquire(store, first, ask_rate(), now=10.0)
        (later,) = acquire(store, second, ask_rate(), now=11.0)
        assert (held.held_at, later.held_at, later.queued_at) == (10.0, 70.0, 11.0)
        assert acquire(store, second, ask_rate(), now=12.0) == [later] == slots_of_visit(store, second)
        gate = store.gates.gate(OWN_RATE)
        assert gate is not None
        assert (gate.units, gate.held, gate.waiting, gate.ceiling) == (1, 2, 0, 2)
        assert gate.rate == RateLog(60.0, (Reservation(70.0, 1),), 11.0)
        store.queue.commit(wait_for_slot(second.visit, later, 70.0, 11.0), 11.0)
        assert visit_states(store, second.run) == [("a", "waiting")]
        assert store.queue.next_due(second.run.id) == 70.0
        assert find_due(store, second.run, 69.0) == []
        assert (store.gates.stalled(10), store.gates.grant(OWN_RATE, 12.0)) == ([], 0)
        give_back(store, first, 12.0)
        assert numbers_of(store, OWN_RATE) == (1, 0)
        again = claim_visit(store, second.run, 70.0)
        assert acquire(store, again, ask_rate(), now=70.0) == [later]
        give_back(store, again, 71.0)
        assert numbers_of(store, OWN_RATE) == (0, 0)
        # The units stay taken until they leave the window.
        third = claim_visit(store, start_run(store))
        assert acquire(store, third, ask_rate(), now=72.0)[0].held_at == 130.0
        give_back(store, third, 73.0)
        store.maintenance.sweep(189.0)
        assert numbers_of(store, OWN_RATE) == (0, 0)
        store.maintenance.sweep(190.0)
        # DynamoDB deletes it later.
        assert numbers_of(store, OWN_RATE) in {None, (0, 0)}
        assert failed_checks(store) == []

    def test_a_rate_that_is_refused_keeps_its_state(self, store: Store) -> None:
        hold(store, ask_rate(), now=10.0)
        before = store.gates.gate(OWN_RATE)
        other = claim_visit(store, start_run(store))
        for request in (replace(ask_rate(), queues=False), replace(ask_rate(), max_wait=30.0)):
            (offer,) = acquire(store, other, request, now=20.0)
            assert (offer.units, offer.held_at) == (0, 70.0)
        assert store.gates.gate(OWN_RATE) == before
        assert slots_of_visit(store, other) == []
        assert acquire(store, other, replace(ask_rate(), max_wait=50.0), now=20.0)[0].units == 1
        assert failed_checks(store) == []

    def test_rates_are_asked_last_and_at_one_time(self, store: Store) -> None:
        store.gates.set_limit(NAMED, LimitKind.STEPS, 1, 3600.0)
        requests = [ask(), ask_rate(size=2), ask_rate(NAMED, None)]
        first, second, third = (claim_visit(store, start_run(store)) for _ in range(3))
        assert [slot.held_at for slot in acquire(store, first, *requests, now=5.0)] == [5.0] * 3
        (waiting,) = acquire(store, second, *requests, now=6.0)
        assert not waiting.is_held
        give_back(store, first, 7.0)
        assert store.gates.grant(OWN, 7.0) == 1
        slots = acquire(store, second, *requests, now=8.0)
        assert [slot.held_at for slot in slots] == [7.0, 3605.0, 3605.0]
        # The own rate is not asked for a time before its last reservation.
        assert acquire(store, third, ask_rate(size=2), now=9.0)[0].held_at == 3605.0
        assert failed_checks(store) == []

    @pytest.mark.parametrize(
        ("held", "wanted", "taken", "text"),
        [
            *product([OWN, LAST_GATE, NAMED], [OWN_RATE, RATE], [(9.0, 9.5)], [CHAIN, DIAMOND]),
            *product(
                [None],
                [OWN_RATE, RATE],
                [(), (1.0, 2.0), (9.0, 9.5), (9.0, 10.0), (9.0,) * 5, (9.0, 12.0)],
                [CHAIN],
            ),
        ],
    )
    def test_a_commit_takes_units_of_a_rate(
        self, store: Store, held: GateKey | None, wanted: GateKey, taken: Sequence[float], text: str
    ) -> None:
        """Take those that are free at once, as the visit does after its claim."""
        store.gates.set_limit(NAMED, LimitKind.STEPS, 2)
        store.gates.set_limit(RATE, LimitKind.STEPS, 5, per=4.0)
        wanted_rate = ask_rate(wanted, None if wanted == RATE else 5, per=4.0)
        request = replace(wanted_rate, queues=False, limit="rate" if wanted == RATE else "api")
        for time in taken:
            give_back(store, hold(store, replace(request, queues=True), now=time), time)
        before = store.gates.gate(wanted) or new_gate(request)
        size = None if held == NAMED else 2
        if held is None:
            claim = claim_visit(store, start_run(store))
        else:
            claim = hold(store, ask(held, size), text=text)
        result = commit_with_request(store, claim, request, 10.0)
        assert result.following is not None
        owner = SlotOwner(claim.run.id, result.following.id)
        reserved = reserve_now(before, owner, request, 10.0) if store.queue.takes_slots else None
        gate, slots = (before, []) if reserved is None else (reserved[0], [reserved[1]])
        assert list(result.slots) == slots == store.gates.slots_of(claim.run.id)
        if taken or slots or wanted == RATE:
            assert store.gates.gate(wanted) == replace(gate, edition=ANY)
        assert numbers_of(store, held or NAMED) in {None, (0, 0)}
        again = Claim(claim.run, result.following)
        assert acquire(store, again, request, now=10.0)[0].units == (reserved is not None or is_free(before))
        assert failed_checks(store) == []

    @pytest.mark.parametrize("key", [OWN_RATE, RATE])
    def test_reservations_of_a_great_rate_are_merged(self, store: Store, key: GateKey) -> None:
        """Merge those in the same sixtieth of the window, here a second."""
        store.gates.set_limit(RATE, LimitKind.STEPS, MAX_ENTRIES + 1, per=60.0)
        wanted = ask_rate(key, None if key == RATE else MAX_ENTRIES + 1)
        request = replace(wanted, queues=False, limit="rate" if key == RATE else "api")
        for time in (3.0, 8.75, 9.25, 9.5):
            give_back(store, hold(store, request, now=time), time)
        claim = claim_visit(store, start_run(store))
        result = commit_with_request(store, claim, request, 9.75)
        assert result.following is not None
        (slot,) = acquire(store, Claim(claim.run, result.following), request, now=9.75)
        assert list(result.slots) == ([slot] if store.queue.takes_slots else [])
        gate = store.gates.gate(key)
        assert gate is not None
        taken = (Reservation(3.0, 1), Reservation(8.75, 1), Reservation(9.75, 3))
        assert gate.rate == RateLog(60.0, taken, 9.75)

    @pytest.mark.parametrize("key", [OWN_RATE, RATE])
    def test_a_visit_takes_the_next_unit_of_a_rate(self, store: Store, key: GateKey) -> None:
        """Take it at the gate where the visit before gives its slot back, until none is free."""
        store.gates.set_limit(RATE, LimitKind.STEPS, 2, per=60.0)
        request = replace(ask_rate(key, None if key == RATE else 2), queues=False)
        claim = hold(store, request)
        for now in (2.0, 3.0):
            result = commit_with_request(store, claim, request, now)
            assert result.following is not None
            claim = Claim(claim.run, result.following)
            held = [now] if store.queue.takes_slots and now == 2.0 else []
            assert [slot.held_at for slot in store.gates.slots_of(claim.run.id)] == held
            assert numbers_of(store, key) == (len(held), 0)
        assert failed_checks(store) == []

    def test_slots_of_a_rate_are_queued_until_their_time(self, store: Store) -> None:
        request = ask_rate(OWN_RATE, 1)
        hold(store, request, now=1.0)
        claim = hold(store, request, now=2.0)
        (slot,) = store.gates.slots_of(claim.run.id)
        assert slot.held_at is not None
        assert slot.held_at > 2.0
        for now, slots in ((2.0, [slot]), (slot.held_at, [])):
            assert list(store.gates.queued_slots([claim.run.id], now).get(claim.run.id, [])) == slots

    def test_a_commit_takes_no_unit_of_a_rate_that_a_shared_one_hides(self, store: Store) -> None:
        store.gates.set_limit(RATE, LimitKind.STEPS, 2, per=60.0)
        store.gates.set_limit(named_gate(SHARED_TENANT, "rate"), LimitKind.STEPS, 2, per=60.0)
        request = replace(ask_rate(RATE, None), queues=False)
        result = commit_with_request(store, claim_visit(store, start_run(store)), request, 2.0)
        assert (result.slots, numbers_of(store, RATE)) == ((), (0, 0))

    @pytest.mark.parametrize("is_rate", [True, False])
    def test_a_commit_takes_nothing_at_a_gate_of_another_kind(self, store: Store, is_rate: bool) -> None:
        """Take nothing. The visit reports it after its claim."""
        store.gates.set_limit(NAMED, LimitKind.STEPS, 2, per=None if is_rate else 60.0)
        request = replace(ask_rate(NAMED, None) if is_rate else ask(NAMED, None), queues=False)
        result = commit_with_request(store, claim_visit(store, start_run(store)), request, 2.0)
        assert (result.slots, numbers_of(store, NAMED)) == ((), (0, 0))

    def test_a_lost_claim_reserves_nothing(self, store: Store) -> None:
        claim = claim_visit(store, start_run(store))
        claim_visit(store, claim.run, 40.0)
        with pytest.raises(FencedError):
            acquire(store, claim, ask_rate())
        assert numbers_of(store, OWN_RATE) is None

    def test_a_limit_stays_a_limit_and_a_rate_a_rate(self, store: Store) -> None:
        gate = store.gates.set_limit(NAMED, LimitKind.STEPS, 5, 60.0)
        assert (gate.units, gate.rate) == (5, RateLog(60.0))
        claim = hold(store, ask_rate(NAMED, None), now=10.0)
        changed = store.gates.set_limit(NAMED, LimitKind.STEPS, 3, 30.0)
        assert (changed.units, changed.rate) == (3, RateLog(30.0, (Reservation(10.0, 1),), 10.0))
        assert store.gates.gate(NAMED) == changed
        with pytest.raises(RejectedError, match="limit `api` is a rate") as rejected:
            store.gates.set_limit(NAMED, LimitKind.STEPS, 3)
        assert rejected.value.reason == "invalid_limit"
        other = claim_visit(store, start_run(store))
        for wrong in (ask(NAMED, None), ask_rate(NAMED, None, units=4)):
            with pytest.raises(RejectedError) as rejected:
                acquire(store, other, ask_rate(), wrong)
            assert rejected.value.reason == "wrong_limit"
        assert slots_of_visit(store, other) == []
        give_back(store, claim, 11.0)
        store.maintenance.sweep(1e9)
        assert store.gates.remove_limit(NAMED)

    def test_a_rate_of_all_tenants_is_one_gate(self, store: Store) -> None:
        shared = named_gate(SHARED_TENANT, "api")
        store.gates.set_limit(shared, LimitKind.STEPS, 1, 60.0)
        store.gates.set_limit(named_gate("other", "api"), LimitKind.STEPS, 1, 60.0)
        claims = [claim_visit(store, start_run(store, tenant=tenant)) for tenant in ("default", "other")]
        slots = [acquire(store, claim, ask_rate(shared, None), now=10.0)[0] for claim in claims]
        assert [(slot.held_at, slot.gate) for slot in slots] == [(10.0, shared), (70.0, shared)]
        changed = store.gates.set_limit(shared, LimitKind.STEPS, 5, 30.0)
        assert (changed.units, changed.key, changed.held) == (5, shared, 2)
        with pytest.raises(RejectedError, match="limit `api` is in use"):
            store.gates.remove_limit(shared)
        for claim in claims:
            give_back(store, claim, 71.0)
        assert store.gates.find(SHARED_TENANT, named=True)[0] == [store.gates.gate(shared)]
        assert failed_checks(store) == []
        assert store.gates.remove_limit(shared)

    def test_concurrent_workers_reserve_each_unit_once(self, store: Store) -> None:
        claims = [claim_visit(store, start_run(store)) for _ in range(4)]
        slots = run_concurrently(4, lambda index: acquire(store, claims[index], ask_rate(), now=10.0)[0])
        assert sorted(slot.held_at for slot in slots) == [10.0, 70.0, 130.0, 190.0]
        assert failed_checks(store) == []
