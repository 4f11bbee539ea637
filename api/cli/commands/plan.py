"""`noetl plan`"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from noetl.api.cli.display.console import RefusalError
from noetl.api.cli.sources import TargetOption

if TYPE_CHECKING:
    from noetl.planner.plan import Plan


class PlanFormat(StrEnum):
    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"
    JSON = "json"


def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    format: Annotated[PlanFormat, typer.Option("--format", "-f", help="What to write.")] = PlanFormat.TEXT,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="OUT", help="A file instead of stdout.")
    ] = None,
    explain_joins: Annotated[
        bool,
        typer.Option("--explain-joins", help="Say where branches are waited for, and why; as text or json."),
    ] = False,
    target: TargetOption = None,
) -> None:
    """Compile a playbook and draw its plan, without running anything."""
    from noetl.api.cli.sources import compiled_plan, read_source

    if format is PlanFormat.PNG and out is None and sys.stdout.isatty():
        raise RefusalError("a terminal does not show png: name a file with -o")
    if explain_joins and format not in (PlanFormat.TEXT, PlanFormat.JSON):
        raise RefusalError(f"joins are explained as text or json, not as {format.value}")
    plan = compiled_plan(read_source(file), target=target)
    content = _explained(plan, format) if explain_joins else _drawn(plan, format)
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        Path(out).write_bytes(content)
    except OSError as error:
        raise RefusalError(f"cannot write {out}: {error.strerror or error}") from error


def _explained(plan: Plan, format: PlanFormat) -> bytes:
    from noetl.planner.draw.join_report import meetings, told

    found = meetings(plan)
    if format is PlanFormat.TEXT:
        return told(found).encode()
    import json

    return (
        json.dumps([meeting.to_json() for meeting in found], indent=2, ensure_ascii=False) + "\n"
    ).encode()


def _drawn(plan: Plan, format: PlanFormat) -> bytes:
    from noetl.planner.draw import dot, mermaid, text

    match format:
        case PlanFormat.TEXT:
            return text.draw(plan).encode()
        case PlanFormat.MERMAID:
            return mermaid.draw(plan).encode()
        case PlanFormat.DOT:
            return dot.draw(plan).encode()
        case PlanFormat.JSON:
            import json

            return (json.dumps(plan.to_json(), indent=2, ensure_ascii=False) + "\n").encode()
        case PlanFormat.SVG | PlanFormat.PNG:
            from noetl.api.graphviz import GraphvizError, render

            try:
                return render(dot.draw(plan), format.value)
            except GraphvizError as error:
                raise RefusalError(str(error)) from error
