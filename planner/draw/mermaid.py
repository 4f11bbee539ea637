"""A plan as a Mermaid flowchart, such as GitHub shows in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from noetl.planner.diagnostics.terminal_text import visible
from noetl.planner.draw.outline import (
    COLOURS,
    bounds,
    clip,
    falls_through,
    guard,
    is_error_path,
    mode,
    outline,
    run_in_short,
)
from noetl.planner.plan import Plan, Step


def draw(plan: Plan, states: Mapping[str, str] | None = None) -> str:
    """The plan as a flowchart. With `states` (state by step), steps are coloured by their own."""
    return "\n".join(_lines(plan, states)) + "\n"


def _lines(plan: Plan, states: Mapping[str, str] | None) -> Iterator[str]:
    shape = outline(plan)
    yield "flowchart TD"
    yield f"  start(( )) --> {_entry(plan, shape.position, plan.header.start)}"
    for name in shape.order:
        step = plan.steps[name]
        number = shape.position[name]
        work = run_in_short(step.run, parallel=step.parallel)
        label = f"<b>{_escaped(visible(name))}</b>" + "".join(
            f"<br/>{_escaped(words)}" for words in (work, mode(step), *bounds(step)) if words
        )
        yield f'  s{number}["{label}"]'
        if step.join is not None:
            yield f"  j{number}[ ]:::bar --> s{number}"
        yield from _cases(plan, shape.position, step)
    yield "  classDef bar fill:#24292f,stroke:#24292f,height:6px"
    yield "  classDef work stroke-dasharray:3 3"
    if states is not None:
        for state, (fill, border) in COLOURS.items():
            numbers = [shape.position[name] for name in shape.order if states.get(name, "pending") == state]
            if numbers:
                yield f"  classDef {state} fill:{fill},stroke:{border},color:#24292f"
                yield f"  class {','.join(f's{n}' for n in numbers)} {state}"


def _entry(plan: Plan, position: Mapping[str, int], target: str) -> str:
    """Where edges to the step lead: the bar in front of it when it is a join."""
    return f"{'s' if plan.steps[target].join is None else 'j'}{position[target]}"


def _cases(plan: Plan, position: Mapping[str, int], step: Step) -> Iterator[str]:
    number = position[step.name]
    if not step.cases:
        yield f"  s{number} --> e{number}((( )))"
        return
    for index, case in enumerate(step.cases, 1):
        words = guard(case)
        alone = len(step.cases) == 1 and words == "default"
        label = "" if alone else f'|"{_escaped(clip(words, 60))}"|'
        arrow = f"{'-.->' if is_error_path(case) else '-->'}{label}"
        if case.work:
            yield f'  s{number} {arrow} w{number}_{index}(["{_escaped(run_in_short(case.work))}"]):::work'
            yield f"  w{number}_{index} --> e{number}_{index}((( )))"
        elif not case.targets:
            yield f"  s{number} {arrow} e{number}_{index}((( )))"
        elif len(case.targets) == 1:
            yield f"  s{number} {arrow} {_entry(plan, position, case.targets[0])}"
        else:
            yield f"  s{number} {arrow} f{number}_{index}[ ]:::bar"
            yield from (
                f"  f{number}_{index} --> {_entry(plan, position, target)}" for target in case.targets
            )
    if falls_through(step):
        yield f'  s{number} -->|"otherwise"| e{number}((( )))'


def _escaped(text: str) -> str:
    """`text` with every character that means something to Mermaid or HTML written as its entity."""
    return "".join(c if c.isalnum() or c in " .,_-=+'" or ord(c) > 0x7F else f"#{ord(c)};" for c in text)
