"""`callback`: waits for an outside system or a person."""

from __future__ import annotations

from typing import NoReturn

from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="callback",
    description="Waits until an outside system or a person answers. Its result is what was sent in.",
    parameters={
        "notify": Parameter(
            (Kind.ACTION,), "An action that asks; in it `callback.url` and `callback.token` are known.", secrets=True
        ),
    },
    suspends=True,
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("callback")
