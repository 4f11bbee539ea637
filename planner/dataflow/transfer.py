"""How visits of a step can end, and what is needed for it and comes of it: bits of what is there, whatever was before.

`needed` are the bits that must be there when something is entered, and each outcome adds bits to those that were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from noetl.planner.dataflow.narrowing import ANY, FAILED, SUCCEEDED, UNFAILED
from noetl.planner.graph.bitset import bits
from noetl.planner.program.template_uses import Use

EVERYTHING = -1
"""The bits of a place that is never reached: all of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One way in which a visit can end: by a case, or by none; after a failure or not. `gen` are the bits that are there for certain
    behind it, `made` those that it may have added. It cannot be where a bit of `gone` was there before, nor where one of `asked`
    cannot have been. With `again` the step was visited before.
    """

    case: int | None
    failed: bool
    targets: tuple[str, ...]
    gen: int
    made: int
    gone: int = 0
    asked: int = 0
    again: bool = False

    @property
    def is_unhandled(self) -> bool:
        return self.failed and self.case is None


@dataclass(slots=True)
class State:
    """What is known to be there, and what may be, of what the work itself adds; `on_success` is what is known to be there if the
    result of it all is a success and no failure that is forgiven.
    """

    known: int = 0
    may: int = 0
    on_success: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A place at which something may be lacking: after which outcomes of the step's `run` it is read there, and whether nothing in
    the step may have produced it before.
    """

    use: Use
    is_hopeless: bool
    outcomes: int


@dataclass(slots=True)
class Needs:
    """What has been found to be needed; `hopeless` is what nothing before it in the same step may have produced.

    With `wanted`, the first place that needs each of these bits is kept in `places`.
    """

    needed: int = 0
    hopeless: int = 0
    wanted: int = 0
    places: dict[int, Read] = field(default_factory=dict)

    def add(self, use: Use, bits: int, may: int, outcomes: int = ANY) -> None:
        self.needed |= bits
        self.hopeless |= bits & ~may
        found = bits & self.wanted
        while found:
            bit = found & -found
            found ^= bit
            self.wanted ^= bit
            self.places[bit] = Read(use, not bit & may, outcomes)


@dataclass(frozen=True, slots=True)
class Done:
    """What a task needs and adds, whether it may end in a failure that is forgiven, and whether it may fail."""

    needed: int
    hopeless: int
    gen: int
    may: int
    forgives: bool
    may_fail: bool


class Implications:
    """What is there wherever something is: all that is certain behind everything that can have made it, since nothing that a
    branch has is ever taken from it.
    """

    def __init__(self, makers: Iterable[tuple[int, int]]) -> None:
        """`makers` are pairs of what a work may make, and what is certain behind it."""
        self.makers = makers
        self.by_bit: dict[int, list[int]] | None = None
        self.known: dict[int, int] = {}

    def of(self, there: int) -> int:
        """All that some bits imply."""
        if self.by_bit is None:
            self.by_bit = {}
            for made, certain in self.makers:
                for index in bits(made):
                    self.by_bit.setdefault(index, []).append(certain)
        found = 0
        for index in bits(there):
            if index not in self.known:
                implied = EVERYTHING
                for certain in self.by_bit.get(index, ()):
                    implied &= certain
                self.known[index] = 0 if implied == EVERYTHING else implied
            found |= self.known[index]
        return found


class Assumed(NamedTuple):
    """What is known where a case is looked at: bits that are there, bits that were not there before, and bits that were."""

    known: int
    gone: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit of a step needs, and all its outcomes. `taken` tells for cases what is known where they are taken; a guard that
    asks for what cannot be has nothing there: it is `refuted` by these bits. Nor has a `hidden` case: one before it is always
    taken, for these bits.
    """

    needed: int
    hopeless: int
    outcomes: tuple[Outcome, ...]
    taken: Mapping[int, Sequence[Assumed]] = field(default_factory=dict)
    hidden: Mapping[int, int] = field(default_factory=dict)
    refuted: Mapping[int, int] = field(default_factory=dict)


class Worlds:
    """What is known where no case has been taken yet, after success and after a failure. `now` is what holds where the present
    case is taken, `later` what holds where it is not: nothing, if it always is. Its guard is never true for the bits in
    `refuted`; `settled` are bits for which one was always true after success, since the work of the step needs or makes them.
    """

    def __init__(self, success: State, failure: State, alive: int) -> None:
        self.alive = alive
        self.state = {False: Assumed(success.known), True: Assumed(failure.known)}
        self.most = {False: success.may, True: failure.may}
        self.on_success = success.on_success
        self.now: dict[bool, Assumed] = {}
        self.later: dict[bool, Assumed | None] = {}
        self.refuted = 0
        self.settled = 0

    def outcomes(self, *, failed: bool) -> int:
        return self.alive & (FAILED if failed else UNFAILED)

    def assumed(self, *, failed: bool) -> Assumed:
        found = self.now.get(failed)
        return self.narrowed(self.state[failed], self.outcomes(failed=failed)) if found is None else found

    def narrowed(self, found: Assumed, outcomes: int) -> Assumed:
        """What is known, where the result of the `run` can only be one of these."""
        if outcomes != SUCCEEDED or not self.on_success & ~found.known:
            return found
        return Assumed(found.known | self.on_success, found.gone, found.asked)

    def may(self, *, failed: bool) -> int:
        return self.most[failed] | self.assumed(failed=failed).known

    def go_on(self) -> None:
        """Look at the next case."""
        for failed, state in self.later.items():
            if state is None:
                self.alive &= UNFAILED if failed else FAILED
            else:
                self.state[failed] = state
        self.now, self.later, self.refuted = {}, {}, 0
