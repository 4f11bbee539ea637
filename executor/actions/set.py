"""`set`: assign values to names."""

from __future__ import annotations

from typing import Any

from noetl.executor.actions.action import Call
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="set",
    description="Assigns values to names. The values cannot read each other.",
    parameters={
        "set": Parameter((Kind.OBJECT,), "The names and their values.", required=True, must_be_literal=True)
    },
    result_for=lambda parameters: (
        dict.fromkeys(parameters["set"], Kind.ANY) if isinstance(parameters.get("set"), dict) else None
    ),
    summary=lambda parameters: (
        ", ".join(parameters["set"]) if isinstance(parameters.get("set"), dict) else ""
    ),
    saves="set",
    saves_given_values=True,
    reads_only=True,
    cannot_fail=True,
)


def perform(call: Call) -> Any:
    return dict(call.parameters["set"])
