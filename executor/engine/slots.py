"""The slots of runs and visits at limits: what a claimed visit asks for before its work, and who is next.

Problem: the work of a visit may begin only when its run and the visit itself hold what `concurrency` demands.
A visit that must wait must not occupy a worker meanwhile.

Algorithm: a claimed visit asks for the slots of its run, and then for its own. Gates are taken in one order,
so no owners wait for each other in a circle (Havender 1968). If the last slot waits, the visit is suspended.
The process that gives units back grants them to the next in the queue. This makes the suspended visit due.
Its claim asks again, and finds what it has.

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
from collections.abc import Iterable, Sequence
from contextlib import suppress

from noetl.executor.engine.rendering import render_at_key
from noetl.executor.engine.scope import Scope
from noetl.executor.engine.work_context import FINALLY_STEP_SECONDS
from noetl.executor.errors import ActionError, RejectedError, StoreError, UnknownRunError
from noetl.executor.model.gates import (
    SHARED_TENANT,
    GateKey,
    Slot,
    SlotOwner,
    SlotRequest,
    describe_refusal,
    find_superseded,
    named_gate,
    own_gate,
)
from noetl.executor.model.json_values import write_json
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import NEVER, Claim, Commit, ErrorRecord, Run, RunStatus, Visit
from noetl.executor.model.run_summary import RunSummary
from noetl.executor.model.special_visits import START_CLOCK
from noetl.executor.model.transition import apply_deadline, skip_run, wait_for_slot
from noetl.executor.security.redaction import redact_for_storage
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.limits import Limit
from noetl.planner.plan import Step

MAX_KEY_BYTES = 1024
"""How long the key of a limit may be, as UTF-8."""

SLOTS_PER_PAGE = 1000
"""How many slots of a full gate are read at once to find the oldest."""

MAX_STALLED = 100
"""Number of gates with free units at which one call grants them."""

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
class Admission:
    """Answer to a claimed visit that has asked: the slots of its step, in the order of their gates.

    `commit` suspends it, if it must wait, or ends its run as `skipped`. `refusal` is why its work must not be
    performed. `is_left_out` is true if the step succeeds without its work, because a limit with
    `when_full: skip` was full.
    """

    slots: Sequence[Slot] = ()
    commit: Commit | None = None
    refusal: ErrorRecord | None = None
    is_left_out: bool = False

    def narrow(self, step: Step) -> Step:
        """Return the step with a loop that is no wider than the units that the visit holds."""
        if step.loop is None or not self.slots:
            return step
        units = min(slot.units for slot in self.slots)
        return replace(step, loop=replace(step.loop, concurrency=min(step.loop.concurrency, units)))


def ask_for_slots(store: Store, claim: Claim, step: Step, scope: Scope, now: float) -> Admission:
    """Ask for the slots of a run and of a claimed visit. `scope` has the names that the step reads.

    The finally step does not ask for those of its run, so that a run cancelled in the queue ends at once.

    Raises:
        FencedError: the claim is lost.
    """
    run, visit = claim.run, claim.visit
    of_run = () if step.is_finally_step else store.plans.header(run.plan_hash).concurrency
    if not of_run and not step.concurrency:
        return Admission()
    try:
        admission = _ask_for_run(store, claim, of_run, now)
        if admission.commit is None and step.concurrency:
            units = 1 if step.loop is None else step.loop.concurrency
            entries = _entries(store, step.concurrency, scope, step.name, units)
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
    entries = _entries(store, limits, Scope(run, visit), None, units=1)
    try:
        admission = _ask(store, claim, SlotOwner(run.id), entries, now)
    except ActionError as problem:
        if problem.type != "LimitTimeout" or _has_begun(run, visit):
            raise
        return Admission(commit=skip_run(visit, problem.message))
    if not admission.is_left_out:
        return admission
    return Admission(commit=skip_run(visit, describe_refusal(entries[len(admission.slots)].request)))


def _has_begun(run: Run, visit: Visit) -> bool:
    """Return whether a run has begun a step, or was resumed. Such a run waits for its limits."""
    return run.resumes > 0 or visit.clock > START_CLOCK or _has_begun_work(visit)


def _has_begun_work(visit: Visit) -> bool:
    return visit.progress is not None or visit.attempt > 1


def _slots_of_visit(store: Store, claim: Claim, step: Step) -> list[Slot]:
    return store.gates.slots_of(claim.run.id, claim.visit.id) if step.concurrency else []


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
        message = f"{problem.message}; an operator makes it with `noetl limits set`"
        raise ActionError("ParameterError", message, retryable=False) from problem
    if not slots or (slots[-1].is_held and len(slots) < len(entries)):
        return Admission(slots, is_left_out=True)
    last = slots[-1]
    if last.is_held:
        return Admission(slots)
    wanted = next(entry for entry in entries if entry.request.gate == last.gate)
    until = NEVER if wanted.max_wait is None else last.queued_at + wanted.max_wait
    if now >= until:
        waited = f"no unit of limit `{last.limit}` became free within {until - last.queued_at:g} s"
        raise ActionError("LimitTimeout", waited)
    if wanted.cancels_oldest:
        _cancel_older(store, last, now)
    return Admission(slots, commit=wait_for_slot(claim.visit, last, until, now))


def _cancel_older(store: Store, slot: Slot, now: float) -> None:
    """Cancel the oldest runs at the gate of a waiting run, until no more are left than it has units.

    Runs that are being cancelled already do not count, so a repetition after a crash cancels no other ones.
    """
    gate = store.gates.gate(slot.gate)
    slots, cursor = store.gates.slots_at(slot.gate, limit=SLOTS_PER_PAGE)
    while cursor is not None:
        page, cursor = store.gates.slots_at(slot.gate, limit=SLOTS_PER_PAGE, cursor=cursor)
        slots += page
    cancelled = store.runs.cancelled_runs([found.owner.run_id for found in slots])
    units = 0 if gate is None else gate.units
    for run_id in find_superseded(slots, slot, units, cancelled):
        with suppress(RejectedError, UnknownRunError):  # it has ended since it was read
            store.runs.stop(run_id, RunStatus.CANCELLED, now)
            logger.info("run %s was cancelled: the newer run %s takes its place", run_id, slot.owner.run_id)


def _entries(
    store: Store, limits: Sequence[Limit], scope: Scope, step: str | None, units: int
) -> list[_Wanted]:
    """Return the requests of the entries of `concurrency`, in the order of their gates.

    Raises:
        ActionError: a key has no value, or is no text, number or Boolean of at most MAX_KEY_BYTES.
    """
    run, visit = scope.run, scope.visit
    # Work that has begun is not left out: it waits to be continued or tried again.
    has_begun = _has_begun(run, visit) if step is None else _has_begun_work(visit)
    place = run.playbook if step is None else f"{run.playbook}.{step}"
    wanted = []
    for position, limit in enumerate(limits):
        queues = limit.when_full != "skip" or has_begun
        max_queued = None if has_begun else limit.max_queued
        shown: str | None = None
        if limit.use is not None:
            gate = _named_gate(store, run.tenant, limit.use)
        else:
            value = None if limit.key is None else _read_key(limit.key, scope, position)
            gate = own_gate(run.tenant, run.playbook, step, position, value)
            shown = None if value is None else redact_for_storage(value)
        name = limit.use or place
        request = SlotRequest(gate, name, limit.units, units, shown, queues, max_queued=max_queued)
        wanted.append(_Wanted(request, limit.max_wait_seconds, limit.when_full == "cancel_oldest"))
    return sorted(wanted, key=lambda slot: slot.request.gate)


def _named_gate(store: Store, tenant: str, name: str) -> GateKey:
    """Return the key of the gate of an operator's limit: the shared one, if there is one of this name."""
    shared = named_gate(SHARED_TENANT, name)
    return named_gate(tenant, name) if store.gates.gate(shared) is None else shared


def _hurry(wanted: _Wanted, timeout_seconds: float | None) -> _Wanted:
    """Return what the finally step asks for. It waits no longer than it may take."""
    longest = timeout_seconds or FINALLY_STEP_SECONDS
    return replace(wanted, max_wait=longest if wanted.max_wait is None else min(wanted.max_wait, longest))


def _read_key(key: str, scope: Scope, position: int) -> str:
    """Return the value of a key as text."""
    place = f"concurrency[{position}].key"
    value = render_at_key(place, key, scope.lookup(place))
    if not isinstance(value, str | int | float):
        message = f"`{place}` must be a text, a number or a Boolean, not {describe_kind_of(value)}"
        raise ActionError("ParameterError", message, retryable=False)
    text = value if isinstance(value, str) else write_json(value)
    if len(text.encode()) > MAX_KEY_BYTES:
        message = f"`{place}` has {len(text.encode()):,} bytes; it may have {MAX_KEY_BYTES:,}"
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
