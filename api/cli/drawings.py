"""Drawings on the command line: their formats, and the files that they are written to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noetl.api.cli.display.console import CommandError, write_stdout

if TYPE_CHECKING:
    from noetl.planner.catalogue import ActionDeclaration, PlaybookCall
    from noetl.planner.diagnostics.diagnostic import Diagnostic
    from noetl.planner.draw.called_playbooks import CalledPlaybook
    from noetl.planner.draw.layout import Layout
    from noetl.planner.draw.run_marks import DrawnRun, RunMarks
    from noetl.planner.plan import Plan


class DrawingFormat(StrEnum):
    """A format of drawings."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"
    PNG = "png"
    HTML = "html"
    JSON = "json"


_FORMATS_BY_SUFFIX = {
    ".txt": DrawingFormat.TEXT,
    ".mmd": DrawingFormat.MERMAID,
    ".mermaid": DrawingFormat.MERMAID,
    ".dot": DrawingFormat.DOT,
    ".gv": DrawingFormat.DOT,
    ".svg": DrawingFormat.SVG,
    ".png": DrawingFormat.PNG,
    ".html": DrawingFormat.HTML,
    ".htm": DrawingFormat.HTML,
    ".json": DrawingFormat.JSON,
}

FormatOption = Annotated[
    DrawingFormat | None,
    typer.Option(
        "--format", "-f", help="The format of the output. Default: that of the suffix of OUT, or text."
    ),
]
OutOption = Annotated[
    str | None, typer.Option("--out", "-o", metavar="OUT", help="Write to this file instead of stdout.")
]
UnfoldOption = Annotated[
    bool,
    typer.Option("--unfold", help="Draw each step of a large plan, if that takes at most 5 seconds."),
]


OutlineOption = Annotated[
    bool | None,
    typer.Option(
        "--outline/--boxes",
        help="Write text as one line for each step, or as boxes. Default: boxes in a terminal, if they fit.",
    ),
]


@dataclass(frozen=True, slots=True)
class CalledPlan:
    """The plan of a called playbook, or the problem why there is none."""

    call: PlaybookCall
    plan: Plan | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The content of a drawing: a plan, and the run or the findings that are shown with it.

    `unfolded` draws each step of a large plan. `outline` chooses the form of text. `data` is what the format
    `json` writes. The format `html` also shows the plans that are `called`.
    """

    plan: Plan
    data: Any
    run: DrawnRun | None = None
    findings: tuple[Diagnostic, ...] = ()
    unfolded: bool = False
    outline: bool | None = None
    called: tuple[CalledPlan, ...] = ()


def choose_format(format: DrawingFormat | None, out: str | None) -> DrawingFormat:
    """Return the format of `--format`, or that of the suffix of the file, or text.

    Raises:
        CommandError: the suffix is unknown, or it contradicts `--format`.
    """
    suffix = "" if out is None else Path(out).suffix.lower()
    by_suffix = _FORMATS_BY_SUFFIX.get(suffix)
    if format is None and suffix and by_suffix is None:
        from noetl.planner.diagnostics.wording import as_code, join_words

        suffixes = join_words(as_code(_FORMATS_BY_SUFFIX))
        raise CommandError(f"unknown format of {out}; name it with -f, or use the suffix {suffixes}")
    if format is not None and by_suffix is not None and format is not by_suffix:
        message = f"-f {format.value} contradicts the suffix of {out}, which means {by_suffix.value}"
        raise CommandError(f"{message}; leave out -f, or rename the file")
    format = format or by_suffix or DrawingFormat.TEXT
    if format is DrawingFormat.PNG and out is None and sys.stdout.isatty():
        raise CommandError("cannot write png to a terminal: name a file with -o")
    return format


def write_drawing(content: bytes, out: str | None) -> None:
    """Write a drawing to a file, or to standard output.

    Raises:
        CommandError: the file cannot be written.
    """
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


def draw(drawing: Drawing, format: DrawingFormat) -> bytes:
    """Return a drawing in a format.

    Raises:
        CommandError: a package that the format needs is not installed, or the plan is too large for it.
    """
    from noetl.executor.actions import catalogue
    from noetl.planner.draw import dot, mermaid

    action_types = catalogue()
    states = None if drawing.run is None else drawing.run.states
    match format:
        case DrawingFormat.TEXT:
            return _draw_text(drawing, action_types).encode()
        case DrawingFormat.MERMAID:
            return mermaid.draw(drawing.plan, action_types, states).encode()
        case DrawingFormat.DOT:
            return dot.draw(drawing.plan, action_types, states).encode()
        case DrawingFormat.JSON:
            from noetl.api.service.views import members
            from noetl.planner.diagnostics.terminal_text import format_json

            return format_json(drawing.data, members).encode()
        case _:
            return _draw_picture(drawing, format, action_types)


def _draw_text(drawing: Drawing, action_types: Mapping[str, ActionDeclaration]) -> str:
    """Return the plan as boxes if they fit into the terminal, else as an outline."""
    import shutil

    from noetl.planner.draw import boxes, text

    states = None if drawing.run is None else drawing.run.states
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns
    has_boxes = is_terminal if drawing.outline is None else not drawing.outline
    drawn = boxes.draw(drawing.plan, action_types, states, width=width) if has_boxes else None
    if drawn is not None:
        return f"{text.wrap(text.headline(drawing.plan), width)}\n{drawn}"
    outline = text.draw(drawing.plan, action_types, states)
    return text.wrap(outline, width) if is_terminal else outline


def _draw_picture(
    drawing: Drawing, format: DrawingFormat, action_types: Mapping[str, ActionDeclaration]
) -> bytes:
    from noetl.api.graphviz import GraphvizError
    from noetl.api.pictures import LayoutRequest, PictureError, lay_out
    from noetl.planner.draw.run_marks import mark_run

    run = drawing.run
    marks = None if run is None else mark_run(drawing.plan, run)
    failed = [] if run is None else [name for name, state in run.states.items() if state == "failed"]
    try:
        request = LayoutRequest(run is not None, failed, drawing.unfolded)
        return _write_picture(drawing, format, lay_out(drawing.plan, action_types, request), marks)
    except (GraphvizError, PictureError) as error:
        raise CommandError(str(error)) from error


def _write_picture(drawing: Drawing, format: DrawingFormat, layout: Layout, marks: RunMarks | None) -> bytes:
    match format:
        case DrawingFormat.PNG:
            from noetl.api.pictures import to_png

            return to_png(layout, marks)
        case DrawingFormat.HTML:
            from noetl.planner.draw import page

            called = [_lay_out_called(called) for called in drawing.called]
            return page.write_page(layout, marks, drawing.plan.source, drawing.findings, called).encode()
        case _:
            from noetl.planner.draw import svg

            return svg.write_svg(layout, marks).encode()


def _lay_out_called(called: CalledPlan) -> CalledPlaybook:
    from noetl.api.pictures import PictureError, lay_out
    from noetl.executor.actions import catalogue
    from noetl.planner.draw.called_playbooks import CalledPlaybook

    if called.plan is None:
        return CalledPlaybook(called.call, problem=called.problem)
    try:
        return CalledPlaybook(called.call, lay_out(called.plan, catalogue()))
    except PictureError as error:
        return CalledPlaybook(called.call, problem=str(error))
