"""The layout of a chart: the coordinates that Graphviz's dot gives to its nodes and edges.

dot gets boxes and labels of fixed sizes and no text (Gansner, Koutsofios, North and Vo 1993, "A technique for
drawing directed graphs"). Its answer is read as plain numbers. So a picture depends on no font, and text of a
playbook never reaches Graphviz.

An arrow leaves a frame below the middle of its node, not of the frame. A port says so, and needs a label. dot
reads a table as a label in some 80 us. It reads a record in a third of that, but cuts it into fields of equal
widths. So a frame with one port is a record, and a little wider than the frame.

Cost: dot takes some 5 ms for 20 steps and up to 5 s for 2,000. The caller limits its time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from noetl.planner.draw.chart import Chart, ChartEdge, ChartNode
from noetl.planner.draw.frames import TIP, Course, Frame, Point, middle_of

_MAX_FIELDS = 6
"""How many fields a record may have."""

_ROUNDING = 0.01
"""What makes up for the error of a length in inches, in points."""

_STRETCH = 0.001
"""How much further than in whole points a port is from the middle of its record, for each point."""

_LABEL_HEIGHT = 16.0
_POINTS_PER_INCH = 72.0
_LARGE = 300
"""Number of nodes from which dot tries less hard to avoid crossings."""


@dataclass(frozen=True, slots=True)
class EdgePath:
    """The course of an edge: a start, the points of cubic Bézier curves, the tip, and the label's centre.

    An edge from one column of the picture to the next has two `marks` with the same `number`. A line leads
    from its start to the first mark. Another leads from the second mark to its tip.
    """

    points: tuple[Point, ...]
    tip: Point
    label: Point | None
    marks: tuple[Point, Point] | None = None
    number: int = 0


@dataclass(frozen=True)
class Layout:
    """A chart with coordinates: the top left corner of each node, and the course of each edge."""

    chart: Chart
    width: float
    height: float
    corners: tuple[Point, ...]
    paths: tuple[EdgePath, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the layout as an object for programs that draw it: sizes, nodes and edges."""
        chart = self.chart
        return {
            "width": self.width,
            "height": self.height,
            "nodes": [
                {
                    "key": node.key,
                    "kind": node.kind.value,
                    "steps": list(node.steps),
                    "title": node.title,
                    "lines": list(node.lines),
                    "x": x,
                    "y": y,
                    "width": node.width,
                    "height": node.height,
                    "join": node.join or None,
                    "is_loop": node.is_loop,
                    "calls_playbook": node.calls,
                    "end": node.end and node.end.value,
                    "is_finally": node.is_finally,
                }
                for node, (x, y) in zip(chart.nodes, self.corners, strict=True)
            ],
            "edges": [
                {
                    "source": edge.source,
                    "target": edge.target,
                    "label": edge.label,
                    "number": edge.number or None,
                    "is_error": edge.is_error,
                    "routes": [
                        {"step": step, "case": case, "target": target} for step, case, target in edge.routes
                    ],
                    "points": [list(point) for point in (*path.points, path.tip)],
                    "label_at": path.label and list(path.label),
                    "marks": path.marks and [list(mark) for mark in path.marks],
                }
                for edge, path in zip(chart.edges, self.paths, strict=True)
            ],
        }


def to_dot(chart: Chart, frames: Mapping[int, Frame]) -> str:
    """Return the chart for dot: sizes and edges, without any text."""
    return "\n".join(_dot_lines(chart, frames)) + "\n"


def _dot_lines(chart: Chart, frames: Mapping[int, Frame]) -> Iterator[str]:
    leaves = {leaf for frame in frames.values() for leaf in frame.leaves}
    yield "digraph {"
    effort = ", mclimit=0.3" if len(chart.nodes) - len(leaves) > _LARGE else ""
    yield f"  graph [rankdir=TB, nodesep=0.3, ranksep=0.36, margin=0{effort}]"
    yield '  node [shape=box, fixedsize=true, margin=0, fontsize=4, label=""]'
    yield "  edge [arrowsize=0.6]"
    index = {node.key: number for number, node in enumerate(chart.nodes)}
    for number, node in enumerate(chart.nodes):
        if number not in leaves:
            yield f"  n{number} [{_dot_size(node, frames.get(number))}]"
        if node.is_finally:
            yield f"  {{ rank=sink; n{number} }}"
    for number, edge in enumerate(chart.edges):
        source, target = index[edge.source], index[edge.target]
        if target in leaves:
            continue
        entered = frames.get(target)
        head = f"n{target}" if entered is None else f"n{target}:{_entry_port(chart.nodes[target], entered)}:n"
        if (frame := frames.get(source)) is None:
            yield f"  n{source} -> {head} [id={number}{_dot_label(edge)}]"
        else:
            port = f"e{number}" if _has_ports(frame) else "t"
            yield f"  n{source}:{port}:s -> {head} [id={number}]"
    yield "}"


def _dot_size(node: ChartNode, frame: Frame | None) -> str:
    if frame is None:
        width, height = node.width / _POINTS_PER_INCH, node.height / _POINTS_PER_INCH
        return f"width={width:.4f}, height={height:.4f}"
    if not _has_ports(frame):
        record = _fit_record(middle_of(node), frame.width)
        width, height = record.width / _POINTS_PER_INCH, (frame.height + _ROUNDING) / _POINTS_PER_INCH
        return f'shape=record, width={width:.6f}, height={height:.6f}, label="{record.label}"'
    return f"shape=plain, fixedsize=false, width=0, height=0, label=<{_dot_table(_dot_cells(node, frame))}>"


@dataclass(frozen=True, slots=True)
class _Record:
    """A box of dot that contains a frame at a distance from its left, and has the port `t` in a field."""

    width: float
    left: int
    label: str


@lru_cache(1024)
def _fit_record(middle: int, width: int) -> _Record:
    """Return the narrowest record for a frame, so that the middle of a field is that of the node.

    dot cuts the widths of fields to whole points, and the distances between ports that are to be aligned.
    So both are a little greater than whole numbers.

    >>> _fit_record(52, 214)
    _Record(width=216.118, left=2, label='<t>|')
    """
    records = []
    for count in range(1, _MAX_FIELDS + 1):
        for index in range(count):
            before, after = 2 * index + 1, 2 * (count - index) - 1  # in halves of a field
            half = max(math.ceil(middle / before), math.ceil((width - middle) / after))
            rounding = _ROUNDING + abs(after - before) * half * _STRETCH
            label = "|".join("<t>" if field == index else "" for field in range(count))
            records.append(_Record(round(2 * half * count + rounding, 4), before * half - middle, label))
    return min(records, key=lambda record: record.width)


def _has_ports(frame: Frame) -> bool:
    """Return whether arrows leave a frame at several places."""
    return len({course.points[-1] for course in frame.exits.values() if course.points}) > 1


def _dot_cells(node: ChartNode, frame: Frame) -> Iterator[str]:
    """Yield a cell for the middle of the node and for each place at which an arrow leaves, and those between.

    If both are in one cell, arrows enter where that one leaves, at most a point next to the middle.
    """
    ports = {round(course.points[-1][0]): f"e{number}" for number, course in frame.exits.items()}
    if _entry_port(node, frame) == "t":
        ports[middle_of(node)] = "t"
    end = 0
    for place, port in sorted(ports.items()):
        yield _dot_cell(place - 1 - end)
        yield _dot_cell(2, f' port="{port}"')
        end = place + 1
    # All cells of a row are as high as the highest.
    yield _dot_cell(frame.width - end, f' height="{frame.height}"')


def _entry_port(node: ChartNode, frame: Frame) -> str:
    """Return the port at which arrows enter a frame."""
    for number, course in frame.exits.items() if _has_ports(frame) else ():
        if abs(round(course.points[-1][0]) - middle_of(node)) < 2:
            return f"e{number}"
    return "t"


def _dot_cell(width: int, attributes: str = "") -> str:
    return f'<td width="{width}"{attributes}></td>' if width > 0 else ""


def _dot_table(cells: Iterable[str]) -> str:
    # dot reads markup slowly, so each attribute counts.
    return f'<table border="0" cellspacing="0" cellpadding="0"><tr>{"".join(cells)}</tr></table>'


def _dot_label(edge: ChartEdge) -> str:
    if not edge.label_width:
        return ""
    size = f'width="{edge.label_width + 8:.0f}" height="{_LABEL_HEIGHT:.0f}"'
    table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0" fixedsize="true" {size}>'
    return f", label=<{table}<tr><td></td></tr></table>>"


def read_layout(chart: Chart, frames: Mapping[int, Frame], answer: bytes) -> Layout:
    """Return the layout in dot's answer in the format `json0`."""
    data = json.loads(answer)
    _, _, width, height = map(float, data["bb"].split(","))
    nodes = {entry["name"]: _point(entry["pos"], height) for entry in data["objects"] if "pos" in entry}
    # dot lists the edges by their tails.
    paths = {int(entry["id"]): _path(entry, height) for entry in data.get("edges", ())}
    corners: dict[int, Point] = {}
    for number, node in enumerate(chart.nodes):
        if f"n{number}" in nodes:
            x, y = nodes[f"n{number}"]
            frame = frames.get(number)
            left, box = _left_of_middle(node, frame), frame or node
            corners[number] = round(x - left, 1), round(y - box.height / 2, 1)
    for number, frame in frames.items():
        corner = corners[number]
        corners |= {leaf: _move(offset, corner) for leaf, offset in frame.leaves.items()}
        paths |= {edge: _lead_to_leaf(course, corner) for edge, course in frame.lines.items()}
        paths |= {edge: _lead_out(course, corner, paths[edge]) for edge, course in frame.exits.items()}
    places = tuple(corners[number] for number in range(len(chart.nodes)))
    ordered = tuple(paths[number] for number in range(len(chart.edges)))
    return Layout(chart, round(width, 1), round(height, 1), places, ordered)


def _left_of_middle(node: ChartNode, frame: Frame | None) -> float:
    """Return how far the left of a node is from the middle of its box in dot."""
    if frame is None or _has_ports(frame):
        return (frame or node).width / 2
    record = _fit_record(middle_of(node), frame.width)
    return record.width / 2 - record.left


def _move(offset: Point, corner: Point) -> Point:
    return round(corner[0] + offset[0], 1), round(corner[1] + offset[1], 1)


def _lead_to_leaf(course: Course, corner: Point) -> EdgePath:
    points = tuple(_move(point, corner) for point in course.points)
    label = None if course.label is None else _move(course.label, corner)
    return EdgePath(points, (round(points[-1][0] + TIP, 1), points[-1][1]), label)


def _lead_out(course: Course, corner: Point, path: EdgePath) -> EdgePath:
    """Return the path of dot from a frame on, with the course to the rim of the frame before it."""
    label = None if course.label is None else _move(course.label, corner)
    points = tuple(_move(point, corner) for point in course.points)
    return EdgePath(points + path.points[1:] if points else path.points, path.tip, label)


def _path(entry: dict[str, Any], height: float) -> EdgePath:
    points, tip = [], None
    for word in entry["pos"].split(" "):
        if word.startswith("e,"):
            tip = _point(word[2:], height)
        elif not word.startswith("s,"):
            points.append(_point(word, height))
    label = _point(entry["lp"], height) if "lp" in entry else None
    return EdgePath(tuple(points), tip or points[-1], label)


def _point(text: str, height: float) -> Point:
    x, y = map(float, text.split(","))
    return round(x, 1), round(height - y, 1)
