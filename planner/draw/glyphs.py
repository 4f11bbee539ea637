"""The signs of states and ends, as SVG around the origin, 14 units wide. They differ in shape, not in colour
alone.
"""

from __future__ import annotations

from noetl.planner.draw.run_marks import MAY_RUN, WILL_NOT_RUN

_OCTAGON = "M-2.9,-7H2.9L7,-2.9V2.9L2.9,7H-2.9L-7,2.9V-2.9Z"
_CROSS = "M-2.4,-2.4L2.4,2.4M-2.4,2.4L2.4,-2.4"


def _ring(colour: str, inside: str) -> str:
    return f'<circle class="ring {colour}" r="6"/>{inside}'


GLYPHS = {
    "succeeded": '<circle class="fill-ok" r="7"/><path class="tick paper" d="M-3,0.2L-0.9,2.4 3,-2.2"/>',
    "failed": f'<path class="fill-bad" d="{_OCTAGON}"/><path class="tick paper" d="{_CROSS}"/>',
    "running": _ring("accent", '<path class="fill-accent" d="M-1.8,-3L3,0 -1.8,3Z"/>'),
    "waiting": _ring("pause", '<path class="tick pause" d="M0,-3V0.3L2.2,1.6"/>'),
    "retrying": (
        '<path class="tick pause" d="M5.4,-1.8A5.7,5.7 0 1 0 5.4,1.8"/>'
        '<path class="fill-pause" d="M7.4,-5.4V-0.6H2.6Z"/>'
    ),
    "cancelled": _ring("ink3", '<path class="tick ink3" d="M-4,4L4,-4"/>'),
    "pending": _ring(
        "ink3",
        '<path class="tick ink3" d="M-2.6,0h0.01M0,0h0.01M2.6,0h0.01"/>',
    ),
    MAY_RUN: '<circle class="ring ink3 dashed" r="6"/>',
    WILL_NOT_RUN: '<path class="tick ink3" d="M-3.5,0H3.5"/>',
    "end": _ring("ink3", '<circle class="fill-ink" r="2.6"/>'),
    "failure": _ring("bad", f'<path class="tick bad" d="{_CROSS}"/>'),
}
