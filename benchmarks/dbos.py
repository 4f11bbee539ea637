"""DBOS for comparison, in its own environment.

`python -m benchmarks.dbos` installs it from the package index.
"""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tool_environments import environment_folder, tool_environment

PACKAGES = ("dbos==3.4.0",)
CHILD = Path(__file__).with_name("dbos_child.py")


def is_installed() -> bool:
    return (environment_folder(*PACKAGES) / ".made").exists()


class DbosProcess:
    """A process in which DBOS runs workflows whose steps do the same as those of the measured playbooks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.id = process.pid
        self._read_answer()

    def run_seconds(self, shape: str, steps: int, result_bytes: int) -> float:
        """Run a workflow and return its seconds: a `chain`, or a `fan-out` of parallel steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{shape} {steps} {result_bytes}\n")
        self._process.stdin.flush()
        return float(self._read_answer())

    def _read_answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the DBOS process ended"
        return line


@contextmanager
def running(url: str, *, write_ahead_log: bool = False) -> Iterator[DbosProcess]:
    """Run DBOS on the database of the URL.

    By default DBOS uses the rollback journal of SQLite, in which a commit takes longer than in a
    write-ahead log.
    """
    python = environment_folder(*PACKAGES) / "bin" / "python"
    if write_ahead_log:
        sqlite3.connect(url.removeprefix("sqlite:///")).execute(
            "pragma journal_mode = wal"
        ).connection.close()
    with subprocess.Popen(
        # Isolated mode: this folder is not in the search path of modules.
        [python, "-I", CHILD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield DbosProcess(process)
        finally:
            process.kill()


if __name__ == "__main__":
    print(tool_environment(*PACKAGES))
