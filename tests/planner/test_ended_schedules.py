"""Schedules whose time is over when they are registered (NP802)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from noetl.planner.diagnostics.codes import Severity
from noetl.planner.registration.ended_schedules import find_ended_schedules
from tests.planner.registered import compiled

TRIGGERS = """\
name: report
triggers:
  - {name: hourly, type: schedule, every: 1h, end: "2026-01-01"}
  - {name: leap, type: schedule, cron: "0 0 29 2 *", end: "2028-02-01"}
  - {name: endless, type: schedule, cron: "0 0 * * *"}
  - {name: after, type: run, playbook: load}
steps: [{name: a, run: [{action: log, message: x}]}]
"""


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        (datetime(2023, 1, 1, tzinfo=UTC), []),
        (datetime(2025, 12, 31, 22, 59, tzinfo=UTC), [4]),
        (datetime(2025, 12, 31, 23, 0, tzinfo=UTC), [3, 4]),
        (datetime(2030, 1, 1, tzinfo=UTC), [3, 4]),
    ],
)
def test_schedules_without_a_firing_left_are_reported(now: datetime, lines: list[int]) -> None:
    found = find_ended_schedules(compiled(TRIGGERS), now.timestamp())
    assert [finding.span.line for finding in found] == lines
    assert all((finding.code, finding.severity) == ("NP802", Severity.WARNING) for finding in found)


def test_the_end_is_named() -> None:
    (finding, _) = find_ended_schedules(compiled(TRIGGERS), datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert finding.message == "trigger `hourly` has no firing left before its end, 2026-01-01T00:00:00Z"
    assert finding.hint == "write a later `end`, or remove the trigger"
