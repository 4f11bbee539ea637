"""Drawing of a plan in DOT, the language of Graphviz.

The node of a step has an `id`, `n-` and its position in the outline, and its state as `class`. A page that
shows the drawing as SVG can therefore follow a run by changing classes.
"""

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

_ERROR = "#cf222e"


def draw(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str] | None = None
) -> str:
    """Return the plan as a digraph.

    Steps have the colour of their state in `states`; the default is `pending`.
    """
    return "\n".join(_lines(plan, action_types, states or {})) + "\n"


def _lines(
    plan: Plan, action_types: Mapping[str, ActionDeclaration], states: Mapping[str, str]
) -> Iterator[str]:
    shape = make_outline(plan, action_types)
    yield f"digraph {_quote(to_printable(plan.header.name))} {{"
    yield '  graph [rankdir=TB, nodesep=0.35, ranksep=0.4, fontname="Helvetica", bgcolor="white"]'
    yield '  node [shape=box, style="rounded,filled", fontname="Helvetica", fontsize=11, margin="0.14,0.07"]'
    yield '  edge [fontname="Helvetica", fontsize=9, arrowsize=0.7, color="#57606a", fontcolor="#57606a"]'
    yield '  start [shape=circle, label="", width=0.16, style=filled, fillcolor="#24292f", class="start"]'
    yield f"  start -> {_entry(plan, shape, plan.header.start)}"
    for name in shape.order:
        step = plan.steps[name]
        state = states.get(name, "pending")
        fill, border = STATE_COLOURS.get(state, STATE_COLOURS["pending"])
        number = shape.position[name]
        work = shape.summarise_run(step.run, parallel=step.parallel, limit=40)
        label = "\n".join(filter(None, (to_printable(name), work, join_mode(step), *repetition_notes(step))))
        yield (
            f'  s{number} [id="n-{number}", class={_quote(state)}, label={_quote(label)}, '
            f'tooltip={_quote(to_printable(name))}, fillcolor="{fill}", color="{border}"]'
        )
        if step.join is not None:
            yield f"  j{number} [{_bar('join')}]"
            yield f"  j{number} -> s{number} [arrowhead=none]"
        yield from _cases(plan, shape, step)
    yield "}"


def _bar(kind: str) -> str:
    style = 'shape=box, style=filled, fillcolor="#24292f", label="", height=0.05, width=0.7, margin=0'
    return f'{style}, class="{kind}"'


def _end(name: str) -> str:
    return (
        f'  {name} [shape=doublecircle, label="", width=0.1, style=filled, fillcolor="#24292f", class="end"]'
    )


def _entry(plan: Plan, shape: Outline, target: str) -> str:
    """Return the node that edges to the step lead to: for a join, the bar before it."""
    return f"{'s' if plan.steps[target].join is None else 'j'}{shape.position[target]}"


def _cases(plan: Plan, shape: Outline, step: Step) -> Iterator[str]:
    number = shape.position[step.name]
    if not step.cases:
        yield _end(f"e{number}")
        yield f"  s{number} -> e{number}"
        return
    for index, case in enumerate(step.cases, 1):
        guard = guard_text(case)
        attributes = (
            [] if len(step.cases) == 1 and guard == "default" else [f"label={_quote(_pad_label(guard))}"]
        )
        attributes.append(f'class="case-{index}"')
        if is_error_path(case):
            attributes.append(f'style=dashed, color="{_ERROR}", fontcolor="{_ERROR}"')
        if case.work:
            target = f"w{number}_{index}"
            label = _quote(shape.summarise_run(case.work, limit=40))
            yield f'  {target} [label={label}, style="rounded,dashed", color="#57606a", class="in-place"]'
            yield _end(f"e{number}_{index}")
            yield f"  {target} -> e{number}_{index}"
        elif not case.targets:
            target = f"e{number}_{index}"
            yield _end(target)
        elif len(case.targets) == 1:
            target = _entry(plan, shape, case.targets[0])
        else:
            target = f"f{number}_{index}"
            yield f"  {target} [{_bar('fork')}]"
            yield from (f"  {target} -> {_entry(plan, shape, name)}" for name in case.targets)
            attributes.append("arrowhead=none")
        yield f"  s{number} -> {target} [{', '.join(attributes)}]"
    if may_match_no_case(step):
        yield _end(f"e{number}")
        yield f'  s{number} -> e{number} [label=" otherwise "]'


def _pad_label(text: str) -> str:
    """Return a label with blanks around it, which keep it clear of its edge."""
    return f" {truncate(text, 36)} "


def _quote(text: str) -> str:
    """Return a DOT string that shows exactly `text`. Graphviz interprets `&` as the start of an entity."""
    escaped = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
