"""The firing of triggers by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.engine.firing import MAX_CONFLICTS, Firer, pause_after_conflict, read_firer
from noetl.executor.engine.run_firing import end_key, read_ended_run, view_run
from noetl.executor.engine.schedule_firing import view_schedule
from noetl.executor.errors import ActionError, RejectedError, TriggerChangedError
from noetl.executor.model.run import Run
from noetl.executor.model.triggers import (
    MANUAL_KEY,
    Advance,
    Firing,
    LiveTrigger,
    instant_key,
    new_firing,
)
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen, replace
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.trigger_sources import RunEnd, Webhook


@frozen
class HandFiring:
    """A request to fire a trigger by hand.

    `key` tells it from other requests; the same key starts one run. `input` replaces values of the input of
    the trigger. `instant` is an instant of a schedule: the run is then the one that the schedule starts at
    that instant. `run_id` is an ended run of the awaited playbook: the run is then the one that its end
    starts. `data` are what templates read under `trigger` of another type. The parts
    of a request that are not given are empty.
    """

    key: str
    instant: float | None = None
    input: Mapping[str, Any] | None = None
    run_id: str | None = None
    data: Mapping[str, Any] | None = None


def fire_by_hand(store: Store, trigger: LiveTrigger, request: HandFiring, now: float) -> tuple[Run, bool]:
    """Start a run of a trigger now, also if it is paused. Its `if` and its `overlap` are not considered.

    Return the run, and whether it is new. It is not if an earlier request with the same key, or the trigger
    itself for the same cause, has started it.

    Raises:
        RejectedError: `invalid_input`, if its input does not fit, or if the trigger does not await the run;
            `quota_exceeded`; `trigger_changed`.
    """
    current: LiveTrigger | None = trigger
    for number in range(MAX_CONFLICTS):
        if current is None or current.plan_hash != trigger.plan_hash:
            break
        firer = read_firer(store, current, now)
        if firer is None:
            break
        try:
            firing, view = _prepare(firer, request)
            given = firer.render_input(view, request.input or {})
            return firer.start(firing, given, _advance_of(firer))
        except ActionError as problem:
            takes_data = not isinstance(firer.declared.source, Schedule | RunEnd)
            hint = "; the firing has no `data`" if takes_data and not request.data else ""
            raise RejectedError("invalid_input", problem.message + hint) from problem
        except TriggerChangedError:
            pause_after_conflict(number)
            current = store.triggers.get(trigger.tenant, trigger.playbook, trigger.name)
    message = f"trigger `{trigger.name}` of `{trigger.playbook}` was changed meanwhile: try again"
    raise RejectedError("trigger_changed", message)


def _prepare(firer: Firer, request: HandFiring) -> tuple[Firing, Mapping[str, Any]]:
    """Return the firing of a request, and what templates read under `trigger`.

    Raises:
        ActionError: the key of the trigger has no value.
        RejectedError: `invalid_input`, if the trigger does not await the named run, or none is named.
    """
    trigger, source = firer.trigger, firer.declared.source
    key = f"{MANUAL_KEY}{request.key}"
    if isinstance(source, RunEnd):
        if request.run_id is None:
            message = f"trigger `{trigger.name}` fires at the end of a run: name a run of `{source.playbook}`"
            raise RejectedError("invalid_input", message)
        run = read_ended_run(firer.store, trigger, request.run_id)
        ended = view_run(run)
        firing = new_firing(trigger, end_key(run.id, run.resumes), firer.now)
        return firer.with_key(replace(firing, ended_run=run.id), ended), ended
    if isinstance(source, Schedule):
        instant = firer.now if request.instant is None else request.instant
        view = view_schedule(trigger, source, instant)
        key = key if request.instant is None else instant_key(request.instant)
        return replace(new_firing(trigger, key, firer.now), scheduled_at=instant), view
    view = dict(request.data or {})
    if isinstance(source, Webhook):
        empty: dict[str, Any] = {
            "method": source.method,
            "headers": {},
            "query": {},
            "body": None,
            "id": request.key,
        }
        view = empty | view
    return new_firing(trigger, key, firer.now), view


def _advance_of(firer: Firer) -> Advance:
    """Return the advance of a firing by hand. A schedule notes its run as the last one, for `overlap`."""
    trigger = firer.trigger
    is_schedule = isinstance(firer.declared.source, Schedule)
    written = replace(trigger, edition=trigger.edition + 1) if is_schedule else trigger
    return Advance(trigger, written)
