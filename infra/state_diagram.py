"""The picture and the table of the states of a visit, from the table that the executor uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from noetl.executor.model.run import VisitStatus
from noetl.executor.model.visit_states import COMBINED, TRANSITIONS, VisitTrigger

_MODEL = Path(__file__).resolve().parent.parent / "executor" / "model"
_MODULES = ("visit_transition", "transition")

Edge = tuple[VisitStatus | None, VisitTrigger, VisitStatus]
"""Status before (None for a visit that does not exist), trigger, status after."""


def edges() -> Iterator[Edge]:
    """Yield the rows of the table of transitions."""
    for before, row in TRANSITIONS.items():
        for trigger, after in row.items():
            yield before, trigger, after


def draw_mermaid() -> str:
    """Return the transitions as a state diagram of Mermaid. Triggers with the same ends share an arrow."""
    labels: dict[tuple[VisitStatus | None, VisitStatus], list[str]] = {}
    for before, trigger, after in edges():
        labels.setdefault((before, after), []).append(trigger.value)
    lines = [
        f"    {'[*]' if before is None else before.value} --> {after.value}: {'<br>'.join(causes)}"
        for (before, after), causes in labels.items()
    ]
    finals = [f"    {status.value} --> [*]" for status in VisitStatus if not TRANSITIONS[status]]
    return "\n".join(["stateDiagram-v2", *lines, *finals, ""])


def transition_rows() -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of the table for readers: statuses before, trigger, status after, functions.

    Rows with the same trigger and the same status after are one row.
    """
    statuses_before: dict[tuple[VisitTrigger, VisitStatus], list[str]] = {}
    for before, trigger, after in edges():
        name = "(no visit)" if before is None else before.value
        statuses_before.setdefault((trigger, after), []).append(name)
    functions = functions_of_triggers()
    for (trigger, after), names in statuses_before.items():
        calls = ", ".join(f"`{function}`" for function in functions[trigger])
        yield ", ".join(names), trigger.value, after.value, calls


def combined_rows() -> Iterator[tuple[str, str, str]]:
    """Yield the pairs of transitions that a store may write at once: first, second, statuses."""
    for first, second in COMBINED:
        ends = [
            f"{'(no visit)' if before is None else before.value} → {TRANSITIONS[middle][second].value}"
            for before, trigger, middle in edges()
            if trigger is first
        ]
        yield first.value, second.value, ", ".join(ends)


def functions_of_triggers() -> dict[VisitTrigger, list[str]]:
    """Return for each trigger the public functions that make its transition, as their source says it."""
    functions: dict[VisitTrigger, list[str]] = {trigger: [] for trigger in VisitTrigger}
    for module in _MODULES:
        tree = ast.parse((_MODEL / f"{module}.py").read_text("utf-8"))
        definitions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name in definitions:
            if not name.startswith("_"):
                for trigger in _triggers_in(name, definitions):
                    functions[trigger].append(name)
    return functions


def _triggers_in(name: str, definitions: dict[str, ast.FunctionDef]) -> set[VisitTrigger]:
    """Return the triggers that a function names, or a private function that it calls."""
    found: set[VisitTrigger] = set()
    for node in ast.walk(definitions[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == VisitTrigger.__name__:
                found.add(VisitTrigger[node.attr])
        elif isinstance(node, ast.Name) and node.id.startswith("_") and node.id in definitions:
            found |= _triggers_in(node.id, definitions)
    return found
