"""Progress of a run, on a terminal that can be redrawn and on one that cannot."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Group
from rich.text import Text

from noetl.api.cli.display.event_follower import FollowedRun
from noetl.api.cli.display.progress import ProgressDisplay, active_lines
from noetl.api.cli.display.run_board import (
    LoopCounter,
    RunBoard,
    format_countdown,
    format_duration,
    format_rate,
)
from noetl.executor.engine.start import new_run
from noetl.executor.model.events import Event, timestamp
from noetl.executor.model.run import Run
from noetl.executor.model.run_summary import summarize
from noetl.executor.model.start_request import StartRequest
from noetl.testing.run_harness import FakeClock, compile_text

NOW = 1_000_000.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def run() -> Run:
    plan = compile_text("steps: [{name: a, run: [{action: log, message: hello}]}]")
    return new_run(plan.header, plan.hash, StartRequest(), now=NOW)[0]


class RecordedRun(FollowedRun):
    """A followed run whose events a test records, at the time of its clock."""

    def __init__(self, run: Run, clock: FakeClock, depth: int = 0) -> None:
        super().__init__(summarize(run), depth)
        self.clock = clock
        self.unshown: list[Event] = []

    def record(self, type: str, step: str | None = "each", **payload: Any) -> None:
        options: Mapping[str, Any] = {
            name: payload.pop(name) for name in ("visit", "attempt") if name in payload
        }
        event = Event(type, self.clock(), step, **{"visit": 1, "attempt": 1, **options}, payload=payload)
        self.board.apply(event)
        self.unshown.append(event)

    def count(self, done: int, total: int, failed: int = 0, position: str = "run") -> None:
        self.record("loop.progress", position=position, done=done, total=total, failed=failed)

    def lines(self, width: int = 80, max_lines: int = 12) -> list[str]:
        return [line.plain for line in active_lines([self], self.clock(), width, max_lines)]


@pytest.fixture
def recorded(run: Run, clock: FakeClock) -> RecordedRun:
    return RecordedRun(run, clock)


class TestActiveLines:
    def test_a_running_step_shows_its_duration(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("step.started")
        clock.advance(2.5)
        assert recorded.lines() == ["▶ each  2.5 s"]
        clock.advance(100)
        assert recorded.lines() == ["▶ each  1 m 42 s"]
        recorded.record("step.completed")
        assert recorded.lines() == []

    def test_a_running_step_shows_its_running_actions(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("action.started", "unknown", action="http", position="run.0")
        recorded.record("step.started")
        clock.advance(20)
        for position, action in (("run.0", "shell"), ("run.1", "http"), ("run.2", "shell")):
            recorded.record("action.started", action=action, position=position)
        assert recorded.lines() == ["▶ each  20.0 s  shell  http"]
        recorded.record("action.completed", action="shell", position="run.0")
        recorded.record("action.failed", action="shell", position="run.2", error=None)
        assert recorded.lines() == ["▶ each  20.0 s  http"]
        recorded.record("action.retrying", action="http", position="run.1", error=None, wait_seconds=1)
        assert recorded.lines() == ["▶ each  20.0 s"]
        recorded.record("action.started", action="http", position="run.1")
        recorded.record("step.waiting", actions=["http"], until=timestamp(NOW + 40))
        recorded.record("step.started")
        assert recorded.lines() == ["▶ each  20.0 s"]

    def test_a_retrying_step_shows_the_next_attempt(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("step.started")
        clock.advance(5)
        recorded.record("step.retrying", error=None, next_attempt_at=timestamp(NOW + 15))
        clock.advance(2)
        assert recorded.lines() == ["↻ each  attempt 2 in 8 s"]
        clock.advance(8)
        recorded.record("step.started", attempt=2)
        clock.advance(1)
        assert recorded.lines() == ["▶ each  1.0 s  attempt 2"]

    @pytest.mark.parametrize(
        ("actions", "seconds", "line"),
        [
            (["wait"], 90, "◷ each  continues in 1 m 30 s"),
            ([], 9, "◷ each  next round in 9 s"),
            ([], None, "◷ each  waits"),
            (["callback"], None, "◷ each  waits for an answer"),
            (["callback"], 7300, "◷ each  waits for an answer, 2 h 1 m left"),
            (["workflow", "wait", "callback"], 5, "◷ each  waits for another run and an answer, 5 s left"),
            (["x"], None, "◷ each  waits for `x`"),
        ],
    )
    def test_a_waiting_step_shows_what_it_waits_for(
        self, recorded: RecordedRun, actions: list[str], seconds: int | None, line: str
    ) -> None:
        recorded.record("step.started")
        until = None if seconds is None else timestamp(NOW + seconds)
        recorded.record("step.waiting", actions=actions, until=until)
        assert recorded.lines() == [line]

    def test_a_retrying_action_is_shown(self, recorded: RecordedRun) -> None:
        until = timestamp(NOW + 30)
        recorded.record("step.waiting", actions=[], retried=["http", "shell"], until=until)
        assert recorded.lines() == ["◷ each  retries `http` and `shell` in 30 s"]
        recorded.record("step.waiting", actions=["callback"], retried=["http"], until=until)
        assert recorded.lines() == ["◷ each  waits for an answer, 30 s left"]

    def test_a_question_to_a_person_is_shown(self, recorded: RecordedRun) -> None:
        recorded.record("step.waiting", actions=["callback"], until=timestamp(NOW + 30), titles=["Pay\x1b?"])
        assert recorded.lines() == ["◷ each  waits for an answer, 30 s left: Pay␛?"]

    def test_a_countdown_ends_at_zero(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("step.waiting", actions=["wait"], until=timestamp(NOW + 1))
        clock.advance(5)
        assert recorded.lines() == ["◷ each  continues in 0 s"]

    def test_a_loop_shows_its_progress(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("step.started")
        for done in (100, 200, 300):
            clock.advance(2)
            recorded.count(done, 1200, failed=3)
        assert recorded.lines() == ["▶ each  █████░░░░░░░░░░░░░░░ 300 of 1,200, 3 failed  50/s"]
        assert recorded.lines(width=50) == ["▶ each  ██░░░░░░░░ 300 of 1,200, 3 failed  50/s"]
        clock.advance(1)
        recorded.count(5, 10, position="run.1")
        assert recorded.lines() == ["▶ each  ██████████░░░░░░░░░░ 5 of 10  42.9/min"]

    def test_the_rate_is_that_of_the_latest_samples(self, recorded: RecordedRun, clock: FakeClock) -> None:
        recorded.record("step.started")
        for index in range(1, 20):
            clock.advance(1 if index < 10 else 10)
            recorded.count(index * 100, 5000)
        assert recorded.lines()[0].endswith("10/s")

    def test_the_rate_excludes_the_time_before_a_resume(
        self, recorded: RecordedRun, clock: FakeClock
    ) -> None:
        recorded.record("step.started")
        recorded.count(100, 400)
        clock.advance(3600)
        recorded.board.restart_clocks(clock())
        recorded.count(200, 400)
        assert recorded.lines() == ["▶ each  ██████████░░░░░░░░░░ 200 of 400"]
        clock.advance(2)
        recorded.count(300, 400)
        assert recorded.lines() == ["▶ each  ███████████████░░░░░ 300 of 400  50/s"]

    def test_a_running_step_is_measured_from_the_resume(
        self, recorded: RecordedRun, clock: FakeClock
    ) -> None:
        recorded.record("step.started", "a")
        recorded.record("step.waiting", "b", actions=["wait"], until=timestamp(NOW + 3610))
        clock.advance(3600)
        recorded.board.restart_clocks(clock())
        clock.advance(2)
        assert recorded.lines() == ["▶ a  2.0 s", "◷ b  continues in 8 s"]

    def test_a_line_is_shorter_than_the_terminal_by_the_interrupt_echo(
        self, recorded: RecordedRun, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "20")
        recorded.record("step.started", "a" * 30)
        group = ProgressDisplay([recorded], clock=clock)._render_active_lines()
        assert isinstance(group, Group)
        (line,) = group.renderables
        assert isinstance(line, Text)
        assert line.plain == "▶ " + "a" * 15 + "…"

    def test_running_steps_are_first_and_the_rest_is_counted(self, recorded: RecordedRun) -> None:
        recorded.record("step.waiting", "a", actions=["callback"], until=None)
        recorded.record("step.started", "b")
        recorded.record("step.retrying", "c", error=None, next_attempt_at=timestamp(NOW + 1))
        recorded.record("step.started", "d")
        recorded.record("step.started", "@end")
        assert [line[:3] for line in recorded.lines()] == ["▶ b", "▶ d", "↻ c", "◷ a"]
        assert recorded.lines(max_lines=4) == recorded.lines()
        assert recorded.lines(max_lines=3) == ["▶ b  0.0 s", "▶ d  0.0 s", "  and 2 more"]

    def test_no_line_is_wider_than_the_terminal(self, recorded: RecordedRun) -> None:
        recorded.record("step.waiting", "the name of a step that is long", actions=["callback"], until=None)
        assert recorded.lines(width=20) == ["◷ the name of a ste…"]

    def test_a_long_name_leaves_the_place_of_the_bar(self, recorded: RecordedRun) -> None:
        recorded.record("step.started", "n" * 100)
        recorded.record("loop.progress", "n" * 100, position="run", done=5, total=10, failed=0)
        assert recorded.lines() == [f"▶ {'n' * 29}…  ██████████░░░░░░░░░░ 5 of 10"]
        assert recorded.lines(width=200) == [f"▶ {'n' * 100}  ██████████░░░░░░░░░░ 5 of 10"]

    def test_control_sequences_in_names_are_visible(self, recorded: RecordedRun) -> None:
        recorded.record("step.started", "a\x1b[2J")
        assert recorded.lines() == ["▶ a␛[2J  0.0 s"]

    def test_child_runs_are_indented(self, recorded: RecordedRun, run: Run, clock: FakeClock) -> None:
        recorded.record("step.waiting", actions=["workflow"], until=None)
        child, grandchild = (
            RecordedRun(replace(run, playbook=name), clock, depth) for depth, name in ((1, "b"), (2, "c"))
        )
        recorded.children.append(child)
        child.children.append(grandchild)
        child.record("step.waiting", "nap", actions=["wait"], until=timestamp(NOW + 3))
        grandchild.record("step.started", "work")
        assert recorded.lines() == [
            "◷ each  waits for another run",
            "  ◷ b: nap  continues in 3 s",
            "    ▶ c: work  0.0 s",
        ]

    @pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "timed_out"])
    def test_a_finished_run_has_no_active_visits(self, recorded: RecordedRun, end: str) -> None:
        recorded.record("step.started")
        recorded.record("step.waiting", "other", actions=["callback"], until=None)
        recorded.record(f"workflow.{end}", None)
        assert (recorded.lines(), recorded.board.has_ended) == ([], True)
        recorded.record("workflow.resumed", None)
        assert not recorded.board.has_ended


class TestEventLines:
    @pytest.fixture
    def progress(self, recorded: RecordedRun, clock: FakeClock) -> Iterator[ProgressDisplay]:
        with ProgressDisplay([recorded], clock=clock) as progress:
            yield progress

    @pytest.fixture
    def new_lines(
        self, recorded: RecordedRun, progress: ProgressDisplay, capsys: pytest.CaptureFixture[str]
    ) -> Any:
        def new_lines() -> list[str]:
            progress.show([(recorded, event) for event in recorded.unshown])
            recorded.unshown.clear()
            return capsys.readouterr().err.splitlines()

        return new_lines

    def test_loop_progress_is_shown_every_few_seconds(
        self, recorded: RecordedRun, clock: FakeClock, new_lines: Any
    ) -> None:
        recorded.record("step.started")
        lines = []
        for done, seconds in ((1000, 0.0), (2000, 1.0), (3000, 2.0), (3500, 3.0)):
            clock.now = NOW + seconds
            recorded.count(done, 4000, failed=3)
            lines += new_lines()
        assert lines == ["… each  ███████████████░░░░░ 3,000 of 4,000, 3 failed  1,500/s"]
        recorded.count(4000, 4000, failed=3)
        recorded.record("step.completed")
        assert new_lines() == ["✓ each  4,000 items, 3 failed"]

    def test_an_interrupted_loop_shows_its_counts(self, recorded: RecordedRun, new_lines: Any) -> None:
        recorded.record("step.started")
        recorded.count(3, 4000, failed=1)
        recorded.record("step.failed", error={"type": "Broken", "message": "so\x1b it is"})
        assert new_lines() == ["✗ each  3 of 4,000 items, 1 failed  Broken: so␛ it is"]

    def test_a_failure_is_shown_with_its_facts_once(
        self, recorded: RecordedRun, progress: ProgressDisplay, new_lines: Any
    ) -> None:
        error = {
            "type": "E", "message": "no", "step": "each", "attempt": 1, "action": "set", "line": 7,
            "expression": "{{ n }}", "values": {"n": "1"}, "item": {"number": 1, "total": 2, "value": "{}"},
        }  # fmt: skip
        recorded.record("step.failed", error=error)
        assert new_lines() == [
            "✗ each  E: no",
            "  at          line 7, action set",
            "  expression  {{ n }}",
            "  values      n = 1",
            "  item        {}",
        ]
        assert progress.has_shown(recorded.run.id, error)
        assert not progress.has_shown(recorded.run.id, {**error, "message": "other"})

    def test_failed_items_of_a_loop_that_continued_are_named(
        self, recorded: RecordedRun, new_lines: Any
    ) -> None:
        for number in range(1, 12):
            item = {"number": number, "total": 30, "value": "\x1b[31m" + "v" * 90 if number == 2 else "7"}
            error = {"type": "E", "message": f"item {number} of 30: no"}
            recorded.record("loop.item_failed", position="run", item=item, error=error)
        recorded.count(done=30, total=30, failed=12)
        recorded.record("step.completed")
        first, second, *_, last = new_lines()[1:]
        assert first == "  ✗ E: item 1 of 30: no  7"
        assert "\x1b" not in second
        assert second.endswith("v…")
        assert last == "  2 more items have failed; `noetl runs items` lists them"
        recorded.record("step.started")
        recorded.record("step.completed")
        assert new_lines() == ["✓ each"]

    def test_a_slow_step_is_announced_once(
        self, recorded: RecordedRun, clock: FakeClock, new_lines: Any
    ) -> None:
        recorded.record("step.started")
        assert new_lines() == []
        clock.advance(2)
        assert new_lines() == ["… each is running"]
        clock.advance(2)
        assert new_lines() == []

    def test_a_wait_is_announced_once(self, recorded: RecordedRun, new_lines: Any) -> None:
        for _ in range(3):
            recorded.record("step.started")
            recorded.record("step.waiting", actions=[], until=timestamp(NOW + 5))
        assert new_lines() == ["◷ each  waits until 1970-01-12T13:46:45Z"]
        recorded.record("step.waiting", "ask", actions=["callback"], until=None)
        assert new_lines() == ["◷ ask  waits for an answer"]

    def test_retries_of_actions_are_counted(self, recorded: RecordedRun, new_lines: Any) -> None:
        recorded.record("action.retrying", wait_seconds=1)
        recorded.record("action.retrying", wait_seconds=1)
        recorded.record("step.transition", targets=["next", "other"])
        recorded.record("step.completed")
        assert new_lines() == ["✓ each  2 retries  → next, other"]

    def test_a_failed_attempt_shows_the_time_of_the_retry(
        self, recorded: RecordedRun, new_lines: Any
    ) -> None:
        error = {"type": "Busy", "message": "come back"}
        recorded.record("step.retrying", error=error, next_attempt_at=timestamp(NOW + 2.5))
        assert new_lines() == ["↻ each  Busy: come back; retry in 2.5 s"]

    def test_the_end_of_a_child_run_is_shown(
        self, recorded: RecordedRun, progress: ProgressDisplay, run: Run, clock: FakeClock, capsys: Any
    ) -> None:
        child = RecordedRun(replace(run, playbook="child"), clock, 1)
        child.record("workflow.started", None)
        child.record("step.completed", "work")
        child.record("workflow.completed", None, status="completed_with_errors")
        progress.show([(child, event) for event in child.unshown])
        recorded.record("workflow.completed", None, status="succeeded")
        progress.show([(recorded, event) for event in recorded.unshown])
        assert capsys.readouterr().err.splitlines() == [
            "  ✓ child: work",
            f"  ✗ child  completed_with_errors  0 ms  run {run.id}",
        ]
        child.record("workflow.skipped", None, status="skipped")
        progress.show([(child, child.unshown[-1])])
        assert capsys.readouterr().err.splitlines() == [f"  ⊘ child  skipped  0 ms  run {run.id}"]

    def test_a_pause_is_shown_and_ends_nothing(
        self, recorded: RecordedRun, new_lines: Any, clock: FakeClock
    ) -> None:
        recorded.record("step.started")
        recorded.record("workflow.paused", step=None, by="ops\x1b[31m")
        command = f"`noetl runs unpause {recorded.run.id}` lets it continue"
        assert new_lines()[-1] == f"{recorded.run.playbook} paused by ops\u241b[31m; {command}"
        assert not recorded.board.has_ended
        clock.advance(2.0)
        assert recorded.lines() == ["▶ each  2.0 s"]
        recorded.record("workflow.unpaused", step=None)
        assert f"{recorded.run.playbook} continues" in new_lines()
        assert not recorded.board.has_ended

    def test_quiet_shows_nothing(
        self, recorded: RecordedRun, clock: FakeClock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ProgressDisplay([recorded], quiet=True, clock=clock) as progress:
            recorded.record("step.completed")
            progress.show([(recorded, event) for event in recorded.unshown])
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_log_line_names_its_step_and_wraps_at_words(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "25")  # A dumb terminal has the given width only together with a height.
    monkeypatch.setenv("FORCE_COLOR" if is_terminal else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    with ProgressDisplay():
        labels = {"step": "load"}
        logging.getLogger("noetl.playbook").info("copied all the\x1b files", extra={"labels": labels})
        logging.getLogger("noetl.playbook").warning("short")
    lines = capsys.readouterr().err.splitlines()
    wrapped = ["│ load: copied all", "│ the␛ files"]
    assert lines == [*(wrapped if is_terminal else ["│ load: copied all the␛ files"]), "│ warning: short"]


def test_a_loop_without_items_has_an_empty_bar() -> None:
    assert LoopCounter().format() == "░░░░░░░░░░░░░░░░░░░░ 0 of 0"


def test_progress_of_an_unknown_step_is_ignored(clock: FakeClock) -> None:
    board = RunBoard()
    payload = {"position": "run", "done": 1, "total": 2, "failed": 0}
    board.apply(Event("loop.progress", NOW, "each", 1, 1, payload=payload))
    assert board.active_visits() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.012, "12 ms"), (3.44, "3.4 s"), (312, "5 m 12 s"), (7380, "2 h 3 m"), (273_600, "3 d 4 h")],
)
def test_a_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 m 0 s")])
def test_a_countdown_is_in_whole_seconds(seconds: float, text: str) -> None:
    assert format_countdown(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1,234/s"), (3.44, "3.4/s"), (0.2, "12.0/min")])
def test_a_rate_is_per_second_or_per_minute(rate: float, text: str) -> None:
    assert format_rate(rate) == text


def test_run_that_continues_in_another_version_has_not_ended() -> None:
    board = RunBoard()
    board.apply(Event("workflow.started", NOW))
    board.apply(Event("step.started", NOW, "ask", 1, 1))
    board.apply(Event("workflow.migrated", NOW, payload={"renamed": {"ask": "question"}}))
    assert not board.has_ended
    assert [visit.step for visit in board.active_visits()] == ["question"]
    board.apply(Event("step.completed", NOW, "question", 1, 1))
    assert board.active_visits() == []
