"""DBOS beside us, in an environment of its own. `python -m benchmarks.dbos` makes that, from the package index."""

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


class Dbos:
    """A process in which DBOS runs workflows of steps that do what those of our playbooks do."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.id = process.pid
        self._answer()

    def seconds(self, shape: str, steps: int, result_bytes: int) -> float:
        """How long a workflow takes: a `chain`, or a `fan-out` of steps that go together."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{shape} {steps} {result_bytes}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "DBOS has ended"
        return line


@contextmanager
def running(url: str, *, write_ahead_log: bool = False) -> Iterator[Dbos]:
    """DBOS on the database of the URL. On SQLite it leaves the rollback journal on by itself, with which a commit takes longer
    than with a write-ahead log.
    """
    python = environment_folder(*PACKAGES) / "bin" / "python"
    if write_ahead_log:
        sqlite3.connect(url.removeprefix("sqlite:///")).execute(
            "pragma journal_mode = wal"
        ).connection.close()
    with subprocess.Popen(
        # Isolated, so that this folder is not where it looks for packages.
        [python, "-I", CHILD, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield Dbos(process)
        finally:
            process.kill()


if __name__ == "__main__":
    print(tool_environment(*PACKAGES))
