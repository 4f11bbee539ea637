"""Pictures of large plans: `python -m benchmarks.pictures`.

Measures folding, the layout by Graphviz and the SVG of plans with 2,000 steps. An unfolded layout that takes
longer than its limit is given up, and the plan stays folded.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks import report
from benchmarks.playbooks import SHAPES
from noetl.api.pictures import LayoutRequest, lay_out
from noetl.executor.actions import catalogue
from noetl.planner.compile import compile_playbook
from noetl.planner.draw.svg import write_svg

STEPS = 2_000


def measure(shape: str, steps: int) -> dict[str, Any]:
    """Return the numbers of nodes and the times of the pictures of a plan."""
    plan = compile_playbook(SHAPES[shape](steps), catalogue()).plan
    assert plan is not None
    row: dict[str, Any] = {"shape": shape, "steps": steps}
    for name, request in (("folded", LayoutRequest()), ("unfolded", LayoutRequest(unfolded=True))):
        start = time.perf_counter()
        layout = lay_out(plan, catalogue(), request)
        write_svg(layout)
        row[name] = {"nodes": len(layout.chart.nodes), "seconds": time.perf_counter() - start}
    return row


COLUMNS: tuple[report.Column, ...] = (
    ("shape", lambda row: row["shape"]),
    *(
        (name, lambda row, name=name: f"{row[name]['nodes']:,} nodes, {row[name]['seconds']:.1f} s")
        for name in ("folded", "unfolded")
    ),
)


def main() -> None:
    rows = [measure(shape, STEPS) for shape in SHAPES]
    print(report.table(f"Pictures of {STEPS:,} steps", COLUMNS, rows))


if __name__ == "__main__":
    main()
