"""Steps and actions that a resume would do again, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from noetl.planner.diagnostics.terminal_text import to_printable

_REASONS = {
    "failed": "has failed",
    "parked": "had stopped",
    "skipped": "is skipped",
    "from": "a new run starts here",
    "after": "was done, and follows",
}


def format_preview(preview: Mapping[str, Any]) -> str:
    """Return the steps that a resume does again, each with its actions that act outside.

    >>> action = {"position": "run.0", "action": "http", "line": 3, "done": "yes", "idempotent": False}
    >>> step = {"step": "pay", "visit": 1, "reason": "failed", "actions": [action]}
    >>> print(format_preview({"steps": [step]}), end="")
    pay  visit 1  has failed
      run.0  http  (line 3)  was done, and is repeated; not idempotent
    """
    return "".join(f"{to_printable(line)}\n" for step in preview["steps"] for line in _step_lines(step))


def count_repeated(preview: Mapping[str, Any]) -> int:
    """Return how many outside effects may be repeated."""
    return sum(action["done"] != "no" for step in preview["steps"] for action in step["actions"])


def _step_lines(step: Mapping[str, Any]) -> Iterator[str]:
    yield f"{step['step']}  visit {step['visit']}  {_REASONS[step['reason']]}"
    for loop in step.get("loops", ()):
        yield f"  {loop['position']}  {_describe_loop(loop)}"
    for action in step["actions"]:
        line = f"  (line {action['line']})" if action["line"] else ""
        done = {
            "yes": "was done, and is repeated",
            "perhaps": "was perhaps done, and may be repeated",
            "no": "was not done",
        }[action["done"]]
        risk = "" if action["done"] == "no" or action["idempotent"] else "; not idempotent"
        yield f"  {action['position']}  {action['action']}{line}  {done}{risk}"


def _describe_loop(loop: Mapping[str, Any]) -> str:
    """Return what is done again of a loop.

    >>> _describe_loop({"total": 12, "done": 9, "again": 3, "numbers": [2, 4, 12], "lost": 0})
    'loop: 9 of 12 items were done and stay; items 2, 4, 12 are done again'
    """
    numbers = ", ".join(f"{number:,}" for number in loop["numbers"])
    more = loop["again"] - len(loop["numbers"])
    again = f"item {numbers} is" if loop["again"] == 1 else f"items {numbers} are"
    again = f"items {numbers} and {more:,} more are" if more else again
    lost = (
        f"; {loop['lost']:,} had succeeded, but their results are too large to be kept"
        if loop["lost"]
        else ""
    )
    if not loop["done"]:
        return f"loop: all {loop['total']:,} items are done again{lost}"
    return f"loop: {loop['done']:,} of {loop['total']:,} items were done and stay; {again} done again{lost}"
