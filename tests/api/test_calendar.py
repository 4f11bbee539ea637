"""The calendar of schedules: firings of a time that were performed, and those to come."""

from __future__ import annotations

from dataclasses import replace

from noetl.api.service.calendar import MAX_ENTRIES, MAX_STATUSES, CalendarRequest
from noetl.api.service.calendar_views import CalendarTrigger
from noetl.api.service.services import TenantServices
from noetl.executor.model.triggers import FiringOutcome
from noetl.executor.stores.memory.store import MemoryStore
from tests.api.test_triggers import (
    BERLIN,
    HOURLY,
    START,
    TestClock,
    clock,
    declare,
    fire_due,
    services,
    store,
    with_triggers,
)

__all__ = ["clock", "services", "store"]

DAY = 86_400.0


def read_one(services: TenantServices, **options: float) -> CalendarTrigger:
    (item,) = services.calendar.read(CalendarRequest("a", "t", **options)).items  # type: ignore[arg-type]
    return item


def test_a_time_has_past_firings_and_those_to_come(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    for hours in range(1, 4):
        clock.time = START + 3600 * hours + 0.5
        fire_due(store, clock.time)
    item = read_one(services, since=START + 3600 * 2, until=START + 3600 * 6)
    assert [firing.scheduled_at for firing in item.firings] == [
        "2001-09-09T05:00:00.000000Z",
        "2001-09-09T04:00:00.000000Z",
    ]
    assert {(firing.outcome, firing.status) for firing in item.firings} == {(FiringOutcome.STARTED, "queued")}
    assert [firing.due_at[11:13] for firing in item.planned] == ["06", "07"]
    assert (item.has_earlier, item.has_later, item.schedule) == (False, False, "every 1h")
    later = read_one(services, since=START + DAY, until=START + DAY + 7200)
    assert ([firing.due_at for firing in later.planned], later.firings) == (
        ["2001-09-10T02:00:00.000000Z", "2001-09-10T03:00:00.000000Z"],
        [],
    )


def test_firings_to_come_stand_at_their_due_times(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("a", declare("t", BERLIN)))
    (firing,) = read_one(services, since=START, until=START + DAY).planned
    assert firing.scheduled_at == "2001-09-10T00:30:00.000000Z"
    assert firing.scheduled_at < firing.due_at < "2001-09-10T00:31:00"
    services.triggers.pause("a", "t")
    paused = read_one(services, since=START, until=START + DAY)
    assert (paused.paused, [later.due_at for later in paused.planned]) == (True, [firing.due_at])


def test_a_late_firing_of_an_earlier_version_is_followed_by_those_since_the_change(
    services: TenantServices, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    clock.time = START + 3 * 3600
    services.playbooks.register(with_triggers("a", declare("t", replace(HOURLY, every_seconds=600.0))))
    planned = read_one(services, since=START, until=clock.time + 1201).planned
    assert [firing.due_at[11:16] for firing in planned] == ["05:00", "05:10", "05:20"]
    services.triggers.pause("a", "t")
    services.triggers.resume("a", "t", "all")
    details = services.triggers.get("a", "t", 3)
    assert [firing.scheduled_at for firing in details.firings] == [firing.scheduled_at for firing in planned]


def test_a_page_is_bounded(services: TenantServices, store: MemoryStore, clock: TestClock) -> None:
    every_second = declare("t", replace(HOURLY, every_seconds=1.0))
    services.playbooks.register(with_triggers("a", every_second))
    for _ in range(3):
        clock.time += 1
        fire_due(store, clock.time)
    item = read_one(services)
    assert (len(item.planned), item.has_later) == (MAX_ENTRIES, True)
    services.playbooks.register(with_triggers("b", declare("t", HOURLY)))
    page = services.calendar.read(CalendarRequest())
    assert [len(item.planned) for item in page.items] == [MAX_ENTRIES // 2, 7 * 24]


def test_more_firings_than_a_page_has_are_left_out(
    services: TenantServices, store: MemoryStore, clock: TestClock
) -> None:
    services.playbooks.register(with_triggers("a", declare("t", replace(HOURLY, every_seconds=1.0))))
    for _ in range(MAX_STATUSES + 1):
        clock.time += 1
        fire_due(store, clock.time)
    firings = read_one(services).firings
    assert [firing.status for firing in firings] == ["queued"] * MAX_STATUSES + [None]
    for number in range(MAX_ENTRIES // 100):
        services.playbooks.register(with_triggers(f"p{number}", declare("u", HOURLY)))
    page = services.calendar.read(CalendarRequest(limit=20))
    first = page.items[0]
    assert (len(first.firings), first.has_earlier) == (MAX_ENTRIES // 20, True)
    (last,) = services.calendar.read(CalendarRequest(limit=20, cursor=page.next_cursor)).items
    assert (last.playbook, last.name) == ("p9", "u")


def test_pages_without_times_are_equal_within_an_hour(services: TenantServices, clock: TestClock) -> None:
    """Equal pages have one entity tag, so a client that has the page gets 304."""
    services.playbooks.register(with_triggers("a", declare("t", replace(HOURLY, every_seconds=DAY))))
    page = services.calendar.read(CalendarRequest())
    assert (page.since, page.until) == ("2001-09-02T02:00:00.000000Z", "2001-09-16T03:00:00.000000Z")
    clock.time += 3599
    assert services.calendar.read(CalendarRequest()) == page
    clock.time += 1
    assert services.calendar.read(CalendarRequest()).until == "2001-09-16T04:00:00.000000Z"


def test_a_time_is_at_most_45_days(services: TenantServices) -> None:
    services.playbooks.register(with_triggers("a", declare("t", HOURLY)))
    assert services.calendar.read(CalendarRequest("a", "none")).items == []
    for since, until, expected in (
        (0.0, 1e9, ("1970-01-01", "1970-02-15")),
        (-1e10, 0.0, ("1970-01-01", "1970-01-01")),
        (2e9, 1e9, ("2033-05-18", "2033-05-18")),
        (2.5e11, 2.6e11, ("8941-07-10", "8941-08-24")),
        (None, 1e9, ("2001-08-26", "2001-09-09")),
        (1e9, None, ("2001-09-09", "2001-09-23")),
        (None, None, ("2001-09-02", "2001-09-16")),
    ):
        page = services.calendar.read(CalendarRequest(since=since, until=until))
        assert (page.since[:10], page.until[:10]) == expected
