"""The service of triggers: what fires by itself, its history, its pauses, and firings by hand.

Problem: the engine fires a trigger at the same time as a person pauses it.

Algorithm: a change requires the edition of the trigger that was read (optimistic concurrency). If another
process was faster, the trigger is read again. A firing by hand has a key of its own. With an instant it has
the key of that instant, so the schedule does not start a second run for it.

Cost: one read of the header of the plan for each trigger that is shown, because it holds the schedule. The
latest firings of a page take one statement, on DynamoDB one request for each trigger.

Limits: after MAX_TRIES changes by other processes, a request is refused.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from datetime import datetime, tzinfo
from functools import lru_cache
from itertools import islice
from typing import Any

from noetl.api.service.tenant import TenantContext
from noetl.api.service.trigger_views import (
    FiringEntry,
    FiringPage,
    ScheduledFiring,
    TriggerDetails,
    TriggerEntry,
    TriggerPage,
    describe_trigger,
)
from noetl.executor.errors import RejectedError
from noetl.executor.model.run import Run
from noetl.executor.model.triggers import (
    Advance,
    Firing,
    LiveTrigger,
    delay_of,
    instant_key,
    is_known,
    pause_trigger,
    position_at,
    resume_trigger,
    unpause_trigger,
)
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words
from noetl.planner.frozen import frozen
from noetl.planner.plan import Header, Trigger
from noetl.planner.schedules.schedule import CatchUpMode, Schedule

TRIGGERS_PER_PAGE = 50
MAX_TRIGGERS = 200
"""The most triggers of a page, for each of which a header is read."""

FIRINGS_PER_PAGE = 100
MAX_FIRINGS = 1000

NEXT_FIRINGS = 5
MAX_NEXT_FIRINGS = 100
"""The most firings to come that a request may show."""

MAX_TRIES = 10

_JUST_BEFORE = 1e-3
_END_OF_HISTORY = position_at(220_000_000_000.0)
"""A text behind the positions of all firings."""


@frozen
class FireRequest:
    """A request to fire a trigger by hand.

    `instant` is one of its schedule, in seconds since the epoch; None is now. `input` replaces values of the
    input. Without an instant and a run, the same `idempotency_key` starts one run. `data` are what templates
    read under `trigger`, except for schedules and ends of runs. `run_id` is an ended run that a trigger of
    type `run` awaits.
    """

    instant: float | None = None
    input: Mapping[str, Any] = field(default_factory=dict)
    idempotency_key: str | None = None
    data: Mapping[str, Any] | None = None
    run_id: str | None = None


@frozen
class TriggerService:
    """The triggers of one tenant."""

    context: TenantContext

    def find(
        self, playbook: str | None = None, *, limit: int = TRIGGERS_PER_PAGE, cursor: str | None = None
    ) -> TriggerPage:
        """Return a page of the triggers of all playbooks, or of one.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        # Triggers of a plan follow each other. More headers must not be held: each may have megabytes.
        store, header_of = self.context.store, lru_cache(maxsize=1)(self.context.store.plans.header)
        scope = self.context.cursor_scope("triggers", playbook)
        triggers, next_cursor = store.triggers.find(
            self.context.tenant, playbook, limit=limit, cursor=scope.open(cursor)
        )
        items = [
            TriggerEntry.from_trigger(
                trigger, _declaration(header_of(trigger.plan_hash), trigger).source, last
            )
            for trigger, last in zip(triggers, self._latest_firings(triggers), strict=True)
        ]
        return TriggerPage(items=items, next_cursor=scope.close(next_cursor))

    def get(self, playbook: str, name: str, count: int = NEXT_FIRINGS) -> TriggerDetails:
        """Return a trigger with its next `count` firings.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
        """
        trigger, header = self._read(playbook, name)
        declared = _declaration(header, trigger)
        firings: list[ScheduledFiring] = []
        if isinstance(declared.source, Schedule):
            firings = list(islice(_next_firings(trigger, declared.source, self.context.clock()), count))
        inputs = header.to_json()["inputs"]
        (last,) = self._latest_firings([trigger])
        return describe_trigger(trigger, declared, last, inputs=inputs, firings=firings)

    def firings(
        self, playbook: str, name: str, *, limit: int = FIRINGS_PER_PAGE, cursor: str | None = None
    ) -> FiringPage:
        """Return a page of the firings of a trigger, the newest first, also of one that was removed.

        Raises:
            NotFoundError: there is no such trigger, and it has no firings.
            RejectedError: `invalid_cursor`.
        """
        triggers, tenant = self.context.store.triggers, self.context.tenant
        scope = self.context.cursor_scope("firings", playbook, name)
        place = scope.open(cursor)
        found, next_cursor = triggers.firings(tenant, playbook, name, limit=limit, cursor=place)
        if not found and cursor is None:
            self.context.get_trigger(playbook, name)
        items = [FiringEntry.from_firing(firing) for firing in found]
        return FiringPage(items=items, next_cursor=scope.close(next_cursor))

    def pause(self, playbook: str, name: str) -> TriggerEntry:
        """Pause a trigger: it does not fire until it is resumed. A repeated request changes nothing.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
            RejectedError: `trigger_changed`.
        """

        def pause(trigger: LiveTrigger, _declared: Trigger) -> Advance | None:
            return None if trigger.is_paused else pause_trigger(trigger, self.context.clock())

        return self._change(playbook, name, pause)

    def resume(self, playbook: str, name: str, catch_up: CatchUpMode = "none") -> TriggerEntry:
        """Resume a paused trigger. A repeated request changes nothing.

        `catch_up` says which of the firings that were missed since are performed. Only a schedule can perform
        any.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
            RejectedError: `trigger_changed`; `invalid_input`, if another type has a `catch_up`.
        """

        def resume(trigger: LiveTrigger, declared: Trigger) -> Advance | None:
            if catch_up != "none" and trigger.type != "schedule":
                problem = f"trigger `{name}` of type `{trigger.type}` performs no missed firings"
                raise RejectedError("invalid_input", f"{problem}: resume it without `catch_up`")
            if not trigger.is_paused:
                return None
            if isinstance(declared.source, Schedule):
                return resume_trigger(trigger, declared.source, self.context.clock(), catch_up)
            return unpause_trigger(trigger, self.context.clock())

        return self._change(playbook, name, resume)

    def fire(self, playbook: str, name: str, request: FireRequest) -> tuple[Run, bool]:
        """Start the run of a firing by hand, also of a trigger that is paused.

        Return the run, and whether an earlier firing has started it.

        Raises:
            NotFoundError: the live version of the playbook has no such trigger.
            RejectedError: `not_scheduled`; `invalid_input`; `quota_exceeded`; `trigger_changed`.
        """
        from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand

        trigger, header = self._read(playbook, name)
        instant = request.instant
        if instant is not None:
            instant = _find_instant(trigger, _declaration(header, trigger), instant)
        _check_cause(trigger, request)
        key = request.idempotency_key or secrets.token_hex(8)
        firing = HandFiring(key, instant, request.input, request.run_id, request.data)
        run, is_new = fire_by_hand(self.context.store, trigger, firing, self.context.clock())
        return run, not is_new

    def _change(
        self, playbook: str, name: str, change: Callable[[LiveTrigger, Trigger], Advance | None]
    ) -> TriggerEntry:
        """Write a change of a trigger, and return the trigger. None is no change."""
        from noetl.executor.stores.firing_log import log_firings

        for _ in range(MAX_TRIES):
            trigger, header = self._read(playbook, name)
            declared = _declaration(header, trigger)
            advance = change(trigger, declared)
            if advance is None:
                return self._entry(trigger, declared)
            if self.context.store.triggers.advance(advance):
                log_firings(advance.firings)
                return self._entry(advance.written, declared)
        message = f"trigger `{name}` of `{playbook}` was changed meanwhile: try again"
        raise RejectedError("trigger_changed", message)

    def _entry(self, trigger: LiveTrigger, declared: Trigger) -> TriggerEntry:
        (last,) = self._latest_firings([trigger])
        return TriggerEntry.from_trigger(trigger, declared.source, last)

    def _latest_firings(self, triggers: Sequence[LiveTrigger]) -> list[Firing | None]:
        """Return the latest firing of each trigger, or None if it has none or knows it itself.

        A schedule knows its latest instant. Later firings by hand and of backfills are only in the history.
        """
        keys = [(trigger.playbook, trigger.name) for trigger in triggers]
        found = self.context.store.triggers.newest_firings(self.context.tenant, keys, _END_OF_HISTORY, 1)
        newest = [next(iter(found.get(key, ())), None) for key in keys]
        return [
            None if firing is None or is_known(trigger, firing) else firing
            for trigger, firing in zip(triggers, newest, strict=True)
        ]

    def _read(self, playbook: str, name: str) -> tuple[LiveTrigger, Header]:
        trigger = self.context.get_trigger(playbook, name)
        return trigger, self.context.store.plans.header(trigger.plan_hash)


def _declaration(header: Header, trigger: LiveTrigger) -> Trigger:
    """Return the declaration of a trigger. The plan of a trigger always has it."""
    declared = header.find_trigger(trigger.name)
    assert declared is not None
    return declared


def _next_firings(trigger: LiveTrigger, schedule: Schedule, now: float) -> Iterator[ScheduledFiring]:
    """Yield the firings to come. That of `next_at` may be late, unless the trigger is paused."""
    zone, delay = _zone_of(schedule), delay_of(trigger, schedule)
    later_start = trigger.later_start or 0.0
    instant = schedule.next_after(now) if trigger.is_paused else trigger.next_at
    while instant is not None:
        yield ScheduledFiring.from_instant(instant, zone, delay)
        instant = schedule.next_after(max(instant, later_start))


def _zone_of(schedule: Schedule) -> tzinfo:
    """Return the zone of a schedule. The module of zones is imported when the first one is needed."""
    from zoneinfo import ZoneInfo

    return ZoneInfo(schedule.timezone)


def _check_cause(trigger: LiveTrigger, request: FireRequest) -> None:
    """Check that a request has only what the type of its trigger takes.

    Raises:
        RejectedError: `invalid_input`.
    """
    if request.data is not None and trigger.type in ("schedule", "run"):
        message = f"trigger `{trigger.name}` of type `{trigger.type}` takes no data"
        raise RejectedError("invalid_input", message)
    if request.run_id is not None and trigger.type != "run":
        raise RejectedError("invalid_input", f"trigger `{trigger.name}` awaits no runs, so it takes no run")
    if request.data:
        _check_data(trigger, request.data)


def _check_data(trigger: LiveTrigger, data: Mapping[str, Any]) -> None:
    """Check that templates of a trigger may read all entries of its data. An entry may be misspelt.

    Raises:
        RejectedError: `invalid_input`.
    """
    from noetl.planner.checks.triggers import TRIGGER_ATTRIBUTES
    from noetl.planner.diagnostics.diagnostic import did_you_mean

    known = sorted(TRIGGER_ATTRIBUTES[trigger.type])
    for name in data:
        if name not in known:
            hint = did_you_mean(name, known) or f"the keys are {join_words(as_code(known), 'and')}"
            raise RejectedError("invalid_input", f"unknown key `{abbreviate(name)}` in `data`; {hint}")


def _find_instant(trigger: LiveTrigger, declared: Trigger, instant: float) -> float:
    """Return the instant of a schedule at a time of a request, which may be rounded.

    The key of the firing follows from the instant, so it must be exactly that of the schedule.

    Raises:
        RejectedError: `not_scheduled`.
    """
    schedule = declared.source
    if not isinstance(schedule, Schedule):
        raise RejectedError("not_scheduled", f"trigger `{trigger.name}` does not fire at times")
    following = schedule.next_after(instant - _JUST_BEFORE)
    if following is None or abs(following - instant) > _JUST_BEFORE:
        problem = f"trigger `{trigger.name}` does not fire at {instant_key(instant)}"
        if following is None:
            raise RejectedError("not_scheduled", f"{problem}, nor later")
        hint = f"then it fires at {instant_key(following)}"
        if schedule.timezone != "UTC":
            # The time may have been meant as one of this zone.
            local = datetime.fromtimestamp(following, _zone_of(schedule)).isoformat()
            hint += f", at {local} in {schedule.timezone}"
        raise RejectedError("not_scheduled", f"{problem}; {hint}")
    return following
