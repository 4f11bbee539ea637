"""Limits of runs that wait for each other (NP833).

Problem: a run keeps its slots until it has ended, also while it waits for a run that it has started. If that
run needs a slot of the same limit, both may wait forever.

Algorithm: a resource-allocation graph (Holt 1972). A limit leads to the playbooks whose runs hold a slot of
it, and to the next limit of the same playbook. A playbook leads to those that it calls and waits for. The
start of a run leads to the limits of its playbook. Deadlock is possible only in a strongly connected
component with a limit in it (Tarjan 1972). Only one with the new playbook is reported.

A circle through limits that all tenants share may have a part in each tenant, which sees its own part only.
So these limits have an order, that of their names (Havender 1968). A circle must have a part from a limit to
an earlier one, and each such part is reported.

Cost: nothing if neither the new playbook nor those that it reaches have limits. Else one read for each
playbook that is reached. If they use limits of the operator, one for each registered playbook.

Limits: those of `PlaybookSearch`. All keys of a limit count as one. If all limits of a circle have keys, the
keys may differ in each of its runs, so the caller decides how severe that is. A playbook may wait for all
that it calls, whatever the conditions. Playbooks whose names come from templates are not known. A limit that
becomes shared after the registration is not checked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

import networkx as nx

from noetl.planner.diagnostics.codes import Severity
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.plan import Header
from noetl.planner.registration.circles import PlaybookSearch
from noetl.planner.registration.findings import PlanPlace, RegistrationFindings, key_of
from noetl.planner.registration.registry import KnownLimit, LinkedPlaybooks, RegisteredPlan

_HINT = "remove a limit of runs, limit a step instead, or write `detach: true` at a call"
_KEYED_HINT = f"{_HINT}, or force the registration if the keys of these runs differ"
_ORDER_HINT = "limit a step instead, write `detach: true` at a call, or rename the limits in this order"


class _Node(NamedTuple):
    """A limit, the start of a run, or a run that holds its slots. `name` is a limit or the hash of a plan."""

    kind: str
    name: str


if TYPE_CHECKING:
    WaitGraph = nx.DiGraph[_Node]


def check_run_waits(
    findings: RegistrationFindings,
    search: PlaybookSearch,
    playbooks: LinkedPlaybooks,
    read_limits: Callable[[], Mapping[str, KnownLimit]] = dict,
    keyed_severity: Severity = Severity.ERROR,
) -> None:
    """Report that runs of the new playbook may be part of a deadlock.

    `search` reads the other `playbooks`. `read_limits` returns the limits of operators, by their names. A
    circle whose limits all have keys is reported as `keyed_severity`.
    """
    waits = _WaitSearch(search, playbooks, read_limits)
    waits.add_reached(search.new_version)
    if not waits.limits:
        return
    waits.add_other_holders()
    circle = waits.find_circle()
    if circle:
        message = f"runs may wait for each other forever: {waits.describe(circle)}"
        is_keyed = waits.is_keyed(circle)
        severity, hint = (keyed_severity, _KEYED_HINT) if is_keyed else (Severity.ERROR, _HINT)
        findings.report("NP833", message, waits.find_place(circle), hint, severity)
        return
    path = waits.find_disorder()
    if path:
        message = (
            "runs of several tenants may wait for each other forever: limits of all tenants must be taken in"
            f" the order of their names, not {waits.describe(path)}"
        )
        findings.report("NP833", message, waits.find_place(path), _ORDER_HINT)


def limits_of(header: Header) -> list[str]:
    """Return the limits of the runs of a playbook, in the order in which a run takes their slots.

    An operator's limit begins with `use:`, an own one with `own:`. Nothing waits for a limit that skips.
    """
    awaited = [(index, limit) for index, limit in enumerate(header.concurrency) if limit.when_full != "skip"]
    own_limits = [_own_name(header, index) for index, limit in awaited if limit.use is None]
    return own_limits + sorted(f"use:{limit.use}" for _, limit in awaited if limit.use is not None)


def unkeyed_limits_of(header: Header) -> list[str]:
    """Return the limits of the runs of a playbook without a key. Whether an operator's has one is unknown."""
    return [
        _own_name(header, index) if limit.use is None else f"use:{limit.use}"
        for index, limit in enumerate(header.concurrency)
        if limit.key is None
    ]


def _own_name(header: Header, index: int) -> str:
    return f"own:{header.name}:{index}"


class _WaitSearch:
    """The graph of what waits for what, as far as the playbooks were read."""

    def __init__(
        self,
        search: PlaybookSearch,
        playbooks: LinkedPlaybooks,
        read_limits: Callable[[], Mapping[str, KnownLimit]],
    ) -> None:
        self._search = search
        self._playbooks = playbooks
        self._read_limits = read_limits
        self._graph: WaitGraph = nx.DiGraph()
        self._added: set[str] = set()
        self._shared: set[str] = set()
        self._unkeyed: set[str] = set()
        self.limits: set[str] = set()

    def add_reached(self, first: RegisteredPlan) -> None:
        """Add a playbook and all those that its runs wait for."""
        new = [first]
        while new:
            caller = new.pop()
            if caller.plan_hash in self._added:
                continue
            self._add(caller)
            for site in self._search.sites_of(caller):
                called = self._search.find(site.call) if site.returns_result else None
                if called is not None:
                    self._graph.add_edge(_Node("run", caller.plan_hash), _Node("start", called.plan_hash))
                    new.append(called)

    def _add(self, registered: RegisteredPlan) -> None:
        start, run = (_Node(kind, registered.plan_hash) for kind in ("start", "run"))
        self._added.add(registered.plan_hash)
        self._graph.add_edge(start, run)
        limits = limits_of(registered.header)
        self.limits.update(limits)
        self._unkeyed.update(unkeyed_limits_of(registered.header))
        for limit in limits:
            self._graph.add_edges_from(((start, _Node("limit", limit)), (_Node("limit", limit), run)))
        self._graph.add_edges_from(
            (_Node("limit", first), _Node("limit", second)) for first, second in pairwise(limits)
        )

    def add_other_holders(self) -> None:
        """Add the playbooks that use the same limits of the operator, and what their runs wait for.

        If one of them is shared by all tenants, so are those that use any shared limit.
        """
        if not any(limit.startswith("use:") for limit in self.limits):
            return
        shared = {f"use:{name}" for name, limit in self._read_limits().items() if limit.is_shared}
        if not shared.isdisjoint(self.limits):
            self._shared = shared
            self.limits |= shared
        holders = [found for found in self._other_versions() if found.header.concurrency]
        while True:
            sharing = [found for found in holders if not self.limits.isdisjoint(limits_of(found.header))]
            if not sharing:
                return
            holders = [found for found in holders if found not in sharing]
            for found in sharing:
                self._search.labels.setdefault(found.plan_hash, abbreviate(found.header.name))
                self.add_reached(found)

    def _other_versions(self) -> Iterable[RegisteredPlan]:
        """Return the live versions of all playbooks but the new one, up to a bound."""
        own_name = self._search.new_version.header.name
        return (found for found in self._playbooks.live_versions() if found.header.name != own_name)

    def find_circle(self) -> list[_Node]:
        """Return a circle with the new playbook and a limit in it, from the limit to itself, or no nodes.

        A limit without a key takes precedence, because its runs certainly compete.
        """
        own_hash = self._search.new_version.plan_hash
        own_nodes = (_Node("run", own_hash), _Node("start", own_hash))
        for component in nx.strongly_connected_components(self._graph):
            member = next((node for node in own_nodes if node in component), None)
            limits = sorted(node for node in component if node.kind == "limit")
            if member is not None and limits:
                part = self._graph.subgraph(component)
                paths = nx.shortest_path(part, member)
                limit = min(limits, key=lambda node: (node.name not in self._unkeyed, len(paths[node])))
                return [*nx.shortest_path(part, limit, member), *paths[limit][1:]]
        return []

    def is_keyed(self, circle: Iterable[_Node]) -> bool:
        """Return whether all limits of a circle have keys."""
        return not any(node.kind == "limit" and node.name in self._unkeyed for node in circle)

    def find_disorder(self) -> list[_Node]:
        """Return a path from a shared limit to an earlier one through the new playbook, or no nodes."""
        own_hash = self._search.new_version.plan_hash
        for member in (_Node("run", own_hash), _Node("start", own_hash)):
            sources, targets = nx.ancestors(self._graph, member), nx.descendants(self._graph, member)
            held = sorted(self._shared_of(sources), reverse=True)
            needed = sorted(self._shared_of(targets))
            if held and needed and needed[0] < held[0]:
                before = nx.shortest_path(self._graph, held[0], member)
                return [*before, *nx.shortest_path(self._graph, member, needed[0])[1:]]
        return []

    def _shared_of(self, nodes: Iterable[_Node]) -> list[_Node]:
        return [node for node in nodes if node.kind == "limit" and node.name in self._shared]

    def find_place(self, circle: Sequence[_Node]) -> PlanPlace:
        """Return the place of the call of the new playbook in a circle, or that of its limits."""
        own_version = self._search.new_version
        for site in self._search.sites_of(own_version):
            called = self._search.find(site.call) if site.returns_result else None
            if called is not None and _Node("start", called.plan_hash) in circle:
                return PlanPlace((*site.path, "playbook"))
        return key_of("concurrency")

    def describe(self, circle: Iterable[_Node]) -> str:
        """Return a circle as words. A playbook whose run starts and then waits is named once."""
        return " → ".join(words for words, _ in groupby(map(self._describe_node, circle)))

    def _describe_node(self, node: _Node) -> str:
        if node.kind != "limit":
            return f"`{self._search.labels[node.name]}`"
        origin, name = node.name.split(":", 1)
        return f"limit `{abbreviate(name)}`" if origin == "use" else f"limit of `{name.rpartition(':')[0]}`"
