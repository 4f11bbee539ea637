"""The command `noetl plan`."""

from __future__ import annotations

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
    outline: OutlineOption = None,
    unfold: UnfoldOption = False,
    target: TargetOption = None,
) -> None:
    """Compile a playbook and draw its plan, without running anything."""
    from noetl.api.cli.local.called_plans import find_called_plans
    from noetl.api.cli.sources import compile_with_findings, read_source

    format = choose_format(format, out)
    if explain_joins and format not in (DrawingFormat.TEXT, DrawingFormat.JSON):
        raise CommandError(f"--explain-joins supports the formats text and json, not {format.value}")
    plan, findings = compile_with_findings(read_source(file), target=target)
    if explain_joins:
        content = _explain_joins(plan, format)
    else:
        called = find_called_plans(file, plan) if format is DrawingFormat.HTML else ()
        drawing = Drawing(
            plan, plan.to_json(), findings=findings, unfolded=unfold, outline=outline, called=called
        )
        content = draw(drawing, format)
    write_drawing(content, out)


def _explain_joins(plan: Plan, format: DrawingFormat) -> bytes:
    from noetl.planner.draw.join_report import explain_joins, render_explanations

    explanations = explain_joins(plan)
    if format is DrawingFormat.TEXT:
        return render_explanations(explanations).encode()
    from noetl.planner.diagnostics.terminal_text import format_json

    return format_json([entry.to_json() for entry in explanations]).encode()
