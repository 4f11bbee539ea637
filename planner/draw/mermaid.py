"""Drawing of a plan as a Mermaid flowchart, which GitHub renders in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from noetl.planner.catalogue import ActionDeclaration
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.draw.outline import (
    STATE_COLOURS,
    Outline,
    guard_text,
    is_error_path,
    join_mode,
    make_outline,
    may_match_no_case,
    repetition_notes,
    truncate,
)
from noetl.planner.plan import Plan, Step


def draw(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str] | None = None
) -> str:
    """Return the plan as a flowchart. With `states` (state by step), steps have the colour of their state."""
    return "\n".join(_lines(plan, action_types, states)) + "\n"


def _lines(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str] | None
) -> Iterator[str]:
    shape = make_outline(plan, action_types)
    yield "flowchart TD"
    yield f"  start(( )) --> {_entry(plan, shape, plan.header.start)}"
    for name in shape.order:
        step = plan.steps[name]
        number = shape.position[name]
        work = shape.summarise_run(step.run, parallel=step.parallel)
        label = f"<b>{_escape(to_printable(name))}</b>" + "".join(
            f"<br/>{_escape(line)}" for line in (work, join_mode(step), *repetition_notes(step)) if line
        )
        yield f'  s{number}["{label}"]'
        if step.join is not None:
            yield f"  j{number}[ ]:::bar --> s{number}"
        yield from _cases(plan, shape, step)
    yield "  classDef bar fill:#24292f,stroke:#24292f,height:6px"
    yield "  classDef work stroke-dasharray:3 3"
    if states is not None:
        for state, (fill, border) in STATE_COLOURS.items():
            numbers = [shape.position[name] for name in shape.order if states.get(name, "pending") == state]
            if numbers:
                yield f"  classDef {state} fill:{fill},stroke:{border},color:#24292f"
                yield f"  class {','.join(f's{n}' for n in numbers)} {state}"


def _entry(plan: Plan, shape: Outline, target: str) -> str:
    """Return the node that edges to the step lead to: for a join, the bar before it."""
    return f"{'s' if plan.steps[target].join is None else 'j'}{shape.position[target]}"


def _cases(plan: Plan, shape: Outline, step: Step) -> Iterator[str]:
    number = shape.position[step.name]
    if not step.cases:
        yield f"  s{number} --> e{number}((( )))"
        return
    for index, case in enumerate(step.cases, 1):
        guard = guard_text(case)
        is_only_case = len(step.cases) == 1 and guard == "default"
        label = "" if is_only_case else f'|"{_escape(truncate(guard, 60))}"|'
        arrow = f"{'-.->' if is_error_path(case) else '-->'}{label}"
        if case.work:
            work = _escape(shape.summarise_run(case.work))
            yield f'  s{number} {arrow} w{number}_{index}(["{work}"]):::work'
            yield f"  w{number}_{index} --> e{number}_{index}((( )))"
        elif not case.targets:
            yield f"  s{number} {arrow} e{number}_{index}((( )))"
        elif len(case.targets) == 1:
            yield f"  s{number} {arrow} {_entry(plan, shape, case.targets[0])}"
        else:
            yield f"  s{number} {arrow} f{number}_{index}[ ]:::bar"
            yield from (f"  f{number}_{index} --> {_entry(plan, shape, target)}" for target in case.targets)
    if may_match_no_case(step):
        yield f'  s{number} -->|"otherwise"| e{number}((( )))'


def _escape(text: str) -> str:
    """Return the text with every character that Mermaid or HTML interprets replaced by its entity."""
    return "".join(
        char if char.isalnum() or char in " .,_-=+'" or ord(char) > 0x7F else f"#{ord(char)};"
        for char in text
    )
