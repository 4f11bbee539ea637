"""`wait`: wait for a time without a thread or an invocation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.syntax.durations import parse_duration

_MAX_LENGTH = 64
"""How many characters a time has at most."""


def _check_time(until: str) -> str | None:
    try:
        if len(until) <= _MAX_LENGTH:  # The error shows the whole text.
            datetime.fromisoformat(until)
            return None
    except ValueError:
        pass
    return "write a time such as `2026-12-01T06:00:00Z`"


DECLARATION = ActionDeclaration(
    type="wait",
    description="Waits for a time. It uses neither a thread nor an invocation meanwhile.",
    parameters={
        "seconds": Parameter((Kind.DURATION,), "How long to wait."),
        "until": Parameter(
            (Kind.STRING,),
            "The end of the wait in RFC 3339. Default time zone: UTC.",
            rejection_reason=_check_time,
        ),
    },
    one_of=("seconds", "until"),
    suspends=True,
    awaits="",
)


def compute_end(parameters: Mapping[str, Any], now: float) -> float:
    """Return the end of the wait in seconds since the epoch.

    >>> compute_end({"until": "1970-01-01T00:01:00"}, now=0.0)
    60.0

    Raises:
        ActionError: `ParameterError`, if `seconds` is not a duration.
    """
    if "seconds" in parameters:
        try:
            return now + parse_duration(parameters["seconds"])
        except ValueError as error:
            raise ActionError("ParameterError", f"`seconds`: {error}", retryable=False) from None
    until = datetime.fromisoformat(parameters["until"])
    return (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp()


def perform(call: Call) -> None:
    due_at = compute_end(call.parameters, call.now) if call.state is None else call.state["due_at"]
    timeout = call.timeout_seconds
    if call.state is None and timeout is not None and due_at > call.now + timeout:
        raise ActionError("Timeout", f"the wait exceeds its `timeout` of {timeout:g} seconds")
    if due_at > call.now:
        raise Suspend({"due_at": due_at}, due_at)
