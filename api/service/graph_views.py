"""Views of plans and runs as graphs: a drawing in coordinates, with states of steps and counts of edges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from noetl.api.service.views import DiagnosticEntry, PlanGraph, View


class DrawnItems(View, schema_name="DrawnItems"):
    """Items of the loop of a step: how many have ended, and how many of those have failed, of how many."""

    done: int
    failed: int
    total: int


class DrawnNode(View, schema_name="DrawnNode"):
    """Box of a drawing, with its upper left corner and its size.

    `kind` is `step`, `group` (several steps that are folded), `work` (in a case), `fork`, `jump`, `start`,
    `end` or `failure`. `steps` are the names of the steps that it shows. `end` is the kind of end if a branch
    may end at the step. `state` is that of the step, or the most urgent one of several: one of the status, or
    `may` or `never`. `words` has it as pictures write it. `items` is set for a loop that has begun.
    """

    key: str
    kind: str
    steps: Sequence[str]
    title: str
    lines: Sequence[str]
    x: float
    y: float
    width: float
    height: float
    join: str | None
    is_loop: bool
    calls_playbook: bool
    end: str | None
    is_finally: bool
    state: str | None
    words: str | None
    items: DrawnItems | None


class EdgeRoute(View, schema_name="EdgeRoute"):
    """Case of a step that an edge shows, with the step to which it leads."""

    step: str
    case: int
    target: str


class DrawnEdge(View, schema_name="DrawnEdge"):
    """Line of a drawing from one node to another.

    `points` are the start, the points of cubic Bézier curves, and the tip. `number` is the place of the case
    in its rule, from 1. `marks` are present in pictures of several columns: the line is cut between them.
    `mark` says whether the edge was taken, may still be, or will not be. `taken` counts how often.
    """

    source: str
    target: str
    label: str
    number: int | None
    is_error: bool
    routes: Sequence[EdgeRoute]
    points: Sequence[Sequence[float]]
    label_at: Sequence[float] | None
    marks: Sequence[Sequence[float]] | None
    mark: Literal["taken", "may", "never"]
    taken: int


class RunGraph(View, schema_name="RunGraph"):
    """Drawing of a run or a plan, in points. A large plan is folded as in pictures.

    In the drawing of a plan, nodes have no state, and every edge may be taken.
    """

    width: float
    height: float
    nodes: Sequence[DrawnNode]
    edges: Sequence[DrawnEdge]


class PlanDescription(View, schema_name="PlanAnswer"):
    """Plan of a playbook, with what the compiler has found, and what a registration would.

    `drawing` is present if it was requested. `drawing_problem` says why a plan has no drawing.
    """

    name: str
    version: str | None
    hash: str
    diagnostics: Sequence[DiagnosticEntry]
    graph: PlanGraph
    inputs: Mapping[str, Any]
    statistics: Mapping[str, Any]
    drawing: RunGraph | None = None
    drawing_problem: str | None = None
