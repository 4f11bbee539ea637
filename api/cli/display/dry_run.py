"""A dry run as lines of text: what `noetl run --dry-run` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from noetl.api.cli.display.run_board import format_duration
from noetl.executor.engine.known_values import UnknownValue, shown_value
from noetl.executor.engine.preview import cut, preview
from noetl.planner.diagnostics.terminal_text import to_printable

if TYPE_CHECKING:
    from noetl.executor.engine.dry_run import DryRun, PlannedAction, PlannedCase, PlannedStep

_MAX_VALUE_LENGTH = 500


def format_dry_run(dry: DryRun) -> str:
    """Return the lines about the steps of a dry run, and how many actions would act outside."""
    lines = [line for step in dry.steps for line in _step_lines(step)]
    if dry.is_cut:
        lines += ["", "there are more actions; the walk ended here"]
    return "".join(f"{to_printable(line)}\n" for line in lines[1:])


def count_outside(dry: DryRun) -> int:
    """Return how many of the actions would act outside."""
    return sum(action.acts_outside for step in dry.steps for action in step.actions)


def dry_run_data(dry: DryRun) -> dict[str, Any]:
    """Return a dry run as JSON data. What is unknown is the text of its template."""
    return {
        "steps": [
            {
                "name": step.name,
                "line": step.line,
                "certain": step.is_certain,
                "actions": [_action_data(action) for action in step.actions],
                "cases": [
                    {
                        "case": case.number,
                        "guard": case.guard,
                        "certain": case.is_certain,
                        "next": list(case.targets),
                    }
                    for case in step.cases
                ],
                "problem": step.problem,
                "more_items": dict(step.more_items),
            }
            for step in dry.steps
        ],
        "cut": dry.is_cut,
    }


def _action_data(action: PlannedAction) -> dict[str, Any]:
    return {
        "action": action.type,
        "position": action.position,
        "line": action.line,
        "input": {name: shown_value(value) for name, value in action.parameters.items()},
        "if": action.condition,
        "item": shown_value(action.item),
        "outside": action.acts_outside,
        "cache_seconds": action.cache_seconds,
    }


def _step_lines(step: PlannedStep) -> Iterator[str]:
    yield ""
    yield f"{step.name}  (line {step.line})" + ("" if step.is_certain else "  perhaps")
    for action in step.actions:
        yield from _action_lines(action)
    for position, count in step.more_items.items():
        yield f"  {position}  and {count:,} more items"
    if step.problem is not None:
        yield f"  ✗ {step.problem}"
    yield from map(_case_line, step.cases)


def _action_lines(action: PlannedAction) -> Iterator[str]:
    mark = "•" if action.acts_outside else " "
    item = "" if action.item is None else f"  item {' '.join(_format(action.item).split())}"
    condition = "" if action.condition is None else f"  if {action.condition}"
    cache = (
        ""
        if action.cache_seconds is None
        else f"  unless a result of the last {format_duration(action.cache_seconds)} is cached"
    )
    yield f"  {mark} {action.position}  {action.type}{item}{condition}{cache}"
    for name, value in action.parameters.items():
        first, *rest = _format(value).rstrip("\n").split("\n")
        yield f"      {name}: {first}"
        yield from (f"        {line}" for line in rest)


def _case_line(case: PlannedCase) -> str:
    condition = "" if case.is_certain or case.guard is None else f", if {case.guard}"
    otherwise = ", otherwise" if not case.is_certain and case.guard is None else ""
    return f"  case {case.number}{condition}{otherwise} → {', '.join(case.targets) or 'end'}"


def _format(value: Any) -> str:
    """Return a value on one line, without secrets. What is unknown is shown as its template."""
    shown = shown_value(value)
    if isinstance(value, str | UnknownValue):
        return cut(shown, _MAX_VALUE_LENGTH)
    return preview(shown, _MAX_VALUE_LENGTH)
