"""Immediate dominators in time that hardly exceeds the size of the graph, however long the ways through it are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Neighbours = Callable[[str], Iterable[str]]


def immediate_dominators(root: str, successors: Neighbours, predecessors: Neighbours) -> dict[str, str]:
    """For every node that can be reached from `root`, itself excepted, the last node that all ways to it pass before it.

    This is the algorithm of Lengauer and Tarjan (1979) with path compression; nodes are numbered in the order in which a
    search in depth meets them.
    """
    names, number, parent = _search(root, successors)
    count = len(names)
    semi = list(range(count))
    best = list(range(count))
    above = [-1] * count
    waiting: list[list[int]] = [[] for _ in names]
    dominator = [0] * count
    for node in range(count - 1, 0, -1):
        for before in predecessors(names[node]):
            if before in number:
                semi[node] = min(semi[node], semi[_evaluate(number[before], above, best, semi)])
        waiting[semi[node]].append(node)
        over = above[node] = parent[node]
        for other in waiting[over]:
            found = _evaluate(other, above, best, semi)
            dominator[other] = found if semi[found] < semi[other] else over
        waiting[over] = []
    for node in range(1, count):
        if dominator[node] != semi[node]:
            dominator[node] = dominator[dominator[node]]
    return {names[node]: names[dominator[node]] for node in range(1, count)}


def _search(root: str, successors: Neighbours) -> tuple[list[str], dict[str, int], list[int]]:
    """The nodes in the order of a search in depth, their numbers in it, and the number of each one's parent."""
    names, number, parent = [root], {root: 0}, [0]
    stack = [(0, iter(successors(root)))]
    while stack:
        node, following = stack[-1]
        for name in following:
            if name not in number:
                number[name] = len(names)
                parent.append(node)
                stack.append((number[name], iter(successors(name))))
                names.append(name)
                break
        else:
            stack.pop()
    return names, number, parent


def _evaluate(node: int, above: list[int], best: list[int], semi: list[int]) -> int:
    """The node with the least semidominator on the way up from `node`, as far as it is linked. Shortens that way."""
    if above[node] < 0:
        return node
    way = []
    while above[above[node]] >= 0:
        way.append(node)
        node = above[node]
    top = above[node]
    for lower in reversed(way):
        if semi[best[node]] < semi[best[lower]]:
            best[lower] = best[node]
        above[lower] = top
        node = lower
    return best[node]
