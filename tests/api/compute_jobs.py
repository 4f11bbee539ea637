"""Jobs of the tests of the compute pool. A compute process imports this module."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

from noetl.api.service.compiler import PlaybookCompiler
from noetl.executor.errors import ActionError
from noetl.planner.frozen import frozen
from tests.process_privacy import is_readable


@frozen
class TestedJob:
    """A job that is never light."""

    __test__ = False
    key: str | None = None
    seconds: float = 20.0
    is_light: bool = False
    subject = "The job"


@frozen
class SpinningJob(TestedJob):
    def perform(self, compiler: PlaybookCompiler) -> None:
        while True:
            pass


@frozen
class GrowingJob(TestedJob):
    def perform(self, compiler: PlaybookCompiler) -> int:
        return len(bytearray(4 * 1024**3))


@frozen
class EnvironmentJob(TestedJob):
    def perform(self, compiler: PlaybookCompiler) -> dict[str, str]:
        return dict(os.environ)


@frozen
class HiddenJob(TestedJob):
    """A job that returns whether other processes of its user may read its process (Linux)."""

    def perform(self, compiler: PlaybookCompiler) -> bool:
        return is_readable()


@frozen
class RecordingJob(TestedJob):
    """A job that writes its process and its name to a file, and lasts for a while."""

    path: str = ""
    name: str = ""
    pause: float = 0.0

    def perform(self, compiler: PlaybookCompiler) -> int:
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()} {self.name}\n")
        time.sleep(self.pause)
        return os.getpid()


@frozen
class PolicyJob(TestedJob):
    """A job that returns the scheduling policy of its process (Linux)."""

    def perform(self, compiler: PlaybookCompiler) -> int:
        return os.sched_getscheduler(0)


USE_CPU_TIME = "import time\nwhile time.process_time() < 0.3: pass"


@frozen
class BusyJob(TestedJob):
    """A job that uses CPU time, and returns the scheduling policy of its process (Linux)."""

    seconds: float = 10.0
    has_child: bool = False

    def perform(self, compiler: PlaybookCompiler) -> int:
        if self.has_child:
            subprocess.run([sys.executable, "-c", USE_CPU_TIME], check=True)
        else:
            end = time.process_time() + 0.3
            while time.process_time() < end:
                pass
        return os.sched_getscheduler(0)


@frozen
class OrphanJob(TestedJob):
    """A job whose process ends, and leaves a child that holds the write end of a pipe."""

    path: str = ""

    def perform(self, compiler: PlaybookCompiler) -> None:
        with Path(self.path).open("w") as pipe:
            subprocess.Popen(["sleep", "600"], stdout=pipe)
        os._exit(1)


@frozen
class CollectionsJob(TestedJob):
    """A job that returns how many garbage collections there were before it, and after it made a cycle."""

    objects: int = 0

    def perform(self, compiler: PlaybookCompiler) -> tuple[int, int]:
        before = _count_collections()
        cycle: list[object] = [[] for _ in range(self.objects)]
        cycle.append(cycle)
        return before, _count_collections()


def _count_collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


@frozen
class FailingJob(TestedJob):
    def perform(self, compiler: PlaybookCompiler) -> None:
        raise LookupError("a reason")


@frozen
class TestedEvaluation:
    """An evaluation that writes its name to a file, and lasts for a while.

    While the file has fewer than `ends_until` lines, its process ends then.
    """

    __test__ = False
    path: str
    name: str = ""
    pause: float = 0.0
    ends_until: int = 0
    is_light = False

    def evaluate(self) -> int:
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()} {self.name}\n")
        if len(Path(self.path).read_text().splitlines()) <= self.ends_until:
            os._exit(1)
        time.sleep(self.pause)
        return os.getpid()


@frozen
class RefusedEvaluation(TestedEvaluation):
    """An evaluation whose expression has no value."""

    def evaluate(self) -> int:
        raise ActionError("TemplateError", "no value", details=[1]).at_key("a").with_key_in_message()
