"""What is there when a step is entered: what may be, and what must be, whatever guards say.

A step that branches enter one by one has for certain what is there on every way to it. At a join the names of all branches
that have arrived come together, and some may have ended on the way: what is certain there is what every set of
arrivals has in common. This is found backwards from the join: for each step of its region, what a branch that stands
there brings to the join, and whether it arrives at all.

Where branches go one after another, a branch sees besides what those before it have saved, whether they arrive or end.

The sets are bits of integers (`planner.production`). On cycles both are fixed points: the least of what may be there, and the
greatest of what must (Kam and Ullman, 1977).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planner.graph import Flow
from planner.joins import ROOT, Joins
from planner.production import EVERYTHING, Implications, Outcome, Visit

MAX_LOOKS = 400_000
"""How often an outcome of a step is looked at: past it nothing is known."""


class TooManyLooksError(Exception):
    """The ways are too many to look at."""


@dataclass(frozen=True, slots=True)
class Brought:
    """What a branch brings to a join: bits that are there if it arrives, whether it can and whether it must, and whether it
    brings what it had itself (not where another branch may have gone on in its place).
    """

    bits: int = EVERYTHING
    can: bool = False
    certain: bool = True
    own: bool = True
    left: int = EVERYTHING
    """What is there even if it does not arrive, where another branch does."""


ARRIVED = Brought(0, can=True, left=0)
ELSEWHERE = Brought(EVERYTHING, certain=False, left=0)


@dataclass(slots=True)
class Produced:
    """For every step that can be reached what may and what must be there when it is entered, and for the end of a run."""

    may: dict[str, int] = field(default_factory=dict)
    must: dict[str, int] = field(default_factory=dict)
    end_may: int = 0
    end_must: int = 0


class Ways:
    """The ways through a flow, and what is there on them: `found`, once `find` has been called.

    `on_failure` says of each step what a failure does that no case handles. No join may be a `Runaway`.
    """

    def __init__(
        self, flow: Flow, joins: Joins, visits: Mapping[str, Visit], on_failure: Mapping[str, str], *, in_turns: bool
    ) -> None:
        self.flow = flow
        self.joins = joins
        self.in_turns = in_turns
        self.found = Produced()
        self.looks = 0
        self.order = {step: at for at, step in enumerate(_reverse_postorder(flow))}
        self.outcomes = {
            step: tuple(o for o in visits[step].outcomes if not o.is_unhandled or on_failure[step] == "continue")
            for step in self.order
        }
        self.before: dict[str, list[tuple[str, Outcome]]] = {step: [] for step in self.order}
        for step in self.order:
            for outcome in self.outcomes[step]:
                for target in outcome.targets:
                    self.before[target].append((step, outcome))
        self.ahead: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.regions: dict[str, list[str]] = {join: [] for join in joins.dominators}
        self.components = [sorted(steps, key=self.order.__getitem__) for steps in reversed(flow.components)]
        for steps in reversed(self.components):
            for step in reversed(steps):
                for join in joins.regions.get(step, ()):
                    self.regions[join].append(step)

    def find(self) -> Produced:
        """What is there at every step.

        Raises:
            TooManyLooksError: there are more than `MAX_LOOKS` ways to look at.
        """
        found = self.found
        if self.in_turns and any(self.flow.forks()):
            self.look_ahead()
        found.may = dict.fromkeys(self.order, 0)
        found.must = dict.fromkeys(self.order, EVERYTHING)
        for steps in self.components:
            self.settle(steps)
        for outcomes in self.outcomes.values():
            for outcome in outcomes:
                found.end_may |= outcome.may
        found.end_must = self.at_end()
        return found

    def implications(self) -> Implications:
        """What is there wherever something else is."""
        return Implications(
            (outcome.made, self.behind(step, outcome)) for step in self.order for outcome in self.outcomes[step]
        )

    def settle(self, steps: Sequence[str]) -> None:
        """Find what is there at the steps of a component, each of which may lead to any other."""
        may, must = self.found.may, self.found.must
        is_cyclic = self.flow.is_cyclic(steps[0])
        changed = True
        while changed:
            changed = False
            for step in steps:
                entered = self.may_enter(step), self.must_enter(step)
                if entered != (may[step], must[step]):
                    may[step], must[step] = entered
                    changed = is_cyclic

    def look(self) -> None:
        self.looks += 1
        if self.looks > MAX_LOOKS:
            raise TooManyLooksError

    def waits(self, step: str) -> bool:
        """Whether branches wait for each other at a step."""
        return step in self.joins.dominators and step not in self.joins.discriminators

    def may_enter(self, step: str) -> int:
        found = 0
        for before, outcome in self.before[step]:
            known = self.found.must[before]
            if known == EVERYTHING or outcome.gone & known:
                continue
            found |= self.found.may[before] | outcome.may
            for earlier in self.earlier(step, outcome):
                found |= self.ahead[earlier]
        if self.ahead and (dominator := self.joins.dominators.get(step)) is not None:
            found |= self.ahead[self.flow.start if dominator == ROOT else dominator]
        return found

    def earlier(self, step: str, outcome: Outcome) -> Sequence[str]:
        """The steps whose branches, and all that comes of them, are over when a step is entered from a fork."""
        return outcome.targets[: outcome.targets.index(step)] if self.ahead else ()

    def must_enter(self, step: str) -> int:
        found = 0 if step == self.flow.start else EVERYTHING
        if self.waits(step):
            return found & self.must_join(step)
        for before, outcome in self.before[step]:
            self.look()
            behind = self.behind(before, outcome)
            for earlier in self.earlier(step, outcome):
                behind |= self.done[earlier]
            found &= behind
        return found

    def behind(self, step: str, outcome: Outcome) -> int:
        """What must be there behind an outcome: everything, where it cannot be."""
        known = self.found.must[step]
        if known == EVERYTHING or outcome.gone & known:
            return EVERYTHING
        return known | outcome.gen

    def must_join(self, join: str) -> int:
        dominator = self.joins.dominators[join]
        brought = self.brought(join)
        found = EVERYTHING
        for source in (dominator, join):
            if source == ROOT:
                first = brought.get(self.flow.start, ELSEWHERE)
                found &= first.bits
                continue
            for outcome in self.outcomes[source]:
                by = self.by_outcome(source, outcome, brought)
                if by is not None and by.can:
                    found &= by.bits
        return found

    def brought(self, join: str) -> dict[str, Brought]:
        """What a branch at each step of the region of a join brings to it."""
        region = self.regions[join]
        brought = dict.fromkeys(region, Brought())
        brought[join] = ARRIVED
        again = True
        while again:
            again = False
            for step in region:
                found = self.by_step(step, brought)
                if found != brought[step]:
                    brought[step] = found
                    again = again or self.flow.is_cyclic(step)
        return brought

    def by_step(self, step: str, brought: Mapping[str, Brought]) -> Brought:
        bits, can, certain, own, left = EVERYTHING, False, True, True, EVERYTHING
        for outcome in self.outcomes[step]:
            by = self.by_outcome(step, outcome, brought)
            if by is None:
                continue
            certain = certain and by.certain
            left &= by.left
            if by.can:
                bits, can, own = bits & by.bits, True, own and by.own
        return Brought(bits, can, certain, own, left)

    def by_outcome(self, step: str, outcome: Outcome, brought: Mapping[str, Brought]) -> Brought | None:
        """What the branches bring that go on from a step; None where the outcome cannot be."""
        self.look()
        behind = self.behind(step, outcome)
        if behind == EVERYTHING and outcome.gone & self.found.must[step]:
            return None
        each = [self.by_target(target, brought) for target in outcome.targets]
        arriving = [by for by in each if by.can]
        certain = [by for by in each if by.certain]
        left = 0
        if self.in_turns:
            left = behind
            for by in each:
                left |= by.left
        if not arriving:
            return Brought(EVERYTHING, can=False, certain=bool(certain), left=EVERYTHING if certain else left)
        own = any(by.own for by in certain) if certain else all(by.own for by in arriving)
        bits = together(each)
        if own:
            bits |= behind
        return Brought(bits, True, bool(certain), own, bits | left if certain else left)

    def by_target(self, target: str, brought: Mapping[str, Brought]) -> Brought:
        by = brought.get(target, ELSEWHERE)
        if target in self.joins.discriminators and by.own:
            return Brought(by.bits, by.can, by.certain, False, by.left)
        return by

    def at_end(self) -> int:
        """What is there when all branches have ended, none of them by a failure."""
        over = dict.fromkeys(self.order, EVERYTHING)

        def by_then(step: str) -> int:
            found = EVERYTHING
            for outcome in self.outcomes[step]:
                if not outcome.is_unhandled:
                    behind = self.behind(step, outcome)
                    for target in outcome.targets:
                        behind |= over[target]
                    found &= behind
            return found

        self.backwards(over, by_then)
        return over[self.flow.start]

    def look_ahead(self) -> None:
        """Find for every step what may come of a branch that enters it, and what has when it is over: a join that may wait for
        other branches is not.
        """
        self.ahead = dict.fromkeys(self.order, 0)
        self.done = dict.fromkeys(self.order, EVERYTHING)

        def may_come(step: str) -> int:
            found = 0
            for outcome in self.outcomes[step]:
                found |= outcome.may
                for target in outcome.targets:
                    found |= self.ahead[target]
            return found

        def has_come(step: str) -> int:
            found = EVERYTHING
            for outcome in self.outcomes[step]:
                behind = outcome.gen
                for target in outcome.targets:
                    if target not in self.joins.dominators:
                        behind |= self.done[target]
                found &= behind
            return found

        self.backwards(self.ahead, may_come)
        self.backwards(self.done, has_come)

    def backwards(self, found: dict[str, int], at: Callable[[str], int]) -> None:
        """Work out something of every step from what is known of those behind it."""
        for steps in reversed(self.components):
            is_cyclic = self.flow.is_cyclic(steps[0])
            changed = True
            while changed:
                changed = False
                for step in reversed(steps):
                    self.look()
                    known = at(step)
                    if known != found[step]:
                        found[step] = known
                        changed = is_cyclic


def together(each: Sequence[Brought]) -> int:
    """What branches bring that have parted, if at least one of them arrives."""
    if len(each) == 1:
        return each[0].bits
    before, behind = [0], [0]
    for by in each[:-1]:
        before.append(before[-1] | by.left)
    for by in reversed(each[1:]):
        behind.append(behind[-1] | by.left)
    found = EVERYTHING
    for by, earlier, later in zip(each, before, reversed(behind), strict=True):
        if by.can:
            found &= by.bits | earlier | later
    return found


def _reverse_postorder(flow: Flow) -> Iterator[str]:
    """The steps that can be reached, each before those it leads to as far as cycles let it be."""
    found: list[str] = []
    seen = {flow.start}
    stack = [(flow.start, iter(flow.graph.successors(flow.start)))]
    while stack:
        step, following = stack[-1]
        for target in following:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(flow.graph.successors(target))))
                break
        else:
            found.append(step)
            stack.pop()
    return reversed(found)
