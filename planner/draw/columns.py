"""Columns of a tall layout: a chain of many steps is cut, and continues at the top of the next column.

Problem: a picture of a chain is a ribbon that is many times taller than wide.

Algorithm: a layout may be cut where a single short edge crosses. If it has a label, it falls straight in a
large picture, and is cut below its label. The fewest columns are taken that make the picture at most
MAX_RATIO times as tall as wide. The cuts are those nearest to equal heights. The edge at a cut becomes two
lines, which end and begin with the same numbered mark.

Cost: O(n log n) for n nodes and edges.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from itertools import pairwise

from noetl.planner.draw.frames import Point
from noetl.planner.draw.layout import EdgePath, Layout

MAX_RATIO = 2.5
MIN_HEIGHT = 900.0
"""Height below which a layout is not cut."""

MAX_COLUMNS = 12
_GAP = 40.0
_MARK_SPACE = 34.0
"""Space for a mark at the top and at the bottom of a column."""

_MOST_OF_HEIGHT = 0.7
"""Part of the height that a column may keep. With less gain, a layout is not cut."""

_LABEL_HEIGHT = 16.0
_MAX_EDGE = 140.0
"""Height of the tallest edge that is cut. A taller one may pass other steps."""


def arrange_columns(layout: Layout) -> Layout:
    """Return the layout, in columns if it is too tall."""
    if layout.height < MIN_HEIGHT or layout.height <= MAX_RATIO * layout.width:
        return layout
    cuts = _choose_cuts(layout, _possible_cuts(layout))
    return _cut(layout, cuts) if cuts else layout


def _possible_cuts(layout: Layout) -> dict[float, int]:
    """Return the heights at which one edge crosses and no node is, each with the index of the edge."""
    spans = [_span(path) for path in layout.paths]
    nodes = [(y, y + node.height) for node, (_, y) in zip(layout.chart.nodes, layout.corners, strict=True)]
    tops, bottoms = (sorted(values) for values in zip(*spans, *nodes, strict=True))
    cuts = {}
    for index, (top, bottom) in enumerate(spans):
        label = layout.paths[index].label
        if label is not None and not (layout.chart.is_large and _is_straight(layout.paths[index])):
            continue
        middle = ((top if label is None else label[1] + _LABEL_HEIGHT / 2) + bottom) / 2
        crossing = bisect_left(tops, middle) - bisect_left(bottoms, middle)
        if crossing == 1 and 0 < bottom - top <= _MAX_EDGE:
            cuts[middle] = index
    return cuts


def _is_straight(path: EdgePath) -> bool:
    """Return whether a line falls. Its label is at the right of its first part, then (see `frames`)."""
    places = [x for x, _ in (*path.points, path.tip)]
    return max(places) - min(places) <= 1.0


def _span(path: EdgePath) -> tuple[float, float]:
    heights = [y for _, y in (*path.points, path.tip)]
    if path.label is not None:
        heights.append(path.label[1])
    return min(heights), max(heights)


def _choose_cuts(layout: Layout, possible: dict[float, int]) -> list[tuple[float, int]]:
    heights = sorted(possible)
    for columns in range(2, MAX_COLUMNS + 1):
        chosen: list[float] = []
        for column in range(1, columns):
            wish = layout.height * column / columns
            nearest = min(heights, key=lambda height: abs(height - wish), default=None)
            if nearest is not None and nearest not in chosen:
                chosen.append(nearest)
        ends = [0.0, *chosen, layout.height]
        tallest = max(bottom - top for top, bottom in pairwise(ends))
        if tallest > layout.height * _MOST_OF_HEIGHT:
            continue
        if columns == MAX_COLUMNS or tallest <= MAX_RATIO * (layout.width + _GAP) * (len(chosen) + 1):
            return [(height, possible[height]) for height in chosen]
    return []


def _cut(layout: Layout, cuts: list[tuple[float, int]]) -> Layout:
    heights = [height for height, _ in cuts]
    step = layout.width + _GAP

    def shift(point: Point, column: int) -> Point:
        top = heights[column - 1] - _MARK_SPACE if column else 0.0
        return round(point[0] + column * step, 1), round(point[1] - top, 1)

    def move(path: EdgePath) -> EdgePath:
        column = bisect_left(heights, _span(path)[0])
        label = None if path.label is None else shift(path.label, column)
        points = tuple(shift(point, column) for point in path.points)
        return EdgePath(points, shift(path.tip, column), label)

    corners = tuple(shift(corner, bisect_left(heights, corner[1])) for corner in layout.corners)
    paths = [move(path) for path in layout.paths]
    for column, (height, index) in enumerate(cuts):
        path = layout.paths[index]
        leads_down = path.points[0][1] < path.tip[1]
        source, target = (column, column + 1) if leads_down else (column + 1, column)
        start, tip = shift(path.points[0], source), shift(path.tip, target)
        label = None if path.label is None else shift(path.label, source)
        marks = {
            column: shift((0.0, height + _MARK_SPACE / 2), column)[1],
            column + 1: _MARK_SPACE / 2,
        }
        paths[index] = EdgePath(
            (start,), tip, label, ((start[0], marks[source]), (tip[0], marks[target])), column + 1
        )
    ends = [0.0, *heights, layout.height]
    tallest = max(bottom - top for top, bottom in pairwise(ends)) + 2 * _MARK_SPACE
    width = layout.width + len(cuts) * step
    return replace(
        layout, width=round(width, 1), height=round(tallest, 1), corners=corners, paths=tuple(paths)
    )
