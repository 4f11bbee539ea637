"""Fact encoding: number the facts of a playbook, and translate what templates require and imply to fact sets.

Problem: The solver works on fact sets (`int` used as bit sets), while narrowing works on accesses and
conditions. Two things need facts of their own. A *condition* is a test of a constant value with its result:
work done under it is often read under the same test. A *clause* is a disjunction. A template that reads `x`
only if `y` is unassigned requires the clause "`x` or `y` is assigned".

Algorithm: `FactEncoder` gives one bit to each name that is both read and assigned, and to each `steps.NAME`
that is read. Both results of each tracked test get one, and each clause. `closures` maps a name or condition
to its bit and those of all clauses that it makes true. Resolution (Robinson 1965) gives `x` from the clause
"`x` or c" and either "not c" or the clause "`x` or not c".

Cost: Linear in the number of accesses plus the number of clauses. `MAX_CLAUSES` and `MAX_CORRELATED_CLAUSES`
bound the clauses, `MAX_CACHED_RESOLUTIONS` the memory of the cache of resolutions.

Limits: Past `MAX_CLAUSES`, a conditional read counts as unconditional: a finding may be wrong, but no
undefined name is missed. Past `MAX_CORRELATED_CLAUSES`, clauses are created only where a template needs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, product
from operator import or_
from typing import NamedTuple

from noetl.planner.dataflow.correlation import ConditionCorrelation
from noetl.planner.dataflow.definitions import called_task
from noetl.planner.dataflow.narrowing import (
    ANY_RESULT,
    NO_FACTS,
    SUCCEEDED_RUN,
    Condition,
    Facts,
    RequiredAccess,
    RunResults,
    is_unconditional,
)
from noetl.planner.dataflow.transfer import ALL_FACTS, FactSet
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, Step, TaskEntry
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath

Alternative = str | Condition
"""What satisfies a clause besides its name: the key of another name or step, or a condition."""

MAX_CLAUSES = 1_000
"""How many clauses get a bit. A read past this limit is encoded as unconditional."""

MAX_CACHED_RESOLUTIONS = 10_000
"""How many results of `FactEncoder.resolve` are cached."""

MAX_CORRELATED_CLAUSES = 500
"""How many pairs of a name and a condition get clauses before any template needs them."""


def fact_key(access: AccessPath) -> str | None:
    """Return what must be assigned for an access: a name, or `steps.NAME` for a step that must be visited.

    >>> fact_key(("user", "id")), fact_key(("steps", "load", "result")), fact_key(("steps", "load", "status"))
    ('user', 'steps.load', None)
    """
    if access[0] != "steps":
        return access[0]
    return f"steps.{access[1]}" if len(access) > 2 and access[2] in ("result", "error") else None


class EncodedFacts(NamedTuple):
    """`Facts` as fact sets: what is assigned, what is unassigned, and the possible results of the `run`."""

    assigned: FactSet = 0
    unassigned: FactSet = 0
    results: RunResults = ANY_RESULT


@dataclass(frozen=True, slots=True)
class EncodedTemplate:
    """A template as fact sets.

    `required` must always hold. `conditional` holds pairs: facts that must hold only where the given facts
    do. `read` is the union of both, and of what these clauses name. `always`, `true` and `false` are the
    facts after any value, a true and a false one.
    """

    required: FactSet
    conditional: tuple[tuple[FactSet, EncodedFacts], ...]
    read: FactSet
    always: EncodedFacts
    true: EncodedFacts
    false: EncodedFacts
    reads_error_part: bool = False


class FactEncoder:
    """The numbering of the facts of a playbook.

    `keys` holds the key of each bit in order: a name or `steps.NAME`. The key of a clause is the name that it
    is about, that of a condition is empty. `bits` are the bits of names and steps; `name_facts` is all of
    them. `condition_bits` are those of conditions. `closures` maps a key or condition to all facts that hold
    where it does. `at_start` holds when a run starts, `at_success` when a run has succeeded, as far as that
    is known.
    """

    def __init__(self, program: Program) -> None:
        self.symbols = program.symbols
        playbook = program.playbook
        self.has_declared_inputs = playbook.input is not None
        self.given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        self.keys: list[str] = []
        self.bits: dict[str, FactSet] = {}
        self.saved = {
            name for run in program.work_lists() for name, _ in find_saved_names(run, in_loops=True)
        } - self.given
        self.at_start = self.at_success = 0
        self._encoded: dict[tuple[str, frozenset[str], Facts], EncodedTemplate] = {}
        self._saved_by_task: dict[str, FactSet] = {}
        for use in program.uses:
            self.assign_bits(use)
        self.name_facts = (1 << len(self.keys)) - 1
        self.condition_bits: dict[Condition, FactSet] = {}
        self._first_results = 0
        self._resolutions: list[tuple[FactSet, FactSet, FactSet]] = []
        self._resolvable = self._weakenable = self._resolution_inputs = 0
        self._resolution_cache: dict[FactSet, FactSet] = {}
        self.clauses: dict[tuple[str, frozenset[Alternative]], FactSet] = {}
        self.closures: dict[Alternative, FactSet] = {}
        self.closures.update(self.bits)
        # Without keys there is nothing to analyse.
        self.correlation = ConditionCorrelation(program, program.uses if self.keys else ())
        for use in program.uses if self.keys else ():
            self.add_clauses(use)
        self.add_correlated_clauses()
        self.add_exclusions()
        self.find_resolutions()
        self.at_start = self.closure(key for key, bit in self.bits.items() if bit & self.at_start)

    def set_success_facts(self, facts: FactSet) -> None:
        """Set the facts that hold when a run has succeeded."""
        self.at_success = facts
        self._encoded.clear()

    def assign_bits(self, use: TemplateUse) -> None:
        """Assign a bit to each name that a template reads and the playbook assigns.

        A name that is given, or that nothing assigns, needs a bit only if a guard may test whether it is
        defined.
        """
        may_test_definedness = "defined" in use.template.source
        for access in use.template.reads:
            key = access[0]
            is_given = key in self.given and may_test_definedness
            is_never_assigned = (
                may_test_definedness and self.has_declared_inputs and key not in RESERVED_NAMES
            )
            if key == "steps" and len(access) > 2 and access[1] in self.symbols.steps:
                key = f"steps.{access[1]}"
            elif not (key in self.saved or is_given or is_never_assigned) or key in use.local_names:
                continue
            if key not in self.bits:
                self.bits[key] = 1 << len(self.keys)
                self.keys.append(key)
                self.at_start |= self.bits[key] if is_given else 0

    def add_clauses(self, use: TemplateUse) -> None:
        """Add the clauses of a template, and the conditions that its value decides."""
        context = self.correlation.surrounding_facts(use)
        is_tracked = self.correlation.is_tracked_guard(use)
        if context is NO_FACTS and not is_tracked and is_unconditional(use.template):
            return
        narrowing = self.correlation.narrow(use)
        if is_tracked:
            for facts in (narrowing.true, narrowing.false):
                self.add_conditions(self.correlation.tracked_conditions(facts, use.local_names))
        for required in narrowing.required:
            name, alternatives = self.clause_of(required, context, use.local_names)
            if alternatives:
                self.add_clause(name, alternatives)

    def add_clause(self, name: str, alternatives: frozenset[Alternative]) -> None:
        if (name, alternatives) in self.clauses or len(self.clauses) >= MAX_CLAUSES:
            return
        self.add_conditions(item for item in alternatives if isinstance(item, Condition))
        bit = self.clauses[name, alternatives] = self._new_bit(name)
        for item in (name, *alternatives):
            self.closures[item] |= bit

    def add_correlated_clauses(self) -> None:
        """Add the clauses that one step may satisfy and a case of another step may resolve."""
        names = [name for name in self.saved if name in self.bits]
        conditions = [
            condition
            for condition in self.condition_bits
            if condition.opposite in self.correlation.guard_conditions
        ]
        if len(names) * len(conditions) <= MAX_CORRELATED_CLAUSES:
            for name, condition in product(sorted(names), conditions):
                self.add_clause(name, frozenset((condition,)))

    def add_conditions(self, conditions: Iterable[Condition]) -> None:
        """Assign bits to both results of tests. The two bits of one test are adjacent."""
        for condition in sorted(conditions):
            if condition not in self.condition_bits:
                for result in (condition, condition.opposite):
                    self.condition_bits[result] = self.closures[result] = self._new_bit("")
                self._first_results |= self.condition_bits[condition]

    def add_exclusions(self) -> None:
        """Extend the closures of equality tests: a value that equals one text equals no other text."""
        equalities: dict[AccessPath, list[Condition]] = {}
        for condition in self.condition_bits:
            if condition.truth and condition.test[:4] in ("eq '", 'eq "'):
                equalities.setdefault(condition.access, []).append(condition)
        for conditions in equalities.values():
            inequalities = [self.closures[condition.opposite] for condition in conditions]
            before = accumulate([0, *inequalities[:-1]], or_)
            after = reversed([*accumulate([0, *inequalities[:0:-1]], or_)])
            for condition, earlier, later in zip(conditions, before, after, strict=True):
                self.closures[condition] |= earlier | later

    def find_resolutions(self) -> None:
        """Precompute resolution: `(name or c)` with `not c`, or with `(name or not c)`, gives `name`."""
        for (name, alternatives), bit in self.clauses.items():
            for condition in alternatives if len(alternatives) == 1 else ():
                if isinstance(condition, Condition):
                    opposite_clause = self.clauses.get((name, frozenset((condition.opposite,))), 0)
                    resolvers = self.condition_bits[condition.opposite] | opposite_clause
                    self._resolutions.append((bit, resolvers, self.closures[name]))
                    self._resolvable |= bit
                    self._resolution_inputs |= bit | resolvers
                    self._weakenable |= self.bits[name]

    def resolve(self, facts: FactSet) -> FactSet:
        """Return the facts together with those that follow from their clauses."""
        if not facts & self._resolvable or facts == ALL_FACTS:
            return facts
        inputs = facts & self._resolution_inputs
        if inputs not in self._resolution_cache:
            resolved = inputs
            for clause, resolvers, conclusion in self._resolutions:
                if resolved & clause and resolved & resolvers:
                    resolved |= conclusion
            if len(self._resolution_cache) >= MAX_CACHED_RESOLUTIONS:
                self._resolution_cache.clear()
            self._resolution_cache[inputs] = resolved
        return facts | self._resolution_cache[inputs]

    def weaken(self, missing: FactSet, known: FactSet) -> FactSet:
        """Weaken missing facts: where `name` is missing and `c` holds, require the clause `(name or not c)`.

        The clause suffices, because together with `c` it resolves to `name`.
        """
        if missing & self._weakenable:
            for clause, resolvers, _ in self._resolutions:
                base = self.base(clause)
                if missing & base and known & resolvers:
                    missing ^= base | clause
        return missing & ~known

    def conditions_around(self, entry: DocumentPath) -> FactSet:
        """Return the conditions that hold where an entry does its work, as its own `if` says."""
        return self.closure(self.correlation.context_facts.get(entry, NO_FACTS).conditions)

    def are_exclusive(self, facts: FactSet, other_facts: FactSet) -> bool:
        """Return whether a test is true in one fact set and false in the other."""
        first = self._first_results
        return bool(first & facts & other_facts >> 1 or first & other_facts & facts >> 1)

    def _new_bit(self, key: str) -> FactSet:
        self.keys.append(key)
        return 1 << len(self.keys) - 1

    def clause_of(
        self, required: RequiredAccess, context: Facts, local_names: frozenset[str]
    ) -> tuple[str, frozenset[Alternative]]:
        """Return the name and the alternatives of the clause for a required access, if it has one."""
        name = fact_key(required.access)
        if name not in self.bits or name in local_names:
            return "", frozenset()
        given = required.given & context
        unassigned = {
            fact_key(access)
            for access in given.unassigned
            if (len(access) == 1 or access[0] == "steps") and access[0] not in local_names
        }
        conditions = self.correlation.tracked_conditions(given, local_names)
        return name, frozenset(
            (
                *(key for key in unassigned if key in self.bits),
                *(condition.opposite for condition in conditions),
            )
        )

    def key(self, bit: FactSet) -> str:
        """Return the key of a bit."""
        return self.keys[bit.bit_length() - 1]

    def base(self, bit: FactSet) -> FactSet:
        """Return the bit of the name that a clause is about, or the bit itself if it is that of a name."""
        return bit if bit & self.name_facts else self.bits[self.key(bit)]

    def encode(self, use: TemplateUse) -> EncodedTemplate:
        """Return what a template requires and implies, as fact sets."""
        template = use.template
        context = self.correlation.surrounding_facts(use)
        encoded = self._encoded.get((template.source, use.local_names, context))
        if encoded is None:
            is_tracked = self.correlation.is_tracked_guard(use)
            if context is NO_FACTS and not is_tracked and is_unconditional(template):
                required = self.mask(template.reads, use.local_names)
                facts = EncodedFacts(self.access_closure(template.reads, use.local_names))
                encoded = EncodedTemplate(required, (), required, facts, facts, facts)
            else:
                encoded = self._encode_conditional(use, context)
            self._encoded[template.source, use.local_names, context] = encoded
        return encoded

    def _encode_conditional(self, use: TemplateUse, context: Facts) -> EncodedTemplate:
        narrowing = self.correlation.narrow(use)
        required_facts = read = 0
        conditional = []
        for required in narrowing.required:
            name_fact = self.mask((required.access,), use.local_names)
            read |= name_fact
            clause = self.clauses.get(self.clause_of(required, context, use.local_names), name_fact)
            given = self._encode_facts(required.given, use.local_names)
            if name_fact & ~given.assigned and given.results:
                if given == EncodedFacts():
                    required_facts |= clause
                else:
                    conditional.append((clause, given))
        always, true, false = (
            self._encode_facts(facts, use.local_names)
            for facts in (narrowing.always, narrowing.true, narrowing.false)
        )
        for clause, _ in conditional:
            read |= clause
        return EncodedTemplate(
            required_facts,
            tuple(conditional),
            required_facts | read,
            always,
            true,
            false,
            narrowing.reads_error_part,
        )

    def mask(self, accesses: Iterable[AccessPath], local_names: frozenset[str]) -> FactSet:
        """Return the bits of the names and steps that accesses need, without clauses."""
        facts = 0
        for access in accesses:
            if access[0] == "steps":
                facts |= self.bits.get(fact_key(access) or "", 0)
            elif access[0] not in local_names:
                facts |= self.bits.get(access[0], 0)
        return facts

    def access_closure(self, accesses: Iterable[AccessPath], local_names: frozenset[str]) -> FactSet:
        """Return the facts that hold where accesses have a value."""
        return self.closure(fact_key(access) or "" for access in accesses if access[0] not in local_names)

    def closure(self, items: Iterable[Alternative]) -> FactSet:
        """Return the facts that hold where names are assigned, steps visited and conditions hold."""
        facts = 0
        for item in items:
            facts |= self.closures.get(item, 0)
        return facts

    def _encode_facts(self, facts: Facts, local_names: frozenset[str]) -> EncodedFacts:
        assigned = self.access_closure(facts.assigned, local_names)
        assigned |= self.closure(self.correlation.tracked_conditions(facts, local_names))
        for access in facts.assigned:
            is_success = access[0] == "steps" and access[2:] == ("succeeded",)
            if is_success and access[1] in self.symbols.steps:
                assigned |= self.saved_on_success(self.symbols.steps[access[1]])
            elif access == SUCCEEDED_RUN:
                assigned |= self.at_success
        unassigned = self.mask(
            (access for access in facts.unassigned if len(access) == 1 or access[0] == "steps"), local_names
        )
        return EncodedFacts(assigned, unassigned, facts.results)

    def saved_on_success(self, step: Step) -> FactSet:
        """Return what a step has assigned whenever its `run` has succeeded."""
        return 0 if step.loop is not None else self._saved_on_success(step.run or ())

    def _saved_on_success(self, run: Iterable[Entry]) -> FactSet:
        facts = 0
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                if entry.if_ not in (None, True) or entry.on_error is not None:
                    continue
                facts |= self.saved_by(entry)
            if (task := called_task(entry)) is not None and task in self.symbols.tasks:
                if task not in self._saved_by_task:
                    self._saved_by_task[task] = self._saved_on_success(self.symbols.tasks[task].run)
                facts |= self._saved_by_task[task]
        return facts

    def saved_by(self, entry: Entry) -> FactSet:
        """Return what an entry itself assigns."""
        facts = 0
        for name, _ in find_saved_names([entry]):
            facts |= self.closures.get(name, 0)
        return facts
