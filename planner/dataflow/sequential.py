"""What branches that go one after another leave to those behind them.

A join fires as soon as no branch that is alive can come to it any more, and goes before all that wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from noetl.planner.dataflow.transfer import EVERYTHING, Outcome
from noetl.planner.graph.bitset import bits
from noetl.planner.graph.joins import ROOT

if TYPE_CHECKING:
    from noetl.planner.dataflow.solver import Ways


class Turns:
    """`ahead` is what may come of a branch that enters a step, `done` what has when it is over, with a bit above all others for
    every join at which one of its branches may still wait: its mark.
    """

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.width = max(
            (max(o.gen.bit_length(), o.made.bit_length()) for each in ways.outcomes.values() for o in each),
            default=0,
        )
        self.joins = [join for join in ways.joins.dominators if ways.waits(join)]
        self.mark = {join: 1 << self.width + at for at, join in enumerate(self.joins)}
        self.leading = dict.fromkeys(ways.order, 0)
        """For each step the marks of the joins that a branch can come to from there, or has."""
        self.held = dict.fromkeys(ways.order, 0)
        """And of those that may wait for a branch behind the one that stands there."""
        for join in self.joins:
            for step in (*ways.regions[join], join):
                self.leading[step] |= self.mark[join]
        for join in self.joins:
            self.hold(join)
        self.ahead = dict.fromkeys(ways.order, 0)
        self.done = dict.fromkeys(ways.order, EVERYTHING)
        ways.backwards(self.ahead, self.may_come)
        ways.backwards(self.done, self.has_come)
        self.before: dict[int, dict[str, tuple[int, int]]] = {}

    def hold(self, join: str) -> None:
        """Find the steps of the region of a join at which a branch may stand before another one that can still come to the join."""
        ways, mark, dominator = self.ways, self.mark[join], self.ways.joins.dominators[join]
        stack = []
        for step in (*ways.regions[join], *(() if dominator == ROOT else (dominator,))):
            for outcome in ways.outcomes[step]:
                ways.look(len(outcome.targets))
                is_held = False
                for target in reversed(outcome.targets):
                    if is_held and self.leading[target] & mark:
                        stack.append(target)
                    is_held = is_held or bool(self.leading[target] & mark and not ways.waits(target))
        while stack:
            step = stack.pop()
            if step != join and not self.held[step] & mark:
                ways.look()
                self.held[step] |= mark
                stack += [
                    target for target in ways.flow.graph.successors(step) if self.leading[target] & mark
                ]

    def may_come(self, step: str) -> int:
        found = 0
        for outcome in self.ways.outcomes[step]:
            found |= outcome.made
            for target in outcome.targets:
                found |= self.ahead[target]
        return found

    def has_come(self, step: str) -> int:
        found = EVERYTHING
        for outcome in self.ways.outcomes[step]:
            self.ways.look(len(outcome.targets))
            behind = outcome.gen
            for target in outcome.targets:
                behind |= self.over(target)
            found &= self.fired(behind, self.held[step])
        return found

    def over(self, target: str) -> int:
        """What has come of a branch when it is over, or waits."""
        return self.mark[target] if target in self.mark else self.done[target]

    def fired(self, done: int, waiting: int) -> int:
        """The same with what comes of the joins that have not to wait."""
        looked = waiting
        while done != EVERYTHING and (marks := (done & ~looked) >> self.width):
            looked |= marks << self.width
            for at in bits(marks):
                join = self.joins[at]
                if self.done[join] == EVERYTHING:
                    return EVERYTHING
                done = done & ~self.mark[join] | self.done[join]
        return done

    def unmarked(self, done: int) -> int:
        return done if done == EVERYTHING else done & (1 << self.width) - 1

    def in_order(self, fork: str, outcome: Outcome) -> Mapping[str, tuple[int, int]]:
        """For each target of a fork what may, and what must, have come of others when it is entered."""
        found = self.before.get(id(outcome))
        if found is None:
            found = self.before[id(outcome)] = dict(self._in_order(fork, outcome.targets))
        return found

    def _in_order(self, fork: str, targets: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
        # Joins that wait are come to at once.
        self.ways.look(len(targets))
        at_once = [target for target in targets if self.ways.waits(target)]
        may = must = 0
        for target in at_once:
            may |= self.ahead[target]
            must |= self.mark[target]
        waiting = [self.held[fork]]
        for target in reversed(targets):
            waiting.append(waiting[-1] | (0 if self.ways.waits(target) else self.leading[target]))
        found = []
        for target, later in zip(targets, reversed(waiting[1:]), strict=True):
            found.append((target, (may, self.unmarked(self.fired(must, later | self.leading[target])))))
            may |= self.ahead[target]
            must |= self.over(target)
        return found

    def left_before(self, fork: str, outcome: Outcome, join: str) -> Mapping[int, int]:
        """What branches that do not come to a join leave before others that do, by the index of their target."""
        found = {}
        mark = self.mark[join]
        waiting, is_before = self.held[fork], False
        for at in range(len(outcome.targets) - 1, -1, -1):
            target = outcome.targets[at]
            if self.leading[target] & mark:
                is_before = is_before or not self.ways.waits(target)
            elif is_before:
                found[at] = self.unmarked(self.fired(self.over(target), waiting))
            waiting |= 0 if self.ways.waits(target) else self.leading[target]
        return found
