"""The command `noetl check`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.access.opening import UrlOption, open_runs
from noetl.api.cli.display.console import (
    EXIT_FAILED,
    CommandError,
    print_message,
    print_report,
    stderr_console,
    write_stdout,
)
from noetl.api.cli.sources import TargetOption
from noetl.api.cli.store_option import StoreOption
from noetl.planner.frozen import replace

if TYPE_CHECKING:
    from noetl.api.cli.sources import PlaybookSource
    from noetl.planner.compile import Compilation
    from noetl.planner.plan import Plan
    from noetl.planner.registration.registry import LinkedPlaybooks

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
    runs: Annotated[
        bool, typer.Option("--runs", help="Say which open runs of the playbooks could continue in the files.")
    ] = False,
    store: StoreOption = None,
    url: UrlOption = None,
) -> None:
    """Check playbooks and report all findings, without running anything.

    full and concise go to stderr; json, sarif and github go to stdout.
    The exit code is 1 if there is an error, or with --runs if a run could not continue.
    """
    from noetl.api.cli.local.called_plans import FolderPlaybooks
    from noetl.api.cli.sources import checked_source, read_source
    from noetl.executor.actions import catalogue
    from noetl.executor.extras import describe_missing_extras
    from noetl.planner.diagnostics import render
    from noetl.planner.diagnostics.codes import Severity

    sources = [read_source(file) for file in files]
    if fix:
        sources = [_fix(source, target) for source in sources]
    folders = cache(FolderPlaybooks)
    compiled = [_compile(source, target, folders) for source in sources]
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
    has_errors = bool(render.count_findings(checked, Severity.ERROR))
    if runs and not has_errors:
        plans = [compilation.plan for compilation in compiled if compilation.plan is not None]
        has_errors = not _check_runs(plans, store, url)
    if has_errors:
        raise typer.Exit(EXIT_FAILED)


def _compile(
    source: PlaybookSource, target: str | None, folders: Callable[[Path], LinkedPlaybooks]
) -> Compilation:
    """Compile a playbook, and compare what it uses with the files that `noetl run` would take."""
    from noetl.api.cli.sources import compile_source
    from noetl.executor.actions import catalogue
    from noetl.planner.diagnostics.render import STDIN
    from noetl.planner.registration.checks import check_uses, has_uses

    compilation = compile_source(source, target)
    plan = compilation.plan
    if plan is None or source.file == STDIN or not has_uses(plan, catalogue()):
        return compilation
    found = check_uses(plan, folders(Path(source.file).parent), catalogue())
    diagnostics = sorted((*compilation.diagnostics, *found), key=lambda finding: finding.span)
    return replace(compilation, diagnostics=tuple(diagnostics))


def _check_runs(plans: Sequence[Plan], store: str | None, url: str | None) -> bool:
    """Print how many open runs of the playbooks could continue in these plans, and return whether all can.

    Nothing is registered or changed.
    """
    from noetl.api.cli.display.migration import format_migration
    from noetl.api.cli.run_filters import FilterOptions, RunChange, find_all
    from noetl.api.service.compiler import InlinePlaybook
    from noetl.api.service.switches import PlaybookChange

    can_all_continue = True
    with open_runs(store, url) as runs:
        for plan in plans:
            selected = RunChange.MIGRATE.narrow(FilterOptions(playbook=plan.header.name).to_filter(runs))
            change = PlaybookChange(plan if runs.services is not None else InlinePlaybook(plan.source))
            report = runs.migrate(find_all(runs, selected), change, is_dry_run=True)
            for line in format_migration(report, is_dry_run=True):
                print_message(f"{plan.header.name}: {line}")
            can_all_continue = can_all_continue and not report.skipped
    return can_all_continue


def _fix(source: PlaybookSource, target: str | None) -> PlaybookSource:
    """Replace the misspelt words of a file, and return its new content. A file without any is not written.

    Raises:
        CommandError: the source is standard input, or the file cannot be written.
    """
    from noetl.api.cli.local.called_plans import FolderPlaybooks
    from noetl.api.cli.sources import PlaybookSource
    from noetl.planner.diagnostics.fixes import apply_edits
    from noetl.planner.diagnostics.render import STDIN

    if source.file == STDIN:
        raise CommandError("--fix changes files, and standard input is none; name a file")
    diagnostics = _compile(source, target, FolderPlaybooks).diagnostics
    edits = [finding.fix for finding in diagnostics if finding.fix is not None]
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
