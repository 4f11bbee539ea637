"""`noetl check`"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from api.cli.console import FAILED, say, show, stderr_console, write
from api.cli.source import TargetOption


class CheckFormat(StrEnum):
    FULL = "full"
    CONCISE = "concise"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Playbooks, or - for standard input.")],
    format: Annotated[CheckFormat, typer.Option("--format", help="How findings are reported.")] = CheckFormat.FULL,
    target: TargetOption = None,
) -> None:
    """Check playbooks and report everything that is found, without running anything.

    Findings for people go to stderr; json, sarif and github are written to stdout. Exits with 1 when there is an error.
    """
    from api.cli.source import compile_source, found, read_source
    from planner import report
    from planner.diagnostics import Severity

    sources = [read_source(file) for file in files]
    checked = [found(source, compile_source(source, target)) for source in sources]
    console = stderr_console()
    match format:
        case CheckFormat.FULL:
            show(report.full(checked, max(min(console.width, 120), 60)), console)
            say(report.summary(checked))
        case CheckFormat.CONCISE:
            show(report.concise(checked), console)
        case CheckFormat.JSON:
            write(report.as_json(checked))
        case CheckFormat.SARIF:
            from importlib.metadata import version

            write(report.sarif(checked, version("noetl")))
        case CheckFormat.GITHUB:
            write(report.github(checked))
    if report.count(checked, Severity.ERROR):
        raise typer.Exit(FAILED)
