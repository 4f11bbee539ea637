"""Budgets of a visit and of a run: actions between two pauses, events in memory, bytes of the log."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.engine import event_buffer, run_bytes
from noetl.executor.engine.attempts import _make_playbook_log
from noetl.executor.engine.event_buffer import MAX_BATCH_EVENTS, EventBuffer
from noetl.executor.engine.run_bytes import ByteCounter, ignore_bytes, limit_log, line_size
from noetl.executor.errors import ActionError, SettingError, StoreError
from noetl.executor.model.byte_kind import ByteKind
from noetl.executor.model.count_budget import action_budget, wait_budget
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.runtime.json_logs import LOG_CONTEXT, _JsonLines
from noetl.executor.runtime.lease_keeper import LeaseKeeper
from noetl.executor.security.capabilities import DEFAULT_FILE_BYTES, DEFAULT_LOG_BYTES, service_capabilities
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.run_harness import RunHarness

NESTED = """
    tasks:
    - {name: t1, run: [CALLS]}
    - {name: t2, run: [{action: log, message: x}, {action: log, message: x}]}
    steps:
    - {name: a, run: [{task: t1}, {task: t1}]}
""".replace("CALLS", ", ".join(["{task: t2}"] * 5))
"""A playbook whose tasks perform twenty actions."""

WAITS = """
    steps:
    - name: a
      loop: {items: "{{ range(ITEMS) | list }}", concurrency: 9}
      run: [{action: wait, seconds: 1}, {action: wait, until: "2001-01-01T00:00:00Z"}]
"""
"""A playbook with a step that waits for ITEMS things at the same time."""


LOG = "{action: log, message: x}"
PAUSES = {
    "waits": (
        f"run: [{LOG}, {{action: wait, seconds: 9}}, {LOG}, {{action: wait, seconds: 9}}, {LOG}]",
        7,
        "succeeded",
    ),
    "rounds": (f"repeat: {{until: '{{{{ false }}}}', every: 5s, max: 4}}, run: [{LOG}]", 4, "failed"),
    "batches": (f"loop: {{items: '{{{{ range(9) | list }}}}', batch: 2}}, run: [{LOG}]", 9, "succeeded"),
    "attempts": ("retry: {attempts: 3, delay: 5s}, run: [{action: shell, command: 'false'}]", 3, "failed"),
}
"""Work that pauses, the number of its attempts at actions, and how its run ends."""


def test_an_action_beyond_the_budget_fails() -> None:
    budget = action_budget(19, 9)
    for _ in range(10):
        budget.take()
    message = r"performs more than 19 actions \(NOETL_MAX_ACTIONS\)"
    with pytest.raises(ActionError, match=message) as caught:
        budget.take()
    assert (caught.value.type, caught.value.retryable, budget.count) == ("LimitExceeded", False, 19)


@pytest.mark.parametrize(("limit", "status"), [(20, "succeeded"), (19, "failed")])
def test_actions_of_nested_tasks_are_counted_together(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, limit: int, status: str
) -> None:
    monkeypatch.setenv("NOETL_MAX_ACTIONS", str(limit))
    harness = RunHarness(store, NESTED).finish()
    assert harness.status == status


@pytest.mark.parametrize("name", PAUSES)
@pytest.mark.parametrize("is_exceeded", [False, True])
def test_actions_are_counted_over_all_segments_of_a_visit(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, name: str, is_exceeded: bool
) -> None:
    work, actions, expected = PAUSES[name]
    monkeypatch.setenv("NOETL_MAX_ACTIONS", str(actions - is_exceeded))
    text = f"steps: [{{name: a, {work}}}, {{name: b, run: [{LOG}]}}]"
    harness = RunHarness(store, text.replace("}, {name: b", ", rule: [{case: default, run: [b]}]}, {name: b"))
    harness.finish()
    assert harness.status == ("failed" if is_exceeded else expected)
    assert ("LimitExceeded" in str(harness.run.errors)) == is_exceeded


class TestWaitingActions:
    def test_an_action_that_does_not_wait_leaves_its_place(self) -> None:
        budget = wait_budget(1)
        for _ in range(3):
            budget.take()
            budget.give_back()
        budget.take()
        with pytest.raises(
            ActionError, match=r"more than 1 actions of the step wait \(NOETL_MAX_WAITS\)"
        ) as caught:
            budget.take()
        assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)

    @pytest.mark.parametrize(("items", "status"), [(5, "waiting"), (6, "failed")])
    def test_waits_of_a_step_are_counted_together(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, items: int, status: str
    ) -> None:
        monkeypatch.setenv("NOETL_MAX_WAITS", "5")
        harness = RunHarness(store, WAITS.replace("ITEMS", str(items)))
        while harness.execute_next():
            pass
        assert harness.status == status
        assert harness.run.error is None or harness.run.error["type"] == "LimitExceeded"

    def test_waits_that_follow_each_other_are_not_added_up(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NOETL_MAX_WAITS", "2")
        text = WAITS.replace("ITEMS", "6").replace("concurrency: 9", "concurrency: 2")
        assert RunHarness(store, text).finish().status == "succeeded"


class TestSpill:
    def test_a_full_buffer_is_written_while_the_work_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event_buffer, "MAX_BUFFERED_EVENTS", 1000)
        written: list[Event] = []

        def write(events: Sequence[Event], already_written: int) -> bool:
            assert already_written == len(written)
            written.extend(events)
            return True

        buffer = EventBuffer(lambda full: full.flush_batch(write))
        for number in range(10_000):
            buffer.append(Event(str(number), 0.0))
        assert len(written) >= 9000
        buffer.flush_all(written.extend)
        assert [event.type for event in written] == [str(number) for number in range(10_000)]

    def test_a_store_that_fails_loses_no_event(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_buffer, "MAX_BUFFERED_EVENTS", 4)
        harness = RunHarness(store, NESTED)
        claim = harness.claim()
        assert claim is not None

        def fail(*_: Any) -> bool:
            raise StoreError("The store is away.")

        with monkeypatch.context() as patch:
            patch.setattr(store.queue, "renew", fail)
            LeaseKeeper(store, 30.0, harness.clock).execute(harness.executor(), claim)
        assert [event.type for event in store.runs.events(harness.id)].count("action.completed") == 20

    def test_events_of_a_claim_spill_in_batches(
        self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(event_buffer, "MAX_BUFFERED_EVENTS", 8)
        sizes = []
        renew = store.queue.renew

        def record(
            claimed: Any, until: float, events: Sequence[Event] = (), already_written: int = 0
        ) -> bool:
            sizes.append(len(events))
            return renew(claimed, until, events, already_written)

        monkeypatch.setattr(store.queue, "renew", record)
        harness = RunHarness(store, NESTED)
        claim = harness.claim()
        assert claim is not None
        LeaseKeeper(store, 30.0, harness.clock).execute(harness.executor(), claim)
        assert sizes and max(sizes) <= MAX_BATCH_EVENTS
        types = [event.type for event in store.runs.events(harness.id)]
        assert (types.count("action.started"), types.count("action.completed")) == (20, 20)


class TestLogBudget:
    def test_one_line_says_that_logging_has_stopped(self) -> None:
        lines: list[tuple[str, str]] = []

        def log(level: str, message: str, fields: Mapping[str, Any]) -> None:
            lines.append((level, message))

        counter = ByteCounter("logged")
        limit = 2 * line_size("1234", {}, {"run": "r"})
        write = limit_log({"run": "r"}, limit, log, counter=counter)
        for _ in range(100):
            write("info", "1234", {})
        limit_log({"run": "other"}, limit, log, counter=counter)("info", "5678", {})
        assert [line for line in lines if line[0] == "info"] == [("info", "1234")] * 2 + [("info", "5678")]
        (stop,) = [message for level, message in lines if level == "warning"]
        assert f"the run has logged {limit} bytes (NOETL_LOG_BYTES)" in stop

    def test_fields_count_as_well(self) -> None:
        lines: list[str] = []
        counter = ByteCounter("logged")
        write = limit_log(
            {"run": "r"}, 600, lambda _level, message, _fields: lines.append(message), counter=counter
        )
        write("info", "", {"a": "x" * 600})
        write("info", "x", {})
        assert len(lines) == 1

    @pytest.mark.parametrize(
        "message",
        ["", "\x01" * 16_384, 'é😀\n"' * 1000],
        ids=["empty", "controls", "letters"],
    )
    def test_a_line_counts_as_it_is_written(self, message: str, caplog: pytest.LogCaptureFixture) -> None:
        state = "a=" + '"' * 500
        fields: dict[str, Any] = {"list": [1, None, "\x7f\x80"], "at": 1.5}
        labels = {"run": derived_id("r"), "step": "é" * 60, "visit": 12, "trace_id": "a" * 32}
        labels |= {"trace_flags": "01", "trace_state": state}
        with caplog.at_level(logging.INFO, "noetl.playbook"):
            _make_playbook_log(labels)("warning", message, fields)
        token = LOG_CONTEXT.set({"request_id": derived_id("request")})
        written = len(_JsonLines("\n").format(caplog.records[0]).encode())
        LOG_CONTEXT.reset(token)
        assert written <= line_size(message, fields, labels) <= written + 64

    def test_a_run_of_a_service_has_a_budget(
        self, store: SqliteStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = """
            steps:
            - name: a
              loop: {items: "{{ range(100) | list }}"}
              run: [{action: log, message: "{{ 'x' * 1000 }}"}]
        """
        harness = RunHarness(store, text)
        harness.capabilities = service_capabilities({"NOETL_LOG_BYTES": "14500"})
        with caplog.at_level(logging.INFO, "noetl.playbook"):
            assert harness.finish().status == "succeeded"
        assert len(caplog.messages) == 11
        assert "NOETL_LOG_BYTES" in caplog.messages[-1]

    @pytest.mark.parametrize("setting", ["NOETL_LOG_BYTES", "NOETL_FILE_BYTES"])
    def test_the_setting_is_checked(self, setting: str) -> None:
        allowed = service_capabilities({})
        assert (allowed.log_bytes, allowed.file_bytes) == (DEFAULT_LOG_BYTES, DEFAULT_FILE_BYTES)
        for text in ("x", "-1", "1.5", "9" * 5000):
            with pytest.raises(SettingError, match=f"{setting} is"):
                service_capabilities({setting: text})


class TestByteCounter:
    """Counters of several processes that share a store, each with the same limit."""

    def test_processes_exceed_the_limit_by_a_portion_each(self) -> None:
        totals: Counter[str] = Counter()
        requests = 0

        def add_to_store(run_id: str, _kind: ByteKind, size: int) -> int:
            nonlocal requests
            requests += 1
            totals[run_id] += size
            return totals[run_id]

        limit, processes = 256_000, [ByteCounter("logged") for _ in range(8)]
        used = 0
        for _ in range(1000):
            for process in processes:
                before, after = process.add("r", 300, limit, add_to_store)
                used += 300 * (before <= limit and after <= limit)
        assert limit - 300 < used <= limit + len(processes) * limit // 256
        # A run over its limit writes nothing any more.
        assert requests <= 256 + len(processes)

    def test_a_run_that_uses_little_writes_nothing(self) -> None:
        counter = ByteCounter("written")
        for _ in range(255):
            counter.add("r", 1, 65_536, _refuse)
        with pytest.raises(StoreError, match="the store is away"):
            counter.add("r", 1, 65_536, _refuse)
        # What could not be counted is counted with the next bytes.
        assert counter.add("r", 1, 65_536, lambda _run, _kind, size: size + 1000) == (256, 1257)

    def test_the_run_that_used_bytes_least_recently_is_forgotten(self) -> None:
        counter = ByteCounter("logged", max_runs=2)
        for run_id in ("a", "b", "a", "c"):
            counter.add(run_id, 1, 1000, ignore_bytes)
        assert counter.add("a", 1, 1000, ignore_bytes) == (2, 3)
        assert counter.add("b", 1, 1000, ignore_bytes) == (0, 1)


def _refuse(_run_id: str, _kind: ByteKind, _size: int) -> int:
    raise StoreError("the store is away")


@pytest.mark.parametrize("kind", ["logged", "written"])
@pytest.mark.parametrize("flow", ["pauses", "cycle"])
def test_bytes_of_a_run_are_counted_over_its_processes(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, flow: str
) -> None:
    """Each segment and each visit is executed by a process of its own, as in Lambda."""
    text = """
        steps:
        - name: a
          FLOW
          run:
          - {action: log, message: "{{ 'x' * 1000 }}"}
          - {action: file, append: a, content: "{{ 'x' * 1000 }}"}
    """.replace(
        "FLOW",
        'repeat: {until: "{{ false }}", every: 5s, max: 4}'
        if flow == "pauses"
        else 'max_visits: 4\n          rule: [{case: "{{ steps.a.visits < 4 }}", run: [a]}, {case: default}]',
    )
    (tmp_path / "files").mkdir()
    setting = "NOETL_LOG_BYTES" if kind == "logged" else "NOETL_FILE_BYTES"
    harness = RunHarness(store, text)
    harness.capabilities = service_capabilities(
        {"NOETL_FILES_ROOT": str(tmp_path / "files"), "NOETL_STORE": "memory://", setting: "2900"}
    )
    lines: list[str] = []
    monkeypatch.setattr(
        logging.getLogger("noetl.playbook"), "log", lambda _level, line, **_: lines.append(line)
    )
    for _ in range(4):
        for counter in (run_bytes.LOGGED_BYTES, run_bytes.WRITTEN_BYTES):
            monkeypatch.setattr(counter, "_runs", OrderedDict())
        harness.execute_next()
        harness.clock.advance(5.0)
    size = (tmp_path / "files" / "a").stat().st_size
    assert (size, "LimitExceeded" in str(harness.run.error)) == (
        (4000, False) if kind == "logged" else (2000, True)
    )
    assert lines.count("x" * 1000) == (2 if kind == "logged" else 3)


class TestFileBudget:
    @pytest.mark.parametrize("operation", ["write", "append"])
    def test_a_run_cannot_fill_the_disk(self, store: SqliteStore, tmp_path: Path, operation: str) -> None:
        text = f"""
            steps:
            - name: a
              loop: {{items: "{{{{ range(100) | list }}}}"}}
              run: [{{action: file, {operation}: out.txt, content: "{{{{ 'x' * 1000 }}}}"}}]
        """
        folder = tmp_path / "files"
        folder.mkdir()
        harness = RunHarness(store, text)
        harness.capabilities = service_capabilities(
            {"NOETL_FILES_ROOT": str(folder), "NOETL_STORE": "memory://", "NOETL_FILE_BYTES": "10500"}
        )
        assert harness.finish().status == "failed"
        assert "10,500 bytes to files (NOETL_FILE_BYTES)" in str(harness.run.errors)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000
        other = RunHarness(store, text.replace("range(100)", "range(10)"))
        other.capabilities = harness.capabilities
        assert other.finish().status == "succeeded"
