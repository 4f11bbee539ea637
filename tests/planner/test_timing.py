from __future__ import annotations

import pytest

from noetl.executor.actions import catalogue
from noetl.executor.model.run import Visit, VisitStatus
from noetl.executor.model.transition import retry_delay_seconds
from noetl.planner.checks.timing import count_attempts_within
from noetl.planner.compile import compile_playbook
from noetl.planner.lower import lower_retry
from noetl.planner.syntax.models import RetryPolicy
from tests.planner.findings import OK, findings, source_at

WAIT = "{action: wait, seconds: 1}"


def lambda_findings(text: str) -> list[str]:
    text = "name: play\n" + text
    found = compile_playbook(text, catalogue(), "lambda").diagnostics
    return [source_at(text.splitlines(), d) for d in found if d.code == "NP601"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"steps: [{{name: a, timeout: 901, run: [{OK}]}}]", ["901"]),
        (f"steps: [{{name: a, timeout: 15m, run: [{OK}]}}]", []),
        (f"steps: [{{name: a, timeout: 1h, run: [{WAIT}]}}]", []),
        (f"tasks: {{t: [{WAIT}]}}\nsteps: [{{name: a, timeout: 1h, run: [t]}}]", []),
        (f"steps: [{{name: a, timeout: 1h, loop: {{items: [1], batch: 1}}, run: [{OK}]}}]", []),
        ("steps: [{name: a, run: [{action: log, message: x, timeout: 1h}]}]", ["1h"]),
        ("steps: [{name: a, run: [{action: callback, timeout: 2d}]}]", []),
        ("tasks: {t: [{action: log, message: x, timeout: 1h}]}\nsteps: [{name: a, run: [t]}]", ["1h"]),
        (f"timeout: 1d\nsteps: [{{name: a, run: [{OK}]}}]", []),
    ],
)
def test_timeouts_longer_than_an_invocation(text: str, words: list[str]) -> None:
    assert lambda_findings(text) == words
    assert findings(text, "NP601") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"timeout: 1m\nsteps: [{{name: a, retry: {{attempts: 3, delay: 1m}}, run: [{OK}]}}]", ["retry"]),
        (f"timeout: 1m\nsteps: [{{name: a, retry: {{attempts: 3, delay: 1s}}, run: [{OK}]}}]", []),
        (f"steps: [{{name: a, retry: {{attempts: 9, delay: 1h}}, run: [{OK}]}}]", []),
        (f"timeout: 1m\nretry: {{attempts: 5, delay: 1m}}\nsteps: [{{name: a, run: [{OK}]}}]", ["retry"]),
        (
            (
                "timeout: 1m\nsteps:\n- name: a\n  run:\n"
                "  - {action: log, message: x, retry: {attempts: 4, delay: 1m}}\n"
            ),
            ["retry"],
        ),
        (
            (
                f"timeout: 1m\nfinally: b\nsteps: [{{name: a, run: [{OK}]}}, "
                f"{{name: b, retry: {{attempts: 9, delay: 1m}}, run: [{OK}]}}]"
            ),
            [],
        ),
    ],
)
def test_retries_that_exceed_the_timeout_of_the_run(text: str, words: list[str]) -> None:
    assert [word for _, word in findings(text, "NP602")] == words


@pytest.mark.parametrize("jitter", [True, False])
@pytest.mark.parametrize("seconds", [1.0, 10.0, 100.0, 1000.0])
def test_no_run_starts_more_attempts_than_counted(jitter: bool, seconds: float) -> None:
    policy = RetryPolicy(attempts=20, delay=0.5, backoff=1.7, max_delay=60.0, jitter=jitter)
    retry = lower_retry(policy)
    assert retry is not None
    for seed in range(20):
        visit = Visit(f"v{seed}", "r", "s", VisitStatus.RUNNING, 1, {})
        elapsed, started = 0.0, 1
        for attempt in range(1, 20):
            elapsed += retry_delay_seconds(retry, attempt, visit.run_id, visit.id)
            started += elapsed < seconds
        assert started <= count_attempts_within(policy, seconds)
