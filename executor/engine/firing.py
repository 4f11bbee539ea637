"""The firing of triggers: a run is started, or a record says why none was.

Problem: several processes see the same due trigger, and each may die at any point.

Algorithm: a firing is one write of the store (see `noetl.executor.model.triggers`). It has the run with its
first visit, the record of the firing, and the next instant of the trigger. It requires that the trigger is as
it was read, so one process performs the firing. After a crash before the write, the trigger is still due.

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
from noetl.planner.templates.template import is_true, shared_budget

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
        firer = read_firer(store, trigger, now)
        return None if firer is None else firer.perform()
    except StoreAwayError:
        raise
    except TriggerChangedError:
        return None
    except (RejectedError, StoreError) as problem:
        logger.warning("trigger %s of %s is tried again: %s", trigger.name, trigger.playbook, problem)
    except Exception:
        # One wrong trigger must not keep the others of the process from firing.
        logger.exception("trigger %s of %s failed; it is tried again", trigger.name, trigger.playbook)
    postponed = postpone(trigger, now + POSTPONE_SECONDS)
    return postponed if store.triggers.advance(postponed) else None


def fire_by_hand(store: Store, trigger: LiveTrigger, request: HandFiring, now: float) -> Run:
    """Start a run of a trigger now, also if it is paused. Its `if` and its `overlap` are not considered.

    Return the run that an earlier request with the same key, or the schedule at this instant, has started.

    Raises:
        RejectedError: `invalid_input`, if its input does not fit, `quota_exceeded`; `trigger_changed`.
    """
    instant = now if request.instant is None else request.instant
    key = f"manual {request.key}" if request.instant is None else instant_key(request.instant)
    current: LiveTrigger | None = trigger
    for _ in range(MAX_CONFLICTS):
        if current is None or current.plan_hash != trigger.plan_hash:
            break
        firer = read_firer(store, current, now)
        if firer is None:
            break
        firing = replace(fire_schedule(current, instant, now), key=key, id=_id_of(current, key))
        advance = Advance(current, replace(current, edition=current.edition + 1))
        try:
            given = firer.render_input(firer.view(current, instant))
            return firer.start(firing, {**given, **(request.input or {})}, advance)[0]
        except ActionError as problem:
            raise RejectedError("invalid_input", problem.message) from problem
        except TriggerChangedError:
            current = store.triggers.get(trigger.tenant, trigger.playbook, trigger.name)
    message = f"trigger `{trigger.name}` of `{trigger.playbook}` was changed meanwhile: try again"
    raise RejectedError("trigger_changed", message)


def read_firer(store: Store, trigger: LiveTrigger, now: float) -> Firer | None:
    """Return what fires a trigger at a time, or None if its plan does not declare it."""
    header = store.plans.header(trigger.plan_hash)
    declared = declared_trigger(header, trigger.name)
    return None if declared is None else Firer(store, trigger, header, declared, now)


def declared_trigger(header: Header, name: str) -> Trigger | None:
    """Return the declaration of a trigger in a plan, or None."""
    return next((declared for declared in header.triggers if declared.name == name), None)


@frozen
class Firer:
    """A trigger as it was read, with its declaration in a plan. It fires at the time `now`."""

    store: Store
    trigger: LiveTrigger
    header: Header
    declared: Trigger
    now: float

    def perform(self) -> Advance | None:
        """Perform the oldest due firing. Return what was written, or None if nothing was.

        Raises:
            RejectedError: `quota_exceeded`.
            TriggerChangedError: another process has changed the trigger.
        """
        trigger, schedule = self.trigger, self.declared.schedule
        if trigger.next_at is None:
            return None
        delay = jitter_of(trigger.tenant, trigger.playbook, trigger.name, schedule.jitter_seconds)
        catch_up = None if trigger.catch_up is None else replace(schedule.catch_up, mode=trigger.catch_up)
        due = find_due(schedule, trigger.next_at, self.now - delay, catch_up)
        advance = advance_schedule(trigger, schedule, due, self.now)
        if due.performed is None:
            return self._write(advance) if due.missed else None
        return self._perform_at(due.performed, advance)

    def _perform_at(self, instant: float, advance: Advance) -> Advance | None:
        firing = fire_schedule(self.trigger, instant, self.now)
        if self.declared.schedule.overlap == "skip" and (running := self._open_run()) is not None:
            reason = f"run {running} of an earlier firing has not ended"
            return self._write(record_firing(advance, firing, FiringOutcome.SKIPPED, reason))
        try:
            given = self._evaluate(self.view(advance.written, instant))
            if given is None:
                reason = "`if` is false"
                return self._write(record_firing(advance, firing, FiringOutcome.FILTERED, reason))
            _, is_new = self.start(firing, given, advance)
        except ActionError as problem:
            return self._write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
        except RejectedError as problem:
            if problem.reason == "quota_exceeded":
                raise
            return self._write(record_firing(advance, firing, FiringOutcome.REJECTED, problem.message))
        started = record_firing(advance, firing, FiringOutcome.STARTED)
        if is_new:
            return started
        # Another process was faster, or the run was started by hand before its instant. Its firing is
        # recorded.
        return self._write(replace(started, firings=advance.firings))

    def start(self, firing: Firing, given: Mapping[str, Any], advance: Advance) -> tuple[Run, bool]:
        """Write the run of a firing with its input together with `advance`.

        Return the run, and whether it did not exist before.

        Raises:
            RejectedError: `invalid_input`; `quota_exceeded`; `too_large`.
            TriggerChangedError: another process has changed the trigger.
        """
        trigger = self.trigger
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
        run, first_visit = new_run(self.header, trigger.plan_hash, request, now=self.now)
        check_branch_quota(self.store, trigger.tenant, SERVICE_QUEUE)
        written = record_firing(advance, firing, FiringOutcome.STARTED)
        created = self.store.runs.fire(run, first_visit, written)
        log_run_start(created, run)
        return created, created is run

    def view(self, trigger: LiveTrigger, instant: float) -> dict[str, Any]:
        """Return what templates read under `trigger` at an instant. `trigger` is as it was before that."""
        from zoneinfo import ZoneInfo

        schedule = self.declared.schedule
        following = schedule.next_after(instant)
        local = datetime.fromtimestamp(instant, UTC).astimezone(ZoneInfo(schedule.timezone))
        return {
            "scheduled_at": instant_key(instant),
            "previous_at": None if trigger.last_at is None else instant_key(trigger.last_at),
            "next_at": None if following is None else instant_key(following),
            "local": local.isoformat(),
        }

    @shared_budget()
    def _evaluate(self, view: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the inputs of a run, or None if the condition is false.

        Raises:
            ActionError: an input or the condition has no value.
        """
        return self.render_input(view) if self._is_wanted(view) else None

    @shared_budget()
    def render_input(self, view: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs of a run. `view` is what the templates read under `trigger`.

        Raises:
            ActionError: an input has no value.
        """
        names = self._names(view)
        templates = self.declared.input
        return {name: render_at_key(name, value, names.__getitem__) for name, value in templates.items()}

    def _is_wanted(self, view: Mapping[str, Any]) -> bool:
        condition = self.declared.condition
        return condition is None or is_true(render(condition, None, self._names(view).__getitem__))

    def _names(self, view: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "trigger": view,
            "now": lambda: datetime.fromtimestamp(self.now, UTC),
            "uuid": lambda: str(uuid4()),
        }

    def _open_run(self) -> str | None:
        """Return the id of the run that the last firing has started, if it has not ended."""
        run_id = self.trigger.last_run
        if run_id is None:
            return None
        position = self.store.runs.positions([run_id]).get(run_id)
        return None if position is None or position.status.is_final else run_id

    def _write(self, advance: Advance) -> Advance | None:
        """Write an advance without a run, and return it, or None if the trigger has changed."""
        return advance if self.store.triggers.advance(advance) else None


def _id_of(trigger: LiveTrigger, key: str) -> str:
    return firing_id(trigger.tenant, trigger.playbook, trigger.name, key)
