"""The difference between two runs as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from noetl.api.cli.display.run_board import format_duration
from noetl.executor.model.json_values import write_json
from noetl.planner.diagnostics.terminal_text import to_printable

MAX_ROWS = 200
"""How many visits are printed. `--json` has all that differ."""

_MAX_VALUE = 200


def format_diff(diff: Mapping[str, Any]) -> str:
    """Return the lines about a difference, which `compare_runs` has returned."""
    return "".join(f"{line}\n" for line in _diff_lines(diff))


def _diff_lines(diff: Mapping[str, Any]) -> Iterator[str]:
    for letter, run in zip("ab", diff["runs"], strict=True):
        title = run["playbook"] if run["version"] is None else f"{run['playbook']} {run['version']}"
        duration = "" if run["duration_ms"] is None else f"  {format_duration(run['duration_ms'] / 1000)}"
        yield f"{letter}  {run['workflow_id']}  {to_printable(title)}  {run['status']}{duration}"
    plan = diff["plan"]
    if plan is not None:
        lines = plan["changed_lines"]
        yield f"plan: differs{'' if lines is None else f' in {lines:,} line' + ('' if lines == 1 else 's')}"
    for section in ("run", "input"):
        yield from _change_lines(diff[section], f"{section}.")
    steps = diff["steps"]
    for row in steps[:MAX_ROWS]:
        visit = f" visit {row['visit']}" if row["visit"] > 1 else ""
        yield f"{to_printable(row['step'])}{visit}{_describe_durations(row['duration_ms'])}"
        yield from _change_lines(row["changes"], "  ")
    if len(steps) > MAX_ROWS:
        yield f"and {len(steps) - MAX_ROWS:,} more visits that differ; --json shows all"
    if not any((steps, plan, diff["run"], diff["input"])):
        yield "no difference but the times"
    if diff["outputs_not_compared"]:
        yield f"the outputs of {diff['outputs_not_compared']:,} more visits were not compared"
    if diff["cut"]:
        yield "the runs have more visits than were compared"


def _describe_durations(durations: Sequence[float | None]) -> str:
    shown = ["" if duration is None else format_duration(duration / 1000) for duration in durations]
    return f"  {shown[0] or '-'} → {shown[1] or '-'}" if any(shown) else ""


def _change_lines(changes: Sequence[Mapping[str, Any]], prefix: str) -> Iterator[str]:
    for change in changes:
        left, right = (_write(value) for value in change["values"])
        if change.get("only") == "a":
            right = "absent"
        elif change.get("only") == "b":
            left = "absent"
        elif change["name"] == "state":
            left, right = (str(value or "not visited") for value in change["values"])
        yield f"{prefix}{to_printable(change['name'])}: {left} → {right}"


def _write(value: Any) -> str:
    text = to_printable(value if isinstance(value, str) else write_json(value))
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"
