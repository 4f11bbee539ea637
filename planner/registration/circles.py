"""Circles of playbooks: recursion without end (NP819), and `run` triggers that start each other (NP816).

Problem: a run leads to a run of another playbook, if it calls it, or if a trigger waits for its end. A circle
of such playbooks never comes to rest.

Algorithm: the playbooks that are reached from the new one are the nodes of a graph. For recursion, the
strongly connected component of the new playbook is taken (Tarjan 1972). Those whose runs can end without a
call of a member are removed until none is left to remove, which is the greatest fixed point. For triggers, a
breadth-first search looks for the shortest circle with a trigger in it.

Cost: one read for each playbook that is reached, and for those with calls their plans.

Limits: MAX_PLAYBOOKS playbooks and MAX_STEPS steps are read, and MAX_EXAMINED steps and actions are examined.
Behind them nothing is found, nor behind a plan that cannot be read. Only calls without a condition count, and
only triggers without one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from noetl.planner.catalogue import LIVE, PlaybookCall
from noetl.planner.diagnostics.wording import abbreviate, as_code
from noetl.planner.plan import Action, Plan, Trigger
from noetl.planner.registration.call_sites import (
    CallSite,
    Catalogued,
    called_playbook,
    find_call_sites,
    may_call,
)
from noetl.planner.registration.certain_calls import always_calls, is_unconditional
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings
from noetl.planner.registration.registry import (
    AliasedVersion,
    LinkedPlaybooks,
    RegisteredPlan,
    UnreadablePlanError,
)
from noetl.planner.trigger_sources import RunEnd

if TYPE_CHECKING:
    PlaybookGraph = nx.DiGraph[str]

MAX_PLAYBOOKS = 100
"""How many playbooks a search for circles reads."""

MAX_STEPS = 20_000
"""How many steps the plans that it reads have together, after the first one."""

MAX_EXAMINED = 500_000
"""How many steps and actions are examined, each time that they are. It takes some seconds."""

MAX_SHOWN_NAMES = 10
"""How many names of a circle are shown."""


def check_circles(findings: RegistrationFindings, search: PlaybookSearch) -> None:
    """Report recursion without end, and triggers that start each other, if the new plan is part of it.

    Only triggers of the live version fire.
    """
    sites = [*search.sites_of(search.new_version)]
    calls = [site for site in sites if is_unconditional(site.action)]
    if calls:
        _report_recursion(findings, search, calls)
    if not search.is_live:
        return
    if calls or any(isinstance(trigger.source, RunEnd) for trigger in findings.plan.header.triggers):
        _report_trigger_circle(findings, search, calls)


class _Link(NamedTuple):
    """A step of a circle: the playbook that a run leads to, and whether a trigger starts it."""

    playbook: str
    by_trigger: bool


class PlaybookSearch:
    """The playbooks that are reached from a new plan, by their hashes. `aliases` name the new version."""

    def __init__(
        self,
        plan: Plan,
        registered: LinkedPlaybooks,
        action_types: Catalogued,
        aliases: Collection[str],
    ) -> None:
        self.new_version = RegisteredPlan(plan.hash, plan.header, plan.header.version)
        self._new = AliasedVersion(self.new_version, aliases)
        self.is_live = LIVE in aliases
        self._registered = registered
        self._action_types = action_types
        self._plans: dict[str, Plan | None] = {plan.hash: plan}
        self._found: dict[PlaybookCall, RegisteredPlan | None] = {}
        self._steps_left = MAX_STEPS
        self._examined_left = MAX_EXAMINED
        self.labels: dict[str, str] = {plan.hash: abbreviate(plan.header.name)}

    def find(self, call: PlaybookCall) -> RegisteredPlan | None:
        """Return the playbook of a call, or None if there is none, or too many were read."""
        if self._new.is_called(call):
            return self.new_version
        if call not in self._found:
            if len(self._found) >= MAX_PLAYBOOKS:
                return None
            self._found[call] = found = self._find(call)
            if found is not None:
                self.labels.setdefault(found.plan_hash, abbreviate(str(call)))
        return self._found[call]

    def _find(self, call: PlaybookCall) -> RegisteredPlan | None:
        with suppress(UnreadablePlanError):
            return self._registered.find(call)
        return None

    def plan(self, registered: RegisteredPlan) -> Plan | None:
        """Return the plan of a playbook that may call others, unless too many steps were read."""
        if registered.plan_hash not in self._plans:
            self._plans[registered.plan_hash] = self._read(registered)
        return self._plans[registered.plan_hash]

    def _read(self, registered: RegisteredPlan) -> Plan | None:
        statistics = registered.header.statistics
        if not may_call(statistics, self._action_types):
            return None
        self._steps_left -= statistics.get("steps", 0)
        if self._steps_left >= 0:
            with suppress(UnreadablePlanError):
                return self._registered.plan(registered)
        return None

    def _examines(self, plan: Plan) -> bool:
        """Return whether a plan may still be examined, which is counted."""
        self._registered.pause()
        statistics = plan.header.statistics
        self._examined_left -= len(plan.steps) + sum(statistics.get("actions", {}).values())
        return self._examined_left >= 0

    def sites_of(self, registered: RegisteredPlan) -> Iterator[CallSite]:
        """Yield the actions of a playbook that run others, unless too many steps were read."""
        plan = self.plan(registered)
        return iter(()) if plan is None else find_call_sites(plan, self._action_types)

    def called(self, action: Action) -> RegisteredPlan | None:
        """Return the playbook that an action runs without a condition."""
        called = called_playbook(action, self._action_types) if is_unconditional(action) else None
        return None if called is None else self.find(called)

    @cached_property
    def calls(self) -> PlaybookGraph:
        """The calls without a condition among the playbooks that are reached by such calls."""
        graph: PlaybookGraph = nx.DiGraph()
        graph.add_node(self.new_version.plan_hash)
        new = [self.new_version]
        while new:
            caller = new.pop()
            for site in self.sites_of(caller):
                called = self.called(site.action)
                if called is not None:
                    if called.plan_hash not in graph:
                        new.append(called)
                    graph.add_edge(caller.plan_hash, called.plan_hash)
        return graph

    def find_endless(self) -> set[str]:
        """Return the playbooks of the circles around the new one that cannot end without another call."""
        components = nx.strongly_connected_components(self.calls)
        endless: set[str] = next(part for part in components if self.new_version.plan_hash in part)
        while True:
            ending = {name for name in endless if not self._always_leads_to(name, endless)}
            if not ending:
                return endless
            endless = endless - ending

    def _always_leads_to(self, plan_hash: str, wanted: set[str]) -> bool:
        plan = self._plans.get(plan_hash)

        def is_wanted(action: Action) -> bool:
            called = self.called(action)
            return called is not None and called.plan_hash in wanted

        return plan is not None and self._examines(plan) and always_calls(plan, is_wanted)

    def links_of(self, name: str) -> Iterator[_Link]:
        """Yield the playbooks that the end of a run of a playbook leads to, or each of its runs."""
        own_name = self.new_version.header.name
        for trigger in self.new_version.header.triggers:
            if _is_awaited_by(trigger, name):
                yield _Link(own_name, by_trigger=True)
        for awaiting in self._registered.awaiting(name):
            if awaiting.playbook != own_name and _is_awaited_by(awaiting.trigger, name):
                yield _Link(awaiting.playbook, by_trigger=True)
        found = self.find(PlaybookCall(name))
        plan = None if found is None else self.plan(found)
        if plan is None:
            return
        sites = find_call_sites(plan, self._action_types)
        called = dict.fromkeys(site.call.name for site in sites if is_unconditional(site.action))
        for playbook in islice(called, MAX_PLAYBOOKS):
            if self._examines(plan) and always_calls(plan, partial(self._names, name=playbook)):
                yield _Link(playbook, by_trigger=False)

    def _names(self, action: Action, name: str) -> bool:
        """Return whether an action runs a version of a playbook."""
        called = called_playbook(action, self._action_types)
        return called is not None and called.name == name

    def find_trigger_circle(self) -> list[_Link]:
        """Return the shortest circle from the new playbook to itself with a trigger in it, or no links."""
        own_name = self.new_version.header.name
        before: dict[tuple[str, bool], tuple[tuple[str, bool], _Link]] = {}
        new = deque([(own_name, False)])
        while new and len(before) < 2 * MAX_PLAYBOOKS:
            place = new.popleft()
            for link in self.links_of(place[0]):
                reached = (link.playbook, place[1] or link.by_trigger)
                if reached in before:
                    continue
                before[reached] = place, link
                if reached == (own_name, True):
                    return _trace_back(before, reached, (own_name, False))
                new.append(reached)
        return []


def _trace_back(
    before: Mapping[tuple[str, bool], tuple[tuple[str, bool], _Link]],
    end: tuple[str, bool],
    start: tuple[str, bool],
) -> list[_Link]:
    """Return the links from `start` to `end`."""
    links: list[_Link] = []
    while not links or end != start:
        end, link = before[end]
        links.append(link)
    return links[::-1]


def _is_awaited_by(trigger: Trigger, name: str) -> bool:
    """Return whether a trigger fires at ends of runs of a playbook, whatever their results."""
    is_awaited = isinstance(trigger.source, RunEnd) and trigger.source.playbook == name
    return is_awaited and trigger.condition is None


def _report_recursion(
    findings: RegistrationFindings, search: PlaybookSearch, calls: Sequence[CallSite]
) -> None:
    endless, own_hash = search.find_endless(), search.new_version.plan_hash
    for site in calls:
        called = search.called(site.action)
        if called is None or called.plan_hash not in endless or own_hash not in endless:
            continue
        path = nx.shortest_path(search.calls.subgraph(endless), called.plan_hash, own_hash)
        _report_endless(findings, site, [search.labels[plan_hash] for plan_hash in (own_hash, *path)])
        return


def _report_endless(findings: RegistrationFindings, site: CallSite, labels: Sequence[str]) -> None:
    """Report a call of a circle of playbooks with these labels."""
    circle = _show_circle(labels)
    message = f"recursion without end: every path of the playbook leads to another run of it ({circle})"
    hint = "add an `if` to a call, or a case that ends without one"
    findings.report("NP819", message, PlanPlace((*site.path, "playbook")), hint)


def check_own_recursion(
    findings: RegistrationFindings, action_types: Catalogued, aliases: Collection[str]
) -> None:
    """Report recursion without end of a new plan that calls itself. No other playbook is read.

    `aliases` name the new version.
    """
    plan = findings.plan
    if not may_call(plan.header.statistics, action_types):
        return
    new = AliasedVersion(RegisteredPlan(plan.hash, plan.header, plan.header.version), aliases)

    def is_own(action: Action) -> bool:
        called = called_playbook(action, action_types) if is_unconditional(action) else None
        return called is not None and new.is_called(called)

    calls = (site for site in find_call_sites(plan, action_types) if is_own(site.action))
    call = next(calls, None)
    if call is not None and always_calls(plan, is_own):
        name = abbreviate(plan.header.name)
        _report_endless(findings, call, [name, name])


def _report_trigger_circle(
    findings: RegistrationFindings, search: PlaybookSearch, calls: Sequence[CallSite]
) -> None:
    circle = search.find_trigger_circle()
    own_header = search.new_version.header
    if not circle:
        return
    names = [own_header.name, *(link.playbook for link in circle)]
    message = f"`run` triggers in a circle: {_show_circle(map(abbreviate, names))}"
    hint = "remove a trigger, or add an `if` to it that ends the circle"
    for number, trigger in enumerate(own_header.triggers):
        if circle[-1].by_trigger and _is_awaited_by(trigger, names[-2]):
            findings.report("NP816", message, PlanPlace(("triggers", number, "playbook")), hint)
            return
    for site in calls:
        if not circle[0].by_trigger and site.call.name == circle[0].playbook:
            findings.report("NP816", message, PlanPlace((*site.path, "playbook")), hint)
            return


def _show_circle(names: Iterable[str]) -> str:
    """Return the names of a circle, of a long one its beginning and its end."""
    shown = [*as_code(names)]
    if len(shown) > MAX_SHOWN_NAMES:
        shown = [*shown[: MAX_SHOWN_NAMES // 2], "…", *shown[-MAX_SHOWN_NAMES // 2 :]]
    return " → ".join(shown)
