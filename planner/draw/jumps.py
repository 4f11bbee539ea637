"""The jumps of a picture: arrows that end at the name of their target, because they would hide the others.

Problem: arrows from all steps to one handler hide everything else. So do hundreds of arrows that pass many
steps each. The program dot needs seconds for them: it places each arrow in each layer that the arrow passes.

Algorithm: two bounds. A step that is no join has at most MAX_ARROWS arrows, and the others are jumps. There
are at most MAX_PLACES steps and passed layers, or MIN_PASSED layers for many steps. If there are more, the
arrows that pass the most layers are jumps, and equal ones alike. The layer of a step is the length of the
longest path to it (Sugiyama, Tagawa and Toda 1981). In a large picture, all arrows that lead back are jumps,
and a join has at most MAX_ARROWS arrows for errors.

Cost: O(n log n) for n edges.

Limits: an arrow of a folded step is no jump for its length. Neither is one that passes at most ALWAYS_DRAWN
layers in a picture that is not large.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from noetl.planner.draw.outline import Outline, is_error_path
from noetl.planner.plan import Plan

MAX_ARROWS = 8
"""How many arrows may lead to a step that is no join."""

MAX_PLACES = 450
"""How many steps, and layers that arrows pass, a picture may have. dot takes some 50 ms for them."""

LARGE = 100
"""How many steps and groups a large picture has at least."""

MIN_PASSED = 200
"""How many layers all arrows may pass together in each picture."""

ALWAYS_DRAWN = 8
"""How many layers an arrow may pass in each picture that is not large."""

Pair = tuple[str, str]
"""A step and a target of it."""


def find_jumps(plan: Plan, outline: Outline, group_of: Mapping[str, int]) -> set[Pair]:
    """Return the edges that are jumps. `group_of` has the number of the group of each folded step."""
    large = is_large(plan, group_of)
    jumps = _find_crowded(plan, outline, group_of, joins_too=large)
    passed = _passed_layers(plan, outline, group_of)
    if large:
        jumps |= {pair for pair in passed if outline.leads_back(*pair) and pair[0] not in group_of}
    for pair in jumps:
        del passed[pair]
    nodes = _count_nodes(plan, group_of)
    limit = _longest_drawn(passed, max(MAX_PLACES - nodes, MIN_PASSED), 0 if large else ALWAYS_DRAWN)
    return jumps | {pair for pair, layers in passed.items() if layers > limit and pair[0] not in group_of}


def is_large(plan: Plan, group_of: Mapping[str, int]) -> bool:
    """Return whether a picture shows at least LARGE steps and groups."""
    return _count_nodes(plan, group_of) >= LARGE


def _count_nodes(plan: Plan, group_of: Mapping[str, int]) -> int:
    return len(plan.steps) - len(group_of) + len(set(group_of.values()))


def _find_crowded(plan: Plan, outline: Outline, group_of: Mapping[str, int], *, joins_too: bool) -> set[Pair]:
    """Return the edges to each step that too many lead to, but not those of the last one that leads there.

    With `joins_too`, so do those for errors to a join. Its other edges show which branches it waits for.
    """
    sources: defaultdict[str, list[str]] = defaultdict(list)
    for name in outline.order:
        cases = plan.steps[name].cases
        for case in cases:
            if len(case.targets) == 1 and name not in group_of:
                target = case.targets[0]
                to_target = (other for other in cases if target in other.targets)
                if plan.steps[target].join is None or (joins_too and all(map(is_error_path, to_target))):
                    sources[target].append(name)
    return {
        (name, target)
        for target, names in sources.items()
        if len(names) > MAX_ARROWS
        for name in names
        if name != names[-1]
    }


def _passed_layers(plan: Plan, outline: Outline, group_of: Mapping[str, int]) -> dict[Pair, int]:
    """Return how many layers each edge passes between its ends. Steps of a group are in one layer."""
    layers = dict.fromkeys(outline.order, 0)
    pairs = [
        (name, target) for name in outline.order for case in plan.steps[name].cases for target in case.targets
    ]
    for name, target in pairs:
        if not outline.leads_back(name, target):
            is_inside = name in group_of and group_of[name] == group_of.get(target)
            layers[target] = max(layers[target], layers[name] + (not is_inside))
    return {(name, target): max(abs(layers[target] - layers[name]) - 1, 0) for name, target in pairs}


def _longest_drawn(passed: Mapping[Pair, int], most: int, least: int) -> int:
    """Return how many layers an arrow may pass, so that all that are drawn pass at most `most`.

    It is at least `least`.

    >>> _longest_drawn({("a", "b"): 60, ("b", "c"): 50}, 100, 8), _longest_drawn({("a", "b"): 60}, 100, 8)
    (50, 60)
    """
    counts = Counter(passed.values())
    total, limit = 0, least
    for layers in sorted(counts):
        total += layers * counts[layers]
        if total <= most:
            limit = max(limit, layers)
    return limit
