"""Gates of rates: an owner reserves units at a time, and its slot is held from this time on.

Problem: the work of an owner may begin only at a time at which all of its rates have free units. An owner
that waits must hold no worker.

Algorithm: reservation in time. Each rate names its earliest time with free units that is not before the times
of the others. This is repeated until all rates name the same time: the least fixed point (Kleene). The units
are taken at this time in all rates. An owner that does not wait so long reserves nothing.

Cost: each round to the fixed point reads the reservations of each rate once.

Limits: those of `noetl.executor.model.rates`.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.gates import Gate, Slot, SlotOwner, SlotRequest, check_request, resize
from noetl.executor.model.rates import RateLog
from noetl.planner.frozen import replace


def reserve(
    gates: Sequence[Gate], owner: SlotOwner, requests: Sequence[SlotRequest], now: float
) -> tuple[list[Gate], list[Slot]]:
    """Return the gates of rates with the reservation of an owner, and its slots.

    `requests` are those for the `gates`, in their order. If the owner would wait for longer than it wants to,
    the gates are unchanged, and the slots have no units.

    Raises:
        RejectedError: `wrong_limit`.
    """
    for gate, request in zip(gates, requests, strict=True):
        check_request(gate, request)
    changed = [_as_requested(gate, request, now) for gate, request in zip(gates, requests, strict=True)]
    units = [min(request.units, gate.units) for gate, request in zip(gates, requests, strict=True)]
    time = _find_common_time(changed, units, now)
    is_refused = not all(_is_accepted(request, time - now) for request in requests)
    slots = [
        Slot(gate.key, owner, gate.limit, 0 if is_refused else taken, now, gate.value, held_at=time)
        for gate, taken in zip(gates, units, strict=True)
    ]
    if is_refused:
        return list(gates), slots
    taken_gates = [_take(gate, taken, time, now) for gate, taken in zip(changed, units, strict=True)]
    return taken_gates, slots


def reserve_now(gate: Gate, owner: SlotOwner, request: SlotRequest, now: float) -> tuple[Gate, Slot] | None:
    """Return the gate of a rate with the reservation of an owner, and its slot, or None if it would wait.

    Return None as well if the gate is one of a rate and the request is not, or the reverse.

    >>> from noetl.executor.model.gates import named_gate
    >>> gate = Gate(named_gate("acme", "api"), "api", units=1, rate=RateLog(60.0))
    >>> request = SlotRequest(gate.key, "api", None, is_rate=True, queues=False)
    >>> gate, slot = reserve_now(gate, SlotOwner("r1", "v1"), request, 5.0)
    >>> slot.held_at, reserve_now(gate, SlotOwner("r2", "v1"), request, 6.0)
    (5.0, None)
    """
    if not request.is_rate or gate.rate is None:
        return None
    # What `reserve` does for one gate, in a third of the time: it is part of the commits of steps.
    check_request(gate, request)
    changed, units = _as_requested(gate, request, now), min(request.units, gate.units)
    if _log_of(changed).find_time(changed.units, units, now) > now:
        return None
    slot = Slot(gate.key, owner, gate.limit, units, now, gate.value, held_at=now)
    return (_take(changed, units, now, now), slot) if units else None


def _find_common_time(gates: Sequence[Gate], units: Sequence[int], now: float) -> float:
    """Return the earliest time at which all rates have free units."""
    time, earlier = now, None
    while time != earlier:
        earlier = time
        for gate, taken in zip(gates, units, strict=True):
            time = _log_of(gate).find_time(gate.units, taken, time)
    return time


def _as_requested(gate: Gate, request: SlotRequest, now: float) -> Gate:
    """Return a gate with the limit and the window of a request for an own rate, as of now."""
    log = _log_of(gate)
    if request.size is not None and request.size != gate.units:
        gate = resize(gate, request.size)
    if request.per is not None and request.per != log.per:
        log = replace(log, per=request.per)
    log = log.turn_back(now)
    return gate if log is gate.rate else replace(gate, rate=log)


def _is_accepted(request: SlotRequest, seconds: float) -> bool:
    """Return whether the owner of a request waits for so many seconds."""
    if seconds <= 0.0:
        return True
    return request.queues and (request.max_wait is None or seconds <= request.max_wait)


def _take(gate: Gate, units: int, time: float, now: float) -> Gate:
    held = gate.held + units
    log = _log_of(gate).take(gate.units, units, time, now)
    return replace(gate, held=held, ceiling=max(gate.units, held), edition=gate.edition + 1, rate=log)


def _log_of(gate: Gate) -> RateLog:
    assert gate.rate is not None
    return gate.rate
