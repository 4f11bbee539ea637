"""What templates need and tell, as bits of integers: a bit for every name, and for every step that has been visited.

What is given, and what nothing produces, has one only where a guard may ask for it. So has each outcome of a test that
lasts (`noetl.planner.dataflow.correlation`), and each *clause*: where something is read only if something else is not there, or a test has turned
out some way, what is needed is the one or the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, product
from operator import or_
from typing import NamedTuple

from noetl.planner.dataflow.correlation import Conditions
from noetl.planner.dataflow.definitions import called
from noetl.planner.dataflow.narrowing import (
    ANY,
    NOTHING,
    SUCCEEDED_RUN,
    Condition,
    Facts,
    Need,
    is_unconditional,
)
from noetl.planner.dataflow.transfer import EVERYTHING
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Use
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, Step, TaskEntry
from noetl.planner.syntax.names import RESERVED
from noetl.planner.templates.access_paths import AccessPath


def key_of(access: AccessPath) -> str | None:
    """What has to have been produced for an access: a name, or `steps.NAME` for a step that has been visited."""
    if access[0] != "steps":
        return access[0]
    return f"steps.{access[1]}" if len(access) > 2 and access[2] in ("result", "error") else None


Alternative = str | Condition
"""What makes it needless that something is there: the key of something else, or the outcome of a test."""

MAX_CLAUSES = 1_000
"""How many have a bit: beyond them something is taken to be needed whatever the others are."""


MAX_CAME_TO = 10_000
"""For how many sets of bits it is kept in mind what their clauses come to."""
MAX_CORRELATED = 500
"""How many names times outcomes of tests are looked at together."""


class Known(NamedTuple):
    """Facts as bits."""

    there: int = 0
    gone: int = 0
    outcomes: int = ANY


@dataclass(frozen=True, slots=True)
class Reading:
    """A template as bits: what it needs, and what it needs where something is known; all of it; what is known behind it."""

    needs: int
    conditional: tuple[tuple[int, Known], ...]
    wanted: int
    always: Known
    true: Known
    false: Known
    asks_for_errors: bool = False


class Readings:
    """The templates of a playbook. `keys` are the keys of the bits, in order; that of a clause is what it wants. `bits` are those
    of names and steps, all of which are in `plain`, `met` those of the outcomes of tests; `closed` are the bits that are there
    with something, its own and those of clauses. `at_start` are the bits that are there when a run starts, `at_success` those
    that are when it has succeeded, as far as that is known.
    """

    def __init__(self, subject: Subject) -> None:
        self.names = subject.names
        playbook = subject.playbook
        self.takes_no_others = playbook.input is not None
        self.given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        self.keys: list[str] = []
        self.bits: dict[str, int] = {}
        self.saved = {
            name for run in subject.runs() for name, _ in find_saved_names(run, in_loops=True)
        } - self.given
        self.at_start = self.at_success = 0
        self.found: dict[tuple[str, frozenset[str], Facts], Reading] = {}
        self.sure: dict[str, int] = {}
        for use in subject.uses:
            self.allot(use)
        self.plain = (1 << len(self.keys)) - 1
        self.met: dict[Condition, int] = {}
        self.first_of_pairs = 0
        self.resolutions: list[tuple[int, int, int]] = []
        self.resolving = self.easing = self.relevant = 0
        self.came_to: dict[int, int] = {}
        self.clauses: dict[tuple[str, frozenset[Alternative]], int] = {}
        self.closed: dict[Alternative, int] = {}
        self.closed.update(self.bits)
        # Without keys there is nothing to find out.
        self.conditions = Conditions(subject, subject.uses if self.keys else ())
        for use in subject.uses if self.keys else ():
            self.allot_clauses(use)
        self.allot_correlated()
        self.exclude()
        self.find_resolutions()
        self.at_start = self.together(key for key, bit in self.bits.items() if bit & self.at_start)

    def know_success(self, bits: int) -> None:
        """Take note of what is there when a run has succeeded."""
        self.at_success = bits
        self.found.clear()

    def allot(self, use: Use) -> None:
        """Give a bit to everything that a template reads and something produces, and to any other name where a guard may ask for it."""
        may_ask = "defined" in use.template.source
        for access in use.template.reads:
            key = access[0]
            is_given = key in self.given and may_ask
            is_nowhere = may_ask and self.takes_no_others and key not in RESERVED
            if key == "steps" and len(access) > 2 and access[1] in self.names.steps:
                key = f"steps.{access[1]}"
            elif not (key in self.saved or is_given or is_nowhere) or key in use.local:
                continue
            if key not in self.bits:
                self.bits[key] = 1 << len(self.keys)
                self.keys.append(key)
                self.at_start |= self.bits[key] if is_given else 0

    def allot_clauses(self, use: Use) -> None:
        """Give a bit to everything that a template needs only under conditions, and to the outcomes of its tests."""
        around = self.conditions.around(use)
        is_asked = self.conditions.is_asked(use)
        if around is NOTHING and not is_asked and is_unconditional(use.template):
            return
        found = self.conditions.implied(use)
        if is_asked:
            for facts in (found.true, found.false):
                self.allot_outcomes(self.conditions.of(facts, use.local))
        for need in found.needs:
            wanted, alternatives = self.clause_of(need, around, use.local)
            if alternatives:
                self.allot_clause(wanted, alternatives)

    def allot_clause(self, wanted: str, alternatives: frozenset[Alternative]) -> None:
        if (wanted, alternatives) in self.clauses or len(self.clauses) >= MAX_CLAUSES:
            return
        self.allot_outcomes(one for one in alternatives if isinstance(one, Condition))
        bit = self.clauses[wanted, alternatives] = self.new_bit(wanted)
        for one in (wanted, *alternatives):
            self.closed[one] |= bit

    def allot_correlated(self) -> None:
        """Give bits to clauses that one step may bring about and the case of another one may resolve."""
        names = [name for name in self.saved if name in self.bits]
        tests = [one for one in self.met if one.opposite in self.conditions.choosing]
        if len(names) * len(tests) <= MAX_CORRELATED:
            for name, one in product(sorted(names), tests):
                self.allot_clause(name, frozenset((one,)))

    def find_resolutions(self) -> None:
        """Know what clauses of one test come to, where the test has turned out the other way or another clause says so of that."""
        for (wanted, alternatives), bit in self.clauses.items():
            for one in alternatives if len(alternatives) == 1 else ():
                if isinstance(one, Condition):
                    other = self.clauses.get((wanted, frozenset((one.opposite,))), 0)
                    self.resolutions.append((bit, self.met[one.opposite] | other, self.closed[wanted]))
                    self.resolving |= bit
                    self.relevant |= bit | self.met[one.opposite] | other
                    self.easing |= self.bits[wanted]

    def resolved(self, known: int) -> int:
        """What is there for certain, with what its clauses come to."""
        if not known & self.resolving or known == EVERYTHING:
            return known
        relevant = known & self.relevant
        if relevant not in self.came_to:
            found = relevant
            for clause, others, also in self.resolutions:
                if found & clause and found & others:
                    found |= also
            if len(self.came_to) >= MAX_CAME_TO:
                self.came_to.clear()
            self.came_to[relevant] = found
        return known | self.came_to[relevant]

    def eased(self, lacking: int, known: int) -> int:
        """What is needed where something is lacking and something is known: of what a clause would come to, the clause is enough."""
        if lacking & self.easing:
            for clause, others, _ in self.resolutions:
                base = self.base(clause)
                if lacking & base and known & others:
                    lacking ^= base | clause
        return lacking & ~known

    def allot_outcomes(self, conditions: Iterable[Condition]) -> None:
        """Give bits to both outcomes of tests."""
        for condition in sorted(conditions):
            if condition not in self.met:
                for one in (condition, condition.opposite):
                    self.met[one] = self.closed[one] = self.new_bit("")
                self.first_of_pairs |= self.met[condition]

    def met_around(self, entry: DocumentPath) -> int:
        """How tests have turned out where the work of an entry is done, as its own guard tells."""
        return self.together(self.conditions.contexts.get(entry, NOTHING).met)

    def contradict(self, there: int, others: int) -> bool:
        """Whether a test has turned out one way where some bits are there, and the other way where others are."""
        first = self.first_of_pairs
        return bool(first & there & others >> 1 or first & others & there >> 1)

    def exclude(self) -> None:
        """Know that what equals one text equals no other."""
        equal: dict[AccessPath, list[Condition]] = {}
        for condition in self.met:
            if condition.truth and condition.test[:4] in ("eq '", 'eq "'):
                equal.setdefault(condition.access, []).append(condition)
        for same in equal.values():
            opposites = [self.closed[one.opposite] for one in same]
            before = accumulate([0, *opposites[:-1]], or_)
            behind = reversed([*accumulate([0, *opposites[:0:-1]], or_)])
            for one, earlier, later in zip(same, before, behind, strict=True):
                self.closed[one] |= earlier | later

    def new_bit(self, key: str) -> int:
        self.keys.append(key)
        return 1 << len(self.keys) - 1

    def clause_of(
        self, need: Need, around: Facts, local: frozenset[str]
    ) -> tuple[str, frozenset[Alternative]]:
        """What is needed, and what makes it needless: nothing where it is not looked after."""
        wanted = key_of(need.access)
        if wanted not in self.bits or wanted in local:
            return "", frozenset()
        given = need.given & around
        gone = {
            key_of(access)
            for access in given.gone
            if (len(access) == 1 or access[0] == "steps") and access[0] not in local
        }
        met = self.conditions.of(given, local)
        return wanted, frozenset((*(key for key in gone if key in self.bits), *(one.opposite for one in met)))

    def key(self, bit: int) -> str:
        return self.keys[bit.bit_length() - 1]

    def base(self, bit: int) -> int:
        """The bit of what a clause wants, or of a name or step itself."""
        return bit if bit & self.plain else self.bits[self.key(bit)]

    def of(self, use: Use) -> Reading:
        """What a template needs and tells."""
        template = use.template
        around = self.conditions.around(use)
        found = self.found.get((template.source, use.local, around))
        if found is None:
            if around is NOTHING and not self.conditions.is_asked(use) and is_unconditional(template):
                needs = self.mask(template.reads, use.local)
                known = Known(self.closed_mask(template.reads, use.local))
                found = Reading(needs, (), needs, known, known, known)
            else:
                found = self.conditional(use, around)
            self.found[template.source, use.local, around] = found
        return found

    def conditional(self, use: Use, around: Facts) -> Reading:
        found = self.conditions.implied(use)
        needs = wanted = 0
        conditional = []
        for need in found.needs:
            own = self.mask((need.access,), use.local)
            wanted |= own
            clause = self.clauses.get(self.clause_of(need, around, use.local), own)
            given = self.known(need.given, use.local)
            if own & ~given.there and given.outcomes:
                if given == Known():
                    needs |= clause
                else:
                    conditional.append((clause, given))
        always, true, false = (
            self.known(facts, use.local) for facts in (found.always, found.true, found.false)
        )
        for bits_, _ in conditional:
            wanted |= bits_
        return Reading(needs, tuple(conditional), needs | wanted, always, true, false, found.asks_for_errors)

    def mask(self, accesses: Iterable[AccessPath], local: frozenset[str]) -> int:
        found = 0
        for access in accesses:
            if access[0] == "steps":
                found |= self.bits.get(key_of(access) or "", 0)
            elif access[0] not in local:
                found |= self.bits.get(access[0], 0)
        return found

    def closed_mask(self, accesses: Iterable[AccessPath], local: frozenset[str]) -> int:
        """The bits that are there with accesses that have a value."""
        return self.together(key_of(access) or "" for access in accesses if access[0] not in local)

    def together(self, keys: Iterable[Alternative]) -> int:
        found = 0
        for key in keys:
            found |= self.closed.get(key, 0)
        return found

    def known(self, facts: Facts, local: frozenset[str]) -> Known:
        there = self.closed_mask(facts.there, local)
        there |= self.together(self.conditions.of(facts, local))
        for access in facts.there:
            if access[0] == "steps" and access[2:] == ("succeeded",) and access[1] in self.names.steps:
                there |= self.surely_saved(self.names.steps[access[1]])
            elif access == SUCCEEDED_RUN:
                there |= self.at_success
        gone = self.mask((access for access in facts.gone if len(access) == 1 or access[0] == "steps"), local)
        return Known(there, gone, facts.outcomes)

    def surely_saved(self, step: Step) -> int:
        """What a step has saved whenever it has succeeded."""
        return 0 if step.loop is not None else self.surely_saved_by(step.run or ())

    def surely_saved_by(self, run: Iterable[Entry]) -> int:
        found = 0
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                if entry.if_ not in (None, True) or entry.on_error is not None:
                    continue
                found |= self.saves(entry)
            if (task := called(entry)) is not None and task in self.names.tasks:
                if task not in self.sure:
                    self.sure[task] = self.surely_saved_by(self.names.tasks[task].run)
                found |= self.sure[task]
        return found

    def saves(self, entry: Entry, *, in_loops: bool = False) -> int:
        found = 0
        for name, _ in find_saved_names([entry], in_loops=in_loops):
            found |= self.closed.get(name, 0)
        return found
