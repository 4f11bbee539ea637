"""`callback`: wait for an answer of an external system or a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.executor.model.declared_values import expand_declarations
from noetl.executor.model.json_values import MAX_WRITTEN, is_longer_json
from noetl.executor.model.run import NEVER, Wait
from noetl.planner.catalogue import ActionDeclaration, Kind, OpenWait, Parameter
from noetl.planner.diagnostics.wording import quote_text
from noetl.planner.kinds import describe_kind_of
from noetl.planner.syntax.durations import parse_duration

MAX_TITLE = 64 * 1024
"""How many characters a title has at most."""

_TYPES = frozenset({"string", "integer", "number", "boolean", "object", "array"})

DECLARATION = ActionDeclaration(
    type="callback",
    description="Waits for an answer of an external system or a person. Its result is the answer.",
    parameters={
        "notify": Parameter(
            (Kind.ACTION,),
            "An action that asks for the answer. Its templates can use `callback.url` and `callback.token`.",
            secrets=True,
            deferred_names=("callback",),
            deferred_attributes=("url", "token"),
        ),
        "heartbeat": Parameter(
            (Kind.DURATION,), "The longest time between two heartbeats of the external system."
        ),
        "title": Parameter((Kind.STRING,), "One line that tells a person what to decide."),
        "details": Parameter((Kind.ANY,), "Data for the decision, shown to the person."),
        "answer": Parameter(
            (Kind.OBJECT,),
            "The fields of the answer, declared as the inputs of a playbook are. Another answer is refused.",
            must_be_literal=True,
            declares_fields=True,
        ),
    },
    result_for=lambda parameters: _fields_of_answer(parameters.get("answer")),
    suspends=True,
    awaits="an answer",
    question=lambda state: state.get("question"),
    open_wait=lambda state: OpenWait(
        state["wait"], state["asked_at"], state["expires_at"] if state["expires_at"] < NEVER else None
    ),
)


def _fields_of_answer(declared: Any) -> dict[str, Kind] | None:
    """Return the fields of the answer with their kinds, or None if it may be any value."""
    if not isinstance(declared, dict) or not declared:
        return None
    types = {
        name: entry.get("type") if isinstance(entry, dict) else entry for name, entry in declared.items()
    }
    return {
        name: Kind(type) if isinstance(type, str) and type in _TYPES else Kind.ANY
        for name, type in types.items()
    }


def perform(call: Call) -> Any:
    waits = call.external_waits
    assert waits is not None
    state = _open(call) if call.state is None else call.state
    wait = waits.read_wait(state["wait"])
    due_at = min(state["expires_at"], _next_heartbeat_due(state, wait))
    if wait.answered_at is None and due_at <= call.now:
        wait = waits.close_wait(state["wait"])
    if wait.answered_at is not None:
        return wait.answer
    if call.now < due_at:
        raise Suspend(state, due_at, state["wait"])
    if call.is_resumed:
        state = _open(call)
        new_wait = Wait(state["wait"])
        raise Suspend(state, min(state["expires_at"], _next_heartbeat_due(state, new_wait)), state["wait"])
    if state["expires_at"] <= call.now:
        raise ActionError("CallbackExpired", "no answer arrived in time")
    message = f"no heartbeat arrived for {state['heartbeat_seconds']:g} seconds"
    raise ActionError("CallbackExpired", message)


def _next_heartbeat_due(state: Mapping[str, Any], wait: Wait) -> float:
    """Return the time by which the next heartbeat must arrive."""
    if state["heartbeat_seconds"] is None:
        return NEVER
    return float(max(state["asked_at"], wait.last_heartbeat_at or 0.0) + state["heartbeat_seconds"])


def _check_question(question: Mapping[str, Any]) -> None:
    """Refuse a question that is too long to be stored, before `notify` asks it.

    Raises:
        ActionError: `ParameterError`.
    """
    if len(question.get("title") or "") > MAX_TITLE:
        message = f"`title` has more than {MAX_TITLE:,} characters"
    elif is_longer_json(question, MAX_WRITTEN):
        message = f"`details` is longer than {MAX_WRITTEN:,} bytes of JSON"
    else:
        return
    raise ActionError("ParameterError", message, retryable=False)


def _open(call: Call) -> dict[str, Any]:
    """Create the token, perform `notify`, and return the state to suspend with."""
    assert call.external_waits is not None
    assert call.perform_action is not None
    question = {name: call.parameters[name] for name in ("title", "details") if name in call.parameters}
    _check_question(question)
    heartbeat = call.parameters.get("heartbeat")
    try:
        seconds = None if heartbeat is None else parse_duration(heartbeat)
    except ValueError:
        shown = quote_text(heartbeat) if isinstance(heartbeat, str) else describe_kind_of(heartbeat)
        message = f"`heartbeat` must be a duration, not {shown}"
        raise ActionError("ParameterError", message, retryable=False) from None
    declared = call.parameters.get("answer")
    fields = None if declared is None else expand_declarations(declared)
    expires_at = NEVER if call.timeout_seconds is None else call.now + call.timeout_seconds
    address = call.external_waits.open_wait(call.wait_id, fields, expires_at)
    if (notify := call.parameters.get("notify")) is not None:
        try:
            call.perform_action(notify, {"callback": address})
        except ActionError as problem:
            if "url" not in address and problem.type == "UndefinedName" and "`url`" in problem.message:
                message = (
                    "`callback.url` is undefined: set NOETL_PUBLIC_URL to the public address of the service"
                )
                raise ActionError("ParameterError", message, retryable=False) from problem
            raise
    state = {
        "wait": call.wait_id,
        "asked_at": call.now,
        "expires_at": expires_at,
        "heartbeat_seconds": seconds,
    }
    if fields is not None:
        question["answer"] = fields
    return state | {"question": question} if question else state
