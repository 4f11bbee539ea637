"""The log lines of firings that start nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from noetl.executor.model.triggers import (
    LATE_REASON,
    MAX_REASON_LENGTH,
    Advance,
    FiringOutcome,
    instant_key,
    new_firing,
    record_firing,
)
from noetl.executor.runtime.repeat_limit import MAX_RECORDS, RepeatLimit
from noetl.executor.security import redaction
from noetl.executor.stores.firing_log import MAX_LOGGED_REASON, log_firings
from tests.executor.test_firing import HOUR, HOURLY, START, ScheduledPlaybook
from tests.executor.test_run_firing import AFTER, AwaitedPlaybook

NUMBERS = """
triggers:
- {name: hourly, type: schedule, every: 1h, input: {n: "{{ 7 if trigger.next_at else 1 }}"}}
input: {n: {type: integer, enum: [1, 2]}}
steps: [{name: a, run: [{action: log, message: "{{ n }}"}]}]
"""


def fields(record: logging.LogRecord) -> dict[str, Any]:
    assert (record.name, record.levelname) == ("noetl.triggers", "WARNING")
    found: dict[str, Any] = vars(record)["fields"]
    return found


def test_a_rejected_firing_of_a_schedule_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = ScheduledPlaybook(NUMBERS)
    service.clock.advance(HOUR)
    assert service.perform() == []
    [(outcome, reason, _)] = service.outcomes()
    [line] = caplog.records
    assert outcome == "rejected"
    assert line.getMessage() == "firing rejected: trigger hourly of play"
    assert fields(line) == {
        "playbook": "play",
        "trigger": "hourly",
        "tenant": "default",
        "version": "1",
        "outcome": "rejected",
        "reason": reason,
        "instant": instant_key(START + HOUR),
    }


def test_missed_firings_are_logged_with_the_run_that_follows_them(caplog: pytest.LogCaptureFixture) -> None:
    service = ScheduledPlaybook(HOURLY)
    service.clock.advance(3 * HOUR)
    assert len(service.perform()) == 1
    [line] = caplog.records
    assert (fields(line)["outcome"], fields(line)["reason"], fields(line)["count"]) == (
        "missed",
        LATE_REASON,
        2,
    )
    assert fields(line)["instant"] == instant_key(START + 2 * HOUR)


def test_firings_at_the_ends_of_runs_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    service = AwaitedPlaybook(AFTER.replace("trigger.result.total", "trigger.result.missing"))
    service.run_import()
    service.perform()
    assert [fields(line)["outcome"] for line in caplog.records] == ["rejected"]
    assert "missing" in fields(caplog.records[0])["reason"]


def test_reasons_are_redacted_and_cut(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "correct-horse-battery"
    monkeypatch.setattr(redaction, "REVEALED_SECRETS", type(redaction.REVEALED_SECRETS)())
    redaction.REVEALED_SECRETS.add(secret)
    trigger = ScheduledPlaybook(NUMBERS).trigger()
    firing = new_firing(trigger, "k", START)
    for filler in (0, MAX_LOGGED_REASON - 5, MAX_REASON_LENGTH - 5):
        reason = f"{'x' * filler}{secret} {'y' * 600}"
        advance = record_firing(Advance(trigger, trigger), firing, FiringOutcome.REJECTED, reason)
        log_firings(advance.firings)
    for line in caplog.records:
        assert "corre" not in fields(line)["reason"]
        assert 0 < len(fields(line)["reason"]) <= MAX_LOGGED_REASON
    assert len(caplog.records) == 3


def test_other_outcomes_have_no_line(caplog: pytest.LogCaptureFixture) -> None:
    filtered = ScheduledPlaybook(HOURLY.replace("every: 1h", "every: 1h, if: '{{ false }}'"))
    filtered.clock.advance(HOUR)
    filtered.perform()
    started = ScheduledPlaybook(HOURLY)
    started.clock.advance(HOUR)
    started.perform()
    assert caplog.records == []
    assert [outcome for outcome, *_ in filtered.outcomes()] == ["filtered"]


def test_a_flood_of_firings_has_a_few_lines_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    service = ScheduledPlaybook(NUMBERS.replace("7 if", "(trigger.scheduled_at[11:13] | int + 3) if"))
    for _ in range(2 * MAX_RECORDS):
        service.clock.advance(HOUR)
        service.perform()
    assert len(caplog.records) == 2 * MAX_RECORDS
    assert len({fields(line)["reason"] for line in caplog.records}) > MAX_RECORDS
    limit = RepeatLimit()
    assert sum(limit.filter(line) for line in caplog.records) == MAX_RECORDS
