"""The loop that delivers notifications: its fairness with many channels, tenants and processes.

Receivers take simulated time, so an hour of deliveries takes a second, and each test has one thread.
"""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

import pytest

from noetl.executor.engine.delivery import Courier
from noetl.executor.errors import StoreAwayError
from noetl.executor.model.deliveries import LEASE_SECONDS
from noetl.executor.model.outbox import NotificationSearch, OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.runtime import notification_loop
from noetl.executor.runtime.channel_attempts import Place
from noetl.executor.runtime.notification_loop import POLL_SECONDS, NotificationLoop
from tests.post_office import START, PostOffice, id_of, replace_time

LOST_SECONDS = 0.003
"""How long an attempt takes whose notification another process has begun."""


class Simulation:
    """Processes that deliver notifications of one store, in simulated time.

    `seconds_of` returns how long the receiver of a channel takes, or None if the store fails for it.

    Attributes:
        begun: the time and the channel of each attempt that has not lost its notification.
        sent: the ids of notifications that were delivered.
        lost: how many attempts have found that another process has begun.
        reads: when due notifications were read.
    """

    def __init__(
        self, patches: pytest.MonkeyPatch, seconds_of: Callable[[Place], float | None], processes: int = 1
    ) -> None:
        self.post = PostOffice()
        self.begun = list[tuple[float, Place]]()
        self.sent = list[str]()
        self.lost = 0
        self.reads = list[float]()
        self._seconds_of = seconds_of
        self._now = [0.0]
        self._events = list[tuple[float, int, Callable[[], None]]]()
        self._numbers = count()
        replace_time(patches, self._now)
        find = self.post.store.outbox.due_notifications

        def find_counted(search: NotificationSearch) -> list[OutboxEntry]:
            self.reads.append(self._now[0])
            return find(search)  # type: ignore[no-any-return]

        self.post.store.outbox.due_notifications = find_counted
        for number in range(processes):
            senders: Any = SimulatedProcess(self)
            self.schedule(number / 100, senders.poll)

    def add(self, tenant: str, channel: str, numbers: Iterable[int]) -> None:
        """Add notifications of a channel, which are due in the order of their numbers."""
        for number in numbers:
            id, due_at = id_of(f"{number}", channel, tenant), START - 1e6 + number
            entry = OutboxEntry(id, tenant, OutboxKind.NOTIFICATION, START, due_at, {"channel": channel})
            assert self.post.store.outbox.add(entry)

    def schedule(self, seconds: float, action: Callable[[], None]) -> None:
        """Perform an action after some seconds."""
        heapq.heappush(self._events, (self._now[0] + seconds, next(self._numbers), action))

    def run(self, until: float) -> Counter[Place]:
        """Deliver until a time. Return how many attempts of each channel have begun."""
        while self._events and self._events[0][0] <= until:
            self._now[0], _, action = heapq.heappop(self._events)
            self.post.clock.now = START + self._now[0]
            action()
        return Counter(place for _, place in self.begun)

    def begin(self, entry: OutboxEntry, place: Place) -> tuple[float, Callable[[], bool]]:
        """Begin an attempt. Return how long it takes, and what performs its end."""
        outbox, seconds = self.post.store.outbox, self._seconds_of(place)
        if seconds is None:
            return LOST_SECONDS, fail
        leased = postpone_entry(entry, self.post.clock.now + LEASE_SECONDS)
        if not outbox.change(entry, leased):
            self.lost += 1
            return LOST_SECONDS, lambda: False
        self.begun.append((self._now[0], place))

        def end() -> bool:
            self.sent.append(entry.tenant + entry.id)
            return outbox.change(leased, None)  # type: ignore[no-any-return]

        return seconds, end


def fail() -> bool:
    raise StoreAwayError("no answer")


class SimulatedProcess:
    """A process with a loop. It takes the place of the executor that has the threads of the loop."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._polls = 0
        ends = self._ends = dict[tuple[str, str], Callable[[], bool]]()

        class Receivers(Courier):
            """A courier whose attempts end when it is called."""

            def deliver(self, entry: OutboxEntry, now: float) -> bool:
                return ends.pop((entry.tenant, entry.id))()

        post = simulation.post
        self._loop = NotificationLoop(Receivers(post.store, post.courier.sender), threading.Event())

    def poll(self) -> None:
        """Begin due notifications, and poll again after POLL_SECONDS or at the end of an attempt."""
        senders: Any = self
        self._loop.start_due(senders)
        self._polls += 1
        number = self._polls
        self._simulation.schedule(POLL_SECONDS, lambda: self.poll() if number == self._polls else None)

    def submit(self, deliver: Callable[[OutboxEntry, Place], None], entry: OutboxEntry, place: Place) -> None:
        seconds, self._ends[entry.tenant, entry.id] = self._simulation.begin(entry, place)

        def end() -> None:
            deliver(entry, place)
            self.poll()

        self._simulation.schedule(seconds, end)


def test_channels_of_a_tenant_alternate_although_another_one_begins_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each notification of the other tenant began a new round of all channels."""
    simulation = Simulation(monkeypatch, lambda place: 0.9 if place[0] == "many" else 0.1)
    for number in range(40):
        simulation.add("many", f"c{number}", range(100 * number, 100 * number + 20))
    simulation.add("often", "ops", range(10_000, 10_400))
    begins = simulation.run(until=30.0)
    counts = [begins["many", f"c{number}"] for number in range(40)]
    assert (min(counts), max(counts)) == (3, 4)
    assert begins["often", "ops"] > 250


def test_a_thousand_channels_begin_one_before_any_begins_its_next(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(monkeypatch, lambda _: 0.05)
    for number in range(1000):
        simulation.add(f"t{number % 9}", f"c{number}", range(10 * number, 10 * number + 3))
    begins = simulation.run(until=7.0)
    assert len(begins) == 1000
    assert len({place for _, place in simulation.begun[:950]}) >= 945
    assert max(begins.values()) == 2


@pytest.mark.parametrize("tenants", [1, 40])
def test_channels_that_a_query_does_not_find_begin_later(
    monkeypatch: pytest.MonkeyPatch, tenants: int
) -> None:
    monkeypatch.setattr(notification_loop, "MAX_DUE", 20)
    simulation = Simulation(monkeypatch, lambda _: 0.2)
    for number in range(50):
        simulation.add(f"t{number % tenants}", f"c{number}", range(100 * number, 100 * number + 4))
    begins = simulation.run(until=15.0)
    assert begins == {(f"t{number % tenants}", f"c{number}"): 4 for number in range(50)}


def test_a_quick_channel_does_not_wait_for_slow_ones_of_its_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(monkeypatch, lambda place: 0.02 if place[1] == "quick" else 0.3)
    for name in ("a", "b", "c", "quick"):
        simulation.add("default", name, range(2000))
    begins = simulation.run(until=20.0)
    assert begins["default", "quick"] > 900
    assert begins["default", "a"] > 60


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.09, 0.11, 0.3, 0.9, 15.0, None])
def test_a_channel_with_more_due_than_a_query_examines_hides_no_other_one(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None
) -> None:
    # It is quick or slow, hangs, or is in a pause because the store fails for it.
    monkeypatch.setattr(notification_loop, "MAX_EXAMINED", 50)
    simulation = Simulation(monkeypatch, lambda place: seconds if place[1] == "ops" else 0.05)
    simulation.add("default", "ops", range(500))
    for tenant, channel in (("default", "audit"), ("other", "ops "), ("other", "é'\"%;\x7f")):
        simulation.add(tenant, channel, range(1000, 1005))
    begins = simulation.run(until=8.0)
    assert len(simulation.sent) >= 15
    assert {place: number for place, number in begins.items() if place != ("default", "ops")} == {
        ("default", "audit"): 5,
        ("other", "ops "): 5,
        ("other", "é'\"%;\x7f"): 5,
    }


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("tenants", [1, 7])
@pytest.mark.parametrize(("seconds", "until"), [(0.01, 2.0), (0.11, 5.0), (0.9, 12.0)])
def test_crowded_channels_hide_neither_each_other_nor_quiet_ones(
    monkeypatch: pytest.MonkeyPatch, seconds: float, until: float, tenants: int, processes: int
) -> None:
    monkeypatch.setattr(notification_loop, "MAX_EXAMINED", 50)
    simulation = Simulation(
        monkeypatch, lambda place: seconds if place[1].startswith("crowded") else 0.05, processes
    )
    for number in range(7):
        simulation.add(f"t{number % tenants}", f"crowded{number}", range(500 * number, 500 * number + 500))
    for number in range(3):
        simulation.add(f"t{number % tenants}", f"quiet{number}", range(30_000, 30_005))
    begins = simulation.run(until)
    assert [begins[f"t{number % tenants}", f"quiet{number}"] for number in range(3)] == [5] * 3
    crowded = [begins[f"t{number % tenants}", f"crowded{number}"] for number in range(7)]
    assert min(crowded) > 0


@pytest.mark.parametrize("distance", [0, 300])
def test_more_crowded_channels_than_a_fill_finds_hide_no_other_one(
    monkeypatch: pytest.MonkeyPatch, distance: int
) -> None:
    # Their notifications are due at the same times, or each channel after the other.
    for name, number in (("MAX_EXAMINED", 250), ("MAX_DUE", 100)):
        monkeypatch.setattr(notification_loop, name, number)
    simulation = Simulation(monkeypatch, lambda _: 0.05)
    for number in range(30):
        simulation.add("default", f"crowded{number}", range(distance * number, distance * number + 300))
    for tenant in ("default", "other"):
        simulation.add(tenant, "quiet", range(90_000, 90_005))
    begins = simulation.run(until=15.0)
    assert begins["default", "quiet"] == begins["other", "quiet"] == 5
    assert min(begins["default", f"crowded{number}"] for number in range(30)) >= 10


def test_a_tenant_with_more_due_than_a_query_examines_hides_no_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notification_loop, "MAX_EXAMINED", 50)
    simulation = Simulation(monkeypatch, lambda place: 0.9 if place[0] == "many" else 0.05)
    for number in range(100):
        simulation.add("many", f"c{number}", range(10 * number, 10 * number + 10))
    simulation.add("other", "ops", range(5000, 5005))
    assert simulation.run(until=5.0)["other", "ops"] == 5


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_send_each_notification_once(
    monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    simulation = Simulation(monkeypatch, lambda _: 0.2, processes)
    for number in range(30):
        simulation.add(f"t{number % 2}", f"c{number}", range(number, number + 8))
    begins = simulation.run(until=60.0)
    assert set(begins.values()) == {8}
    assert Counter(simulation.sent).most_common(1)[0][1] == 1
    assert len(simulation.sent) == 240
    assert max(begun_at for begun_at, _ in simulation.begun) < (8.0 if processes == 2 else 5.0)


@pytest.mark.parametrize("channels", [1, 5, 30])
def test_four_processes_seldom_try_what_another_one_sends(
    monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    simulation = Simulation(monkeypatch, lambda _: 0.05, processes=4)
    for number in range(channels):
        simulation.add(f"t{number % 2}", f"c{number}", range(number, number + 60))
    simulation.run(until=60.0)
    assert len(simulation.sent) == 60 * channels
    # Without random starts, it was lost twice as often as sent.
    assert simulation.lost < 0.8 * len(simulation.sent)


def test_a_process_reads_once_a_second_and_after_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(monkeypatch, lambda _: 0.05)
    assert simulation.run(until=5.5) == {}
    assert simulation.reads == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    simulation.add("default", "ops", range(100))
    assert simulation.run(until=15.5)["default", "ops"] == 100
    # Two reads for each MAX_DUE_OF_CHANNEL: one leaves the channel out. And one in each second.
    assert len(simulation.reads) <= 6 + 2 * 10 + 10


@pytest.mark.parametrize("seconds", [0.01, 0.05])
def test_a_lone_channel_does_not_wait_for_its_next_read(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    simulation = Simulation(monkeypatch, lambda _: seconds)
    simulation.add("default", "ops", range(200))
    simulation.run(until=20.0)
    assert len(simulation.sent) == 200
    assert max(begun_at for begun_at, _ in simulation.begun) == pytest.approx(199 * seconds)


def test_ends_of_attempts_cause_few_reads_that_find_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a read may examine all due notifications of the channels that it leaves out."""
    simulation = Simulation(monkeypatch, lambda place: 0.3 + int(place[1][1:]) / 1000)
    for number in range(4):
        simulation.add("default", f"c{number}", range(5))
        simulation.add("other", f"c{number}", range(1))
    simulation.run(until=1.5)
    assert len(simulation.reads) <= 4


def test_receivers_that_hang_leave_places_to_others_of_their_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    simulation = Simulation(monkeypatch, lambda place: 15.0 if place[1].startswith("dead") else 0.05)
    for number in range(60):
        simulation.add("default", f"dead{number}", range(20))
    for number in range(5):
        simulation.add("default", f"quick{number}", range(5000, 5040))
    begins = simulation.run(until=60.0)
    assert [begins["default", f"quick{number}"] for number in range(5)] == [40] * 5
    assert max(begun_at for begun_at, place in simulation.begun if place[1].startswith("quick")) < 45.0
