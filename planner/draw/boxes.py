"""Drawing of a small plan as boxes and lines for a terminal.

A box has the name of its step, its work, and the guards of its cases with their numbers. Below, lines start
at the numbers and lead to the next steps. A case that goes back to an earlier step, or ends the branch, is
only named in the box. A step with a double line on top waits for all branches.

The text has no colours, and is as wide as its terminal at most. `draw` returns None for a plan that has too
many steps, or is too wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.diagnostics.terminal_text import character_width, display_width, to_printable
from noetl.planner.draw.layering import Cell, Grid, place
from noetl.planner.draw.outline import (
    STATE_SIGNS,
    Outline,
    cut_to_width,
    guard_text,
    is_error_path,
    make_outline,
    may_match_no_case,
    step_notes,
)
from noetl.planner.plan import Case, Plan, Step

MAX_STEPS = 40
_TEXT_WIDTHS = (34, 26, 20, 15)
"""Widths of the text in boxes, the largest first. The first that fits into the terminal is taken."""

_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8
_LINES = {
    _UP | _DOWN: "│", _LEFT | _RIGHT: "─", _UP | _RIGHT: "╰", _UP | _LEFT: "╯", _DOWN | _RIGHT: "╭",
    _DOWN | _LEFT: "╮", _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _DOWN | _LEFT | _RIGHT: "┬",
    _UP | _LEFT | _RIGHT: "┴", _UP | _DOWN | _LEFT | _RIGHT: "┼", _UP: "│", _DOWN: "│", _LEFT: "─",
    _RIGHT: "─",
}  # fmt: skip


def draw(
    plan: Plan,
    action_types: Mapping[str, ActionDeclaration],
    states: Mapping[str, str] | None = None,
    *,
    width: int = 80,
) -> str | None:
    """Return the plan as boxes in at most `width` columns, or None if it does not fit."""
    if len(plan.steps) > MAX_STEPS:
        return None
    shape = make_outline(plan, action_types)
    for text_width in _TEXT_WIDTHS:
        boxes = {name: _make_box(plan.steps[name], shape, states, text_width) for name in shape.order}
        edges = list(
            dict.fromkeys(
                (name, target) for name, box in boxes.items() for port in box.ports for target in port.targets
            )
        )
        grid = place({name: box.width for name, box in boxes.items()}, edges)
        if grid.width <= width:
            return _Painter(grid, boxes).paint()
    return None


_TOPS = {"all": "═", "any": "○", "each": "╫"}
_CORNERS = {"═": "╒╕", "─": "╭╮", "○": "╭╮", "╫": "╭╮"}


@dataclass(frozen=True, slots=True)
class _Port:
    """The start of a line at the lower border of a box: its sign, and the steps that it leads to."""

    sign: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Net:
    """A line from a column below a cell to cells of the next layer."""

    source: Cell
    sign: str
    column: int
    targets: list[Cell]

    @property
    def is_straight(self) -> bool:
        """True if it leads straight down."""
        return all(_entry(target) == self.column for target in self.targets)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last column of its horizontal part."""
        columns = [self.column, *map(_entry, self.targets)]
        return min(columns), max(columns)

    def overlaps(self, other: _Net) -> bool:
        """Return whether the horizontal parts of two lines cannot be in the same row."""
        return self.span[0] <= other.span[1] and other.span[0] <= self.span[1]

    def order(self) -> tuple[bool, int]:
        """Return a key: lines to the right from right to left, then lines to the left from left to right."""
        first, last = self.span
        leads_right = last - self.column > self.column - first
        return not leads_right, -self.column if leads_right else self.column


@dataclass
class _Box:
    lines: list[str]
    ports: list[_Port]
    top: str
    width: int = field(init=False)

    def __post_init__(self) -> None:
        self.width = max(*map(display_width, self.lines), 3 * len(self.ports), 5) + 4


def _make_box(step: Step, shape: Outline, states: Mapping[str, str] | None, width: int) -> _Box:
    sign = "" if states is None else STATE_SIGNS.get(states.get(step.name, "pending"), "?") + " "
    several = len(step.cases) + may_match_no_case(step) > 1
    is_end = not step.cases or (not several and not step.cases[0].targets and not step.cases[0].work)
    lines = [f"{sign}{to_printable(step.name)}{' ■' if is_end else ''}"]
    lines.append(shape.summarise_run(step.run, parallel=step.parallel))
    lines += step_notes(step)
    ports = []
    for number, case in enumerate(step.cases, 1):
        forward = tuple(target for target in case.targets if not _leads_back(shape, step, target))
        if several or len(forward) < len(case.targets) or case.work:
            lines.append(_case_line(shape, step, case, number if several else 0))
        if forward:
            port_sign = str(number) if several and number < 10 else "┬"
            ports.append(_Port(port_sign, forward))
    if several and may_match_no_case(step):
        lines.append("otherwise ■")
    mode = "each" if step.runs_per_branch else "" if step.join is None else step.join.mode
    top = _TOPS.get(mode, "─")
    return _Box([cut_to_width(line, width) for line in lines if line], ports, top)


def _leads_back(shape: Outline, step: Step, target: str) -> bool:
    return shape.position[target] <= shape.position[step.name]


def _case_line(shape: Outline, step: Step, case: Case, number: int) -> str:
    words = [str(number)] if number else []
    if is_error_path(case):
        words.append("◆")
    if number:
        words.append(guard_text(case))
    words += (f"↺ {to_printable(target)}" for target in case.targets if _leads_back(shape, step, target))
    if case.work:
        words.append(f"▪ {shape.summarise_run(case.work)} ■")
    elif not case.targets:
        words.append("■")
    return " ".join(words)


class _Painter:
    """The canvas of characters, on which boxes and lines are painted."""

    def __init__(self, grid: Grid, boxes: Mapping[str, _Box]) -> None:
        self._grid = grid
        self._boxes = boxes
        self._lines: dict[tuple[int, int], int] = {}
        self._signs: dict[tuple[int, int], str] = {}
        self._next = {(chain[0].key, chain[-1].key): chain[1] for chain in grid.chains}

    def paint(self) -> str:
        """Return the text of the drawing."""
        row = 0
        for number, layer in enumerate(self._grid.layers):
            next_layer = self._grid.layers[number + 1] if number + 1 < len(self._grid.layers) else ()
            boxes = [self._boxes[cell.key] for cell in layer if not cell.is_dummy]
            height = max((len(box.lines) + 2 for box in boxes), default=1)
            nets = list(self._choose_nets(layer, next_layer))
            for cell in layer:
                exits = [net for net in nets if net.source is cell]
                self._paint_cell(cell, row, height, exits)
            row = self._paint_channel(nets, row + height) if next_layer else row + height
        return self._to_text(row)

    def _choose_nets(self, layer: Sequence[Cell], next_layer: Sequence[Cell]) -> Iterator[_Net]:
        """Yield the lines that start in a layer. None starts above the end of another one."""
        used: set[int] = set()
        for cell in layer:
            ports = self._ports_of(cell)
            ports.sort(key=lambda port: sum(target.centre for target in port[1]) / len(port[1]))
            first, last = int(cell.left) + 1, int(cell.left) + cell.width - 2
            for place_of_port, (sign, targets) in enumerate(ports, 1):
                taken = used | {_entry(other) for other in next_layer if other not in targets}
                wish = first - 1 + place_of_port * cell.width // (len(ports) + 1)
                if len(ports) == 1:
                    wish = min(max(_entry(targets[0]) if len(targets) == 1 else wish, first), last)
                columns = sorted(range(first, last + 1), key=lambda column: abs(column - wish))
                column = next((column for column in columns if column not in taken), wish)
                used.add(column)
                yield _Net(cell, sign, column, targets)

    def _ports_of(self, cell: Cell) -> list[tuple[str, list[Cell]]]:
        if cell.is_dummy:
            return [("", cell.successors[:1])]
        return [
            (port.sign, [self._next[cell.key, target] for target in port.targets])
            for port in self._boxes[cell.key].ports
        ]

    def _paint_cell(self, cell: Cell, row: int, height: int, exits: Sequence[_Net]) -> None:
        if cell.is_dummy:
            (exit_,) = exits
            self._connect_columns(row, _entry(cell), exit_.column)
            self._connect_rows(exit_.column, row, row + height - 1)
            return
        box, left = self._boxes[cell.key], int(cell.left)
        inner = cell.width - 2
        bottom = row + len(box.lines) + 1
        self._write(row, left, f"{_CORNERS[box.top][0]}{box.top * inner}{_CORNERS[box.top][1]}")
        for index, line in enumerate(box.lines, row + 1):
            padding = " " * (inner - 2 - display_width(line))
            self._write(index, left, f"│ {line}{padding} │")
        self._write(bottom, left, f"╰{'─' * inner}╯")
        for net in exits:
            self._write(bottom, net.column, net.sign)
            self._connect_rows(net.column, bottom, row + height - 1)

    def _paint_channel(self, nets: Sequence[_Net], row: int) -> int:
        """Write the lines between two layers. Return the row after them."""
        tracks: list[list[_Net]] = []
        for net in sorted(nets, key=_Net.order):
            if net.is_straight:
                continue
            free = (track for track in tracks if not any(net.overlaps(other) for other in track))
            track = next(free, None)
            if track is None:
                tracks.append([net])
            else:
                track.append(net)
        track_of = {id(net): index for index, track in enumerate(tracks) for net in track}
        bottom = row + len(tracks)
        for net in nets:
            middle = row + track_of.get(id(net), 0)
            self._connect_rows(net.column, row - 1, middle)
            for target in net.targets:
                column = _entry(target)
                self._connect_columns(middle, net.column, column)
                self._connect_rows(column, middle, bottom + target.is_dummy)
                if not target.is_dummy:
                    self._signs[bottom, column] = "▼"
        return bottom + 1

    def _connect_rows(self, column: int, top: int, bottom: int) -> None:
        for row in range(top, bottom):
            self._lines[row, column] = self._lines.get((row, column), 0) | _DOWN
            self._lines[row + 1, column] = self._lines.get((row + 1, column), 0) | _UP

    def _connect_columns(self, row: int, first: int, second: int) -> None:
        for column in range(min(first, second), max(first, second)):
            self._lines[row, column] = self._lines.get((row, column), 0) | _RIGHT
            self._lines[row, column + 1] = self._lines.get((row, column + 1), 0) | _LEFT

    def _write(self, row: int, column: int, text: str) -> None:
        for character in text:
            width = character_width(character)
            if not width:
                self._signs[row, column - 1] += character
                continue
            self._signs[row, column] = character
            if width == 2:
                self._signs[row, column + 1] = ""
            column += width

    def _to_text(self, rows: int) -> str:
        lines = []
        for row in range(rows):
            characters = (
                self._signs.get((row, column), _LINES.get(self._lines.get((row, column), 0), " "))
                for column in range(self._grid.width + 1)
            )
            lines.append("".join(characters).rstrip())
        return "\n".join(lines) + "\n"


def _entry(cell: Cell) -> int:
    """Return the column in which lines enter a cell from above."""
    return int(cell.left) + cell.width // 2
