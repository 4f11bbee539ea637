"""A pool of processes that perform the jobs of requests.

Problem: compiling a playbook, drawing a graph, and evaluating expressions take up to seconds of CPU time. On
a thread of the service, that work delays every other request, because one thread runs at a time. A thread
cannot be stopped either: the work continues when its client has left.

Algorithm: a bounded pool of processes, with one queue for each tenant. A process that is free takes a job of
the tenant that was served least recently (round robin). Equal jobs share one execution, and a cache keeps
the latest results. A process whose job takes too long, or has no client any more, is killed and replaced.
The processes yield to all others. A job that starves so is performed again by a process that does not yield
(`noetl.api.compute.starvation`).

Cost: some 1 ms and two messages for each job. A process starts with its first job, which takes 0.5 s, or when
a browser opens the page.

Limits: `processes`, MAX_WAITING jobs by dynamic thresholds, of which LARGE_JOBS have large data,
MAX_WAIT_SECONDS, CACHE_BYTES, and those of `noetl.api.compute.worker`. A tenant uses all processes but one.
One more process serves the threads that fire triggers. While a process starves, there are as many more that
do not yield. Functions have no processes: there jobs run on threads until the invocation ends. Past a limit,
`run` raises ServiceBusyError, TenantBusyError or WorkLimitError.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool

from noetl.api.compute.jobs import Job
from noetl.api.compute.starvation import result_unless_starved
from noetl.api.compute.worker import DRAFT, LENGTH_BYTES, URGENT
from noetl.api.http.dynamic_threshold import may_take
from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.errors import ServiceBusyError, TenantBusyError, WorkLimitError
from noetl.executor.errors import SettingError
from noetl.executor.precedence import working_for
from noetl.planner.weighted_cache import WeightedCache

DEFAULT_PROCESSES = 2
MAX_PROCESSES = 64

MAX_WAITING = 64
"""How many jobs may wait for a process. A tenant may add one while it has fewer than are free."""

THREADS = 2
"""How many jobs are performed at the same time on threads of a service without processes."""

READERS = 2
"""How many threads read the data of jobs. The states of a large run take some 50 ms."""

LARGE_JOBS = 3
"""How many jobs with large data are in memory at the same time, from their reads to their results.

A tenant has two of them, so that one is read while the other is performed.
"""

SWITCHERS = 16
"""How many requests that let runs continue in another version are under way at the same time."""

TENANT_SWITCHERS = 2
"""How many of them one tenant may have. Each may hold its run for a minute, and shares the processor."""

MAX_WAIT_SECONDS = 60.0
START_SECONDS = 60.0
"""How long a new process may take until it is ready."""

WALL_FACTOR = 6
"""How many times its CPU time a job may last on a machine that is busy. A repetition counts."""

END_SECONDS = 1.0
"""How long a job waits for the end of its process that was killed."""

PART_BYTES = 64 * 1024
"""Size of a part of a job on its way to a process. Other requests have their turns between the parts."""

CACHE_BYTES = 16 * 1024 * 1024
"""How many bytes of results are kept."""

_INHERITED = (
    "PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
)
"""The variables that a process inherits, so that it sees no secret."""

T = TypeVar("T")

_PASSED = ("NOETL_ALLOW_ACTIONS",)


def read_compute_processes(settings: Mapping[str, str]) -> int:
    """Return how many compute processes a service may have.

    Raises:
        SettingError: `NOETL_COMPUTE_PROCESSES` is not a whole number from 1 to MAX_PROCESSES.
    """
    text = settings.get("NOETL_COMPUTE_PROCESSES", "").strip()
    if not text:
        return DEFAULT_PROCESSES
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text[:9]) <= MAX_PROCESSES:
        message = f"NOETL_COMPUTE_PROCESSES is {text!r}; it must be a whole number from 1 to {MAX_PROCESSES}."
        raise SettingError(message)
    return int(text)


class ComputePool:
    """A pool of `processes` compute processes. With 0, as in functions, THREADS threads perform the jobs."""

    def __init__(self, processes: int, compiler: PlaybookCompiler, settings: Mapping[str, str]) -> None:
        self._queues = _TenantQueues(processes or THREADS)
        self._threads = CapacityLimiter(THREADS)
        self._firing_queues = _TenantQueues(1)
        self._processes = processes
        self._compiler = compiler
        self._environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._environ |= {name: settings[name] for name in _PASSED if name in settings}
        self._idle: list[_ComputeProcess] = []
        self._active: set[_ComputeProcess] = set()
        self._starving: set[asyncio.Task[None]] = set()
        """The ends of killed processes for which the machine has no time yet."""
        self._starting: asyncio.Task[None] | None = None
        self._is_closing = False
        self._flights: dict[str, _Flight] = {}
        self._cache: WeightedCache[str, bytes] = WeightedCache(CACHE_BYTES)
        self._readers = _TenantQueues(READERS)
        self._large_jobs = _TenantQueues(LARGE_JOBS)
        self._switchers = _TenantQueues(SWITCHERS, TENANT_SWITCHERS)
        self._switch_threads = CapacityLimiter(SWITCHERS)
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def has_processes(self) -> bool:
        """True if other processes perform the jobs that are not light."""
        return self._processes > 0

    async def run(self, job: Job, tenant: str) -> Any:
        """Return the result of a job. If the caller is cancelled, the job stops unless others wait for it.

        Raises:
            ServiceBusyError: too many jobs wait.
            TenantBusyError: too many jobs of the tenant wait.
            WorkLimitError: the job takes too much time or memory.
            Exception: what the job raises.
        """
        if job.is_light:
            return await run_in_threadpool(job.perform, self._compiler)
        if not self._processes:
            async with self._queues.place(tenant):
                return await self._perform_on_thread(job)
        key = job.key  # a digest of the whole job
        if key is None:
            return _result_of(await self._perform(job, self._queues.place(tenant)))
        return _result_of(self._cache.find(key) or await self._shared(key, job, tenant))

    async def _perform_on_thread(self, job: Job) -> Any:
        """Return the result of a job. If the caller is cancelled, the expressions of the job stop."""
        from noetl.planner.templates.template import stop_when

        has_left = threading.Event()

        def perform() -> Any:
            with stop_when(lambda: ServiceBusyError("The client has left.") if has_left.is_set() else None):
                return job.perform(self._compiler)

        try:
            return await to_thread.run_sync(perform, limiter=self._threads)
        finally:
            has_left.set()

    async def run_firing(self, job: Job, tenant: str) -> Any:
        """Return the result of a job of a thread that fires triggers. One more process performs these.

        Raises:
            Exception: as `run` does.
        """
        return _result_of(await self._perform(job, self._firing_queues.place(tenant)))

    def prepare(self) -> None:
        """Start a process if there is none, so that the first draft or graph does not wait for it."""
        if not self._processes or self._idle or self._active or self._is_closing or self._starting:
            return
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        """Start a process that is idle. If none can be started, the next job says so."""
        try:
            self._idle.append(await _ComputeProcess.start(self._environ, DRAFT))
        except ServiceBusyError:
            pass
        finally:
            self._starting = None

    def cached(self, key: str) -> Any | None:
        """Return the result of an earlier job with this key, or None."""
        data = self._cache.find(key)
        return None if data is None else _result_of(data)

    async def remembered(self, key: str, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the bytes of a key. If they are not kept, `make` returns them, one call for each key."""
        data = self._cache.find(key)
        if data is None:
            making = self._making.setdefault(key, asyncio.Lock())
            async with making:
                data = self._cache.find(key) or await make()
                self._cache.add(key, data, len(data))
        return data

    async def read(self, function: Callable[[], T], tenant: str, *, is_before_job: bool = False) -> T:
        """Return function(), which reads the data of a job on a thread. A tenant has all threads but one.

        It uses the credit of the tenant, and pauses where it calls `wait_for_slice`. If a job follows, the
        function is not called while no further job may wait.

        Raises:
            ServiceBusyError, TenantBusyError: as `run` does.
            Exception: what the function raises.
        """

        def read() -> T:
            with working_for(tenant):
                return function()

        async with self._readers.place(tenant):
            if is_before_job:
                self._queues.refuse_if_full(tenant)
            return await run_in_threadpool(read)

    def reserve(self, tenant: str) -> AbstractAsyncContextManager[None]:
        """Return the place of a job of a tenant with large data. Its block reads and performs the job.

        Otherwise the data of all jobs that wait for a process would be in memory.

        Raises:
            ServiceBusyError, TenantBusyError: as `run` does.
        """
        return self._large_jobs.place(tenant)

    async def switch(self, function: Callable[[], T], tenant: str) -> T:
        """Return function(), which may hold a run for a minute. A tenant has TENANT_SWITCHERS of the threads.

        It uses the credit of the tenant, as in `read`.

        Raises:
            ServiceBusyError, TenantBusyError: as `run` does.
            Exception: what the function raises.
        """

        def switch() -> T:
            with working_for(tenant):
                return function()

        async with self._switchers.place(tenant):
            return await to_thread.run_sync(switch, limiter=self._switch_threads)

    async def close(self) -> None:
        """Stop all processes, and wait until they have ended. Jobs that are performed fail as busy."""
        self._is_closing = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        for flight in tuple(self._flights.values()):
            flight.task.cancel()
        processes = (*self._idle, *self._active)
        for process in processes:
            process.kill()  # all before the first wait, since each needs a processor to end
        for process in processes:
            await process.stop()
        self._idle.clear()
        if self._starving:
            await asyncio.wait(self._starving)

    async def _shared(self, key: str, job: Job, tenant: str) -> bytes:
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(
                asyncio.create_task(self._perform(job, self._queues.place(tenant)))
            )
        flight.waiting += 1
        try:
            data = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0:
                flight.task.cancel()
                if self._flights.get(key) is flight:
                    del self._flights[key]
        self._cache.add(key, data, len(data))
        return data

    async def _perform(self, job: Job, place: AbstractAsyncContextManager[None]) -> bytes:
        """Return the pickled outcome of a job, which waits for a place."""
        async with place, self._process() as process:
            try:
                async with asyncio.timeout(WALL_FACTOR * job.seconds):
                    return await self._outcome(job, process)
            except TimeoutError:
                problem = f"lasts more than {WALL_FACTOR * job.seconds:g} s"
                raise WorkLimitError(job.subject, problem, is_late=True) from None
            except (asyncio.IncompleteReadError, ConnectionError):
                if self._is_closing:
                    raise ServiceBusyError("The service stops.") from None
                problem = f"takes more than {job.seconds:g} s of CPU time, or too much memory"
                raise WorkLimitError(job.subject, problem) from None

    async def _outcome(self, job: Job, process: _ComputeProcess) -> bytes:
        """Return the pickled outcome of a job. If it starves, it is performed by another process.

        The kernel lets no process without privileges leave SCHED_IDLE, so the priority of the process that
        has begun cannot be raised.
        """
        if process.is_urgent:
            return (await process.perform(job))[1]
        answer = await result_unless_starved(process.perform(job), process.pid)
        if answer is not None:
            is_worn, outcome = answer
            process.is_reusable = not is_worn
            return outcome
        self._end_later(process)
        async with self._process(is_urgent=True) as urgent_process:
            return (await urgent_process.perform(job))[1]

    @asynccontextmanager
    async def _process(self, *, is_urgent: bool = False) -> AsyncIterator[_ComputeProcess]:
        """Yield a process that is ready, and stop it afterwards unless it can be used again.

        While a killed process cannot end, the machine is busy. Then the process is urgent.
        """
        if self._starting is not None and not is_urgent:
            await asyncio.wait({self._starting})
        if is_urgent or self._starving:
            process = await _ComputeProcess.start(self._environ, URGENT)
        else:
            process = self._idle.pop() if self._idle else await _ComputeProcess.start(self._environ)
        self._active.add(process)
        process.is_reusable = False
        try:
            if self._is_closing:
                raise ServiceBusyError("The service stops.")
            yield process
        finally:
            self._active.discard(process)
            if process.is_reusable:
                self._idle.append(process)
            elif not process.is_killed:
                await self._end(process)

    async def _end(self, process: _ComputeProcess) -> None:
        """Stop a process. If it does not end soon, do not wait for it."""
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.stop()
        except TimeoutError:
            self._end_later(process)

    def _end_later(self, process: _ComputeProcess) -> None:
        """Kill a process that starves. It needs a processor to end, so nothing waits for it but `close`."""
        process.kill()
        end = asyncio.create_task(process.stop())
        self._starving.add(end)
        end.add_done_callback(self._starving.discard)


def _result_of(data: bytes) -> Any:
    """Return the result in an outcome, or raise its exception."""
    has_succeeded, result = pickle.loads(data)  # noqa: S301  A process of this service wrote it.
    if has_succeeded:
        return result
    if isinstance(result, MemoryError):
        raise WorkLimitError("The work", "takes too much memory")
    raise result


class _ComputeProcess:
    """A process of `noetl.api.compute.worker`."""

    def __init__(self, process: asyncio.subprocess.Process, *, is_urgent: bool) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self.is_reusable = True
        self.is_killed = False
        self.is_urgent = is_urgent

    @property
    def pid(self) -> int:
        """The number of the process, and of the group of its children."""
        return self._process.pid

    @classmethod
    async def start(cls, environ: Mapping[str, str], *arguments: str) -> _ComputeProcess:
        """Start a process with arguments of the program, and return it once it is ready for jobs."""
        process = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "noetl.api.compute.worker",
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environ,
            ),
            is_urgent=URGENT in arguments,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await process._read()
        except (asyncio.IncompleteReadError, TimeoutError):
            await process.stop()
            raise ServiceBusyError("No compute process can be started.") from None
        except BaseException:
            await process.stop()
            raise
        return process

    async def perform(self, job: Job) -> tuple[bool, bytes]:
        """Return whether the process is worn, and the pickled outcome of the job."""
        # The states of a large run are packed by 100 ms of calls of Python. Other threads run between them.
        data = memoryview(await run_in_threadpool(pickle.dumps, job, pickle.HIGHEST_PROTOCOL))
        self._input.write(len(data).to_bytes(LENGTH_BYTES, "big"))
        for start in range(0, len(data), PART_BYTES):
            self._input.write(data[start : start + PART_BYTES])
            await self._input.drain()
        return await self._read()

    async def stop(self) -> None:
        """Kill the process and its children, and wait until it has ended."""
        self.kill()
        await asyncio.shield(self._process.wait())

    def kill(self) -> None:
        """Kill the process and its children, unless this was done before."""
        if self.is_killed:
            return
        self.is_killed = True
        is_alive = self._process.returncode is None
        if is_alive:
            with suppress(ProcessLookupError):
                self._process.kill()
        # While a child lives, the number of the group belongs to no other process. One that is idle has no
        # children, and may have ended long ago.
        if hasattr(os, "killpg") and (is_alive or not self.is_reusable):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._input.close()

    async def _read(self) -> tuple[bool, bytes]:
        head = await self._output.readexactly(LENGTH_BYTES + 1)
        length = int.from_bytes(head[:LENGTH_BYTES], "big")
        return bool(head[LENGTH_BYTES]), await self._output.readexactly(length)


@dataclass(slots=True, eq=False)
class _Flight:
    """A job that is performed, and the number of callers that wait for it."""

    task: asyncio.Task[bytes]
    waiting: int = 0


class _TenantQueues:
    """The queues of tenants for a number of processes or threads. A tenant has all but one, or `share`."""

    def __init__(self, processes: int, share: int | None = None) -> None:
        self._free = processes
        self._share = max(processes - 1, 1) if share is None else share
        self._running: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Wait until a process is free for a job of a tenant, and occupy it during the block."""
        await self._take(tenant)
        try:
            yield
        finally:
            self._free += 1
            self._running[tenant] -= 1
            self._give()

    def refuse_if_full(self, tenant: str) -> None:
        """Raise an error if no further job of a tenant may wait.

        Raises:
            ServiceBusyError: too many jobs wait.
            TenantBusyError: too many jobs of the tenant wait.
        """
        held = len(self._waiting.get(tenant, ()))
        if may_take(held, MAX_WAITING - sum(map(len, self._waiting.values()))):
            return
        if held:
            raise TenantBusyError(f"{held} jobs of this tenant wait already.")
        raise ServiceBusyError(f"{MAX_WAITING} jobs wait already.")

    async def _take(self, tenant: str) -> None:
        self.refuse_if_full(tenant)
        queue = self._waiting.setdefault(tenant, deque())
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(ticket)
        self._give()
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await ticket
        except BaseException as error:
            if ticket.done() and not ticket.cancelled():
                self._free += 1
                self._running[tenant] -= 1
                self._give()
            with suppress(ValueError):
                queue.remove(ticket)
            if isinstance(error, TimeoutError):
                raise ServiceBusyError("The service has more work than time.") from None
            raise

    def _give(self) -> None:
        """Give free processes to tenants with waiting jobs, beginning with the one served least recently."""
        for tenant in tuple(self._waiting):
            queue = self._waiting[tenant]
            while queue and queue[0].done():
                queue.popleft()
            if not queue:
                if not self._running[tenant]:
                    del self._waiting[tenant], self._running[tenant]
            elif self._free and self._running[tenant] < self._share:
                self._free -= 1
                self._running[tenant] += 1
                queue.popleft().set_result(None)
                self._waiting.move_to_end(tenant)
