"""Folding of large plans: sets of steps that one node of a picture shows.

Problem: a picture of hundreds of steps is a ribbon that no person can read, and dot needs long for it. So is
that of a fork with a hundred branches, however short they are.

Algorithm: first the regions between a fork and its join, the largest first. They are disjoint, and have at
most a quarter of all steps. Then the branches of wide forks. Those that are chains of the same length and
lead to the same steps are alike. One group has up to MAX_BRANCHES of them, or the root of their number. Then
the chains, in which each step or region has one successor and is its only predecessor. Cases for errors do
not count. A group has at least MIN_GROUP steps.

Cost: linear in the edges, and in the sum of the sizes of all regions.

Limits: in plans with fewer than FOLD_FROM steps, regions and chains are folded only if the layout takes too
long. Branches are folded in all plans.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from noetl.planner.draw.outline import is_error_path
from noetl.planner.plan import Plan

FOLD_FROM = 200
MIN_GROUP = 4
MAX_OPENED = 60
"""Largest group that is opened because of a failure in it."""

MAX_BRANCHES = 16
"""The most branches of a fork that are drawn side by side although they are alike."""

_SHARE = 4

Groups = tuple[tuple[str, ...], ...]


def fold_groups(plan: Plan, failed: Collection[str] = (), opened: Collection[str] = ()) -> Groups:
    """Return the groups of steps that are drawn as one node each.

    A group with a step of `failed` stays open, unless it has more than MAX_OPENED steps. A group with a step
    of `opened` stays open.
    """
    regions = _regions(plan)
    folded = {name for region in regions for name in region}
    groups = _chains(plan, [*regions, *_branches(plan, folded)])
    wanted, marked = set(opened), set(failed)
    return tuple(
        group
        for group in groups
        if wanted.isdisjoint(group) and (len(group) > MAX_OPENED or marked.isdisjoint(group))
    )


def fold_branches(plan: Plan, opened: Collection[str] = ()) -> Groups:
    """Return the groups of alike branches of wide forks. A group with a step of `opened` stays open."""
    return tuple(group for group in _branches(plan, ()) if set(opened).isdisjoint(group))


def _branches(plan: Plan, folded: Collection[str]) -> Iterator[tuple[str, ...]]:
    """Yield the groups of alike branches of wide forks, without branches that have steps of `folded`."""
    sources: defaultdict[str, set[str]] = defaultdict(set)
    wide = []
    for name, step in plan.steps.items():
        for case in step.cases:
            wide += [(name, case.targets)] if len(case.targets) > MAX_BRANCHES else []
            for target in case.targets:
                sources[target].add(name)
    for fork, targets in wide:
        alike: defaultdict[tuple[int, frozenset[str]], list[tuple[str, ...]]] = defaultdict(list)
        for target in targets:
            branch, exits = _follow_branch(plan, fork, target, sources)
            if branch and set(folded).isdisjoint(branch):
                alike[len(branch), exits].append(branch)
        for branches in alike.values():
            if len(branches) > MAX_BRANCHES:
                yield from _split(branches)


def _follow_branch(
    plan: Plan, fork: str, target: str, sources: Mapping[str, Collection[str]]
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the steps of a branch that no other step leads to, and the steps that it leads to."""
    branch: list[str] = []
    exits: set[str] = set()
    before, name = fork, target
    while sources[name] == {before} and plan.steps[name].join is None:
        branch.append(name)
        following: set[str] = set()
        for case in plan.steps[name].cases:
            (exits if is_error_path(case) else following).update(case.targets)
        if len(following) != 1:
            return tuple(branch), frozenset(exits | following)
        before, name = name, next(iter(following))
    return tuple(branch), frozenset(exits | {name})


def _split(branches: list[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield the steps of branches in groups that have about the same size, at least two.

    >>> [len(group) for group in _split([("a",)] * 100)], [len(group) for group in _split([("a",)] * 17)]
    ([15, 15, 14, 14, 14, 14, 14], [9, 8])
    """
    parts = max(math.ceil(len(branches) / max(MAX_BRANCHES, math.isqrt(len(branches)))), 2)
    size, larger = divmod(len(branches), parts)
    first = 0
    for part in range(parts):
        last = first + size + (part < larger)
        yield tuple(name for branch in branches[first:last] for name in branch)
        first = last


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
