"""What is there when a step is entered: what may be, and what must be, whatever guards say.

A step that branches enter one by one has for certain what is there on every way to it. At a join the names of all branches
that have arrived come together, and some may have ended on the way: what is certain there is what every set of
arrivals has in common. This is found backwards from the join: for each step of its region, what a branch that stands
there brings to the join, and whether it arrives at all.

Where branches go one after another, a branch sees besides what those before it have saved, whether they arrive or end.

The sets are bits of integers (`noetl.planner.dataflow.fact_encoding`). On cycles both are fixed points: the least of what may be there, and the
greatest of what must (Kam and Ullman, 1977).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import chain
from typing import NamedTuple

from noetl.planner.dataflow.sequential import Turns
from noetl.planner.dataflow.transfer import EVERYTHING, Assumed, Implications, Outcome, Visit
from noetl.planner.graph.cfg import Flow
from noetl.planner.graph.joins import ROOT, Joins

MAX_LOOKS = 250_000
"""How often an outcome of a step is looked at: past it nothing is known."""


class TooManyLooksError(Exception):
    """The ways are too many to look at."""


class Brought(NamedTuple):
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
    """For every step that can be reached what may and what must be there when it is entered, `again` of some what must be when
    they have been visited before, and what is there when all branches have ended:
    `end_must` if none of them has by a failure, `end_anyhow` also if some have and the run went on.
    """

    may: dict[str, int] = field(default_factory=dict)
    must: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)
    end_may: int = 0
    end_must: int = 0
    end_anyhow: int = 0


class Ways:
    """The ways through a flow, and what is there on them: `found`, once `find` has been called.

    `on_failure` says of each step what a failure does that no case handles, `at_start` are the bits that are there when a run
    starts, and `resolved` adds to bits what is there with them. No join may be a `Runaway`.
    """

    def __init__(
        self,
        flow: Flow,
        joins: Joins,
        visits: Mapping[str, Visit],
        on_failure: Mapping[str, str],
        at_start: int = 0,
        *,
        in_turns: bool,
        resolved: Callable[[int], int] = int,
    ) -> None:
        self.flow = flow
        self.resolved = resolved
        self.joins = joins
        self.at_start = at_start
        self.in_turns = in_turns
        self.found = Produced()
        self.looks = 0
        self.order = {step: at for at, step in enumerate(_reverse_postorder(flow))}
        self.steps = list(self.order)
        self.under: dict[str, list[str]] = {}
        for join, dominator in joins.dominators.items():
            self.under.setdefault(dominator, []).append(join)
        self.outcomes = {
            step: tuple(
                o for o in visits[step].outcomes if not o.is_unhandled or on_failure[step] == "continue"
            )
            for step in self.order
        }
        self.before: dict[str, list[tuple[str, Outcome]]] = {step: [] for step in self.order}
        for step in self.order:
            for outcome in self.outcomes[step]:
                for target in outcome.targets:
                    self.before[target].append((step, outcome))
        self.turns: Turns | None = None
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
            self.turns = Turns(self)
        found.may = dict.fromkeys(self.order, 0)
        found.must = dict.fromkeys(self.order, EVERYTHING)
        found.again = {step: EVERYTHING for step in self.order if self.comes_back(step)}
        for steps in self.components:
            self.settle(steps)
        found.end_may = self.at_start
        for outcomes in self.outcomes.values():
            for outcome in outcomes:
                found.end_may |= outcome.made
        found.end_must = self.at_end(forgiving=False)
        found.end_anyhow = found.end_must & self.at_end(forgiving=True) if self.forgives else found.end_must
        return found

    def implications(self) -> Implications:
        """What is there wherever something else is."""
        made = ((o.made, self.behind(step, o)) for step in self.order for o in self.outcomes[step])
        return Implications(chain([(self.at_start, self.at_start)], made))

    @property
    def forgives(self) -> bool:
        """Whether a branch may end by a failure, and the run goes on."""
        return any(outcome.is_unhandled for outcomes in self.outcomes.values() for outcome in outcomes)

    def settle(self, steps: Sequence[str]) -> None:
        """Find what is there at the steps of a component, each of which may lead to any other."""
        may, must, coming_back = self.found.may, self.found.must, self.found.again
        is_cyclic = self.flow.is_cyclic(steps[0])
        again = [self.order[step] for step in steps]
        waiting = set(again) if is_cyclic else set()
        while again:
            at = heappop(again)
            waiting.discard(at)
            step = self.steps[at]
            # What cannot be entered leads nowhere, so that this comes first.
            entered = self.resolved(self.must_enter(step))
            before = (may[step], must[step], coming_back.get(step))
            must[step] = entered
            may[step] = self.may_enter(step)
            if step in coming_back:
                coming_back[step] = self.must_come_back(step)
            if is_cyclic and (may[step], entered, coming_back.get(step)) != before:
                for other in {self.order[name] for name in self.depending(step)} - waiting:
                    waiting.add(other)
                    heappush(again, other)

    def depending(self, step: str) -> Iterator[str]:
        """The steps of a component that what is there at a step may change, and itself."""
        component = self.flow.component
        others = (
            *self.flow.graph.successors(step),
            *self.joins.regions.get(step, ()),
            *self.under.get(step, ()),
            step,
        )
        return (other for other in others if component[other] == component[step])

    def look(self, times: int = 1) -> None:
        self.looks += times
        if self.looks > MAX_LOOKS:
            raise TooManyLooksError

    def waits(self, step: str) -> bool:
        """Whether branches wait for each other at a step."""
        return step in self.joins.dominators and step not in self.joins.discriminators

    def may_enter(self, step: str) -> int:
        found = self.at_start
        for before, outcome in self.before[step]:
            if self.found.must[before] == EVERYTHING or not self.can_be(before, outcome):
                continue
            found |= self.found.may[before] | outcome.made
            if self.turns is not None:
                found |= self.turns.in_order(before, outcome)[step][0]
        if self.turns is not None and (dominator := self.joins.dominators.get(step)) is not None:
            found |= self.turns.ahead[self.flow.start if dominator == ROOT else dominator]
        return found

    def must_enter(self, step: str) -> int:
        found = self.at_start if step == self.flow.start else EVERYTHING
        if self.waits(step):
            return found & self.must_join(step)
        for before, outcome in self.before[step]:
            self.look()
            behind = self.behind(before, outcome)
            if self.turns is not None:
                behind |= self.turns.in_order(before, outcome)[step][1]
            found &= behind
        return found

    def comes_back(self, step: str) -> bool:
        """Whether it is known by which way the one branch that visits a step comes to it again, and some outcome needs that."""
        is_alone = step not in self.joins.dominators and step not in self.joins.multi
        return (
            is_alone and self.flow.is_cyclic(step) and any(outcome.again for outcome in self.outcomes[step])
        )

    def must_come_back(self, step: str) -> int:
        component = self.flow.component
        found = EVERYTHING
        for before, outcome in self.before[step]:
            if component[before] == component[step]:
                self.look()
                found &= self.behind(before, outcome)
        return found

    def behind(self, step: str, outcome: Outcome) -> int:
        """What must be there behind an outcome: everything, where it cannot be."""
        known = self.found.must[step]
        if outcome.again:
            known |= self.found.again.get(step, 0)
        if known == EVERYTHING or ((outcome.gone or outcome.asked) and not self.can_be(step, outcome)):
            return EVERYTHING
        return self.resolved(known | outcome.gen)

    def can_be(self, step: str, outcome: Outcome | Assumed) -> bool:
        """Whether what must and may be there when a step is entered lets an outcome be."""
        return not outcome.gone & self.found.must[step] and not outcome.asked & ~self.found.may[step]

    def possible(self, step: str) -> list[Outcome]:
        """The outcomes of a step that can be."""
        return [outcome for outcome in self.outcomes[step] if self.can_be(step, outcome)]

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
                by = self.by_outcome(source, outcome, brought, join)
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
                found = self.by_step(step, brought, join)
                if found != brought[step]:
                    brought[step] = found
                    again = again or self.flow.is_cyclic(step)
        return brought

    def by_step(self, step: str, brought: Mapping[str, Brought], join: str) -> Brought:
        found, can, certain, own, left = EVERYTHING, False, True, True, EVERYTHING
        for outcome in self.outcomes[step]:
            by = self.by_outcome(step, outcome, brought, join)
            if by is None:
                continue
            certain = certain and by.certain
            left &= by.left
            if by.can:
                found, can, own = found & by.bits, True, own and by.own
        return Brought(found, can, certain, own, left)

    def by_outcome(
        self, step: str, outcome: Outcome, brought: Mapping[str, Brought], join: str
    ) -> Brought | None:
        """What the branches bring that go on from a step; None where the outcome cannot be."""
        self.look(max(len(outcome.targets), 1))
        behind = self.behind(step, outcome)
        if behind == EVERYTHING and not self.can_be(step, outcome):
            return None
        if len(outcome.targets) == 1 and not self.in_turns:
            # As below, for one.
            by = self.by_target(outcome.targets[0], brought)
            if not by.can:
                return by
            found = by.bits | behind if by.own else by.bits
            return Brought(found, True, by.certain, by.own, found if by.certain else 0)
        each = [self.by_target(target, brought) for target in outcome.targets]
        if self.turns is not None:
            for at, earlier in self.turns.left_before(step, outcome, join).items():
                each[at] = Brought(EVERYTHING, certain=False, left=earlier)
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
        found = together(each)
        if own:
            found |= behind
        return Brought(found, True, bool(certain), own, found | left if certain else left)

    def by_target(self, target: str, brought: Mapping[str, Brought]) -> Brought:
        by = brought.get(target, ELSEWHERE)
        if target in self.joins.discriminators and by.own:
            return Brought(by.bits, by.can, by.certain, False, by.left)
        return by

    def at_end(self, *, forgiving: bool) -> int:
        """What is there when all branches have ended, none of them by a failure unless that is forgiven."""
        over = dict.fromkeys(self.order, EVERYTHING)

        def by_then(step: str) -> int:
            found = EVERYTHING
            for outcome in self.outcomes[step]:
                if forgiving or not outcome.is_unhandled:
                    behind = self.behind(step, outcome)
                    for target in outcome.targets:
                        behind |= over[target]
                    found &= behind
            return found

        self.backwards(over, by_then)
        return over[self.flow.start]

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
