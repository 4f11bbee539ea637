"""The plans of the playbooks that a playbook calls, from the files in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from noetl.api.cli.drawings import CalledPlan
from noetl.api.cli.local.playbook_files import AmbiguousNameError, PlaybookFiles, list_playbook_files
from noetl.api.cli.sources import compile_source, read_source
from noetl.planner.catalogue import LIVE

if TYPE_CHECKING:
    from noetl.planner.catalogue import PlaybookCall
    from noetl.planner.plan import Plan

MAX_CALLED_PLANS = 20


def find_called_plans(file: str, plan: Plan) -> tuple[CalledPlan, ...]:
    """Return the plans that a plan and those plans call, at most MAX_CALLED_PLANS, in the order of the calls.

    `file` is the file of the plan. A plan that cannot be found or compiled is returned with the problem.
    """
    from noetl.executor.actions import catalogue
    from noetl.planner.draw.called_playbooks import find_calls

    folder = Path(file).parent
    files, names = list_playbook_files(folder), PlaybookFiles()

    def find(call: PlaybookCall) -> CalledPlan:
        if file == "-":
            return CalledPlan(call, problem="standard input has no folder in which to find it")
        if call.alias not in (None, LIVE):
            return CalledPlan(call, problem="files have no aliases; a service takes it from its registry")
        try:
            found = names.choose(files, call.name, call.version)
        except AmbiguousNameError as error:
            return CalledPlan(call, problem=f"{len(error.paths)} files in {folder} have this name")
        if found is None:
            return CalledPlan(call, problem=f"it is not in {folder}; a service takes it from its registry")
        compiled = compile_source(read_source(str(found.path))).plan
        return CalledPlan(call, compiled, "" if compiled else f"{found.path} does not compile")

    waiting = dict.fromkeys(find_calls(plan, catalogue()))
    plans: dict[PlaybookCall, CalledPlan] = {}
    while waiting and len(plans) < MAX_CALLED_PLANS:
        call = next(iter(waiting))
        del waiting[call]
        plans[call] = find(call)
        called = plans[call].plan
        for further in find_calls(called, catalogue()) if called is not None else ():
            if further not in plans:
                waiting[further] = None
    return tuple(plans.values())
