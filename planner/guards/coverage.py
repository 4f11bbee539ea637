"""Rule coverage: which cases of a rule can be taken, and whether it is possible that none matches.

Problem: Report cases that can never be taken (NP203, NP404), and rules that are not exhaustive (NP208). This
is the usefulness and exhaustiveness check of pattern matching, for guards that are expressions.

Algorithm: A rule is analysed in three scenarios. After success all cases are candidates. After a failure only
error-aware cases are. After MaxVisitsExceeded those that lead back to the step are skipped too. In each
scenario a case is taken if its guard is true and the guards of all candidates before it are false. A case is
dead if that is unsatisfiable in every scenario (`noetl.planner.guards.solver`). This is Maranget's definition
of a useless clause (2007), with a tableau search instead of pattern matrices.

Cost: A few searches per case and scenario, each bounded by `noetl.planner.guards.solver.MAX_SEARCH_STEPS` and
all together by one `SearchBudget`. A rule in which no term is tested twice and no value is known is not
analysed.

Limits: A guard that raises an error fails the step, except that a guard which reads a part of a missing error
is false. If a search exceeds its limit, the case counts as live, and it counts as possible that no case
matches. NP208 is not reported then, and the step effects have no exit without a case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from noetl.planner.guards.formulas import (
    ALWAYS,
    ERROR,
    Atom,
    Constant,
    Formula,
    Term,
    find_leaves,
    is_access,
    to_formula,
)
from noetl.planner.guards.solver import (
    Model,
    SearchBudget,
    SearchLimitError,
    TableauBranch,
    TermClasses,
    TermDomains,
)
from noetl.planner.guards.value_classes import (
    ABSENT,
    BOOLEANS,
    FALSE,
    LISTS,
    MAPPING,
    MAPPINGS,
    NAN,
    NONE,
    OBJECTS,
    OMITTED,
    TRUE,
    UNDEFINED,
    ClassSet,
    LiteralValue,
    Scalar,
    ValueClasses,
)
from noetl.planner.syntax.models import Case, InputDeclaration
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import TemplateProblem, parse_template

STATUSES = ("pending", "running", "waiting", "retrying", "succeeded", "failed", "cancelled")
REFUSAL_TYPE = "MaxVisitsExceeded"
MAX_ENUM_VALUES = 100
"""How many values of an input are distinguished. A longer `enum` is ignored."""
MAX_DESCRIBED_TERMS = 2
"""How many terms an example of uncovered values may name."""

_KNOWN_ROOTS = frozenset({"error", "result", "step", "steps", "input"})


@dataclass(frozen=True, slots=True)
class GuardedCase:
    """A case with its guard as a formula, which is `None` if the guard is not an expression.

    `leads_back` says that the case leads back to its step. With `reads_error_part` the guard reads a part of
    an error, and is false where there is no error.
    """

    formula: Formula | None
    is_error_aware: bool = False
    leads_back: bool = False
    reads_error_part: bool = False


@dataclass(frozen=True, slots=True)
class DeadCase:
    """A case that can never be taken, and why.

    With `is_never_true` its guard is false. Else the cases before it are taken, or fail, whenever its guard
    is true. `covered_by` is the index of one case that suffices for that, if there is one; with
    `covers_always` that case is always taken. With `may_fail` its guard may also fail.
    """

    case: int
    covered_by: int | None = None
    is_never_true: bool = False
    covers_always: bool = False
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class RuleCoverage:
    """The result of the analysis of a rule.

    `may_match_none` says whether it is possible that no case is taken after success; `choices` is the number
    of cases that can be. `uncovered_values` is `None` if a case is taken for all JSON values, which exclude
    NaN, or if the search exceeds its limit. Else it describes an example, or is empty if there is none in
    words.

    `after_success` and `after_failure` are the cases that can be taken then, `None` if unknown.
    `may_be_unhandled` says whether it is possible that no case is taken after a failure. The cases of
    `after_refusal` are taken only after MaxVisitsExceeded.

    `error_aware` are the error-aware cases; those of them in `returning` lead back to the step.
    """

    dead_cases: tuple[DeadCase, ...] = ()
    may_match_none: bool = True
    uncovered_values: str | None = ""
    choices: int = 0
    after_success: frozenset[int] | None = None
    after_failure: frozenset[int] | None = None
    may_be_unhandled: bool = True
    after_refusal: frozenset[int] = frozenset()
    error_aware: frozenset[int] = frozenset()
    returning: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class GuardContext:
    """The facts about the values that the guards of a step read.

    `bare_inputs` are the inputs that can be read without `input.`. With `may_tolerate_failure` the `run` may
    succeed although an entry in it has failed. With `may_exceed_max_visits` a visit may be refused. With
    `may_fail_as_refused` the `run` itself may fail with the error type of a refusal. `find_literals` returns
    the literals that an access path is one of where it has a value, or none if it is unknown.
    """

    inputs: Mapping[str, InputDeclaration]
    bare_inputs: frozenset[str]
    may_tolerate_failure: bool = True
    may_exceed_max_visits: bool = False
    may_fail_as_refused: bool = True
    find_literals: Callable[[AccessPath], Sequence[LiteralValue]] = lambda _: ()

    def find_input(self, term: Term) -> InputDeclaration | None:
        """Return the declaration of the input that a term reads, if it reads one."""
        if len(term) == 2 and term[0] == "input":
            return self.inputs.get(term[1])
        return self.inputs.get(term[0]) if len(term) == 1 and term[0] in self.bare_inputs else None

    def find_values(self, term: Term) -> Sequence[LiteralValue]:
        """Return the literals that a term is one of where it has a value; none if it is unknown."""
        if term[0] != "?length":
            return self.find_literals(term) if is_access(term) else ()
        literals = self.find_literals(term[1]) if isinstance(term[1], tuple) else ()
        return [len(literal) for literal in literals if isinstance(literal, str | list | dict)]


def make_guarded_case(guard: str | bool, *, leads_back: bool = False) -> GuardedCase:
    """Return the case with this guard."""
    if guard == "default":
        return GuardedCase(ALWAYS)
    if guard == "error":
        return GuardedCase(ERROR, True, leads_back)
    try:
        template = parse_template(guard) if isinstance(guard, str) else None
    except TemplateProblem:
        template = None
    if template is None:
        return GuardedCase(None)
    formula: Formula | None = None
    if template.access_path is not None:
        is_error = template.access_path == ("error",)
        formula = ERROR if is_error else Atom(template.access_path, "truth")
    elif template.is_expression:
        formula = to_formula(template.expression)
    return GuardedCase(formula, _reads_error(template.reads), leads_back, _reads_error_part(template.reads))


def is_error_aware(case: Case) -> bool:
    """Return whether a case may handle a failure.

    It may if its guard reads `error`, `result.success` or `result.error`.
    """
    return case.case == "error" or _reads_error(_reads(case))


def _reads(case: Case) -> Collection[AccessPath]:
    if not isinstance(case.case, str) or case.case == "default":
        return ()
    try:
        return parse_template(case.case).reads
    except TemplateProblem:
        return ()


def _reads_error(reads: Collection[AccessPath]) -> bool:
    return any(
        access[0] == "error" or access[:2] in (("result", "success"), ("result", "error")) for access in reads
    )


def _reads_error_part(reads: Collection[AccessPath]) -> bool:
    return any(
        (len(access) > 1 and access[0] == "error") or (len(access) > 2 and access[:2] == ("result", "error"))
        for access in reads
    )


def analyse_coverage(
    cases: Sequence[GuardedCase], context: GuardContext, budget: SearchBudget
) -> RuleCoverage:
    """Return what the cases of a rule cover. What cannot be decided within the budget counts as possible.

    >>> guards = ["{{ n > 3 }}", "{{ n > 5 }}", "default"]
    >>> context = GuardContext({}, frozenset())
    >>> cases = [make_guarded_case(guard) for guard in guards]
    >>> coverage = analyse_coverage(cases, context, SearchBudget(1_000))
    >>> [(dead.case, dead.covered_by) for dead in coverage.dead_cases]
    [(1, 0)]
    """
    if budget.is_exhausted or not _is_worth_analysing(cases, context):
        choices = 0 if budget.is_exhausted else sum(case.formula != ERROR for case in cases)
        may_match_none = all(case.formula != ALWAYS for case in cases)
        error_aware, returning = _find_error_aware_cases(cases)
        uncovered = "" if may_match_none else None
        return RuleCoverage(
            (), may_match_none, uncovered, choices, error_aware=error_aware, returning=returning
        )
    return _CoverageAnalysis(cases, context, budget).run()


def _find_error_aware_cases(cases: Sequence[GuardedCase]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the error-aware cases, and those of them that lead back to the step."""
    error_aware = frozenset(index for index, case in enumerate(cases) if case.is_error_aware)
    return error_aware, frozenset(index for index in error_aware if cases[index].leads_back)


def _is_worth_analysing(cases: Sequence[GuardedCase], context: GuardContext) -> bool:
    """Return whether an analysis can find anything: only if a term is tested twice or its value is known."""
    seen: set[Term] = set()
    for index, case in enumerate(cases):
        if case.formula is None or (case.formula is ALWAYS and index + 1 == len(cases)):
            continue
        for leaf in find_leaves(case.formula):
            if isinstance(leaf, Constant) or leaf.term in seen or leaf.constants == (None,):
                return True
            if leaf.test == "among" or leaf.default:
                return True
            is_known = leaf.term[0] in _KNOWN_ROOTS or context.find_input(leaf.term) is not None
            if case.formula is not ERROR and (is_known or context.find_values(leaf.term)):
                return True
            seen.add(leaf.term)
    return False


class _CoverageAnalysis:
    """The analysis of one rule."""

    def __init__(self, cases: Sequence[GuardedCase], context: GuardContext, budget: SearchBudget) -> None:
        self.cases = cases
        self.context = context
        self.budget = budget
        formulas = (case.formula for case in cases if case.formula is not None)
        self.terms = TermClasses(formulas, self.constants)
        # A test of a term with eight value classes costs about as much as one search step.
        budget.steps -= sum(classes.size for classes in self.terms.classes.values()) // 8

    def run(self) -> RuleCoverage:
        """Analyse the rule in each scenario and return what its cases cover."""
        success = TermDomains(self.terms, self.domain_after_success)
        failure = TermDomains(self.terms, self.domain_after_failure)
        all_cases = range(len(self.cases))
        error_aware = [index for index in all_cases if self.cases[index].is_error_aware]
        scenarios = [
            _Scenario(self, success, all_cases, has_error=False),
            _Scenario(self, failure, error_aware),
        ]
        if self.context.may_exceed_max_visits:
            refusal = TermDomains(self.terms, self.domain_after_refusal)
            leading_on = [index for index in error_aware if not self.cases[index].leads_back]
            scenarios.append(_Scenario(self, refusal, leading_on))
        dead = set(all_cases).difference(*(scenario.live_cases for scenario in scenarios))
        after_success, failures = scenarios[0], scenarios[1:]
        uncovered = after_success.uncovered
        return RuleCoverage(
            tuple(self.explain_dead_case(case, scenarios) for case in sorted(dead)),
            after_success.may_match_none,
            None if uncovered is None else self.describe(success, uncovered),
            len(after_success.live_cases),
            frozenset(after_success.live_cases),
            frozenset().union(*(scenario.live_cases for scenario in failures)),
            any(scenario.may_match_none for scenario in failures),
            frozenset().union(*(scenario.live_cases - failures[0].live_cases for scenario in failures[1:])),
            *_find_error_aware_cases(self.cases),
        )

    def explain_dead_case(self, case: int, scenarios: Sequence[_Scenario]) -> DeadCase:
        """Return why a case is never taken, from the first scenario in which its guard could be true."""
        reasons = [scenario.explain(case) for scenario in scenarios if case in scenario.candidates]
        return next((dead for dead in reasons if not dead.is_never_true), reasons[0])

    def constants(self, term: Term) -> Iterable[Scalar]:
        """Return further values of a term that the classes must tell apart."""
        declaration = self.context.find_input(term)
        if declaration is not None and has_scalar_enum(declaration):
            return declaration.enum or ()
        if term == ("error", "type"):
            return (REFUSAL_TYPE,)
        if _is_step_status(term):
            return STATUSES
        literals = self.context.find_values(term)
        return [literal for literal in literals if not isinstance(literal, list | dict)]

    def domain_after_success(self, term: Term, classes: ValueClasses) -> ClassSet:
        may_tolerate_failure = self.context.may_tolerate_failure
        if term[0] == "error":
            return NONE if len(term) == 1 else 0
        if term[:2] == ("result", "success"):
            return TRUE | (FALSE if may_tolerate_failure else 0)
        if term[:2] == ("result", "error") and not may_tolerate_failure:
            return NONE if len(term) == 2 else 0
        if term == ("result", "error"):
            return NONE | MAPPING
        return self.domain_anywhere(term, classes)

    def domain_after_failure(self, term: Term, classes: ValueClasses) -> ClassSet:
        if term[:2] == ("result", "success"):
            return FALSE
        error = term[1:] if term[0] == "error" else term[2:] if term[:2] == ("result", "error") else None
        if error is None:
            return self.domain_anywhere(term, classes)
        if not error:
            return MAPPING
        match error[0] if len(error) == 1 else "":
            case "type":
                refusal = 0 if self.context.may_fail_as_refused else classes.equal(REFUSAL_TYPE)[0]
                return classes.texts & ~refusal
            case "message":
                return classes.texts
            case "step" | "action":
                return classes.texts | NONE
            case "attempt":
                return classes.whole_numbers(1)
            case "retryable":
                return BOOLEANS
        return classes.all

    def domain_after_refusal(self, term: Term, classes: ValueClasses) -> ClassSet:
        if term == ("error", "type"):
            return classes.equal(REFUSAL_TYPE)[0]
        return self.domain_after_failure(term, classes)

    def domain_anywhere(self, term: Term, classes: ValueClasses) -> ClassSet:
        declaration = self.context.find_input(term)
        if declaration is not None:
            return _input_domain(declaration, classes)
        if term == ("result", "skipped"):
            return BOOLEANS
        if term in (("step", "visit"), ("step", "attempt")):
            return classes.whole_numbers(1)
        if _is_step_status(term):
            return classes.member_of(STATUSES)[0]
        if len(term) == 3 and term[0] == "steps" and term[2] == "visits":
            return classes.whole_numbers(0)
        if literals := self.context.find_values(term):
            domain = UNDEFINED
            for literal in literals:
                domain |= classes.class_of(literal)
            return domain
        return classes.all & ~OMITTED if is_access(term) else classes.all

    def describe(self, domains: TermDomains, values: Model) -> str:
        """Return values for which no case is taken, in words; empty if there are no short words for them."""
        terms = {
            term: classes
            for term, classes in values.items()
            if term[0] != "error" and classes != domains.domain(term)
        }
        if not 0 < len(terms) <= MAX_DESCRIBED_TERMS or not all(map(is_access, terms)):
            return ""
        words = [(term, self.terms.classes[term].describe(classes)) for term, classes in terms.items()]
        if any(word is None for _, word in words):
            return ""
        return " and ".join(f"`{'.'.join(term)}` is {word}" for term, word in words)


class _Scenario:
    """A rule in one scenario: which candidates can be taken there, and whether none may be."""

    def __init__(
        self,
        analysis: _CoverageAnalysis,
        domains: TermDomains,
        candidates: Sequence[int],
        *,
        has_error: bool = True,
    ) -> None:
        self.cases = analysis.cases
        self.domains = domains
        self.budget = analysis.budget
        self.has_error = has_error
        self.candidates = candidates
        self.live_cases: set[int] = set()
        self.may_match_none = True
        self.uncovered: Model | None = None
        self._analyse()

    def _analyse(self) -> None:
        branch: TableauBranch | None = TableauBranch(self.domains)
        for index in self.candidates:
            if branch is None or self.find_model(branch, index) is None:
                continue
            self.live_cases.add(index)
            branch = self.pass_case(branch, index)
        if branch is None:
            self.may_match_none = False
            return
        try:
            self.may_match_none = branch.find_model(self.budget.for_one_search()) is not None
            # Saved values are JSON data, which has no NaN.
            for term in filter(is_access, self.domains.terms.classes):
                if classes := branch.values.get(term, self.domains.domain(term)):
                    branch.values[term] = classes & ~NAN
            if all(branch.values.values()):
                self.uncovered = branch.find_model(self.budget.for_one_search())
        except SearchLimitError:
            return

    def pass_case(self, branch: TableauBranch, index: int) -> TableauBranch | None:
        """Return the branch where a case is not taken; `None` if it always is."""
        case = self.cases[index]
        if case.formula is None or (case.reads_error_part and not self.has_error):
            return branch
        try:
            return branch.extend((case.formula, False), self.budget.for_one_search())
        except SearchLimitError:
            return branch

    def find_model(self, branch: TableauBranch, index: int) -> Model | None:
        """Return values with which the guard of a case is true; an empty model if that cannot be decided."""
        formula = self.cases[index].formula
        if formula is None:
            return {}
        budget = self.budget.for_one_search()
        try:
            extended = branch.extend((formula, True), budget)
            return None if extended is None else extended.find_model(budget)
        except SearchLimitError:
            return {}

    def explain(self, index: int) -> DeadCase:
        """Return why a candidate can never be taken in this scenario."""
        start = TableauBranch(self.domains)
        if self.find_model(start, index) is None:
            return DeadCase(index, is_never_true=True)
        for earlier in takewhile(lambda case: case != index, self.candidates):
            branch = self.pass_case(start, earlier)
            if branch is None:
                return DeadCase(index, earlier, covers_always=True, may_fail=self.may_fail(earlier, {}))
            if self.find_model(branch, index) is None:
                values = self.find_model(start, index) or {}
                return DeadCase(index, earlier, may_fail=self.may_fail(earlier, values))
        return DeadCase(index)

    def may_fail(self, index: int, values: Model) -> bool:
        """Return whether the guard of a case may raise an error, where its terms have these values."""
        formula = self.cases[index].formula
        for leaf in find_leaves(formula) if formula is not None else ():
            if isinstance(leaf, Constant):
                if leaf.value is None:
                    return True
                continue
            true, false = self.domains.terms.truth_classes(leaf)
            classes = values.get(leaf.term, self.domains.domain(leaf.term))
            if classes & ~ABSENT & ~(true | false):
                return True
        return False


def _input_domain(declaration: InputDeclaration, classes: ValueClasses) -> ClassSet:
    """Return the classes of the values that an input may have, its default included."""
    domain = {
        "string": classes.texts,
        "integer": classes.whole_numbers(),
        "number": classes.numbers | NAN,
        "boolean": BOOLEANS,
        "object": MAPPINGS,
        "array": LISTS,
        "any": classes.all & ~ABSENT & ~OBJECTS,
    }[declaration.type]
    if has_scalar_enum(declaration):
        domain &= classes.member_of(declaration.enum or ())[0]
    default_is_none = "default" in declaration.model_fields_set and declaration.default is None
    return domain | (NONE if default_is_none else 0)


def has_scalar_enum(declaration: InputDeclaration) -> bool:
    """Return whether an input has an `enum` of few values, all of them scalars."""
    return (
        declaration.enum is not None
        and len(declaration.enum) <= MAX_ENUM_VALUES
        and all(value is None or isinstance(value, str | int | float) for value in declaration.enum)
    )


def _is_step_status(term: Term) -> bool:
    return len(term) == 3 and term[0] == "steps" and term[2] == "status"
