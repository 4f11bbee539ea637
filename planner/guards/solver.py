"""Which guards can be true together: a search for values of their terms, which finds them or shows that there are none.

It is sound in one direction: that there are none is certain, since every value that a term can have at run time is in one
of its classes, and terms that depend on each other are taken for independent. The search is the method of analytic tableaux
(Smullyan, 1968), with a bound on its steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from noetl.planner.guards.formulas import All, Formula, If, Known, Literal, Not, Term, leaves_of
from noetl.planner.guards.value_classes import ABSENT, ALL_PAIRS, BOOLEANS, Classes, Outcomes, Scalar, pair

Goal = tuple[Formula, bool]
"""A formula, and whether it is to be true or false."""

Values = Mapping[Term, int]
"""For each term that something is known of, the classes that its value may be in."""

MAX_STEPS = 2_000
"""How many steps one search takes at most."""


class TooHardError(Exception):
    """The search has used up its steps."""


class Allowance:
    """How many steps all searches together may take."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def is_used_up(self) -> bool:
        return self.steps <= 0

    def search(self) -> Allowance:
        """The allowance of one search."""
        return _Part(self, min(MAX_STEPS, self.steps))

    def take(self) -> None:
        """Raises TooHardError when nothing is left."""
        self.steps -= 1
        if self.steps < 0:
            raise TooHardError


class _Part(Allowance):
    def __init__(self, whole: Allowance, steps: int) -> None:
        super().__init__(steps)
        self.whole = whole

    def take(self) -> None:
        self.whole.steps -= 1
        super().take()


class Terms:
    """The terms of some formulas, each with its classes. `constants` are those besides with which a term is compared."""

    def __init__(
        self, formulas: Iterable[Formula], constants: Callable[[Term], Iterable[Scalar]] = lambda _: ()
    ) -> None:
        compared: dict[Term, list[Scalar]] = {}
        for formula in formulas:
            for leaf in leaves_of(formula):
                if isinstance(leaf, Literal) and leaf.test != "pair":
                    compared.setdefault(leaf.term, []).extend((*leaf.constants, *leaf.instead))
        self.classes = {term: Classes((*found, *constants(term))) for term, found in compared.items()}
        self._outcomes: dict[Literal, Outcomes] = {}

    def outcomes(self, literal: Literal) -> Outcomes:
        """The classes in which the term must be for the literal to be true, or false."""
        found = self._outcomes.get(literal)
        if found is None:
            found = self._outcomes[literal] = self._find_outcomes(literal)
        return found

    def _find_outcomes(self, literal: Literal) -> Outcomes:
        if literal.test == "pair":
            return pair(literal.operator)
        classes = self.classes[literal.term]
        true, false = _tested(classes, literal)
        if literal.instead:
            replaced = ABSENT | (classes.truth[1] if literal.or_false else 0)
            value = classes.holding(literal.instead[0])
            true = true & ~replaced | (replaced if true & value else 0)
            false = false & ~replaced | (replaced if false & value else 0)
        return true, false


def _tested(classes: Classes, literal: Literal) -> Outcomes:
    match literal.test, literal.operator:
        case "truth", _:
            return classes.truth
        case "among", _:
            return classes.among(literal.constants)
        case "type", test:
            return classes.of_type(test)
        case _, "eq":
            return classes.equal(literal.constants[0])
    return classes.ordered(literal.operator, literal.constants[0])


class World:
    """Where formulas are true or false: `domain` says of a term, given all its classes, in which its value can be there."""

    def __init__(
        self, terms: Terms, domain: Callable[[Term, Classes], int] = lambda _, classes: classes.all
    ) -> None:
        self.terms = terms
        self._domain = domain
        self._domains: dict[Term, int] = {}

    def domain(self, term: Term) -> int:
        """The classes in which the value of the term can be."""
        found = self._domains.get(term)
        if found is None:
            found = self._domains[term] = self._find_domain(term)
        return found

    def _find_domain(self, term: Term) -> int:
        kind = term[0]
        if kind == "?pair":
            return ALL_PAIRS
        classes = self.terms.classes[term]
        if kind == "?bool":
            return BOOLEANS
        return classes.whole_numbers(0) if kind == "?length" else self._domain(term, classes)


@dataclass(slots=True)
class State:
    """What is known so far of a world: the classes of terms, and the goals that can be reached in several ways."""

    world: World
    values: dict[Term, int] = field(default_factory=dict)
    open: tuple[Goal, ...] = ()

    def add(self, goal: Goal, allowance: Allowance) -> State | None:
        """The state in which the goal is reached as well; None where that contradicts what is known.

        Raises:
            TooHardError: it takes too many steps to say.
        """
        state = State(self.world, dict(self.values), ())
        goals, branching = [goal], list(self.open)
        while goals:
            allowance.take()
            formula, wanted = goals.pop()
            match formula:
                case Known(value):
                    if value is not wanted:
                        return None
                case Not(inner):
                    goals.append((inner, not wanted))
                case All(parts) if wanted:
                    goals += ((part, True) for part in parts)
                case Literal():
                    mask = self.world.terms.outcomes(formula)[not wanted]
                    known = state.values.get(formula.term)
                    mask &= self.world.domain(formula.term) if known is None else known
                    if not mask:
                        return None
                    state.values[formula.term] = mask
                case _:
                    branching.append((formula, wanted))
        state.open = tuple(branching)
        return state

    def model(self, allowance: Allowance) -> Values | None:
        """Values of the terms with which all goals are reached; None where there are none.

        Raises:
            TooHardError: it takes too many steps to say.
        """
        stack = [self]
        while stack:
            state = stack.pop()
            if not state.open:
                return state.values
            allowance.take()
            # The last one is the goal that was added last, which is the one that is asked about.
            *others, (formula, wanted) = state.open
            rest = State(state.world, state.values, tuple(others))
            for ways in reversed(_ways(formula, wanted)):
                reached: State | None = rest
                for goal in ways:
                    reached = None if reached is None else reached.add(goal, allowance)
                if reached is not None:
                    stack.append(reached)
        return None


def _ways(formula: Formula, wanted: bool) -> list[tuple[Goal, ...]]:
    """How a formula can come to be true or false: what must hold for each way."""
    match formula:
        case All(parts):
            return [(*((part, True) for part in parts[:at]), (part, False)) for at, part in enumerate(parts)]
        case If(condition, then, otherwise):
            return [((condition, True), (then, wanted)), ((condition, False), (otherwise, wanted))]
    raise AssertionError(formula)
