"""`wait`: lets time pass while nothing runs."""

from __future__ import annotations

from typing import NoReturn

from executor.actions.action import Call, not_supported
from planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="wait",
    description="Waits for a time. Nothing runs meanwhile.",
    parameters={
        "seconds": Parameter((Kind.DURATION,), "How long."),
        "until": Parameter((Kind.STRING,), "The end, as RFC 3339 writes it."),
    },
    one_of=("seconds", "until"),
    suspends=True,
    supported=False,
)


def perform(call: Call) -> NoReturn:
    not_supported("wait")
