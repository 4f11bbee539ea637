"""Transfer functions: what work requires, and which facts it adds, whatever held before it.

Problem: The solver (`noetl.planner.dataflow.solver`) needs a summary of each step that does not depend on the
facts at its entry. Then a step is analysed once, and not in every iteration.

Algorithm: Gen sets of a classic data-flow framework (Kildall 1973). Nothing that a branch has assigned is
taken from it again, so there are no kill sets. A step has one gen set for each of its exits: a case or no
case, after success or failure. An exit may also have preconditions on the facts at entry, from the guards
that select it.

Cost: A fact set is one integer, so each operation takes time linear in the number of facts, in machine words.

Limits: An exit states its preconditions as facts that must not, or must possibly, hold at entry. Any other
relation between entry and exit is ignored, which makes the analysis less precise but never wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from noetl.planner.dataflow.narrowing import ANY_RESULT, FAILED, NOT_FAILED, SUCCEEDED, RunResults
from noetl.planner.graph.bitset import bit_indexes
from noetl.planner.program.template_uses import TemplateUse

FactSet = int
"""A set of facts as a bit set. A single fact is the set with one bit.

`noetl.planner.dataflow.fact_encoding` assigns the bits.
"""

ALL_FACTS: FactSet = -1
"""The fact set with every fact: the top of the lattice. It stands for a place that no run reaches."""


@dataclass(frozen=True, slots=True)
class StepExit:
    """One way in which a visit of a step ends: by a case or by none, after success or failure.

    `gen` are the facts that hold after the exit in every run, `may_gen` those that the visit may add. The
    exit is impossible if a fact of `unassigned_on_entry` must hold on entry, or a fact of `assigned_on_entry`
    cannot hold on entry. With `on_reentry` the step was visited before.
    """

    case: int | None
    failed: bool
    targets: tuple[str, ...]
    gen: FactSet
    may_gen: FactSet
    unassigned_on_entry: FactSet = 0
    assigned_on_entry: FactSet = 0
    on_reentry: bool = False

    @property
    def is_unhandled_failure(self) -> bool:
        """True if the visit fails and no case handles the failure."""
        return self.failed and self.case is None


@dataclass(slots=True)
class AssignmentState:
    """The facts that the work so far has certainly added (`assigned`) and may have added (`may`).

    `assigned_on_success` are the facts that hold if the result of the work is a success without any failure
    that `on_error: continue` tolerates.
    """

    assigned: FactSet = 0
    may: FactSet = 0
    assigned_on_success: FactSet = 0


@dataclass(frozen=True, slots=True)
class UnmetRead:
    """A template that reads something which may be unassigned.

    `results` are the results of the step's `run` after which it is read. With `only_from_entry` nothing
    earlier in the step may have assigned it.
    """

    use: TemplateUse
    only_from_entry: bool
    results: RunResults


@dataclass(slots=True)
class Requirements:
    """The facts that must hold on entry: a fact set that grows as templates are read.

    `required_from_entry` is the part of `required` that nothing earlier in the same step may have assigned.
    The first template that requires a fact of `traced` is kept in `first_reads`, by the bit of the fact.
    """

    required: FactSet = 0
    required_from_entry: FactSet = 0
    traced: FactSet = 0
    first_reads: dict[FactSet, UnmetRead] = field(default_factory=dict)

    def add(self, use: TemplateUse, facts: FactSet, may: FactSet, results: RunResults = ANY_RESULT) -> None:
        """Add facts that a template requires, where the facts of `may` may have been added before it."""
        self.required |= facts
        self.required_from_entry |= facts & ~may
        traced = facts & self.traced
        while traced:
            bit = traced & -traced
            traced ^= bit
            self.traced ^= bit
            self.first_reads[bit] = UnmetRead(use, not bit & may, results)


@dataclass(frozen=True, slots=True)
class TaskEffects:
    """The facts that a call of a task requires and adds, and whether it may fail or tolerate a failure."""

    required: FactSet
    required_from_entry: FactSet
    gen: FactSet
    may_gen: FactSet
    may_tolerate_failure: bool
    may_fail: bool


class Implications:
    """Facts that hold wherever another fact holds.

    A fact A implies B if B holds after every exit that may add A. This is sound because a branch never loses
    a fact.
    """

    def __init__(self, definitions: Iterable[tuple[FactSet, FactSet]]) -> None:
        """Each definition is a pair: the facts that an exit may add, and all facts that hold after it."""
        self.definitions = definitions
        self._by_index: dict[int, list[FactSet]] | None = None
        self._implied: dict[int, FactSet] = {}

    def implied_by(self, facts: FactSet) -> FactSet:
        """Return all facts that at least one of these facts implies.

        >>> Implications([(0b001, 0b011), (0b101, 0b111)]).implied_by(0b001)
        3
        """
        if self._by_index is None:
            self._by_index = {}
            for may_gen, certain in self.definitions:
                for index in bit_indexes(may_gen):
                    self._by_index.setdefault(index, []).append(certain)
        all_implied = 0
        for index in bit_indexes(facts):
            if index not in self._implied:
                implied = ALL_FACTS
                for certain in self._by_index.get(index, ()):
                    implied &= certain
                self._implied[index] = 0 if implied == ALL_FACTS else implied
            all_implied |= self._implied[index]
        return all_implied


class CaseFacts(NamedTuple):
    """The facts where a case is evaluated or taken.

    `assigned` hold there. `unassigned_on_entry` and `assigned_on_entry` are preconditions on the facts at the
    entry of the step, as in `StepExit`.
    """

    assigned: FactSet
    unassigned_on_entry: FactSet = 0
    assigned_on_entry: FactSet = 0


@dataclass(frozen=True, slots=True)
class StepEffects:
    """The requirements of a visit of a step, and all its exits.

    The last three fields are by the index of a case. `taken` holds the facts in each situation in which the
    case may be taken. A case in `shadowed` is never taken, because a case before it always is, given these
    facts. A case in `refuted` is never taken, because its guard is false given these facts.
    """

    required: FactSet
    required_from_entry: FactSet
    exits: tuple[StepExit, ...]
    taken: Mapping[int, Sequence[CaseFacts]] = field(default_factory=dict)
    shadowed: Mapping[int, FactSet] = field(default_factory=dict)
    refuted: Mapping[int, FactSet] = field(default_factory=dict)


class CaseStates:
    """The facts after success and after failure, while the cases of a rule are evaluated in order.

    The boolean keys say whether the `run` has failed. `possible_results` are the results for which no case
    has been taken yet. `when_taken` holds the facts where the present case is taken, `when_passed` those
    where it is not: `None` if it always is taken. The guard of the present case is false given
    `refuting_facts`. Given `shadowing_facts`, which the step itself requires or adds, some earlier case is
    always taken after success.
    """

    def __init__(
        self, success: AssignmentState, failure: AssignmentState, possible_results: RunResults
    ) -> None:
        self.possible_results = possible_results
        self.facts = {False: CaseFacts(success.assigned), True: CaseFacts(failure.assigned)}
        self.may_gen = {False: success.may, True: failure.may}
        self.assigned_on_success = success.assigned_on_success
        self.when_taken: dict[bool, CaseFacts] = {}
        self.when_passed: dict[bool, CaseFacts | None] = {}
        self.refuting_facts = 0
        self.shadowing_facts = 0

    def results(self, *, failed: bool) -> RunResults:
        """Return the results, after failure or not, with which the present case is reached."""
        return self.possible_results & (FAILED if failed else NOT_FAILED)

    def current_facts(self, *, failed: bool) -> CaseFacts:
        """Return the facts where the present case is taken, or where it is reached if that is not known."""
        facts = self.when_taken.get(failed)
        if facts is None:
            return self.with_success_facts(self.facts[failed], self.results(failed=failed))
        return facts

    def with_success_facts(self, facts: CaseFacts, results: RunResults) -> CaseFacts:
        """Return the facts with those of a success, if success is the only possible result."""
        if results != SUCCEEDED or not self.assigned_on_success & ~facts.assigned:
            return facts
        return facts._replace(assigned=facts.assigned | self.assigned_on_success)

    def may(self, *, failed: bool) -> FactSet:
        """Return the facts that the step may have added."""
        return self.may_gen[failed] | self.current_facts(failed=failed).assigned

    def advance(self) -> None:
        """Continue with the next case."""
        for failed, facts in self.when_passed.items():
            if facts is None:
                self.possible_results &= NOT_FAILED if failed else FAILED
            else:
                self.facts[failed] = facts
        self.when_taken, self.when_passed, self.refuting_facts = {}, {}, 0
