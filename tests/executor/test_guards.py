"""Guards: which of them are evaluated after a failure, and guards without a value."""

from __future__ import annotations

import pytest

from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

FAIL = "{action: fail, message: no}"
OK = "{action: log, message: ok}"


def test_only_error_aware_cases_follow_a_failure(store: SqliteStore) -> None:
    text = f"""
        steps:
        - name: a
          run: [{{action: set, set: {{x: 1}}}}, {FAIL}]
          rule:
          - {{case: "{{{{ True }}}}", run: [b]}}
          - {{case: "{{{{ error.type == 'Other' }}}}", run: [b]}}
          - {{case: "{{{{ result.error.type == 'Failed' }}}}", run: [c]}}
        - {{name: b, run: [{OK}]}}
        - name: c
          run: [{{action: set, set: {{why: "{{{{ steps.a.error.message }}}}", x: "{{{{ x is defined }}}}"}}}}]
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.error_types, harness.visit_counts) == ("succeeded", [], {"a": 1, "c": 1})
    assert harness.result == {"why": "no", "x": False}


@pytest.mark.parametrize("guard", ["{{ result.success }}", "{{ not error }}", "{{ result.error is none }}"])
def test_a_case_that_excludes_failures_does_not_handle_one(store: SqliteStore, guard: str) -> None:
    text = f"""
        steps: [{{name: a, run: [{FAIL}], rule: [{{case: "{guard}", run: [b]}}]}}, {{name: b, run: [{OK}]}}]
    """
    assert (RunHarness(store, text).finish().status, RunHarness(store, text).finish().visit_counts) == (
        "failed",
        {"a": 1},
    )


def test_a_guard_that_divides_by_zero_fails_the_step(store: SqliteStore) -> None:
    text = """
        variables: {n: 0}
        steps:
        - name: a
          run: [{action: set, set: {x: 1}}]
          rule: [{case: "{{ 1 / n }}", run: [b]}, {case: default, run: [b]}, {case: error, run: [c]}]
        - {name: b, run: [{action: log, message: ok}]}
        - {name: c, run: [{action: set, set: {e: "{{ steps.a.error }}", r: "{{ steps.a.result }}"}}]}
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.visit_counts) == ("succeeded", {"a": 1, "c": 1})
    assert harness.result["r"] is None
    assert harness.result["e"]["type"] == "GuardError"
    assert "division by zero" in harness.result["e"]["message"]


def test_failed_in_place_work_leaves_no_result(store: SqliteStore) -> None:
    text = """
        on_error: continue
        steps:
        - name: a
          run: [{action: set, set: {x: 1}}]
          rule: [{case: default, run: [{action: fail, message: no}]}]
        output: {r: "{{ steps.a.result }}", s: "{{ steps.a.status }}"}
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.result) == ("completed_with_errors", {"r": None, "s": "failed"})


def test_an_unhandled_guard_error_fails_the_run(store: SqliteStore) -> None:
    text = """
        variables: {n: 0}
        steps:
        - name: a
          retry: 5
          rule: [{case: "{{ 1 / n }}", run: []}, {case: "{{ error.details.x }}", run: []}]
    """
    harness = RunHarness(store, text).finish()
    assert (harness.status, harness.error_types, harness.visit("a").attempt) == ("failed", ["GuardError"], 1)
