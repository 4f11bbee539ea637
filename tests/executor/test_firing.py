"""Firings of triggers: runs that are started, and records of those that are not."""

from __future__ import annotations

import json
import re
import zoneinfo
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from noetl.executor.engine import firing as firing_module
from noetl.executor.engine.firing import MAX_CONFLICTS
from noetl.executor.engine.hand_firing import HandFiring, fire_by_hand
from noetl.executor.engine.schedule_firing import POSTPONE_SECONDS, perform_due
from noetl.executor.errors import RejectedError, StoreAwayError, StoreError, TriggerChangedError
from noetl.executor.model.due_instants import MAX_COUNTED_AT_CHANGE
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import Run, RunStatus
from noetl.executor.model.triggers import (
    CHANGED_REASON,
    LATE_REASON,
    MANUAL_KEY,
    PAUSED_REASON,
    Firing,
    FiringCause,
    FiringOutcome,
    LiveTrigger,
    extra_cause,
    firing_id,
    instant_key,
    is_known,
    jitter_of,
    pause_trigger,
    resume_trigger,
)
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.frozen import replace
from noetl.planner.schedules.schedule import CatchUpMode, Schedule
from noetl.testing.run_harness import FakeClock, compile_text

START = datetime(2025, 3, 28, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0

HOURLY = """
triggers:
- {name: hourly, type: schedule, every: 1h, input: {day: "{{ trigger.scheduled_at }}"}}
input: {day: {type: string}}
steps:
- {name: a, run: [{action: log, message: "{{ day }} {{ run.trigger.name }}"}]}
"""


class ScheduledPlaybook:
    """A store with the registered versions of one playbook, and its clock."""

    def __init__(self, text: str, now: float = START) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock(now)
        self.register(text)

    def register(self, text: str) -> None:
        plan = compile_text(text)
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, self.clock())
        self.store.registry.register(playbook, triggers=plan.header.triggers)

    def trigger(self, name: str = "hourly") -> LiveTrigger:
        found = self.store.triggers.get("default", "play", name)
        assert found is not None
        return found

    def perform(self) -> list[Run]:
        """Perform all that is due, and return the runs that were started."""
        while due := self.store.triggers.due(self.clock(), 10):
            for trigger in due:
                perform_due(self.store, trigger, self.clock())
                self.clock.advance(0.001)
        return self.runs()

    def runs(self) -> list[Run]:
        runs = [self.store.runs.get("default", firing.run_id) for firing in self.firings() if firing.run_id]
        return [run for run in runs if run is not None]

    def firings(self, name: str = "hourly") -> list[Any]:
        """Return all firings, oldest first."""
        return self.store.triggers.firings("default", "play", name)[0][::-1]

    def outcomes(self, name: str = "hourly") -> list[tuple[str, str | None, int]]:
        return [(str(firing.outcome), firing.reason, firing.count) for firing in self.firings(name)]


def test_a_due_firing_starts_one_run() -> None:
    service = ScheduledPlaybook(HOURLY)
    assert service.perform() == []
    service.clock.advance(HOUR)
    [run] = service.perform()
    instant = instant_key(START + HOUR)
    assert run.id == firing_id("default", "play", "hourly", instant)
    assert run.input == {"day": instant}
    assert run.trigger == {
        "name": "hourly",
        "type": "schedule",
        "scheduled_at": instant,
        "workflow_id": None,
        "backfill": None,
    }
    assert (run.version, run.status, run.created_at) == ("1", RunStatus.QUEUED, START + HOUR)
    trigger = service.trigger()
    assert (trigger.next_at, trigger.due_at, trigger.last_run) == (START + 2 * HOUR, START + 2 * HOUR, run.id)
    assert (trigger.last_at, trigger.last_outcome) == (START + HOUR, FiringOutcome.STARTED)
    assert service.outcomes() == [("started", None, 1)]


def test_the_names_that_a_trigger_reads() -> None:
    service = ScheduledPlaybook("""
    triggers:
    - name: hourly
      type: schedule
      cron: "30 2 * * *"
      timezone: Europe/Berlin
      input: {values: "{{ trigger }}", fired: "{{ now().isoformat() }}", id: "{{ uuid() }}"}
    input: {values: {type: object}, fired: {type: string}, id: {type: string}}
    steps: [{name: a, run: [{action: log, message: "{{ values }} {{ fired }} {{ id }}"}]}]
    """)
    service.clock.now = datetime(2025, 3, 30, 1, 0, 30, tzinfo=UTC).timestamp()
    run = service.perform()[-1]
    assert run.input["values"] == {
        "scheduled_at": "2025-03-30T01:00:00Z",
        "previous_at": "2025-03-29T01:30:00Z",
        "next_at": "2025-03-31T00:30:00Z",
        "local": "2025-03-30T03:00:00+02:00",
        "partition": None,
    }
    assert run.input["fired"] == "2025-03-30T01:00:30+00:00"
    assert len(run.input["id"]) == 36


def test_missed_firings_are_recorded_together() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(5 * HOUR + 600)
    [run] = service.perform()
    assert run.input == {"day": instant_key(START + 5 * HOUR)}
    assert service.outcomes() == [("missed", LATE_REASON, 4), ("started", None, 1)]
    assert service.firings()[0].scheduled_at == START + 4 * HOUR
    # The key of a missed instant is its own, so that it can be performed by hand.
    again, _ = fire_by_hand(
        service.store, service.trigger(), HandFiring("", instant=START + 4 * HOUR), service.clock()
    )
    assert again.input == {"day": instant_key(START + 4 * HOUR)}


def test_all_missed_firings_are_performed_in_order() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, catch_up: all"))
    service.clock.advance(3 * HOUR + 600)
    assert [run.input["day"] for run in service.perform()] == [
        instant_key(START + hours * HOUR) for hours in (1, 2, 3)
    ]
    assert service.trigger().next_at == START + 4 * HOUR


def test_a_clock_that_goes_back_repeats_no_firing() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 20m"))
    for _ in range(6):
        service.clock.advance(HOUR / 3)
        service.perform()
    before = service.trigger()
    service.clock.advance(-HOUR)
    # A version with the same timing is registered meanwhile, and the next instant stays.
    service.register(HOURLY.replace("every: 1h", "every: 20m") + "description: second\n")
    for _ in range(3):
        service.clock.advance(HOUR / 3)
        service.perform()
        assert service.trigger().next_at == before.next_at
    service.clock.advance(HOUR / 3)
    service.perform()
    fired = sorted(firing.scheduled_at for firing in service.firings())
    assert fired == [START + number * HOUR / 3 for number in range(1, 8)]
    assert [outcome for outcome, _, _ in service.outcomes()] == ["started"] * 7


@pytest.mark.parametrize(
    ("zone", "following"),
    [
        ("Europe/Athens", "2025-01-12T00:30:00Z"),
        # It is 02:30 once more, an hour after the firing that was stored.
        ("Europe/London", "2025-01-11T02:30:00Z"),
    ],
)
def test_new_rules_of_a_zone_repeat_no_instant(
    zone: str, following: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next instant is stored, and the zone moves to the east or to the west between two firings."""
    service = ScheduledPlaybook(
        HOURLY.replace("every: 1h", 'cron: "30 2 * * *", timezone: Europe/Berlin'),
        datetime(2025, 1, 10, tzinfo=UTC).timestamp(),
    )
    service.clock.advance(2 * HOUR)
    service.perform()
    moved = zoneinfo.ZoneInfo(zone)
    monkeypatch.setattr(zoneinfo, "ZoneInfo", lambda _: moved)
    for _ in range(48):
        service.clock.advance(HOUR)
        service.perform()
    fired = sorted(firing.scheduled_at for firing in service.firings())
    expected = ["2025-01-10T01:30:00Z", "2025-01-11T01:30:00Z", following]
    assert [instant_key(instant) for instant in fired] == expected


def test_a_false_condition_starts_no_run() -> None:
    service = ScheduledPlaybook(
        HOURLY.replace("every: 1h", 'every: 1h, if: "{{ trigger.previous_at is none }}"')
    )
    service.clock.advance(HOUR)
    service.perform()
    service.clock.advance(HOUR)
    service.perform()
    assert service.outcomes() == [("started", None, 1), ("filtered", "`if` is false", 1)]
    assert service.trigger().last_outcome is FiringOutcome.FILTERED


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ trigger.scheduled_at / 2 }}", "`day`: `/` cannot take a text and a number"),
        ("{{ [trigger.scheduled_at] }}", "input `day` must be of type string, not a list"),
    ],
)
def test_an_input_without_a_value_is_rejected(template: str, reason: str) -> None:
    service = ScheduledPlaybook(HOURLY)
    plan = compile_text(HOURLY)
    declared = replace(plan.header.triggers[0], input={"day": template})
    wrong = replace(plan, header=replace(plan.header, triggers=(declared,)))
    service.store.plans.save(wrong)
    registered = RegisteredPlaybook("default", "play", None, wrong.hash, START)
    service.store.registry.register(registered, triggers=wrong.header.triggers)
    service.clock.advance(HOUR)
    assert service.perform() == []
    [(outcome, shown, _)] = service.outcomes()
    assert outcome == "rejected"
    assert reason in str(shown)
    assert service.trigger().next_at == START + 2 * HOUR
    # The record keeps no data, and the instant is all that is needed to fire again.
    service.register(HOURLY)
    again = HandFiring("k", START + HOUR)
    run, is_new = fire_by_hand(service.store, service.trigger(), again, service.clock())
    assert (run.input, is_new) == ({"day": instant_key(START + HOUR)}, True)
    assert service.outcomes()[1:] == [("started", None, 1)]


def test_no_run_starts_while_the_last_one_is_open() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, overlap: skip"))
    service.clock.advance(HOUR)
    [run] = service.perform()
    service.clock.advance(HOUR)
    service.perform()
    assert service.outcomes()[1] == ("skipped", f"run {run.id} of an earlier firing has not ended", 1)
    service.store.runs.stop(run.id, RunStatus.CANCELLED, service.clock())
    finish(service, run.id)
    service.clock.advance(HOUR)
    assert len(service.perform()) == 2


def finish(service: ScheduledPlaybook, run_id: str) -> None:
    """Let a stopped run end."""
    from noetl.executor.engine.invocation import VisitExecutor
    from noetl.executor.model.run import SERVICE_QUEUE, Lease
    from noetl.executor.security.capabilities import Capabilities

    lease = Lease("one", 30.0)
    executor = VisitExecutor(service.store, lease, Capabilities(), service.clock)
    while claim := service.store.queue.claim(SERVICE_QUEUE, lease, service.clock()):
        executor.execute(claim)
    run = service.store.runs.get("default", run_id)
    assert run is not None
    assert run.status.is_final


def test_a_jitter_delays_each_firing_equally() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, jitter: 30m"))
    delay = jitter_of("default", "play", "hourly", 1800.0)
    assert 0 < delay < 1800
    service.clock.now = START + HOUR + delay - 0.001
    assert service.perform() == []
    service.clock.now = START + HOUR + delay
    [run] = service.perform()
    assert run.input == {"day": instant_key(START + HOUR)}
    assert service.trigger().due_at == START + 2 * HOUR + delay


def test_one_of_many_processes_performs_a_firing() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR)
    trigger = service.trigger()
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: perform_due(service.store, trigger, service.clock()), range(32)))
    assert sum(advance is not None for advance in written) == 1
    assert len(service.runs()) == 1


def test_a_new_version_keeps_the_next_firing_if_its_timing_is_equal() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(0.5 * HOUR)
    service.register(HOURLY + "description: second\n")
    assert (service.trigger().version, service.trigger().next_at) == ("2", START + HOUR)
    service.register(HOURLY.replace("every: 1h", "every: 20m"))
    assert (service.trigger().version, service.trigger().next_at) == ("3", START + 2400)
    service.clock.advance(600)
    [run] = service.perform()
    assert run.version == "3"


def test_a_firing_that_is_due_is_not_lost_in_a_new_version() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR + 1)
    service.register(HOURLY.replace("every: 1h", "every: 7h"))
    [run] = service.perform()
    assert (run.version, run.input["day"]) == ("2", instant_key(START + HOUR))
    assert service.trigger().next_at == (START + HOUR) // (7 * HOUR) * 7 * HOUR + 7 * HOUR


def test_a_postponed_firing_is_not_lost_in_a_new_version(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR)

    def refuse(*_: object) -> None:
        raise RejectedError("quota_exceeded", "the tenant has too many branches")

    with monkeypatch.context() as patched:
        patched.setattr(firing_module, "check_branch_quota", refuse)
        assert service.perform() == []
    service.clock.advance(1)
    service.register(HOURLY.replace("every: 1h", "every: 7h"))
    [run] = service.perform()
    assert (run.version, run.input["day"]) == ("2", instant_key(START + HOUR))


def test_a_firing_that_is_delayed_by_its_jitter_is_not_lost_in_a_new_version() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, jitter: 30m"))
    service.clock.advance(HOUR + 1)
    service.register(HOURLY.replace("every: 1h", "every: 7h, jitter: 30m"))
    assert service.perform() == []
    service.clock.advance(HOUR / 2)
    [run] = service.perform()
    assert (run.version, run.input["day"]) == ("2", instant_key(START + HOUR))


LEFT = ("missed", CHANGED_REASON, 2)
"""The record of the instants of the first version that have passed before the newest one."""


@pytest.mark.parametrize(
    ("mode", "outcomes"),
    [
        ("none", [("missed", LATE_REASON, 1)]),
        ("last", [("started", None, 1)]),
        ("all", [("started", None, 1)]),
    ],
)
def test_a_new_version_performs_no_instants_from_before_it(mode: str, outcomes: list[Any]) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR + 30)
    service.register(HOURLY.replace("every: 1h", f"every: 1m, catch_up: {mode}"))
    service.perform()
    assert service.outcomes() == [LEFT, *outcomes]
    assert [firing.scheduled_at for firing in service.firings()] == [START + 2 * HOUR, START + 3 * HOUR]
    assert service.trigger().next_at == START + 3.5 * HOUR + 60


def test_a_version_with_late_firings_of_its_own_and_an_earlier_one() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR + 30)
    service.register(HOURLY.replace("every: 1h", "every: 1m, catch_up: {mode: all, limit: 2}"))
    service.clock.advance(300)
    service.perform()
    assert service.outcomes() == [LEFT, ("missed", LATE_REASON, 3)] + [("started", None, 1)] * 3
    assert [firing.scheduled_at for firing in service.firings()][2:] == [
        START + 3.5 * HOUR + 60 * minute for minute in (3, 4, 5)
    ]


def test_a_pause_of_a_late_firing_counts_no_instants_from_before_a_version() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR + 30)
    service.register(HOURLY.replace("every: 1h", "every: 1m"))
    service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(120)
    schedule = Schedule(every_seconds=60.0)
    service.store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock()))
    assert service.outcomes() == [LEFT, ("missed", PAUSED_REASON, 3)]
    assert service.trigger().next_at == START + 3.5 * HOUR + 180


@pytest.mark.parametrize("is_paused", [False, True])
def test_versions_with_one_timing_keep_what_has_passed_since_the_first_of_them(is_paused: bool) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR + 30)
    minutely = HOURLY.replace("every: 1h", "every: 1m, catch_up: all")
    service.register(minutely)
    if is_paused:
        service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(300)
    service.register(minutely + "description: third\n")
    if is_paused:
        schedule = Schedule(every_seconds=60.0)
        service.store.triggers.advance(
            resume_trigger(service.trigger(), schedule, service.clock(), catch_up="all")
        )
    service.perform()
    assert [firing.scheduled_at for firing in service.firings()] == [
        START + 2 * HOUR,
        START + 3 * HOUR,
        *(START + 3.5 * HOUR + 60 * minute for minute in (1, 2, 3, 4, 5)),
    ]
    assert service.outcomes() == [LEFT] + [("started", None, 1)] * 6


def test_three_timings_of_a_late_trigger_lose_no_instant() -> None:
    service = ScheduledPlaybook(HOURLY)
    for seconds, interval in ((3.5 * HOUR + 30, "1m"), (90, "20s"), (65, "7h")):
        service.clock.advance(seconds)
        service.register(HOURLY.replace("every: 1h", f"every: {interval}"))
    service.perform()
    # Of the second version, 15:31 and 15:32 have passed. Of the third, 15:32:20, :40 and 15:33 have.
    changed = ("missed", CHANGED_REASON)
    assert service.outcomes() == [LEFT, (*changed, 2), (*changed, 3), ("started", None, 1)]
    assert service.runs()[0].input["day"] == instant_key(START + 3.5 * HOUR + 180)


def test_a_change_of_the_timing_after_a_month_evaluates_few_instants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registration holds locks of the store meanwhile."""
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "cron: '* * * * *'"))
    service.clock.advance(30 * 24 * HOUR + 30)
    evaluated, next_after = list[float](), Schedule.next_after

    def find(schedule: Schedule, instant: float) -> float | None:
        evaluated.append(instant)
        return next_after(schedule, instant)

    monkeypatch.setattr(Schedule, "next_after", find)
    service.register(HOURLY)
    assert len(evaluated) < 2 * MAX_COUNTED_AT_CHANGE
    [missed] = service.firings()
    assert (missed.scheduled_at, missed.count) == (START + 30 * 24 * HOUR - 60, MAX_COUNTED_AT_CHANGE - 1)
    [run] = service.perform()
    assert run.input["day"] == instant_key(START + 30 * 24 * HOUR)


def test_a_version_before_whose_plan_is_lost_keeps_what_is_due() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR)
    service.store.state.plans.clear()
    service.register(HOURLY.replace("every: 1h", "every: 7h"))
    [run] = service.perform()
    assert run.input["day"] == instant_key(START + HOUR)
    assert service.outcomes() == [("started", None, 1)]


def test_a_late_firing_of_an_earlier_version_loses_no_firings_of_a_pause() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3.5 * HOUR + 30)
    service.register(HOURLY.replace("every: 1h", "every: 1m"))
    service.clock.advance(60)
    service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(240)
    schedule = Schedule(every_seconds=60.0)
    service.store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock(), "all"))
    service.perform()
    assert service.outcomes() == [LEFT] + [("started", None, 1)] * 6
    assert service.trigger().later_start is None


def test_a_resumption_before_a_delayed_firing_performs_no_instants_from_before_a_version() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, jitter: 30m"))
    schedule = Schedule(every_seconds=60.0, jitter_seconds=1800.0)
    delay = jitter_of("default", "play", "hourly", 1800.0)
    service.clock.advance(HOUR + 130)
    assert delay > 150
    service.register(HOURLY.replace("every: 1h", "every: 1m, jitter: 30m"))
    service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock()))
    service.clock.advance(delay)
    service.perform()
    assert [firing.scheduled_at for firing in service.firings()] == [START + HOUR]
    assert service.trigger().next_at == START + HOUR + 180


def test_firings_of_a_pause_are_missed() -> None:
    service = ScheduledPlaybook(HOURLY)
    store, schedule = service.store, Schedule(every_seconds=HOUR)
    assert store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(3.5 * HOUR)
    assert service.perform() == []
    assert store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock()))
    assert service.perform() == []
    assert service.outcomes() == [("missed", PAUSED_REASON, 3)]
    assert (service.trigger().next_at, service.trigger().is_paused) == (START + 4 * HOUR, False)


@pytest.mark.parametrize(("mode", "hours", "missed"), [("last", [3], 2), ("all", [1, 2, 3], 0)])
def test_firings_of_a_pause_are_performed_on_request(
    mode: CatchUpMode, hours: list[int], missed: int
) -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, catch_up: none"))
    store = service.store
    store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(3.5 * HOUR)
    schedule = Schedule(every_seconds=HOUR)
    store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock(), mode))
    assert [run.input["day"] for run in service.perform()] == [
        instant_key(START + hour * HOUR) for hour in hours
    ]
    missed_firings = [(why, count) for outcome, why, count in service.outcomes() if outcome == "missed"]
    assert missed_firings == ([(PAUSED_REASON, missed)] if missed else [])
    # Later firings follow the schedule again.
    assert service.trigger().catch_up is None
    service.clock.advance(2.7 * HOUR)
    service.perform()
    assert service.outcomes()[-1] == ("missed", LATE_REASON, 3)


def test_a_catch_up_of_a_pause_ends_with_its_firings_although_a_jitter_is_long() -> None:
    text = HOURLY.replace("every: 1h", "every: 1h, catch_up: none, jitter: 24h")
    service = ScheduledPlaybook(text)
    delay = jitter_of("default", "play", "hourly", 86_400.0)
    assert delay > HOUR
    store, schedule = service.store, Schedule(every_seconds=HOUR, jitter_seconds=86_400.0)
    store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(delay + 3.5 * HOUR)
    store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock(), "all"))
    assert len(service.perform()) == 3
    service.clock.advance(2.7 * HOUR)
    assert len(service.perform()) == 3
    assert service.outcomes()[-1] == ("missed", LATE_REASON, 3)


def test_a_pause_without_firings_leaves_later_ones_to_the_schedule() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, catch_up: all"))
    store, schedule = service.store, Schedule(every_seconds=HOUR)
    store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.clock.advance(60)
    store.triggers.advance(resume_trigger(service.trigger(), schedule, service.clock(), "last"))
    service.clock.advance(3.5 * HOUR)
    assert len(service.perform()) == 3
    assert [outcome for outcome, *_ in service.outcomes()] == ["started"] * 3


def test_a_paused_trigger_stays_paused_in_a_new_version() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.store.triggers.advance(pause_trigger(service.trigger(), service.clock()))
    service.register(HOURLY.replace("every: 1h", "every: 20m"))
    assert (service.trigger().is_paused, service.trigger().due_at) == (True, None)


def test_a_firing_by_hand() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", 'every: 1h, if: "{{ false }}", overlap: skip'))
    fire = HandFiring("k")
    run, _ = fire_by_hand(service.store, service.trigger(), fire, service.clock())
    assert run.input == {"day": instant_key(START)}
    assert fire_by_hand(service.store, service.trigger(), fire, service.clock() + 5) == (run, False)
    given = HandFiring("l", input={"day": "today"})
    second, _ = fire_by_hand(service.store, service.trigger(), given, service.clock() + 9)
    assert (second.id != run.id, second.input) == (True, {"day": "today"})
    trigger = service.trigger()
    assert (trigger.next_at, trigger.last_at, trigger.last_run) == (START + HOUR, None, second.id)
    assert [firing.key for firing in service.firings()] == ["manual k", "manual l"]


def test_an_instant_that_was_fired_by_hand_is_not_fired_again() -> None:
    service = ScheduledPlaybook(HOURLY)
    early = HandFiring("", instant=START + HOUR)
    run, _ = fire_by_hand(service.store, service.trigger(), early, service.clock())
    service.clock.advance(HOUR)
    assert [again.id for again in service.perform()] == [run.id]
    assert service.trigger().next_at == START + 2 * HOUR
    assert service.trigger().last_at == START + HOUR
    service.clock.advance(HOUR)
    assert len(service.perform()) == 2


def test_an_open_run_of_the_same_instant_is_not_one_of_an_earlier_firing() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, overlap: skip"))
    early = HandFiring("", instant=START + HOUR)
    run, _ = fire_by_hand(service.store, service.trigger(), early, service.clock())
    service.clock.advance(HOUR)
    service.perform()
    assert service.outcomes() == [("started", None, 1)]
    assert (service.trigger().last_outcome, service.trigger().last_run) == (FiringOutcome.STARTED, run.id)
    service.clock.advance(HOUR)
    service.perform()
    assert service.outcomes()[1:] == [("skipped", f"run {run.id} of an earlier firing has not ended", 1)]


def test_a_firing_by_hand_that_does_not_fit() -> None:
    service = ScheduledPlaybook(HOURLY)
    with pytest.raises(RejectedError, match="unknown input `other`") as refusal:
        given = HandFiring("k", input={"other": 1})
        fire_by_hand(service.store, service.trigger(), given, service.clock())
    assert refusal.value.reason == "invalid_input"
    assert service.firings() == []


def test_inputs_given_by_hand_replace_templates_that_have_no_value() -> None:
    service = ScheduledPlaybook(HOURLY.replace("trigger.scheduled_at", "trigger.partition.day"))
    with pytest.raises(RejectedError, match="`day`: `day` is undefined in none"):
        fire_by_hand(service.store, service.trigger(), HandFiring("k"), service.clock())
    given = HandFiring("k", input={"day": "monday"})
    run, is_new = fire_by_hand(service.store, service.trigger(), given, service.clock())
    assert (run.input, is_new) == ({"day": "monday"}, True)


def test_a_condition_without_a_value_is_named_in_the_history() -> None:
    service = ScheduledPlaybook(HOURLY.replace("every: 1h", 'every: 1h, if: "{{ trigger.partition.day }}"'))
    service.clock.advance(HOUR)
    assert service.perform() == []
    assert service.outcomes() == [("rejected", "`if`: `day` is undefined in none", 1)]


def test_a_firing_by_hand_of_an_older_version_is_refused() -> None:
    service = ScheduledPlaybook(HOURLY)
    old = service.trigger()
    service.register(HOURLY + "description: second\n")
    with pytest.raises(RejectedError, match="was changed meanwhile") as refusal:
        fire_by_hand(service.store, old, HandFiring("k"), service.clock())
    assert refusal.value.reason == "trigger_changed"
    assert service.runs() == []


def test_a_trigger_that_its_plan_does_not_declare() -> None:
    service = ScheduledPlaybook(HOURLY)
    unknown = replace(service.trigger(), name="other")
    assert perform_due(service.store, unknown, START + HOUR) is None
    with pytest.raises(RejectedError, match="was changed meanwhile"):
        fire_by_hand(service.store, unknown, HandFiring("k"), START)
    assert service.runs() == []


def test_a_trigger_without_a_next_firing_performs_none() -> None:
    service = ScheduledPlaybook(HOURLY)
    ended = replace(service.trigger(), next_at=None, due_at=None)
    assert perform_due(service.store, ended, START + HOUR) is None


def test_a_firing_by_hand_whose_input_has_no_value() -> None:
    service = ScheduledPlaybook(HOURLY.replace("trigger.scheduled_at", "trigger.next_at / 2"))
    with pytest.raises(RejectedError, match="`/` cannot take a text and a number") as refusal:
        fire_by_hand(service.store, service.trigger(), HandFiring("k"), START)
    assert refusal.value.reason == "invalid_input"


def test_a_firing_by_hand_ends_after_some_conflicts(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScheduledPlaybook(HOURLY)
    tries: list[object] = []

    def fire(*_: object) -> None:
        tries.append(None)
        raise TriggerChangedError

    monkeypatch.setattr(service.store.runs, "fire", fire)
    with pytest.raises(RejectedError, match="was changed meanwhile"):
        fire_by_hand(service.store, service.trigger(), HandFiring("k"), START)
    assert len(tries) == MAX_CONFLICTS


def test_a_firing_by_hand_races_with_the_schedule() -> None:
    service = ScheduledPlaybook(HOURLY)
    old = service.trigger()
    service.clock.advance(HOUR)
    service.perform()
    run, _ = fire_by_hand(service.store, old, HandFiring("k"), service.clock())
    assert [started.id for started in service.runs()][-1] == run.id
    assert service.trigger().next_at == START + 2 * HOUR


def test_a_tenant_with_too_many_branches_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR)
    refusal = RejectedError("quota_exceeded", "the tenant has too many branches")

    def refuse(*_: object) -> None:
        raise refusal

    with monkeypatch.context() as patched:
        patched.setattr(firing_module, "check_branch_quota", refuse)
        assert service.perform() == []
    assert service.outcomes() == []
    assert service.trigger().due_at == START + HOUR + POSTPONE_SECONDS
    service.clock.advance(20)
    [run] = service.perform()
    assert run.input == {"day": instant_key(START + HOUR)}


def test_a_trigger_that_fails_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR)

    def fail(*_: object) -> None:
        raise ValueError("a fault of the engine")

    with monkeypatch.context() as patched:
        patched.setattr(firing_module, "new_run", fail)
        assert service.perform() == []
    assert "trigger hourly of play failed; it is tried again" in caplog.text
    assert service.trigger().due_at == START + HOUR + POSTPONE_SECONDS
    service.clock.advance(20)
    assert len(service.perform()) == 1


def test_the_templates_of_a_firing_share_one_budget() -> None:
    text = "{{ range(40000) | map('string') | join | length }}"
    inputs = ", ".join(f'i{number}: "{text}"' for number in range(20))
    declared = ", ".join(f"i{number}: integer" for number in range(20))
    service = ScheduledPlaybook(f"""
    triggers: [{{name: hourly, type: schedule, every: 1h, input: {{{inputs}}}}}]
    input: {{{declared}}}
    steps: [{{name: a, run: [{{action: log, message: hello}}]}}]
    """)
    service.clock.advance(HOUR)
    service.perform()
    [(outcome, reason, _)] = service.outcomes()
    assert outcome == "rejected"
    # Each of them would be evaluated alone.
    assert re.fullmatch(r"`i[1-9]\d*`: the expressions? .*", str(reason)), reason


def test_a_plan_that_cannot_be_read_delays_only_its_triggers(monkeypatch: pytest.MonkeyPatch) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(HOUR)

    def fail(error: StoreError) -> Any:
        def header(_: str) -> None:
            raise error

        return header

    with monkeypatch.context() as patched:
        patched.setattr(service.store.plans, "header", fail(StoreError("The plan is lost.")))
        assert service.perform() == []
        assert service.trigger().due_at == START + HOUR + POSTPONE_SECONDS
        patched.setattr(service.store.plans, "header", fail(StoreAwayError("The store is away.")))
        with pytest.raises(StoreAwayError):
            perform_due(service.store, service.trigger(), service.clock())
    service.clock.advance(20)
    assert len(service.perform()) == 1


def test_records_are_written_as_json() -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3 * HOUR)
    service.perform()
    trigger = service.trigger()
    assert LiveTrigger.from_json(json.loads(json.dumps(trigger.to_json()))) == trigger
    for firing in service.firings():
        assert type(firing).from_json(json.loads(json.dumps(firing.to_json()))) == firing


@pytest.mark.parametrize(
    ("type", "key", "scheduled_at", "backfill", "cause"),
    [
        ("schedule", "k", 100.0, None, None),
        ("schedule", "k", None, None, None),
        ("schedule", "k", 100.5, None, FiringCause.HAND),
        ("schedule", f"{MANUAL_KEY}k", 100.0, None, FiringCause.HAND),
        ("schedule", "k", 100.0, "b", FiringCause.BACKFILL),
        ("webhook", "k", None, None, None),
        ("webhook", f"{MANUAL_KEY}k", None, None, FiringCause.HAND),
    ],
)
def test_a_schedule_knows_what_it_has_fired_itself(
    type: str, key: str, scheduled_at: float | None, backfill: str | None, cause: FiringCause | None
) -> None:
    trigger = LiveTrigger("default", "play", "t", type, "1", "hash", 0.0, last_at=100.0)
    firing = Firing("id", "default", "play", "t", "1", key, 200.0, FiringOutcome.STARTED)
    firing = replace(firing, scheduled_at=scheduled_at, backfill=backfill)
    assert extra_cause(trigger, firing) is cause
    assert is_known(trigger, firing) is (type == "schedule" and cause is None)
