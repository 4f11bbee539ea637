"""The entries of the outbox for ends of runs and for late runs."""

from __future__ import annotations

from typing import Any

import pytest

from noetl.executor.engine.start import new_run, new_run_from
from noetl.executor.model.notifications import (
    MAX_EARLIER_ENDINGS,
    MAX_MESSAGE_LENGTH,
    late_entries,
    late_time,
    notification_entries,
)
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, Subscribers, notification_id
from noetl.executor.model.outcome import error_record
from noetl.executor.model.run import Run, RunEnding, RunStatus, Visit, VisitStatus, WaitKey
from noetl.executor.model.start_request import StartRequest
from noetl.planner.frozen import replace
from noetl.planner.notify import Notify
from noetl.planner.plan import Header

RUN = Run(
    id="r1",
    tenant="t",
    playbook="p",
    version="3",
    plan_hash="h",
    status=RunStatus.RUNNING,
    origin="service",
    queue="service",
    input={},
    environment={},
    variables={},
    tags=(),
    folder=None,
    created_at=100.0,
)
NONE = Subscribers()
NOTIFY = Notify({"failed": ("ops", "audit"), "succeeded": ("audit",), "late": ("ops",)}, 60.0)
VISIT = Visit("v1", "r1", "load", VisitStatus.RUNNING, 1, {})


def entries(status: RunStatus, run: Run = RUN, **options: Any) -> list[OutboxEntry]:
    ending = RunEnding(status, None, options.get("errors", ()))
    subscribers = options.get("subscribers", NONE)
    return notification_entries(run, ending, options.get("notify", NOTIFY), subscribers, 200.0)


def channels(found: list[OutboxEntry]) -> list[str]:
    return [entry.record["channel"] for entry in found]


@pytest.mark.parametrize(
    ("status", "event", "names"),
    [
        (RunStatus.SUCCEEDED, "succeeded", ["audit"]),
        (RunStatus.FAILED, "failed", ["audit", "ops"]),
        (RunStatus.TIMED_OUT, "failed", ["audit", "ops"]),
        (RunStatus.COMPLETED_WITH_ERRORS, "failed", ["audit", "ops"]),
        (RunStatus.CANCELLED, "cancelled", []),
    ],
)
def test_the_channels_of_the_event_receive_it(status: RunStatus, event: str, names: list[str]) -> None:
    found = entries(status)
    assert channels(found) == names
    assert all(e.record["event"] == event and e.record["status"] == status for e in found)


def test_no_channel_receives_anything_about_a_skipped_run() -> None:
    assert entries(RunStatus.SKIPPED) == []


def test_an_entry_says_which_run_has_ended_and_why() -> None:
    long = error_record(VISIT, "Timeout", "x" * 600)
    audit, ops = entries(RunStatus.FAILED, errors=[long, error_record(VISIT, "Other", "no")])
    assert (audit.tenant, audit.kind, audit.created_at, audit.due_at) == (
        "t",
        OutboxKind.NOTIFICATION,
        200.0,
        200.0,
    )
    assert ops.record == {
        "channel": "ops",
        "event": "failed",
        "run_id": "r1",
        "playbook": "p",
        "version": "3",
        "status": "failed",
        "ending": 0,
        "attempts": 0,
        "error": {"type": "Timeout", "step": "load", "message": "x" * (MAX_MESSAGE_LENGTH - 1) + "…"},
        "waits_for": [notification_id("r1", "late", RUN.tenant, "ops")],
    }
    assert entries(RunStatus.FAILED, errors=[error_record(VISIT, "E", "short")])[0].record["error"] == {
        "type": "E",
        "step": "load",
        "message": "short",
    }


def test_the_same_end_has_the_same_entries_and_each_other_end_has_others() -> None:
    first, again = entries(RunStatus.FAILED), entries(RunStatus.FAILED)
    assert first == again
    assert all(len(entry.id) == 24 for entry in first)
    resumed = entries(RunStatus.FAILED, replace(RUN, resumes=1))
    assert {e.id for e in first}.isdisjoint(e.id for e in resumed)
    late = late_entries(RUN, NOTIFY, NONE, 150.0)
    assert late[0].id not in {e.id for e in first}


def test_an_entry_waits_for_the_earlier_ones_of_its_run_and_channel() -> None:
    run = replace(RUN, resumes=2)
    ends = [notification_id("r1", f"end {number}", RUN.tenant, "ops") for number in (0, 1)]
    end = entries(RunStatus.FAILED, run)[1]
    assert end.record["waits_for"] == [*ends, notification_id("r1", "late", RUN.tenant, "ops")]
    assert late_entries(run, NOTIFY, NONE, 150.0)[0].record["waits_for"] == ends
    often = entries(RunStatus.FAILED, replace(RUN, resumes=100))[1]
    assert len(often.record["waits_for"]) == MAX_EARLIER_ENDINGS + 1
    never_late = replace(NOTIFY, late_seconds=None)
    assert entries(RunStatus.FAILED, notify=never_late)[1].record["waits_for"] == []


def test_subscribed_channels_receive_runs_once_that_no_run_has_started() -> None:
    subscribers = Subscribers(channels={"all": ("failed", "late"), "ops": ("failed",), "quiet": ()})
    assert channels(entries(RunStatus.FAILED, subscribers=subscribers)) == ["all", "audit", "ops"]
    assert channels(entries(RunStatus.FAILED, subscribers=subscribers, notify=None)) == ["all", "ops"]
    assert channels(late_entries(RUN, NOTIFY, subscribers, 150.0)) == ["all", "ops"]
    child = replace(RUN, parent=WaitKey("r0", "v0", "w"))
    assert channels(entries(RunStatus.FAILED, child, subscribers=subscribers)) == ["audit", "ops"]
    assert channels(entries(RunStatus.FAILED, child, subscribers=subscribers, notify=None)) == []


def test_a_late_run_is_reported_with_its_status() -> None:
    (entry,) = late_entries(RUN, NOTIFY, NONE, 150.0)
    assert (entry.created_at, entry.due_at) == (150.0, 150.0)
    assert (entry.record["event"], entry.record["status"]) == ("late", "running")
    assert late_entries(RUN, None, NONE, 150.0) == []


class TestLateTime:
    HEADER = Header("p", "a", notify=NOTIFY)

    def test_counts_from_the_creation_or_from_the_instant_of_the_schedule(self) -> None:
        assert late_time(self.HEADER, RUN) == 160.0
        scheduled = replace(RUN, trigger={"type": "schedule", "scheduled_at": "1970-01-01T00:01:10Z"})
        assert late_time(self.HEADER, scheduled) == 130.0
        assert late_time(self.HEADER, replace(scheduled, resumed_from="r0")) == 160.0
        backfilled = replace(scheduled, trigger={**(scheduled.trigger or {}), "backfill": "b1"})
        assert late_time(self.HEADER, backfilled) == 160.0
        hook = replace(RUN, trigger={"type": "webhook", "name": "paid"})
        assert late_time(self.HEADER, hook) == 160.0

    def test_a_run_without_receivers_or_a_service_is_never_late(self) -> None:
        assert late_time(Header("p", "a"), RUN) is None
        assert late_time(replace(self.HEADER, notify=replace(NOTIFY, late_seconds=None)), RUN) is None
        assert late_time(self.HEADER, replace(RUN, queue="r1")) is None

    def test_a_run_has_it_from_its_start_and_when_it_continues_another(self) -> None:
        trigger = {"type": "schedule", "name": "n", "scheduled_at": "1970-01-01T00:01:10Z"}
        run, _ = new_run(self.HEADER, "h", StartRequest(trigger=trigger), now=100.0)
        assert run.late_at == 130.0
        assert new_run_from(self.HEADER, run, {}, now=500.0)[0].late_at == 560.0
        assert new_run(Header("p", "a"), "h", StartRequest(), now=100.0)[0].late_at is None
        local = StartRequest(origin="local")
        assert new_run(self.HEADER, "h", local, now=100.0)[0].late_at is None
