"""`callback`: waits for an outside system or a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.executor.model.run import NEVER, Wait
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter
from noetl.planner.syntax.durations import parse_duration

DECLARATION = ActionDeclaration(
    type="callback",
    description="Waits until an outside system or a person answers. Its result is what was sent in.",
    parameters={
        "notify": Parameter(
            (Kind.ACTION,),
            "An action that asks; in it `callback.url` and `callback.token` are known.",
            secrets=True,
            late=("callback",),
        ),
        "heartbeat": Parameter(
            (Kind.DURATION,), "How long the other side may be silent: it says that it is at work."
        ),
    },
    suspends=True,
)


def perform(call: Call) -> Any:
    assert call.outside is not None
    memory = _ask(call) if call.memory is None else call.memory
    wait = call.outside.wait(memory["wait"])
    silent_at = _silent_at(memory, wait)
    if wait.answered_at is None and min(memory["expires_at"], silent_at) <= call.now:
        wait = call.outside.close(memory["wait"])
    if wait.answered_at is not None:
        return wait.answer
    if call.now < min(memory["expires_at"], silent_at):
        raise Suspend(memory, min(memory["expires_at"], silent_at), memory["wait"])
    if call.again:
        memory = _ask(call)
        raise Suspend(
            memory, min(memory["expires_at"], _silent_at(memory, Wait(memory["wait"]))), memory["wait"]
        )
    if memory["expires_at"] <= call.now:
        raise ActionError("CallbackExpired", "nobody answered in time")
    silence = f"nothing was heard from the other side for {memory['heartbeat_seconds']:g} seconds"
    raise ActionError("CallbackExpired", silence)


def _silent_at(memory: Mapping[str, Any], wait: Wait) -> float:
    """When the other side has been silent for too long."""
    if memory["heartbeat_seconds"] is None:
        return NEVER
    return float(max(memory["asked_at"], wait.heard_at or 0.0) + memory["heartbeat_seconds"])


def _ask(call: Call) -> dict[str, Any]:
    assert call.outside is not None
    assert call.act is not None
    heartbeat = call.parameters.get("heartbeat")
    try:
        seconds = None if heartbeat is None else parse_duration(heartbeat)
    except ValueError:
        message = f"`heartbeat` is {heartbeat!r}; it must be a duration"
        raise ActionError("ParameterError", message, retryable=False) from None
    address = call.outside.open(call.wait)
    if (notify := call.parameters.get("notify")) is not None:
        try:
            call.act(notify, {"callback": address})
        except ActionError as problem:
            if "url" not in address and problem.type == "UndefinedName" and "`url`" in problem.message:
                message = "`callback.url` is not known here: NOETL_PUBLIC_URL says how callbacks are reached"
                raise ActionError("ParameterError", message, retryable=False) from problem
            raise
    expires_at = NEVER if call.timeout_seconds is None else call.now + call.timeout_seconds
    return {"wait": call.wait, "asked_at": call.now, "expires_at": expires_at, "heartbeat_seconds": seconds}
