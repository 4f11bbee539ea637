"""How a run can come to a place without having produced something: the moves that its branches make on the way.

The way is found backwards, from the place to the start, over steps at whose entry the thing is not certain. Where branches
come together, one of them has to arrive without it, and the others have to arrive without it or end on the way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from noetl.planner.dataflow.solver import Ways
from noetl.planner.dataflow.transfer import Outcome
from noetl.planner.graph.joins import ROOT

FAR = 1 << 30
"""The length of a way that there is not."""


@dataclass(frozen=True, slots=True)
class Move:
    """What happens at a visit of a step: the index of the case taken, or None; and whether the step has failed."""

    step: str
    case: int | None
    failed: bool


@dataclass(frozen=True, slots=True)
class Witness:
    """The moves of the branch that comes to a place, from the start on, and those of branches that it parted from. A step
    that neither of them names may do anything.
    """

    way: tuple[Move, ...]
    beside: tuple[Move, ...] = ()

    @property
    def moves(self) -> tuple[Move, ...]:
        return (*self.way, *self.beside)


def find_witness(ways: Ways, step: str, bit: int) -> Witness | None:
    """A way to a step on which a bit is not produced, and as short as one can be."""
    return _Search(ways, bit).to(step)


def find_end(ways: Ways, bit: int, *, forgiving: bool) -> Witness | None:
    """A way to the end of a run on which a bit is not produced; with `forgiving` also one on which branches end by failures."""
    return _Search(ways, bit).to_end(forgiving=forgiving)


@dataclass(slots=True)
class _Costs:
    """For each step of a region how many moves it takes to arrive without the bit, and to end or go elsewhere."""

    arrive: dict[str, int]
    end: dict[str, int]

    def either(self, step: str) -> int:
        return min(self.arrive.get(step, FAR), self.end.get(step, 0))


class _Search:
    def __init__(self, ways: Ways, bit: int) -> None:
        self.ways = ways
        self.bit = bit
        self.chosen: dict[str, Outcome] = {}
        self.way: list[Move] = []
        self.beside: list[Move] = []

    def lacks(self, step: str, outcome: Outcome) -> bool:
        """Whether the bit may still be lacking behind an outcome."""
        return not self.ways.behind(step, outcome) & self.bit

    def to(self, step: str) -> Witness | None:
        route = self.route(step)
        if route is None:
            return None
        for here, there in pairwise(route):
            if not self.go(here, there):
                return None
        return Witness(tuple(self.way), tuple(self.beside))

    def route(self, step: str) -> list[str] | None:
        """The steps on the way; of the regions of joins only where they begin and end."""
        following: dict[str, str | None] = {step: None}
        queue = deque([step])
        start = self.ways.flow.start
        while queue:
            here = queue.popleft()
            if here == start:
                break
            for before in self.before(here):
                if before not in following:
                    following[before] = here
                    queue.append(before)
        if start not in following:
            return None
        found = [start]
        while (there := following[found[-1]]) is not None:
            found.append(there)
        return found

    def before(self, step: str) -> Iterable[str]:
        if self.ways.waits(step):
            dominator = self.ways.joins.dominators[step]
            sources = [self.ways.flow.start if dominator == ROOT else dominator]
            return [source for source in sources if not self.ways.found.must[source] & self.bit]
        return [before for before, outcome in self.ways.before[step] if self.lacks(before, outcome)]

    def go(self, here: str, there: str) -> bool:
        """Go on from a step to the next one on the route."""
        if self.ways.waits(there):
            return self.join(here, there)
        outcomes = [o for o in self.ways.possible(here) if there in o.targets and self.lacks(here, o)]
        if not outcomes:
            return False
        self.choose(here, min(outcomes, key=lambda o: (len(o.targets), o.failed)), self.way)
        return True

    def choose(self, step: str, outcome: Outcome, moves: list[Move]) -> None:
        self.chosen[step] = outcome
        moves.append(Move(step, outcome.case, outcome.failed))

    def join(self, here: str, join: str) -> bool:
        """Let the branches that part behind a step come together without the bit."""
        costs = self.costs(join)
        if here == self.ways.flow.start and self.ways.joins.dominators[join] == ROOT:
            return costs.arrive[here] < FAR and self.arrive(here, join, costs, self.way)
        costs.arrive[here] = 0
        best = min(self.ways.possible(here), key=lambda o: self.arriving(here, o, costs)[0], default=None)
        if best is None or self.arriving(here, best, costs)[0] >= FAR:
            return False
        return self.part(here, best, join, costs, self.way)

    def part(self, step: str, outcome: Outcome, join: str, costs: _Costs, moves: list[Move]) -> bool:
        _, first = self.arriving(step, outcome, costs)
        self.choose(step, outcome, moves)
        arrived = self.arrive(outcome.targets[first], join, costs, moves)
        for at, target in enumerate(outcome.targets):
            if at != first and arrived:
                self.leave(target, join, costs)
        return arrived

    def arrive(self, step: str, join: str, costs: _Costs, moves: list[Move]) -> bool:
        if step == join:
            return True
        if step in self.chosen:
            return any(target == join or target in costs.arrive for target in self.chosen[step].targets)
        best = min(self.ways.possible(step), key=lambda o: self.arriving(step, o, costs)[0])
        return self.part(step, best, join, costs, moves)

    def leave(self, step: str, join: str, costs: _Costs) -> None:
        """Let a branch end on its way, or arrive without the bit."""
        if step == join or step in self.chosen or step not in costs.end:
            return
        if costs.arrive[step] < costs.end[step]:
            self.arrive(step, join, costs, self.beside)
            return
        outcomes = self.ways.possible(step)
        best = min(outcomes, key=lambda o: self.ending(step, o, costs), default=None)
        if best is not None:
            self.choose(step, best, self.beside)
            for target in best.targets:
                self.leave(target, join, costs)

    def costs(self, join: str) -> _Costs:
        region = self.ways.regions[join]
        costs = _Costs(dict.fromkeys(region, FAR), dict.fromkeys(region, FAR))
        costs.arrive[join], costs.end[join] = 0, FAR
        changed = True
        while changed:
            changed = False
            for step in region:
                outcomes = self.ways.possible(step)
                arrive = min((self.arriving(step, outcome, costs)[0] for outcome in outcomes), default=FAR)
                end = min((self.ending(step, outcome, costs) for outcome in outcomes), default=FAR)
                if (arrive, end) != (costs.arrive[step], costs.end[step]):
                    costs.arrive[step], costs.end[step] = arrive, end
                    changed = True
        return costs

    def arriving(self, step: str, outcome: Outcome, costs: _Costs) -> tuple[int, int]:
        """What it takes for one of the branches to arrive, and which."""
        self.ways.look()
        targets = outcome.targets
        if not self.lacks(step, outcome) and not any(
            target in self.ways.joins.discriminators for target in targets
        ):
            return FAR, 0
        each = [costs.either(target) for target in targets]
        total = 1 + sum(each)
        found = [
            (min(total - each[at] + costs.arrive[target], FAR), at)
            for at, target in enumerate(targets)
            if costs.arrive.get(target, FAR) < FAR
        ]
        return min(found, default=(FAR, 0))

    def ending(self, step: str, outcome: Outcome, costs: _Costs) -> int:
        """What it takes for a branch to end. Where branches go one after another, others see what it leaves."""
        if self.ways.in_turns and not self.lacks(step, outcome):
            return FAR
        return min(1 + sum(costs.end.get(target, 0) for target in outcome.targets), FAR)

    def to_end(self, *, forgiving: bool) -> Witness | None:
        cost = dict.fromkeys(self.ways.order, FAR)

        def ending(outcome: Outcome) -> int:
            return min(1 + sum(cost[target] for target in outcome.targets), FAR)

        def candidates(step: str) -> list[Outcome]:
            possible = self.ways.possible(step)
            return [o for o in possible if self.lacks(step, o) and (forgiving or not o.is_unhandled)]

        changed = True
        while changed:
            changed = False
            for step in reversed(self.ways.order):
                self.ways.look()
                found = min(map(ending, candidates(step)), default=FAR)
                if found != cost[step]:
                    cost[step] = found
                    changed = True
        if cost[self.ways.flow.start] >= FAR:
            return None
        stack = [(self.ways.flow.start, True)]
        while stack:
            step, is_first = stack.pop()
            if step in self.chosen:
                continue
            best = min(candidates(step), key=ending)
            self.choose(step, best, self.way if is_first else self.beside)
            stack += [(target, is_first and at == 0) for at, target in enumerate(best.targets)]
        return Witness(tuple(self.way), tuple(self.beside))
