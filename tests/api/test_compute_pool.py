"""The processes that perform the CPU work of requests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from anyio import to_thread

from noetl.api.compute import jobs, starvation
from noetl.api.compute import pool as pool_module
from noetl.api.compute.pool import ComputePool, read_compute_processes
from noetl.api.compute.worker import MAX_KEPT_MEMORY, NICENESS, yield_to_the_service
from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.errors import ServiceBusyError, TenantBusyError, WorkLimitError
from noetl.executor.actions import catalogue
from noetl.executor.engine.start import new_run
from noetl.executor.errors import SettingError
from noetl.executor.model.start_request import StartRequest
from noetl.executor.precedence import ACCOUNTS
from noetl.executor.stores.sql import plans as sql_plans
from noetl.executor.stores.sql import runs as sql_runs
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.planner.templates.template import parse_template
from noetl.testing.run_harness import compile_text
from tests.api.compute_jobs import (
    BusyJob,
    CollectionsJob,
    EnvironmentJob,
    FailingJob,
    GrowingJob,
    HiddenJob,
    OrphanJob,
    PolicyJob,
    RecordingJob,
    SpinningJob,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def pool(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ComputePool]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the jobs of the tests
    monkeypatch.setenv("NOETL_SECRET_X", "hidden")
    monkeypatch.setattr(starvation, "STARVED_SECONDS", 1e6)  # Each job is performed once.
    created = ComputePool(2, PlaybookCompiler(catalogue()), os.environ)
    yield created
    await created.close()


def wait_for_end(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(pid, 0)
            time.sleep(0.02)


async def wait_for_lines(path: Path, count: int) -> list[list[str]]:
    def read() -> list[list[str]]:
        while True:
            lines = path.read_text().splitlines() if path.exists() else []
            if len(lines) >= count:
                return [line.split() for line in lines]
            time.sleep(0.02)

    return await asyncio.to_thread(read)


async def test_a_process_performs_many_jobs(pool: ComputePool, tmp_path: Path) -> None:
    job = RecordingJob(path=str(tmp_path / "log"))
    pids = {await pool.run(job, "a") for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids


async def test_garbage_is_collected_after_an_answer(pool: ComputePool) -> None:
    before, during = await pool.run(CollectionsJob(objects=100_000), "a")
    assert during == before
    after_many, _ = await pool.run(CollectionsJob(), "a")
    assert after_many == before + 1
    after_none, _ = await pool.run(CollectionsJob(), "a")
    assert after_none == after_many


async def test_a_process_starts_before_its_first_job(pool: ComputePool, tmp_path: Path) -> None:
    pool.prepare()
    pool.prepare()
    starting = pool._starting
    await pool.run(RecordingJob(path=str(tmp_path / "log")), "a")
    pool.prepare()
    assert starting is not None
    assert starting.done()
    assert (len(pool._idle), pool._starting) == (1, None)


async def test_a_process_needs_nothing_that_only_asyncio_has(
    pool: ComputePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other servers may run the app with uvloop, which has no process groups."""
    start = asyncio.create_subprocess_exec

    async def start_with_uvloop(*command: str, stdin: int, stdout: int, env: dict[str, str]) -> Any:
        return await start(*command, stdin=stdin, stdout=stdout, env=env)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start_with_uvloop)
    assert await pool.run(RecordingJob(path=str(tmp_path / "log")), "a")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs prctl of Linux")
async def test_a_process_hides_from_the_commands_of_playbooks(pool: ComputePool) -> None:
    assert not await pool.run(HiddenJob(), "a")


async def test_a_process_yields_to_the_service(pool: ComputePool, tmp_path: Path) -> None:
    """Linux may share the processors among sessions first. Then a priority counts within a session only."""
    pid = await pool.run(RecordingJob(path=str(tmp_path / "log")), "a")
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) == pid
    if sys.platform == "linux":
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    else:
        assert os.getpriority(os.PRIO_PROCESS, pid) == NICENESS


def test_a_process_without_the_right_to_be_idle_has_a_low_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    nice: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", refuse, raising=False)
    monkeypatch.setattr(os, "nice", nice.append)
    yield_to_the_service()
    assert nice == [NICENESS]


@contextmanager
def busy_processor() -> Iterator[None]:
    """Let this thread and its children run on one processor, which two busy processes use."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        yield
    finally:
        os.sched_setaffinity(0, processors)
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of processes of Linux")


@needs_linux
@pytest.mark.parametrize("has_child", [False, True])
async def test_a_job_ends_on_a_busy_machine(
    pool: ComputePool, monkeypatch: pytest.MonkeyPatch, has_child: bool
) -> None:
    """A process that yields would exceed the time limit of the job, which is a minute here."""
    monkeypatch.setattr(starvation, "STARVED_SECONDS", 2.0)
    with busy_processor():
        assert await pool.run(BusyJob(has_child=has_child), "a") == os.SCHED_OTHER


@needs_linux
async def test_a_job_of_a_busy_machine_does_not_wait_until_it_starves(pool: ComputePool) -> None:
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    pool._starving.add(cast("asyncio.Task[None]", end))
    assert await pool.run(PolicyJob(), "a") == os.SCHED_OTHER
    end.set_result(None)
    pool._starving.clear()
    assert pool._idle == []
    assert await pool.run(PolicyJob(), "a") == os.SCHED_IDLE
    assert len(pool._idle) == 1


class TestRepetitions:
    """Each first attempt starves here. The second one has begun when a test acts."""

    @pytest.fixture
    async def log(self, monkeypatch: pytest.MonkeyPatch, pool: ComputePool, tmp_path: Path) -> Path:
        monkeypatch.setattr(starvation, "STARVED_SECONDS", 0.1)
        log = tmp_path / "log"
        # The first attempt has begun, so that its process is known.
        monkeypatch.setattr(starvation, "has_starved", lambda *_: log.exists() and bool(log.read_text()))
        return log

    async def begin(
        self, pool: ComputePool, job: RecordingJob, log: Path
    ) -> tuple[asyncio.Task[Any], list[int]]:
        task = asyncio.create_task(pool.run(job, "a"))
        lines = await wait_for_lines(log, 2)
        return task, [int(pid) for pid, _ in lines]

    async def test_a_job_is_performed_twice_at_most(self, pool: ComputePool, log: Path) -> None:
        task, pids = await self.begin(pool, RecordingJob(path=str(log), name="x", pause=2.0), log)
        assert await task == pids[1] != pids[0]
        assert len(await wait_for_lines(log, 2)) == 2
        assert pool._idle == []
        for pid in pids:
            await asyncio.to_thread(wait_for_end, pid)

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_both_processes_end_with_the_client(
        self, pool: ComputePool, log: Path, key: str | None
    ) -> None:
        job = RecordingJob(key=key, path=str(log), name="x", pause=100.0)
        task, pids = await self.begin(pool, job, log)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for pid in pids:
            await asyncio.to_thread(wait_for_end, pid)

    @pytest.mark.parametrize("key", [None, "k"])
    async def test_both_processes_end_with_the_service(
        self, pool: ComputePool, log: Path, key: str | None
    ) -> None:
        job = RecordingJob(key=key, path=str(log), name="x", pause=100.0)
        task, pids = await self.begin(pool, job, log)
        await pool.close()
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        outcomes = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcomes[0], ServiceBusyError if key is None else asyncio.CancelledError)

    async def test_the_time_limit_is_that_of_both_attempts(
        self, pool: ComputePool, log: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pool_module, "WALL_FACTOR", 0.5)
        task, pids = await self.begin(pool, RecordingJob(path=str(log), name="x", pause=100.0), log)
        with pytest.raises(WorkLimitError, match="lasts more than 10 s") as late:
            await task
        assert late.value.is_late
        for pid in pids:
            await asyncio.to_thread(wait_for_end, pid)


async def test_a_process_of_a_large_service_performs_many_jobs(pool: ComputePool, tmp_path: Path) -> None:
    memory = b"x" * (MAX_KEPT_MEMORY + 1)
    job = RecordingJob(path=str(tmp_path / "log"))
    assert len({await pool.run(job, "a") for _ in range(3)}) == 1
    assert len(memory) > MAX_KEPT_MEMORY


async def test_a_light_job_stays_in_the_process(pool: ComputePool, tmp_path: Path) -> None:
    assert await pool.run(RecordingJob(is_light=True, path=str(tmp_path / "log")), "a") == os.getpid()


async def test_a_job_ends_at_its_limit_of_time_or_memory(pool: ComputePool, tmp_path: Path) -> None:
    with pytest.raises(WorkLimitError, match="more than"):
        await pool.run(SpinningJob(seconds=1.0), "a")
    with pytest.raises(WorkLimitError, match="memory"):
        await pool.run(GrowingJob(), "a")
    assert await pool.run(RecordingJob(path=str(tmp_path / "log")), "a") != os.getpid()


async def test_the_exception_of_a_job_is_raised(pool: ComputePool) -> None:
    with pytest.raises(LookupError, match="a reason"):
        await pool.run(FailingJob(), "a")


async def test_a_job_whose_caller_leaves_is_killed(pool: ComputePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    task = asyncio.create_task(pool.run(RecordingJob(key="k", path=str(log), pause=100.0), "a"))
    [[pid, *_]] = await wait_for_lines(log, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(wait_for_end, int(pid))


async def test_the_children_of_a_process_that_has_ended_are_killed(pool: ComputePool, tmp_path: Path) -> None:
    """The kernel may end a process while Graphviz works for it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = asyncio.create_task(asyncio.to_thread(pipe.read_bytes))
    with pytest.raises(WorkLimitError):
        await pool.run(OrphanJob(path=str(pipe)), "a")
    assert await reading == b""  # Its last writer has ended.


async def test_equal_jobs_are_performed_once(pool: ComputePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = RecordingJob(key="k", path=str(log), pause=0.3)
    leaving, *staying = [asyncio.create_task(pool.run(job, f"t{index}")) for index in range(10)]
    await wait_for_lines(log, 1)
    leaving.cancel()
    assert len({*await asyncio.gather(*staying), await pool.run(job, "other")}) == 1
    assert len(log.read_text().splitlines()) == 1


async def test_a_tenant_does_not_wait_for_all_jobs_of_another(pool: ComputePool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    pool = ComputePool(1, PlaybookCompiler(catalogue()), os.environ)
    jobs = [
        asyncio.create_task(pool.run(RecordingJob(path=str(log), name="first", pause=0.2), "first"))
        for _ in range(6)
    ]
    await wait_for_lines(log, 1)
    jobs.append(asyncio.create_task(pool.run(RecordingJob(path=str(log), name="second"), "second")))
    assert len({*await asyncio.gather(*jobs)}) == 1
    names = [name for _, name in await wait_for_lines(log, 7)]
    assert names.index("second") <= 3
    await pool.close()


async def test_switches_that_hold_their_runs_leave_threads_to_other_tenants(pool: ComputePool) -> None:
    begun, opened = threading.Semaphore(0), threading.Event()

    def hold() -> bool:
        begun.release()
        return opened.wait()

    held = [asyncio.create_task(pool.switch(hold, "many")) for _ in range(pool_module.SWITCHERS + 1)]
    for _ in range(pool_module.TENANT_SWITCHERS):
        await asyncio.to_thread(begun.acquire)
    assert await pool.switch(lambda: "switched", "another") == "switched"
    assert not begun.acquire(blocking=False)
    opened.set()
    assert all(await asyncio.gather(*held))


async def test_a_switch_uses_the_credit_of_its_tenant(pool: ComputePool) -> None:
    account = ACCOUNTS.find("switching")
    assert await pool.switch(lambda: account.threads, "switching") == 1
    assert account.threads == 0


async def test_a_tenant_reads_with_one_thread_and_its_own_credit(pool: ComputePool) -> None:
    begun, entered, opened = [], threading.Event(), threading.Event()

    def read(tenant: str) -> int:
        begun.append(tenant)
        if tenant == "many":
            entered.set()
            opened.wait()
        return ACCOUNTS.find(tenant).threads

    many = [asyncio.ensure_future(pool.read(partial(read, "many"), "many")) for _ in range(5)]
    await asyncio.to_thread(entered.wait)
    for _ in range(3):
        assert await pool.read(partial(read, "few"), "few") == 1
    assert begun.count("many") == 1
    opened.set()
    assert await asyncio.gather(*many) == [1] * 5


def test_the_work_with_a_large_plan_pauses_often(monkeypatch: pytest.MonkeyPatch, store: SqliteStore) -> None:
    pauses: list[str] = []
    for module in (jobs, sql_plans, sql_runs):
        monkeypatch.setattr(module, "wait_for_slice", lambda name=module.__name__: pauses.append(name))
    action = "run: [{action: log, message: x}]"
    steps = [
        f"- {{name: s{index}, {action}, rule: [{{case: default, run: [s{index + 1}]}}]}}\n"
        for index in range(99)
    ]
    plan = compile_text(f"name: large\nsteps:\n{''.join(steps)}- {{name: s99, {action}}}\n")
    store.plans.save(plan)
    read = store.plans.get(plan.hash)
    unpacked = jobs.unpack_plan(jobs.pack_plan(read))
    assert unpacked == read == plan
    assert "hash" not in vars(unpacked)
    assert vars(jobs.unpack_plan(jobs.pack_plan(read, plan.hash)))["hash"] == plan.hash
    run, first = new_run(plan.header, plan.hash, StartRequest(), now=0.0)
    store.runs.create(run, first)
    assert store.runs.overview(run.tenant, run.id) is not None
    assert Counter(pauses) == {jobs.__name__: 8, sql_plans.__name__: 200, sql_runs.__name__: 1}


async def test_few_jobs_of_a_tenant_wait(
    pool: ComputePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITING", 6)
    log = tmp_path / "log"
    job = RecordingJob(path=str(log), pause=100.0)

    async def outcomes(tenant: str, count: int) -> tuple[list[asyncio.Task[object]], list[type]]:
        tasks = [asyncio.create_task(pool.run(job, tenant)) for _ in range(count)]
        await asyncio.sleep(0.05)
        return tasks, [type(task.exception()) for task in tasks if task.done()]

    first, refused = await outcomes("first", 6)
    assert refused == [TenantBusyError, TenantBusyError]
    reads: list[str] = []
    with pytest.raises(TenantBusyError):
        await pool.read(partial(reads.append, "before a job"), "first", is_before_job=True)
    await pool.read(partial(reads.append, "after a job"), "first")
    assert reads == ["after a job"]
    second, refused = await outcomes("second", 4)
    assert refused == [TenantBusyError]
    third, refused = await outcomes("third", 2)
    assert refused == [TenantBusyError]
    fourth, refused = await outcomes("fourth", 1)
    assert refused == [ServiceBusyError]
    tasks = [*first, *second, *third, *fourth]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await pool.run(RecordingJob(path=str(log)), "first") != os.getpid()


async def test_a_process_sees_no_secret(pool: ComputePool) -> None:
    environ = await pool.run(EnvironmentJob(), "a")
    assert "PATH" in environ
    assert "NOETL_SECRET_X" not in environ


async def test_without_processes_threads_perform_the_jobs(tmp_path: Path) -> None:
    pool = ComputePool(0, PlaybookCompiler(catalogue()), {})
    assert await pool.run(RecordingJob(path=str(tmp_path / "log")), "a") == os.getpid()


async def test_expressions_on_threads_stop_with_their_caller() -> None:
    pool = ComputePool(0, PlaybookCompiler(catalogue()), {})
    has_started, has_stopped = threading.Event(), threading.Event()

    class EndlessJob(EnvironmentJob):
        def perform(self, compiler: PlaybookCompiler) -> dict[str, str]:
            try:
                while True:
                    parse_template("{{ range(9) | list | length }}").evaluate(dict[str, Any]().__getitem__)
                    has_started.set()
            finally:
                has_stopped.set()

    task = asyncio.create_task(pool.run(EndlessJob(), "a"))
    assert await asyncio.to_thread(has_started.wait, 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.to_thread(has_stopped.wait, 60)


async def test_jobs_on_threads_leave_the_shared_threads_to_others() -> None:
    pool = ComputePool(0, PlaybookCompiler(catalogue()), {})
    started, may_end = threading.Semaphore(0), threading.Event()

    class HeldJob(EnvironmentJob):
        def perform(self, compiler: PlaybookCompiler) -> dict[str, str]:
            started.release()
            may_end.wait(60)
            return {}

    held = [asyncio.ensure_future(pool.run(HeldJob(), tenant)) for tenant in "aaaaab"]
    try:
        for _ in range(2):
            assert await asyncio.to_thread(started.acquire, timeout=60)
        assert not started.acquire(blocking=False)
        assert to_thread.current_default_thread_limiter().borrowed_tokens == 0
    finally:
        may_end.set()
    assert await asyncio.gather(*held) == [{}] * 6


def test_the_number_of_processes_is_checked() -> None:
    assert read_compute_processes({}) == pool_module.DEFAULT_PROCESSES
    assert read_compute_processes({"NOETL_COMPUTE_PROCESSES": "1"}) == 1
    for text in ("0", "-1", "x", "65", "1.5"):
        with pytest.raises(SettingError, match="NOETL_COMPUTE_PROCESSES"):
            read_compute_processes({"NOETL_COMPUTE_PROCESSES": text})
