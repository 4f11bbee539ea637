"""The command line, run in this process as the console script runs it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from noetl.api.cli import main


@dataclass(frozen=True)
class CommandResult:
    """Exit code and output of a command."""

    exit_code: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., CommandResult]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("NOETL_STORE", "NOETL_DEBUG", "NOETL_WORKERS", "NOETL_PUBLIC_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def noetl(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Function `noetl(*arguments, stdin=…)`, which runs a command in the working directory."""

    def run_command(*arguments: str, stdin: str = "") -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["noetl", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return CommandResult(exit_info.value.code or 0, captured.out, captured.err)

    return run_command


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Function `start(*arguments)`, which starts `noetl` as a process with pipes.

    The process is killed at the end of the test.
    """
    processes: list[subprocess.Popen[str]] = []

    def start_process(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from noetl.api.cli import main; main()", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, start_new_session=True, **{**pipes, **options}))
        return processes[-1]

    yield start_process
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
