"""Pictures of plans and runs: layout by Graphviz, SVG in the look of NoETL, and PNG by resvg."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from noetl.api import graphviz
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.draw.advances import FONTS
from noetl.planner.draw.chart import make_chart
from noetl.planner.draw.columns import arrange_columns
from noetl.planner.draw.folding import FOLD_FROM, fold_groups
from noetl.planner.draw.frames import make_frames
from noetl.planner.draw.layout import Layout, read_layout, to_dot
from noetl.planner.draw.run_marks import RunMarks
from noetl.planner.draw.svg import PictureOptions, write_svg
from noetl.planner.plan import Plan
from noetl.planner.weighted_cache import WeightedCache

UNFOLDED_SECONDS = 5.0
"""How long the layout of a plan with all its steps may take. Past it, the plan is folded."""

OPENED_SECONDS = 3.0
"""How long the layout with groups that a person has opened may take. Past it, they are folded again."""

MAX_PICTURE_SIZE = 3000
"""How many nodes and edges a picture may have, folded. More would be neither drawn in time nor read."""

KEPT_ANSWERS_BYTES = 8 * 1024 * 1024
"""How many bytes of coordinates are kept for drafts, whose shape seldom changes from one key to the next."""

_answers: WeightedCache[str, bytes] = WeightedCache(KEPT_ANSWERS_BYTES)

_ZOOM = 2.0
_MAX_PIXELS = 16_000
"""Longest side of a PNG. Larger pictures have a smaller zoom."""


class PictureError(Exception):
    """A picture cannot be made. The message names the remedy."""


@dataclass(frozen=True, slots=True)
class LayoutRequest:
    """The use of a layout: for a run or a plan, with these failed steps, and whether no step is folded.

    Groups with a step of `opened` are not folded, unless dot is too slow for that. The coordinates of a
    request that `is_repeated` are kept. A chart of the same shape gets them again.
    """

    has_states: bool = False
    failed: Collection[str] = ()
    unfolded: bool = False
    is_repeated: bool = False
    opened: Collection[str] = ()


def lay_out(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], request: LayoutRequest | None = None
) -> Layout:
    """Return the layout of a plan. It is folded if it is large and not `unfolded`, or if dot is too slow.

    Raises:
        PictureError: the plan is too large for a picture, even folded.
        GraphvizError: dot is not installed, or has failed.
    """
    request = request or LayoutRequest()
    if request.unfolded or len(plan.steps) < FOLD_FROM:
        try:
            return _lay_out(plan, action_types, request, (), UNFOLDED_SECONDS)
        except graphviz.GraphvizTimeoutError:
            pass
    if request.opened:
        try:
            groups = fold_groups(plan, request.failed, request.opened)
            return _lay_out(plan, action_types, request, groups, OPENED_SECONDS)
        except graphviz.GraphvizTimeoutError:
            pass
    groups = fold_groups(plan, request.failed)
    return _lay_out(plan, action_types, request, groups, graphviz.MAX_SECONDS)


def _lay_out(
    plan: Plan,
    action_types: Mapping[str, ActionDeclaration],
    request: LayoutRequest,
    groups: tuple[tuple[str, ...], ...],
    seconds: float,
) -> Layout:
    chart = make_chart(plan, action_types, groups, has_states=request.has_states)
    size = len(chart.nodes) + len(chart.edges)
    if size > MAX_PICTURE_SIZE and seconds > UNFOLDED_SECONDS:
        raise PictureError(
            f"the picture has {size:,} nodes and edges; at most {MAX_PICTURE_SIZE:,} are drawn"
        )
    frames = make_frames(chart)
    dot = to_dot(chart, frames)
    answer = _answers.find(dot) if request.is_repeated else None
    if answer is None:
        answer = graphviz.render(dot, "json0", seconds)
        if request.is_repeated:
            _answers.add(dot, answer, len(dot) + len(answer))
    return arrange_columns(read_layout(chart, frames, answer))


def to_png(layout: Layout, marks: RunMarks | None = None) -> bytes:
    """Return the picture of a layout as PNG, with the fonts of this package.

    Raises:
        PictureError: resvg is not installed, or cannot draw the picture.
    """
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        from noetl.executor.extras import install_command

        command = install_command("graph", sys.executable)
        raise PictureError(f"png needs resvg; install it with `{command}`") from None
    text = write_svg(layout, marks, PictureOptions(adapts=False))
    zoom = min(_ZOOM, _MAX_PIXELS / max(layout.width, layout.height, 1.0))
    fonts = [str(FONTS / f"inter-{weight}.ttf") for weight in (400, 600)]
    try:
        return bytes(svg_to_bytes(svg_string=text, zoom=zoom, font_files=fonts))
    except ValueError as error:
        raise PictureError(f"resvg cannot draw the picture: {error}") from error
