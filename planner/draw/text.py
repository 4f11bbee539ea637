"""A plan as an indented list for a terminal: a line a step, and one more for each case where there is a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from noetl.planner.diagnostics.terminal_text import cells, visible
from noetl.planner.draw.outline import (
    Outline,
    bounds,
    clip,
    falls_through,
    guard,
    mode,
    outline,
    run_in_short,
)
from noetl.planner.plan import MOST_COUNTED, Case, Plan, Step

_STATE_SIGNS = {
    "pending": "·",
    "running": "▶",
    "waiting": "◷",
    "retrying": "↻",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "⊘",
}
_DEEPEST = 8
_NAME = 32
_WORK = 32
_GUARD = 48


def draw(plan: Plan, states: Mapping[str, str] | None = None) -> str:
    """The plan as text. With `states` (state by step), each step begins with a sign for its own."""
    return "\n".join(_lines(plan, states)) + "\n"


def _lines(plan: Plan, states: Mapping[str, str] | None) -> Iterator[str]:
    shape = outline(plan)
    yield _headline(plan)
    titles = {
        name: "  " * min(len(step.regions), _DEEPEST) + _name(name) for name, step in plan.steps.items()
    }
    free = _free_of_joins(plan)
    works = {name: _work(plan, shape, step, name in free) for name, step in plan.steps.items()}
    digits = len(str(len(titles)))
    title_column = max(map(cells, titles.values()))
    work_column = min(max(map(cells, works.values())), _WORK)

    for name in shape.order:
        step = plan.steps[name]
        sign = "" if states is None else _STATE_SIGNS.get(states.get(name, "pending"), "?") + " "
        head = f"{shape.position[name]:>{digits}}  {sign}"
        line = f"{head}{_padded(titles[name], title_column)}  {_padded(works[name], work_column)}"
        if not step.cases:
            yield f"{line}  ■"
        elif len(step.cases) == 1 and guard(step.cases[0]) == "default":
            yield f"{line}  {_destination(shape, step, step.cases[0])}"
        else:
            yield line.rstrip()
            yield from _cases(shape, step, " " * (len(head) + len(titles[name]) - len(titles[name].lstrip())))


def _name(name: str) -> str:
    return clip(visible(name), _NAME)


def _work(plan: Plan, shape: Outline, step: Step, is_free: bool) -> str:
    notes = ", ".join(_notes(plan, shape, step, is_free))
    return "  ".join(filter(None, (run_in_short(step.run, parallel=step.parallel), notes and f"({notes})")))


def _padded(text: str, column: int) -> str:
    return text + " " * (column - cells(text))


def _headline(plan: Plan) -> str:
    steps = list(plan.steps.values())
    numbers = (
        (len(steps), "step"),
        (sum(len(case.targets) for step in steps for case in step.cases), "edge"),
        (sum(len(case.targets) > 1 for step in steps for case in step.cases), "fork"),
        (sum(step.join is not None for step in steps), "join"),
    )
    counted = ", ".join([*(_counted(n, word) for n, word in numbers if n), *_most_visits(plan)])
    version = f" {visible(plan.header.version)}" if plan.header.version else ""
    return f"{visible(plan.header.name)}{version}: {counted}"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def _most_visits(plan: Plan) -> Iterator[str]:
    visits = plan.header.statistics.get("most_visits")
    if visits is not None:
        yield (
            f"at most {_counted(visits, 'visit')}"
            if visits < MOST_COUNTED
            else f"{MOST_COUNTED:,} visits or more"
        )


def _free_of_joins(plan: Plan) -> set[str]:
    """The steps at which branches of a plan with forks could be thought to meet, and do not."""
    if not any(len(case.targets) > 1 for step in plan.steps.values() for case in step.cases):
        return set()
    ways = Counter(edge["target"] for edge in plan.edges())
    return {
        name for name, step in plan.steps.items() if ways[name] > 1 and step.join is None and not step.each
    }


def _notes(plan: Plan, shape: Outline, step: Step, is_free: bool) -> Iterator[str]:
    if step.name == plan.header.start:
        yield "start"
    if step.join is not None:
        since = "the start" if step.join.dominator is None else _name(step.join.dominator)
        yield f"{mode(step)} since {since}"
    elif step.each:
        yield mode(step)
    elif is_free:
        yield "no join needed"
    yield from bounds(step)
    if step.retry.attempts > 1:
        yield f"{step.retry.attempts} attempts"
    if step.name in shape.unreachable and not step.runs_last:
        yield "unreachable"


def _cases(shape: Outline, step: Step, indent: str) -> Iterator[str]:
    rows = [(clip(guard(case), _GUARD), _destination(shape, step, case)) for case in step.cases]
    if rows and falls_through(step):
        rows.append(("otherwise", "■"))
    column = max((cells(words) for words, _ in rows), default=0)
    for index, (words, destination) in enumerate(rows, 1):
        yield f"{indent}{'└─' if index == len(rows) else '├─'} {_padded(words, column)} {destination}"


def _destination(shape: Outline, step: Step, case: Case) -> str:
    if case.work:
        return f"▪ {run_in_short(case.work)} ■"
    if not case.targets:
        return "■"
    arrow = "→" if len(case.targets) == 1 else "⇉"
    return f"{arrow} {', '.join(_target(shape, step, target) for target in case.targets)}"


def _target(shape: Outline, step: Step, target: str) -> str:
    back = "↺ " if shape.leads_back(step.name, target) else ""
    return f"{back}{_name(target)}"
