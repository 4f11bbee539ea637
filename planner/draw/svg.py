"""Picture of a plan, or of a run, as SVG in the look of NoETL, from the coordinates of a layout.

The node of a step has an `id`, `n-` and its position in the outline, and its state as `class`. A page that
shows the picture can therefore follow a run by changing classes. Every label has its `textLength`, so fonts
of the viewer do not move anything. All text is escaped, and no text can be markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.draw.advances import fit_text, text_width
from noetl.planner.draw.chart import (
    FRAME,
    GAP,
    GLYPH,
    JOIN_HEIGHT,
    PADDING,
    RIM,
    TEXT_LINE,
    TEXT_SIZE,
    TITLE_LINE,
    TITLE_SIZE,
    Chart,
    ChartEdge,
    ChartNode,
    NodeKind,
)
from noetl.planner.draw.colours import style_sheet
from noetl.planner.draw.frames import Point
from noetl.planner.draw.glyphs import GLYPHS
from noetl.planner.draw.layout import EdgePath, Layout
from noetl.planner.draw.legend import LegendEntry, legend_entries
from noetl.planner.draw.run_marks import MAY_RUN, WORDS, DrawnLoop, RunMarks

MARGIN = 24.0
_HEADING = 50.0
_HEADING_SIZE = 15.0
_LEGEND_LINE = 24.0
_MIN_WIDTH = 380.0
_RIM_INSET = 4.0


@dataclass(frozen=True, slots=True)
class PictureOptions:
    """Options of a picture.

    `has_style`: with its style sheet. `adapts`: dark for a dark background. `has_links`: each step is a link
    to its line, such as `#L12`. `prefix` begins each `id`, for a document with several pictures.
    """

    has_style: bool = True
    adapts: bool = True
    has_links: bool = False
    prefix: str = ""


def write_svg(layout: Layout, marks: RunMarks | None = None, options: PictureOptions | None = None) -> str:
    """Return the picture of a layout. With the marks of a run, it shows states and the edges taken."""
    return "\n".join(_SvgWriter(layout, marks, options or PictureOptions()).lines()) + "\n"


class _SvgWriter:
    def __init__(self, layout: Layout, marks: RunMarks | None, options: PictureOptions) -> None:
        self._layout = layout
        self._marks = marks
        self._options = options
        chart = layout.chart
        heading = text_width(chart.name, _HEADING_SIZE, bold=True)
        self._inner = max(layout.width, _MIN_WIDTH, heading, text_width(chart.facts, TEXT_SIZE))
        self._heading = _HEADING + (TEXT_LINE + 6 if marks is not None and marks.status else 0)

    def lines(self) -> Iterator[str]:
        layout, chart = self._layout, self._layout.chart
        legend = list(_place_legend(legend_entries(chart, self._marks), self._inner))
        rows = legend[-1][1][1] + 1 if legend else 0
        width = self._inner + 2 * MARGIN
        height = self._heading + layout.height + 2 * MARGIN + (rows * _LEGEND_LINE + 16 if rows else 0)
        label = escape(f"{chart.name}: {chart.facts}", {'"': "&quot;"})
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{label}">'
        )
        yield f"<title>{escape(chart.name)}</title>"
        if self._options.has_style:
            yield f"<style>\n{style_sheet(adapts=self._options.adapts)}</style>"
        yield '<rect class="canvas" width="100%" height="100%"/>'
        yield from self._heading_lines(chart)
        left = MARGIN + (self._inner - layout.width) / 2
        yield f'<g transform="translate({left:.1f} {MARGIN + self._heading:.1f})">'
        for edge, path in zip(chart.edges, layout.paths, strict=True):
            yield from self._edge(edge, path)
        for node, corner in zip(chart.nodes, layout.corners, strict=True):
            yield from self._node(node, corner)
        yield "</g>"
        top = MARGIN + self._heading + layout.height + 24
        for entry, (x, row) in legend:
            yield f'<g transform="translate({MARGIN + x:.1f} {top + row * _LEGEND_LINE:.1f})">'
            yield entry.markup
            yield f"{_text(entry.words, (entry.width + 6, 4), 'text')}</g>"
        yield "</svg>"

    def _heading_lines(self, chart: Chart) -> Iterator[str]:
        yield _text(chart.name, (MARGIN, MARGIN + 14), "heading", size=_HEADING_SIZE, bold=True)
        yield _text(chart.facts, (MARGIN, MARGIN + 32), "text")
        marks = self._marks
        if marks is not None and marks.status:
            words = f"{WORDS.get(marks.status, marks.status)} · run {to_printable(marks.run.id)}"
            yield f'<g class="{_class(marks.status)}">{_glyph(marks.status, (MARGIN + 7, MARGIN + 50))}'
            yield f"{_text(words, (MARGIN + GLYPH + GAP, MARGIN + 54), 'text state')}</g>"

    def _edge(self, edge: ChartEdge, path: EdgePath) -> Iterator[str]:
        marks = self._marks
        count = 0 if marks is None else marks.count_of(edge)
        classes = ["error"] if edge.is_error else []
        if marks is not None and (mark := marks.mark_of(edge)) != MAY_RUN:
            classes.append(mark)
        suffix = "".join(f" {name}" for name in classes)
        if path.marks is not None:
            yield from _cut_edge(path, path.marks, suffix)
            if path.label is not None:
                yield _edge_label(edge, path.label, count)
            return
        source = path.points[0]
        curves = " ".join(f"{x:g},{y:g}" for x, y in path.points[1:])
        has_arrow = not edge.target.startswith("f")
        rest = "" if has_arrow else f" L{path.tip[0]:g},{path.tip[1]:g}"
        yield f'<path class="edge{suffix}" d="M{source[0]:g},{source[1]:g} C{curves}{rest}"/>'
        if edge.is_error:
            yield f'<path class="fill-bad" d="{_diamond(source, path.points[1])}"/>'
        if has_arrow:
            yield f'<path class="tip{suffix}" d="{_arrow(path.points[-1], path.tip)}"/>'
        if path.label is not None:
            yield _edge_label(edge, path.label, count)
        elif count > 1:
            x, y = path.points[len(path.points) // 2]
            yield _text(_times(count), (x + 5, y + 3), "label count", bold=True)

    def _node(self, node: ChartNode, corner: Point) -> Iterator[str]:
        x, y = corner
        centre = (x + node.width / 2, y + node.height / 2)
        match node.kind:
            case NodeKind.START:
                yield f'<circle class="bar" cx="{centre[0]:.1f}" cy="{centre[1]:.1f}" r="5"/>'
            case NodeKind.FORK:
                yield f'<rect class="bar" x="{x}" y="{y}" width="{node.width}" height="3" rx="1.5"/>'
            case NodeKind.GOOD_END | NodeKind.FAILURE_END:
                yield _glyph(node.kind.value, centre)
            case NodeKind.JUMP:
                yield _text(node.lines[0], (x + 2, y + 12), "text")
            case NodeKind.WORK:
                yield f'<g class="work">{_box(node, corner)}'
                yield _text(node.lines[0], (x + PADDING, y + 17), "text")
                if node.end is not None:
                    yield _glyph(node.end.value, (x + node.width - PADDING - GLYPH / 2, centre[1]))
                yield "</g>"
            case _ if self._options.has_links and node.line:
                yield f'<a href="#L{node.line}">'
                yield from self._step(node, corner)
                yield "</a>"
            case _:
                yield from self._step(node, corner)

    def _step(self, node: ChartNode, corner: Point) -> Iterator[str]:
        marks = self._marks
        state = "plan" if marks is None else marks.state_of(node.steps)
        words = "" if marks is None else marks.words_of(node.steps)
        names = ", ".join(map(to_printable, node.steps[:20]))
        classes = f"node {_class(state)}"
        identifier = f"{self._options.prefix}n-{node.position}"
        yield f'<g id="{identifier}" class="{classes}"><title>{escape(names)}</title>'
        x, y = corner
        if node.join:
            yield _join_sign(node, corner)
        if node.is_finally:
            yield _text("finally, in every ending", (x, y - 6), "faint", size=TEXT_SIZE)
        yield _box(node, corner)
        inset = FRAME if node.calls else 0.0
        left = x + PADDING + inset
        top = y + node.top + inset
        middle = (y + node.top + y + node.height) / 2
        if marks is not None and (loop := marks.loop_of(node.steps)) is not None:
            yield from _loop_rim(loop, corner, node)
        if marks is not None:
            yield _glyph(state, (left + GLYPH / 2, middle))
            left += GLYPH + GAP
        baseline = top + PADDING / 2 + 13
        yield _text(node.title, (left, baseline), "name", size=TITLE_SIZE, bold=True)
        baseline += TITLE_LINE - 1
        for line in node.lines:
            yield _text(line, (left, baseline), "text")
            baseline += TEXT_LINE
        if words:
            space = x + node.width - PADDING - left - (GLYPH + GAP) * (node.end is not None)
            yield _text(fit_text(words, space, TEXT_SIZE), (left, baseline), "text state")
        if node.end is not None:
            yield _glyph(node.end.value, (x + node.width - PADDING - inset - GLYPH / 2, middle))
        yield "</g>"


def _class(state: str) -> str:
    return state if state.isidentifier() else "plan"


def _text(text: str, place: Point, classes: str, *, size: float = TEXT_SIZE, bold: bool = False) -> str:
    if not text:
        return ""
    length = text_width(text, size, bold=bold)
    return (
        f'<text class="{classes}" x="{place[0]:.1f}" y="{place[1]:.1f}" textLength="{length:.1f}" '
        f'lengthAdjust="spacingAndGlyphs">{escape(text)}</text>'
    )


def _glyph(name: str, centre: Point) -> str:
    markup = GLYPHS.get(name, "")
    return f'<g transform="translate({centre[0]:.1f} {centre[1]:.1f})">{markup}</g>' if markup else ""


def _box(node: ChartNode, corner: Point) -> str:
    x, y = corner
    y += node.top
    width, height = node.width, node.height - node.top
    parts = []
    if node.is_loop:
        sheet = width - 2 * FRAME
        parts.append(
            f'<rect class="sheet" x="{x + FRAME:.1f}" y="{y - FRAME:.1f}" width="{sheet:.1f}" '
            f'height="{height:.1f}" rx="6"/>'
        )
    if node.kind is NodeKind.GROUP:
        parts.append(
            f'<rect class="sheet" x="{x + 3:.1f}" y="{y + 3:.1f}" width="{width:.1f}" '
            f'height="{height:.1f}" rx="6"/>'
        )
    if node.end is NodeKind.FAILURE_END:
        parts.append(f'<path class="box" d="{_cut_corners((x, y), width, height)}"/>')
    else:
        parts.append(
            f'<rect class="box" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6"/>'
        )
    if node.calls:
        parts.append(
            f'<rect class="box" x="{x + FRAME:.1f}" y="{y + FRAME:.1f}" width="{width - 2 * FRAME:.1f}" '
            f'height="{height - 2 * FRAME:.1f}" rx="3"/>'
        )
    return "".join(parts)


def _loop_rim(loop: DrawnLoop, corner: Point, node: ChartNode) -> Iterator[str]:
    """Yield the progress of a loop as a line on the lower rim of its box, with its failed items last."""
    x, y, width = corner[0] + _RIM_INSET, corner[1] + node.height - RIM, node.width - 2 * _RIM_INSET
    for classes, items in (("fill-ok", loop.done - loop.failed), ("fill-bad", loop.failed)):
        length = width * min(items / max(loop.total, 1), 1.0)
        if length > 0:
            yield f'<rect class="{classes}" x="{x:.1f}" y="{y:.1f}" width="{length:.1f}" height="{RIM:g}"/>'
            x += length


def _cut_corners(corner: Point, width: float, height: float) -> str:
    x, y, cut = *corner, 8.0
    right, bottom = x + width, y + height
    points = (
        (x + cut, y), (right - cut, y), (right, y + cut), (right, bottom - cut),
        (right - cut, bottom), (x + cut, bottom), (x, bottom - cut), (x, y + cut),
    )  # fmt: skip
    return "M" + " ".join(f"{px:.1f},{py:.1f}" for px, py in points) + "Z"


def _join_sign(node: ChartNode, corner: Point) -> str:
    """Return the sign above a join: a bar if all branches join, a dot for the first, ticks for each."""
    x, y = corner
    middle = x + node.width / 2
    match node.join:
        case "all":
            return f'<rect class="bar" x="{x:.1f}" y="{y:.1f}" width="{node.width:.1f}" height="3" rx="1.5"/>'
        case "any":
            return f'<circle class="bar" cx="{middle:.1f}" cy="{y + 3.5:.1f}" r="3.5"/>'
        case _:
            ticks = (f"M{middle + shift:.1f},{y:.1f}v{JOIN_HEIGHT - 3:.1f}" for shift in (-8, 0, 8))
            return f'<path class="tick ink" d="{" ".join(ticks)}"/>'


def _edge_label(edge: ChartEdge, centre: Point, count: int) -> str:
    x, y = centre[0] - edge.label_width / 2, centre[1] + 4
    parts = []
    if edge.number:
        number = str(edge.number)
        parts.append(_text(number, (x, y), "label number", bold=True))
        x += text_width(f"{number} ", TEXT_SIZE, bold=True)
    parts.append(_text(edge.label, (x, y), "label text"))
    if count > 1:
        x += text_width(f"{edge.label} " if edge.label else "", TEXT_SIZE)
        parts.append(_text(_times(count), (x + 2, y), "label count", bold=True))
    return "".join(parts)


def _cut_edge(path: EdgePath, marks: tuple[Point, Point], suffix: str) -> Iterator[str]:
    """Yield the two lines of an edge that continues in another column, and their marks."""
    for start, end in ((path.points[0], marks[0]), (marks[1], path.tip)):
        yield f'<path class="edge{suffix}" d="M{start[0]:g},{start[1]:g} L{end[0]:g},{end[1]:g}"/>'
    yield f'<path class="tip{suffix}" d="{_arrow(marks[1], path.tip)}"/>'
    words = str(path.number)
    half = text_width(words, TEXT_SIZE, bold=True) / 2
    for x, y in marks:
        yield f'<circle class="box" cx="{x:g}" cy="{y:g}" r="9"/>'
        yield _text(words, (x - half, y + 4), "count", bold=True)


def _times(count: int) -> str:
    return f"{count:,}\u00d7"


def _diamond(start: Point, towards: Point) -> str:
    """Return a diamond in which an edge begins."""
    ux, uy = _direction(start, towards)
    corners = ((0, 0), (5, 3.4), (10, 0), (5, -3.4))
    points = ((start[0] + ux * along - uy * off, start[1] + uy * along + ux * off) for along, off in corners)
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + "Z"


def _direction(start: Point, end: Point) -> Point:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = max((dx * dx + dy * dy) ** 0.5, 0.1)
    return dx / length, dy / length


def _arrow(base: Point, tip: Point) -> str:
    """Return the triangle of an arrow."""
    ux, uy = _direction(base, tip)
    foot = tip[0] - 7 * ux, tip[1] - 7 * uy
    left = foot[0] - 3.2 * uy, foot[1] + 3.2 * ux
    right = foot[0] + 3.2 * uy, foot[1] - 3.2 * ux
    return "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in (tip, left, right)) + "Z"


def _place_legend(
    entries: tuple[LegendEntry, ...], width: float
) -> Iterator[tuple[LegendEntry, tuple[float, int]]]:
    """Yield each entry with its place: a distance from the left, and a row."""
    x, row = 0.0, 0
    for entry in entries:
        extent = entry.width + 6 + text_width(entry.words, TEXT_SIZE) + 18
        if x and x + extent > width:
            x, row = 0.0, row + 1
        yield entry, (x, row)
        x += extent
