"""The clock of DynamoDB, by the header `Date` of its answers."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest

from noetl.executor.errors import StoreError
from noetl.executor.stores.dynamo.date_clock import DateClock


class Machine:
    """A timer, a local clock, and a server whose clock shows `server` seconds at timer 0."""

    def __init__(self, server: float, local: float) -> None:
        self.server = server
        self.local = local
        self.now = 0.0
        self.requests = 0
        self.is_away = False
        self.clock = DateClock(self.read, lambda: self.local + self.now, lambda: self.now)

    def answer(self) -> dict[str, Any]:
        if self.is_away:
            raise StoreError("away")
        self.now += 0.25
        date = formatdate(self.server + self.now, usegmt=True)
        self.now += 0.25
        return {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}

    def read(self) -> object:
        self.requests += 1
        return self.clock.observe(self.answer)

    @property
    def error(self) -> float:
        """Seconds by which the clock is ahead of the server."""
        return self.clock() - self.server - self.now


@pytest.mark.parametrize("difference", [-3600.0, -35.0, 0.0, 0.4, 31.0, 3600.0])
def test_the_time_is_that_of_the_server(difference: float) -> None:
    machine = Machine(1e9, 1e9 + difference)
    assert machine.error == pytest.approx(difference)
    for _ in range(3):
        machine.clock.observe(machine.answer)
    assert abs(machine.error) <= 1.5
    assert machine.requests == 0


def test_a_clock_that_is_right_stays_as_it_is() -> None:
    machine = Machine(1e9, 1e9)
    for _ in range(100):
        machine.now += 0.37
        machine.clock.observe(machine.answer)
        assert machine.error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_local_clock_that_is_set_makes_one_request(jump: float) -> None:
    machine = Machine(1e9, 1e9)
    machine.clock.observe(machine.answer)
    machine.local += jump
    assert abs(machine.error) <= 1.5
    assert machine.clock() == pytest.approx(machine.clock())
    assert machine.requests == 1


def test_a_machine_that_was_frozen_reads_the_time() -> None:
    """The timer has stood still meanwhile, and the local clock has been set to the right time."""
    machine = Machine(1e9, 1e9)
    machine.clock.observe(machine.answer)
    machine.server += 500.0
    machine.local += 500.0
    assert abs(machine.error) <= 1.5


def test_while_the_server_is_away_the_last_answer_counts() -> None:
    machine = Machine(1e9, 1e9)
    machine.clock.observe(machine.answer)
    machine.is_away = True
    machine.local += 3600.0
    assert abs(machine.error) <= 1.5


@pytest.mark.parametrize("headers", [{}, {"date": "yesterday"}])
def test_an_answer_without_a_date_teaches_nothing(headers: dict[str, str]) -> None:
    machine = Machine(1e9, 1e9 + 5.0)
    machine.clock.observe(lambda: {"ResponseMetadata": {"HTTPHeaders": headers}})
    assert machine.error == pytest.approx(5.0)
