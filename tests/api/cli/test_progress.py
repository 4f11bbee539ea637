"""A run as it goes on, on a screen that can be redrawn and on one that cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from noetl.api.cli.display.event_follower import Followed
from noetl.api.cli.display.progress import Progress, lower_part
from noetl.api.cli.display.run_board import Board, Counts, countdown, duration, pace
from noetl.executor.engine.start import new_run
from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.run import Run

from tests.plays import Clock, compiled

NOW = 1_000_000.0


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW)


@pytest.fixture
def run() -> Run:
    plan = compiled("steps: [{name: a, run: [{action: log, message: hello}]}]")
    return new_run(plan.header, plan.hash, {}, now=NOW)[0]


class Told(Followed):
    """A run of which events tell, each of them at the time of a clock."""

    def __init__(self, run: Run, clock: Clock, depth: int = 0) -> None:
        super().__init__(run, depth)
        self.clock = clock
        self.untold: list[Event] = []

    def tell(self, type: str, step: str | None = "each", **payload: Any) -> None:
        options: Mapping[str, Any] = {
            name: payload.pop(name) for name in ("visit", "attempt") if name in payload
        }
        event = Event(type, self.clock(), step, **{"visit": 1, "attempt": 1, **options}, payload=payload)
        self.board.take(event)
        self.untold.append(event)

    def count(self, done: int, total: int, failed: int = 0, position: str = "run") -> None:
        self.tell("loop.progress", position=position, done=done, total=total, failed=failed)

    def lines(self, width: int = 80, most: int = 12) -> list[str]:
        return [line.plain for line in lower_part([self], self.clock(), width, most)]


@pytest.fixture
def told(run: Run, clock: Clock) -> Told:
    return Told(run, clock)


class TestLowerPart:
    def test_a_step_that_runs(self, told: Told, clock: Clock) -> None:
        told.tell("step.started")
        clock.pass_(2.5)
        assert told.lines() == ["▶ each  2.5 s"]
        clock.pass_(100)
        assert told.lines() == ["▶ each  1 m 42 s"]
        told.tell("step.completed")
        assert told.lines() == []

    def test_what_a_step_that_runs_for_long_is_doing(self, told: Told, clock: Clock) -> None:
        told.tell("action.started", "unknown", action="http", position="run.0")
        told.tell("step.started")
        clock.pass_(20)
        for position, action in (("run.0", "shell"), ("run.1", "http"), ("run.2", "shell")):
            told.tell("action.started", action=action, position=position)
        assert told.lines() == ["▶ each  20.0 s  shell  http"]
        told.tell("action.completed", action="shell", position="run.0")
        told.tell("action.failed", action="shell", position="run.2", error=None)
        assert told.lines() == ["▶ each  20.0 s  http"]
        told.tell("action.retrying", action="http", position="run.1", error=None, wait_seconds=1)
        assert told.lines() == ["▶ each  20.0 s"]
        told.tell("action.started", action="http", position="run.1")
        told.tell("step.waiting", actions=["http"], until=timestamp(NOW + 40))
        told.tell("step.started")
        assert told.lines() == ["▶ each  20.0 s"]

    def test_a_step_that_is_tried_again(self, told: Told, clock: Clock) -> None:
        told.tell("step.started")
        clock.pass_(5)
        told.tell("step.retrying", error=None, next_attempt_at=timestamp(NOW + 15))
        clock.pass_(2)
        assert told.lines() == ["↻ each  attempt 2 in 8 s"]
        clock.pass_(8)
        told.tell("step.started", attempt=2)
        clock.pass_(1)
        assert told.lines() == ["▶ each  1.0 s  attempt 2"]

    @pytest.mark.parametrize(
        ("actions", "seconds", "line"),
        [
            (["wait"], 90, "◷ each  goes on in 1 m 30 s"),
            ([], 9, "◷ each  next round in 9 s"),
            ([], None, "◷ each  waits"),
            (["callback"], None, "◷ each  waits for an answer"),
            (["callback"], 7300, "◷ each  waits for an answer, 2 h 1 m left"),
            (["workflow", "wait", "callback"], 5, "◷ each  waits for another run and an answer, 5 s left"),
            (["x"], None, "◷ each  waits for `x`"),
        ],
    )
    def test_a_step_that_waits(self, told: Told, actions: list[str], seconds: int | None, line: str) -> None:
        told.tell("step.started")
        until = None if seconds is None else timestamp(NOW + seconds)
        told.tell("step.waiting", actions=actions, until=until)
        assert told.lines() == [line]

    def test_an_action_that_is_to_be_tried_again(self, told: Told) -> None:
        until = timestamp(NOW + 30)
        told.tell("step.waiting", actions=[], retried=["http", "shell"], until=until)
        assert told.lines() == ["◷ each  tries `http` and `shell` again in 30 s"]
        told.tell("step.waiting", actions=["callback"], retried=["http"], until=until)
        assert told.lines() == ["◷ each  waits for an answer, 30 s left"]

    def test_a_time_that_is_over_is_not_counted_on(self, told: Told, clock: Clock) -> None:
        told.tell("step.waiting", actions=["wait"], until=timestamp(NOW + 1))
        clock.pass_(5)
        assert told.lines() == ["◷ each  goes on in 0 s"]

    def test_a_loop(self, told: Told, clock: Clock) -> None:
        told.tell("step.started")
        for done in (100, 200, 300):
            clock.pass_(2)
            told.count(done, 1200, failed=3)
        assert told.lines() == ["▶ each  █████░░░░░░░░░░░░░░░ 300 of 1,200, 3 failed  50/s"]
        assert told.lines(width=50) == ["▶ each  ██░░░░░░░░ 300 of 1,200, 3 failed  50/s"]
        clock.pass_(1)
        told.count(5, 10, position="run.1")
        assert told.lines() == ["▶ each  ██████████░░░░░░░░░░ 5 of 10  42.9/min"]

    def test_the_pace_is_that_of_lately(self, told: Told, clock: Clock) -> None:
        told.tell("step.started")
        for index in range(1, 20):
            clock.pass_(1 if index < 10 else 10)
            told.count(index * 100, 5000)
        assert told.lines()[0].endswith("10/s")

    def test_time_in_which_nobody_was_at_work_does_not_count(self, told: Told, clock: Clock) -> None:
        told.tell("step.started")
        told.count(100, 400)
        clock.pass_(3600)
        told.board.begin_anew(clock())
        told.count(200, 400)
        assert told.lines() == ["▶ each  ██████████░░░░░░░░░░ 200 of 400"]
        clock.pass_(2)
        told.count(300, 400)
        assert told.lines() == ["▶ each  ███████████████░░░░░ 300 of 400  50/s"]

    def test_what_is_begun_anew_begins_then(self, told: Told, clock: Clock) -> None:
        told.tell("step.started", "a")
        told.tell("step.waiting", "b", actions=["wait"], until=timestamp(NOW + 3610))
        clock.pass_(3600)
        told.board.begin_anew(clock())
        clock.pass_(2)
        assert told.lines() == ["▶ a  2.0 s", "◷ b  goes on in 8 s"]

    def test_there_is_room_for_what_a_terminal_adds(
        self, told: Told, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "20")
        told.tell("step.started", "a" * 30)
        (line,) = Progress([told], clock=clock)._lower_part().renderables
        assert line.plain == "▶ " + "a" * 15 + "…"

    def test_what_runs_stands_first_and_the_rest_is_counted(self, told: Told) -> None:
        told.tell("step.waiting", "a", actions=["callback"], until=None)
        told.tell("step.started", "b")
        told.tell("step.retrying", "c", error=None, next_attempt_at=timestamp(NOW + 1))
        told.tell("step.started", "d")
        told.tell("step.started", "@end")
        assert [line[:3] for line in told.lines()] == ["▶ b", "▶ d", "↻ c", "◷ a"]
        assert told.lines(most=4) == told.lines()
        assert told.lines(most=3) == ["▶ b  0.0 s", "▶ d  0.0 s", "  and 2 more"]

    def test_no_line_is_wider_than_the_screen(self, told: Told) -> None:
        told.tell("step.waiting", "the name of a step that is long", actions=["callback"], until=None)
        assert told.lines(width=20) == ["◷ the name of a ste…"]

    def test_names_that_a_terminal_would_obey(self, told: Told) -> None:
        told.tell("step.started", "a\x1b[2J")
        assert told.lines() == ["▶ a␛[2J  0.0 s"]

    def test_runs_that_were_started_stand_below(self, told: Told, run: Run, clock: Clock) -> None:
        told.tell("step.waiting", actions=["workflow"], until=None)
        child, grandchild = (
            Told(replace(run, playbook=name), clock, depth) for depth, name in ((1, "b"), (2, "c"))
        )
        told.started.append(child)
        child.started.append(grandchild)
        child.tell("step.waiting", "nap", actions=["wait"], until=timestamp(NOW + 3))
        grandchild.tell("step.started", "work")
        assert told.lines() == [
            "◷ each  waits for another run",
            "  ◷ b: nap  goes on in 3 s",
            "    ▶ c: work  0.0 s",
        ]

    @pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "timed_out"])
    def test_nothing_is_at_work_behind_the_end(self, told: Told, end: str) -> None:
        told.tell("step.started")
        told.tell("step.waiting", "other", actions=["callback"], until=None)
        told.tell(f"workflow.{end}", None)
        assert (told.lines(), told.board.has_ended) == ([], True)
        told.tell("workflow.resumed", None)
        assert not told.board.has_ended


class TestLines:
    @pytest.fixture
    def progress(self, told: Told, clock: Clock) -> Iterator[Progress]:
        with Progress([told], clock=clock) as progress:
            yield progress

    @pytest.fixture
    def said(self, told: Told, progress: Progress, capsys: pytest.CaptureFixture[str]) -> Any:
        def said() -> list[str]:
            progress.show([(told, event) for event in told.untold])
            told.untold.clear()
            return capsys.readouterr().err.splitlines()

        return said

    def test_counts_are_told_now_and_then(self, told: Told, clock: Clock, said: Any) -> None:
        told.tell("step.started")
        lines = []
        for done, at in ((1000, 0.0), (2000, 1.0), (3000, 2.0), (3500, 3.0)):
            clock.now = NOW + at
            told.count(done, 4000, failed=3)
            lines += said()
        assert lines == ["… each  ███████████████░░░░░ 3,000 of 4,000, 3 failed  1,500/s"]
        told.count(4000, 4000, failed=3)
        told.tell("step.completed")
        assert said() == ["✓ each  4,000 items, 3 failed"]

    def test_a_loop_that_was_left(self, told: Told, said: Any) -> None:
        told.tell("step.started")
        told.count(3, 4000, failed=1)
        told.tell("step.failed", error={"type": "Broken", "message": "so\x1b it is"})
        assert said() == ["✗ each  3 of 4,000 items, 1 failed  Broken: so␛ it is"]

    def test_a_slow_step_says_so_once(self, told: Told, clock: Clock, said: Any) -> None:
        told.tell("step.started")
        assert said() == []
        clock.pass_(2)
        assert said() == ["… each is running"]
        clock.pass_(2)
        assert said() == []

    def test_a_wait_is_told_once(self, told: Told, said: Any) -> None:
        for _ in range(3):
            told.tell("step.started")
            told.tell("step.waiting", actions=[], until=timestamp(NOW + 5))
        assert said() == ["◷ each  waits until 1970-01-12T13:46:45Z"]
        told.tell("step.waiting", "ask", actions=["callback"], until=None)
        assert said() == ["◷ ask  waits for an answer"]

    def test_how_often_actions_were_tried_again(self, told: Told, said: Any) -> None:
        told.tell("action.retrying", wait_seconds=1)
        told.tell("action.retrying", wait_seconds=1)
        told.tell("step.transition", targets=["next", "other"])
        told.tell("step.completed")
        assert said() == ["✓ each  2 retries  → next, other"]

    def test_when_a_step_is_tried_again(self, told: Told, said: Any) -> None:
        error = {"type": "Busy", "message": "come back"}
        told.tell("step.retrying", error=error, next_attempt_at=timestamp(NOW + 2.5))
        assert said() == ["↻ each  Busy: come back; again in 2.5 s"]

    def test_runs_that_were_started(
        self, told: Told, progress: Progress, run: Run, clock: Clock, capsys: Any
    ) -> None:
        child = Told(replace(run, playbook="child"), clock, 1)
        child.tell("workflow.started", None)
        child.tell("step.completed", "work")
        child.tell("workflow.completed", None, status="completed_with_errors")
        progress.show([(child, event) for event in child.untold])
        told.tell("workflow.completed", None, status="succeeded")
        progress.show([(told, event) for event in told.untold])
        assert capsys.readouterr().err.splitlines() == [
            "  ✓ child: work",
            f"  ✗ child  completed_with_errors  0 ms  run {run.id}",
        ]

    def test_quietly_nothing_is_shown(
        self, told: Told, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with Progress([told], quiet=True, clock=clock) as progress:
            told.tell("step.completed")
            progress.show([(told, event) for event in told.untold])
        assert capsys.readouterr().err == ""


def test_a_loop_of_nothing() -> None:
    assert Counts().shown() == "░░░░░░░░░░░░░░░░░░░░ 0 of 0"


def test_a_count_of_a_step_that_is_not_known(clock: Clock) -> None:
    board = Board()
    payload = {"position": "run", "done": 1, "total": 2, "failed": 0}
    board.take(Event("loop.progress", NOW, "each", 1, 1, payload=payload))
    assert board.doing() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12 ms"), (3.44, "3.4 s"), (312, "5 m 12 s"), (7380, "2 h 3 m"), (273_600, "3 d 4 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 m 0 s")])
def test_countdowns(seconds: float, text: str) -> None:
    assert countdown(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1,234/s"), (3.44, "3.4/s"), (0.2, "12.0/min")])
def test_paces(rate: float, text: str) -> None:
    assert pace(rate) == text
