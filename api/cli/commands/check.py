"""The command `noetl check`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from noetl.api.cli.display.console import (
    EXIT_FAILED,
    print_message,
    print_report,
    stderr_console,
    write_stdout,
)
from noetl.api.cli.sources import TargetOption

app = typer.Typer()


class CheckFormat(StrEnum):
    FULL = "full"
    CONCISE = "concise"
    JSON = "json"
    SARIF = "sarif"
    GITHUB = "github"


@app.command(no_args_is_help=True, epilog="Example: noetl check deploy.yaml --format concise")
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Playbooks, or - for standard input.")],
    format: Annotated[
        CheckFormat, typer.Option("--format", help="The format of the report.")
    ] = CheckFormat.FULL,
    target: TargetOption = None,
) -> None:
    """Check playbooks and report all findings, without running anything.

    full and concise go to stderr; json, sarif and github go to stdout.
    The exit code is 1 if there is an error.
    """
    from noetl.api.cli.sources import checked_source, compile_source, read_source
    from noetl.executor.actions import catalogue
    from noetl.executor.extras import describe_missing_extras
    from noetl.planner.diagnostics import render
    from noetl.planner.diagnostics.codes import Severity

    sources = [read_source(file) for file in files]
    compiled = [compile_source(source, target) for source in sources]
    checked = [checked_source(*pair) for pair in zip(sources, compiled, strict=True)]
    console = stderr_console()
    match format:
        case CheckFormat.FULL:
            print_report(render.render_full(checked, max(min(console.width, 120), 60)), console)
            print_message(render.summarise(checked))
        case CheckFormat.CONCISE:
            print_report(render.render_concise(checked), console)
        case CheckFormat.JSON:
            write_stdout(render.render_json(checked))
        case CheckFormat.SARIF:
            from importlib.metadata import version

            write_stdout(render.render_sarif(checked, version("noetl")))
        case CheckFormat.GITHUB:
            write_stdout(render.render_github(checked))
    if format in (CheckFormat.FULL, CheckFormat.CONCISE):
        plans = [compilation.plan for compilation in compiled if compilation.plan is not None]
        types = sorted({type for plan in plans for type in plan.header.statistics["actions"]})
        for sentence in describe_missing_extras(catalogue()[type] for type in types):
            print_message(f"note: {sentence}")
    if render.count_findings(checked, Severity.ERROR):
        raise typer.Exit(EXIT_FAILED)
