"""Playbooks on the command line: a file, or `-` for standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import EXIT_FAILED, CommandError, print_report

if TYPE_CHECKING:
    from noetl.planner.compile import Compilation
    from noetl.planner.diagnostics.codes import Severity
    from noetl.planner.diagnostics.diagnostic import Diagnostic
    from noetl.planner.diagnostics.render import CheckedFile
    from noetl.planner.plan import Plan


class CompileTarget(StrEnum):
    """A platform whose limits a playbook must respect."""

    LAMBDA = "lambda"


TargetOption = Annotated[
    CompileTarget | None, typer.Option("--target", help="Also check that the playbook can run there.")
]

PLAYBOOK_SUFFIXES = (".yaml", ".yml", ".json")
_MAX_READ_BYTES = (1 << 20) + 1
"""One byte more than a playbook may have, so that a longer file is reported and not read completely."""


@dataclass(frozen=True, slots=True)
class PlaybookSource:
    """The bytes of a playbook, with the name of the file as the user wrote it."""

    file: str
    content: bytes

    @property
    def text(self) -> str:
        """The text, for a report. It is empty if the file is binary."""
        return "" if b"\0" in self.content else self.content.decode("utf-8-sig", "replace")


def read_source(file: str) -> PlaybookSource:
    """Read a file, or standard input for `-`, up to `_MAX_READ_BYTES`.

    Raises:
        CommandError: the file cannot be read.
    """
    if not file:
        raise CommandError("FILE must not be empty; name a playbook, or - for standard input")
    try:
        if file == "-":
            return PlaybookSource(file, sys.stdin.buffer.read(_MAX_READ_BYTES))
        with Path(file).open("rb") as stream:
            return PlaybookSource(file, stream.read(_MAX_READ_BYTES))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise CommandError(f"cannot read {file}: {error.strerror}; {_suggest_file(Path(file))}") from error
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise CommandError(f"cannot read {file!r}: {error}") from error


def _suggest_file(path: Path) -> str:
    """Return how to name a playbook instead of a path that is missing or a folder."""
    from noetl.planner.diagnostics.diagnostic import closest

    folder = path if path.is_dir() else path.parent
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix in PLAYBOOK_SUFFIXES)
    except OSError:
        names = []
    if path.is_dir():
        return f"name a file, such as {folder / names[0]}" if names else "name a file"
    meant = closest(path.name, names)
    return f"did you mean {folder / meant}?" if meant else "check the name, and the folder you are in"


def names_file(text: str) -> bool:
    """Return whether a text names a file or a folder, and not a registered playbook."""
    if text in ("", "-") or text.endswith(PLAYBOOK_SUFFIXES):
        return True
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def compile_source(source: PlaybookSource, target: str | None = None) -> Compilation:
    """Compile a playbook for the action types of this installation, and for `target` if given."""
    from noetl.executor.actions import catalogue
    from noetl.planner.compile import compile_playbook

    return compile_playbook(source.content, catalogue(), target)


def has_changed(file: str, plan: Plan) -> bool:
    """Return whether a file no longer compiles to a plan. A file that cannot be read has not changed."""
    try:
        source = read_source(file)
    except CommandError:
        return False
    if source.text == plan.source:
        return False
    compiled = compile_source(source).plan
    return compiled is None or compiled.hash != plan.hash


def compile_or_fail(source: PlaybookSource, *, quiet: bool = False) -> Plan:
    """Return the plan of a playbook, and print a line for each warning to stderr, unless `quiet`.

    A playbook with errors is reported in full. `noetl check` reports the others in full, with their notes.

    Raises:
        CommandError: the playbook has errors.
    """
    from noetl.planner.diagnostics.codes import Severity
    from noetl.planner.diagnostics.render import render_concise

    compilation = compile_source(source)
    checked = checked_source(source, compilation)
    if compilation.plan is None:
        raise _report_errors(_with_severity(checked, Severity.ERROR) if quiet else checked)
    if not quiet:
        print_report(render_concise([_with_severity(checked, Severity.WARNING)]))
    return compilation.plan


def compile_with_findings(
    source: PlaybookSource, *, target: str | None = None
) -> tuple[Plan, tuple[Diagnostic, ...]]:
    """Return the plan of a playbook and its diagnostics, which are also printed to stderr.

    Raises:
        CommandError: the playbook has errors.
    """
    from noetl.planner.diagnostics.render import render_full

    compilation = compile_source(source, target)
    checked = checked_source(source, compilation)
    if compilation.plan is None:
        raise _report_errors(checked)
    if checked.diagnostics:
        print_report(render_full([checked]))
    return compilation.plan, tuple(compilation.diagnostics)


def report_findings(source: PlaybookSource, diagnostics: Iterable[Diagnostic]) -> CommandError:
    """Print the findings about a playbook in full, and return the error that ends the command."""
    from noetl.planner.diagnostics.render import CheckedFile

    return _report_errors(CheckedFile(source.file, source.text, tuple(diagnostics)))


def _report_errors(checked: CheckedFile) -> CommandError:
    """Print the findings in full, and return the error that ends the command."""
    from noetl.planner.diagnostics.render import render_full, summarise

    print_report(render_full([checked]))
    return CommandError(summarise([checked]), EXIT_FAILED)


def _with_severity(checked: CheckedFile, severity: Severity) -> CheckedFile:
    """Return a checked file with its findings of one severity."""
    return replace(checked, diagnostics=tuple(d for d in checked.diagnostics if d.severity is severity))


def checked_source(source: PlaybookSource, compilation: Compilation) -> CheckedFile:
    """Return a playbook with its diagnostics, for a report."""
    from noetl.planner.diagnostics.render import CheckedFile

    return CheckedFile(source.file, source.text, compilation.diagnostics)
