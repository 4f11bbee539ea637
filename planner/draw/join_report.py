"""Where the ways of a plan meet, and why branches are waited for there or not: what `noetl plan --explain-joins` tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import networkx as nx
from noetl.planner.diagnostics.wording import listed, ticked
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.join_finder import JoinFinder
from noetl.planner.graph.joins import ROOT
from noetl.planner.plan import Plan

ARROW = " → "


@dataclass(frozen=True, slots=True)
class Meeting:
    """A step that several ways lead to. `join` is its mode where it is a join or visited for each branch, else None.

    `since` is the step at which all branches that arrive have parted or been one (None: the beginning of the run). For a
    join `fork` is a step that makes two branches both of which can arrive, and `ways` how; for other steps `together` are
    those at which the branches of forks on the way have come together before.
    """

    step: str
    join: str | None
    since: str | None
    fork: str | None = None
    ways: tuple[tuple[str, ...], ...] = ()
    together: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the step is a join, or none, as a sentence."""
        since = "the run began" if self.since is None else f"`{self.since}`"
        if self.join is not None:
            what = _WHAT[self.join]
            if self.fork is None:
                return f"{what}: branches that parted after {since} come here at different times"
            return f"{what}: the fork at `{self.fork}` makes branches that can meet here"
        if self.together:
            where = listed(ticked(self.together), "and")
            return f"no join: the branches of the forks on the way have come together before, at {where}"
        return f"no join: one branch at most arrives, since no fork after {since} has two branches that lead here"

    def to_json(self) -> dict[str, Any]:
        """The meeting as an object."""
        return {
            "step": self.step,
            "join": self.join,
            "since": self.since,
            "fork": self.fork,
            "ways": [list(way) for way in self.ways],
            "together": list(self.together),
            "reason": self.reason,
        }


_WHAT = {
    "all": "waits for all branches",
    "any": "goes on with the first branch",
    "each": "runs for each branch",
}


def meetings(plan: Plan) -> tuple[Meeting, ...]:
    """Every step of a plan that several ways lead to, or at which branches are waited for, in the order of the text."""
    steps = plan.steps
    flow = Flow(
        plan.header.start, {name: tuple(case.targets for case in step.cases) for name, step in steps.items()}
    )
    modes = {
        name: step.join.mode
        for name, step in steps.items()
        if step.join is not None and step.join.mode != "all"
    }
    modes |= dict.fromkeys((name for name, step in steps.items() if step.each), "each")
    finder = JoinFinder(flow, modes)
    finder.compile_all()
    return tuple(_meetings(plan, finder))


def _meetings(plan: Plan, finder: JoinFinder) -> Iterator[Meeting]:
    for name, step in plan.steps.items():
        if name not in finder.graph:
            continue
        join = "each" if step.each else step.join.mode if step.join is not None else None
        if join is None and finder.graph.in_degree(name) < 2:
            continue
        dominator = finder.dominators.get(name) or finder.boundary(name)
        region = finder.region_of.get(name)
        yield _meeting(
            finder, name, join, dominator, finder.between(dominator, name) if region is None else region
        )


def _meeting(
    finder: JoinFinder, step: str, join: str | None, dominator: str, region: frozenset[str]
) -> Meeting:
    inside = region | {step}
    last = finder.last_steps(step, inside)
    since = None if dominator == ROOT else dominator
    together: dict[str, None] = {}
    for source, group in finder.forks_within(step, dominator, region):
        for one, other in combinations(group, 2):
            if last[one] == last[other]:
                together[last[one]] = None
            elif join is not None:
                ways = tuple((source, *_way(finder, target, step, inside)) for target in (one, other))
                return Meeting(step, join, since, source, ways)
    return Meeting(step, join, since, together=() if join is not None else tuple(together))


def _way(finder: JoinFinder, first: str, step: str, inside: frozenset[str]) -> Sequence[str]:
    return nx.shortest_path(finder.graph.subgraph(inside), first, step)


def told(found: Sequence[Meeting]) -> str:
    """The meetings as text: a line for each, and those of a join's ways below it."""
    if not found:
        return "no step has more than one way to it\n"
    lines = []
    for meeting in found:
        lines.append(f"{meeting.step}: {meeting.reason}")
        lines += (f"  {ARROW.join(way)}" for way in meeting.ways)
    return "\n".join(lines) + "\n"
