"""Live names: the names that a branch must carry from step to step.

Problem: A branch passes on, from step to step, pointers to the visits that hold the names which are still
read. The plan stores these names for each step. A name is live at a step if it may be assigned before it and
may be read at it or after it.

Algorithm: Live-variable analysis (Allen and Cocke 1976), intersected with reaching definitions. It works on
the condensation of the control-flow graph, with one forward and one backward pass over the strongly connected
components in topological order. All steps of one component have the same live names.

Cost: Linear in the number of edges, with one operation on a set of names per edge. The size of the result
grows with steps times names, so `MAX_LIVE_NAMES` bounds it.

Limits: Past `MAX_LIVE_NAMES`, the playbook is rejected (NP701). In sequential mode any step may run before
any other, so every name that is assigned and read somewhere is live everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.graph.cfg import ControlFlowGraph

MAX_LIVE_NAMES = 2_500_000
"""How many pairs of a step and a live name a plan may have."""

TOO_MANY_LIVE_NAMES = f"too many names are live across steps (limit: {MAX_LIVE_NAMES:,} name-step pairs)"
SAVE_TOGETHER = "save several values under one name as an object"


class TooManyLiveNamesError(Exception):
    """The live names of all steps exceed `MAX_LIVE_NAMES`."""


def find_live_names(
    cfg: ControlFlowGraph, reads: Mapping[str, Iterable[str]], saves: Mapping[str, Iterable[str]]
) -> dict[str, frozenset[str]]:
    """Return the live names of each reachable step.

    Raises:
        TooManyLiveNamesError: there are more than `MAX_LIVE_NAMES`.
    """
    all_names = sorted({name for step in cfg.reachable for name in reads[step]})
    bits = {name: 1 << index for index, name in enumerate(all_names)}
    read, saved = (
        [_pack((name for step in component for name in names[step]), bits) for component in cfg.components]
        for names in (reads, saves)
    )
    successors = [
        {cfg.component_index[target] for step in component for target in cfg.graph.successors(step)} - {index}
        for index, component in enumerate(cfg.components)
    ]
    assigned_before = [0] * len(successors)
    for index in reversed(range(len(successors))):
        if any(map(cfg.is_cyclic, cfg.components[index])):
            assigned_before[index] |= saved[index]
        for successor in successors[index]:
            assigned_before[successor] |= assigned_before[index] | saved[index]
    read_later = list(read)
    for index, following in enumerate(successors):
        for successor in following:
            read_later[index] |= read_later[successor]
    live = [before & later for before, later in zip(assigned_before, read_later, strict=True)]
    pairs = sum(
        names.bit_count() * len(component) for names, component in zip(live, cfg.components, strict=True)
    )
    if pairs > MAX_LIVE_NAMES:
        raise TooManyLiveNamesError
    by_component = [frozenset(all_names[index] for index in bit_indexes(names)) for names in live]
    return {step: by_component[index] for step, index in cfg.component_index.items()}


def find_live_names_in_sequential_mode(
    cfg: ControlFlowGraph, reads: Mapping[str, Iterable[str]], saves: Mapping[str, Iterable[str]]
) -> dict[str, frozenset[str]]:
    """Return the live names of each reachable step in sequential mode, where they are the same everywhere.

    Raises:
        TooManyLiveNamesError: there are more than `MAX_LIVE_NAMES`.
    """
    read = {name for step in cfg.reachable for name in reads[step]}
    names = frozenset(read & {name for step in cfg.reachable for name in saves[step]})
    if exceeds_limit_in_sequential_mode(cfg, names):
        raise TooManyLiveNamesError
    return dict.fromkeys(cfg.reachable, names)


def exceeds_limit_in_sequential_mode(cfg: ControlFlowGraph, names: Collection[str]) -> bool:
    """Return whether these names, live at every step, exceed `MAX_LIVE_NAMES`."""
    return len(names) * len(cfg.reachable) > MAX_LIVE_NAMES


def _pack(names: Iterable[str], bits: Mapping[str, int]) -> int:
    """Return names as an integer with one bit per name. Names without a bit are left out."""
    packed = 0
    for name in names:
        packed |= bits.get(name, 0)
    return packed
