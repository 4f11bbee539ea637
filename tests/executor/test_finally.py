"""`finally`: a step that runs after every ending of a run."""

from __future__ import annotations

import pytest

from noetl.executor.model.run import RunStatus
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness, register_playbook

TEXT = """
    timeout: 100s
    finally: tidy
    input: {mode: {type: string, default: ok}}
    steps:
    - name: a
      on_error: %s
      run:
      - {action: set, set: {x: 1}}
      - {action: wait, if: "{{ input.mode == 'slow' }}", seconds: 1000}
      - {action: fail, if: "{{ input.mode == 'bad' }}", message: bad}
    - name: tidy
      run:
      - {action: set, set: {seen: "{{ run.status }}", why: "{{ run.error.message if run.error else none }}"}}
      - {action: set, set: {known: "{{ x | default(0) }}", was: "{{ steps.a.status }}"}}
      - {action: fail, if: "{{ input.mode == 'untidy' }}", message: untidy}
"""


def finally_outputs(store: SqliteStore, harness: RunHarness) -> dict[str, object]:
    (visit,) = (visit for visit in store.runs.visits_with_outputs(harness.id) if visit.step == "tidy")
    return dict(visit.saved)


@pytest.mark.parametrize(
    ("policy", "mode", "status", "saved"),
    [
        ("abort", "ok", "succeeded", {"seen": "succeeded", "why": None, "known": 1, "was": "succeeded"}),
        ("abort", "bad", "failed", {"seen": "failed", "why": "bad", "known": 0, "was": "failed"}),
        (
            "continue",
            "bad",
            "completed_with_errors",
            {"seen": "completed_with_errors", "why": None, "known": 0},
        ),
        (
            "abort",
            "slow",
            "timed_out",
            {
                "seen": "timed_out",
                "why": "the run exceeded the `timeout` of its playbook, 100 s",
                "known": 1,
                "was": "pending",
            },
        ),
    ],
)
def test_the_finally_step_runs_after_every_ending(
    store: SqliteStore, policy: str, mode: str, status: str, saved: dict[str, object]
) -> None:
    harness = RunHarness(store, TEXT % policy, {"mode": mode}).finish()
    assert harness.status == status
    assert finally_outputs(store, harness).items() >= saved.items()
    assert [e.step for e in harness.events if e.type == "step.started"].count("tidy") == 1


def test_the_finally_step_runs_after_a_cancellation(store: SqliteStore) -> None:
    harness = RunHarness(store, TEXT % "abort")
    store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
    harness.finish()
    found = finally_outputs(store, harness)
    assert (harness.status, found["seen"], found["was"]) == ("cancelled", "cancelled", "cancelled")


def test_a_failed_finally_step_fails_a_successful_run(store: SqliteStore) -> None:
    harness = RunHarness(store, TEXT % "abort", {"mode": "untidy"}).finish()
    assert (harness.status, [e["message"] for e in harness.run.errors]) == ("failed", ["untidy"])


def test_a_resumed_run_runs_the_finally_step_again(store: SqliteStore) -> None:
    harness = RunHarness(store, TEXT % "abort", {"mode": "bad"}).finish()
    harness.resume(mode="ok").finish()
    assert (harness.status, finally_outputs(store, harness)["seen"]) == ("succeeded", "succeeded")


def test_names_of_the_finally_step_are_in_the_result(store: SqliteStore) -> None:
    harness = RunHarness(store, TEXT % "abort").finish()
    assert harness.run.result == {"x": 1, "seen": "succeeded", "why": None, "known": 1, "was": "succeeded"}


def test_the_finally_step_may_be_retried_and_suspended(store: SqliteStore) -> None:
    text = """
        finally: tidy
        steps:
        - {name: a, run: [{action: fail, message: bad}]}
        - name: tidy
          retry: {attempts: 3, delay: 10s}
          run:
          - {action: wait, seconds: 5}
          - {action: shell, command: "test {{ step.attempt }} = 2"}
          - {action: set, set: {done: true}}
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, finally_outputs(store, harness)) == ("failed", {"done": True})


@pytest.mark.parametrize("waits", ["wait, seconds: 1h", "callback", "workflow, playbook: other"])
def test_the_finally_step_waits_no_longer_than_its_timeout(store: SqliteStore, waits: str) -> None:
    text = f"""
        finally: tidy
        steps:
        - {{name: a, run: [{{action: log, message: done}}]}}
        - {{name: tidy, timeout: 90s, run: [{{action: wait, seconds: 60}}, {{action: {waits}}}]}}
    """
    register_playbook(store, "{name: other, steps: [{name: a, run: [{action: wait, seconds: 1h}]}]}")
    harness = RunHarness(store, text)
    began = harness.clock.now
    harness.finish()
    assert [error["type"] for error in harness.run.errors] == ["Timeout"]
    assert harness.run.finished_at == pytest.approx(began + 90, abs=1)


def test_the_finally_step_does_not_see_names_of_a_failed_step(store: SqliteStore) -> None:
    text = """
        finally: tidy
        steps:
        - name: a
          run: [{action: set, set: {x: 1}}, {action: wait, seconds: 1}, {action: fail, message: no}]
        - {name: tidy, run: [{action: set, set: {known: "{{ x is defined }}"}}]}
    """
    assert finally_outputs(store, RunHarness(store, text).finish()) == {"known": False}
