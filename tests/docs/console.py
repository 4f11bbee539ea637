"""Runner of the console blocks of a page: the commands are played, and their output is compared.

A page is a story that is played from top to bottom in one empty folder, by one bash.

- A fenced block with a title, such as `yaml title="orders.yaml"`, becomes that file in the current folder.
- A `console` block holds commands after `$ ` (continued after `> `). Below each is its output, stdout and
  stderr together. `…` matches any text within a line. A line that is only `…` matches any number of lines.
  `… ms` and `… s` match every duration.
- The exit code of a command must be 0, unless the next command is `echo $?`, whose output shows the code.
- A command that ends with `&` is left alone as soon as it has printed the output below it.
  The page need not show what bash reports of killed jobs.
- All other blocks are shown to readers and not played.

`python -m tests.docs.console PAGE…` plays pages and prints what differs. `--update` writes the actual output
into the pages; lines that match keep their `…`.
"""

from __future__ import annotations

import difflib
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from noetl.infra.reference import ROOT
from tests.postgres import empty_database, find_binaries, running_server

ELLIPSIS = "…"
COLUMNS = 90
DATABASE_VARIABLE = "DATABASE_URL"
COMMAND_SECONDS = 60.0
BACKGROUND_SECONDS = 20.0
POLL_SECONDS = 0.02
FENCE = re.compile(r"^(?P<indent>[ \t>]*)(?P<ticks>`{3,})(?P<info>[^`]*)$")
TITLE = re.compile(r"""\btitle=["']([^"']+)["']""")
# A slow machine may take seconds where the page shows milliseconds.
DURATION = r"\d[\d.,]* (?:ms|s|m|h)(?: \d+ [sm])?"
WILDCARDS = {"… ms": DURATION, "… s": DURATION, ELLIPSIS: ".*"}
WILDCARD = re.compile(r"(… m?s\b|…)")
JOB_REPORT = re.compile(r"^bash: (?:line \d+: +)?\d+ [A-Z][\w ]+\w  .*\n", re.MULTILINE)
FIX = "correct the page, or run `python -m tests.docs.console --update {page}` and read the difference"
# Commands arrive on stdin, each ended by a NUL; exit code and current folder leave on stdout. Output goes to
# the file $1. `(exit N)` restores the exit code for a command that reads `$?`.
BASH_LOOP = r"""
_console_code=0
while IFS= read -r -d '' _console_command; do
    eval "(exit $_console_code)
$_console_command" </dev/null >>"$1" 2>&1
    _console_code=$?
    printf '%s %s\0' "$_console_code" "$PWD"
done
"""


class PageError(Exception):
    """A page whose blocks do not have the form that can be played."""


class SessionEnd(Exception):
    """A command after which no other command can be executed."""


class PageFile(NamedTuple):
    """A block with a title: a file that readers write."""

    line: int
    name: str
    text: str


class ConsoleCommand(NamedTuple):
    """A command of a console block with the lines of output below it; `line` counts from 1."""

    line: int
    text: str
    expected: tuple[str, ...]
    output_line: int

    @property
    def is_background(self) -> bool:
        return self.text.rstrip().endswith("&") and not self.text.rstrip().endswith("&&")

    @property
    def shows_exit_code(self) -> bool:
        return self.text.strip() == "echo $?"


@dataclass(frozen=True)
class OutputMismatch:
    """A command whose output or exit code is not that of the page."""

    page: str
    command: ConsoleCommand
    problem: str
    actual: tuple[str, ...]

    def __str__(self) -> str:
        merged = merge_output(self.command.expected, self.actual)
        diff = difflib.unified_diff(self.command.expected, merged, "expected", "actual", lineterm="")
        first = self.command.text.splitlines()[0]
        return "\n".join(
            [
                f"{self.page}:{self.command.line}: `{first}` {self.problem}",
                *(f"  {line}" for line in diff),
                f"  fix: {FIX.format(page=self.page)}",
            ]
        )


# --- reading a page ---


def parse_page(text: str, name: str = "page") -> list[PageFile | ConsoleCommand]:
    """Return the files and the commands of a page in their order."""
    parts: list[PageFile | ConsoleCommand] = []
    for line, info, block in read_fences(text, name):
        title = TITLE.search(info)
        if info.split(" ")[0] == "console":
            parts += parse_commands(line, block, name)
        elif title:
            parts.append(PageFile(line, title[1], "".join(f"{row}\n" for row in block)))
    return parts


def read_fences(text: str, name: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the number of the first line, the info string and the lines of each fenced block."""
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        opening = FENCE.match(lines[index])
        index += 1
        if not opening:
            continue
        info = opening["info"].strip()
        if opening["indent"] and (info.startswith("console") or TITLE.search(info)):
            raise PageError(f"{name}:{index}: a block that is played must not be indented")
        start = index
        closing = re.compile(rf"^{re.escape(opening['indent'])}{opening['ticks']}`*\s*$")
        while index < len(lines) and not closing.match(lines[index]):
            index += 1
        if index == len(lines):
            raise PageError(f"{name}:{start}: the block is not closed")
        yield start + 1, info, lines[start:index]
        index += 1


def parse_commands(first_line: int, block: Sequence[str], name: str) -> Iterator[ConsoleCommand]:
    """Yield the commands of a console block whose first line has the number `first_line`."""
    index = 0
    while index < len(block):
        line = first_line + index
        if not block[index].startswith("$ "):
            raise PageError(f"{name}:{line}: a console block must begin with a command after `$ `")
        command = [block[index][2:]]
        index += 1
        while index < len(block) and block[index].startswith("> "):
            command.append(block[index][2:])
            index += 1
        start = index
        while index < len(block) and not block[index].startswith("$ "):
            index += 1
        yield ConsoleCommand(
            line, "\n".join(command), without_blank_end(block[start:index]), first_line + start
        )


# --- comparing output ---


def without_blank_end(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the lines without blanks at their ends and without empty lines after the last text."""
    result = [line.rstrip() for line in lines]
    while result and not result[-1]:
        result.pop()
    return tuple(result)


def line_matches(expected: str, actual: str) -> bool:
    """Return whether a line of output matches a line of a page.

    >>> line_matches("run … succeeded in … ms", "run 4acc2fa2 succeeded in 35 ms")
    True
    >>> line_matches("run … succeeded", "run 4acc2fa2 failed")
    False
    >>> line_matches("✓ read  … ms", "✓ read  1.2 s")
    True
    """
    parts = WILDCARD.split(expected)
    patterns = (WILDCARDS.get(part, re.escape(part)) for part in parts)
    return re.fullmatch("".join(patterns), actual) is not None


def output_matches(expected: Sequence[str], actual: Sequence[str]) -> bool:
    """Return whether the output matches the page.

    `reachable` holds the numbers of actual lines that the expected lines so far can match.

    >>> output_matches(["a", "…", "d"], ["a", "b", "c", "d"]), output_matches(["a"], ["a", "b"])
    (True, False)
    """
    reachable = {0}
    for line in expected:
        if line == ELLIPSIS:
            reachable = set(range(min(reachable), len(actual) + 1)) if reachable else set()
        else:
            reachable = {
                count + 1 for count in reachable if count < len(actual) and line_matches(line, actual[count])
            }
    return len(actual) in reachable


def merge_output(expected: Sequence[str], actual: Sequence[str]) -> list[str]:
    """Return the actual lines, where those that match a line of the page have its text.

    >>> merge_output(["run …", "old"], ["run 4acc2fa2", "new"])
    ['run …', 'new']
    """
    if output_matches(expected, actual):
        return list(expected)
    merged: list[str] = []
    position = 0
    for line in actual:
        for index in range(position, len(expected)):
            if expected[index] != ELLIPSIS and line_matches(expected[index], line):
                merged.append(expected[index])
                position = index + 1
                break
        else:
            merged.append(line)
    return merged


# --- playing a page ---


class BashSession:
    """A bash in a folder that executes one command after another and keeps its state.

    Output goes to a file, not to a pipe: it is complete when a command has ended, although commands in the
    background hold the file open.
    """

    def __init__(self, folder: Path, output: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        output.touch()
        self._output = output.open("rb")
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", BASH_LOOP, "bash", str(output)],
            cwd=folder,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Kill bash and everything that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._output.close()

    def execute(self, command: str) -> int:
        """Execute a command, and return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\0")
        self._process.stdin.flush()
        code, _, folder = self._read_status(time.monotonic() + COMMAND_SECONDS).partition(" ")
        self.folder = Path(folder)
        return int(code)

    def _read_status(self, deadline: float) -> str:
        assert self._process.stdout is not None
        status = b""
        while not status.endswith(b"\0"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SessionEnd(f"did not end within {COMMAND_SECONDS:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 4096)
            if not chunk:
                raise SessionEnd("ended bash")
            status += chunk
        return status[:-1].decode()

    def read_output(self) -> str:
        """Return the output since the last call."""
        return self._output.read().decode(errors="replace")


def play(parts: Iterable[PageFile | ConsoleCommand], page: str, session: BashSession) -> list[OutputMismatch]:
    """Write the files and execute the commands of a page. Return what differs from the page.

    The rest of a page is not played after a command that does not end or that ends bash.
    """
    mismatches: list[OutputMismatch] = []
    for part, following in pairwise([*parts, None]):
        assert part is not None
        if isinstance(part, PageFile):
            path = session.folder / part.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(part.text, "utf-8")
            continue
        try:
            code = session.execute(part.text)
        except SessionEnd as error:
            return [*mismatches, OutputMismatch(page, part, str(error), read_actual(part, session))]
        actual = read_actual(part, session)
        is_code_shown = isinstance(following, ConsoleCommand) and following.shows_exit_code
        problems = []
        if not output_matches(part.expected, actual):
            problems.append("printed something else")
        if code and not is_code_shown and not part.shows_exit_code:
            problems.append(f"ended with exit code {code}, and the next command is not `echo $?`")
        if problems:
            mismatches.append(OutputMismatch(page, part, " and ".join(problems), actual))
    return mismatches


def read_actual(command: ConsoleCommand, session: BashSession) -> tuple[str, ...]:
    """Return the lines that a command has printed. Wait for those of a command in the background.

    Bash may report a killed job during any later command, so a page need not show the report.
    """
    text = session.read_output()
    deadline = time.monotonic() + BACKGROUND_SECONDS
    while command.is_background and time.monotonic() < deadline:
        if output_matches(command.expected, without_blank_end(text.splitlines())):
            break
        time.sleep(POLL_SECONDS)
        text += session.read_output()
    lines = without_blank_end(text.splitlines())
    if output_matches(command.expected, lines):
        return lines
    return without_blank_end(JOB_REPORT.sub("", text).splitlines())


@contextmanager
def open_session(folder: Path, **settings: str) -> Iterator[BashSession]:
    """Yield a bash in the empty folder `folder/work`, where `noetl` is the command of this checkout."""
    binaries, work = folder / "bin", folder / "work"
    for path in (binaries, work):
        path.mkdir()
    command = binaries / "noetl"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m noetl "$@"\n', "utf-8")
    command.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NOETL_", "PG"))}
    programs = [str(binaries), str(Path(sys.executable).parent)]
    if DATABASE_VARIABLE in settings:
        programs.append(str(find_binaries() / "bin"))
    environ = kept | {
        "PATH": os.pathsep.join([*programs, os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "HOME": str(folder),
        "COLUMNS": str(COLUMNS),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    with BashSession(work, folder / "output", environ | settings) as session:
        yield session


def play_page(path: Path, folder: Path, **settings: str) -> list[OutputMismatch]:
    """Play a page in a folder with these settings in the environment. Return what differs."""
    page = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    parts = parse_page(path.read_text("utf-8"), page)
    with open_session(folder, **settings) as session:
        return play(parts, page, session)


def updated_text(text: str, mismatches: Iterable[OutputMismatch]) -> str:
    """Return the text of a page with the actual output of the commands that differ."""
    lines = text.splitlines()
    for mismatch in sorted(mismatches, key=lambda mismatch: -mismatch.command.line):
        command = mismatch.command
        start = command.output_line - 1
        lines[start : start + len(command.expected)] = merge_output(command.expected, mismatch.actual)
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Play the pages of the arguments, and print or write what differs. Return the exit code."""
    paths = [Path(argument).resolve() for argument in arguments if argument != "--update"]
    differs = False
    for path in paths:
        with tempfile.TemporaryDirectory(prefix="console-") as folder, database_of(path) as settings:
            mismatches = play_page(path, Path(folder), **settings)
        for mismatch in mismatches:
            print(mismatch)
        if mismatches and "--update" in arguments:
            path.write_text(updated_text(path.read_text("utf-8"), mismatches), "utf-8")
        differs |= bool(mismatches)
    return int(differs)


def needs_database(path: Path) -> bool:
    """Return whether a page reads `$DATABASE_URL`, the address of an empty database in Postgres."""
    return f"${DATABASE_VARIABLE}" in path.read_text("utf-8")


@contextmanager
def database_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield the settings of a page: the address of an empty database if the page reads it."""
    if not needs_database(path):
        yield {}
        return
    with running_server() as server, empty_database(server.dsn) as dsn:
        yield {DATABASE_VARIABLE: dsn}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
