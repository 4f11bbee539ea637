"""`wait`: lets time pass while nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.syntax.durations import parse_duration


def _is_no_time(until: str) -> str | None:
    try:
        datetime.fromisoformat(until)
    except ValueError:
        return "write a time such as `2026-12-01T06:00:00Z`"
    return None


DECLARATION = ActionDeclaration(
    type="wait",
    description="Waits for a time. Nothing runs meanwhile, neither a thread nor an invocation.",
    parameters={
        "seconds": Parameter((Kind.DURATION,), "How long."),
        "until": Parameter(
            (Kind.STRING,), "The end, as RFC 3339 writes it; UTC unless it says.", refuses=_is_no_time
        ),
    },
    one_of=("seconds", "until"),
    suspends=True,
)


def due(parameters: Mapping[str, Any], now: float) -> float:
    """When the wait is over, in seconds since the epoch.

    Raises:
        ActionError: `ParameterError`, when the parameter is no duration.
    """
    if "seconds" in parameters:
        try:
            return now + parse_duration(parameters["seconds"])
        except ValueError as error:
            raise ActionError("ParameterError", f"`seconds`: {error}", retryable=False) from None
    until = datetime.fromisoformat(parameters["until"])
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()


def perform(call: Call) -> None:
    due_at = due(call.parameters, call.now) if call.memory is None else call.memory["due_at"]
    if call.memory is None and call.timeout_seconds is not None and due_at > call.now + call.timeout_seconds:
        raise ActionError(
            "Timeout", f"the wait would take more than {call.timeout_seconds:g} seconds, its `timeout`"
        )
    if due_at > call.now:
        raise Suspend({"due_at": due_at}, due_at)
