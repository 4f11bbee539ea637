"""Layered layout of small graphs on a grid of characters.

Problem: place boxes so that edges lead down, with few crossings, in a given width.

Algorithm: that of Sugiyama, Tagawa and Toda 1981. Layers are the longest paths from the sources. An edge over
several layers passes through a dummy in each of them. Barycentres give the order in a layer. Columns follow
from isotonic regression (pool adjacent violators), which moves each node towards its neighbours.

Cost: some SWEEPS passes over all edges. It is meant for up to 100 nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 8
GAP = 2
DUMMY_WIDTH = 3


@dataclass
class Cell:
    """A node, or a dummy of an edge, in its layer. `left` is its first column."""

    key: str
    width: int
    layer: int
    left: float = 0.0
    predecessors: list[Cell] = field(default_factory=list, repr=False)
    successors: list[Cell] = field(default_factory=list, repr=False)

    @property
    def is_dummy(self) -> bool:
        """True if the cell is a part of an edge."""
        return not self.key

    @property
    def centre(self) -> float:
        """The column of the middle."""
        return self.left + self.width / 2


@dataclass(frozen=True)
class Grid:
    """The layers from top to bottom, and for each edge its cells from the source to the target."""

    layers: Sequence[Sequence[Cell]]
    chains: Sequence[Sequence[Cell]]
    width: int


def place(widths: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> Grid:
    """Return the grid of nodes with these widths. The edges have no cycle, and the nodes a good order."""
    layer_of = _longest_paths(widths, edges)
    cells = {key: Cell(key, width, layer_of[key]) for key, width in widths.items()}
    layers: list[list[Cell]] = [[] for _ in range(max(layer_of.values()) + 1)]
    for cell in cells.values():
        layers[cell.layer].append(cell)
    chains = []
    for source, target in edges:
        chain = [cells[source]]
        for layer in range(layer_of[source] + 1, layer_of[target]):
            chain.append(Cell("", DUMMY_WIDTH, layer))
            layers[layer].append(chain[-1])
        chain.append(cells[target])
        chains.append(chain)
        for upper, lower in pairwise(chain):
            upper.successors.append(lower)
            lower.predecessors.append(upper)
    _order(layers)
    _set_columns(layers)
    first = min(cell.left for row in layers for cell in row)
    for row in layers:
        for cell in row:
            cell.left = round(cell.left - first)
    return Grid(layers, chains, int(max(cell.left + cell.width for row in layers for cell in row)))


def _longest_paths(keys: Mapping[str, int], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    after: defaultdict[str, list[str]] = defaultdict(list)
    incoming = dict.fromkeys(keys, 0)
    for source, target in edges:
        after[source].append(target)
        incoming[target] += 1
    layer = dict.fromkeys(keys, 0)
    ready = [key for key, count in incoming.items() if not count]
    while ready:
        source = ready.pop()
        for target in after[source]:
            layer[target] = max(layer[target], layer[source] + 1)
            incoming[target] -= 1
            if not incoming[target]:
                ready.append(target)
    # A step without edges, such as the last one, is at the end.
    linked = {key for edge in edges for key in edge}
    last = max(layer.values())
    return {key: number if key in linked else last for key, number in layer.items()}


def _order(layers: list[list[Cell]]) -> None:
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(SWEEPS):
        is_down = sweep % 2 == 0
        for layer in layers if is_down else layers[::-1]:
            place_of = {id(cell): place for row in layers for place, cell in enumerate(row)}

            def barycentre(cell: Cell) -> float:
                neighbours = cell.predecessors if is_down else cell.successors  # noqa: B023
                places = [place_of[id(other)] for other in neighbours]  # noqa: B023
                return sum(places) / len(places) if places else place_of[id(cell)]  # noqa: B023

            layer.sort(key=barycentre)
        if (crossings := _crossings(layers)) < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best


def _crossings(layers: Sequence[Sequence[Cell]]) -> int:
    count = 0
    for upper, lower in pairwise(layers):
        place_of = {id(cell): place for place, cell in enumerate(lower)}
        ends = [
            place_of[id(target)]
            for cell in upper
            for target in sorted(cell.successors, key=lambda other: place_of[id(other)])
        ]
        count += sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))
    return count


def _set_columns(layers: Sequence[Sequence[Cell]]) -> None:
    for layer in layers:
        left = 0.0
        for cell in layer:
            cell.left = left
            left += cell.width + GAP
    for sweep in range(2 * SWEEPS):
        is_down = sweep % 2 == 0
        for layer in layers if is_down else layers[::-1]:
            wishes = []
            for cell in layer:
                neighbours = cell.predecessors if is_down else cell.successors
                centres = [other.centre for other in neighbours] or [cell.centre]
                wishes.append(sum(centres) / len(centres) - cell.width / 2)
            for cell, left in zip(layer, _separate(layer, wishes), strict=True):
                cell.left = left


def _separate(layer: Sequence[Cell], wishes: Sequence[float]) -> list[float]:
    """Return the columns nearest to the wishes, in which no cells overlap."""
    offsets = [0.0]
    for cell in layer:
        offsets.append(offsets[-1] + cell.width + GAP)
    blocks: list[tuple[float, int]] = []
    for wish, offset in zip(wishes, offsets, strict=False):
        mean, size = wish - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, count = blocks.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        blocks.append((mean, size))
    means = [mean for mean, size in blocks for _ in range(size)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=False)]
