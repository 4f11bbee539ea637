"""The service of triggers: lists, next firings, history, pauses, and firings by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from noetl.api.service.calendar import CalendarRequest
from noetl.api.service.errors import NotFoundError, PlaybookError
from noetl.api.service.services import TenantServices, create_services
from noetl.api.service.trigger_views import ScheduleEntry, describe_schedule
from noetl.api.service.triggers import FireRequest
from noetl.executor.actions import catalogue
from noetl.executor.engine.schedule_firing import perform_due
from noetl.executor.errors import RejectedError
from noetl.executor.model.events import timestamp
from noetl.executor.model.triggers import Advance, FiringOutcome, fire_schedule, record_firing
from noetl.executor.stores.memory.store import MemoryStore
from noetl.planner.plan import Header, Plan, Trigger
from noetl.planner.schedules.schedule import CatchUp, Schedule
from noetl.planner.trigger_sources import RunEnd
from noetl.testing.run_harness import compile_text

TEXT = """\
name: %s
input: {day: {type: string, default: none}}
steps:
  - name: load
    run: [{action: set, set: {loaded: "{{ input.day }}"}}]
"""
HOURLY = Schedule(every_seconds=3600)
BERLIN = Schedule(cron="30 2 * * *", timezone="Europe/Berlin", jitter_seconds=60.0)
START = 1_000_000_800.0
"""2001-09-09T02:00:00Z"""


class TestClock:
    """A clock that tests set."""

    __test__ = False

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def services(store: MemoryStore, clock: TestClock) -> TenantServices:
    return create_services(store, catalogue(), clock=clock)


class CountedHeader:
    """The triggers of a header, and how many such objects there were at most at the same time."""

    alive = most = 0
    find_trigger = Header.find_trigger

    def __init__(self, triggers: Sequence[Trigger]) -> None:
        self.triggers = triggers
        CountedHeader.alive += 1
        CountedHeader.most = max(CountedHeader.alive, CountedHeader.most)

    def __del__(self) -> None:
        CountedHeader.alive -= 1


def declare(name: str, schedule: Schedule, **members: object) -> Trigger:
    return Trigger(name, "schedule", schedule, **members)  # type: ignore[arg-type]


def with_triggers(name: str, *triggers: Trigger) -> Plan:
    plan = compile_text(TEXT % name)
    return Plan(replace(plan.header, triggers=triggers), plan.steps, plan.tasks, plan.source)


def fire_due(store: MemoryStore, now: float) -> None:
    for trigger in store.triggers.due(now, 10):
        perform_due(store, trigger, now)


def test_a_list_has_the_triggers_of_all_playbooks_or_of_one(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("b", declare("t2", BERLIN), declare("t1", HOURLY)))
    services.playbooks.register(with_triggers("a/c", declare("t", HOURLY)))
    page = services.triggers.find(limit=2)
    assert [(entry.playbook, entry.name) for entry in page.items] == [("a/c", "t"), ("b", "t1")]
    (last,) = services.triggers.find(limit=2, cursor=page.next_cursor).items
    assert (last.name, last.schedule) == ("t2", "cron 30 2 * * *, Europe/Berlin")
    assert [entry.name for entry in services.triggers.find("b").items] == ["t1", "t2"]
    assert services.triggers.find("c").items == []


def test_the_next_firings_are_in_the_zone_and_with_the_jitter(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("a", declare("t", BERLIN, condition="{{ true }}", line=3)))
    details = services.triggers.get("a", "t", 2)
    assert [firing.local for firing in details.firings] == [
        "2001-09-10T02:30:00+02:00",
        "2001-09-11T02:30:00+02:00",
    ]
    first = details.firings[0]
    assert (details.next_at, details.due_at) == (first.scheduled_at, first.due_at)
    assert first.scheduled_at == "2001-09-10T00:30:00.000000Z"
    assert first.scheduled_at < first.due_at < "2001-09-10T00:31:00"
    assert isinstance(details.definition, ScheduleEntry)
    assert (details.condition, details.line, details.definition.jitter_seconds) == ("{{ true }}", 3, 60.0)
    assert details.inputs["day"]["default"] == "none"
    assert services.triggers.get("a", "t", 0).firings == []


def test_a_trigger_that_has_ended_has_no_next_firing(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("a", declare("t", replace(HOURLY, end_at=START))))
    details = services.triggers.get("a", "t")
    assert (details.next_at, details.firings) == (None, [])


def test_the_history_has_runs_and_reasons(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    overlapping = declare("t", replace(HOURLY, overlap="skip"), input={"day": "{{ trigger.scheduled_at }}"})
    services.playbooks.register(with_triggers("a", overlapping))
    assert services.triggers.firings("a", "t").items == []
    for hours in (1, 2):
        clock.time = START + 3600 * hours
        fire_due(store, clock.time)
    skipped, started = services.triggers.firings("a", "t").items
    assert (started.outcome, started.workflow_id, started.reason) == (
        FiringOutcome.STARTED,
        started.id,
        None,
    )
    assert (skipped.outcome, skipped.workflow_id) == (FiringOutcome.SKIPPED, None)
    assert skipped.reason == f"run {started.id} of an earlier firing has not ended"
    assert services.runs.get(started.id).input == {"day": "2001-09-09T03:00:00Z"}
    page = services.triggers.firings("a", "t", limit=1)
    assert services.triggers.firings("a", "t", cursor=page.next_cursor).items == [started]
    entry = services.triggers.get("a", "t")
    assert (entry.last_outcome, entry.last_run) == (FiringOutcome.SKIPPED, started.id)


def test_a_firing_by_hand_is_the_last_one_of_a_schedule(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY, input={"day": "x"})))
    assert services.triggers.get("a", "t").last_at is None

    def last() -> tuple[str | None, str | None, str | None]:
        (entry,) = services.triggers.find().items
        details = services.triggers.get("a", "t")
        assert (entry.last_at, entry.last_run) == (details.last_at, details.last_run)
        assert entry.last_by == details.last_by == (None if clock.time == START + 3600 else "hand")
        return entry.last_at, entry.last_outcome, entry.last_run

    clock.time = START + 60
    first, _ = services.triggers.fire("a", "t", FireRequest())
    assert last() == (timestamp(clock.time), FiringOutcome.STARTED, first.id)
    clock.time = START + 3600
    fire_due(store, clock.time)
    scheduled = last()
    assert (scheduled[0] == timestamp(clock.time), scheduled[2] == first.id) == (True, False)
    clock.time += 60
    second, _ = services.triggers.fire("a", "t", FireRequest())
    assert last() == (timestamp(clock.time), FiringOutcome.STARTED, second.id)
    clock.time += 60
    early, _ = services.triggers.fire("a", "t", FireRequest(instant=START + 7200))
    assert last() == (timestamp(clock.time), FiringOutcome.STARTED, early.id)


@pytest.mark.parametrize("instants", [(START - 7200, START - 3600), (None, None)])
def test_a_firing_of_a_backfill_is_the_last_one_of_a_schedule(
    services: TenantServices, store: MemoryStore, clock: TestClock, instants: tuple[float | None, ...]
) -> None:
    """Else a schedule that was fired by hand and then by a backfill had a last run, but no last firing."""
    services.playbooks.register(with_triggers("a", declare("t", HOURLY, input={"day": "x"})))
    clock.time = START + 60
    services.triggers.fire("a", "t", FireRequest())
    clock.time += 60
    trigger = store.triggers.get("default", "a", "t")
    assert trigger is not None
    for number, instant in enumerate(instants):
        firing = fire_schedule(trigger, START - 7200 + 3600 * number, clock.time)
        # A partition of a list has no instant.
        firing = replace(firing, backfill="b1", scheduled_at=instant)
        assert store.triggers.advance(record_firing(Advance(trigger, trigger), firing, FiringOutcome.STARTED))
    (entry,) = services.triggers.find().items
    assert (entry.last_at, entry.last_outcome) == (timestamp(clock.time), FiringOutcome.STARTED)
    assert entry.last_by == "backfill"
    assert entry.last_run == services.triggers.firings("a", "t").items[0].workflow_id
    clock.time = START + 3600
    fire_due(store, clock.time)
    (entry,) = services.triggers.find().items
    assert entry.last_at == timestamp(START + 3600)


def test_the_history_of_a_removed_trigger_is_kept(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    clock.time += 3600
    fire_due(store, clock.time)
    services.playbooks.register(with_triggers("a", declare("other", HOURLY)))
    assert len(services.triggers.firings("a", "t").items) == 1
    with pytest.raises(NotFoundError, match="unknown trigger `t` of playbook `a`"):
        services.triggers.get("a", "t")
    with pytest.raises(NotFoundError, match="unknown trigger `none` of playbook `a`"):
        services.triggers.firings("a", "none")


def test_a_pause_records_the_missed_firings_when_it_ends(services: TenantServices, clock: TestClock) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    paused = services.triggers.pause("a", "t")
    assert (paused.paused, paused.due_at) == (True, None)
    clock.time += 2 * 3600 + 1
    assert services.triggers.pause("a", "t") == paused
    assert services.triggers.get("a", "t", 1).firings[0].local == "2001-09-09T05:00:00+00:00"
    resumed = services.triggers.resume("a", "t")
    assert (resumed.paused, resumed.next_at) == (False, "2001-09-09T05:00:00.000000Z")
    assert services.triggers.resume("a", "t", "all") == resumed
    (missed,) = services.triggers.firings("a", "t").items
    assert (missed.outcome, missed.count) == (FiringOutcome.MISSED, 2)


def test_a_resumption_performs_missed_firings_if_requested(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    never = declare("t", replace(HOURLY, catch_up=CatchUp("none")))
    services.playbooks.register(with_triggers("a", never))
    services.triggers.pause("a", "t")
    clock.time += 2 * 3600 + 120
    services.triggers.resume("a", "t", "last")
    fire_due(store, clock.time)
    outcomes = [firing.outcome for firing in services.triggers.firings("a", "t").items]
    assert sorted(outcomes) == [FiringOutcome.MISSED, FiringOutcome.STARTED]


def test_only_a_schedule_performs_missed_firings(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("b"))
    services.playbooks.register(with_triggers("a", Trigger("t", "run", RunEnd("b"))))
    services.triggers.pause("a", "t")
    with pytest.raises(RejectedError, match="`t` of type `run` performs no missed firings") as refusal:
        services.triggers.resume("a", "t", "all")
    assert refusal.value.reason == "invalid_input"
    assert not services.triggers.resume("a", "t").paused


def test_a_firing_by_hand_has_a_key_of_its_own(services: TenantServices) -> None:
    services.playbooks.register(
        with_triggers("a", declare("t", HOURLY, input={"day": "{{ trigger.local }}"}))
    )
    services.triggers.pause("a", "t")
    first, is_known = services.triggers.fire("a", "t", FireRequest())
    second, _ = services.triggers.fire("a", "t", FireRequest(input={"day": "today"}))
    assert (is_known, first.id != second.id) == (False, True)
    assert (first.input, second.input) == ({"day": "2001-09-09T02:00:00+00:00"}, {"day": "today"})
    assert first.trigger is not None
    assert first.trigger["name"] == "t"
    keyed = FireRequest(idempotency_key="order 1")
    third, is_known = services.triggers.fire("a", "t", keyed)
    again, is_known_again = services.triggers.fire("a", "t", keyed)
    assert (third.id, is_known, is_known_again) == (again.id, False, True)
    assert len(services.triggers.firings("a", "t").items) == 3


def test_a_firing_at_an_instant_is_that_of_the_schedule(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    instant = START + 3600
    early, _ = services.triggers.fire("a", "t", FireRequest(instant))
    assert services.triggers.fire("a", "t", FireRequest(instant)) == (early, True)
    clock.time = instant
    fire_due(store, clock.time)
    (firing,) = services.triggers.firings("a", "t").items
    assert (firing.workflow_id, firing.key) == (early.id, "2001-09-09T03:00:00Z")


def test_a_time_less_than_a_millisecond_from_an_instant_is_that_instant(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    """Times of requests may be rounded. The firing nevertheless has the key of the schedule."""
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    instant = START + 3600
    early, _ = services.triggers.fire("a", "t", FireRequest(instant + 0.0005))
    assert services.triggers.fire("a", "t", FireRequest(instant - 0.0005)) == (early, True)
    clock.time = instant
    fire_due(store, clock.time)
    (firing,) = services.triggers.firings("a", "t").items
    assert (firing.workflow_id, firing.key) == (early.id, "2001-09-09T03:00:00Z")


@pytest.mark.parametrize("hours", [1, 2])
def test_the_previous_instant_of_a_firing_by_hand_is_before_its_instant(
    services: TenantServices, store: MemoryStore, clock: TestClock, hours: int
) -> None:
    """A person fires an instant that was rejected, when the schedule has performed it or later ones."""
    rejecting = {"day": "{{ 1 }}"}
    services.playbooks.register(with_triggers("a", declare("t", HOURLY, input=rejecting)))
    for _ in range(3):
        clock.time += 3600
        fire_due(store, clock.time)
    correct = declare("t", HOURLY, input={"day": "{{ trigger.previous_at }}"})
    services.playbooks.register(with_triggers("a", correct))
    run, _ = services.triggers.fire("a", "t", FireRequest(START + (hours + 1) * 3600))
    assert run.input["day"] == f"2001-09-09T0{2 + hours}:00:00Z"


def test_an_instant_that_the_schedule_does_not_have_is_refused(services: TenantServices) -> None:
    ended = replace(HOURLY, end_at=START + 7200)
    services.playbooks.register(with_triggers("a", declare("t", ended)))
    message = r"`t` does not fire at 2001-09-09T02:30:00Z; then it fires at 2001-09-09T03:00:00Z"
    with pytest.raises(RejectedError, match=message) as refusal:
        services.triggers.fire("a", "t", FireRequest(START + 1800))
    assert refusal.value.reason == "not_scheduled"
    with pytest.raises(RejectedError, match="does not fire at 2001-09-09T04:00:00Z, nor later"):
        services.triggers.fire("a", "t", FireRequest(START + 7200))


def test_an_input_that_does_not_fit_is_refused(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    with pytest.raises(RejectedError) as refusal:
        services.triggers.fire("a", "t", FireRequest(input={"day": 1}))
    assert refusal.value.reason == "invalid_input"
    assert services.triggers.firings("a", "t").items == []


def test_a_change_that_others_overtake_is_tried_again(
    services: TenantServices, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    advance, refused = store.triggers.advance, []

    def refuse(change: Advance) -> bool:
        refused.append(change)
        return len(refused) > 2 and advance(change)

    monkeypatch.setattr(store.triggers, "advance", refuse)
    assert services.triggers.pause("a", "t").paused
    assert len(refused) == 3
    monkeypatch.setattr(store.triggers, "advance", lambda _change: False)
    with pytest.raises(RejectedError) as refusal:
        services.triggers.resume("a", "t")
    assert refusal.value.reason == "trigger_changed"


@pytest.mark.parametrize("name", ["firings", "fire", "pause", "resume"])
def test_a_trigger_with_the_name_of_a_route_is_not_registered(services: TenantServices, name: str) -> None:
    steps = "steps: [{name: s, run: [{action: log, message: hello}]}]\n"
    text = f"name: a\ntriggers: [{{name: {name}, type: schedule, every: 1h}}]\n{steps}"
    with pytest.raises(PlaybookError) as refusal:
        services.playbooks.register(text)
    assert [found.code for found in refusal.value.diagnostics if found.severity == "error"] == ["NP813"]
    assert services.triggers.find().items == []


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (Schedule(every_seconds=1), "every 1s"),
        (Schedule(every_seconds=90), "every 90s"),
        (Schedule(every_seconds=7200), "every 2h"),
        (Schedule(every_seconds=86_400), "every 1d"),
        (Schedule(every_seconds=1.5), "every 1.5s"),
        (Schedule(cron="* * * * *"), "cron * * * * *, UTC"),
    ],
)
def test_a_schedule_is_described_as_it_is_written(schedule: Schedule, text: str) -> None:
    assert describe_schedule(schedule) == text


def test_a_list_holds_few_headers_at_once(
    services: TenantServices, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        plan = with_triggers(f"p{number}", declare("a", HOURLY), declare("b", HOURLY))
        services.playbooks.register(plan, "me")
    read = store.plans.header
    monkeypatch.setattr(store.plans, "header", lambda plan_hash: CountedHeader(read(plan_hash).triggers))
    assert len(services.triggers.find().items) == 12
    assert len(services.calendar.read(CalendarRequest()).items) == 12
    assert CountedHeader.most == 2
