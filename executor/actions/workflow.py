"""`workflow`: runs another playbook."""

from __future__ import annotations

from typing import NoReturn

from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="workflow",
    description="Runs another playbook of the registry. Its result is that run's.",
    parameters={
        "playbook": Parameter((Kind.STRING,), "The name of the playbook.", required=True),
        "version": Parameter((Kind.STRING,), "Which version: the latest unless given."),
        "input": Parameter((Kind.OBJECT,), "The input of that run."),
        "detach": Parameter((Kind.BOOLEAN,), "Whether to go on without waiting for its end."),
    },
    suspends=True,
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("workflow")
