"""What can become of a rule: which of its cases can be taken, and whether it can be that none is.

A rule is read in several worlds: after success, when every case is a candidate; after a failure, when only error-aware
ones are; and after a visit refused for `max_visits`, when those are left out that lead back to the step. In each of them a
case is taken when it is true and all candidates before it are false. A guard that raises fails the step, but for one that
reads a part of an error which is not there: that is false.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from noetl.planner.guards.formulas import (
    ALWAYS,
    ERROR,
    Formula,
    Known,
    Literal,
    Term,
    formula_of,
    is_plain,
    leaves_of,
)
from noetl.planner.guards.solver import Allowance, State, Terms, TooHardError, Values, World
from noetl.planner.guards.value_classes import (
    ABSENT,
    BOOLEANS,
    FALSE,
    LEFT_OUT,
    LISTS,
    MAPPING,
    MAPPINGS,
    NAN,
    NONE,
    OBJECTS,
    TRUE,
    Classes,
    Scalar,
)
from noetl.planner.syntax.models import Case, InputDeclaration
from noetl.planner.templates.access_paths import AccessPath
from noetl.planner.templates.template import TemplateProblem, parse_template

STATUSES = ("pending", "running", "waiting", "retrying", "succeeded", "failed", "cancelled")
REFUSED = "MaxVisitsExceeded"
MAX_ENUM = 100
"""How many values of an input are told apart."""
MAX_NAMED = 2
"""Of how many terms a value is told for which no case is taken."""

_SPECIAL = frozenset({"error", "result", "step", "steps", "input"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A case as it is judged. `formula` is None where the guard is not an expression."""

    formula: Formula | None
    is_error_aware: bool = False
    leads_back: bool = False
    asks_for_error: bool = False
    """Whether it reads a part of an error, and so is false where there is none."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A case that can never be taken: since its guard is never true, or since others are taken, or fail, whenever it is.

    `by` is the index of the one that is enough for that, if one is; with `always` that one is taken whatever happens. With
    `may_fail` its guard may also fail.
    """

    case: int
    by: int | None = None
    is_never_true: bool = False
    always: bool = False
    may_fail: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What can become of a rule, as far as one can say.

    `may_end` tells whether it can be that no case is taken after success, and `choices` how many can be. `left_open` is
    None where one is taken for all values that people think of; else such values in words, if there are any. `after_success` and
    `after_failure` are the cases that can be taken then, None where nobody has looked; `may_be_unhandled` tells whether it can
    be that none is after a failure. Those in `after_refusal` are taken only when the step was visited too often.
    """

    dead: tuple[Dead, ...] = ()
    may_end: bool = True
    left_open: str | None = ""
    choices: int = 0
    after_success: frozenset[int] | None = None
    after_failure: frozenset[int] | None = None
    may_be_unhandled: bool = True
    after_refusal: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the values that guards read, besides what they say themselves."""

    inputs: Mapping[str, InputDeclaration]
    plain_inputs: frozenset[str]
    """The inputs that can be read by their bare names."""
    may_be_forgiven: bool = True
    """Whether the work of the step may count as a success although something in it has failed."""
    may_be_refused: bool = False
    """Whether the step may have been visited too often."""
    may_say_refused: bool = True
    """Whether its work may fail as if it had been."""

    def input_of(self, term: Term) -> InputDeclaration | None:
        """The declaration of the input that a term is."""
        if len(term) == 2 and term[0] == "input":
            return self.inputs.get(term[1])
        return self.inputs.get(term[0]) if len(term) == 1 and term[0] in self.plain_inputs else None


def candidate_of(guard: str | bool, *, leads_back: bool = False) -> Candidate:
    """A case with this guard."""
    if guard == "default":
        return Candidate(ALWAYS)
    if guard == "error":
        return Candidate(ERROR, True, leads_back)
    try:
        template = parse_template(guard) if isinstance(guard, str) else None
    except TemplateProblem:
        template = None
    if template is None:
        return Candidate(None)
    formula: Formula | None = None
    if template.access_path is not None:
        formula = ERROR if template.access_path == ("error",) else Literal(template.access_path, "truth")
    elif template.is_expression:
        formula = formula_of(template.expression)
    return Candidate(formula, reads_error(template.reads), leads_back, _asks_for_error(template.reads))


def is_error_aware(case: Case) -> bool:
    """Whether the guard reads `error`, `result.success` or `result.error`, so that the case may handle a failure."""
    return case.case == "error" or reads_error(_reads(case))


def _reads(case: Case) -> Collection[AccessPath]:
    if not isinstance(case.case, str) or case.case == "default":
        return ()
    try:
        return parse_template(case.case).reads
    except TemplateProblem:
        return ()


def reads_error(reads: Collection[AccessPath]) -> bool:
    """Whether one of the accesses is to how the step has failed, if it has."""
    return any(a[0] == "error" or a[:2] in (("result", "success"), ("result", "error")) for a in reads)


def _asks_for_error(reads: Collection[AccessPath]) -> bool:
    return any(
        (len(a) > 1 and a[0] == "error") or (len(a) > 2 and a[:2] == ("result", "error")) for a in reads
    )


def judge(cases: Sequence[Candidate], facts: Facts, allowance: Allowance) -> Verdict:
    """What can become of a rule. Nothing that is hard to say is said."""
    if allowance.is_used_up or not _is_worth_while(cases, facts):
        choices = 0 if allowance.is_used_up else sum(case.formula != ERROR for case in cases)
        may_end = all(case.formula != ALWAYS for case in cases)
        return Verdict((), may_end, "" if may_end else None, choices)
    return _Judge(cases, facts, allowance).verdict()


def _is_worth_while(cases: Sequence[Candidate], facts: Facts) -> bool:
    """Whether there is anything to find out: where no term is tested twice and none is known, everything can be."""
    seen: set[Term] = set()
    for index, case in enumerate(cases):
        if case.formula is None or (case.formula is ALWAYS and index + 1 == len(cases)):
            continue
        for leaf in leaves_of(case.formula):
            if isinstance(leaf, Known) or leaf.term in seen or leaf.constants == (None,):
                return True
            if leaf.test == "among" or leaf.instead:
                return True
            if case.formula is not ERROR and (
                leaf.term[0] in _SPECIAL or facts.input_of(leaf.term) is not None
            ):
                return True
            seen.add(leaf.term)
    return False


class _Judge:
    def __init__(self, cases: Sequence[Candidate], facts: Facts, allowance: Allowance) -> None:
        self.cases = cases
        self.facts = facts
        self.allowance = allowance
        self.terms = Terms((case.formula for case in cases if case.formula is not None), self.constants)
        # Eight classes cost about what a step does, when their term is tested.
        allowance.steps -= sum(classes.size for classes in self.terms.classes.values()) // 8

    def verdict(self) -> Verdict:
        success, failure = World(self.terms, self.after_success), World(self.terms, self.after_failure)
        everything = range(len(self.cases))
        aware = [at for at in everything if self.cases[at].is_error_aware]
        readings = [_Reading(self, success, everything, has_error=False), _Reading(self, failure, aware)]
        if self.facts.may_be_refused:
            refused = World(self.terms, self.after_refusal)
            readings.append(_Reading(self, refused, [at for at in aware if not self.cases[at].leads_back]))
        dead = set(everything).difference(*(reading.alive for reading in readings))
        first = readings[0]
        return Verdict(
            tuple(self.obituary(case, readings) for case in sorted(dead)),
            first.may_end,
            None if first.left_open is None else self.described(success, first.left_open),
            len(first.alive),
            frozenset(first.alive),
            frozenset().union(*(reading.alive for reading in readings[1:])),
            any(reading.may_end for reading in readings[1:]),
            frozenset().union(*(reading.alive - readings[1].alive for reading in readings[2:])),
        )

    def obituary(self, case: int, readings: Sequence[_Reading]) -> Dead:
        """Why a case is never taken, by the first world in which its guard could be true."""
        found = [reading.why_not(case) for reading in readings if case in reading.candidates]
        return next((dead for dead in found if not dead.is_never_true), found[0])

    def constants(self, term: Term) -> Iterable[Scalar]:
        declared = self.facts.input_of(term)
        if declared is not None and _is_of_scalars(declared):
            return declared.enum or ()
        if term == ("error", "type"):
            return (REFUSED,)
        return STATUSES if _is_status(term) else ()

    def after_success(self, term: Term, classes: Classes) -> int:
        if term[0] == "error":
            return NONE if len(term) == 1 else 0
        if term[:2] == ("result", "success"):
            return TRUE | (FALSE if self.facts.may_be_forgiven else 0)
        if term[:2] == ("result", "error") and not self.facts.may_be_forgiven:
            return NONE if len(term) == 2 else 0
        if term == ("result", "error"):
            return NONE | MAPPING
        return self.anywhere(term, classes)

    def after_failure(self, term: Term, classes: Classes) -> int:
        if term[:2] == ("result", "success"):
            return FALSE
        error = term[1:] if term[0] == "error" else term[2:] if term[:2] == ("result", "error") else None
        if error is None:
            return self.anywhere(term, classes)
        if not error:
            return MAPPING
        match error[0] if len(error) == 1 else "":
            case "type":
                return classes.texts & ~(0 if self.facts.may_say_refused else classes.equal(REFUSED)[0])
            case "message" | "step":
                return classes.texts | (NONE if error == ("step",) else 0)
            case "attempt":
                return classes.whole_numbers(1)
            case "retryable":
                return BOOLEANS
            case "action":
                return classes.texts | NONE
        return classes.all

    def after_refusal(self, term: Term, classes: Classes) -> int:
        if term == ("error", "type"):
            return classes.equal(REFUSED)[0]
        return self.after_failure(term, classes)

    def anywhere(self, term: Term, classes: Classes) -> int:
        declared = self.facts.input_of(term)
        if declared is not None:
            return _declared(declared, classes)
        if term == ("result", "skipped"):
            return BOOLEANS
        if term in (("step", "visit"), ("step", "attempt")):
            return classes.whole_numbers(1)
        if _is_status(term):
            return classes.among(STATUSES)[0]
        if len(term) == 3 and term[0] == "steps" and term[2] == "visits":
            return classes.whole_numbers(0)
        return classes.all & ~LEFT_OUT if is_plain(term) else classes.all

    def described(self, world: World, values: Values) -> str:
        """Values for which no case is taken, in words; nothing where a term is none that has a name."""
        told = {
            term: mask for term, mask in values.items() if term[0] != "error" and mask != world.domain(term)
        }
        if not 0 < len(told) <= MAX_NAMED or not all(map(is_plain, told)):
            return ""
        words = [(term, self.terms.classes[term].described(mask)) for term, mask in told.items()]
        if any(word is None for _, word in words):
            return ""
        return " and ".join(f"`{'.'.join(term)}` is {word}" for term, word in words)


class _Reading:
    """The rule as it is read in one world: which of its candidates can be taken there, and whether none may be."""

    def __init__(
        self, judge: _Judge, world: World, candidates: Sequence[int], *, has_error: bool = True
    ) -> None:
        self.cases = judge.cases
        self.world = world
        self.allowance = judge.allowance
        self.has_error = has_error
        self.candidates = candidates
        self.alive: set[int] = set()
        self.may_end = True
        self.left_open: Values | None = None
        self.read()

    def read(self) -> None:
        state: State | None = State(self.world)
        for at in self.candidates:
            if state is None or self.model(state, at, True) is None:
                continue
            self.alive.add(at)
            state = self.passed(state, at)
        if state is None:
            self.may_end = False
            return
        try:
            self.may_end = state.model(self.allowance.search()) is not None
            # What is saved is data, in which every number is one.
            for term in filter(is_plain, self.world.terms.classes):
                if known := state.values.get(term, self.world.domain(term)):
                    state.values[term] = known & ~NAN
            if all(state.values.values()):
                self.left_open = state.model(self.allowance.search())
        except TooHardError:
            return

    def passed(self, state: State, at: int) -> State | None:
        """The state behind a case that was not taken; None where it always is."""
        case = self.cases[at]
        if case.formula is None or (case.asks_for_error and not self.has_error):
            return state
        try:
            return state.add((case.formula, False), self.allowance.search())
        except TooHardError:
            return state

    def model(self, state: State, at: int, wanted: bool) -> Values | None:
        """Values with which the guard of a case is true, or false; where that is too hard to say, any."""
        formula = self.cases[at].formula
        if formula is None:
            return {}
        allowance = self.allowance.search()
        try:
            reached = state.add((formula, wanted), allowance)
            return None if reached is None else reached.model(allowance)
        except TooHardError:
            return {}

    def why_not(self, at: int) -> Dead:
        """Why a candidate that is not alive is not."""
        start = State(self.world)
        if self.model(start, at, True) is None:
            return Dead(at, is_never_true=True)
        for before in self.candidates:
            if before == at:
                break
            state = self.passed(start, before)
            if state is None:
                return Dead(at, before, always=True, may_fail=self.may_fail(before, {}))
            if self.model(state, at, True) is None:
                return Dead(at, before, may_fail=self.may_fail(before, self.model(start, at, True) or {}))
        return Dead(at)

    def may_fail(self, at: int, values: Values) -> bool:
        """Whether the guard of a case may be neither true nor false where its terms have values, these if they are told."""
        formula = self.cases[at].formula
        for leaf in leaves_of(formula) if formula is not None else ():
            if isinstance(leaf, Known):
                if leaf.value is None:
                    return True
                continue
            true, false = self.world.terms.outcomes(leaf)
            if values.get(leaf.term, self.world.domain(leaf.term)) & ~ABSENT & ~(true | false):
                return True
        return False


def _declared(declared: InputDeclaration, classes: Classes) -> int:
    """The classes of the values that an input may be given, or that it has by default."""
    allowed = {
        "string": classes.texts,
        "integer": classes.whole_numbers(),
        "number": classes.numbers | NAN,
        "boolean": BOOLEANS,
        "object": MAPPINGS,
        "array": LISTS,
        "any": classes.all & ~ABSENT & ~OBJECTS,
    }[declared.type]
    if _is_of_scalars(declared):
        allowed &= classes.among(declared.enum or ())[0]
    default_is_none = "default" in declared.model_fields_set and declared.default is None
    return allowed | (NONE if default_is_none else 0)


def _is_of_scalars(declared: InputDeclaration) -> bool:
    return (
        declared.enum is not None
        and len(declared.enum) <= MAX_ENUM
        and all(value is None or isinstance(value, str | int | float) for value in declared.enum)
    )


def _is_status(term: Term) -> bool:
    return len(term) == 3 and term[0] == "steps" and term[2] == "status"
