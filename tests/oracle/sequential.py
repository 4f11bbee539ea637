"""Sequential mode: a stack of branches (section 5 of the language reference)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.oracle.ending import EndedBranches, end_run
from tests.oracle.outcome import AllowedOutcome
from tests.oracle.program import NotCoveredError
from tests.oracle.visit import ChoiceSequence, VisitPerformer


@dataclass(frozen=True)
class StackedBranch:
    """A branch on the stack. One that has not fired arrives at its step when it gets its turn."""

    step: str
    history: frozenset[tuple[str, int]]  # the visits that it comes from
    has_fired: bool = False


@dataclass
class SequentialRun:
    """One run in sequential mode; only choices within visits make a difference."""

    performer: VisitPerformer
    choices: ChoiceSequence
    stack: list[StackedBranch] = field(default_factory=list)
    arrivals: dict[str, list[StackedBranch]] = field(default_factory=dict)  # in the order of first arrivals
    saved: dict[str, Any] = field(default_factory=dict)  # one set of names
    records: dict[str, Any] = field(default_factory=dict)  # and one history of steps
    visits: dict[str, int] = field(default_factory=dict)
    order: list[list[Any]] = field(default_factory=list)
    failures: list[Any] = field(default_factory=list)

    def perform(self) -> AllowedOutcome:
        """Perform the run to its end."""
        graph = self.performer.program.graph
        waves: set[tuple[str, int, int]] = set()
        is_aborted = False
        self.stack.append(StackedBranch(graph.start, frozenset()))
        while self.stack and not is_aborted:
            branch = self.stack.pop()
            if branch.has_fired:
                is_aborted = self._visit(branch)
            elif graph.join(branch.step) == "all":
                self.arrivals.setdefault(branch.step, []).append(branch)
            elif (
                graph.join(branch.step) == "each"
                or (wave := graph.wave(branch.step, branch.history)) not in waves
            ):
                if graph.join(branch.step) == "any":
                    waves.add(wave)
                self.stack.append(StackedBranch(branch.step, branch.history, has_fired=True))
            self._fire_joins()
        if self.arrivals and not is_aborted:
            raise NotCoveredError("joins wait for each other")
        ended = EndedBranches(self.saved, self.records, self.visits, self.failures, is_aborted, self.order)
        return end_run(self.performer, ended, self.choices)

    def _visit(self, branch: StackedBranch) -> bool:
        """Perform a visit, put its targets on the stack and return whether the run is aborted."""
        program = self.performer.program
        step = branch.step
        number = self.visits[step] = self.visits.get(step, 0) + 1
        self.order.append([step, number])
        done = self.performer.perform(step, number, program.names(self.saved, self.records), self.choices)
        self.saved |= done.saved
        self.records[step] = done.record
        history = branch.history | {(step, number)}
        # The target that is written first goes on top.
        self.stack += [StackedBranch(target, history) for target in reversed(done.targets)]
        if done.failure:
            self.failures.append(done.failure)
        return done.failure is not None and program.policy(step) == "abort"

    def _fire_joins(self) -> None:
        """Put every join that no branch can still reach on top, that with the earliest arrival last."""
        graph = self.performer.program.graph
        firing = [
            join
            for join in self.arrivals
            if not any(graph.waits_for(join, branch.step, branch.has_fired) for branch in self.stack)
            and not any(graph.waits_for(join, other, False) for other in self.arrivals if other != join)
        ]
        for join in reversed(firing):
            history = frozenset().union(*(branch.history for branch in self.arrivals.pop(join)))
            self.stack.append(StackedBranch(join, history, has_fired=True))
