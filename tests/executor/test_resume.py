"""Resumed runs whose branches had failed."""

from __future__ import annotations

import pytest

from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

FORK = """
    input: {ok: {type: boolean, default: false}}
    steps:
    - name: fork
      rule: [{case: default, run: [a, b]}]
    - name: a
      on_error: continue
      run:
      - {action: fail, if: "{{ not input.ok }}", message: not yet}
      - {action: set, set: {x: 1}}
      rule: [{case: default, run: [meet]}]
    - name: b
      run: [{action: set, set: {y: 2}}]
      rule: [{case: default, run: [meet]}]
    - name: meet
      run: [{action: set, set: {sum: "{{ (x | default(0)) + y }}"}}]
"""


def test_a_resumed_failed_branch_arrives_at_the_join(store: SqliteStore) -> None:
    harness = RunHarness(store, FORK).finish()
    assert (harness.status, harness.run.result) == ("completed_with_errors", {"y": 2, "sum": 2})
    harness.resume(ok=True).finish()
    assert (harness.status, harness.run.result) == ("succeeded", {"x": 1, "y": 2, "sum": 3})
    assert [v.step for v in store.runs.visits(harness.id) if not v.step.startswith("@")] == [
        "fork",
        "a",
        "b",
        "meet",
        "meet",
    ]


def test_a_resumed_branch_that_fails_again_ends(store: SqliteStore) -> None:
    harness = RunHarness(store, FORK).finish()
    harness.resume().finish()
    assert (harness.status, harness.run.live, harness.run.failed_branches) == ("completed_with_errors", 0, 1)


def test_resuming_a_run_with_only_an_output_error_evaluates_the_output_again(store: SqliteStore) -> None:
    text = """
        input: {key: {type: string, default: missing}}
        steps: [{name: a, run: [{action: set, set: {x: {found: 1}}}]}]
        output: {value: "{{ x[input.key] }}"}
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.run.result) == ("completed_with_errors", {"value": None})
    harness.resume(key="found").finish()
    assert (harness.status, harness.run.result) == ("succeeded", {"value": 1})


@pytest.mark.parametrize("policy", ["abort", "continue"])
def test_a_resumed_step_continues_after_its_last_suspension(store: SqliteStore, policy: str) -> None:
    text = """
        on_error: %s
        input: {ok: {type: boolean, default: false}}
        steps:
        - name: a
          run:
          - {action: set, set: {x: 1}}
          - {action: wait, seconds: 5}
          - {action: fail, if: "{{ not input.ok }}", message: not yet}
          - {action: set, set: {y: "{{ x + 1 }}"}}
    """
    harness = RunHarness(store, text % policy).finish()
    assert not harness.run.result
    harness.resume(ok=True).finish()
    assert (harness.status, harness.run.result) == ("succeeded", {"x": 1, "y": 2})
    assert [e.payload["position"] for e in harness.events if e.type == "action.started"].count("run.0") == 1


@pytest.mark.parametrize("policy", ["abort", "continue"])
def test_a_resumed_step_with_failed_in_place_work_starts_again(store: SqliteStore, policy: str) -> None:
    text = """
        on_error: %s
        input: {ok: {type: boolean, default: false}}
        variables: {n: 0}
        steps:
        - name: a
          run: [{action: set, set: {n: "{{ n + 1 }}"}}]
          rule: [{case: default, run: [{action: fail, if: "{{ not input.ok }}", message: not yet}]}]
    """
    harness = RunHarness(store, text % policy).finish()
    harness.resume(ok=True).finish()
    assert (harness.status, harness.run.result) == ("succeeded", {"n": 1})


def test_the_finally_step_of_a_resumed_run_has_its_own_timeout(store: SqliteStore) -> None:
    text = """
        timeout: 10s
        finally: tidy
        input: {ok: {type: boolean, default: false}}
        steps:
        - {name: a, run: [{action: set, set: {x: 1}}]}
        - name: tidy
          run: [{action: wait, seconds: 20}, {action: fail, if: "{{ not input.ok }}", message: not yet}]
    """
    harness = RunHarness(store, text).finish()
    assert harness.status == "failed"
    assert harness.resume(ok=True).finish().status == "succeeded"
