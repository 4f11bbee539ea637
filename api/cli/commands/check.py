"""`noetl check`"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from noetl.api.cli.display.console import FAILED, say, show, stderr_console, write
from noetl.api.cli.sources import TargetOption


class CheckFormat(StrEnum):
    FULL = "full"
    CONCISE = "concise"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Playbooks, or - for standard input.")],
    format: Annotated[
        CheckFormat, typer.Option("--format", help="How findings are reported.")
    ] = CheckFormat.FULL,
    target: TargetOption = None,
) -> None:
    """Check playbooks and report everything that is found, without running anything.

    Findings for people go to stderr; json, sarif and github are written to stdout. Exits with 1 when there is an error.
    """
    from noetl.api.cli.sources import compile_source, found, read_source
    from noetl.planner.diagnostics import render
    from noetl.planner.diagnostics.codes import Severity

    sources = [read_source(file) for file in files]
    checked = [found(source, compile_source(source, target)) for source in sources]
    console = stderr_console()
    match format:
        case CheckFormat.FULL:
            show(render.full(checked, max(min(console.width, 120), 60)), console)
            say(render.summary(checked))
        case CheckFormat.CONCISE:
            show(render.concise(checked), console)
        case CheckFormat.JSON:
            write(render.as_json(checked))
        case CheckFormat.SARIF:
            from importlib.metadata import version

            write(render.sarif(checked, version("noetl")))
        case CheckFormat.GITHUB:
            write(render.github(checked))
    if render.count(checked, Severity.ERROR):
        raise typer.Exit(FAILED)
