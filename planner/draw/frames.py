"""The frames of a large picture: each is a node with its leaves and labels, and one box for dot.

Problem: dot gives each label a layer of its own, and then places each arrow in twice as many layers. It also
places each end and each jump as a node of its own. Most of its time for a large picture is for them.

Algorithm: leaves are in a column at the right of their node, each at the end of a short line. Labelled arrows
leave the lower rim of the node in the order of the cases. Each label is at the right of its arrow. dot gets a
box of the size of all that, with a port for each arrow.

Cost: linear in the nodes and edges.

Limits: arrows of one node may cross, since their order is that of the cases.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from noetl.planner.draw.chart import Chart, ChartEdge, ChartNode, NodeKind

Point = tuple[float, float]

TIP = 6.0
"""Length of the tip of an arrow."""

_LEAVES = frozenset({NodeKind.JUMP, NodeKind.GOOD_END, NodeKind.FAILURE_END, NodeKind.WORK})
_LINE = 28.0
"""Shortest line from a node to a leaf."""

_LABEL_HEIGHT = 16.0
_LABEL_GAP = 4.0
_ROW_GAP = 3.0
_EXIT_GAP = 10.0
_FAN = 12.0
"""Height in which arrows spread to places that are not below their node."""

_INSET = 8.0
"""Distance of lines from the corners of a node."""


@dataclass(frozen=True, slots=True)
class Course:
    """The part of an edge in a frame. Points are offsets from the upper left corner of the frame.

    `points` are the start and the points of cubic Bézier curves. `label` is the centre of the label.
    """

    points: tuple[Point, ...]
    label: Point | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A node with what stands around it. Numbers of nodes and edges are their places in the chart.

    The node is in the upper left corner. `leaves` has the offset of each leaf, and `lines` the courses that
    lead to them. `exits` has the courses of the other arrows to the lower rim, where dot continues them.
    """

    width: int
    height: int
    leaves: Mapping[int, Point]
    lines: Mapping[int, Course]
    exits: Mapping[int, Course]


def make_frames(chart: Chart) -> dict[int, Frame]:
    """Return the frames by the numbers of their nodes: none in a chart that is not large."""
    if not chart.is_large:
        return {}
    index = {node.key: number for number, node in enumerate(chart.nodes)}
    edges_of: defaultdict[int, list[int]] = defaultdict(list)
    for number, edge in enumerate(chart.edges):
        edges_of[index[edge.source]].append(number)
    frames = {}
    for source, numbers in edges_of.items():
        targets = {number: index[chart.edges[number].target] for number in numbers}
        leaves = [number for number in numbers if chart.nodes[targets[number]].kind in _LEAVES]
        exits = [number for number in numbers if number not in leaves]
        if leaves or any(chart.edges[number].label_width for number in exits):
            parts = [(number, targets[number]) for number in leaves]
            frames[source] = _make_frame(chart, chart.nodes[source], parts, exits)
    return frames


def _make_frame(
    chart: Chart, node: ChartNode, leaves: Sequence[tuple[int, int]], exits: Sequence[int]
) -> Frame:
    places, lines = {}, {}
    rows = [_Row.of_leaf(chart.edges[edge], chart.nodes[leaf]) for edge, leaf in leaves]
    stack = sum(row.height for row in rows) + _ROW_GAP * max(len(rows) - 1, 0)
    y = max((node.height + node.top - stack) / 2, 0.0)
    width, body = node.width, max(node.height, y + stack)
    for (edge, leaf), row in zip(leaves, rows, strict=True):
        middle = y + row.upper
        places[leaf] = (node.width + row.line, middle - chart.nodes[leaf].height / 2)
        lines[edge] = row.course(node, middle)
        width = max(width, node.width + row.line + chart.nodes[leaf].width)
        y += row.height + _ROW_GAP
    courses, right, height = _lead_out(chart, node, exits, body)
    return Frame(_round_up(max(width, right)), _round_up(height), places, lines, courses)


@dataclass(frozen=True, slots=True)
class _Row:
    """A leaf at the right of a node: the length of its line, and the space above and below the line."""

    line: float
    upper: float
    lower: float
    label_width: float

    @classmethod
    def of_leaf(cls, edge: ChartEdge, leaf: ChartNode) -> _Row:
        label = edge.label_width
        line = max(_LINE, label + 2 * _EXIT_GAP) if label else _LINE
        return cls(line, max(leaf.height / 2, _LABEL_HEIGHT if label else 0.0), leaf.height / 2, label)

    @property
    def height(self) -> float:
        return self.upper + self.lower

    def course(self, node: ChartNode, middle: float) -> Course:
        """Return the course of the line, which ends at a height."""
        x, end = node.width, node.width + self.line - TIP
        start = _clamp(middle, node.top, node.height)
        label = (x + self.line / 2, middle - _LABEL_HEIGHT / 2) if self.label_width else None
        return Course(((x, start), (x + _INSET, start), (x + _INSET, middle), (end, middle)), label)


def _lead_out(
    chart: Chart, node: ChartNode, exits: Sequence[int], body: float
) -> tuple[dict[int, Course], float, float]:
    """Return the courses to the lower rim, the right end of the labels, and the height of the rim."""
    widths = [chart.edges[number].label_width for number in exits]
    if not any(widths):
        middle = middle_of(node)
        fall = _fall(node, middle, middle, (body, body)) if body > node.height else Course(())
        return dict.fromkeys(exits, fall), 0.0, body
    shifts = [*accumulate((width + _LABEL_GAP + _EXIT_GAP for width in widths), initial=0.0)]
    first = max(middle_of(node) - shifts[-2] / 2, _INSET)
    places = [float(round(first + shift)) for shift in shifts]
    starts = [_clamp(place, 0.0, node.width) for place in places]
    spreads = any(place != start for place, start in zip(places[:-1], starts, strict=False))
    top = body + (_FAN if spreads else 0.0)
    rim = top + _LABEL_HEIGHT
    courses = {}
    for number, width, place, start in zip(exits, widths, places, starts, strict=False):
        label = (place + _LABEL_GAP + width / 2, top + _LABEL_HEIGHT / 2) if width else None
        courses[number] = Course(_fall(node, start, place, (top, rim)).points, label)
    return courses, places[-1] - _EXIT_GAP, rim


def _fall(node: ChartNode, start: float, place: float, heights: tuple[float, float]) -> Course:
    """Return the course from the lower rim of a node to a place, which it reaches at the first height."""
    top, rim = heights
    bend = top if start == place else top - _FAN
    points = [(start, node.height), *_line(start, node.height, bend)]
    if start != place:
        points += [(start, top), (place, bend), (place, top)]
    return Course((*points, *_line(place, top, rim)))


def _line(x: float, top: float, bottom: float) -> tuple[Point, ...]:
    """Return the points of a vertical line without its start, as a Bézier curve."""
    third = (bottom - top) / 3
    return ((x, top + third), (x, bottom - third), (x, bottom)) if third > 0 else ()


def middle_of(node: ChartNode) -> int:
    """Return where arrows enter and leave a node in a frame. dot has whole numbers for ports."""
    return round(node.width / 2)


def _round_up(length: float) -> int:
    """Return the next even number, so that the middle is a whole number, too."""
    return 2 * math.ceil(length / 2)


def _clamp(place: float, low: float, high: float) -> float:
    """Return the next place that is clear of both corners."""
    inset = min(_INSET, (high - low) / 2)
    return min(max(place, low + inset), high - inset)
