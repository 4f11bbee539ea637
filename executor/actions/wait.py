"""`wait`: lets time pass while nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from executor.actions.action import Call, not_supported
from executor.errors import ActionError
from planner.catalogue import ActionDeclaration, Kind, Parameter
from planner.durations import seconds_of

DECLARATION = ActionDeclaration(
    type="wait",
    description="Waits for a time. Nothing runs meanwhile, neither a thread nor an invocation.",
    parameters={
        "seconds": Parameter((Kind.DURATION,), "How long."),
        "until": Parameter((Kind.STRING,), "The end, as RFC 3339 writes it; UTC unless it says."),
    },
    one_of=("seconds", "until"),
    suspends=True,
)


def due(parameters: Mapping[str, Any], now: float) -> float:
    """When the wait is over, in seconds since the epoch.

    Raises:
        ActionError: `ParameterError`, when the parameter is no duration or time.
    """
    try:
        if "seconds" in parameters:
            return now + seconds_of(parameters["seconds"])
        until = datetime.fromisoformat(parameters["until"])
    except ValueError:
        name, value = next(iter(parameters.items()))
        what = "a duration" if name == "seconds" else "a time such as 2026-12-01T06:00:00Z"
        raise ActionError("ParameterError", f"`{name}` is {value!r}; it must be {what}", retryable=False) from None
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()


def perform(call: Call) -> NoReturn:
    """Never reached in a `run`, where the step pauses instead; other places are refused by the planner."""
    not_supported("wait")
