"""Drawings of plans as boxes and lines for a terminal."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.terminal_text import display_width
from noetl.planner.draw import boxes, text
from noetl.planner.draw.layering import place
from noetl.planner.plan import Action, Join, Plan, Retry, Step
from tests.planner.test_draw import NASTY, case, chain_plan, forked_plan, plan_of

RIGHT, LEFT, UP, DOWN = (0, 1), (0, -1), (-1, 0), (1, 0)
ENDS = {
    "│": (UP, DOWN), "─": (LEFT, RIGHT), "╰": (UP, RIGHT), "╯": (UP, LEFT), "╭": (DOWN, RIGHT),
    "╮": (DOWN, LEFT), "├": (UP, DOWN, RIGHT), "┤": (UP, DOWN, LEFT), "┬": (DOWN, LEFT, RIGHT),
    "┴": (UP, LEFT, RIGHT), "┼": (UP, DOWN, LEFT, RIGHT), "▼": (UP,),
}  # fmt: skip


def drawn(plan: Plan, width: int = 100, states: dict[str, str] | None = None) -> str:
    drawing = boxes.draw(plan, catalogue(), states, width=width)
    assert drawing is not None
    return drawing


def followers(drawing: str, name: str) -> set[str]:
    """Follow the lines below the box of a step, and return the names in the boxes where they end."""
    rows = drawing.split("\n")
    width = max(map(len, rows))
    grid = [row.ljust(width) for row in rows]
    top, left = next((y, row.index(f"│ {name} ")) for y, row in enumerate(grid) if f"│ {name} " in row)
    bottom = next(y for y in range(top, len(grid)) if grid[y][left] == "╰")
    right = grid[bottom].index("╯", left)
    ports = [x for x in range(left, right) if grid[bottom][x] in "┬123456789"]
    queue, seen, names = deque((bottom + 1, x, DOWN) for x in ports), set(), set()
    while queue:
        y, x, heading = queue.popleft()
        if (y, x, heading) in seen:
            continue
        seen.add((y, x, heading))
        sign = grid[y][x]
        if sign == "▼":
            box = max(grid[y + 1].rfind(corner, 0, x) for corner in "╭╒")
            names.add(grid[y + 2][box + 2 :].split(" ")[0])
            continue
        reverse = (-heading[0], -heading[1])
        assert reverse in ENDS[sign], (sign, y, x)
        headings = (
            [heading] if sign == "┼" and heading in ENDS[sign] else [e for e in ENDS[sign] if e != reverse]
        )
        queue.extend((y + dy, x + dx, (dy, dx)) for dy, dx in headings if (dy, dx) != UP)
    return names


def test_boxes_show_cases_joins_ends_and_cycles() -> None:
    drawing = drawn(forked_plan())
    for words in ("1 result.success", "2 ◆ error", "join: all", "1 again ↺ load", "otherwise ■", "▪ log ■"):
        assert words in drawing, drawing
    assert "╒" in drawing
    assert followers(drawing, "load") == {"left", "right", "report"}
    assert followers(drawing, "left") == {"meet"}
    assert followers(drawing, "right") == {"meet"}
    assert followers(drawing, "meet") == set()


def test_lines_lead_to_the_steps_of_the_plan() -> None:
    plan = plan_of(
        Step("a", cases=(case("x", "b"), case("y", "c"), case("default", "d"))),
        Step("b", cases=(case("default", "e"),)),
        Step("c", cases=(case("default", "f"),)),
        Step("d", cases=(case("x", "e"), case("default", "g"))),
        Step("e", cases=(case("default", "g"),)),
        Step("f", cases=(case("default", "g"),)),
        Step("g", join=Join("a", "any")),
    )
    drawing = drawn(plan)
    for name, step in plan.steps.items():
        targets = {target for entry in step.cases for target in entry.targets}
        assert followers(drawing, name) >= targets, drawing
    assert "○" in drawing


def test_states_stand_before_the_names() -> None:
    drawing = drawn(forked_plan(), states={"load": "succeeded", "left": "running"})
    assert "│ ✓ load " in drawing
    assert "│ ▶ left " in drawing
    assert "│ · right " in drawing


@pytest.mark.parametrize("width", [30, 40, 60, 100])
def test_boxes_fit_into_the_width_or_are_not_drawn(width: int) -> None:
    drawing = boxes.draw(forked_plan(), catalogue(), width=width)
    if width >= 60:
        assert drawing is not None
    if drawing is not None:
        assert max(map(display_width, drawing.split("\n"))) <= width


def test_large_plans_have_no_boxes() -> None:
    assert boxes.draw(chain_plan(boxes.MAX_STEPS), catalogue()) is not None
    assert boxes.draw(chain_plan(boxes.MAX_STEPS + 1), catalogue()) is None


def test_names_keep_the_borders_straight() -> None:
    plan = plan_of(
        Step(NASTY, cases=(case("default", "日本語のステップ"),), retry=Retry(attempts=3)),
        Step("日本語のステップ", (Action("log", {}),), cases=(case("default", "e\u0301\x1b[31m"),)),
        Step("e\u0301\x1b[31m"),
    )
    drawing = drawn(plan)
    assert "\x1b" not in drawing
    assert "3 attempts" in drawing
    top = None
    for line in drawing.split("\n"):
        if line.endswith("╮"):
            top = display_width(line)
        elif line.endswith("│") and top is not None and "│ " in line:
            assert display_width(line) == top


def test_a_long_edge_passes_the_boxes_of_other_layers() -> None:
    grid = place({"a": 5, "b": 5, "c": 5}, [("a", "b"), ("b", "c"), ("a", "c")])
    assert [len(layer) for layer in grid.layers] == [1, 2, 1]
    assert [len(chain) for chain in grid.chains] == [2, 2, 3]
    for layer in grid.layers:
        for left, right in pairwise(layer):
            assert left.left + left.width <= right.left


def test_an_outline_is_wrapped_at_the_width() -> None:
    outline = text.draw(forked_plan(), catalogue())
    assert text.wrap(outline, 200) == outline
    wrapped = text.wrap(outline, 30)
    assert max(map(display_width, wrapped.split("\n"))) <= 30
    assert "".join(wrapped.split()) == "".join(outline.split())
    assert text.wrap("x" * 50, 20) == "x" * 20 + "\n    " + "x" * 16 + "\n    " + "x" * 14
