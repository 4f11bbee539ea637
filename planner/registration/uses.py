"""Uses of other playbooks in a plan: calls of its actions, and runs that its triggers wait for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from noetl.planner.catalogue import PlaybookCall
from noetl.planner.plan import Plan, Trigger
from noetl.planner.registration.call_sites import CallSite, Catalogued, find_call_sites
from noetl.planner.registration.findings import PlanPlace
from noetl.planner.registration.fit import (
    Misfit,
    UsedVersion,
    find_input_misfits,
    find_result_misfits,
)
from noetl.planner.registration.result_reads import ResultRead, find_result_reads, find_trigger_reads
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.trigger_sources import RunEnd


class PlaybookUse(NamedTuple):
    """A place of a plan that names another playbook.

    Attributes:
        path: the path of the action or the trigger, which has the key `playbook`.
        call: the other playbook, and the version or the alias that is named.
        line: the line of the place.
        inputs: the given inputs; None if they are not known, or if no run is started.
        reads: what is read of the result.
    """

    path: DocumentPath
    call: PlaybookCall
    line: int
    inputs: Mapping[str, Any] | None
    reads: tuple[ResultRead, ...]

    @property
    def label(self) -> str:
        """The name of the playbook, with its version or alias if one is named."""
        return str(self.call)

    @property
    def is_by_trigger(self) -> bool:
        """True if a trigger uses the playbook, and no action."""
        return self.path[0] == "triggers"

    @property
    def place(self) -> PlanPlace:
        """The place of the name of the playbook."""
        return PlanPlace((*self.path, "playbook"))

    def find_misfits(self, version: UsedVersion) -> Iterator[Misfit]:
        """Yield the reasons why the use and a version of the other playbook do not fit.

        Raises:
            UnreadablePlanError: the plan of the version cannot be read.
        """
        if self.inputs is not None:
            yield from find_input_misfits(self.label, version, self.inputs, self.path)
        yield from find_result_misfits(self.label, version, self.reads)


class UsesOfPlan:
    """The uses of other playbooks in one plan."""

    def __init__(self, plan: Plan, action_types: Catalogued) -> None:
        self.plan = plan
        self._action_types = action_types

    @cached_property
    def sites(self) -> tuple[CallSite, ...]:
        """The actions that run playbooks."""
        return tuple(find_call_sites(self.plan, self._action_types))

    def find(self, name: str | None = None) -> Iterator[PlaybookUse]:
        """Yield the uses of all playbooks in the order of the text, or those of one."""
        for number, trigger in enumerate(self.plan.header.triggers):
            if isinstance(trigger.source, RunEnd) and name in (None, trigger.source.playbook):
                yield _use_of_trigger(trigger, trigger.source, number)
        sites = [site for site in self.sites if name in (None, site.call.name)]
        reads = find_result_reads(self.plan, sites, self._action_types)
        for site in sites:
            path, action = site.path, site.action
            yield PlaybookUse(path, site.call, action.line, site.given_inputs, tuple(reads[path]))


def _use_of_trigger(trigger: Trigger, source: RunEnd, number: int) -> PlaybookUse:
    reads = tuple(find_trigger_reads(trigger, number))
    return PlaybookUse(("triggers", number), PlaybookCall(source.playbook), trigger.line, None, reads)
