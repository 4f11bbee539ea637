"""The drawing of a run or a plan as an object: coordinates, states, taken edges, and what joins wait for."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from noetl.planner.draw.chart import NodeKind
from noetl.planner.draw.layout import Layout
from noetl.planner.draw.run_marks import MAY_RUN, WILL_NOT_RUN, RunMarks


def describe_plan_graph(layout: Layout) -> dict[str, Any]:
    """Return the layout of a plan as `graph` of a run is: without states, and all edges may be taken."""
    graph = layout.to_json()
    for entry in graph["nodes"]:
        entry |= {"state": None, "words": None, "items": None}
    for entry in graph["edges"]:
        entry |= {"mark": MAY_RUN, "taken": 0}
    return graph


def describe_run_graph(layout: Layout, marks: RunMarks) -> dict[str, Any]:
    """Return `graph` (the layout with the marks of the run), and `reachable` and `joins` by step.

    `reachable` has `may` or `never` for each step that has not started. `joins` has the joins that wait, with
    the steps from which a branch has arrived, and those from which one may still arrive.
    """
    graph = layout.to_json()
    for node, entry in zip(layout.chart.nodes, graph["nodes"], strict=True):
        has_state = node.kind in (NodeKind.STEP, NodeKind.GROUP)
        entry["state"] = marks.state_of(node.steps) if has_state else None
        entry["words"] = marks.words_of(node.steps) if has_state else None
        loop = marks.loop_of(node.steps) if has_state else None
        entry["items"] = None if loop is None else asdict(loop)
    for edge, entry in zip(layout.chart.edges, graph["edges"], strict=True):
        entry["mark"], entry["taken"] = marks.mark_of(edge), marks.count_of(edge)
    return {
        "graph": graph,
        "reachable": {
            name: state for name, state in marks.states.items() if state in (MAY_RUN, WILL_NOT_RUN)
        },
        "joins": {
            name: {"arrived": list(wait.arrived), "missing": list(wait.missing)}
            for name, wait in marks.joins.items()
        },
    }
