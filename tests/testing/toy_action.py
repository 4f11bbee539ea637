"""An action type as a package would add it. Everything that NoETL knows of it is in this file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink


def _result_of(parameters: Mapping[str, Any]) -> Mapping[str, Kind] | None:
    """Return the keys of a result. The parameters are as written, so they may be invalid."""
    greetings = parameters.get("greetings")
    return dict.fromkeys(greetings, Kind.STRING) if isinstance(greetings, dict) else None


DECLARATION = ActionDeclaration(
    type="greet",
    description="Greets people, and keeps the greetings.",
    parameters={
        "greetings": Parameter(
            (Kind.OBJECT,), "The names to save, each with a person.", required=True, must_be_literal=True
        ),
        "door": Parameter((Kind.STRING,), "The address of the door.", sink=Sink.URL),
        "key": Parameter((Kind.STRING,), "The key of the door.", secrets=True),
    },
    result_for=_result_of,
    summary=lambda parameters: f"{len(_result_of(parameters) or ())} people",
    saves="greetings",
    cannot_fail=True,
)


def perform(call: Call) -> Any:
    return {name: f"Hello {person}" for name, person in call.parameters["greetings"].items()}
