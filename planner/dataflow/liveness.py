"""Which names a branch carries with it: those that were saved on some way to a step and are read on some way from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from noetl.planner.graph.cfg import Flow

MAX_HANDED = 2_500_000
"""How many names may be handed to all steps together: a plan keeps for each step which it takes."""


TOO_MANY = f"branches would have to carry more than {MAX_HANDED:,} names past steps in all"
SAVE_TOGETHER = "save several values under one name as an object"


class TooManyNamesError(Exception):
    """The names handed to the steps pass `MAX_HANDED`."""


def names_handed_on(
    flow: Flow, reads: Mapping[str, Iterable[str]], saves: Mapping[str, Iterable[str]]
) -> dict[str, frozenset[str]]:
    """For every step that can be reached, the names that may be saved before it and are read at it or behind it.

    Raises:
        TooManyNamesError: there are so many that time and the size of the plan would grow with the square of its steps.
    """
    names = sorted({name for step in flow.reachable for name in reads[step]})
    sets = _NameSets(names)
    read = [sets.pack(name for step in component for name in reads[step]) for component in flow.components]
    saved = [sets.pack(name for step in component for name in saves[step]) for component in flow.components]
    behind = [
        {flow.component[target] for step in component for target in flow.graph.successors(step)} - {index}
        for index, component in enumerate(flow.components)
    ]
    before = [0] * len(behind)
    for index in reversed(range(len(behind))):
        if any(map(flow.is_cyclic, flow.components[index])):
            before[index] |= saved[index]
        for following in behind[index]:
            before[following] |= before[index] | saved[index]
    wanted = list(read)
    for index, followers in enumerate(behind):
        for following in followers:
            wanted[index] |= wanted[following]
    packed = [b & w for b, w in zip(before, wanted, strict=True)]
    if sum(p.bit_count() * len(c) for p, c in zip(packed, flow.components, strict=True)) > MAX_HANDED:
        raise TooManyNamesError
    handed = [frozenset(sets.unpack(names)) for names in packed]
    return {step: handed[index] for step, index in flow.component.items()}


def names_in_turns(
    flow: Flow, reads: Mapping[str, Iterable[str]], saves: Mapping[str, Iterable[str]]
) -> dict[str, frozenset[str]]:
    """The same where branches go one after another: a step takes whatever is saved anywhere and read anywhere, since any
    step may come before any other.

    Raises:
        TooManyNamesError: as for branches that go together.
    """
    read = {name for step in flow.reachable for name in reads[step]}
    names = frozenset(read & {name for step in flow.reachable for name in saves[step]})
    if are_too_many_in_turns(flow, names):
        raise TooManyNamesError
    return dict.fromkeys(flow.reachable, names)


def are_too_many_in_turns(flow: Flow, names: Collection[str]) -> bool:
    """Whether names that are saved and read somewhere are too many, where branches go one after another."""
    return len(names) * len(flow.reachable) > MAX_HANDED


class _NameSets:
    """Sets of names as integers with a bit for each: every step has one that may hold most of the names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.bits = {name: 1 << index for index, name in enumerate(names)}

    def pack(self, names: Iterable[str]) -> int:
        packed = 0
        for name in names:
            packed |= self.bits.get(name, 0)
        return packed

    def unpack(self, packed: int) -> Iterator[str]:
        while packed:
            lowest = packed & -packed
            yield self.names[lowest.bit_length() - 1]
            packed ^= lowest
