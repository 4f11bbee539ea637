"""The firing of triggers: a run is started, or a record says why none was.

Problem: several processes see the same due trigger, and each may die at any point.

Algorithm: all that a firing changes is one write of the store: the run with its first visit, the record of
the firing, and the next instant of the trigger (`noetl.executor.model.triggers`). It requires that the trigger
is as it was read, so one process performs the firing. After a crash before it, the trigger is still due.

Cost: one read of the plan, which is cached, and one transaction.

Limits: the templates of a trigger are evaluated in the process that fires. A trigger that cannot be performed
now, as its tenant has too many branches or its plan cannot be read, is tried again after POSTPONE_SECONDS.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from noetl.executor.engine.quotas import check_branch_quota
from noetl.executor.engine.rendering import render, render_at_key
from noetl.executor.engine.run_log import log_run_start
from noetl.executor.engine.start import new_run
from noetl.executor.errors import (
    ActionError,
    RejectedError,
    StoreAwayError,
    StoreError,
    TriggerChangedError,
)
from noetl.executor.model.due_instants import find_due
from noetl.executor.model.run import SERVICE_QUEUE, Run
from noetl.executor.model.start_request import StartRequest
from noetl.executor.model.triggers import (
    Advance,
    Firing,
    FiringOutcome,
    LiveTrigger,
    advance_schedule,
    fire_schedule,
    firing_id,
    instant_key,
    jitter_of,
    postpone,
    record_firing,
)
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Trigger
from noetl.planner.templates.template import is_true

POSTPONE_SECONDS = 10.0
"""After which time a firing that cannot be performed now is tried again."""

MAX_CONFLICTS = 10
"""How often a firing by hand is tried again after another process has changed the trigger."""

logger = logging.getLogger("noetl.executor")


@frozen
class HandFiring:
    """A request to fire a trigger by hand.

    `key` tells it from other requests; the same key starts one run. `instant` is an instant of the schedule:
    the run is then the one that the schedule starts at that instant. `input` replaces values of the input of
    the trigger.
    """

    key: str
    instant: float | None = None
    input: Mapping[str, Any] | None = None


def perform_due(store: Store, trigger: LiveTrigger, now: float) -> Advance | None:
    """Perform the oldest due firing of a trigger, and record those that were missed before it.

    Return what was written, or None if nothing is due, or if another process has performed it.

    Raises:
        StoreAwayError: the store cannot be reached.
    """
    try:
        header = store.plans.header(trigger.plan_hash)
        return _perform(store, trigger, header, now)
    except StoreAwayError:
        raise
    except TriggerChangedError:
        return None
    except (RejectedError, StoreError) as problem:
        logger.warning("trigger %s of %s is tried again: %s", trigger.name, trigger.playbook, problem)
        return _written(store, postpone(trigger, now + POSTPONE_SECONDS))


def _perform(store: Store, trigger: LiveTrigger, header: Header, now: float) -> Advance | None:
    """Perform a firing.

    Raises:
        RejectedError: `quota_exceeded`.
        TriggerChangedError: another process has changed the trigger.
    """
    declared = declared_trigger(header, trigger.name)
    if declared is None or trigger.next_at is None:
        return None
    schedule = declared.schedule
    delay = jitter_of(trigger.tenant, trigger.playbook, trigger.name, schedule.jitter_seconds)
    catch_up = None if trigger.catch_up is None else replace(schedule.catch_up, mode=trigger.catch_up)
    due = find_due(schedule, trigger.next_at, now - delay, catch_up)
    advance = advance_schedule(trigger, schedule, due, now)
    if due.performed is None:
        return _written(store, advance) if due.missed else None
    firing = fire_schedule(trigger, due.performed, now)
    if schedule.overlap == "skip" and (running := _open_run(store, trigger)) is not None:
        reason = f"run {running} of an earlier firing has not ended"
        return _written(store, record_firing(advance, firing, FiringOutcome.SKIPPED, reason))
    view = trigger_view(trigger, declared, due.performed)
    try:
        if not _is_wanted(declared, view, now):
            return _written(store, record_firing(advance, firing, FiringOutcome.FILTERED, "`if` is false"))
        run = _start(store, header, trigger, firing, _inputs(declared, view, now), advance, now)
    except ActionError as problem:
        return _written(store, record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
    except RejectedError as problem:
        if problem.reason == "quota_exceeded":
            raise
        return _written(store, record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
    started = record_firing(advance, firing, FiringOutcome.STARTED)
    if run.created_at == round(now, 6):
        return started
    # The run was started by hand before its instant, and its firing was recorded then.
    return _written(store, replace(started, firings=advance.firings))


def fire_by_hand(store: Store, trigger: LiveTrigger, request: HandFiring, now: float) -> Run:
    """Start a run of a trigger now, also if it is paused. Its `if` and its `overlap` are not considered.

    Return the run that an earlier request with the same key, or the schedule at this instant, has started.

    Raises:
        RejectedError: `invalid_input`, if its input does not fit, `quota_exceeded`; `trigger_changed`.
    """
    header = store.plans.header(trigger.plan_hash)
    declared = declared_trigger(header, trigger.name)
    if declared is None:
        raise _trigger_changed(trigger)
    instant = now if request.instant is None else request.instant
    key = f"manual {request.key}" if request.instant is None else instant_key(request.instant)
    view = trigger_view(trigger, declared, instant)
    try:
        given = {**_inputs(declared, view, now), **(request.input or {})}
    except ActionError as problem:
        raise RejectedError("invalid_input", problem.message) from problem
    current: LiveTrigger | None = trigger
    for _ in range(MAX_CONFLICTS):
        if current is None or current.plan_hash != trigger.plan_hash:
            break
        written = replace(current, edition=current.edition + 1)
        firing = replace(fire_schedule(current, instant, now), key=key, id=_id_of(current, key))
        try:
            return _start(store, header, current, firing, given, Advance(current, written), now)
        except TriggerChangedError:
            current = store.triggers.get(trigger.tenant, trigger.playbook, trigger.name)
    raise _trigger_changed(trigger)


def _id_of(trigger: LiveTrigger, key: str) -> str:
    return firing_id(trigger.tenant, trigger.playbook, trigger.name, key)


def _trigger_changed(trigger: LiveTrigger) -> RejectedError:
    message = f"trigger `{trigger.name}` of `{trigger.playbook}` was changed meanwhile: try again"
    return RejectedError("trigger_changed", message)


def declared_trigger(header: Header, name: str) -> Trigger | None:
    """Return the declaration of a trigger in a plan, or None."""
    return next((declared for declared in header.triggers if declared.name == name), None)


def trigger_view(trigger: LiveTrigger, declared: Trigger, instant: float) -> dict[str, Any]:
    """Return what the templates of a trigger read under `trigger` for a firing at an instant."""
    from zoneinfo import ZoneInfo

    schedule = declared.schedule
    following = schedule.next_after(instant)
    local = datetime.fromtimestamp(instant, UTC).astimezone(ZoneInfo(schedule.timezone))
    return {
        "scheduled_at": instant_key(instant),
        "previous_at": None if trigger.last_at is None else instant_key(trigger.last_at),
        "next_at": None if following is None else instant_key(following),
        "local": local.isoformat(),
    }


def _names(view: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the names that the templates of a trigger read."""
    return {
        "trigger": view,
        "now": lambda: datetime.fromtimestamp(now, UTC),
        "uuid": lambda: str(uuid4()),
    }


def _is_wanted(declared: Trigger, view: Mapping[str, Any], now: float) -> bool:
    if declared.condition is None:
        return True
    return is_true(render(declared.condition, None, _names(view, now).__getitem__))


def _inputs(declared: Trigger, view: Mapping[str, Any], now: float) -> dict[str, Any]:
    names = _names(view, now)
    return {name: render_at_key(name, value, names.__getitem__) for name, value in declared.input.items()}


def _open_run(store: Store, trigger: LiveTrigger) -> str | None:
    """Return the id of the run that the last firing has started, if it has not ended."""
    if trigger.last_run is None:
        return None
    position = store.runs.positions([trigger.last_run]).get(trigger.last_run)
    return None if position is None or position.status.is_final else trigger.last_run


def _start(
    store: Store,
    header: Header,
    trigger: LiveTrigger,
    firing: Firing,
    given: Mapping[str, Any],
    advance: Advance,
    now: float,
) -> Run:
    """Write the run of a firing together with `advance`, and return it.

    Raises:
        RejectedError: `invalid_input`; `quota_exceeded`; `too_large`.
        TriggerChangedError: another process has changed the trigger.
    """
    assert firing.scheduled_at is not None
    shown = {
        "name": trigger.name,
        "type": trigger.type,
        "scheduled_at": instant_key(firing.scheduled_at),
    }
    request = StartRequest(
        input=given,
        tenant=trigger.tenant,
        version=trigger.version,
        run_id=firing.id,
        trigger=shown,
    )
    run, first_visit = new_run(header, trigger.plan_hash, request, now=now)
    check_branch_quota(store, trigger.tenant, SERVICE_QUEUE)
    written = record_firing(advance, firing, FiringOutcome.STARTED)
    created = store.runs.create(run, first_visit, advance=written)
    log_run_start(created, run)
    return created


def _written(store: Store, advance: Advance) -> Advance | None:
    """Write an advance without a run, and return it, or None if the trigger has changed."""
    return advance if store.triggers.advance(advance) else None
