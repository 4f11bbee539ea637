"""Playbooks as the command line names them: a file, or `-` for standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from noetl.api.cli.display.console import FAILED, RefusalError, show

if TYPE_CHECKING:
    from noetl.planner.compile import Compilation
    from noetl.planner.diagnostics.render import Checked
    from noetl.planner.plan import Plan


class Target(StrEnum):
    """Where a playbook is to run, when that bounds what it can do."""

    LAMBDA = "lambda"


TargetOption = Annotated[Target | None, typer.Option("--target", help="Also check that it can run there.")]

_MORE_THAN_ANY_PLAYBOOK = (1 << 20) + 1


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of a playbook, under the name its user gave."""

    file: str
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode("utf-8-sig", "replace")


def read_source(file: str) -> Source:
    """What the file holds, up to one byte more than a playbook may.

    Raises:
        RefusalError: it cannot be read.
    """
    try:
        if file == "-":
            return Source(file, sys.stdin.buffer.read(_MORE_THAN_ANY_PLAYBOOK))
        with Path(file).open("rb") as opened:
            return Source(file, opened.read(_MORE_THAN_ANY_PLAYBOOK))
    except OSError as error:
        raise RefusalError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise RefusalError(f"cannot read {file!r}: {error}") from error


def compile_source(source: Source, target: str | None = None) -> Compilation:
    """The source compiled for the actions that this installation has, and for the target it is to run on, if given."""
    from noetl.executor.actions import catalogue
    from noetl.planner.compile import compile_playbook

    return compile_playbook(source.content, catalogue(), target)


def compiled_plan(source: Source, *, quiet: bool = False, target: str | None = None) -> Plan:
    """The plan of the source, after everything that was found in it has been said on stderr; quietly, errors only.

    Raises:
        RefusalError: the playbook has errors.
    """
    from noetl.planner.diagnostics.codes import Severity
    from noetl.planner.diagnostics.render import full, summary

    compilation = compile_source(source, target)
    checked = [found(source, compilation)]
    if quiet:
        errors = tuple(d for d in compilation.diagnostics if d.severity is Severity.ERROR)
        checked = [replace(checked[0], diagnostics=errors)]
    if checked[0].diagnostics:
        show(full(checked))
    if compilation.plan is None:
        raise RefusalError(summary(checked), FAILED)
    return compilation.plan


def found(source: Source, compilation: Compilation) -> Checked:
    """The source with what was found in it, to be reported."""
    from noetl.planner.diagnostics.render import Checked

    return Checked(source.file, source.text, compilation.diagnostics)
