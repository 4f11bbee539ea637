"""The legend of a picture: the signs that occur in it, with their words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from noetl.planner.draw.chart import Chart, NodeKind
from noetl.planner.draw.glyphs import GLYPHS
from noetl.planner.draw.run_marks import WORDS, RunMarks


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """A sign as SVG around the middle of its left side, its width, and its words."""

    markup: str
    width: float
    words: str


def legend_entries(chart: Chart, marks: RunMarks | None) -> tuple[LegendEntry, ...]:
    """Return the legend of a chart, and of the states of a run."""
    return (*_run_entries(chart, marks), *_shape_entries(chart))


def _run_entries(chart: Chart, marks: RunMarks | None) -> Iterator[LegendEntry]:
    if marks is None:
        return
    yield _line("edge taken", "taken")
    yield _line("edge", "may be taken")
    yield _line("edge never", "will not be taken")
    present = {marks.state_of(node.steps) for node in chart.nodes if node.steps}
    for state, words in WORDS.items():
        if state in present:
            yield _glyph(state, words)


def _shape_entries(chart: Chart) -> Iterator[LegendEntry]:
    joins = {node.join for node in chart.nodes}
    kinds = {node.kind for node in chart.nodes} | {node.end for node in chart.nodes}
    if any(edge.number for edge in chart.edges):
        yield LegendEntry('<text class="number" x="1" y="4">1</text>', 8, "place in the rule")
    if any(edge.is_error for edge in chart.edges):
        yield LegendEntry('<path class="fill-bad" d="M0,0l5,-5 5,5 -5,5Z"/>', 10, "case for errors")
    if "all" in joins:
        yield LegendEntry('<rect class="bar" y="-1.5" width="20" height="3" rx="1.5"/>', 20, "waits for all")
    if "any" in joins:
        yield LegendEntry('<circle class="bar" cx="4" r="3.5"/>', 8, "continues with the first")
    if "each" in joins:
        yield LegendEntry('<path class="tick ink" d="M1,-3v6M6,-3v6M11,-3v6"/>', 12, "runs for each")
    if any(node.is_loop for node in chart.nodes):
        sheets = (
            '<rect class="sheet" x="2" y="-6" width="16" height="10" rx="2"/>'
            '<rect class="box" y="-4" width="20" height="10" rx="2"/>'
        )
        yield LegendEntry(sheets, 20, "loop")
    if any(node.calls for node in chart.nodes):
        frames = (
            '<rect class="box" y="-6" width="20" height="12" rx="2"/>'
            '<rect class="box" x="2.5" y="-3.5" width="15" height="7" rx="1"/>'
        )
        yield LegendEntry(frames, 20, "calls a playbook")
    if NodeKind.GROUP in kinds:
        group = (
            '<rect class="sheet" x="2" y="-3" width="18" height="9" rx="2"/>'
            '<rect class="box" y="-5" width="18" height="9" rx="2"/>'
        )
        yield LegendEntry(group, 20, "folded steps")
    if NodeKind.GOOD_END in kinds:
        yield _glyph("end", "end")
    if NodeKind.FAILURE_END in kinds:
        yield _glyph("failure", "end with a failure")


def _line(classes: str, words: str) -> LegendEntry:
    return LegendEntry(f'<path class="{classes}" d="M0,0H24"/>', 24, words)


def _glyph(name: str, words: str) -> LegendEntry:
    return LegendEntry(f'<g transform="translate(7 0)">{GLYPHS[name]}</g>', 14, words)
