from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import noetl.executor.worker as worker_module
from noetl.executor.actions._process import END_SECONDS
from noetl.executor.errors import DamagedRunError, SettingError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import Claim, Lease, Run, RunStatus, Visit
from noetl.executor.model.run_filter import RunFilter
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.model.worker_identity import process_name
from noetl.executor.runtime.lease_keeper import LeaseKeeper, read_lease_seconds
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from noetl.executor.stores.sql import queue as sql_queue
from noetl.executor.stores.sql.queue import SqlQueue
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.executor.worker import Worker, WorkerSettings, read_spare_thread_count, read_thread_count
from noetl.testing.run_harness import RunHarness, compile_text
from noetl.testing.store_contract.operations import start_ended_run
from tests.process_privacy import is_readable, make_readable

BLOCKING_PLAYBOOK = """
    steps:
    - {name: a, run: [{action: shell, command: "cat gate"}], rule: [{case: default, run: [b]}]}
    - {name: b, run: [{action: set, set: {x: 1}}]}
"""
"""A playbook whose first step runs until the test writes to the pipe `gate`."""
SECONDS = 30.0


def start(store: SqliteStore, text: str, folder: Path, **options: Any) -> RunHarness:
    """Create a run with the system clock, for real workers."""
    return RunHarness(store, text, folder=folder, clock=time.time, **options)  # type: ignore[arg-type]


@contextmanager
def working(store: SqliteStore, folder: Path, **options: Any) -> Iterator[Worker]:
    options = {"threads": 2, "lease_seconds": 30.0, **options}
    worker = Worker(store, WorkerSettings(local_run_capabilities(folder), **options))
    worker.start()
    try:
        yield worker
    finally:
        worker.stop(timeout_seconds=SECONDS)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, or fail after SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(worker: Worker, harness: RunHarness) -> Run:
    run = worker.wait_until_finished("default", harness.id, SECONDS)
    assert run.status.is_final
    return run


def test_many_runs_at_once(store: SqliteStore, tmp_path: Path) -> None:
    text = """
        input: {n: integer}
        steps:
        - {name: a, rule: [{case: default, run: [b, c, d]}]}
        - {name: b, run: [{action: set, set: {x: "{{ input.n }}"}}], rule: [{case: default, run: [e]}]}
        - {name: c, run: [{action: set, set: {y: "{{ input.n }}"}}], rule: [{case: default, run: [e]}]}
        - {name: d, run: [{action: log, message: ok}], rule: [{case: default, run: [e]}]}
        - {name: e, run: [{action: set, set: {sum: "{{ x + y }}"}}]}
    """
    harnesses = [start(store, text, tmp_path, input={"n": n}, origin="service") for n in range(12)]
    with working(store, tmp_path, threads=4) as worker:
        runs = [finished(worker, harness) for harness in harnesses]
    assert [run.result["sum"] for run in runs] == [2 * n for n in range(12)]
    assert all(harness.visit_counts == dict.fromkeys("abcde", 1) for harness in harnesses)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl of Linux")
def test_a_process_that_executes_steps_hides(store: SqliteStore, tmp_path: Path) -> None:
    """The app of a service has a worker as well, under any server of ASGI."""
    make_readable()
    with working(store, tmp_path):
        assert not is_readable()


def test_two_workers_share_the_work(store: SqliteStore, tmp_path: Path) -> None:
    harnesses = [
        start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path, origin="service")
        for _ in range(10)
    ]
    other = SqliteStore(str(store.path))
    with working(store, tmp_path) as worker, working(other, tmp_path):
        assert all(finished(worker, harness).result == {"x": 1} for harness in harnesses)
    assert all(harness.event_types().count("step.started") == 2 for harness in harnesses)
    other.close()


def test_a_worker_of_a_local_run_ignores_other_queues(store: SqliteStore, tmp_path: Path) -> None:
    mine, other = (start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path) for _ in range(2))
    served = start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path, origin="service")
    with working(store, tmp_path, queue=mine.queue) as worker:
        finished(worker, mine)
    assert (other.status, served.status) == (RunStatus.QUEUED, RunStatus.QUEUED)


def test_old_runs_are_deleted_until_none_is_left(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one pause, more runs are deleted than one transaction deletes."""
    monkeypatch.setattr(worker_module, "RETENTION_PAUSE_SECONDS", 0.01)
    for _ in range(45):
        start_ended_run(store)
    store.context.retention_seconds = 60.0
    with working(store, tmp_path):
        wait_until(lambda: store.runs.find(RunFilter()) == ([], None))


def test_a_failed_deletion_is_tried_again(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "RETENTION_PAUSE_SECONDS", 0.01)
    tries: list[None] = []

    def delete_old(_now: float) -> bool:
        tries.append(None)
        raise StoreError("The store is away.")

    monkeypatch.setattr(store.maintenance, "delete_old", delete_old)
    with working(store, tmp_path):
        wait_until(lambda: len(tries) > 1)
    assert "old runs could not be deleted; trying again: The store is away." in caplog.text


def test_a_log_that_cannot_be_written_back_is_tried_again(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "RETENTION_PAUSE_SECONDS", 0.01)
    tries: list[None] = []

    def write_log_back() -> None:
        tries.append(None)
        raise StoreError("The disk is full.")

    monkeypatch.setattr(store.maintenance, "write_log_back", write_log_back)
    with working(store, tmp_path):
        wait_until(lambda: len(tries) > 1)
    assert "the log could not be written back, or old runs" in caplog.text
    assert "trying again: The disk is full." in caplog.text


def test_a_run_created_later_is_executed(store: SqliteStore, tmp_path: Path) -> None:
    with working(store, tmp_path) as worker:
        harness = start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path, origin="service")
        assert finished(worker, harness).result == {"x": 1}


def test_retries_are_executed_when_due(store: SqliteStore, tmp_path: Path) -> None:
    text = """
        steps:
        - name: a
          retry: {attempts: 3, delay: 5ms}
          run: [{action: shell, command: "echo x >> f; test $(wc -l < f) -ge 3"}]
    """
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path) as worker:
        assert finished(worker, harness).status is RunStatus.SUCCEEDED
    assert harness.visit("a").attempt == 3


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_past_its_deadline_is_stopped(store: SqliteStore, tmp_path: Path, threads: int) -> None:
    """The worker and the step both notice the deadline; either may be first."""
    text = 'timeout: 60ms\nsteps: [{name: a, run: [{action: shell, command: "sleep 60"}]}]'
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path, threads=threads) as worker:
        run = finished(worker, harness)
    assert (run.status, [error["type"] for error in run.errors]) == ("timed_out", ["Timeout"])


def test_a_stopping_worker_finishes_its_active_step(store: SqliteStore, tmp_path: Path, gate: Path) -> None:
    """The following step does not start, so it is not interrupted."""
    text = BLOCKING_PLAYBOOK.replace("name: b,", "name: b, delivery: at_most_once,")
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path) as worker:
        with gate.open("w") as writer:
            stopping = threading.Thread(target=worker.stop)
            stopping.start()
            writer.write("go")
        stopping.join()
        assert harness.visit("a").status == "succeeded"
        assert harness.status is RunStatus.RUNNING
    with working(store, tmp_path) as worker:
        assert finished(worker, harness).result == {"x": 1}
    assert harness.visit_counts == {"a": 1, "b": 1}


def test_a_cancelled_run_ends_after_its_active_step(store: SqliteStore, tmp_path: Path, gate: Path) -> None:
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path, origin="service")
    with working(store, tmp_path) as worker:
        with gate.open("w") as writer:
            store.runs.stop(harness.id, RunStatus.CANCELLED, harness.clock())
            writer.write("go")
        assert finished(worker, harness).status is RunStatus.CANCELLED
    assert [(visit.step, visit.status.value) for visit in harness.visits] == [
        ("a", "succeeded"),
        ("b", "parked"),
    ]


def test_waiting_for_a_run_times_out(store: SqliteStore, tmp_path: Path) -> None:
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path)
    worker = Worker(store, WorkerSettings(local_run_capabilities(tmp_path), threads=1))
    assert worker.wait_until_finished("default", harness.id, 0.001).status is RunStatus.QUEUED
    with pytest.raises(StoreError, match="The store has no run"):
        worker.wait_until_finished("default", "nothing", 0.001)


def test_claims_of_a_dead_worker_are_taken_over_at_once(store: SqliteStore, tmp_path: Path) -> None:
    harness = start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path)
    host, boot, _, _ = process_name().split("/")
    assert (
        store.queue.claim(harness.queue, Lease(f"{host}/{boot}/4194999/1/walk-0", 3600.0), harness.clock())
        is not None
    )
    with working(store, tmp_path, queue=harness.queue) as worker:
        assert finished(worker, harness).status is RunStatus.SUCCEEDED


def test_claims_are_renewed_while_a_step_is_active(store: SqliteStore, tmp_path: Path, gate: Path) -> None:
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path, origin="service")
    renewed = threading.Event()

    class RenewalCountingQueue(SqlQueue):
        def renew(self, claimed: Visit, until: float, *events: Any) -> bool:
            held = super().renew(claimed, until, *events)
            if held:
                renewed.set()
            return held

    watched = SqliteStore(str(store.path))
    watched.queue = RenewalCountingQueue(watched.context, watched.plans)
    with working(watched, tmp_path, lease_seconds=2.0) as worker:
        with gate.open("w") as writer:
            renewed.wait()
            writer.write("go")
        finished(worker, harness)
    watched.close()


def test_a_step_is_not_repeated_when_the_clock_is_set_ahead(
    store: SqliteStore, tmp_path: Path, gate: Path
) -> None:
    """An hour passes at once, as for a laptop that was closed. An idle thread must not take the step over."""
    text = BLOCKING_PLAYBOOK.replace("cat gate", "echo x >> f; cat gate")
    harness = start(store, text, tmp_path, origin="service")
    hours = [0]
    moved = SqliteStore(str(store.path))
    moved.file.clock = lambda: time.time() + 3600 * hours[0]
    with working(moved, tmp_path) as worker:
        wait_until((tmp_path / "f").exists)
        hours[0] = 1
        other = start(store, text.replace("cat gate", "true"), tmp_path, origin="service")
        assert finished(worker, other).status is RunStatus.SUCCEEDED
        with gate.open("w") as writer:
            writer.write("go")
        assert finished(worker, harness).status is RunStatus.SUCCEEDED
    assert (tmp_path / "f").read_text() == "x\nx\n"
    moved.close()


def test_a_claim_whose_renewal_raises_does_not_block_others(store: SqliteStore, tmp_path: Path) -> None:
    for _ in range(2):
        start(store, BLOCKING_PLAYBOOK, tmp_path, origin="service")
    first, second = (store.queue.claim("service", Lease(name, 30.0), time.time()) for name in ("one", "two"))
    assert first is not None and second is not None
    broken_run = first.run.id
    renewed, over = threading.Event(), threading.Event()

    class UnrenewableQueue(SqlQueue):
        def renew(self, claimed: Visit, until: float, *events: Any) -> bool:
            if claimed.run_id == broken_run:
                raise ZeroDivisionError
            held = super().renew(claimed, until, *events)
            renewed.set()
            return held

    class BlockingExecutor:
        capabilities = Capabilities()

        def execute(self, *_: object) -> None:
            over.wait()

    broken = SqliteStore(str(store.path))
    broken.queue = UnrenewableQueue(broken.context, broken.plans)
    lease_keeper = LeaseKeeper(broken, 0.3, time.time)
    busy: Any = BlockingExecutor()
    with ThreadPoolExecutor(3) as pool:
        for claim in (first, second):
            pool.submit(lease_keeper.execute, busy, claim)
        pool.submit(lease_keeper.renew_until, over)
        is_renewed = renewed.wait(SECONDS)
        over.set()
    assert is_renewed
    broken.close()


def wait_for_event(harness: RunHarness, type: str) -> Event:
    """Wait for the first event of a type and return it."""
    while True:
        seen = harness.store.changes.count
        found = next((event for event in harness.events if event.type == type), None)
        if found is not None:
            return found
        harness.store.changes.wait(seen, SECONDS)


def test_events_of_an_active_step_are_written(store: SqliteStore, tmp_path: Path, gate: Path) -> None:
    text = BLOCKING_PLAYBOOK.replace("run: [{action", "run: [{action: log, message: one}, {action", 1)
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path, lease_seconds=0.3) as worker:
        with gate.open("w") as writer:
            wait_for_event(harness, "action.completed")
            seen = harness.events
            assert [(e.type, e.payload.get("position")) for e in seen if e.step == "a"] == [
                ("step.started", None),
                ("action.started", "run.0"),
                ("action.log", "run.0"),
                ("action.completed", "run.0"),
                ("action.started", "run.1"),
            ]
            assert harness.visit("a").status == "running"
            writer.write("go")
        finished(worker, harness)
    assert harness.events[: len(seen)] == seen
    assert harness.event_types("a")[5:] == [
        "action.log",
        "action.completed",
        "step.transition",
        "step.completed",
    ]


def test_progress_of_an_active_loop_is_written(store: SqliteStore, tmp_path: Path, gate: Path) -> None:
    text = """
        steps:
        - name: a
          loop: {items: [1, 2, 3, 4]}
          run:
          - action: shell
            command: "test {{ item }} != 4 || cat gate; test {{ item }} != 2"
            on_error: continue
    """
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path, lease_seconds=0.3) as worker:
        with gate.open("w") as writer:
            while wait_for_event(harness, "loop.progress") and harness.events[-1].payload["done"] < 3:
                harness.store.changes.wait(harness.store.changes.count, 0.05)
            assert harness.events[-1].payload == {"position": "run", "done": 3, "failed": 0, "total": 4}
            writer.write("go")
        finished(worker, harness)
    counts = [event.payload["done"] for event in harness.events if event.type == "loop.progress"]
    assert counts == sorted(set(counts))
    assert counts[-2:] == [3, 4]


class FlakyQueue(SqlQueue):
    """A queue whose first three claims fail."""

    calls = 0

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        self.calls += 1
        if self.calls in (1, 2):
            raise StoreError("The store is away.")
        if self.calls == 3:
            raise ValueError("a bug")
        return super().claim(queue, lease, now, passed_over)


def test_a_worker_survives_a_short_outage_of_the_store(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = start(store, BLOCKING_PLAYBOOK.replace("cat gate", "true"), tmp_path, origin="service")
    broken = SqliteStore(str(store.path))
    broken.queue = FlakyQueue(broken.context, broken.plans)
    with working(broken, tmp_path, threads=1) as worker:
        assert finished(worker, harness).status is RunStatus.SUCCEEDED
    broken.close()
    assert "the store failed; trying again" in caplog.text
    assert "a step could not be executed" in caplog.text


@pytest.mark.parametrize(("delivery", "claims"), [("at_least_once", 0), ("at_most_once", 1)])
def test_released_claims_can_be_claimed_when_their_commands_have_ended(
    store: SqliteStore, tmp_path: Path, gate: Path, delivery: str, claims: int
) -> None:
    text = BLOCKING_PLAYBOOK.replace("{name: a,", f"{{name: a, delivery: {delivery},")
    harness = start(store, text, tmp_path, origin="service")
    with working(store, tmp_path, threads=1, lease_seconds=30.0) as worker, gate.open("w") as writer:
        worker.stop(drain=False)
        (visit,) = store.runs.visits(harness.id)
        assert (visit.claims, visit.due_at <= time.time() + END_SECONDS) == (claims, True)
        writer.write("go")
    (visit,) = store.runs.visits(harness.id)
    assert visit.status == "running", "its commit was refused"


class UnavailableQueue(SqlQueue):
    """A queue whose claims fail."""

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        raise StoreError("The store is away.")


def test_a_long_outage_of_the_store_is_raised_to_waiting_callers(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noetl.executor.worker.MAX_OUTAGE_SECONDS", 0.0)
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path, origin="service")
    unavailable = SqliteStore(str(store.path))
    unavailable.queue = UnavailableQueue(unavailable.context, unavailable.plans)
    with working(unavailable, tmp_path, threads=2) as worker, pytest.raises(StoreError, match="is away"):
        worker.wait_until_finished(harness.tenant, harness.id)
    unavailable.close()


def test_an_interrupted_step_runs_again(store: SqliteStore, tmp_path: Path) -> None:
    """A new worker, in any process, needs only the stored plan."""
    harness = start(store, BLOCKING_PLAYBOOK.replace("cat gate", "echo x >> f"), tmp_path)
    claim = harness.claim("gone")
    assert claim is not None
    store.queue.renew(claim.visit, harness.clock())
    with working(store, tmp_path, queue=harness.queue) as worker:
        assert finished(worker, harness).result == {"x": 1}
    assert (tmp_path / "f").read_text() == "x\n"
    assert store.plans.get(harness.plan.hash) == compile_text(
        BLOCKING_PLAYBOOK.replace("cat gate", "echo x >> f")
    )


@pytest.mark.parametrize(
    ("setting", "read", "good", "bad"),
    [
        (
            "NOETL_LEASE_SECONDS",
            read_lease_seconds,
            {"1": 1.0, "2.5": 2.5, "3600": 3600.0},
            ["", "0", "x", "-1", "nan", "inf"],
        ),
        (
            "NOETL_WORKERS",
            read_thread_count,
            {"1": 1, "1000": 1000},
            ["", "0", "1.5", "x", "-1", "1001", "9" * 5000, "²"],
        ),
        (
            "NOETL_SPARE_WORKERS",
            read_spare_thread_count,
            {"0": 0, "1000": 1000},
            ["", "1.5", "x", "-1", "1001", "9" * 5000, "²"],
        ),
    ],
)
def test_settings_are_validated(setting: str, read: Any, good: dict[str, Any], bad: list[str]) -> None:
    assert {text: read({setting: text}) for text in good} == good
    assert read({}) > 0
    for text in bad:
        with pytest.raises(SettingError, match=f"{setting} is"):
            read({setting: text})


class TestTenantsInTurn:
    def test_a_tenant_whose_steps_hold_its_threads_leaves_the_spare_thread(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        held = [start(store, BLOCKING_PLAYBOOK, tmp_path, tenant="a", queue="service") for _ in range(5)]
        with working(store, tmp_path, queue="service", spare_threads=1) as worker:
            wait_until(lambda: sum(run.visit("a").status == "running" for run in held) == 2)
            text = "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
            other = start(store, text, tmp_path, tenant="b", queue="service")
            run = worker.wait_until_finished("b", other.id, SECONDS)
            assert run.result == {"x": 1}
            assert sum(run.visit("a").status == "running" for run in held) == 2
            for harness in held:
                store.runs.stop(harness.id, RunStatus.CANCELLED, time.time())
            wait_until(lambda: all(run.status == "cancelled" for run in held))

    def test_a_run_with_many_steps_leaves_its_thread_to_the_next_tenant(
        self, store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_module, "TURN_SECONDS", 0.0)
        cycle = """
            steps:
            - {name: a, max_visits: 50, run: [{action: log, message: "{{ step.visit }}"}],
               rule: [{case: "{{ step.visit < 50 }}", run: [a]}]}
        """
        runs = [start(store, cycle, tmp_path, tenant=tenant, queue="service") for tenant in ("a", "b")]
        with working(store, tmp_path, queue="service", threads=1) as worker:
            for harness, tenant in zip(runs, ("a", "b"), strict=True):
                assert worker.wait_until_finished(tenant, harness.id, SECONDS).status == "succeeded"
        ends = [sorted(v.finished_at or 0.0 for v in store.runs.visits(harness.id)) for harness in runs]
        assert ends[0][0] < ends[1][0] < ends[0][5] < ends[1][9] < ends[0][-1]


class TestCancelledWork:
    STUBBORN = """
        steps:
        - name: a
          delivery: %s
          run:
          - action: shell
            command: >-
              trap 'echo asked >> said' TERM; echo $$ > pid; cat gate;
              while :; do sleep 0.1; done
    """

    def cancelled(self, store: SqliteStore, folder: Path, text: str) -> RunHarness:
        """Return the run, cancelled while its command was running."""
        harness = start(store, text, folder)
        with working(store, folder, queue=harness.queue) as worker:
            # open() blocks until the command opens its end of the pipe.
            (folder / "gate").write_text("go on")
            store.runs.stop(harness.id, RunStatus.CANCELLED, time.time())
            finished(worker, harness)
        return harness

    def test_a_command_is_terminated_and_then_killed(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        harness = self.cancelled(store, tmp_path, self.STUBBORN % "at_least_once")
        assert (harness.status, (tmp_path / "said").read_text()) == ("cancelled", "asked\n")
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
        assert harness.visit("a").status == "parked"
        assert [e.type for e in harness.events if e.type.startswith("workflow.")] == [
            "workflow.started",
            "workflow.cancelled",
        ]

    def test_a_cancelled_step_runs_again_after_a_resume(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        text = BLOCKING_PLAYBOOK.replace('"cat gate"', '"cat gate; test -e there || sleep 60"')
        harness = self.cancelled(store, tmp_path, text)
        (tmp_path / "there").touch()
        store.runs.resume(harness.id, time.time(), deadline_at=None, values={})
        with working(store, tmp_path, queue=harness.queue) as worker:
            gate.write_text("go on")
            assert finished(worker, harness).result == {"x": 1}

    def test_a_cancelled_at_most_once_step_fails(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        harness = self.cancelled(store, tmp_path, self.STUBBORN % "at_most_once")
        visit = harness.visit("a")
        assert (harness.status, visit.status, visit.error and visit.error["type"]) == (
            "cancelled",
            "failed",
            "StepInterrupted",
        )

    def test_cancelling_ends_the_delay_before_a_retry(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        text = """
            steps:
            - name: a
              run:
              - {action: shell, command: "cat gate; exit 1", retry: {attempts: 2, delay: 1h, jitter: false}}
        """
        assert self.cancelled(store, tmp_path, text).status == "cancelled"

    def test_cancelling_prevents_other_items_of_a_loop(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        text = """
            steps:
            - name: a
              loop: {items: [1, 2, 3]}
              run: [{action: shell, command: "echo $$ >> pids; cat gate; sleep 60"}]
        """
        harness = self.cancelled(store, tmp_path, text)
        assert harness.status == "cancelled"
        assert len((tmp_path / "pids").read_text().splitlines()) == 1

    def test_cancelling_does_not_interrupt_the_finally_step(
        self, store: SqliteStore, tmp_path: Path, gate: Path
    ) -> None:
        text = """
            finally: last
            steps:
            - {name: a, run: [{action: set, set: {x: 1}}]}
            - {name: last, run: [{action: shell, command: "cat gate; sleep 1; echo done > done"}]}
        """
        harness = self.cancelled(store, tmp_path, text)
        assert (harness.status, (tmp_path / "done").read_text()) == ("cancelled", "done\n")


def test_claims_that_are_active_after_the_drain_timeout_are_released(
    store: SqliteStore, tmp_path: Path, gate: Path
) -> None:
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path)
    worker = Worker(
        store,
        WorkerSettings(
            local_run_capabilities(tmp_path), threads=1, queue=harness.queue, lease_seconds=3000.0
        ),
    )
    worker.start()
    writing = os.open(gate, os.O_WRONLY)
    worker.stop(timeout_seconds=0.1)
    visit = harness.visit("a")
    assert (visit.status, visit.claims) == ("running", 0)
    assert visit.due_at <= time.time() + END_SECONDS
    os.close(writing)
    for thread in threading.enumerate():
        if thread.name.startswith("noetl-walk"):
            thread.join(SECONDS)
    with working(store, tmp_path, queue=harness.queue) as other:
        gate.write_text("go on")
        assert finished(other, harness).result == {"x": 1}


def test_a_stopped_worker_logs_no_store_errors(
    store: SqliteStore,
    tmp_path: Path,
    gate: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    polled, closed = threading.Event(), threading.Event()

    def poll(run_ids: Any) -> set[str]:
        polled.set()
        closed.wait(SECONDS)
        raise StoreError("The store is closed.")

    monkeypatch.setattr(store.runs, "cancelled_runs", poll)
    harness = start(store, BLOCKING_PLAYBOOK, tmp_path)
    worker = Worker(store, WorkerSettings(local_run_capabilities(tmp_path), threads=1, queue=harness.queue))
    worker.start()
    with gate.open("w"):
        assert polled.wait(SECONDS)
        worker.stop(drain=False)
        closed.set()
        worker._renewal.join(SECONDS)
    assert caplog.messages == []


def test_a_worker_sweeps_the_store(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harness = start(store, "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]", tmp_path)
    assert harness.execute_next()
    store.file.connection().execute("delete from visits where step = '@end'")
    with working(store, tmp_path, queue=harness.queue, lease_seconds=1) as worker:
        assert finished(worker, harness).result == {"x": 1}
        assert worker.repaired == 1
    assert caplog.messages == [f"run {harness.id} was repaired: its end is due"]


def test_a_stopped_worker_has_no_thread_in_its_store(tmp_path: Path) -> None:
    """After the stop the process may exit, and SQLite crashes if it is used while modules are unloaded."""
    inside, calls = threading.Event(), []

    class SlowQueue(SqlQueue):
        def release_dead(self, queue: str, now: float) -> int:
            calls.append(now)
            if len(calls) > 1:  # the first call is that of start()
                inside.set()
                time.sleep(0.5)
            return super().release_dead(queue, now)

    store = SqliteStore(str(tmp_path / "slow.db"))
    store.queue = SlowQueue(store.context, store.plans)
    worker = Worker(store, WorkerSettings(local_run_capabilities(tmp_path), threads=2, lease_seconds=0.3))
    before = set(threading.enumerate())
    worker.start()
    assert inside.wait(30)
    worker.stop()
    assert set(threading.enumerate()) <= before
    store.close()


@pytest.mark.parametrize(("origin", "expected"), [("service", {"tenant-a"}), ("cli", set())])
def test_visits_of_a_service_use_the_credit_of_their_tenant(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, expected: set[str]
) -> None:
    tenants: set[str] = set()

    @contextmanager
    def record(tenant: str) -> Iterator[None]:
        tenants.add(tenant)
        yield

    monkeypatch.setattr(worker_module, "working_for", record)
    text = "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
    harness = start(store, text, tmp_path, origin=origin, tenant="tenant-a")
    queue = "service" if origin == "service" else harness.id
    with working(store, tmp_path, queue=queue) as worker:
        worker.wait_until_finished("tenant-a", harness.id, SECONDS)
    assert tenants == expected


def test_a_damaged_run_can_be_put_back_any_number_of_times(store: SqliteStore, tmp_path: Path) -> None:
    text = "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
    damaged = start(store, text, tmp_path, origin="service")

    def set_plan(plan_hash: str) -> None:
        with store.database.transaction() as db:
            db.execute("update runs set plan_hash = :hash where id = :id", hash=plan_hash, id=damaged.id)

    set_plan("lost")
    for _ in range(MAX_CLAIMS + 1):
        with (
            working(store, tmp_path, threads=1) as worker,
            pytest.raises(DamagedRunError, match="has no plan lost"),
        ):
            worker.wait_until_finished("default", damaged.id, SECONDS)
        assert store.maintenance.put_back(store.clock()) == [damaged.id]
    set_plan(damaged.plan.hash)
    with working(store, tmp_path, threads=1) as worker:
        assert finished(worker, damaged).result == {"x": 1}


def test_a_worker_remembers_the_latest_damaged_runs(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "MAX_DAMAGED_RUNS", 2)
    text = "steps: [{name: a, run: [{action: set, set: {x: 1}}]}]"
    runs = [start(store, text, tmp_path, origin="service") for _ in range(4)]
    with store.database.transaction() as db:
        for run in runs[:3]:
            db.execute("update runs set plan_hash = 'lost' where id = :id", id=run.id)
    with working(store, tmp_path, threads=1) as worker:
        finished(worker, runs[3])
        with pytest.raises(DamagedRunError, match="has no plan lost"):
            worker.wait_until_finished("default", runs[2].id, SECONDS)
        assert len(worker._damaged) == 2


FORK = """
mode: MODE
steps:
  - {name: a, rule: [{case: default, run: [b, c]}]}
  - {name: b, run: [{action: set, set: {x: 1}}], rule: [{case: default, run: [d]}]}
  - {name: c, run: [{action: set, set: {y: 1}}], rule: [{case: default, run: [d]}]}
  - {name: d, join: all, run: [{action: set, set: {z: 1}}]}
"""


@pytest.mark.parametrize("mode", ["sequential", "parallel"])
def test_data_that_a_commit_cannot_decode_is_damage(store: SqliteStore, tmp_path: Path, mode: str) -> None:
    text = FORK.replace("MODE", mode)
    play = RunHarness(store, text, folder=tmp_path)
    for _ in range(2):
        play.execute_next()
    claim = play.claim()
    assert claim is not None
    with store.database.transaction() as db:
        db.execute("update arrivals set names = '{' where run_id = :id", id=play.id)
        db.execute("update runs set stack = '{' where id = :id and stack is not null", id=play.id)
    with pytest.raises(DamagedRunError, match=r"^Data of run \w+ cannot be read: \w+\.$") as damage:
        play.executor().execute(claim)
    assert damage.value.run_id == play.id


@pytest.mark.parametrize("error", [ValueError, TypeError])
def test_an_error_of_noetl_in_a_commit_is_no_damage(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    play = RunHarness(store, FORK.replace("MODE", "parallel"), folder=tmp_path)
    claim = play.claim()
    assert claim is not None

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(sql_queue, "append_events", fail)
    with pytest.raises(error):
        play.executor().execute(claim)
    assert store.maintenance.check_consistency() == []


def test_damaged_runs_do_not_stop_the_others(
    store: SqliteStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run without its plan, one with a visit that cannot be read, and a visit without its run."""
    text = BLOCKING_PLAYBOOK.replace("cat gate", "true")
    without_plan, unreadable, without_row, sound = (
        start(store, text, tmp_path, origin="service") for _ in range(4)
    )
    damages = (
        ("update runs set plan_hash = 'lost' where id = :id", without_plan),
        ("update visits set names = '{' where run_id = :id", unreadable),
        ("delete from runs where id = :id", without_row),
    )
    with store.database.transaction() as db:
        for statement, run in damages:
            db.execute(statement, id=run.id)
    with working(store, tmp_path, threads=1) as worker:
        assert finished(worker, sound).result == {"x": 1}
        with pytest.raises(DamagedRunError, match="has no plan lost"):
            worker.wait_until_finished("default", without_plan.id, SECONDS)
    messages = [record.getMessage() for record in caplog.records if record.name == "noetl.executor"]
    set_aside = [message for message in messages if "was set aside" in message]
    assert sorted(message.split()[1] for message in set_aside) == sorted(run.id for _, run in damages)
    with store.database.transaction() as db:
        db.execute(
            "update runs set plan_hash = :hash where id = :id", hash=sound.plan.hash, id=without_plan.id
        )
        db.execute("update visits set names = '{}' where run_id = :id", id=unreadable.id)
    assert set(store.maintenance.put_back(store.clock())) == {run.id for _, run in damages}
    with store.database.transaction() as db:
        now = store.clock()
        db.execute("update visits set due_at = :now where run_id = :id", id=without_plan.id, now=now)
    with working(store, tmp_path, threads=1) as worker:
        assert [finished(worker, run).result for run in (without_plan, unreadable)] == [{"x": 1}] * 2
