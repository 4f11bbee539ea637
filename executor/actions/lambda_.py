"""`lambda`: invokes a function of AWS Lambda."""

from __future__ import annotations

from typing import NoReturn

from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="lambda",
    description="Invokes a function of AWS Lambda. Its result is the response.",
    parameters={
        "function": Parameter((Kind.STRING,), "The name or ARN of the function.", required=True),
        "payload": Parameter((Kind.ANY,), "What the function is given.", secrets=True),
    },
    idempotent=False,
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("lambda")
