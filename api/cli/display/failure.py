"""Lines about the failure of a step: its place, its reason, and the facts about its expression."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from noetl.api.cli.display.run_board import format_error
from noetl.planner.diagnostics.terminal_text import to_printable

if TYPE_CHECKING:
    from noetl.executor.model.run import Run
    from noetl.planner.plan import Plan

_LABEL_WIDTH = 12
_MAX_LINES = 5
_MAX_LINE = 300
_MAX_FAILED_ITEMS = 10
_MAX_ITEM_WIDTH = 60


def failure_lines(error: Mapping[str, Any], plan: Plan, file: str | None) -> list[str]:
    """Return the line about a failure of a run, and its facts on lines of their own.

    `file` is that of the playbook, if it is known. The action has the line, or else the step.
    """
    line = failure_line_number(error, plan)
    position = f"{file or 'line'}:{line}: " if line and file else f"line {line}: " if line else ""
    subject = f"step `{error['step']}`" if error["step"] else "the run"
    action = f", action {error['action']}" if error["action"] else ""
    attempt = f", attempt {error['attempt']}" if error["attempt"] > 1 else ""
    return [f"{position}{subject}{action}{attempt}: {format_error(error)}", *fact_lines(error)]


def place_lines(error: Mapping[str, Any], file: str | None) -> Iterator[str]:
    """Yield an indented line with the place of the action that failed, if its line is known."""
    if "line" in error:
        place = f"{file}:{error['line']}" if file else f"line {error['line']}"
        yield _fact("at", f"{place}, action {error['action']}" if error.get("action") else place)


def failure_key(error: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what identifies a failure among those of a run."""
    return tuple(error.get(name) for name in ("step", "attempt", "type", "message"))


def shown_file(run: Run) -> str | None:
    """Return the file of a local run, relative to the working directory if it is below."""
    if run.source is None:
        return None
    path = os.path.relpath(run.source)
    return run.source if path.startswith("..") else path


def failure_line_number(error: Mapping[str, Any], plan: Plan) -> int | None:
    """Return the line of the action that failed, or of its step, or None if there is neither."""
    step = plan.steps.get(error["step"] or "")
    return error.get("line") or (None if step is None else step.line)


def child_failure(error: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Return the id and the error of the child run whose failure an error record reports, or None."""
    details = error.get("details")
    if error.get("type") != "WorkflowFailed" or not isinstance(details, dict):
        return None
    run_id, cause = details.get("workflow_id"), details.get("error")
    return (run_id, cause) if isinstance(run_id, str) and isinstance(cause, dict) else None


def fact_lines(error: Mapping[str, Any], *, with_cause: bool = True) -> Iterator[str]:
    """Yield an indented line for each fact of an error record: expression, values of its names, and item.

    The failure of a child run follows `with_cause`.

    >>> list(fact_lines({"expression": "{{ n + 1 }}", "values": {"n": "none"}}))
    ['  expression  {{ n + 1 }}', '  values      n = none']
    """
    if "expression" in error:
        yield _fact("expression", error["expression"])
    if error.get("values"):
        yield _fact("values", ", ".join(f"{name} = {value}" for name, value in error["values"].items()))
    if "item" in error:
        yield _fact("item", error["item"]["value"])
    failure = child_failure(error) if with_cause else None
    if failure is None:
        yield from _detail_lines(error)
    else:
        yield from _cause_lines(failure[1])


def failed_item_lines(items: Sequence[Mapping[str, Any]], count: int) -> Iterator[str]:
    """Yield lines with the failed items of a loop that continued: the first ones, and how many others.

    An item has its `value` and its `error`. `count` is the number of all that failed.
    """
    for item in items[:_MAX_FAILED_ITEMS]:
        value = to_printable(item["value"] or "")
        shown = value if len(value) <= _MAX_ITEM_WIDTH else f"{value[: _MAX_ITEM_WIDTH - 1]}…"
        yield f"  ✗ {format_error(item['error'])}  {shown}".rstrip()
    rest = count - min(len(items), _MAX_FAILED_ITEMS)
    if items and rest > 0:
        noun = "item has" if rest == 1 else "items have"
        yield f"  {rest:,} more {noun} failed; `noetl runs items` lists them"


def _cause_lines(cause: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines with the place of the failure in a child run, and its facts."""
    step = f"step `{cause['step']}`" if cause.get("step") else "the run"
    line = f", line {cause['line']}" if "line" in cause else ""
    action = f", action {cause['action']}" if cause.get("action") else ""
    yield _fact("cause", f"{step}{line}{action}")
    yield from fact_lines(cause)


def _detail_lines(error: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines with the statement of SQL, or the end or the beginning of what a command has written."""
    details = error.get("details")
    if not isinstance(details, dict):
        return
    for name in ("statement", "hint", "stdout", "stderr"):
        text = details.get(name)
        lines = text.strip().splitlines() if isinstance(text, str) else []
        if len(lines) == 1 and lines[0] in error["message"]:
            continue
        # Of output that was too long, the error has the beginning.
        is_tail = name.startswith("std") and error["type"] != "LimitExceeded"
        shown = lines[-_MAX_LINES:] if is_tail else lines[:_MAX_LINES]
        for number, line in enumerate(shown):
            yield _fact(name if number == 0 else "", line[:_MAX_LINE])


def _fact(label: str, text: str) -> str:
    return f"  {label:<{_LABEL_WIDTH}}{to_printable(text)}"
