"""The plans of the playbooks that a playbook calls, from the files in its folder.

`noetl run` takes a called playbook from there, and only others from the registry of its store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from noetl.api.cli.display.console import CommandError
from noetl.api.cli.drawings import CalledPlan
from noetl.api.cli.local.playbook_files import (
    AmbiguousNameError,
    PlaybookFile,
    PlaybookFiles,
    list_playbook_files,
    may_contain,
)
from noetl.api.cli.sources import compile_source, read_source
from noetl.planner.catalogue import LIVE

if TYPE_CHECKING:
    from noetl.planner.catalogue import PlaybookCall
    from noetl.planner.plan import Plan
    from noetl.planner.registration.registry import AwaitingTrigger, RegisteredPlan

MAX_CALLED_PLANS = 20

MAX_LIMITED_FILES = 50
"""How many files with limits are compiled to find those that wait for each other."""

MAX_AWAITING_FILES = 50
"""How many files with a name in them are compiled to find the triggers that await it."""


class FolderPlaybooks:
    """The playbooks in a folder that others there use (implements `LinkedPlaybooks`).

    What is not there is not unknown, since a registry may have it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files, self._names = list_playbook_files(folder), PlaybookFiles()
        self._plans: dict[Path, Plan | None] = {}
        self._resolved: dict[PlaybookCall, CalledPlan] = {}

    def resolve(self, call: PlaybookCall) -> CalledPlan:
        """Return the plan of a call, or the problem why there is none."""
        if call not in self._resolved:
            self._resolved[call] = self._resolve(call)
        return self._resolved[call]

    def _resolve(self, call: PlaybookCall) -> CalledPlan:
        if call.alias not in (None, LIVE):
            return CalledPlan(call, problem="files have no aliases; a service takes it from its registry")
        try:
            found = self._names.choose(self._files, call.name, call.version)
        except AmbiguousNameError as error:
            problem = f"{len(error.paths)} files in {self._folder} have this name"
            return CalledPlan(call, problem=problem)
        if found is None:
            problem = f"it is not in {self._folder}; a service takes it from its registry"
            return CalledPlan(call, problem=problem)
        plan = self._compile(found.path)
        return CalledPlan(call, plan, "" if plan else f"{found.path} does not compile")

    def find(self, call: PlaybookCall) -> RegisteredPlan:
        from noetl.planner.registration.registry import RegisteredPlan, UnreadablePlanError

        try:
            called = self.resolve(call)
        except CommandError as problem:
            raise UnreadablePlanError(call.name) from problem
        if called.plan is None:
            raise UnreadablePlanError(call.name)
        return RegisteredPlan(called.plan.hash, called.plan.header, called.plan.header.version)

    def result_names(self, registered: RegisteredPlan) -> Collection[str]:
        from noetl.planner.registration.result_reads import find_result_names

        plan = self.plan(registered)
        return find_result_names(plan.header, plan.steps.values())

    def plan(self, registered: RegisteredPlan) -> Plan:
        plans = (plan for plan in self._plans.values() if plan is not None)
        return next(plan for plan in plans if plan.hash == registered.plan_hash)

    def live_versions(self) -> Iterator[RegisteredPlan]:
        """Yield the playbooks that may have limits, up to a bound."""
        from noetl.planner.catalogue import PlaybookCall
        from noetl.planner.registration.registry import UnreadablePlanError

        files = (file for file in self._files if may_contain(file, "concurrency"))
        for file in islice(files, MAX_LIMITED_FILES):
            with suppress(CommandError, UnreadablePlanError):
                plan = self._compile(file.path)
                if plan is not None and self.resolve(PlaybookCall(plan.header.name)).plan is plan:
                    yield self.find(PlaybookCall(plan.header.name))

    def awaiting(self, name: str) -> Iterator[AwaitingTrigger]:
        from noetl.planner.catalogue import PlaybookCall
        from noetl.planner.registration.registry import AwaitingTrigger
        from noetl.planner.trigger_sources import RunEnd

        for file in self._awaiting.get(name, ())[:MAX_AWAITING_FILES]:
            with suppress(CommandError):
                plan = self._compile(file.path)
                # Of several versions of a playbook, one is taken, as for a call.
                if plan is None or self.resolve(PlaybookCall(plan.header.name)).plan is not plan:
                    continue
                for trigger in plan.header.triggers:
                    if isinstance(trigger.source, RunEnd) and trigger.source.playbook == name:
                        yield AwaitingTrigger(plan.header.name, trigger)

    @cached_property
    def _awaiting(self) -> dict[str, list[PlaybookFile]]:
        return self._names.awaiting(self._files)

    def pause(self) -> None:
        """Return at once: the process does nothing else."""

    def names(self) -> Sequence[str]:
        return ()

    def versions(self, name: str) -> Sequence[str]:
        return ()

    def aliases(self, name: str) -> Sequence[str]:
        return ()

    def _compile(self, path: Path) -> Plan | None:
        if path not in self._plans:
            self._plans[path] = compile_source(read_source(str(path))).plan
        return self._plans[path]


def find_called_plans(file: str, plan: Plan) -> tuple[CalledPlan, ...]:
    """Return the plans that a plan and those plans call, at most MAX_CALLED_PLANS, in the order of the calls.

    `file` is the file of the plan. A plan that cannot be found or compiled is returned with the problem.
    """
    from noetl.executor.actions import catalogue
    from noetl.planner.draw.called_playbooks import find_calls

    playbooks = FolderPlaybooks(Path(file).parent)

    def find(call: PlaybookCall) -> CalledPlan:
        if file == "-":
            return CalledPlan(call, problem="standard input has no folder in which to find it")
        return playbooks.resolve(call)

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
