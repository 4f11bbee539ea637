"""The command `noetl plan`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from noetl.api.cli.display.console import CommandError, write_stdout
from noetl.api.cli.sources import TargetOption

if TYPE_CHECKING:
    from noetl.planner.plan import Plan

app = typer.Typer()


class PlanFormat(StrEnum):
    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"
    JSON = "json"


_FORMATS_BY_SUFFIX = {
    ".txt": PlanFormat.TEXT,
    ".mmd": PlanFormat.MERMAID,
    ".mermaid": PlanFormat.MERMAID,
    ".dot": PlanFormat.DOT,
    ".gv": PlanFormat.DOT,
    ".svg": PlanFormat.SVG,
    ".png": PlanFormat.PNG,
    ".json": PlanFormat.JSON,
}


@app.command(no_args_is_help=True, epilog="Example: noetl plan deploy.yaml -f svg -o deploy.svg")
def plan(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A playbook, or - for standard input.")],
    format: Annotated[
        PlanFormat | None,
        typer.Option(
            "--format", "-f", help="The format of the output. Default: that of the suffix of OUT, or text."
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="OUT", help="Write to this file instead of stdout.")
    ] = None,
    explain_joins: Annotated[
        bool,
        typer.Option("--explain-joins", help="Explain which joins wait for which branches, as text or json."),
    ] = False,
    target: TargetOption = None,
) -> None:
    """Compile a playbook and draw its plan, without running anything."""
    from noetl.api.cli.sources import compile_or_fail, read_source

    format = format or (PlanFormat.TEXT if out is None else _format_of(out))
    if format is PlanFormat.PNG and out is None and sys.stdout.isatty():
        raise CommandError("cannot write png to a terminal: name a file with -o")
    if explain_joins and format not in (PlanFormat.TEXT, PlanFormat.JSON):
        raise CommandError(f"--explain-joins supports the formats text and json, not {format.value}")
    plan = compile_or_fail(read_source(file), target=target)
    content = _explain_joins(plan, format) if explain_joins else _draw(plan, format)
    if out is None and sys.stdout.isatty():
        write_stdout(content.decode())
        return
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        Path(out).write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror or error}") from error


def _format_of(out: str) -> PlanFormat:
    """Return the format that the suffix of a file names, or text if it has none.

    Raises:
        CommandError: the suffix is unknown.
    """
    suffix = Path(out).suffix.lower()
    if not suffix:
        return PlanFormat.TEXT
    if suffix not in _FORMATS_BY_SUFFIX:
        from noetl.planner.diagnostics.wording import as_code, join_words

        suffixes = join_words(as_code(_FORMATS_BY_SUFFIX))
        raise CommandError(f"unknown format of {out}; name it with -f, or use the suffix {suffixes}")
    return _FORMATS_BY_SUFFIX[suffix]


def _explain_joins(plan: Plan, format: PlanFormat) -> bytes:
    from noetl.planner.draw.join_report import explain_joins, render_explanations

    explanations = explain_joins(plan)
    if format is PlanFormat.TEXT:
        return render_explanations(explanations).encode()
    from noetl.planner.diagnostics.terminal_text import format_json

    return format_json([entry.to_json() for entry in explanations]).encode()


def _draw(plan: Plan, format: PlanFormat) -> bytes:
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import dot, mermaid, text

    match format:
        case PlanFormat.TEXT:
            return text.draw(plan, catalogue()).encode()
        case PlanFormat.MERMAID:
            return mermaid.draw(plan, catalogue()).encode()
        case PlanFormat.DOT:
            return dot.draw(plan, catalogue()).encode()
        case PlanFormat.JSON:
            from noetl.planner.diagnostics.terminal_text import format_json

            return format_json(plan.to_json()).encode()
        case PlanFormat.SVG | PlanFormat.PNG:
            from noetl.api.graphviz import GraphvizError, render

            try:
                return render(dot.draw(plan, catalogue()), format.value)
            except GraphvizError as error:
                raise CommandError(str(error)) from error
