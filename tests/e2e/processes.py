"""Commands in their own processes, and a probe that shows whether a command still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def start_noetl(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command in a folder and in its own process group, with only these settings."""
    return _start(folder, arguments, settings, subprocess.PIPE)


def start_silently(folder: Path, *arguments: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command as `start_noetl` does, without its output, so that it never waits for a reader."""
    return _start(folder, arguments, settings, subprocess.DEVNULL)


def _start(
    folder: Path, arguments: tuple[str, ...], settings: dict[str, str], output: int
) -> subprocess.Popen[str]:
    return start_program(folder, "from noetl.api.cli import main; main()", arguments, settings, output)


def start_program(
    folder: Path, program: str, arguments: Sequence[str], settings: Mapping[str, str], output: int
) -> subprocess.Popen[str]:
    """Start a text of Python as `start_noetl` starts a command. `output` says where its output goes."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("NOETL_")} | dict(settings)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=output,
        stderr=output,
        text=True,
        start_new_session=True,
    )


class CommandProbe:
    """A probe of a command that holds a pipe open: true while the command or a child of it runs."""

    def __init__(self, path: Path) -> None:
        self._pipe = path.open("rb", buffering=0)
        self.group = int(self._pipe.readline())

    def __bool__(self) -> bool:
        os.set_blocking(self._pipe.fileno(), False)
        return self._pipe.read(1) is None

    def close(self) -> None:
        if self:
            os.killpg(self.group, signal.SIGKILL)
        self._pipe.close()
