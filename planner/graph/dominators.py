"""Immediate dominators of a rooted graph, and constant-time dominance tests.

Problem: node `d` dominates node `n` if every path from the root to `n` contains `d`. The immediate dominator
of `n` is the last of its dominators before `n` itself. Joins, regions and the concurrency analysis are
defined by dominators.

Algorithm: Lengauer and Tarjan, "A fast algorithm for finding dominators in a flowgraph" (TOPLAS 1979), the
simple version with path compression. Vertices are numbered in depth-first preorder. The local variables have
the names of the paper. Dominance tests compare preorder intervals of the dominator tree.

Cost: O(E log V) time and O(V) memory for E edges and V vertices, also on long chains, where iterative
data-flow algorithms are quadratic. A dominance test takes O(1) after O(V) preparation.

Limits: none. Vertices that the root does not reach are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

Neighbours = Callable[[str], Iterable[str]]


def immediate_dominators(root: str, successors: Neighbours, predecessors: Neighbours) -> dict[str, str]:
    """Return the immediate dominator of every vertex that `root` reaches, except `root` itself.

    >>> after = {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}
    >>> before = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    >>> sorted(immediate_dominators("a", after.__getitem__, before.__getitem__).items())
    [('b', 'a'), ('c', 'a'), ('d', 'a')]
    """
    vertices, number, parent = _depth_first_search(root, successors)
    count = len(vertices)
    semi = list(range(count))
    label = list(range(count))
    ancestor = [-1] * count
    buckets: list[list[int]] = [[] for _ in vertices]
    dominator = [0] * count
    for vertex in range(count - 1, 0, -1):
        for predecessor in predecessors(vertices[vertex]):
            if predecessor in number:
                semi[vertex] = min(semi[vertex], semi[_evaluate(number[predecessor], ancestor, label, semi)])
        buckets[semi[vertex]].append(vertex)
        over = ancestor[vertex] = parent[vertex]
        for member in buckets[over]:
            least = _evaluate(member, ancestor, label, semi)
            dominator[member] = least if semi[least] < semi[member] else over
        buckets[over] = []
    for vertex in range(1, count):
        if dominator[vertex] != semi[vertex]:
            dominator[vertex] = dominator[dominator[vertex]]
    return {vertices[vertex]: vertices[dominator[vertex]] for vertex in range(1, count)}


class DominatorIntervals:
    """Preorder intervals of a dominator tree: `a` dominates `b` if the interval of `a` contains that of `b`.

    >>> tree = DominatorIntervals("a", {"b": "a", "c": "a", "d": "b"})
    >>> tree.dominates("b", "d"), tree.dominates("c", "d"), tree.dominates("d", "d")
    (True, False, True)
    """

    def __init__(self, root: str, dominators: Mapping[str, str]) -> None:
        children: dict[str, list[str]] = {root: []}
        for vertex in dominators:
            children[vertex] = []
        for vertex, dominator in dominators.items():
            children[dominator].append(vertex)
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}
        stack: list[tuple[str, bool]] = [(root, False)]
        while stack:
            vertex, is_left = stack.pop()
            if is_left:
                self._last[vertex] = len(self._first)
                continue
            self._first[vertex] = len(self._first)
            stack.append((vertex, True))
            stack += [(child, False) for child in children[vertex]]

    def dominates(self, dominator: str, vertex: str) -> bool:
        """Return whether every path from the root to `vertex` contains `dominator`.

        A vertex dominates itself.
        """
        return self._first[dominator] <= self._first[vertex] and self._last[vertex] <= self._last[dominator]


def _depth_first_search(root: str, successors: Neighbours) -> tuple[list[str], dict[str, int], list[int]]:
    """Return the vertices in preorder, the number of each, and the number of each one's parent in the search
    tree.
    """
    vertices, number, parent = [root], {root: 0}, [0]
    stack = [(0, iter(successors(root)))]
    while stack:
        vertex, following = stack[-1]
        for successor in following:
            if successor not in number:
                number[successor] = len(vertices)
                parent.append(vertex)
                stack.append((number[successor], iter(successors(successor))))
                vertices.append(successor)
                break
        else:
            stack.pop()
    return vertices, number, parent


def _evaluate(vertex: int, ancestor: list[int], label: list[int], semi: list[int]) -> int:
    """Return the vertex with the least semidominator among the linked ancestors of `vertex`, and compress the
    path.
    """
    if ancestor[vertex] < 0:
        return vertex
    path = []
    while ancestor[ancestor[vertex]] >= 0:
        path.append(vertex)
        vertex = ancestor[vertex]
    top = ancestor[vertex]
    for lower in reversed(path):
        if semi[label[vertex]] < semi[label[lower]]:
            label[lower] = label[vertex]
        ancestor[lower] = top
        vertex = lower
    return label[vertex]
