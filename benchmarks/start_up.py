"""Time of a process until it can work, compared with an empty Python process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import median_seconds

REPETITIONS = 9
EXECUTOR = "import noetl.executor.engine.invocation, noetl.executor.stores.sqlite.store"


def measure() -> list[dict[str, Any]]:
    python = [sys.executable, "-c"]
    noetl = str(Path(sys.executable).parent / "noetl")
    commands = {"python": [*python, "pass"], EXECUTOR: [*python, EXECUTOR], "noetl --help": [noetl, "--help"]}
    return [{"command": name, "seconds": _run_seconds(command)} for name, command in commands.items()]


def _run_seconds(command: list[str]) -> float:
    return median_seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), REPETITIONS)
