"""Evaluations that are stopped from outside: at their next charge, or else by the watchdog."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from noetl.planner.templates import budget, watchdog
from noetl.planner.templates.template import EvaluationError, parse_template, stop_when

ENDLESS = "{% for a in range(1000000) %}{% for b in range(1000000) %}{% endfor %}{% endfor %}"


class StoppedError(Exception):
    """The reason of the tests for which an evaluation stops."""


def run_for(seconds: float) -> str:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        pass
    return "x"


def spin() -> None:
    """Run for ever without a charge, as an operation would whose cost was forgotten."""
    while True:
        pass


@pytest.fixture
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "BUDGET", 10**18)
    monkeypatch.setattr(budget, "CPU_SECONDS", 3600.0)


def stop_after(count: int) -> Callable[[], Exception | None]:
    """Return a condition that is true from its call number `count` on."""
    calls = iter(range(10**9))
    return lambda: StoppedError("stop") if next(calls) >= count else None


def evaluate(text: str) -> Any:
    return parse_template(text).evaluate({"now": spin}.__getitem__)


@pytest.mark.usefixtures("no_limits")
@pytest.mark.parametrize(
    "text",
    [
        ENDLESS,
        "{% for a in range(1000000) %}{% for b in range(1000) %}{{ 'x' in 'y' }}{% endfor %}{% endfor %}",
        "{% for a in range(1000000) %}{% set x = range(1000) | map('string') | list %}{% endfor %}",
        "{% for a in range(1000000) %}{% set x = 'a' * 1000 %}{% endfor %}",
        "{% for a in range(1000000) %}{% set x = 'aXbX' | regex_replace('X', 'y') %}{% endfor %}",
    ],
)
def test_an_evaluation_stops_at_its_next_charge(text: str) -> None:
    with stop_when(stop_after(10)), pytest.raises(StoppedError):
        evaluate(text)
    assert evaluate("{{ range(3) | list }}") == [0, 1, 2]


def test_the_work_until_a_stop_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU_SECONDS", 3600.0)
    with stop_when(lambda: StoppedError("at once")), pytest.raises(StoppedError):
        evaluate(ENDLESS.replace("1000000", "1000"))
    assert 0 < budget.used_units() < 2 * budget.UNITS_PER_CHECK


def test_conditions_of_enclosing_blocks_count() -> None:
    with stop_when(stop_after(0)), stop_when(lambda: None), pytest.raises(StoppedError):
        evaluate("{{ range(1000) | list }}")
    evaluate("{{ range(1000) | list }}")


def test_work_that_never_charges_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU_SECONDS", 3600.0)
    stopped = threading.Event()
    timer = threading.Timer(0.05, stopped.set)
    timer.start()
    is_stopped = stop_when(lambda: StoppedError("stop") if stopped.is_set() else None)
    with is_stopped, pytest.raises(StoppedError, match="stop"):
        evaluate("{{ now() }}")
    timer.join()


def test_work_that_never_charges_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "CPU_SECONDS", 0.05)
    with pytest.raises(EvaluationError, match=r"takes more than 0\.05 s") as caught:
        evaluate("{{ now() }}")
    assert caught.value.type == "LimitExceeded"


def test_an_interruption_that_python_drops_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops an exception that arrives in a callback of the garbage collector, and reports it."""
    monkeypatch.setattr(budget, "CPU_SECONDS", 0.05)
    dropped: list[BaseException] = []

    def run_a_callback() -> None:
        ends_at = time.monotonic() + 10.0
        try:
            run_for(10.0)
        except watchdog.Interrupted as interruption:
            dropped.append(interruption)
        run_for(ends_at - time.monotonic())

    with pytest.raises(EvaluationError, match="takes more than"):
        parse_template("{{ now() }}").evaluate({"now": run_a_callback}.__getitem__)
    assert len(dropped) == 1
    evaluate("{{ range(3) | list }}")


def test_nothing_arrives_after_the_end_of_an_evaluation() -> None:
    """Evaluations end at about the time at which the watchdog would interrupt them."""
    chance = random.Random(1)
    outcomes = {"ended": 0, "stopped": 0}

    def evaluate_often() -> None:
        for _ in range(12):
            stops_at = time.monotonic() + 0.01
            names = {"now": partial(run_for, 0.06 + 0.08 * chance.random())}
            reason = StoppedError("late")
            with stop_when(lambda: reason if time.monotonic() > stops_at else None):  # noqa: B023
                try:
                    parse_template("{{ now() }}").evaluate(names.__getitem__)
                    outcomes["ended"] += 1
                except StoppedError:
                    outcomes["stopped"] += 1
            for _ in range(20_000):
                pass
        finished.append(True)

    finished: list[bool] = []
    threads = [threading.Thread(target=evaluate_often) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == len(threads)
    assert sum(outcomes.values()) == 12 * len(threads)
    assert outcomes["stopped"] > 0


def evaluation_without_clock(started_at: float) -> watchdog._Evaluation:
    """Return an evaluation of this thread on a system that has no clock for each thread."""
    return watchdog._Evaluation(threading.get_ident(), None, 0.0, lambda: None, started_at)


def test_without_a_clock_for_each_thread_the_wall_clock_decides() -> None:
    assert not evaluation_without_clock(time.monotonic()).must_be_interrupted()
    assert evaluation_without_clock(time.monotonic() - 1000.0).must_be_interrupted()


def test_an_evaluation_that_has_finished_is_not_interrupted() -> None:
    evaluation = evaluation_without_clock(time.monotonic())
    evaluation.finish()
    evaluation.interrupt()


def test_an_evaluation_whose_thread_has_ended_is_not_interrupted() -> None:
    evaluation = watchdog._Evaluation(0, 2**30, 0.0, lambda: None, 0.0)
    assert not evaluation.must_be_interrupted()


def test_an_evaluation_waits_for_its_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_DELIVERY_SECONDS", 0.02)
    evaluation = evaluation_without_clock(time.monotonic())
    evaluation.right.clear()  # as if the watchdog were about to interrupt it
    evaluation.finish()
    assert evaluation.right == []
