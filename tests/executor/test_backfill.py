"""Backfills: which partitions start runs, how many at once, and what a person changes meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine import backfill as backfill_module
from noetl.executor.engine import quotas
from noetl.executor.engine.backfill import MAX_EXAMINED, START_SECONDS, perform_backfill
from noetl.executor.engine.backfill_control import (
    cancel_backfill,
    pause_backfill,
    read_backfill,
    resume_backfill,
    retry_backfill,
)
from noetl.executor.engine.backfill_start import BackfillRequest, start_backfill
from noetl.executor.engine.invocation import VisitExecutor
from noetl.executor.engine.outbox import perform_entry
from noetl.executor.engine.schedule_firing import find_previous
from noetl.executor.engine.switching import PlanSwitcher, SwitchRequest
from noetl.executor.errors import RejectedError, StoreAwayError
from noetl.executor.model.backfills import (
    LIST_SLICE,
    MAX_PARTITIONS,
    Backfill,
    BackfillCounts,
    BackfillState,
    RetryMode,
)
from noetl.executor.model.outbox import POSTPONE_SECONDS, OutboxKind
from noetl.executor.model.partition_numbers import NO_NUMBERS, PartitionNumbers
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.run import SERVICE_QUEUE, Lease, Run, RunStatus
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.triggers import instant_key
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.memory.store import MemoryStore
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.continuation.switch_state import Switch
from noetl.planner.frozen import replace
from noetl.planner.schedules.schedule import Schedule
from noetl.testing.run_harness import FakeClock, compile_text
from noetl.testing.store_contract.switches import judge

DAY = 86_400.0
FROM = datetime(2025, 3, 28, tzinfo=UTC).timestamp()
NOW = FROM + 100 * DAY

DAILY = """
triggers:
- name: daily
  type: schedule
  cron: "30 2 * * *"
  timezone: Europe/Berlin
  input: {day: "{{ trigger.partition or trigger.scheduled_at }}"}
input: {day: {type: string}}
steps:
- name: a
  run: [{action: fail, if: "{{ day in bad }}", message: bad}, {action: log, message: "{{ day }}"}]
variables: {bad: []}
"""


def failing(*days: str) -> str:
    """Return the playbook, whose runs of some days fail."""
    return DAILY.replace("bad: []", f"bad: {list(days)}")


class BackfillBench:
    """A store with one playbook. The test performs the turns of its backfills, and its runs."""

    def __init__(self, text: str = DAILY, store: Any = None) -> None:
        self.store = MemoryStore() if store is None else store
        self.clock = FakeClock(NOW)
        self.store.clock = self.clock
        self.id = ""
        self.register(text)

    def register(self, text: str) -> RegisteredPlaybook:
        plan = compile_text(text)
        self.store.plans.save(plan)
        playbook = RegisteredPlaybook("default", plan.header.name, None, plan.hash, self.clock())
        return self.store.registry.register(playbook, triggers=plan.header.triggers)

    def start(self, days: int = 3, **options: Any) -> Backfill:
        """Start a backfill of some days, or of a list."""
        options = {"start": FROM, "end": FROM + days * DAY} | options
        for name in ("start", "end"):
            value = options[name]
            options[name] = instant_key(value) if isinstance(value, float) else value
        trigger = self.store.triggers.get("default", "play", "daily")
        assert trigger is not None
        request = BackfillRequest(**options)
        backfill, _ = start_backfill(self.store, trigger, request, self.clock())
        self.id = backfill.id
        return backfill

    @property
    def backfill(self) -> Backfill:
        found = read_backfill(self.store, "default", self.id)
        assert found is not None
        return found

    @property
    def counts(self) -> dict[str, int]:
        """The numbers that are not zero."""
        return {name: number for name, number in self.backfill.counts.to_json().items() if number}

    def perform_due(self) -> int:
        """Perform the turns that are due now, and return their number."""
        count = 0
        while due := self.store.outbox.due([OutboxKind.BACKFILL], self.clock(), 10):
            for entry in due:
                assert perform_entry(self.store, entry, self.clock())
                count += 1
        return count

    def execute(self) -> None:
        """Execute all visits of runs that are due."""
        lease = Lease("one", 30.0)
        executor = VisitExecutor(self.store, lease, Capabilities(), self.clock, continues=lambda: True)
        while claim := self.store.queue.claim(SERVICE_QUEUE, lease, self.clock()):
            while claim is not None:
                claim = executor.execute(claim)

    def finish(self) -> Backfill:
        """Perform the backfill and its runs to the end."""
        for _ in range(2000):
            self.perform_due()
            if self.backfill.finished_at is not None:
                return self.backfill
            self.execute()
            self.clock.advance(1.0)
        raise AssertionError(f"the backfill does not end: {self.backfill}")

    def runs(self) -> list[Run]:
        """Return all runs, the oldest first."""
        summaries = self.store.runs.find(RunFilter("default", limit=10_000))[0]
        runs = [self.store.runs.get("default", summary.id) for summary in summaries[::-1]]
        return [run for run in runs if run is not None]

    def days(self) -> list[str]:
        return sorted(run.input["day"] for run in self.runs())


@pytest.fixture
def bench() -> BackfillBench:
    return BackfillBench()


def test_a_tenant_has_a_quota_of_backfills(bench: BackfillBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_MAX_BACKFILLS", "2")
    monkeypatch.setattr(quotas, "COUNTED_BACKFILLS", 1)
    bench.store.plans.save(plan := compile_text(DAILY.replace("bad: []", "bad: [one]")))
    playbook = RegisteredPlaybook("default", plan.header.name, "2", plan.hash, bench.clock())
    bench.store.registry.register(playbook, triggers=plan.header.triggers)
    bench.start(start=None, end=None, partitions=["one"], idempotency_key="k")
    failed = bench.finish()
    assert failed.state is BackfillState.FAILED
    bench.start(start=None, end=None, partitions=["two"])
    paused = bench.start(start=None, end=None, partitions=["three"])
    pause_backfill(bench.store, "default", paused.id)
    message = r"the tenant has 2 backfills that have not ended \(NOETL_MAX_BACKFILLS\)"
    with pytest.raises(RejectedError, match=message) as rejected:
        bench.start(start=None, end=None, partitions=["four"])
    assert rejected.value.reason == "quota_exceeded"
    with pytest.raises(RejectedError, match=message):
        retry_backfill(bench.store, "default", failed.id, "resume")
    # A repeated request starts none, so it has no quota.
    assert bench.start(start=None, end=None, partitions=["one"], idempotency_key="k").id == failed.id
    cancel_backfill(bench.store, "default", paused.id)
    assert bench.start(start=None, end=None, partitions=["four"]).state is BackfillState.RUNNING


def test_only_the_newest_backfills_are_counted(bench: BackfillBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "COUNTED_BACKFILLS", 1)
    monkeypatch.setattr(quotas, "MAX_COUNTED_PAGES", 1)
    monkeypatch.setenv("NOETL_MAX_BACKFILLS", "2")
    for number in range(4):
        bench.start(start=None, end=None, partitions=[number])


def test_the_runs_of_a_turn_are_started_in_several_turns_if_they_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other tenants have their turn in between."""
    monkeypatch.setattr(backfill_module, "PERFORM_SECONDS", 0.0)
    bench = BackfillBench()
    bench.start(days=4, limit=4)
    started = []
    while due := bench.store.outbox.due([OutboxKind.BACKFILL], bench.clock(), 10):
        assert perform_backfill(bench.store, due[0], bench.clock())
        started.append(len(bench.runs()))
    assert started == [1, 2, 3, 4]
    assert bench.finish().counts.succeeded == 4


def test_each_instant_from_the_first_time_to_before_the_last_starts_a_run(bench: BackfillBench) -> None:
    bench.start(start="2025-01-01T02:30", end="2025-01-03T01:30:00Z")
    backfill = bench.finish()
    assert (backfill.state, backfill.range.total) == (BackfillState.SUCCEEDED, 2)
    assert bench.days() == ["2025-01-01T01:30:00Z", "2025-01-02T01:30:00Z"]
    assert bench.counts == {"passed": 2, "started": 2, "succeeded": 2}
    run = bench.runs()[0]
    assert run.trigger == {
        "name": "daily",
        "type": "schedule",
        "scheduled_at": "2025-01-01T01:30:00Z",
        "workflow_id": None,
        "backfill": bench.id,
    }
    assert run.tags == (f"backfill={bench.id}",)
    firings = bench.store.triggers.firings("default", "play", "daily")[0]
    assert {firing.backfill for firing in firings} == {bench.id}
    assert bench.store.outbox.due(list(OutboxKind), NOW + 400 * DAY, 10) == []


def test_a_change_of_the_offset_is_that_of_the_schedule(bench: BackfillBench) -> None:
    """Berlin has no 02:30 on 2025-03-30."""
    bench.start(days=4)
    bench.finish()
    assert bench.days() == [
        "2025-03-28T01:30:00Z",
        "2025-03-29T01:30:00Z",
        "2025-03-30T01:00:00Z",
        "2025-03-31T00:30:00Z",
    ]


def test_the_instants_of_an_interval_count_from_the_first_time(bench: BackfillBench) -> None:
    bench.register(DAILY.replace("trigger.partition or trigger.scheduled_at", "trigger | tojson"))
    bench.start(days=1, every_seconds=43_200.0)
    bench.finish()
    first, second = map(json.loads, bench.days())
    assert first == {
        "scheduled_at": "2025-03-28T00:00:00Z",
        "previous_at": "2025-03-27T12:00:00Z",
        "next_at": "2025-03-28T12:00:00Z",
        "local": "2025-03-28T01:00:00+01:00",
        "partition": None,
    }
    assert second["scheduled_at"] == "2025-03-28T12:00:00Z"


def test_an_instant_knows_the_one_before_it(bench: BackfillBench) -> None:
    bench.register(DAILY.replace("trigger.partition or trigger.scheduled_at", "trigger.previous_at"))
    bench.start(days=1)
    bench.finish()
    assert bench.days() == ["2025-03-27T01:30:00Z"]


def test_the_first_instant_of_a_schedule_has_none_before_it(bench: BackfillBench) -> None:
    text = DAILY.replace('cron: "30 2 * * *"', 'every: 1d, start: "2025-03-28"'.replace(", ", "\n  "))
    bench.register(text.replace("trigger.partition or trigger.scheduled_at", "trigger.previous_at or 'none'"))
    bench.start(start=FROM - 10 * DAY, end=FROM + DAY / 2)
    bench.finish()
    assert bench.days() == ["none"]


def test_each_partition_of_a_list_starts_a_run(bench: BackfillBench) -> None:
    """The input of the playbook is text, so the number is refused."""
    bench.start(partitions=["eu", "us", 7], start=None, end=None)
    bench.finish()
    assert bench.days() == ["eu", "us"]
    assert bench.counts == {"passed": 3, "started": 2, "succeeded": 2, "rejected": 1}
    assert bench.backfill.state is BackfillState.FAILED
    assert (bench.backfill.reason or "").startswith("partition 7 was rejected: input `day` must be")


def test_a_list_of_several_slices_is_read_in_order(bench: BackfillBench) -> None:
    values = [f"p{number:04}" for number in range(LIST_SLICE + 3)]
    bench.start(partitions=values, start=None, end=None, limit=100)
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert bench.days() == values


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_runs_are_open_than_the_limit(bench: BackfillBench, limit: int) -> None:
    bench.start(days=8, limit=limit)
    most = 0
    while bench.backfill.finished_at is None:
        bench.perform_due()
        open_runs = [run for run in bench.runs() if not run.status.is_final]
        most = max(most, len(open_runs))
        bench.execute()
        bench.clock.advance(1.0)
    assert most == limit
    assert len(bench.runs()) == 8


@pytest.mark.parametrize(("is_billed", "half"), [(False, 0.0625), (True, 0.5625)])
def test_the_end_of_a_short_run_is_noticed_soon(
    bench: BackfillBench, monkeypatch: pytest.MonkeyPatch, is_billed: bool, half: float
) -> None:
    """Else a backfill whose runs take some milliseconds started one in a second."""
    monkeypatch.setattr(bench.store.queue, "claims_in_turn", not is_billed)
    bench.start(limit=1)
    for number in (1, 2, 3):
        bench.perform_due()
        assert len(bench.runs()) == number
        bench.execute()
        bench.clock.advance(half)
        assert bench.perform_due() == 0
        bench.clock.advance(half)
    bench.perform_due()
    assert bench.backfill.finished_at is not None


def test_the_end_of_a_long_run_is_looked_for_less_often(bench: BackfillBench) -> None:
    bench.start(limit=1)
    count = bench.perform_due()
    for _ in range(36_000):
        bench.clock.advance(0.1)
        count += bench.perform_due()
    assert count < 150


def test_an_instant_that_has_a_run_is_skipped(bench: BackfillBench) -> None:
    bench.start(days=2)
    bench.finish()
    bench.start(days=4)
    bench.finish()
    assert bench.counts == {"passed": 4, "started": 2, "succeeded": 2, "skipped": 2}
    assert len(bench.runs()) == 4


def test_the_run_of_an_instant_that_goes_on_is_skipped(bench: BackfillBench) -> None:
    bench.start(days=1)
    bench.perform_due()
    bench.start(days=1, redo="all")
    bench.perform_due()
    assert bench.counts == {"passed": 1, "skipped": 1}
    assert len(bench.runs()) == 1


def test_what_has_failed_starts_again_on_request() -> None:
    bench = BackfillBench(failing("2025-03-29T01:30:00Z"))
    bench.start()
    assert bench.finish().state is BackfillState.FAILED
    assert bench.counts == {"passed": 3, "started": 3, "succeeded": 2, "failed": 1}
    assert [text for text, _ in bench.backfill.failures] == ["2025-03-29T01:30:00Z"]
    bench.register(DAILY)
    bench.start()
    bench.finish()
    assert bench.counts == {"passed": 3, "skipped": 3}
    bench.start(redo="failed")
    bench.finish()
    assert bench.counts == {"passed": 3, "started": 1, "succeeded": 1, "skipped": 2}
    bench.start(redo="failed")
    bench.finish()
    assert bench.counts == {"passed": 3, "skipped": 3}
    for _ in range(3):
        bench.start(redo="all")
        bench.finish()
        assert bench.counts == {"passed": 3, "started": 3, "succeeded": 3}
    assert len(bench.runs()) == 3 + 1 + 9


def test_a_condition_and_a_refused_input_start_no_run(bench: BackfillBench) -> None:
    bench.register(
        DAILY.replace("type: schedule", "type: schedule\n  if: \"{{ trigger.local[8:10] != '29' }}\"")
    )
    bench.start(days=2)
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert bench.counts == {"passed": 2, "started": 1, "succeeded": 1, "filtered": 1}


def test_a_paused_backfill_starts_nothing_and_counts_what_ends(bench: BackfillBench) -> None:
    bench.start()
    bench.perform_due()
    paused = pause_backfill(bench.store, "default", bench.id)
    assert paused is not None
    assert (paused.state, len(paused.open)) == (BackfillState.PAUSED, 1)
    assert pause_backfill(bench.store, "default", bench.id) == paused
    bench.execute()
    bench.clock.advance(40.0)
    bench.perform_due()
    assert bench.counts == {"passed": 1, "started": 1, "succeeded": 1}
    assert bench.store.outbox.due([OutboxKind.BACKFILL], NOW + 400 * DAY, 1) == []
    resumed = resume_backfill(bench.store, "default", bench.id)
    assert resumed is not None
    assert resume_backfill(bench.store, "default", bench.id) == resumed
    assert bench.finish().counts.succeeded == 3


def test_a_cancelled_backfill_leaves_its_runs(bench: BackfillBench) -> None:
    bench.start()
    bench.perform_due()
    cancelled = cancel_backfill(bench.store, "default", bench.id)
    assert cancelled is not None
    assert (cancelled.state, cancelled.finished_at) == (BackfillState.CANCELLED, None)
    bench.finish()
    assert bench.counts == {"passed": 1, "started": 1, "succeeded": 1}
    for change in (pause_backfill, resume_backfill):
        with pytest.raises(RejectedError, match=r"was cancelled; it cannot be (paused|resumed)"):
            change(bench.store, "default", bench.id)
    with pytest.raises(RejectedError, match="was cancelled"):
        retry_backfill(bench.store, "default", bench.id, "resume")


def test_a_cancelled_backfill_cancels_its_runs_on_request(bench: BackfillBench) -> None:
    bench.start(limit=2)
    bench.perform_due()
    assert cancel_backfill(bench.store, "default", bench.id) is not None
    cancelled = cancel_backfill(bench.store, "default", bench.id, cancels_runs=True)
    assert cancelled is not None
    assert cancelled.cancels_runs
    bench.finish()
    assert {run.status for run in bench.runs()} == {RunStatus.CANCELLED}
    assert bench.counts == {"passed": 2, "started": 2, "failed": 2}


def test_a_cancelled_backfill_that_has_started_nothing_ends_at_once(bench: BackfillBench) -> None:
    bench.start()
    cancelled = cancel_backfill(bench.store, "default", bench.id)
    assert cancelled is not None
    assert cancelled.finished_at == NOW
    assert bench.perform_due() == 0


LIST: dict[str, Any] = {"partitions": ["us", "eu", "uk"], "start": None, "end": None}


@pytest.mark.parametrize("options", [{}, LIST], ids=["instants", "list"])
@pytest.mark.parametrize("mode", ["resume", "fresh"])
def test_failed_runs_are_retried(options: dict[str, Any], mode: RetryMode) -> None:
    text = failing("eu", "2025-03-29T01:30:00Z")
    bench = BackfillBench(text.replace("day in bad", f"day in bad and now().timestamp() < {NOW + 1000}"))
    bench.start(**options)
    assert bench.finish().state is BackfillState.FAILED
    assert bench.counts == {"passed": 3, "started": 3, "succeeded": 2, "failed": 1}
    bench.clock.now = NOW + 1000
    assert retry_backfill(bench.store, "default", bench.id, mode) is not None
    with pytest.raises(RejectedError, match="has not ended"):
        retry_backfill(bench.store, "default", bench.id, mode)
    assert bench.finish().state is BackfillState.SUCCEEDED
    new = int(mode == "fresh")
    assert bench.counts == {"passed": 3, "started": 3 + new, "succeeded": 3}
    assert len(bench.runs()) == 3 + new
    assert sum(run.resumes for run in bench.runs()) == 1 - new
    with pytest.raises(RejectedError, match="has no failed run"):
        retry_backfill(bench.store, "default", bench.id, mode)


def test_a_retry_keeps_the_reason_of_a_rejected_partition() -> None:
    """The partition is not tried again, and still counts as rejected."""
    bench = BackfillBench(failing("eu"))
    bench.start(partitions=["eu", 7], start=None, end=None)
    reason = bench.finish().reason
    assert (reason or "").startswith("partition 7 was rejected")
    retry_backfill(bench.store, "default", bench.id, "resume")
    assert (bench.backfill.reason, bench.finish().reason) == (reason, reason)
    assert bench.counts["rejected"] == 1


def test_a_retry_leaves_the_runs_of_others() -> None:
    bench = BackfillBench(failing("2025-03-28T01:30:00Z", "2025-03-29T01:30:00Z"))
    bench.start(days=1)
    bench.finish()
    bench.start(days=2)
    bench.finish()
    assert bench.counts == {"passed": 2, "started": 1, "failed": 1, "skipped": 1}
    retry_backfill(bench.store, "default", bench.id, "resume")
    bench.finish()
    assert bench.counts == {"passed": 2, "started": 1, "failed": 1, "skipped": 1}
    assert [run.resumes for run in bench.runs()] == [0, 1]


def test_a_partition_that_a_retry_has_filtered_is_failed_no_more() -> None:
    condition = f"now().timestamp() < {NOW + 1000} or trigger.partition == 'eu'"
    bench = BackfillBench(
        failing("us", "eu", "uk").replace("  input: {day", f'  if: "{{{{ {condition} }}}}"\n  input: {{day')
    )
    bench.start(**LIST)
    assert bench.finish().counts.failed == 3
    bench.clock.now = NOW + 1000
    for number in (1, 2):
        retry_backfill(bench.store, "default", bench.id, "fresh")
        assert bench.finish().state is BackfillState.FAILED
        assert bench.counts == {"passed": 3, "started": 3 + number, "failed": 1, "filtered": 2}


def test_a_retry_counts_what_a_person_has_resumed() -> None:
    """Three runs have failed. One has succeeded since, one goes on, and one is retried."""
    bench = BackfillBench(
        failing("us", "eu", "uk").replace("day in bad", f"now().timestamp() < {NOW + 1000}")
    )
    bench.start(**LIST)
    assert bench.finish().counts.failed == 3
    first, second, third = bench.runs()
    bench.clock.now = NOW + 1000
    for run in (first, second):
        bench.store.runs.resume(run.id, bench.clock(), deadline_at=None, values={})
        if run is first:
            bench.execute()
    retry_backfill(bench.store, "default", bench.id, "resume")
    bench.perform_due()
    assert [item.run_id for item in bench.backfill.open] == [second.id]
    assert bench.backfill.failures == ((third.input["day"], third.id),)
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert bench.counts == {"passed": 3, "started": 3, "succeeded": 3}
    assert [run.resumes for run in bench.runs()] == [1, 1, 1]


MANY = [f"p{number:02}" for number in range(30)]
"""More partitions than `show` names among the failed ones."""


def test_a_retry_counts_all_that_a_person_has_resumed() -> None:
    bench = BackfillBench(failing(*MANY).replace("day in bad", f"now().timestamp() < {NOW + 1000}"))
    bench.start(partitions=MANY, start=None, end=None, limit=30)
    assert bench.finish().counts.failed == 30
    bench.clock.now = NOW + 1000
    for run in bench.runs()[:25]:
        bench.store.runs.resume(run.id, bench.clock(), deadline_at=None, values={})
    bench.execute()
    retry_backfill(bench.store, "default", bench.id, "resume")
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert bench.counts == {"passed": 30, "started": 30, "succeeded": 30}
    assert [run.resumes for run in bench.runs()] == [1] * 30


def test_all_partitions_that_a_retry_has_filtered_are_failed_no_more() -> None:
    condition = f"now().timestamp() < {NOW + 1000} or trigger.partition >= 'p05'"
    bench = BackfillBench(
        failing(*MANY).replace("  input: {day", f'  if: "{{{{ {condition} }}}}"\n  input: {{day')
    )
    bench.start(partitions=MANY, start=None, end=None, limit=30)
    assert bench.finish().counts.failed == 30
    bench.clock.now = NOW + 1000
    for number in (1, 2):
        retry_backfill(bench.store, "default", bench.id, "fresh")
        assert bench.finish().state is BackfillState.FAILED
        assert bench.counts == {"passed": 30, "started": 30 + 25 * number, "failed": 25, "filtered": 5}


def test_a_backfill_of_an_earlier_commit_retries_all_that_failed() -> None:
    bench = BackfillBench(failing(*MANY).replace("day in bad", f"now().timestamp() < {NOW + 1000}"))
    bench.start(partitions=MANY, start=None, end=None, limit=30)
    bench.finish()
    entry = bench.store.outbox.get("default", bench.id)
    assert entry is not None
    record = {name: value for name, value in entry.record.items() if name != "failed"}
    assert bench.store.outbox.change(entry, replace(entry, record=record, edition=entry.edition + 1))
    bench.clock.now = NOW + 1000
    retry_backfill(bench.store, "default", bench.id, "resume")
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert bench.counts == {"passed": 30, "started": 30, "succeeded": 30}


def test_a_retried_run_has_the_time_limit_of_its_version() -> None:
    bench = BackfillBench(failing("2025-03-28T01:30:00Z"))
    bench.start(days=1)
    bench.finish()
    (run,) = bench.runs()
    plan = compile_text("timeout: 1h" + failing("2025-03-28T01:30:00Z"))
    bench.store.plans.save(plan)
    switcher = PlanSwitcher(bench.store, bench.clock, judge)
    assert switcher.switch(run.id, SwitchRequest(plan, Switch())).run is not None
    bench.execute()
    retry_backfill(bench.store, "default", bench.id, "resume")
    bench.perform_due()
    (run,) = bench.runs()
    assert (run.resumes, run.deadline_at) == (2, bench.clock() + 3600.0)


def test_the_version_of_the_start_runs(bench: BackfillBench) -> None:
    bench.start()
    bench.perform_due()
    bench.register(DAILY.replace("message: bad", "message: new"))
    assert bench.finish().state is BackfillState.SUCCEEDED
    assert {run.version for run in bench.runs()} == {"1"}


@pytest.mark.parametrize("version", [None, "1"])
def test_a_removed_version_starts_no_run_any_more(bench: BackfillBench, version: str | None) -> None:
    bench.start()
    bench.perform_due()
    if version is not None:
        bench.register(DAILY.replace("message: bad", "message: new"))
    bench.store.registry.unregister("default", "play", version, now=bench.clock())
    backfill = bench.finish()
    assert (backfill.state, backfill.reason) == (
        BackfillState.FAILED,
        "version 1 of playbook `play` was removed",
    )
    assert bench.counts == {"passed": 1, "started": 1, "succeeded": 1}


@pytest.mark.parametrize("options", [{}, LIST], ids=["instants", "list"])
@pytest.mark.parametrize("mode", ["resume", "fresh"])
def test_what_a_retry_has_not_started_when_its_version_is_removed_has_failed(
    options: dict[str, Any], mode: RetryMode
) -> None:
    """A process dies after it has chosen the partition. The version is removed, and restored later."""
    bench = BackfillBench(failing("eu", "2025-03-29T01:30:00Z"))
    bench.start(**options)
    before = bench.finish()
    assert retry_backfill(bench.store, "default", bench.id, mode) is not None
    _perform_and_die(bench, 1, is_after=False)
    assert [item.is_started for item in bench.backfill.open] == [False]
    [registered], _ = bench.store.registry.find("default", "play")
    bench.store.registry.unregister("default", "play", now=bench.clock())
    bench.clock.advance(START_SECONDS)
    after = bench.finish()
    assert (after.state, after.counts.failed, after.failures) == (BackfillState.FAILED, 1, before.failures)
    bench.store.registry.register(registered)
    assert retry_backfill(bench.store, "default", bench.id, mode) is not None
    assert bench.finish().counts.failed == 1
    assert len(bench.runs()) == 3 + (mode == "fresh")
    assert sum(run.resumes for run in bench.runs()) == (mode == "resume")


def test_a_retry_needs_the_version() -> None:
    bench = BackfillBench(failing("2025-03-28T01:30:00Z"))
    bench.start()
    bench.finish()
    bench.store.registry.unregister("default", "play", now=bench.clock())
    with pytest.raises(RejectedError, match="version 1 of playbook `play` was removed"):
        retry_backfill(bench.store, "default", bench.id, "fresh")


def test_many_instants_with_runs_take_several_turns(bench: BackfillBench) -> None:
    hours = MAX_EXAMINED + 50
    options: dict[str, Any] = {"every_seconds": 3600.0, "end": FROM + hours * 3600.0, "limit": 100}
    bench.start(**options)
    bench.finish()
    assert len(bench.runs()) == hours
    bench.start(**options | {"limit": 1})
    assert bench.perform_due() > 1
    assert bench.counts == {"passed": hours, "skipped": hours}


def test_a_deleted_run_counts_as_failed(bench: BackfillBench) -> None:
    bench.start(days=1)
    bench.perform_due()
    bench.execute()
    bench.store.maintenance.delete_run("default", bench.runs()[0].id)
    bench.clock.advance(5.0)
    bench.perform_due()
    assert bench.counts == {"passed": 1, "started": 1, "failed": 1}


def test_a_full_tenant_delays_the_next_run(bench: BackfillBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(limit=2)

    def refuse(*_: object) -> None:
        raise RejectedError("quota_exceeded", "too many branches")

    with monkeypatch.context() as patched:
        patched.setattr("noetl.executor.engine.firing.check_branch_quota", refuse)
        assert bench.perform_due() == 1
    assert (bench.runs(), len(bench.backfill.open)) == ([], 2)
    bench.clock.advance(POSTPONE_SECONDS)
    assert bench.finish().counts.succeeded == 3


@pytest.mark.parametrize("problem", [RejectedError("other", "no"), KeyError("x")])
def test_a_turn_that_fails_is_tried_again(
    bench: BackfillBench, problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start()

    def fail(*_: object) -> None:
        raise problem

    with monkeypatch.context() as patched:
        patched.setattr(backfill_module, "_choose", fail)
        assert bench.perform_due() == 1
    bench.clock.advance(POSTPONE_SECONDS)
    assert bench.finish().counts.succeeded == 3


def test_a_lost_store_is_reported(bench: BackfillBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()

    def fail(*_: object) -> None:
        raise StoreAwayError("away")

    monkeypatch.setattr(backfill_module, "_choose", fail)
    with pytest.raises(StoreAwayError):
        bench.perform_due()


def test_one_of_two_processes_performs_a_turn(bench: BackfillBench) -> None:
    bench.start()
    [entry] = bench.store.outbox.due([OutboxKind.BACKFILL], bench.clock(), 10)
    assert perform_backfill(bench.store, entry, bench.clock())
    assert not perform_backfill(bench.store, entry, bench.clock())
    assert len(bench.runs()) == 1


class TimedSqliteStore(SqliteStore):
    """A store in a file with the clock of the test."""

    clock: Any = None


class ProcessDeath(BaseException):
    """The death of a process at a write."""


@pytest.mark.parametrize("mode", ["start", "resume", "fresh"])
@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_process_may_die_at_every_write(mode: str, is_after: bool, kind: str, tmp_path: Path) -> None:
    """Let each write of each turn be the last one of its process, before or after it is made."""
    failed = [f"2025-04-0{day}T00:30:00Z" for day in range(1, 9)]
    bench = BackfillBench(
        failing(*failed), TimedSqliteStore(str(tmp_path / "noetl.db")) if kind == "sqlite" else None
    )
    bench.start(days=15, limit=2)
    if mode != "start":
        bench.finish()
        assert retry_backfill(bench.store, "default", bench.id, "fresh" if mode == "fresh" else "resume")
    deaths = 0
    for number in range(1000):
        if bench.backfill.finished_at is not None:
            break
        deaths += _perform_and_die(bench, number % 3, is_after)
        bench.execute()
        bench.clock.advance(START_SECONDS)
    assert deaths >= 10
    again = 8 if mode == "fresh" else 0
    assert len(bench.runs()) == 15 + again
    assert bench.counts == {"passed": 15, "started": 15 + again, "succeeded": 7, "failed": 8}
    assert sum(run.resumes for run in bench.runs()) == (8 if mode == "resume" else 0)
    bench.store.close()


def _perform_and_die(bench: BackfillBench, allowed: int, is_after: bool) -> int:
    """Perform a due turn whose process dies at a write after some others. Return the number of deaths."""
    left = [allowed]

    def mortal(write: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and not is_after:
                raise ProcessDeath
            result = write(*arguments, **options)
            if left[0] < 0:
                raise ProcessDeath
            return result

        return call

    store = bench.store
    with pytest.MonkeyPatch.context() as patched:
        for part, name in ((store.outbox, "change"), (store.runs, "fire"), (store.runs, "resume")):
            patched.setattr(part, name, mortal(getattr(part, name)))
        for entry in store.outbox.due([OutboxKind.BACKFILL], bench.clock(), 1):
            try:
                perform_backfill(store, entry, bench.clock())
            except ProcessDeath:
                return 1
    return 0


def test_a_cancelled_backfill_does_not_start_what_a_dead_process_has_chosen(bench: BackfillBench) -> None:
    bench.start()
    _perform_and_die(bench, 1, is_after=False)
    assert [item.is_started for item in bench.backfill.open] == [False]
    cancel_backfill(bench.store, "default", bench.id)
    assert bench.perform_due() == 0
    bench.clock.advance(START_SECONDS)
    bench.perform_due()
    assert bench.runs() == []
    assert (bench.counts, bench.backfill.finished_at) == ({"passed": 1}, bench.clock())


def test_the_same_key_starts_one_backfill(bench: BackfillBench) -> None:
    first = bench.start(idempotency_key="k")
    assert bench.start(idempotency_key="k") == first
    with pytest.raises(RejectedError) as rejected:
        bench.start(days=4, idempotency_key="k")
    assert rejected.value.reason == "idempotency_key_reused"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": FROM, "end": FROM}, "`from` must be before `to`"),
        ({"start": FROM + DAY, "end": FROM}, "2025-03-29T00:00:00Z is not before 2025-03-28T00:00:00Z"),
        ({"end": NOW + 1.0}, "`to` must not be in the future"),
        ({"start": "x"}, "`from` must be a time such as 2026-01-31 or 2026-01-31T09:30:00Z, not x"),
        ({"end": "9999-12-31"}, "`to` must have a year from 1970 to 2999, not 9999-12-31"),
        ({"start": "1900-01-01"}, "`from` must have a year from 1970 to 2999, not 1900-01-01"),
        ({"end": "2999-12-31"}, "`to` must not be in the future"),
        ({"end": None}, "needs `from` and `to`, or a list"),
        ({"start": None}, "needs `from` and `to`, or a list"),
        ({"partitions": ["a"]}, "contradicts `from`, `to` and `every`"),
        ({"every_seconds": 0.5}, "`every` must be at least 1 s"),
        ({"every_seconds": 1.0}, "at most 100,000 partitions; choose a shorter range"),
        ({"end": FROM + 60.0}, "no instant from 2025-03-28T00:00:00Z to 2025-03-28T00:01:00Z"),
        ({"limit": 0}, "`limit` must be from 1 to 100"),
        ({"limit": 101}, "`limit` must be from 1 to 100"),
        (LIST | {"partitions": []}, "the list has no partition"),
        (LIST | {"partitions": ["a", ""]}, "partition 2 must have from 1 to 256 bytes"),
        (LIST | {"partitions": ["ä" * 129]}, "partition 1 must have from 1 to 256 bytes"),
        (LIST | {"partitions": ["a", "b", "a"]}, "duplicate partition `a`"),
        (LIST | {"partitions": [1, "1"]}, "duplicate partition `1`"),
        (LIST | {"partitions": [True]}, "partition 1 must be a text or a number, not true"),
        (LIST | {"partitions": [["a"]]}, "partition 1 must be a text or a number"),
        (LIST | {"partitions": range(MAX_PARTITIONS + 1)}, "at most 100,000 partitions, not 100,001"),
    ],
)
def test_a_wrong_request_is_refused(bench: BackfillBench, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RejectedError) as rejected:
        bench.start(**({"days": 2} | options))
    assert rejected.value.reason == "invalid_backfill"
    assert message in rejected.value.message
    assert bench.store.outbox.find("default", OutboxKind.BACKFILL) == ([], None)


def test_a_backfill_needs_a_schedule(bench: BackfillBench) -> None:
    bench.register("""
    triggers: [{name: daily, type: run, playbook: other}]
    steps: [{name: a, run: [{action: log, message: hello}]}]
    """)
    with pytest.raises(RejectedError, match="is of type `run`; a backfill needs one of type `schedule`"):
        bench.start()


def test_a_range_of_too_many_instants_is_refused_without_a_look_at_each(
    bench: BackfillBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.register("""
    triggers: [{name: daily, type: schedule, cron: "* * * * * *"}]
    steps: [{name: a, run: [{action: log, message: hello}]}]
    """)
    monkeypatch.setattr(Schedule, "next_after", None)
    with pytest.raises(RejectedError, match="at most 100,000 partitions"):
        bench.start(start="2000-01-01")


def test_the_instant_before_a_gap_of_a_year_is_the_last_of_many() -> None:
    january = Schedule(cron="* * * * 1 *")
    assert find_previous(january, 1_735_689_600.0) == 1_706_745_599.0


def test_100_000_partitions_are_not_too_many(bench: BackfillBench) -> None:
    backfill = bench.start(days=10, end=FROM + MAX_PARTITIONS * 60.0, every_seconds=60.0)
    assert backfill.range.total == MAX_PARTITIONS


def test_an_unknown_backfill_is_none(bench: BackfillBench) -> None:
    bench.start(**LIST)
    list_slice = bench.store.outbox.find("default", OutboxKind.PARTITIONS)[0][0]
    for id in ("unknown", list_slice.id):
        for change in (pause_backfill, resume_backfill, cancel_backfill, read_backfill):
            assert change(bench.store, "default", id) is None
    assert read_backfill(bench.store, "other", bench.id) is None


def test_a_person_gives_way_to_turns(bench: BackfillBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()
    monkeypatch.setattr(bench.store.outbox, "change", lambda *_: False)
    with pytest.raises(RejectedError, match="was changed meanwhile"):
        pause_backfill(bench.store, "default", bench.id)


def test_a_lost_list_is_tried_again(bench: BackfillBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.start(**LIST)
    [list_slice] = bench.store.outbox.find("default", OutboxKind.PARTITIONS)[0]
    assert bench.store.outbox.change(list_slice, None)
    assert bench.perform_due() == 1
    assert "was deleted" in caplog.text


def test_earlier_commits_read_a_backfill_without_open_and_failed_runs(bench: BackfillBench) -> None:
    """They refuse names that they do not know."""
    bench.start()
    for record in (bench.backfill.to_json(), bench.finish().to_json()):
        assert record.keys() == {field for field in Backfill.__match_args__ if field != "failed"}
        assert Backfill.from_json(record).failed == NO_NUMBERS
    counts = bench.backfill.counts.add("failed")
    assert Backfill.from_json(replace(bench.backfill, counts=counts).to_json()).failed is None


def test_the_record_of_a_backfill_can_be_read_again(bench: BackfillBench) -> None:
    failures = (("a", instant_key(0.0)),)
    backfill = replace(
        bench.start(), counts=BackfillCounts(passed=1), failures=failures, failed=PartitionNumbers(5)
    )
    assert Backfill.from_json(backfill.to_json()) == backfill


def test_two_backfills_share_their_instants(bench: BackfillBench) -> None:
    """Start two backfills of the same instants, and one that starts what has ended again."""
    ids = [bench.start(days=10, limit=3).id for _ in range(2)]
    for backfill_id in ids:
        bench.id = backfill_id
        bench.finish()
    assert len(bench.runs()) == len(set(bench.days())) == 10
    ids = [bench.start(days=10, limit=3, redo="all").id for _ in range(2)]
    for _ in range(100):
        bench.perform_due()
        open_days = [run.input["day"] for run in bench.runs() if not run.status.is_final]
        assert len(open_days) == len(set(open_days))
        bench.execute()
        bench.clock.advance(1.0)
    for backfill_id in ids:
        bench.id = backfill_id
        assert bench.backfill.state is BackfillState.SUCCEEDED
