"""The slots of runs and visits at limits: what a claimed visit asks for before its work, and who is next.

Problem: the work of a visit may begin only when its run and the visit itself hold what `concurrency` demands.
A visit that must wait must not occupy a worker meanwhile.

Algorithm: a claimed visit asks for the slots of its run, and then for its own. Gates are taken in one order,
so no owners wait for each other in a circle (Havender 1968). If the last slot waits, the visit is suspended.
Its place in the queue follows from `fair` and `priority` (`noetl.executor.model.flows`).
The process that gives units back grants them to the next in the queue. This makes the suspended visit due.
Its claim asks again, and finds what it has. A unit of a rate is reserved at a time, at which the suspended
visit is due (`noetl.executor.engine.rate_units`).

Cost: one transaction before the work of a limited step, and one read after it. A limit of an operator costs
one read more, of whether all tenants share it. Steps without limits cost nothing. A run with limits of its
playbook costs one read more for each of its steps.

A run that has begun nothing ends as `skipped` if a limit of its playbook refuses it. With `cancel_oldest`,
older runs at the limit are cancelled until the newest ones fit (see `_cancel_older`).

Limits: a process that dies between its commit and the grant leaves units free while others wait. `LimitLoop`
finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count

from noetl.executor.engine.rate_units import count_rate_units
from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import FINALLY_STEP_SECONDS
from noetl.executor.errors import ActionError, RejectedError, StoreError, UnknownRunError
from noetl.executor.model.events import timestamp
from noetl.executor.model.flows import FIRST_RANK, flow_name, rank_of
from noetl.executor.model.gates import (
    SHARED_TENANT,
    GateKey,
    Slot,
    SlotOwner,
    SlotRequest,
    describe_refusal,
    describe_successor,
    find_superseded,
    named_gate,
    own_gate,
    own_rate_gate,
)
from noetl.executor.model.json_values import write_json
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import NEVER, Claim, Commit, ErrorRecord, Run, RunStatus, Visit
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.special_visits import START_CLOCK
from noetl.executor.model.transition import apply_deadline, skip_run, wait_for_slot
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.limits import MAX_PRIORITY, Limit
from noetl.planner.plan import Header, Step

MAX_KEY_BYTES = 1024
"""How long the key of a limit may be, as UTF-8."""

SLOTS_PER_PAGE = 1000
"""How many slots of a full gate are read at once to find the oldest."""

MAX_STALLED = 100
"""Number of gates with free units at which one call grants them."""

_MAX_SHOWN = 1e9

logger = logging.getLogger("noetl.executor")


@frozen
class _Wanted:
    """A request for a slot, and for how many seconds its owner waits; None means any time.

    With `cancels_oldest`, it cancels older owners rather than wait for all of them.
    """

    request: SlotRequest
    max_wait: float | None
    cancels_oldest: bool = False


@frozen
class _Units:
    """The numbers of units that a visit or a run asks for: of places and of rates. With 0 it asks nothing."""

    width: int = 1
    of_rate: int = 1


@frozen
class Admission:
    """Answer to a claimed visit that has asked: the slots of its step, in the order of their gates.

    `commit` suspends it, if it must wait, or ends its run as `skipped`. `refusal` is why its work must not be
    performed. `is_left_out` is true if the step succeeds without its work, because a limit with
    `when_full: skip` was full. `width` is how many items of a loop may be performed at once, or None for any
    number.
    """

    slots: Sequence[Slot] = ()
    commit: Commit | None = None
    refusal: ErrorRecord | None = None
    is_left_out: bool = False
    width: int | None = None

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
    of_run = () if step.is_finally_step else (*header.concurrency, *header.rate)
    if not of_run and not step.has_limits:
        return Admission()
    try:
        # The unit of the run bounds no loop.
        admission = replace(_ask_for_run(store, claim, of_run, now), width=None)
        if admission.commit is None and step.has_limits:
            width = 1 if step.loop is None else step.loop.concurrency
            units = _Units(width, count_rate_units(visit, step, scope) if step.rate else 0)
            rank = FIRST_RANK if step.is_finally_step else _rank_of_step(header, step, scope, now)
            entries = _entries(store, (*step.concurrency, *step.rate), scope, step.name, units)
            entries = _at_rank(entries, rank)
            if step.is_finally_step:
                entries = [_hurry(wanted, step.timeout_seconds) for wanted in entries]
            admission = _ask(store, claim, SlotOwner(run.id, visit.id), entries, now)
    except ActionError as problem:
        error = error_record(visit, problem.type, problem.message, retryable=problem.retryable)
        return Admission(_slots_of_visit(store, claim, step), refusal=error)
    if admission.commit is None or admission.commit.stop is not None:
        return admission
    return replace(admission, commit=apply_deadline(admission.commit, run.deadline_at, now))


def _ask_for_run(store: Store, claim: Claim, limits: Sequence[Limit], now: float) -> Admission:
    """Ask for the slots of a run. A refused run that has begun nothing ends as `skipped`.

    Raises:
        ActionError: as `_ask` and `_entries` do.
    """
    run, visit = claim.run, claim.visit
    # Names that steps have saved do not count: the keys of a run stay the same until its end.
    scope = Scope(run, visit)
    entries = _entries(store, limits, scope, None, _Units())
    if any(not limit.is_rate for limit in limits):
        priority = _read_priority(store.plans.header(run.plan_hash).priority, scope)
        entries = _at_rank(entries, rank_of(now, priority))
    try:
        admission = _ask(store, claim, SlotOwner(run.id), entries, now)
    except ActionError as problem:
        if problem.type != "LimitTimeout" or _has_begun(run, visit):
            raise
        return Admission(commit=skip_run(visit, problem.message))
    if not admission.is_left_out:
        return admission
    held = {slot.gate for slot in admission.slots}
    refused = next(entry.request for entry in entries if entry.request.gate not in held)
    return Admission(commit=skip_run(visit, describe_refusal(refused)))


def _has_begun(run: Run, visit: Visit) -> bool:
    """Return whether a run has begun a step, or was resumed. Such a run waits for its limits."""
    return run.resumes > 0 or visit.clock > START_CLOCK or _has_begun_work(visit)


def _has_begun_work(visit: Visit) -> bool:
    return visit.progress is not None or visit.attempt > 1


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


def _ask(store: Store, claim: Claim, owner: SlotOwner, entries: Sequence[_Wanted], now: float) -> Admission:
    """Ask for slots. An owner that has waited too long for one is refused.

    Raises:
        ActionError: `ParameterError`, if an operator's limit does not exist; `LimitTimeout`.
    """
    if not entries:
        return Admission()
    try:
        slots = store.gates.acquire(claim, owner, [entry.request for entry in entries], now)
    except RejectedError as problem:
        hint = "; an operator makes it with `noetl limits set`" if problem.reason == "unknown_limit" else ""
        raise ActionError("ParameterError", f"{problem.message}{hint}", retryable=False) from problem
    if not slots or (slots[-1].is_held and len(slots) < len(entries)):
        return Admission(slots, is_left_out=True)
    last = slots[-1]
    by_gate = {entry.request.gate: entry for entry in entries}
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
    claim: Claim, slots: Sequence[Slot], wanted: Mapping[GateKey, _Wanted], now: float
) -> Admission:
    """Return the answer to a visit that holds all its slots, those of rates from a later time on.

    Raises:
        ActionError: `LimitTimeout`.
    """
    last = max(slots, key=lambda slot: slot.held_at or 0.0)
    begins_at = last.held_at or 0.0
    refused = [wanted[slot.gate] for slot in slots if not slot.units]
    if refused:
        if not all(entry.request.queues for entry in refused):
            return Admission([slot for slot in slots if slot.units], is_left_out=True)
        longest = min(entry.max_wait for entry in refused if entry.max_wait is not None)
        free = f"no unit of limit `{last.limit}` becomes free within {longest:g} s"
        raise ActionError("LimitTimeout", f"{free}, only at {timestamp(begins_at)}")
    if begins_at <= now:
        widths = [slot.units for slot in slots if not wanted[slot.gate].request.is_rate]
        return Admission(slots, width=min(widths, default=None))
    return Admission(slots, commit=wait_for_slot(claim.visit, last, begins_at, now))


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


def _entries(
    store: Store, limits: Sequence[Limit], scope: Scope, step: str | None, units: _Units
) -> list[_Wanted]:
    """Return the requests of the entries of `concurrency` and `rate`, in the order of their gates.

    Raises:
        ActionError: a `key` or `fair` has no value, or is no text, number or Boolean of at most
            MAX_KEY_BYTES.
    """
    wanted = []
    numbers = {False: count(), True: count()}
    for limit in limits:
        request_units = units.of_rate if limit.is_rate else units.width
        position = next(numbers[limit.is_rate])
        if request_units:
            request = _request_slot(store, limit, scope, step, position)
            request = replace(request, units=request_units, max_wait=limit.max_wait_seconds)
            wanted.append(_Wanted(request, limit.max_wait_seconds, limit.when_full == "cancel_oldest"))
    return sorted(wanted, key=lambda slot: slot.request.gate)


def _request_slot(store: Store, limit: Limit, scope: Scope, step: str | None, position: int) -> SlotRequest:
    """Return the request for one unit of the limit at a position of `concurrency` or `rate`.

    Raises:
        ActionError: its key is wrong.
    """
    run, visit = scope.run, scope.visit
    # Work that has begun is not left out: it waits to be continued or tried again.
    has_begun = _has_begun(run, visit) if step is None else _has_begun_work(visit)
    request = SlotRequest(
        named_gate(run.tenant, ""),
        limit.use or (run.playbook if step is None else f"{run.playbook}.{step}"),
        limit.units,
        queues=limit.when_full != "skip" or has_begun,
        max_queued=None if has_begun else limit.max_queued,
        is_rate=limit.is_rate,
        per=limit.per_seconds,
    )
    section = "rate" if limit.is_rate else "concurrency"
    entry = f"{section}[{position}]"
    fair = run.playbook if limit.fair is None else _read_key(f"{entry}.fair", limit.fair, scope)
    if limit.use is not None:
        gate = _named_gate(store, run.tenant, limit.use)
        return replace(request, gate=gate, flow=_name_flow(run, gate, fair))
    value = None if limit.key is None else _read_key(f"{entry}.key", limit.key, scope)
    make_key = own_rate_gate if limit.is_rate else own_gate
    gate = make_key(run.tenant, run.playbook, step, position, value)
    # Not every store keeps a NUL or half of a surrogate pair.
    shown = None if value is None else to_printable(redact_for_storage(value))
    return replace(request, gate=gate, value=shown, flow=_name_flow(run, gate, fair))


def _name_flow(run: Run, gate: GateKey, fair: str) -> str:
    """Return the name of the flow of a run or its visits at a gate.

    At a limit that all tenants share, each tenant is one flow. Otherwise one with many flows would have more
    turns than the others.
    """
    return flow_name(redact_for_storage(fair if gate.tenant == run.tenant else run.tenant))


def _named_gate(store: Store, tenant: str, name: str) -> GateKey:
    """Return the key of the gate of an operator's limit: the shared one, if there is one of this name."""
    shared = named_gate(SHARED_TENANT, name)
    return named_gate(tenant, name) if store.gates.gate(shared) is None else shared


def _at_rank(entries: Sequence[_Wanted], rank: float) -> list[_Wanted]:
    return [replace(wanted, request=replace(wanted.request, rank=rank)) for wanted in entries]


def _hurry(wanted: _Wanted, timeout_seconds: float | None) -> _Wanted:
    """Return what the finally step asks for. It waits no longer than it may take."""
    longest = timeout_seconds or FINALLY_STEP_SECONDS
    max_wait = longest if wanted.max_wait is None else min(wanted.max_wait, longest)
    return _Wanted(replace(wanted.request, max_wait=max_wait), max_wait)


def _rank_of_step(header: Header, step: Step, scope: Scope, now: float) -> float:
    """Return the rank of the slots of a step, which has the priority of its playbook unless it has its own.

    Raises:
        ActionError: `ParameterError`.
    """
    if not step.concurrency:
        return now
    if step.priority is None:
        return rank_of(now, _read_priority(header.priority, Scope(scope.run, scope.visit)))
    return rank_of(now, _read_priority(step.priority, scope))


def _read_priority(written: float | str | None, scope: Scope) -> float:
    """Return the value of a priority. Without one, runs of backfills have the least.

    Raises:
        ActionError: `ParameterError`.
    """
    if written is None:
        return float(-MAX_PRIORITY if "backfill" in (scope.run.trigger or {}) else 0)
    value = render_at_key("priority", written, scope.lookup("priority"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        described = describe_kind_of(value)
    elif -MAX_PRIORITY <= value <= MAX_PRIORITY:
        return float(value)
    else:
        described = f"{value:g}" if abs(value) < _MAX_SHOWN else "another number"
    message = f"`priority` must be a number from -{MAX_PRIORITY} to {MAX_PRIORITY}, not {described}"
    raise ActionError("ParameterError", message, retryable=False)


def _read_key(place: str, key: str, scope: Scope) -> str:
    """Return the value of the template at a place of a limit as text."""
    value = render_at_key(place, key, scope.lookup(place))
    if not isinstance(value, str | int | float):
        message = f"`{place}` must be a text, a number or a Boolean, not {describe_kind_of(value)}"
        raise ActionError("ParameterError", message, retryable=False)
    text = value if isinstance(value, str) else write_json(value)
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_BYTES:
        message = f"`{place}` has {size:,} bytes; it may have {MAX_KEY_BYTES:,}"
        raise ActionError("ParameterError", message, retryable=False)
    return text


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
