"""Templates stop with what they belong to: their action, their step, their run, or the worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from noetl.executor.actions._process import END_SECONDS
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.model.run import RunStatus
from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.templates import budget
from noetl.testing.run_harness import RunHarness

ENDLESS = "{% for a in range(1000000) %}{% for b in range(1000000) %}{% endfor %}{% endfor %}"
EXPRESSION = "range(1000000) | map('string') | map('length') | sum > range(1000000) | sum"
GUARD = "{{ range(400000) | select('in', range(1000000) | list) | list }}"
OK = "{action: log, message: ok}"


@pytest.fixture(autouse=True)
def no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but a stop end an evaluation."""
    monkeypatch.setattr(budget, "BUDGET", 10**18)
    monkeypatch.setattr(budget, "CPU_SECONDS", 3600.0)
    monkeypatch.setattr(budget, "SHARED_SECONDS", 3600.0)


def find_error(store: SqliteStore, text: str) -> str | None:
    """Return the type of the error of step `a` at the end of the run."""
    visit = RunHarness(store, text).finish().visit("a")
    return None if visit.error is None else str(visit.error["type"])


TIMED_OUT = {
    "an action": f'steps: [{{name: a, run: [{{action: log, message: "{ENDLESS}", timeout: 100ms}}]}}]',
    "a step": f'steps: [{{name: a, timeout: 100ms, run: [{{action: log, message: "{ENDLESS}"}}]}}]',
    "a condition": f'steps: [{{name: a, timeout: 100ms, run: [{{action: log, message: x, if: "{GUARD}"}}]}}]',
    "items": f'steps: [{{name: a, timeout: 100ms, loop: {{items: "{GUARD}"}}, run: [{OK}]}}]',
    "items of an action": (
        "steps: [{name: a, timeout: 100ms,"
        f' run: [{{action: log, message: x, loop: {{items: "{GUARD}"}}}}]}}]'
    ),
    "parallel items": (
        f"steps: [{{name: a, timeout: 100ms, parallel: true, run: [{OK},"
        f' {{action: log, message: "{ENDLESS}"}}]}}]'
    ),
    "a loop": (
        "steps: [{name: a, timeout: 100ms, loop: {items: [1, 2, 3], concurrency: 3},"
        f' run: [{{action: log, message: "{ENDLESS}"}}]}}]'
    ),
    "an argument": (
        f"tasks: [{{name: t, run: [{OK}]}}]\n"
        f'steps: [{{name: a, timeout: 100ms, run: [{{task: t, with: {{x: "{ENDLESS}"}}}}]}}]'
    ),
    "a repetition": (
        f'steps: [{{name: a, timeout: 100ms, repeat: {{until: "{GUARD}", every: 1s, max: 2}}, run: [{OK}]}}]'
    ),
}


@pytest.mark.parametrize("text", TIMED_OUT.values(), ids=TIMED_OUT)
def test_a_template_ends_with_the_time_of_its_action_or_step(store: SqliteStore, text: str) -> None:
    assert find_error(store, text) == "Timeout"


def test_a_timeout_of_a_template_can_be_handled(store: SqliteStore) -> None:
    text = f"""
        steps:
        - name: a
          run: [{{action: log, message: "{ENDLESS}", timeout: 100ms}}]
          rule: [{{case: error, run: [{{action: set, set: {{late: "{{{{ error.type }}}}"}}}}]}}]
    """
    assert RunHarness(store, text).finish().result == {"late": "Timeout"}


def test_a_condition_of_a_retry_ends_with_the_step(store: SqliteStore) -> None:
    text = (
        "steps: [{name: a, timeout: 100ms, run: [{action: fail, message: no,"
        f' type: Mine, retry: {{attempts: 2, delay: 0s, if: "{GUARD}"}}}}]}}]'
    )
    assert find_error(store, text) in ("Mine", "Timeout")


@contextmanager
def set_soon(event: threading.Event) -> Iterator[None]:
    timer = threading.Timer(0.1, event.set)
    timer.start()
    yield
    timer.join()


CANCELLED = {
    "work": f'steps: [{{name: a, run: [{{action: log, message: "{ENDLESS}"}}]}}]',
    "a condition": f'steps: [{{name: a, run: [{{action: log, message: x, if: "{GUARD}"}}]}}]',
    "items": f'steps: [{{name: a, loop: {{items: "{GUARD}"}}, run: [{OK}]}}]',
    "parallel": f'steps: [{{name: a, parallel: true, run: [{{action: log, message: "{ENDLESS}"}}, {OK}]}}]',
    "a guard": f'steps: [{{name: a, rule: [{{case: "{GUARD}", run: []}}, {{case: default, run: []}}]}}]',
    "in place": (
        f'steps: [{{name: a, rule: [{{case: default, run: [{{action: log, message: "{ENDLESS}"}}]}}]}}]'
    ),
}


@pytest.mark.parametrize("text", CANCELLED.values(), ids=CANCELLED)
def test_a_template_ends_with_its_run(store: SqliteStore, text: str) -> None:
    harness = RunHarness(store, text)
    claim = harness.claim()
    assert claim is not None
    cancelled = threading.Event()
    store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
    with set_soon(cancelled):
        harness.executor().execute(claim, cancelled)
    assert harness.finish().status is RunStatus.CANCELLED


def test_the_output_of_a_run_ends_with_the_worker(store: SqliteStore) -> None:
    harness = RunHarness(store, f'steps: [{{name: a, run: [{OK}]}}]\noutput: {{x: "{ENDLESS}"}}')
    harness.execute_next()
    claim = harness.claim()
    assert claim is not None
    assert claim.visit.step != "a"
    cancelled = threading.Event()
    with set_soon(cancelled):
        harness.executor().execute(claim, cancelled)
    following = harness.claim("two")
    assert following is not None
    assert following.visit.id == claim.visit.id


def test_a_worker_that_stops_ends_its_templates(store: SqliteStore, tmp_path: Path) -> None:
    harness = RunHarness(store, CANCELLED["work"])
    claim = harness.claim()
    assert claim is not None
    lease_keeper = LeaseKeeper(store, 30.0, harness.clock)
    executor: VisitExecutor = harness.executor()
    worker = threading.Thread(target=lease_keeper.execute, args=(executor, claim))
    worker.start()
    timer = threading.Timer(0.1, lease_keeper.release_all)
    timer.start()
    timer.join()
    worker.join()
    assert harness.claim("two") is not None


def test_no_worker_repeats_a_step_while_its_command_may_run(store: SqliteStore, tmp_path: Path) -> None:
    """A command that ignores SIGTERM is killed some time after its claim was released."""
    begun = tmp_path / "begun"
    command = f"trap '' TERM; echo > {begun}; while true; do sleep 0.1; done"
    harness = RunHarness(store, f'steps: [{{name: a, run: [{{action: shell, command: "{command}"}}]}}]')
    claim = harness.claim()
    assert claim is not None
    lease_keeper = LeaseKeeper(store, 30.0, harness.clock)
    worker = threading.Thread(target=lease_keeper.execute, args=(harness.executor(), claim))
    worker.start()
    while not begun.exists():
        worker.join(0.01)
    lease_keeper.release_all()
    assert harness.claim("two") is None
    worker.join()
    harness.clock.advance(END_SECONDS)
    assert harness.claim("two") is not None
