"""Transfer functions: fact sets, the effects of steps, and the graph of the exits of steps.

Problem: The solver (`noetl.planner.dataflow.solver`) needs a summary of each step that does not depend on the
facts at its entry. Then a step is analysed once, and not in every iteration.

Algorithm: Gen sets of a classic data-flow framework (Kildall 1973). Nothing that a branch has assigned is
taken from it again, so there are no kill sets. A step has one gen set for each of its exits: a case or no
case, after success or failure. An exit may also have preconditions on the facts at entry, from the guards
that select it. The exits are the edges of the graph that the solver works on.

Cost: A fact set is one integer, so each operation takes time linear in the number of facts, in machine words.
`MAX_EVALUATIONS` bounds the evaluations of exits in one analysis.

Limits: An exit states its preconditions as facts that must not, or must possibly, hold at entry. Any other
relation between entry and exit is ignored, which makes the analysis less precise but never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from noetl.planner.dataflow.narrowing import ANY_RESULT, FAILED, RunResults
from noetl.planner.graph.cfg import ControlFlowGraph
from noetl.planner.graph.joins import Joins
from noetl.planner.program.template_uses import TemplateUse

if TYPE_CHECKING:

    class FactSet:
        """A set of facts, with the operators of a set. A single fact is the set with one member.

        When the program runs it is an `int` with one bit per fact, which
        `noetl.planner.dataflow.fact_encoding` assigns. The type checker sees this class, so that no other
        number is used as a fact set.
        """

        def __init__(self, bits: int) -> None: ...
        def __and__(self, other: FactSet) -> FactSet: ...
        def __or__(self, other: FactSet) -> FactSet: ...
        def __xor__(self, other: FactSet) -> FactSet: ...
        def __invert__(self) -> FactSet: ...
        def __rshift__(self, count: int) -> FactSet: ...
        def __lshift__(self, count: int) -> FactSet: ...
        def __int__(self) -> int: ...
        def bit_length(self) -> int: ...

else:
    FactSet = int

EMPTY = FactSet(0)
"""The set without facts."""

ALL_FACTS = FactSet(-1)
"""The fact set with every fact: the top of the lattice. It stands for a place that no run reaches."""

Implications = Mapping[FactSet, FactSet]
"""The facts that hold wherever a single fact holds."""

MAX_EVALUATIONS = 250_000
"""How many evaluations of step exits one analysis may take."""


def split_facts(facts: FactSet) -> Iterator[FactSet]:
    """Yield the single facts of a set.

    >>> [bin(fact) for fact in split_facts(FactSet(0b1101))]
    ['0b1', '0b100', '0b1000']
    """
    rest = int(facts)
    while rest:
        lowest = rest & -rest
        yield FactSet(lowest)
        rest ^= lowest


def with_implied(facts: FactSet, implications: Implications) -> FactSet:
    """Return facts and all that they imply.

    >>> bin(with_implied(FactSet(0b11), {FactSet(0b1): FactSet(0b101)}))
    '0b111'
    """
    for fact in split_facts(facts):
        facts |= implications.get(fact, EMPTY)
    return facts


class UnmetRead(NamedTuple):
    """A template that requires facts.

    `may` are the facts that the step itself may have added before. `results` are the results of the step's
    `run` after which the template is read.
    """

    facts: FactSet
    may: FactSet
    results: RunResults
    use: TemplateUse


class UnmetCall(NamedTuple):
    """The call of a task that requires facts, with `may` and `results` as in `UnmetRead`."""

    facts: FactSet
    may: FactSet
    results: RunResults
    task: TaskEffects


class TaskEffects(NamedTuple):
    """The facts that a call of a task requires and adds, whatever holds before it, and whether it may fail.

    `required_from_entry` is the part of `required` that nothing earlier in the task may have assigned.
    """

    reads: Sequence[UnmetRead | UnmetCall]
    required: FactSet
    required_from_entry: FactSet
    gen: FactSet
    may_gen: FactSet
    may_fail: bool
    may_tolerate_failure: bool


class AbstractState(NamedTuple):
    """The state of a visit of a step: the facts that its work and its guards have added.

    `assigned` certainly hold, `may` are those that the step itself may have added. The `results` of the `run`
    are possible here; while it goes on, any is. `on_success` are the facts that hold if its result is a
    success without any failure that `on_error: continue` tolerates.

    The state is impossible if a fact of `unassigned_on_entry` must hold on entry of the step, or a fact of
    `assigned_on_entry` cannot hold on entry.
    """

    assigned: FactSet = EMPTY
    may: FactSet = EMPTY
    on_success: FactSet = EMPTY
    results: RunResults = ANY_RESULT
    unassigned_on_entry: FactSet = EMPTY
    assigned_on_entry: FactSet = EMPTY

    @property
    def failed(self) -> bool:
        """True if the `run` has failed."""
        return bool(self.results & FAILED)


@dataclass(frozen=True, slots=True)
class StepExit:
    """One way in which a visit of a step ends: by a case or by none, after success or failure.

    `gen` are the facts that hold after the exit in every run, `may_gen` those that the visit may add. The
    preconditions are those of `AbstractState`. With `on_reentry` the step was visited before. With `ends_run`
    the run stops here.
    """

    step: str
    case: int | None
    failed: bool
    targets: tuple[str, ...]
    gen: FactSet
    may_gen: FactSet
    unassigned_on_entry: FactSet = EMPTY
    assigned_on_entry: FactSet = EMPTY
    on_reentry: bool = False
    ends_run: bool = False

    @property
    def is_unhandled_failure(self) -> bool:
        """True if the visit fails and no case handles the failure."""
        return self.failed and self.case is None


@dataclass(frozen=True, slots=True)
class StepEffects:
    """The facts that a visit of a step requires, and all its exits.

    `required_from_entry` is the part of `required` that nothing earlier in the step may have assigned. The
    last two fields are by the index of a case. `taken` holds the facts in each situation in which the case
    may be taken. `ruled_out` says why a case is never taken: because of which facts, and in words.
    """

    reads: Sequence[UnmetRead | UnmetCall]
    required: FactSet
    required_from_entry: FactSet
    exits: Sequence[StepExit] = ()
    taken: Mapping[int, Sequence[AbstractState]] = field(default_factory=dict)
    ruled_out: Mapping[int, tuple[FactSet, str]] = field(default_factory=dict)


class AnalysisLimitError(Exception):
    """The analysis would take more than `MAX_EVALUATIONS` evaluations."""


class ExitGraph:
    """The reachable steps, with their exits as edges.

    `order` is the position of each step in reverse postorder. `exits` are the exits of each step after which
    the run continues, `incoming` those that lead to it. `waiting_joins` are the steps at which branches wait
    for each other. `regions` are the steps of the region of each join, from the join backward. `components`
    are the strongly connected components in topological order.
    """

    def __init__(self, cfg: ControlFlowGraph, joins: Joins, effects: Mapping[str, StepEffects]) -> None:
        self.cfg = cfg
        self.joins = joins
        self.evaluations = 0
        self.order = {step: position for position, step in enumerate(_reverse_postorder(cfg))}
        self.exits = {
            step: [exit_ for exit_ in effects[step].exits if not exit_.ends_run] for step in self.order
        }
        self.incoming: dict[str, list[StepExit]] = {step: [] for step in self.order}
        for exits in self.exits.values():
            for exit_ in exits:
                for target in exit_.targets:
                    self.incoming[target].append(exit_)
        self.waiting_joins = joins.dominators.keys() - joins.discriminators
        self.regions: dict[str, list[str]] = {join: [] for join in joins.dominators}
        self.components = [sorted(steps, key=self.order.__getitem__) for steps in reversed(cfg.components)]
        for steps in reversed(self.components):
            for step in reversed(steps):
                for join in joins.regions.get(step, ()):
                    self.regions[join].append(step)

    def spend(self, evaluations: int = 1) -> None:
        """Count evaluations of exits.

        Raises:
            AnalysisLimitError: there are more than `MAX_EVALUATIONS` of them.
        """
        self.evaluations += evaluations
        if self.evaluations > MAX_EVALUATIONS:
            raise AnalysisLimitError

    def solve_backward(
        self, bottom: FactSet, evaluate: Callable[[str, Mapping[str, FactSet]], FactSet]
    ) -> Mapping[str, FactSet]:
        """Return the solution of a backward problem. `evaluate(step, values)` reads those of later steps."""
        values = dict.fromkeys(self.order, bottom)
        for steps in reversed(self.components):
            is_cyclic = steps[0] in self.cfg.cyclic_steps
            is_changed = True
            while is_changed:
                is_changed = False
                for step in reversed(steps):
                    self.spend()
                    value = evaluate(step, values)
                    if value != values[step]:
                        values[step] = value
                        is_changed = is_cyclic
        return values


def _reverse_postorder(cfg: ControlFlowGraph) -> Iterator[str]:
    """Return the reachable steps, each before the steps that it leads to, as far as cycles allow."""
    postorder: list[str] = []
    seen = {cfg.start}
    stack = [(cfg.start, iter(cfg.graph.successors(cfg.start)))]
    while stack:
        step, successors = stack[-1]
        for target in successors:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(cfg.graph.successors(target))))
                break
        else:
            postorder.append(step)
            stack.pop()
    return reversed(postorder)
