"""Satisfiability of guards: which guards can be true, or false, together.

Problem: Given formulas that must be true and others that must be false, find values for their terms, or show
that there are none.

Algorithm: Analytic tableaux with signed formulas (Smullyan 1968). A tableau branch holds for each term the
value classes that are still possible, and the signed formulas that are still open. Non-branching formulas
narrow the classes at once; branching ones are expanded depth first, with backtracking.

Cost: Exponential in the number of branching formulas in the worst case. `MAX_SEARCH_STEPS` bounds one search,
`SearchBudget` all searches of a playbook.

Limits: The search is sound in one direction: if it finds no values, there are none. Each run-time value is in
a class of its term, and terms that depend on each other count as independent. Past a limit,
`SearchLimitError` is raised, and the caller assumes that all is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from noetl.planner.guards.formulas import And, Atom, Conditional, Constant, Formula, Not, Term, find_leaves
from noetl.planner.guards.value_classes import (
    ABSENT,
    ALL_PAIRS,
    BOOLEANS,
    ClassSet,
    Scalar,
    TruthClasses,
    ValueClasses,
    pair_classes,
)

SignedFormula = tuple[Formula, bool]
"""A formula, and whether it must be true or false."""

Model = Mapping[Term, ClassSet]
"""For each term with known facts, the classes that its value may be in."""

MAX_SEARCH_STEPS = 2_000
"""How many steps one search may take."""


class SearchLimitError(Exception):
    """The search has used all its steps."""


class SearchBudget:
    """The number of steps that all searches together may take."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @property
    def is_exhausted(self) -> bool:
        """True if no steps are left."""
        return self.steps <= 0

    def for_one_search(self) -> SearchBudget:
        """Return the budget of one search, which is charged to this one too."""
        return _SingleSearchBudget(self, min(MAX_SEARCH_STEPS, self.steps))

    def spend(self) -> None:
        """Spend one step.

        Raises:
            SearchLimitError: no steps are left.
        """
        self.steps -= 1
        if self.steps < 0:
            raise SearchLimitError


class _SingleSearchBudget(SearchBudget):
    def __init__(self, total: SearchBudget, steps: int) -> None:
        super().__init__(steps)
        self.total = total

    def spend(self) -> None:
        self.total.steps -= 1
        super().spend()


class TermClasses:
    """The terms of some formulas, each with its value classes.

    `constants` returns further constants that a term is compared with, such as the values of an enum.
    """

    def __init__(
        self, formulas: Iterable[Formula], constants: Callable[[Term], Iterable[Scalar]] = lambda _: ()
    ) -> None:
        compared_with: dict[Term, list[Scalar]] = {}
        for formula in formulas:
            for leaf in find_leaves(formula):
                if isinstance(leaf, Atom) and leaf.test != "pair":
                    compared_with.setdefault(leaf.term, []).extend((*leaf.constants, *leaf.default))
        self.classes = {
            term: ValueClasses((*values, *constants(term))) for term, values in compared_with.items()
        }
        self._truth_classes: dict[Atom, TruthClasses] = {}

    def truth_classes(self, atom: Atom) -> TruthClasses:
        """Return the classes of the term for which an atom is true, and those for which it is false."""
        classes = self._truth_classes.get(atom)
        if classes is None:
            classes = self._truth_classes[atom] = self._find_truth_classes(atom)
        return classes

    def _find_truth_classes(self, atom: Atom) -> TruthClasses:
        if atom.test == "pair":
            return pair_classes(atom.operator)
        classes = self.classes[atom.term]
        true, false = _test_classes(classes, atom)
        if atom.default:
            replaced = ABSENT | (classes.truth[1] if atom.replaces_false else 0)
            default = classes.class_of(atom.default[0])
            true = true & ~replaced | (replaced if true & default else 0)
            false = false & ~replaced | (replaced if false & default else 0)
        return true, false


def _test_classes(classes: ValueClasses, atom: Atom) -> TruthClasses:
    match atom.test, atom.operator:
        case "truth", _:
            return classes.truth
        case "among", _:
            return classes.member_of(atom.constants)
        case "type", test:
            return classes.of_type(test)
        case _, "eq":
            return classes.equal(atom.constants[0])
    return classes.ordered(atom.operator, atom.constants[0])


class TermDomains:
    """The possible classes of each term in one scenario, such as after a failure of the step.

    `find` returns the possible classes of a term, given all its classes. Results are cached.
    """

    def __init__(
        self,
        terms: TermClasses,
        find: Callable[[Term, ValueClasses], ClassSet] = lambda _, classes: classes.all,
    ) -> None:
        self.terms = terms
        self._find = find
        self._domains: dict[Term, ClassSet] = {}

    def domain(self, term: Term) -> ClassSet:
        """Return the classes that the value of a term can be in."""
        domain = self._domains.get(term)
        if domain is None:
            domain = self._domains[term] = self._find_domain(term)
        return domain

    def _find_domain(self, term: Term) -> ClassSet:
        kind = term[0]
        if kind == "?pair":
            return ALL_PAIRS
        classes = self.terms.classes[term]
        if kind == "?bool":
            return BOOLEANS
        domain = self._find(term, classes)
        return domain & classes.whole_numbers(0) if kind == "?length" else domain


@dataclass(slots=True)
class TableauBranch:
    """A branch of a tableau: the possible classes of terms so far, and the open signed formulas."""

    domains: TermDomains
    values: dict[Term, ClassSet] = field(default_factory=dict)
    open: tuple[SignedFormula, ...] = ()

    def extend(self, goal: SignedFormula, budget: SearchBudget) -> TableauBranch | None:
        """Return the branch with one more signed formula; `None` if that is a contradiction.

        Raises:
            SearchLimitError: the budget is spent.
        """
        branch = TableauBranch(self.domains, dict(self.values), ())
        goals, branching = [goal], list(self.open)
        while goals:
            budget.spend()
            formula, sign = goals.pop()
            match formula:
                case Constant(value):
                    if value is not sign:
                        return None
                case Not(inner):
                    goals.append((inner, not sign))
                case And(parts) if sign:
                    goals += ((part, True) for part in parts)
                case Atom():
                    classes = self.domains.terms.truth_classes(formula)[not sign]
                    known = branch.values.get(formula.term)
                    classes &= self.domains.domain(formula.term) if known is None else known
                    if not classes:
                        return None
                    branch.values[formula.term] = classes
                case _:
                    branching.append((formula, sign))
        branch.open = tuple(branching)
        return branch

    def find_model(self, budget: SearchBudget) -> Model | None:
        """Return values of the terms that satisfy all signed formulas; `None` if there are none.

        Raises:
            SearchLimitError: the budget is spent.
        """
        stack = [self]
        while stack:
            branch = stack.pop()
            if not branch.open:
                return branch.values
            budget.spend()
            # Expand the formula that was added last, because the question is about that one.
            *remaining, (formula, sign) = branch.open
            rest = TableauBranch(branch.domains, branch.values, tuple(remaining))
            for alternative in reversed(_expand(formula, sign)):
                extended: TableauBranch | None = rest
                for goal in alternative:
                    extended = None if extended is None else extended.extend(goal, budget)
                if extended is not None:
                    stack.append(extended)
        return None


def _expand(formula: Formula, sign: bool) -> list[tuple[SignedFormula, ...]]:
    """Return the alternatives in which a branching formula has this truth value."""
    if isinstance(formula, And):
        parts = formula.parts
        return [
            (*((part, True) for part in parts[:index]), (part, False)) for index, part in enumerate(parts)
        ]
    assert isinstance(formula, Conditional)
    condition, if_true, if_false = formula.condition, formula.if_true, formula.if_false
    return [((condition, True), (if_true, sign)), ((condition, False), (if_false, sign))]
