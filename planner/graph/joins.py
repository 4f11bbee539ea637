"""Which steps must wait for other branches, and for which.

A step is compiled as a join when two branches that were alive together can arrive at it. It then waits for the branches
in its *region*: the steps between its dominator and itself. What a region means, why waiting by regions is the
synchronising merge of the language, and what becomes of it beside `join: any` and `join: each`, is in
docs/decisions/0002-joins.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

ROOT = ""
"""The virtual step before the start, which dominates every step."""

ALL: Mapping[str, str] = MappingProxyType({})
"""The modes of a playbook in which every step is `join: all`."""


@dataclass(frozen=True, slots=True)
class Runaway:
    """A cycle that starts again while a branch of its last round may still be on the way.

    `case` is the index of the forking case of `step`, or None when two joins would wait for each other; `cycle` are
    steps of the cycle, `left` the steps at which branches are left behind. `first` is the `join: any` that goes on without
    them, if that is why.
    """

    step: str
    case: int | None
    cycle: tuple[str, ...]
    left: tuple[str, ...]
    first: str | None = None


@dataclass(frozen=True, slots=True)
class Joins:
    """The compiled joins: the dominator of each (`ROOT`: the beginning of the run), and for every step the joins in whose
    regions it lies. With `is_too_large` nothing is known, since it is too much.

    `discriminators` are the joins that let the first branch go on (`join: any`), `multi` the steps that are visited once for
    each of several branches (`join: each`) and are no joins.
    """

    dominators: Mapping[str, str]
    regions: Mapping[str, tuple[str, ...]]
    runaways: tuple[Runaway, ...]
    is_too_large: bool = False
    discriminators: frozenset[str] = frozenset()
    multi: frozenset[str] = frozenset()

    def waiting(self, step: str) -> tuple[str, ...]:
        """The joins that wait for a branch standing at the step."""
        joins = self.regions.get(step, ())
        return (
            tuple(join for join in joins if join not in self.discriminators) if self.discriminators else joins
        )

    def change(self, step: str | None, targets: Sequence[str]) -> dict[str, int]:
        """What moving a branch from `step` to `targets` adds to the live counter of each join; zeros are left out."""
        change: dict[str, int] = {}
        for join in self.waiting(step) if step is not None else ():
            change[join] = -1
        for target in targets:
            for join in self.waiting(target):
                change[join] = change.get(join, 0) + 1
        return {join: delta for join, delta in change.items() if delta}
