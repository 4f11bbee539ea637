"""Section 7 of the language, failures: `retry`, `on_error`, `finally`, timeouts and the states of a run."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness
from tests.language.sentences import OK, check_outcome, sentence

FAIL = "{action: fail, message: bad}"
LOOP = """
    steps:
    - name: b
      loop: {items: [1, 0], on_error: continue}
      run: [{action: set, set: {y: '{{ 1 / item }}'}}]
      rule: [{case: default, run: [c]}]
    - name: c
      run:
        - action: set
          set:
            f: "{{ steps.b.failures | map(attribute='index') | list }}"
            i: "{{ steps.b.failures | map(attribute='item') | list }}"
"""
UNREACHABLE = "{action: http, url: 'http://127.0.0.1:9/'}"


def play(run: str, more: str = "", head: str = "") -> str:
    return f"name: play\n{head}steps:\n- name: a\n  run: [{run}]\n{more}"


HANDLER = f"  rule: [{{case: error, run: [b]}}]\n- {{name: b, {OK}}}\n"
FORK = f"""
steps:
- {{name: s, rule: [{{case: default, run: [a, b]}}]}}
- {{name: a, run: [{FAIL}], rule: [{{case: default, run: [c]}}]}}
- {{name: b, {OK}, rule: [{{case: default, run: [d]}}]}}
- {{name: c, {OK}}}
- {{name: d, {OK}}}
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        sentence(
            "an error-aware case is taken: the failure is handled",
            play(FAIL, HANDLER),
            {"status": "succeeded", "errors": [], "visits": {"a": 1, "b": 1}},
        ),
        sentence("`fail` without `type` is `Failed`", play(FAIL), {"status": "failed", "errors": ["Failed"]}),
        sentence(
            "`fail` with message, type",
            play("{action: fail, message: bad, type: EmptyInput}"),
            {"errors": ["EmptyInput"]},
        ),
        sentence("`abort` ends the run as failed", FORK, {"status": "failed"}),
        sentence(
            "`continue` ends this branch only, and the run ends as completed_with_errors",
            "on_error: continue\n" + FORK,
            {"status": "completed_with_errors", "visits": {"s": 1, "a": 1, "b": 1, "d": 1}},
        ),
        sentence(
            "on_error of a step overrides the playbook's",
            play(FAIL, "  on_error: continue\n"),
            {"status": "completed_with_errors"},
        ),
        sentence(
            "`on_error: continue` on the action leaves its `as` unsaved and goes on",
            play(
                "{action: fail, message: bad, as: x, on_error: continue}, {action: set, set: {y: '{{ "
                "x is defined }}'}}"
            ),
            {"status": "succeeded", "result": {"y": False}},
        ),
        sentence(
            "what a failed attempt saved is dropped",
            play(
                "{action: set, set: {x: 1}}, " + FAIL,
                "  rule: [{case: error, run: [{action: set, set: {y: '{{ x is defined }}'}}]}]\n",
            ),
            {"status": "succeeded", "result": {"y": False}},
        ),
        sentence(
            "`steps.NAME.result` is none after a failure, also of a guard",
            play(
                "{action: set, set: {w: 1}}",
                (
                    "  rule: [{case: '{{ 1 / n }}', run: []}, {case: error, run: [b]}]\n"
                    "- {name: b, run: [{action: set, set: {r: '{{ steps.a.result }}'}}]}\n"
                ),
                "variables: {n: 0}\n",
            ),
            {"result": {"r": None}},
        ),
        sentence(
            "names a failed guard saved are undefined",
            play(
                "{action: set, set: {w: 1}}",
                (
                    "  rule: [{case: '{{ 1 / n }}', run: []}, {case: error, run: [b]}]\n"
                    "- {name: b, run: [{action: set, set: {r: '{{ w is defined }}'}}]}\n"
                ),
                "variables: {n: 0}\n",
            ),
            {"result": {"r": False}},
        ),
        sentence(
            "`.failures` of a loop under `on_error: continue`",
            LOOP,
            {"status": "succeeded", "result": {"f": [2], "i": [0]}},
        ),
        sentence(
            "`finally` runs once in every ending",
            play(FAIL, f"- {{name: t, {OK}}}\n", "finally: t\n"),
            {"status": "failed", "visits": {"a": 1, "t": 1}},
        ),
        sentence(
            "if it fails, a run that had succeeded is failed",
            play("{action: log, message: ok}", f"- {{name: t, run: [{FAIL}]}}\n", "finally: t\n"),
            {"status": "failed", "visits": {"a": 1, "t": 1}},
        ),
        sentence(
            "in `finally` also run.status (the ending to come)",
            play(
                FAIL,
                "- {name: t, run: [{action: fail, message: '{{ run.status }}', type: '{{ run.status }}'}]}\n",
                "finally: t\n",
            ),
            {"errors": ["Failed", "failed"]},
        ),
    ],
)
def test_outcomes(text: str, expected: dict[str, Any]) -> None:
    check_outcome(text, {}, expected)


@pytest.mark.parametrize(
    ("run", "more", "attempts"),
    [
        sentence("`retry: 3` is short for three attempts (on a step)", UNREACHABLE, "  retry: 3\n", 3),
        sentence("retry: {attempts: 4}", UNREACHABLE, "  retry: {attempts: 4, delay: 1s, backoff: 2}\n", 4),
        sentence(
            "retry: if", UNREACHABLE, "  retry: {attempts: 4, if: \"{{ error.type == 'Other' }}\"}\n", 1
        ),
        sentence(
            "errors that cannot get better are not retried",
            "{action: set, set: {x: '{{ y.z }}'}}",
            "  retry: 3\nvariables: {y: {}}\n",
            1,
        ),
    ],
)
def test_attempts(run: str, more: str, attempts: int) -> None:
    harness = RunHarness(MemoryStore(), play(run, more)).finish()
    assert harness.visit("a").attempt == attempts
    assert harness.status == "failed"


def test_resume_continues_from_the_failed_visits_with_corrected_input() -> None:
    """Resume after `failed`: from the failed and parked visits, with corrected input."""
    text = """
        input: {n: integer}
        steps:
        - {name: a, run: [{action: log, message: ok}], rule: [{case: default, run: [b]}]}
        - {name: b, run: [{action: set, set: {x: "{{ 6 / n }}"}}]}
    """
    harness = RunHarness(MemoryStore(), text, {"n": 0}).finish()
    assert harness.status == "failed"
    harness.resume(n=2).finish()
    assert (harness.status, harness.result, harness.visit_counts) == (
        "succeeded",
        {"x": 3.0},
        {"a": 1, "b": 1},
    )


def test_a_steps_timeout_does_not_count_waiting() -> None:
    check_outcome(play("{action: wait, seconds: 90}", "  timeout: 1s\n"), {}, {"status": "succeeded"})


def test_a_run_has_a_timeout() -> None:
    check_outcome(play("{action: wait, seconds: 90}", head="timeout: 1s\n"), {}, {"status": "timed_out"})
