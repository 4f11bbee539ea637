"""CPU work of the routes that correct runs: other processes compile, judge, and evaluate expressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from fastapi import Request

from noetl.api.compute.jobs import SwitchJob, pack_plan
from noetl.api.routes.dependencies import (
    compile_elsewhere,
    evaluated_elsewhere,
    opened_services,
    perform_on_thread,
    waiting_elsewhere,
)
from noetl.api.service.compiler import InlinePlaybook
from noetl.api.service.services import TenantServices
from noetl.api.service.switches import PlaybookChange
from noetl.planner.plan import Plan

if TYPE_CHECKING:
    from noetl.executor.engine.switching import Judge
    from noetl.planner.continuation.switch_state import Switch, SwitchState
    from noetl.planner.continuation.verdict import SwitchVerdict

T = TypeVar("T")


async def compile_change(
    request: Request, services: TenantServices, change: PlaybookChange
) -> PlaybookChange:
    """Return a change with the plan of its text, which another process compiles.

    The verdict needs another process too, so also a short text is compiled there.

    Raises:
        PlaybookError: the playbook does not compile.
    """
    if not isinstance(change.playbook, InlinePlaybook):
        return change
    return replace(change, playbook=await compile_elsewhere(request, services, change.playbook.text))


def judge_elsewhere(request: Request, services: TenantServices) -> Judge:
    """Return a judge for a worker thread of a request. It waits for the verdict of another process."""

    def judge(old: Plan, new: Plan, state: SwitchState, switch: Switch) -> SwitchVerdict:
        job = SwitchJob((pack_plan(old), pack_plan(new)), state, switch)
        verdict: SwitchVerdict = perform_on_thread(request, services, job)
        return verdict

    return judge


async def switch_on_thread(request: Request, services: TenantServices, function: Callable[[], T]) -> T:
    """Return function(), which switches runs and may wait for their running steps.

    Other processes evaluate its expressions. Other tenants have threads of their own, and the request gives
    up its place among those of its tenant.

    Raises:
        ServiceBusyError, TenantBusyError: too many requests switch runs.
    """
    async with waiting_elsewhere(request):
        call = evaluated_elsewhere(request, services, function)
        return await opened_services(request).compute.switch(call, services.tenant)
