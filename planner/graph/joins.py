"""The joins of a control-flow graph: which steps merge branches, and the branches that each of them waits
for.

`noetl.planner.graph.join_finder` computes them. docs/decisions/0002-joins.md explains the semantics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from noetl.planner.graph.loops import LoopExit

ROOT = ""
"""A virtual step before the start. It dominates every step."""

DEFAULT_MODES: Mapping[str, str] = MappingProxyType({})
"""The modes of a playbook in which every step is `join: all`."""


@dataclass(frozen=True, slots=True)
class OverlappingCycle:
    """A cycle that may start its next round while a branch of the last round is still active.

    `cycle` is the cycle as a list of steps whose first and last are the same. At the steps in
    `unfinished_steps`, branches of the last round may still be active. They left by `loop_exit`, or `step` is
    a `join: any` that did not wait for them (`starts_early`). Otherwise joins wait for each other.
    """

    step: str
    cycle: tuple[str, ...]
    unfinished_steps: tuple[str, ...]
    starts_early: bool = False
    loop_exit: LoopExit | None = None


@dataclass(frozen=True, slots=True)
class Joins:
    """The joins of a playbook. If `is_too_large`, the search was stopped and nothing is known.

    `dominators` maps each join to its dominator (`ROOT`: the start of the run). `regions` maps each step to
    the joins in whose regions it lies. The terms are those of the workflow patterns (van der Aalst et al.
    2003). A join in `discriminators` is a discriminator (`join: any`). Any other join is a synchronising
    merge (`join: all`). The steps in `multi_merges` are multi-merges (`join: each`): they are visited once
    for each branch and are not joins.
    """

    dominators: Mapping[str, str]
    regions: Mapping[str, tuple[str, ...]]
    overlapping_cycles: tuple[OverlappingCycle, ...]
    is_too_large: bool = False
    discriminators: frozenset[str] = frozenset()
    multi_merges: frozenset[str] = frozenset()

    def joins_waiting_for(self, step: str) -> tuple[str, ...]:
        """Return the joins that wait for a branch at `step`."""
        joins = self.regions.get(step, ())
        return (
            tuple(join for join in joins if join not in self.discriminators) if self.discriminators else joins
        )

    def counter_changes(self, step: str | None, targets: Sequence[str]) -> dict[str, int]:
        """Return what a branch that moves from `step` to `targets` adds to the live counter of each join.

        Zeros are left out. A `step` of None means that the branch starts.

        >>> Joins({"d": "a"}, {"b": ("d",), "c": ("d",)}, ()).counter_changes("a", ["b", "c"])
        {'d': 2}
        """
        changes: dict[str, int] = {}
        for join in self.joins_waiting_for(step) if step is not None else ():
            changes[join] = -1
        for target in targets:
            for join in self.joins_waiting_for(target):
                changes[join] = changes.get(join, 0) + 1
        return {join: change for join, change in changes.items() if change}
