"""`set`: gives names to values."""

from __future__ import annotations

from typing import Any

from noetl.executor.actions.action import Call
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="set",
    description="Gives names to values, which do not see each other.",
    parameters={
        "set": Parameter((Kind.OBJECT,), "The names and their values.", required=True, written_out=True)
    },
    result_of=lambda parameters: (
        dict.fromkeys(parameters["set"], Kind.ANY) if isinstance(parameters.get("set"), dict) else None
    ),
)


def perform(call: Call) -> Any:
    return dict(call.parameters["set"])
