"""The command `noetl plan`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.drawings import (
    Drawing,
    DrawingFormat,
    FormatOption,
    OutlineOption,
    OutOption,
    UnfoldOption,
    choose_format,
    draw,
    write_drawing,
)
from noetl.api.cli.sources import TargetOption

if TYPE_CHECKING:
    from noetl.planner.plan import Plan

app = typer.Typer()


@app.command(no_args_is_help=True, epilog="Example: noetl plan deploy.yaml -o deploy.svg")
def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    format: FormatOption = None,
    out: OutOption = None,
    explain_joins: Annotated[
        bool,
        typer.Option("--explain-joins", help="Explain which joins wait for which branches, as text or json."),
    ] = False,
    triggers: Annotated[
        bool, typer.Option("--triggers", help="List the next firings of the triggers, as text or json.")
    ] = False,
    number: Annotated[
        int | None,
        typer.Option(
            "--number", "-n", min=1, max=1_000, help="How many firings of each trigger. Default: 10."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="TIME", help="The time from which on firings are listed."),
    ] = None,
    outline: OutlineOption = None,
    unfold: UnfoldOption = False,
    target: TargetOption = None,
) -> None:
    """Compile a playbook and draw its plan, without running anything."""
    from noetl.api.cli.local.called_plans import find_called_plans
    from noetl.api.cli.sources import compile_with_findings, read_source

    format = choose_format(format, out)
    if not triggers and (number, start) != (None, None):
        raise CommandError("-n and --from choose firings: add --triggers")
    listing = "--triggers" if triggers else "--explain-joins" if explain_joins else None
    if listing and format not in (DrawingFormat.TEXT, DrawingFormat.JSON):
        raise CommandError(f"{listing} supports the formats text and json, not {format.value}")
    plan, findings = compile_with_findings(read_source(file), target=target)
    if triggers:
        content = _list_firings(plan, start, number or 10, format)
    elif explain_joins:
        content = _explain_joins(plan, format)
    else:
        called = find_called_plans(file, plan) if format is DrawingFormat.HTML else ()
        drawing = Drawing(
            plan, plan.to_json(), findings=findings, unfolded=unfold, outline=outline, called=called
        )
        content = draw(drawing, format)
    write_drawing(content, out)


def _list_firings(plan: Plan, start: str | None, number: int, format: DrawingFormat) -> bytes:
    from noetl.api.cli.display.firing_table import find_firings, firings_to_json, format_firings
    from noetl.api.cli.display.run_list import parse_run_time

    now = time.time()
    first = now if start is None else parse_run_time("--from", start, now)
    firings = find_firings(plan.header.triggers, first, number)
    if format is DrawingFormat.TEXT:
        return format_firings(firings).encode()
    from noetl.planner.diagnostics.terminal_text import format_json

    return format_json(firings_to_json(firings)).encode()


def _explain_joins(plan: Plan, format: DrawingFormat) -> bytes:
    from noetl.planner.draw.join_report import explain_joins, render_explanations

    explanations = explain_joins(plan)
    if format is DrawingFormat.TEXT:
        return render_explanations(explanations).encode()
    from noetl.planner.diagnostics.terminal_text import format_json

    return format_json([entry.to_json() for entry in explanations]).encode()
