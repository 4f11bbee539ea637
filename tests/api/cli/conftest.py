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
class Outcome:
    """What a shell sees of a command."""

    exit_code: object
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Outcome]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and nothing of this machine's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("NOETL_STORE", "NOETL_DEBUG", "NOETL_WORKERS", "NOETL_PUBLIC_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def noetl(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`noetl(*arguments, stdin=…)`, in the working folder."""

    def command(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["noetl", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(exit_.value.code or 0, captured.out, captured.err)

    return command


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """`start(*arguments)`: `noetl` as a process of its own in the working folder, with pipes; killed when the test is over."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from noetl.api.cli import main; main()", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, start_new_session=True, **{**pipes, **options}))
        return processes[-1]

    yield begin
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
