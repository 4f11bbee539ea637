"""Rates: how many units are taken in a window of time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from noetl.executor.model.gates import Gate, GateKey, SlotOwner, SlotRequest
from noetl.executor.model.rate_gates import reserve, reserve_now
from noetl.executor.model.rates import MAX_ENTRIES, RateLog, Reservation
from noetl.planner.frozen import replace
from tests.property_settings import examples

OWNER = SlotOwner("run", "visit")


def rate_gate(limit: int, per: float, name: str = "api") -> Gate:
    return Gate(GateKey(f"use:{name}", "acme"), name, limit, ceiling=limit, rate=RateLog(per))


def request(gate: Gate, units: int = 1, max_wait: float | None = None, *, queues: bool = True) -> SlotRequest:
    return SlotRequest(gate.key, gate.limit, None, units, queues=queues, is_rate=True, max_wait=max_wait)


def reserve_one(gate: Gate, units: int, now: float) -> tuple[Gate, float]:
    """Reserve units of one rate. Return its gate and the time."""
    (gate,), (slot,) = reserve([gate], OWNER, [request(gate, units)], now)
    assert slot.held_at is not None
    return gate, slot.held_at


def most_in_a_window(taken: list[Reservation], per: float) -> int:
    """Return the most units in any half-open window."""
    return max(sum(units for time, units in taken if begin <= time < begin + per) for begin, _ in taken)


def earliest(taken: list[Reservation], limit: int, per: float, units: int, now: float) -> float:
    """Return the earliest time at which units can be taken after earlier reservations, by trying all."""
    since = max(now, *(time for time, _ in taken[-1:]), 0.0)
    candidates = [since, *(time + per for time, _ in taken if time + per > since)]
    return min(
        time for time in candidates if most_in_a_window([*taken, Reservation(time, units)], per) <= limit
    )


@given(
    st.integers(1, 3), st.sampled_from([None, 1, 3]), st.sampled_from([None, 4.0, 9.0]), st.integers(0, 30)
)
@examples(1.0)
def test_one_rate_gives_what_is_free_now(limit: int, size: int | None, per: float | None, now: int) -> None:
    """Give what `reserve` gives to an owner that does not wait."""
    gate, _ = reserve_one(rate_gate(3, 4.0), 2, 10.0)
    gate = replace(gate, units=limit)
    wanted = replace(request(gate, queues=False), size=size, per=per)
    (reserved,), (slot,) = reserve([gate], OWNER, [wanted], float(now))
    assert reserve_now(gate, OWNER, wanted, float(now)) == ((reserved, slot) if slot.units else None)


steps = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=120)


@given(st.integers(5, 200), st.sampled_from([8.0, 60.0, 600.0]), steps)
@examples(1.0)
def test_no_window_has_more_than_the_limit(limit: int, per: float, requests: list[tuple[int, int]]) -> None:
    gate, now, taken = rate_gate(limit, per), 1_000.0, list[Reservation]()
    for pause, units in requests:
        now += pause / 8
        best = earliest(taken, limit, per, units, now)
        gate, time = reserve_one(gate, units, now)
        assert best <= time <= best + per / MAX_ENTRIES
        taken.append(Reservation(time, units))
        assert gate.rate is not None
        assert len(gate.rate.taken) <= MAX_ENTRIES + 1
    assert most_in_a_window(taken, per) <= limit
    assert all(before.time <= after.time for before, after in pairwise(taken))


@given(steps)
@examples(0.5)
def test_few_reservations_are_exact(requests: list[tuple[int, int]]) -> None:
    gate, now, taken = rate_gate(MAX_ENTRIES, 60.0), 0.0, list[Reservation]()
    for pause, units in requests:
        now += pause / 8
        best = earliest(taken, MAX_ENTRIES, 60.0, units, now)
        gate, time = reserve_one(gate, units, now)
        assert time == best
        taken.append(Reservation(time, units))


def test_several_rates_are_taken_at_the_same_time() -> None:
    gates = [rate_gate(2, 1.0, "second"), rate_gate(3, 60.0, "minute")]
    times = []
    for _ in range(7):
        gates, slots = reserve(gates, OWNER, [request(gate) for gate in gates], 10.0)
        assert slots[0].held_at == slots[1].held_at
        times.append(slots[0].held_at)
    assert times == [10.0, 10.0, 11.0, 70.0, 70.0, 71.0, 130.0]


def test_an_owner_that_does_not_wait_so_long_reserves_nothing() -> None:
    gate, _ = reserve_one(rate_gate(1, 60.0), 1, 10.0)
    for refused in (request(gate, max_wait=50.0), request(gate, queues=False)):
        assert reserve([gate], OWNER, [refused], 15.0)[0] == [gate]
        (slot,) = reserve([gate], OWNER, [refused], 15.0)[1]
        assert (slot.units, slot.held_at) == (0, 70.0)
    assert reserve([gate], OWNER, [request(gate, max_wait=50.0)], 20.0)[1][0].units == 1


def test_a_clock_that_was_moved_back_delays_by_a_window_at_most() -> None:
    gate = rate_gate(1, 60.0)
    for _ in range(3):
        gate, time = reserve_one(gate, 1, 100_000.0)
    assert time == 100_120.0
    # The three reservations are moved with the clock.
    assert reserve_one(gate, 1, 500.0)[1] == 500.0 + 180
    idle, _ = reserve_one(rate_gate(1, 60.0), 1, 100_000.0)
    assert reserve_one(idle, 1, 500.0)[1] == 560.0
    # A clock that is a little behind changes nothing.
    assert reserve_one(idle, 1, 99_990.0)[1] == 100_060.0


def test_a_newer_limit_leaves_reservations_as_they_are() -> None:
    gate, _ = reserve_one(rate_gate(2, 60.0), 2, 10.0)
    own_request = SlotRequest(gate.key, "play", 5, 1, is_rate=True, per=30.0)
    (changed,), (slot,) = reserve([gate], OWNER, [own_request], 11.0)
    assert (slot.held_at, changed.units, changed.held) == (11.0, 5, 3)
    assert changed.rate == RateLog(30.0, (Reservation(10.0, 2), Reservation(11.0, 1)), 11.0)


def test_a_log_is_text_in_a_store() -> None:
    log = RateLog(60.0, (Reservation(10.0, 2), Reservation(11.5, 1)), 11.0)
    assert RateLog.from_text(log.to_text()) == log
    assert (log.count_taken(5, 11.0), log.count_reserved(11.0), log.idle_at) == (5, 1, 71.5)
    assert (log.count_taken(5, 12.0), log.count_taken(5, 70.0), log.count_reserved(12.0)) == (3, 1, 0)
    assert RateLog(60.0, read_at=5.0).idle_at == 5.0
