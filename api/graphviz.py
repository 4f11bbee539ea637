"""Rendering of DOT text with the installed Graphviz, which works while its caller does.

A thread writes the text and reads the answer, because either may be longer than a pipe holds.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import sysconfig
from contextlib import closing, suppress
from pathlib import Path
from threading import Thread

_FOLDERS = os.pathsep.join((sysconfig.get_path("scripts"), str(Path(__file__).parents[2] / "bin")))
"""Folders of the programs of packages: those of this Python, and that of the package of a function."""

MAX_SECONDS = 120.0
"""How long Graphviz may take for a person who waits at a terminal. A service has a lower limit."""


class GraphvizError(Exception):
    """Graphviz is not installed or has failed. The message names the remedy."""


class GraphvizTimeoutError(GraphvizError):
    """Graphviz takes too long, or was ended for the time or the memory that it took."""


class Rendering:
    """A rendering that Graphviz works on, for at most `seconds`. The caller must close it.

    Raises:
        GraphvizError: neither `graphviz-pure` nor `dot` can be found, or it cannot be started.
    """

    def __init__(self, dot: str, format: str, seconds: float = MAX_SECONDS) -> None:
        self._seconds = seconds
        self._answer = b""
        self._error: Exception | None = None
        try:
            self._process = subprocess.Popen(
                [_find_program(), f"-T{format}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise GraphvizError(f"Graphviz cannot be started: {error.strerror}") from None
        _limit_time(self._process.pid, seconds)
        self._thread = Thread(target=self._communicate, args=(dot.encode(),), daemon=True)
        self._thread.start()

    def _communicate(self, dot: bytes) -> None:
        with self._process:
            try:
                self._answer, _ = self._process.communicate(dot, self._seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                problem = f"Graphviz takes more than {self._seconds:g} s to draw the plan"
                self._error = GraphvizTimeoutError(problem)
            except Exception as error:  # noqa: BLE001  The thread that needs the answer raises it.
                self._process.kill()
                self._error = error

    def finish(self) -> bytes:
        """Wait for the answer, and return it.

        Raises:
            GraphvizTimeoutError: the program takes too long, or was ended.
            GraphvizError: the program has failed.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._process.returncode < 0:
            raise GraphvizTimeoutError("Graphviz takes too long to draw the plan")
        if self._process.returncode:
            message = f"Graphviz cannot draw the plan; it ended with {self._process.returncode}"
            raise GraphvizError(message)
        return self._answer

    def close(self) -> None:
        """Kill the program if it runs, and wait until it has ended."""
        self._process.kill()
        self._thread.join()


def render(dot: str, format: str, seconds: float = MAX_SECONDS) -> bytes:
    """Render DOT text as `svg`, or as coordinates in the format `json0`, in at most `seconds`.

    Raises:
        GraphvizError: as `Rendering` and its `finish` do.
    """
    with closing(Rendering(dot, format, seconds)) as rendering:
        return rendering.finish()


def _limit_time(pid: int, seconds: float) -> None:
    """Limit the CPU time of a program by the kernel, too. This process may be killed while it runs."""
    if sys.platform == "linux":
        import resource

        with suppress(OSError):  # It may have ended, or a container may forbid it.
            soft, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
            limit = math.ceil(seconds) + 1
            if soft == resource.RLIM_INFINITY or soft > limit:
                resource.prlimit(pid, resource.RLIMIT_CPU, (limit, hard))


def _find_program() -> str:
    program = shutil.which("graphviz-pure", path=_FOLDERS) or shutil.which("graphviz-pure")
    program = program or shutil.which("dot")
    if program is None:
        raise GraphvizError(
            "the program `graphviz-pure` of NoETL is missing, so nothing can be drawn; install NoETL again"
        )
    return program
