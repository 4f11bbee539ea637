"""The command `noetl check`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import (
    EXIT_FAILED,
    CommandError,
    print_message,
    print_report,
    stderr_console,
    write_stdout,
)
from noetl.api.cli.sources import TargetOption

if TYPE_CHECKING:
    from noetl.api.cli.sources import PlaybookSource

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
    fix: Annotated[
        bool, typer.Option("--fix", help="Replace misspelt words in the files, and report the rest.")
    ] = False,
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
    if fix:
        sources = [_fix(source, target) for source in sources]
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


def _fix(source: PlaybookSource, target: str | None) -> PlaybookSource:
    """Replace the misspelt words of a file, and return its new content. A file without any is not written.

    Raises:
        CommandError: the source is standard input, or the file cannot be written.
    """
    from noetl.api.cli.sources import PlaybookSource, compile_source
    from noetl.planner.diagnostics.fixes import apply_edits
    from noetl.planner.diagnostics.render import STDIN

    if source.file == STDIN:
        raise CommandError("--fix changes files, and standard input is none; name a file")
    edits = [finding.fix for finding in compile_source(source, target).diagnostics if finding.fix is not None]
    if not edits:
        return source
    mark = source.content[:3] if source.content.startswith(b"\xef\xbb\xbf") else b""
    content = mark + apply_edits(source.text, edits).encode()
    try:
        Path(source.file).write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {source.file}: {error.strerror or error}") from error
    words = "1 word" if len(edits) == 1 else f"{len(edits)} words"
    print_message(f"replaced {words} in {source.file}")
    return PlaybookSource(source.file, content)
