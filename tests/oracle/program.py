"""A playbook with the inputs of one run: sections 1 and 4 of the language reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.oracle.expressions import render
from tests.oracle.flow_graph import FlowGraph


class NotCoveredError(Exception):
    """A part of the language that the interpreter leaves out."""


class InputError(Exception):
    """Inputs that do not fit their declarations (section 1)."""


TYPES: dict[str, Callable[[Any], bool]] = {
    "any": lambda _: True,
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
}


def check_inputs(declared: Mapping[str, Any] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a run with their defaults (section 1)."""
    if declared is None:  # inferred inputs
        return dict(given)
    if unknown := set(given) - set(declared):
        raise InputError(f"unknown inputs: {sorted(unknown)}")
    inputs = {}
    for name, short in declared.items():
        declaration = {"type": short} if isinstance(short, str) else short or {}
        if name not in given and "default" not in declaration:
            raise InputError(f"missing input: {name}")
        value = inputs[name] = given.get(name, declaration.get("default"))
        is_allowed = TYPES[declaration.get("type", "any")](value) and value in declaration.get(
            "enum", [value]
        )
        if name in given and not is_allowed:
            raise InputError(f"input of another type or not in its enum: {name}")
    return inputs


class RunProgram:
    """The playbook of a run: its graph, and the names that have a value from the start."""

    def __init__(
        self, playbooks: Mapping[str, Mapping[str, Any]], name: str, inputs: Mapping[str, Any]
    ) -> None:
        self.playbooks = playbooks
        self.playbook = playbook = playbooks[name]
        self.graph = FlowGraph(playbook)
        self.run = {
            "id": "run",
            "started_at": "2026-01-01T00:00:00Z",
            "playbook": playbook["name"],
            "version": playbook.get("version"),
        }
        given = check_inputs(playbook.get("input"), inputs)
        names = {**given, "input": given, "run": self.run}
        environment = render(playbook.get("environment") or {}, names)
        variables = render(
            playbook.get("variables") or {}, {**environment, **names, "environment": environment}
        )
        # Section 4: a saved name (not yet), else a variable, else an input, else an entry of `environment`.
        self.first_names = {**environment, **given, **variables, "input": given, "environment": environment}
        self.is_sequential = playbook.get("mode") == "sequential"

    def names(self, saved: Mapping[str, Any], records: Mapping[str, Any], **local: Any) -> dict[str, Any]:
        """Return all that a template can read, given the saved names and the records of visited steps."""
        steps = {step: {"status": "pending", "visits": 0} for step in self.graph.steps} | dict(records)
        return {**self.first_names, **saved, "steps": steps, "run": self.run, "error": None, **local}

    def policy(self, step: str) -> str:
        """Return what an unhandled failure of a step does: `abort` or `continue` (section 7)."""
        policy: str = self.graph.steps[step].get("on_error") or self.playbook.get("on_error", "abort")
        return policy

    def retry(self, step: str) -> Mapping[str, Any]:
        """Return the `retry` of a step, which may be that of the playbook (section 7)."""
        retry = self.graph.steps[step].get("retry", self.playbook.get("retry", 1))
        return retry if isinstance(retry, Mapping) else {"attempts": retry}
