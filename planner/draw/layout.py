"""The layout of a chart: the coordinates that Graphviz's dot gives to its nodes and edges.

dot gets boxes and labels of fixed sizes and no text (Gansner, Koutsofios, North and Vo 1993, "A technique for
drawing directed graphs"). Its answer is read as plain numbers. So a picture depends on no font, and text of a
playbook never reaches Graphviz.

Cost: dot takes some 5 ms for 20 steps and up to 5 s for 2,000. The caller limits its time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from noetl.planner.draw.chart import Chart, ChartEdge

Point = tuple[float, float]

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


def to_dot(chart: Chart) -> str:
    """Return the chart for dot: sizes and edges, without any text."""
    return "\n".join(_dot_lines(chart)) + "\n"


def _dot_lines(chart: Chart) -> Iterator[str]:
    yield "digraph {"
    effort = ", mclimit=0.3" if len(chart.nodes) > _LARGE else ""
    yield f"  graph [rankdir=TB, nodesep=0.3, ranksep=0.36, margin=0{effort}]"
    yield '  node [shape=box, fixedsize=true, label=""]'
    yield "  edge [arrowsize=0.6]"
    index = {node.key: number for number, node in enumerate(chart.nodes)}
    for number, node in enumerate(chart.nodes):
        width, height = node.width / _POINTS_PER_INCH, node.height / _POINTS_PER_INCH
        yield f"  n{number} [width={width:.4f}, height={height:.4f}]"
        if node.is_finally:
            yield f"  {{ rank=sink; n{number} }}"
    for number, edge in enumerate(chart.edges):
        ends = f"n{index[edge.source]} -> n{index[edge.target]}"
        yield f"  {ends} [id={number}{_dot_label(edge)}]"
    yield "}"


def _dot_label(edge: ChartEdge) -> str:
    if not edge.label_width:
        return ""
    size = f'width="{edge.label_width + 8:.0f}" height="{_LABEL_HEIGHT:.0f}"'
    table = f'<table border="0" cellborder="0" cellspacing="0" cellpadding="0" fixedsize="true" {size}>'
    return f", label=<{table}<tr><td></td></tr></table>>"


def read_layout(chart: Chart, answer: bytes) -> Layout:
    """Return the layout in dot's answer in the format `json0`."""
    data = json.loads(answer)
    _, _, width, height = map(float, data["bb"].split(","))
    nodes = {entry["name"]: _point(entry["pos"], height) for entry in data["objects"] if "pos" in entry}
    corners = []
    for number, node in enumerate(chart.nodes):
        x, y = nodes[f"n{number}"]
        corners.append((round(x - node.width / 2, 1), round(y - node.height / 2, 1)))
    # dot lists the edges by their tails.
    paths = {int(entry["id"]): _path(entry, height) for entry in data.get("edges", ())}
    ordered = tuple(paths[number] for number in range(len(chart.edges)))
    return Layout(chart, round(width, 1), round(height, 1), tuple(corners), ordered)


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
