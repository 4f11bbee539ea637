"""The program of a compute process: `python -m noetl.api.compute.worker`, or with `draft` or `urgent`.

With the argument `draft`, the process performs a small draft first, because its first one takes 0.15 s more.
It reads jobs from standard input, and writes their outcomes to standard output. A job is its length in 8
bytes and a pickle. An outcome has one byte more between them: whether the process is worn, so that the parent
replaces it. The first outcome is empty. The parent created the process, so it is trusted. The process ends
with its input.

The cyclic garbage collector runs after an answer, because it would take up to a third of the time of a draft.

Limits: the memory of the process, and CPU seconds of each job. The kernel enforces both. The parent kills a
process whose job takes too long, and one that has grown. So nothing stays of a hostile job. Once it has
started, the process runs when nothing else of the machine does. If all processors are busy, the parent lets
a process with the argument `urgent` perform the job. That one does not yield to other processes.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from pathlib import Path
from typing import Any, BinaryIO

from noetl.api.compute.jobs import Job
from noetl.api.service.compiler import PlaybookCompiler, allowed_catalogue
from noetl.executor.security.process_privacy import hide_process
from noetl.planner.gc_control import gc_paused

DRAFT = "draft"
URGENT = "urgent"
_SAMPLE = """\
name: sample
steps:
- {name: a, run: [{action: set, set: {x: "{{ 1 }}"}}], rule: [{case: "{{ x == 1 }}", run: [b]}]}
- {name: b, run: [{action: log, message: x}]}
"""

NICENESS = 19
"""The priority of the process where the scheduler has no class for work without haste."""

LENGTH_BYTES = 8
MAX_MEMORY = 1024 * 1024 * 1024
"""Bytes of address space of a compute process, and of Graphviz."""

MAX_KEPT_MEMORY = 256 * 1024 * 1024
"""Bytes of a process above which it is replaced after its job."""


def main() -> None:
    hide_process()
    if hasattr(os, "setpgid"):
        # A group, so that its children end with it. Not a session: Linux shares the processors among
        # sessions, whatever their priorities (`sched_autogroup`).
        os.setpgid(0, 0)
    results, jobs = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)  # so that no output becomes a part of a message
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _limit_memory()
    compiler = PlaybookCompiler(allowed_catalogue(os.environ), cache_bytes=0)
    import noetl.planner.compile  # noqa: F401  Imported before the first job, whose time is limited.

    if DRAFT in sys.argv[1:]:
        from noetl.api.compute.draft_job import DraftJob

        DraftJob(_SAMPLE, 3).perform(compiler)
    gc.collect()
    gc.freeze()
    if URGENT not in sys.argv[1:]:
        yield_to_the_service()  # After the imports, which would starve on a busy machine.
    _write(results, is_worn=False, outcome=b"")
    while (job := _read(jobs)) is not None:
        with gc_paused():
            is_worn, outcome = _outcome(job, compiler)
            _write(results, is_worn=is_worn, outcome=outcome)
        _collect_garbage()


def _outcome(job: Job, compiler: PlaybookCompiler) -> tuple[bool, bytes]:
    """Return whether the process should be replaced, and the pickle of the result or the exception."""
    _limit_time(job.seconds)
    try:
        outcome: tuple[bool, Any] = (True, job.perform(compiler))
    except Exception as error:  # noqa: BLE001  The parent raises it.
        outcome = (False, error)
    try:
        return _has_grown(), pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except MemoryError as error:
        return True, pickle.dumps((False, error))


def _collect_garbage() -> None:
    """Collect the garbage of a job now, unless it is little. Else, the next job would pay for it."""
    if gc.get_count()[0] > gc.get_threshold()[0]:
        gc.collect()


def _read(stream: BinaryIO) -> Job | None:
    head = stream.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    job: Job = pickle.loads(stream.read(int.from_bytes(head, "big")))  # noqa: S301  The parent wrote it.
    return job


def _write(stream: BinaryIO, *, is_worn: bool, outcome: bytes) -> None:
    stream.write(len(outcome).to_bytes(LENGTH_BYTES, "big") + bytes([is_worn]))
    stream.write(outcome)
    stream.flush()


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def yield_to_the_service() -> None:
    """Let the process run only when no other one wants to.

    With a low priority alone, Linux lets it finish its turn of some milliseconds first (`sched(7)`,
    "SCHED_IDLE"). A request waits for such turns some twenty times.
    """
    if sys.platform == "linux":
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # a container may forbid it
            os.nice(NICENESS)
    elif sys.platform != "win32":
        os.nice(NICENESS)


def _limit_time(seconds: float) -> None:
    """Let the kernel end the process if it uses more CPU time for the next job."""
    if sys.platform == "win32":
        return
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _has_grown() -> bool:
    """Return whether the process keeps too much memory.

    On Linux, the maximum of `getrusage` includes the memory of the parent at the start. Then each process of
    a large service would look large. So the present size is read there.
    """
    if sys.platform == "win32":
        return False
    import resource

    if sys.platform != "linux":
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit > MAX_KEPT_MEMORY
    resident_pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return resident_pages * resource.getpagesize() > MAX_KEPT_MEMORY


if __name__ == "__main__":
    main()
