"""`workflow`: run another playbook as a child run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.executor.model.run import NEVER, Run, RunStatus
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, PlaybookCall


def _called_playbook(parameters: Mapping[str, Any]) -> PlaybookCall | None:
    name, *labels = (parameters.get(key) for key in ("playbook", "version", "alias"))
    if not isinstance(name, str):
        return None
    return PlaybookCall(name, *(label if isinstance(label, str) else None for label in labels))


DECLARATION = ActionDeclaration(
    type="workflow",
    description="Runs another playbook. Its result is the result of that run.",
    parameters={
        "playbook": Parameter((Kind.STRING,), "The name of the playbook.", required=True),
        "version": Parameter((Kind.STRING,), "The version of the playbook. Default: the live one."),
        "alias": Parameter((Kind.STRING,), "An alias of the playbook, which names a version."),
        "input": Parameter((Kind.OBJECT,), "The input of the run."),
        "detach": Parameter(
            (Kind.BOOLEAN,),
            "Whether to continue without waiting for the run. The result is its `workflow_id`.",
        ),
    },
    at_most_one=("version", "alias"),
    summary=lambda parameters: str(parameters.get("playbook", "")),
    suspends=True,
    awaits="another run",
    called_playbook=_called_playbook,
    child_run=lambda state: str(state["run"]),
    idempotent=False,
)


def perform(call: Call) -> Any:
    waits = call.external_waits
    assert waits is not None
    state = call.state
    if state is None:
        detached = call.parameters.get("detach", False)
        child = _start(call, detached=detached)
        if detached:
            return {"workflow_id": child.id}
        state = {"run": child.id, "wait": call.wait_id, "expires_at": _expires_at(call)}
    else:
        child = waits.read_run(state["run"])
    if child.status is RunStatus.SUCCEEDED:
        if child.errors:
            # Its result was deleted from the store.
            raise ActionError("PayloadLost", f"run {child.id}: {child.errors[0]['message']}", retryable=False)
        return child.result
    if call.is_resumed or state.get("again"):
        if child.ending is not None and not child.status.is_final:
            # The child is stopping. It is resumed as soon as its end answers the wait.
            raise Suspend({**state, "again": True}, wait_id=state["wait"])
        if child.status.is_final:
            waits.resume_run(child.id)
        state = {"run": child.id, "wait": state["wait"], "expires_at": _expires_at(call)}
    elif child.status.is_final:
        raise _workflow_failed(child)
    if state["expires_at"] <= call.now:
        waits.cancel_run(child.id)
        message = f"run {child.id} of `{child.playbook}` did not end in time, and was cancelled"
        raise ActionError("Timeout", message)
    raise Suspend(state, state["expires_at"], state["wait"])


def _expires_at(call: Call) -> float:
    return NEVER if call.timeout_seconds is None else call.now + call.timeout_seconds


def _start(call: Call, *, detached: bool) -> Run:
    assert call.external_waits is not None
    parameters = call.parameters
    return call.external_waits.start_run(
        call.wait_id,
        PlaybookCall(parameters["playbook"], parameters.get("version"), parameters.get("alias")),
        parameters.get("input", {}),
        detached=detached,
    )


def _workflow_failed(child: Run) -> ActionError:
    is_skipped = child.status is RunStatus.SKIPPED
    status = "was skipped" if is_skipped else child.status.value.replace("_", " ")
    reason = ""
    if child.error is not None:
        reason = f": {'' if is_skipped else child.error['type'] + ': '}{child.error['message']}"
    details = {
        "workflow_id": child.id,
        "status": child.status.value,
        "result": child.result,
        "error": child.error,
    }
    message = f"run {child.id} of `{child.playbook}` {status}{reason}"
    if is_skipped:
        return ActionError("RunSkipped", message, retryable=False, details=details)
    return ActionError("WorkflowFailed", message, details=details)
