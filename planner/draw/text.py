"""Drawing of a plan as text for a terminal: one line for each step, and one for each case of a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.diagnostics.terminal_text import display_width, to_printable
from noetl.planner.draw.outline import (
    STATE_SIGNS,
    Outline,
    cut_to_width,
    debounce_notes,
    guard_text,
    join_mode,
    limit_notes,
    make_outline,
    may_match_no_case,
    repetition_notes,
    truncate,
)
from noetl.planner.plan import MAX_COUNTED_VISITS, Case, Plan, Step

_MAX_INDENT = 8
_MAX_NAME_LENGTH = 32
_MAX_WORK_WIDTH = 32
_MAX_GUARD_LENGTH = 48


def draw(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str] | None = None
) -> str:
    """Return the plan as text. With `states` (state by step), each step starts with a sign for its state."""
    return "\n".join(_lines(plan, action_types, states)) + "\n"


def wrap(drawing: str, width: int) -> str:
    """Return a drawing whose lines have at most `width` cells. The rest of a line is indented below it.

    >>> print(wrap("1  load  http GET  → left, right", 20))
    1  load  http GET  →
        left, right
    """
    return "\n".join(part for line in drawing.split("\n") for part in _wrap_line(line, max(width, 20)))


def _wrap_line(line: str, width: int) -> Iterator[str]:
    indent = " " * min(len(line) - len(line.lstrip()) + 4, width // 2)
    while display_width(line) > width:
        limit = len(cut_to_width(line, width + 1)) - 1
        end = line.rfind(" ", len(indent), limit + 1)
        end = limit if end < 0 else end
        yield line[:end].rstrip()
        line = indent + line[end:].lstrip()
    yield line


def _lines(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str] | None
) -> Iterator[str]:
    shape = make_outline(plan, action_types)
    yield headline(plan)
    titles = {
        name: "  " * min(len(step.regions), _MAX_INDENT) + _short_name(name)
        for name, step in plan.steps.items()
    }
    without_join = _find_merges_without_join(plan)
    works = {name: _work(plan, shape, step, name in without_join) for name, step in plan.steps.items()}
    digits = len(str(len(titles)))
    title_column = max(map(display_width, titles.values()))
    work_column = min(max(map(display_width, works.values())), _MAX_WORK_WIDTH)

    for name in shape.order:
        step = plan.steps[name]
        sign = "" if states is None else STATE_SIGNS.get(states.get(name, "pending"), "?") + " "
        head = f"{shape.position[name]:>{digits}}  {sign}"
        line = f"{head}{_pad(titles[name], title_column)}  {_pad(works[name], work_column)}"
        if not step.cases:
            yield f"{line}  ■"
        elif len(step.cases) == 1 and guard_text(step.cases[0]) == "default":
            yield f"{line}  {_destination(shape, step, step.cases[0])}"
        else:
            yield line.rstrip()
            yield from _cases(shape, step, " " * (len(head) + len(titles[name]) - len(titles[name].lstrip())))


def _short_name(name: str) -> str:
    return truncate(to_printable(name), _MAX_NAME_LENGTH)


def _work(plan: Plan, shape: Outline, step: Step, is_merge_without_join: bool) -> str:
    notes = ", ".join(_notes(plan, shape, step, is_merge_without_join))
    return "  ".join(
        filter(None, (shape.summarise_run(step.run, parallel=step.parallel), notes and f"({notes})"))
    )


def _pad(text: str, column: int) -> str:
    return text + " " * (column - display_width(text))


def headline(plan: Plan) -> str:
    """Return the name of a plan, the numbers of its steps, edges, forks, joins and visits, and its limits."""
    steps = list(plan.steps.values())
    numbers = (
        (len(steps), "step"),
        (sum(len(case.targets) for step in steps for case in step.cases), "edge"),
        (sum(len(case.targets) > 1 for step in steps for case in step.cases), "fork"),
        (sum(step.join is not None for step in steps), "join"),
    )
    limits = (f"runs: {note}" for note in limit_notes((*plan.header.concurrency, *plan.header.rate)))
    waits = (f"runs: {note}" for note in debounce_notes(plan.header.debounce))
    counts = ", ".join(
        [*(_count(number, noun) for number, noun in numbers if number), *_visit_bound(plan), *limits, *waits]
    )
    version = f" {to_printable(plan.header.version)}" if plan.header.version else ""
    return f"{to_printable(plan.header.name)}{version}: {counts}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _visit_bound(plan: Plan) -> Iterator[str]:
    visits = plan.header.statistics.get("most_visits")
    if visits is None:
        return
    if visits < MAX_COUNTED_VISITS:
        yield f"at most {_count(visits, 'visit')}"
    else:
        yield f"{MAX_COUNTED_VISITS:,} visits or more"


def _find_merges_without_join(plan: Plan) -> set[str]:
    """Return the steps with several incoming edges that are not joins, in a plan with forks."""
    if not any(len(case.targets) > 1 for step in plan.steps.values() for case in step.cases):
        return set()
    incoming = Counter(edge["target"] for edge in plan.edges())
    return {
        name
        for name, step in plan.steps.items()
        if incoming[name] > 1 and step.join is None and not step.runs_per_branch
    }


def _notes(plan: Plan, shape: Outline, step: Step, is_merge_without_join: bool) -> Iterator[str]:
    if step.name == plan.header.start:
        yield "start"
    if step.join is not None:
        since = "the start" if step.join.dominator is None else _short_name(step.join.dominator)
        yield f"{join_mode(step)} since {since}"
    elif step.runs_per_branch:
        yield join_mode(step)
    elif is_merge_without_join:
        yield "no join needed"
    yield from repetition_notes(step)
    yield from limit_notes((*step.concurrency, *step.rate))
    if step.retry.attempts > 1:
        yield f"{step.retry.attempts} attempts"
    if step.name in shape.unreachable and not step.is_finally_step:
        yield "unreachable"


def _cases(shape: Outline, step: Step, indent: str) -> Iterator[str]:
    rows = [
        (truncate(guard_text(case), _MAX_GUARD_LENGTH), _destination(shape, step, case))
        for case in step.cases
    ]
    if rows and may_match_no_case(step):
        rows.append(("otherwise", "■"))
    column = max((display_width(guard) for guard, _ in rows), default=0)
    for number, (guard, destination) in enumerate(rows, 1):
        yield f"{indent}{'└─' if number == len(rows) else '├─'} {_pad(guard, column)} {destination}"


def _destination(shape: Outline, step: Step, case: Case) -> str:
    if case.work:
        return f"▪ {shape.summarise_run(case.work)} ■"
    if not case.targets:
        return "■"
    arrow = "→" if len(case.targets) == 1 else "⇉"
    return f"{arrow} {', '.join(_target(shape, step, target) for target in case.targets)}"


def _target(shape: Outline, step: Step, target: str) -> str:
    prefix = "↺ " if shape.leads_back(step.name, target) else ""
    return f"{prefix}{_short_name(target)}"
