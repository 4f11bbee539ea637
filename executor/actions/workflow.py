"""`workflow`: runs another playbook."""

from __future__ import annotations

from typing import Any

from noetl.executor.actions.action import Call, Suspend
from noetl.executor.errors import ActionError
from noetl.executor.model.run import NEVER, Run, RunStatus
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter

DECLARATION = ActionDeclaration(
    type="workflow",
    description="Runs another playbook. Its result is that run's.",
    parameters={
        "playbook": Parameter((Kind.STRING,), "The name of the playbook.", required=True),
        "version": Parameter((Kind.STRING,), "Which version: the newest unless given."),
        "input": Parameter((Kind.OBJECT,), "The input of that run."),
        "detach": Parameter(
            (Kind.BOOLEAN,),
            "Whether to go on without waiting for its end; the result is its `workflow_id` then.",
        ),
    },
    suspends=True,
    idempotent=False,
)


def perform(call: Call) -> Any:
    assert call.outside is not None
    memory = call.memory
    if memory is None:
        detached = call.parameters.get("detach", False)
        child = _start(call, detached=detached)
        if detached:
            return {"workflow_id": child.id}
        memory = {"run": child.id, "wait": call.wait, "expires_at": _expires_at(call)}
    else:
        child = call.outside.run(memory["run"])
    if child.status is RunStatus.SUCCEEDED:
        return child.result
    if call.again or memory.get("again"):
        if child.stop is not None and not child.status.is_final:
            raise Suspend({**memory, "again": True}, awaits=memory["wait"])
        if child.status.is_final:
            call.outside.resume(child.id)
        memory = {"run": child.id, "wait": memory["wait"], "expires_at": _expires_at(call)}
    elif child.status.is_final:
        raise _failed(child)
    if memory["expires_at"] <= call.now:
        call.outside.cancel(child.id)
        raise ActionError(
            "Timeout", f"run {child.id} of `{child.playbook}` did not end in time, and was cancelled"
        )
    raise Suspend(memory, memory["expires_at"], memory["wait"])


def _expires_at(call: Call) -> float:
    return NEVER if call.timeout_seconds is None else call.now + call.timeout_seconds


def _start(call: Call, *, detached: bool) -> Run:
    assert call.outside is not None
    given = call.parameters
    return call.outside.start(
        call.wait, given["playbook"], given.get("version"), given.get("input", {}), detached=detached
    )


def _failed(child: Run) -> ActionError:
    status = child.status.value.replace("_", " ")
    why = f": {child.error['type']}: {child.error['message']}" if child.error is not None else ""
    details = {
        "workflow_id": child.id,
        "status": child.status.value,
        "result": child.result,
        "error": child.error,
    }
    return ActionError(
        "WorkflowFailed", f"run {child.id} of `{child.playbook}` {status}{why}", details=details
    )
