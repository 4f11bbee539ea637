"""Folding of large plans: sets of steps that one node of a picture shows.

Problem: a picture of hundreds of steps is a ribbon that no person can read, and dot needs long for it.

Algorithm: first the regions between a fork and its join, the largest first. They are disjoint, and have at
most a quarter of all steps. Then the chains, in which each step or region has one successor and is its only
predecessor. Cases for errors do not count. A group has at least MIN_GROUP steps.

Cost: linear in the edges, and in the sum of the sizes of all regions.

Limits: plans with fewer than FOLD_FROM steps are folded only if their layout takes too long.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from noetl.planner.draw.outline import is_error_path
from noetl.planner.plan import Plan

FOLD_FROM = 200
MIN_GROUP = 4
MAX_OPENED = 60
"""Largest group that is opened because of a failure in it."""

_SHARE = 4

Groups = tuple[tuple[str, ...], ...]


def fold_groups(plan: Plan, failed: Collection[str] = (), opened: Collection[str] = ()) -> Groups:
    """Return the groups of steps that are drawn as one node each.

    A group with a step of `failed` stays open, unless it has more than MAX_OPENED steps. A group with a step
    of `opened` stays open.
    """
    regions = _regions(plan)
    groups = _chains(plan, regions)
    wanted, marked = set(opened), set(failed)
    return tuple(
        group
        for group in groups
        if wanted.isdisjoint(group) and (len(group) > MAX_OPENED or marked.isdisjoint(group))
    )


def _regions(plan: Plan) -> list[tuple[str, ...]]:
    """Return disjoint sets of steps between a fork and its join, with the join."""
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name, step in plan.steps.items():
        for join in step.regions:
            members[join].append(name)
    regions = [tuple(dict.fromkeys((*inside, join))) for join, inside in members.items()]
    regions.sort(key=len, reverse=True)
    taken: set[str] = set()
    chosen = []
    for region in regions:
        if len(region) <= len(plan.steps) // _SHARE and taken.isdisjoint(region):
            taken.update(region)
            chosen.append(region)
    return chosen


def _chains(plan: Plan, regions: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the chains of steps and regions, and the regions that are in no chain."""
    unit_of: dict[str, tuple[str, ...]] = {name: (name,) for name in plan.steps}
    for region in regions:
        unit_of.update(dict.fromkeys(region, region))
    after: defaultdict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    before: defaultdict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    branching = set()
    for name, step in plan.steps.items():
        unit = unit_of[name]
        cases = [case for case in step.cases if not is_error_path(case)]
        if len(unit) == 1 and (len(cases) > 1 or step.is_finally_step):
            branching.add(unit)
        for target in (target for case in cases for target in case.targets):
            if unit_of[target] is not unit:
                after[unit].add(unit_of[target])
                before[unit_of[target]].add(unit)
    links = {
        unit: next(iter(targets))
        for unit, targets in after.items()
        if len(targets) == 1 and unit not in branching
    }
    links = {
        unit: target for unit, target in links.items() if len(before[target]) == 1 and target not in branching
    }
    continued = set(links.values())
    heads = [unit for unit in dict.fromkeys(unit_of.values()) if unit not in continued]
    chains = []
    for head in heads:
        chain: list[str] = list(head)
        unit = head
        while unit in links:
            unit = links[unit]
            chain += unit
        if len(chain) >= MIN_GROUP:
            chains.append(tuple(chain))
    return chains
