"""The slots of runs and visits at limits: what a claimed visit asks for before its work, and who is next.

Problem: the work of a visit may begin only when its run and the visit itself hold what `concurrency` demands.
A visit that must wait must not occupy a worker meanwhile.

Algorithm: a claimed visit asks for the slots of its run, and then for its own. Gates are taken in one order,
so no owners wait for each other in a circle (Havender 1968). If the last slot waits, the visit is suspended.
Its place in the queue follows from `fair` and `priority` (`noetl.executor.model.flows`).
The process that gives units back grants them to the next in the queue. This makes the suspended visit due.
Its claim asks again, and finds what it has. A unit of a rate is reserved at a time, at which the suspended
visit is due (`noetl.executor.engine.rate_units`).

Cost: a claimed visit may have its slots already. A store takes them with the claim if the commit knows their
keys (`noetl.executor.engine.slot_requests`), or if they read nothing (`noetl.executor.model.claim_requests`).
Any other visit costs one transaction before its work. Steps without limits cost nothing.

A run that has begun nothing ends as `skipped` if a limit of its playbook refuses it. With `cancel_oldest`,
older runs at the limit are cancelled until the newest ones fit (see `_cancel_older`).

Limits: a process that dies between its commit and the grant leaves units free while others wait. `LimitLoop`
finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter

from noetl.executor.engine.scope import Scope
from noetl.executor.engine.slot_requests import has_begun, request_for_run, request_for_step
from noetl.executor.errors import ActionError, RejectedError, StoreError, UnknownRunError
from noetl.executor.model.events import timestamp
from noetl.executor.model.gates import (
    GateKey,
    Slot,
    SlotOwner,
    SlotRequest,
    describe_refusal,
    describe_successor,
    find_superseded,
)
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import NEVER, Claim, Commit, ErrorRecord, Run, RunStatus, Visit
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.transition import apply_deadline, skip_run, wait_for_slot
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.limits import Limit
from noetl.planner.plan import Step

SLOTS_PER_PAGE = 1000
"""How many slots of a full gate are read at once to find the oldest."""

MAX_STALLED = 100
"""Number of gates with free units at which one call grants them."""

logger = logging.getLogger("noetl.executor")


@frozen
class Admission:
    """Answer to a claimed visit that has asked: the slots of its step, in the order of their gates.

    `commit` suspends it, if it must wait, or ends its run as `skipped`. `refusal` is why its work must not be
    performed. `unmet` is the request for which the step succeeds without its work, because a limit with
    `when_full: skip` was full. `width` is how many items of a loop may be performed at once, or None for any
    number. With `is_run_admitted`, its run holds all slots that it needs.
    """

    slots: Sequence[Slot] = ()
    commit: Commit | None = None
    refusal: ErrorRecord | None = None
    unmet: SlotRequest | None = None
    width: int | None = None
    is_run_admitted: bool = False

    @property
    def held_slots(self) -> tuple[Slot, ...]:
        """The slots of the visit at the gates of its step, if it holds all of them."""
        is_held = all(slot.is_held for slot in self.slots)
        return tuple(slot for slot in self.slots if slot.units) if is_held else ()

    def narrow(self, step: Step) -> Step:
        """Return the step with a loop that is no wider than the units that the visit holds."""
        if step.loop is None or self.width is None:
            return step
        return replace(step, loop=replace(step.loop, concurrency=min(step.loop.concurrency, self.width)))


def ask_for_slots(store: Store, claim: Claim, step: Step, scope: Scope, now: float) -> Admission:
    """Ask for the slots of a run and of a claimed visit. `scope` has the names that the step reads.

    The finally step does not ask for those of its run, so that a run cancelled in the queue ends at once.

    Raises:
        FencedError: the claim is lost.
    """
    run, visit = claim.run, claim.visit
    header = store.plans.header(run.plan_hash)
    needs_run = not step.is_finally_step and not claim.is_admitted
    of_run = (*header.concurrency, *header.rate) if needs_run else ()
    is_run_admitted = not step.is_finally_step
    if not of_run and not step.has_limits:
        return Admission(is_run_admitted=is_run_admitted)
    if claim.slots:  # So it needs none of its run.
        width = min(slot.units for slot in claim.slots)
        return Admission(claim.slots, width=width, is_run_admitted=is_run_admitted)
    try:
        # The unit of the run bounds no loop.
        admission = replace(_ask_for_run(store, claim, of_run, now), width=None)
        if admission.commit is None and step.has_limits:
            requests = request_for_step(store, header, step, scope, now)
            admission = _ask(store, claim, SlotOwner(run.id, visit.id), requests, now)
    except ActionError as problem:
        error = error_record(visit, problem.type, problem.message, retryable=problem.retryable)
        return Admission(_slots_of_visit(store, claim, step), refusal=error)
    if admission.commit is None:
        return replace(admission, is_run_admitted=is_run_admitted)
    if admission.commit.stop is not None:
        return admission
    return replace(admission, commit=apply_deadline(admission.commit, run.deadline_at, now))


def _ask_for_run(store: Store, claim: Claim, limits: Sequence[Limit], now: float) -> Admission:
    """Ask for the slots of a run. A refused run that has begun nothing ends as `skipped`.

    Raises:
        ActionError: as `_ask` and `request_for_run` do.
    """
    run, visit = claim.run, claim.visit
    requests = request_for_run(store, run, visit, limits, now)
    try:
        admission = _ask(store, claim, SlotOwner(run.id), requests, now)
    except ActionError as problem:
        if problem.type != "LimitTimeout" or has_begun(run, visit):
            raise
        return Admission(commit=skip_run(visit, problem.message))
    if admission.unmet is None:
        return admission
    return Admission(commit=skip_run(visit, describe_refusal(admission.unmet)))


def _slots_of_visit(store: Store, claim: Claim, step: Step) -> list[Slot]:
    return store.gates.slots_of(claim.run.id, claim.visit.id) if step.has_limits else []


def find_gates(store: Store, run: Run | RunSummary) -> list[GateKey]:
    """Return the gates at which a run and its visits have slots."""
    if not store.plans.header(run.plan_hash).has_limits:
        return []
    return [slot.gate for slot in store.gates.slots_of(run.id)]


def slots_of_refused(store: Store, claim: Claim, step: Step) -> Admission:
    """Return what a visit has whose work is refused or left out: it does not ask, and gives back."""
    return Admission(_slots_of_visit(store, claim, step))


def _ask(
    store: Store, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
) -> Admission:
    """Ask for slots. An owner that has waited too long for one is refused.

    Raises:
        ActionError: `ParameterError`, if an operator's limit does not exist; `LimitTimeout`.
    """
    if not requests:
        return Admission()
    try:
        slots = store.gates.acquire(claim, owner, requests, now)
    except RejectedError as problem:
        hint = "; an operator makes it with `noetl limits set`" if problem.reason == "unknown_limit" else ""
        raise ActionError("ParameterError", f"{problem.message}{hint}", retryable=False) from problem
    if not slots or (slots[-1].is_held and len(slots) < len(requests)):
        return Admission(slots, unmet=_find_unmet(requests, slots))
    last = slots[-1]
    by_gate = {request.gate: request for request in requests}
    if last.is_held:
        return _wait_for_rates(claim, slots, by_gate, now)
    wanted = by_gate[last.gate]
    until = NEVER if wanted.max_wait is None else last.queued_at + wanted.max_wait
    if now >= until:
        waited = f"no unit of limit `{last.limit}` became free within {until - last.queued_at:g} s"
        raise ActionError("LimitTimeout", waited)
    if wanted.cancels_oldest:
        _cancel_older(store, claim.visit, last, now)
    return Admission(slots, commit=wait_for_slot(claim.visit, last, until, now))


def _wait_for_rates(
    claim: Claim, slots: Sequence[Slot], requests: Mapping[GateKey, SlotRequest], now: float
) -> Admission:
    """Return the answer to a visit that holds all its slots, those of rates from a later time on.

    Raises:
        ActionError: `LimitTimeout`.
    """
    last = max(slots, key=lambda slot: slot.held_at or 0.0)
    begins_at = last.held_at or 0.0
    refused = [requests[slot.gate] for slot in slots if not slot.units]
    if refused:
        if not all(request.queues for request in refused):
            held = [slot for slot in slots if slot.units]
            return Admission(held, unmet=_find_unmet(requests.values(), held))
        longest = min(request.max_wait for request in refused if request.max_wait is not None)
        free = f"no unit of limit `{last.limit}` becomes free within {longest:g} s"
        raise ActionError("LimitTimeout", f"{free}, only at {timestamp(begins_at)}")
    if begins_at <= now:
        widths = [slot.units for slot in slots if not requests[slot.gate].is_rate]
        return Admission(slots, width=min(widths, default=None))
    return Admission(slots, commit=wait_for_slot(claim.visit, last, begins_at, now))


def _find_unmet(requests: Iterable[SlotRequest], held: Iterable[Slot]) -> SlotRequest:
    """Return the first request whose gate has given nothing. Stores ask rates last."""
    gates = {slot.gate for slot in held}
    refused = (request for request in requests if request.gate not in gates)
    return min(refused, key=attrgetter("is_rate"))


def _cancel_older(store: Store, visit: Visit, slot: Slot, now: float) -> None:
    """Cancel the oldest runs at the gate of a waiting slot, until no more are left than the gate has units.

    `visit` is the one that has requested it. Runs that are being cancelled already do not count, so a
    repetition after a crash cancels no other ones.
    """
    gate = store.gates.gate(slot.gate)
    slots, cursor = store.gates.slots_at(slot.gate, limit=SLOTS_PER_PAGE)
    while cursor is not None:
        page, cursor = store.gates.slots_at(slot.gate, limit=SLOTS_PER_PAGE, cursor=cursor)
        slots += page
    cancelled = store.runs.cancelled_runs([found.owner.run_id for found in slots])
    units = 0 if gate is None else gate.units
    reason = error_record(visit, "RunSuperseded", describe_successor(slot)) | {"step": None}
    for run_id in find_superseded(slots, slot, units, cancelled):
        with suppress(RejectedError, UnknownRunError):  # it has ended since it was read
            store.runs.stop(run_id, RunStatus.CANCELLED, now, reason)


def grant_next(store: Store, gates: Iterable[GateKey], now: float) -> None:
    """Grant free units of gates to those that wait. After a failure of the store, `LimitLoop` does it."""
    try:
        for key in gates:
            store.gates.grant(key, now)
    except StoreError as error:
        logger.warning("what waits for a limit gets it later: %s", error)


def grant_stalled(store: Store, limit: int = MAX_STALLED) -> int:
    """Grant free units at gates where slots wait although units are free. Return the number of such gates.

    Raises:
        StoreError: the store cannot be reached.
    """
    stalled = store.gates.stalled(limit)
    for key in stalled:
        store.gates.grant(key, store.clock())
    return len(stalled)
