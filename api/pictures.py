"""Pictures of plans and runs: layout by Graphviz, SVG in the look of NoETL, and PNG by resvg."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from noetl.api import graphviz
from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.draw.advances import FONTS
from noetl.planner.draw.chart import Chart, make_chart
from noetl.planner.draw.columns import arrange_columns
from noetl.planner.draw.folding import FOLD_FROM, fold_branches, fold_groups
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


Groups = tuple[tuple[str, ...], ...]
"""The steps of each group that is one node of a picture."""


class PictureError(Exception):
    """A picture cannot be made. The message names the remedy."""


@dataclass(frozen=True, slots=True)
class LayoutRequest:
    """The use of a layout: for a run or a plan, with these failed steps, and whether no step is folded.

    Groups with a step of `opened` are not folded, unless dot is too slow for that. The coordinates of a
    request that `is_repeated` are kept. A chart of the same shape gets them again. `seconds` limits the
    layout of a folded plan.
    """

    has_states: bool = False
    failed: Collection[str] = ()
    unfolded: bool = False
    is_repeated: bool = False
    opened: Collection[str] = ()
    seconds: float | None = None


def lay_out(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], request: LayoutRequest | None = None
) -> Layout:
    """Return the layout of a plan. It is folded if it is large and not `unfolded`, or if dot is too slow.

    Alike branches of a wide fork are folded in any plan that is not `unfolded`.

    Raises:
        PictureError, GraphvizError: as `PendingLayout` and its `finish` do.
    """
    with closing(PendingLayout(plan, action_types, request or LayoutRequest())) as layout:
        return layout.finish()


class PendingLayout:
    """A layout that dot works on in its own process. The caller must close it.

    Raises:
        PictureError: the plan is too large for a picture, even folded.
        GraphvizError: dot is not installed, or cannot be started.
    """

    def __init__(
        self, plan: Plan, action_types: Mapping[str, ActionDeclaration], request: LayoutRequest
    ) -> None:
        self._plan = plan
        self._action_types = action_types
        self._request = request
        self._attempts = _list_attempts(plan, request)
        self._attempt = self._begin_next()

    def finish(self) -> Layout:
        """Wait for dot, and return the layout. If dot takes too long, try it with more folded steps.

        Raises:
            PictureError: the plan is too large for a picture, even folded.
            GraphvizError: dot has failed, or takes too long in each attempt.
        """
        while True:
            try:
                return self._attempt.finish()
            except graphviz.GraphvizTimeoutError:
                if self._attempt.is_last:
                    raise
            self._attempt = self._begin_next()

    def _begin_next(self) -> _LayoutAttempt:
        groups, seconds = next(self._attempts)
        chart = make_chart(self._plan, self._action_types, groups, has_states=self._request.has_states)
        return _LayoutAttempt(chart, seconds, is_repeated=self._request.is_repeated)

    def close(self) -> None:
        """Kill dot if it runs, and wait until it has ended."""
        self._attempt.close()


def _list_attempts(plan: Plan, request: LayoutRequest) -> Iterator[tuple[Groups, float]]:
    """Yield the groups of folded steps of each attempt, and its time limit."""
    if request.unfolded or len(plan.steps) < FOLD_FROM:
        yield () if request.unfolded else fold_branches(plan, request.opened), UNFOLDED_SECONDS
    if request.opened:
        yield fold_groups(plan, request.failed, request.opened), OPENED_SECONDS
    seconds = graphviz.MAX_SECONDS if request.seconds is None else request.seconds
    yield fold_groups(plan, request.failed), seconds


class _LayoutAttempt:
    """A layout with certain folded steps. dot works on it, unless its answer is known."""

    def __init__(self, chart: Chart, seconds: float, *, is_repeated: bool) -> None:
        size = len(chart.nodes) + len(chart.edges)
        self.is_last = seconds > UNFOLDED_SECONDS
        if size > MAX_PICTURE_SIZE and self.is_last:
            raise PictureError(
                f"the picture has {size:,} nodes and edges; at most {MAX_PICTURE_SIZE:,} are drawn"
            )
        self._chart = chart
        self._frames = make_frames(chart)
        self._dot = to_dot(chart, self._frames)
        self._is_repeated = is_repeated
        self._answer = _answers.find(self._dot) if is_repeated else None
        self._rendering = None if self._answer else graphviz.Rendering(self._dot, "json0", seconds)

    def finish(self) -> Layout:
        """Return the layout. It is kept if the request is repeated."""
        answer = self._answer
        if answer is None:
            assert self._rendering is not None
            answer = self._rendering.finish()
            if self._is_repeated:
                _answers.add(self._dot, answer, len(self._dot) + len(answer))
        return arrange_columns(read_layout(self._chart, self._frames, answer))

    def close(self) -> None:
        if self._rendering is not None:
            self._rendering.close()


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
