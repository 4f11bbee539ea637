"""The calendar of schedules: their firings of a month or a week, those that were performed and those to come.

Problem: a schedule may fire each second, and a tenant may have thousands of schedules.

Algorithm: a page has some triggers. They share MAX_ENTRIES past firings, and as many to come. Past firings
are read backwards from the end of the time, and those to come are computed from its beginning. A trigger
whose firings do not fit says so.

Cost: one read of the history of all triggers of the page, and one of the newest MAX_STATUSES runs. On
DynamoDB, a request for each.

Limits: a firing stands at the time at which it was performed. The statuses of older runs are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from zoneinfo import ZoneInfo

from noetl.api.service.calendar_views import CalendarPage, CalendarTrigger, PastFiring
from noetl.api.service.tenant import TenantContext
from noetl.api.service.trigger_views import ScheduledFiring, describe_schedule
from noetl.executor.model.events import timestamp
from noetl.executor.model.run import RunStatus
from noetl.executor.model.triggers import Firing, LiveTrigger, delay_of, position_at
from noetl.planner.frozen import frozen
from noetl.planner.schedules.schedule import Schedule

CALENDAR_TRIGGERS = 20
MAX_CALENDAR_TRIGGERS = 50

MAX_ENTRIES = 2_000
"""The most past firings of a page, and the most firings to come."""

MAX_STATUSES = 200
"""The most runs of a page whose statuses are read."""

MAX_CALENDAR_SECONDS = 45 * 86_400.0
_DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
_LAST_INSTANT = 220_000_000_000.0
"""The end of calendars, in the year 8941. Dates of all zones exist until then."""

_JUST_BEFORE = 1e-3


@frozen
class CalendarRequest:
    """A request for a page of the calendar: triggers of all playbooks, of one, or one trigger.

    `since` and `until` are seconds since the epoch. Without them, the time is the week before the request and
    the week after it, in whole hours. So the pages of an hour are equal, unless something changes.
    """

    playbook: str | None = None
    trigger: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int = CALENDAR_TRIGGERS
    cursor: str | None = None


@frozen
class TimeSpan:
    """The time of a page, from `since` on and before `until`, and the present."""

    since: float
    until: float
    now: float


@frozen
class CalendarService:
    """The calendar of the schedules of one tenant."""

    context: TenantContext

    def read(self, request: CalendarRequest) -> CalendarPage:
        """Return a page of the schedules with their firings.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        span = _span_of(request, self.context.clock())
        triggers, next_cursor = self._find_triggers(request)
        schedules = self._read_schedules(triggers)
        chosen = [trigger for trigger in triggers if trigger.name in schedules[trigger.playbook]]
        limit = MAX_ENTRIES // max(len(chosen), 1)
        histories = self._read_histories(chosen, span, limit)
        statuses = self._read_statuses([firing for firings, _ in histories for firing in firings])
        items = []
        for trigger, (firings, has_earlier) in zip(chosen, histories, strict=True):
            schedule = schedules[trigger.playbook][trigger.name]
            planned = list(islice(_planned_firings(trigger, schedule, span), limit + 1))
            items.append(
                CalendarTrigger(
                    playbook=trigger.playbook,
                    name=trigger.name,
                    paused=trigger.is_paused,
                    schedule=describe_schedule(schedule),
                    timezone=schedule.timezone,
                    firings=[
                        PastFiring.from_firing(firing, statuses.get(firing.run_id or firing.id))
                        for firing in firings
                    ],
                    has_earlier=has_earlier,
                    planned=planned[:limit],
                    has_later=len(planned) > limit,
                )
            )
        since, until = timestamp(span.since), timestamp(span.until)
        return CalendarPage(since=since, until=until, items=items, next_cursor=next_cursor)

    def _find_triggers(self, request: CalendarRequest) -> tuple[list[LiveTrigger], str | None]:
        store, tenant = self.context.store.triggers, self.context.tenant
        if request.playbook is not None and request.trigger is not None:
            trigger = store.get(tenant, request.playbook, request.trigger)
            return ([] if trigger is None else [trigger]), None
        scope = self.context.cursor_scope("calendar", request.playbook, request.trigger)
        place = scope.open(request.cursor)
        found, cursor = store.find(tenant, request.playbook, limit=request.limit, cursor=place)
        return [trigger for trigger in found if request.trigger in (None, trigger.name)], scope.close(cursor)

    def _read_schedules(self, triggers: Sequence[LiveTrigger]) -> Mapping[str, Mapping[str, Schedule]]:
        """Return the schedules of each playbook by the names of their triggers."""
        header_of = lru_cache(maxsize=1)(self.context.store.plans.header)
        return {
            trigger.playbook: {
                declared.name: declared.source
                for declared in header_of(trigger.plan_hash).triggers
                if isinstance(declared.source, Schedule)
            }
            for trigger in triggers
        }

    def _read_histories(
        self, triggers: Sequence[LiveTrigger], span: TimeSpan, limit: int
    ) -> list[tuple[list[Firing], bool]]:
        """Return the newest firings of the time for each trigger, and whether there are earlier ones."""
        keys = [(trigger.playbook, trigger.name) for trigger in triggers]
        found = self.context.store.triggers.newest_firings(
            self.context.tenant, keys, position_at(span.until), limit + 1
        )
        histories = []
        for key in keys:
            firings = [firing for firing in found.get(key, ()) if firing.fired_at >= span.since]
            histories.append((firings[:limit], len(firings) > limit))
        return histories

    def _read_statuses(self, firings: Sequence[Firing]) -> Mapping[str, RunStatus]:
        """Return the statuses of the newest runs by their ids."""
        newest = sorted(firings, key=lambda firing: firing.fired_at, reverse=True)
        ids = [firing.run_id for firing in newest if firing.run_id is not None][:MAX_STATUSES]
        runs = self.context.store.visits.summaries(self.context.tenant, ids)
        return {run_id: run.status for run_id, run in runs.items()}


def _span_of(request: CalendarRequest, now: float) -> TimeSpan:
    """Return the time of a request, which is at most MAX_CALENDAR_SECONDS long."""
    since, until, hour = request.since, request.until, now // _HOUR_SECONDS * _HOUR_SECONDS
    if since is None and until is None:
        since, until = hour - 7 * _DAY_SECONDS, hour + _HOUR_SECONDS + 7 * _DAY_SECONDS
    elif since is None and until is not None:
        since = until - 14 * _DAY_SECONDS
    assert since is not None
    since = min(max(since, 0.0), _LAST_INSTANT)
    until = since + 14 * _DAY_SECONDS if until is None else until
    return TimeSpan(since, min(max(until, since), since + MAX_CALENDAR_SECONDS), now)


def _planned_firings(trigger: LiveTrigger, schedule: Schedule, span: TimeSpan) -> Iterator[ScheduledFiring]:
    """Yield the firings to come that are due in a time. Those of a paused trigger would be."""
    zone = ZoneInfo(schedule.timezone)
    delay, later_start = delay_of(trigger, schedule), trigger.later_start or 0.0
    instant = schedule.next_after(span.now) if trigger.is_paused else trigger.next_at
    if instant is not None and instant + delay < span.since:
        instant = schedule.next_after(max(span.since - delay - _JUST_BEFORE, later_start))
    while instant is not None and instant + delay < span.until:
        yield ScheduledFiring.from_instant(instant, zone, delay)
        instant = schedule.next_after(max(instant, later_start))
