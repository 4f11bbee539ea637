"""Fact encoding: number the facts of a playbook, and translate its templates to fact sets.

Problem: The solver works on fact sets, while narrowing works on accesses and conditions. Two things need
facts of their own. A *condition* is a test of a constant value with its result: work done under it is often
read under the same test. A *clause* is a disjunction. A template that reads `x` only if `y` is unassigned
requires the clause "`x` or `y` is assigned".

Algorithm: `FactTable` gives one bit to each name that is both read and assigned, and to each `steps.NAME`
that is read. Both results of each tracked test get one, and each clause. `closures` maps a name or condition
to its bit and those of all clauses that it makes true. Resolution (Robinson 1965) gives `x` from the clause
"`x` or c" and either "not c" or the clause "`x` or not c". A test of possible values implies each other test
that its values pass.

Cost: Linear in the number of accesses plus the number of clauses. `MAX_CLAUSES` and `MAX_CORRELATED_CLAUSES`
bound the clauses, `MAX_CACHED_RESOLUTIONS` the memory of the cache of resolutions.

Limits: Past `MAX_CLAUSES`, a conditional read counts as unconditional: a finding may be wrong, but no
undefined name is missed. Past `MAX_CORRELATED_CLAUSES`, clauses are created only where a template needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from itertools import accumulate, product
from operator import and_, or_
from typing import Any, NamedTuple

import networkx as nx

from noetl.planner.dataflow.correlation import ConditionCorrelation
from noetl.planner.dataflow.definitions import called_task
from noetl.planner.dataflow.narrowing import (
    ANY_RESULT,
    NO_FACTS,
    SUCCEEDED_RUN,
    Condition,
    Facts,
    Narrowing,
    RequiredAccess,
    RunResults,
    ValueSet,
)
from noetl.planner.dataflow.transfer import ALL_FACTS, EMPTY, FactSet
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, TaskEntry
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath

Alternative = str | Condition
"""What satisfies a clause besides its name: the key of another name or step, or a condition."""

VISITED_ATTRIBUTES = frozenset({"result", "error", "failures"})
"""The attributes of `steps.NAME` that have no value before the step is visited."""

MAX_CLAUSES = 1_000
"""How many clauses get a bit. A read past this limit is encoded as unconditional."""

MAX_CACHED_RESOLUTIONS = 10_000
"""How many results of `FactTable.resolve` are cached."""

MAX_CORRELATED_CLAUSES = 500
"""How many pairs of a name and a condition get clauses before any template needs them."""

MAX_RELATED_TESTS = 400
"""How many different tests of one name are related by its possible values."""


def fact_key(access: AccessPath) -> str | None:
    """Return what must be assigned for an access: a name, or `steps.NAME` for a step that must be visited.

    >>> fact_key(("user", "id")), fact_key(("steps", "load", "result")), fact_key(("steps", "load", "status"))
    ('user', 'steps.load', None)
    """
    if access[0] != "steps":
        return access[0] if access != SUCCEEDED_RUN else "run.succeeded"
    if len(access) > 2 and access[2] == "succeeded":
        return f"steps.{access[1]}.succeeded"
    return f"steps.{access[1]}" if len(access) > 2 and access[2] in VISITED_ATTRIBUTES else None


class EncodedFacts(NamedTuple):
    """`Facts` as fact sets: what is assigned, what is unassigned, and the possible results of the `run`."""

    assigned: FactSet = EMPTY
    unassigned: FactSet = EMPTY
    results: RunResults = ANY_RESULT


NOTHING_ENCODED = EncodedFacts()


class EncodedTemplate(NamedTuple):
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


class FactTable:
    """The facts of a playbook, and what its text says about them. Without `bits` there is nothing to analyse.

    `keys` holds the key of each bit in order: a name or `steps.NAME`. The key of a clause is the name that it
    is about, that of a condition is empty. `bits` are the bits of names and steps; `name_facts` is all of
    them. `closures` maps a key or condition to all facts that hold where it does. `at_start` holds when a run
    starts. `run_succeeded` is the fact that a run has succeeded.

    `unread_names` are saved names that are facts although no template reads them. Only a program that
    `analyses_all_names` has them. Their bits are behind those of the names that templates read.
    Nothing can be undefined unless the table `has_reads`: a template reads one of the names and steps.

    `templates` holds the templates of each entry, and of each other part of a step, by path. `saved` holds
    what each entry saves, `entry_conditions` the conditions that hold where it does its work, both by path.
    """

    def __init__(self, program: Program) -> None:
        self.keys: list[str] = []
        self.bits: dict[str, FactSet] = {}
        self.closures: dict[Alternative, FactSet] = {}
        self.at_start = EMPTY
        self.templates: dict[DocumentPath, list[tuple[TemplateUse, EncodedTemplate]]] = {}
        self.saved: dict[DocumentPath, FactSet] = {}
        self.entry_conditions: dict[DocumentPath, FactSet] = {}
        self._clauses: dict[tuple[str, frozenset[Alternative]], FactSet] = {}
        self._condition_bits: dict[Condition, FactSet] = {}
        # Of each test of a constant: the possible values that pass it, its bit, and the facts where it holds.
        self._value_tests: dict[AccessPath, list[tuple[ValueSet, FactSet, FactSet]]] = {}
        self._resolutions: list[tuple[FactSet, FactSet, FactSet]] = []
        self._resolution_cache: dict[FactSet, FactSet] = {}
        self._resolvable = self._weakenable = self._resolution_inputs = self._first_results = EMPTY
        self._combinable = EMPTY
        self.unread_names: tuple[str, ...] = ()
        self._number_names(program)
        self.has_reads = len(self.bits) > len(self.unread_names)
        self.name_facts = FactSet((1 << len(self.keys)) - 1)
        self.run_succeeded = EMPTY
        if self.bits:
            self.run_succeeded = self.closures["run.succeeded"] = self._new_bit("")
            correlation = program.result_of(ConditionCorrelation)
            self._number_clauses(program, correlation)
            self._prepare_resolution()
            self._encode_text(program, correlation)

    def _new_bit(self, key: str) -> FactSet:
        self.keys.append(key)
        return FactSet(1 << len(self.keys) - 1)

    def _number_names(self, program: Program) -> None:
        """Number each name that a template reads and the playbook assigns, and the unread names.

        A name that is given, or that nothing assigns, is a fact only if a guard may test whether it is
        defined.
        """
        playbook, steps = program.playbook, program.symbols.steps
        given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
        saved = {saved.name for saved in program.saved_names} - given
        for use in program.uses:
            may_test_definedness = "defined" in use.template.source
            for access in use.template.reads:
                key = access[0]
                is_given = key in given and may_test_definedness
                is_never_assigned = (
                    may_test_definedness and playbook.input is not None and key not in RESERVED_NAMES
                )
                if key == "steps" and len(access) > 2 and access[1] in steps:
                    key = f"steps.{access[1]}"
                elif not (key in saved or is_given or is_never_assigned) or key in use.local_names:
                    continue
                if key not in self.bits:
                    self.bits[key] = self.closures[key] = self._new_bit(key)
                    self.at_start |= self.bits[key] if is_given else EMPTY
        if program.analyses_all_names:
            self.unread_names = tuple(sorted(saved - self.bits.keys()))
            for name in self.unread_names:
                self.bits[name] = self.closures[name] = self._new_bit(name)

    def _number_clauses(self, program: Program, correlation: ConditionCorrelation) -> None:
        """Number the clauses that templates require, and the conditions that guards decide."""
        for use in program.uses:
            narrowing = correlation.narrowings.get(use.path)
            if narrowing is None:
                continue
            if use.path in correlation.guards:
                self._number_conditions(narrowing.true.conditions)
                self._number_conditions(narrowing.false.conditions)
            for required in narrowing.required:
                if required.given is not NO_FACTS:
                    self._number_clause(*self._clause_of(required, use.local_names))
        self._number_conditions(correlation.decided_conditions)
        self._number_correlated_clauses(program, correlation)
        self._exclude_unequal_values()
        self._relate_possible_values(correlation)
        self.at_start = _union(self.closures, (key for key, bit in self.bits.items() if bit & self.at_start))

    def _number_clause(self, name: str, alternatives: frozenset[Alternative]) -> None:
        is_known = (name, alternatives) in self._clauses or len(self._clauses) >= MAX_CLAUSES
        if alternatives and not is_known:
            self._number_conditions(item for item in alternatives if isinstance(item, Condition))
            bit = self._clauses[name, alternatives] = self._new_bit(name)
            for item in (name, *alternatives):
                self.closures[item] |= bit

    def _number_conditions(self, conditions: Iterable[Condition]) -> None:
        """Number both results of tests. The two bits of one test are adjacent."""
        for condition in sorted(conditions):
            if condition not in self._condition_bits:
                for result in (condition, condition.opposite):
                    self._condition_bits[result] = self.closures[result] = self._new_bit("")
                self._first_results |= self._condition_bits[condition]

    def _number_correlated_clauses(self, program: Program, correlation: ConditionCorrelation) -> None:
        """Number the clauses that one step may satisfy and a case of another step may resolve.

        Those of unread names are behind the others, so that they change nothing for these.
        """
        names = {saved.name for saved in program.saved_names if saved.name in self.bits}
        names -= {key for key, bit in self.bits.items() if bit & self.at_start}
        decided = correlation.guard_conditions | correlation.decided_conditions
        for group in (names.difference(self.unread_names), names.intersection(self.unread_names)):
            for deciding in (decided, correlation.guard_conditions):
                conditions = [
                    condition for condition in self._condition_bits if condition.opposite in deciding
                ]
                if len(group) * len(conditions) <= MAX_CORRELATED_CLAUSES:
                    for name, condition in product(sorted(group), conditions):
                        self._number_clause(name, frozenset((condition,)))
                    break

    def _clause_of(
        self, required: RequiredAccess, local_names: frozenset[str]
    ) -> tuple[str, frozenset[Alternative]]:
        """Return the name and the alternatives of the clause for a required access, if it has one."""
        name, given = fact_key(required.access), required.given
        if name not in self.bits or name in local_names:
            return "", frozenset()
        keys = _keys(given.unassigned, local_names, only_names=True)
        unassigned = (key for key in keys if key in self.bits)
        return name, frozenset((*unassigned, *(condition.opposite for condition in given.conditions)))

    def _exclude_unequal_values(self) -> None:
        """Extend the closures of equality tests: a value that equals one text equals no other text."""
        equalities: dict[AccessPath, list[Condition]] = {}
        for condition in self._condition_bits:
            if condition.truth and condition.test[:4] in ("eq '", 'eq "'):
                equalities.setdefault(condition.access, []).append(condition)
        for conditions in equalities.values():
            inequalities = [self.closures[condition.opposite] for condition in conditions]
            before = accumulate([EMPTY, *inequalities[:-1]], or_)
            after = reversed([*accumulate([EMPTY, *inequalities[:0:-1]], or_)])
            for condition, earlier, later in zip(conditions, before, after, strict=True):
                self.closures[condition] |= earlier | later

    def _relate_possible_values(self, correlation: ConditionCorrelation) -> None:
        """Extend the closures of tests: a test implies each one that all of its possible values pass."""
        for condition, values in correlation.selected.items():
            if condition in self._condition_bits:
                test = (values, self._condition_bits[condition], self.closures[condition])
                self._value_tests.setdefault(condition.access, []).append(test)
        for access, tests in [*self._value_tests.items()]:
            if len(tests) > MAX_RELATED_TESTS:
                del self._value_tests[access]
            # Two tests of a value that is one of two say the same or the opposite.
            elif len(tests) > 2:
                self._combinable = reduce(or_, (bit for _, bit, _ in tests), self._combinable)
        for condition, values in correlation.selected.items():
            if condition in self._condition_bits:
                self.closures[condition] |= self._implied_by_values(condition.access, values)

    def _implied_by_values(self, access: AccessPath, values: ValueSet) -> FactSet:
        """Return the facts that hold where a constant has one of these possible values."""
        facts = EMPTY
        for passing, _, closure in self._value_tests.get(access, ()) if values else ():
            if not values & ~passing:
                facts |= closure
        return facts

    def _combine_tests(self, facts: FactSet) -> FactSet:
        """Return what follows from several tests of one value: where two of three are excluded, the third."""
        combined = EMPTY
        for access, tests in self._value_tests.items() if facts & self._combinable else ():
            passed = [values for values, bit, _ in tests if facts & bit]
            if len(passed) > 1:
                combined |= self._implied_by_values(access, reduce(and_, passed))
        return combined

    def _prepare_resolution(self) -> None:
        """Find the resolutions: `(name or c)` with `not c`, or with `(name or not c)`, gives `name`."""
        for (name, alternatives), clause in self._clauses.items():
            for condition in alternatives if len(alternatives) == 1 else ():
                if isinstance(condition, Condition):
                    opposite_clause = self._clauses.get((name, frozenset((condition.opposite,))), EMPTY)
                    resolvers = self._condition_bits[condition.opposite] | opposite_clause
                    self._resolutions.append((clause, resolvers, self.closures[name]))
                    self._resolvable |= clause
                    self._resolution_inputs |= clause | resolvers
                    self._weakenable |= self.bits[name]
        if self._resolutions:
            self._resolvable |= self._combinable
            self._resolution_inputs |= self._combinable

    def _encode_text(self, program: Program, correlation: ConditionCorrelation) -> None:
        """Encode all templates, and what entries save and what their guards say."""
        for saved in program.saved_names:
            if not saved.is_entry_local:
                facts = self.saved.get(saved.entry, EMPTY)
                values = correlation.values_of_definitions.get(saved.path, 0)
                decided = self._implied_by_values((saved.name,), values)
                self.saved[saved.entry] = facts | self.closures.get(saved.name, EMPTY) | decided
        for path, context in correlation.context_facts.items():
            self.entry_conditions[path] = _union(self.closures, context.conditions)
        self._add_success_closures(program)
        encoded: dict[tuple[int, frozenset[str]], EncodedTemplate] = {}
        for use in program.uses:
            narrowing = correlation.narrowings.get(use.path)
            key = (id(narrowing or use.template), use.local_names)
            if key not in encoded and narrowing is not None:
                encoded[key] = self._encode_narrowing(narrowing, use.local_names)
            elif key not in encoded:
                keys = [*_keys(use.template.reads, use.local_names)]
                required, after = _union(self.bits, keys), EncodedFacts(_union(self.closures, keys))
                encoded[key] = EncodedTemplate(required, (), required, after, after, after)
            self.templates.setdefault(use.entry_path or use.path, []).append((use, encoded[key]))

    def _encode_narrowing(self, narrowing: Narrowing, local_names: frozenset[str]) -> EncodedTemplate:
        always = read = EMPTY
        conditional = []
        for required in narrowing.required:
            name_fact = _union(self.bits, _keys((required.access,), local_names))
            clause = self._clauses.get(self._clause_of(required, local_names), name_fact)
            given = self._encode_facts(required.given, local_names)
            read |= name_fact
            if name_fact & ~given.assigned and given.results:
                read |= clause
                if given == NOTHING_ENCODED:
                    always |= clause
                else:
                    conditional.append((clause, given))
        after = [self._encode_facts(facts, local_names) for facts in narrowing[1:]]
        return EncodedTemplate(
            always, tuple(conditional), read, after[0], after[1], after[2], narrowing.reads_error_part
        )

    def _encode_facts(self, facts: Facts, local_names: frozenset[str]) -> EncodedFacts:
        if facts is NO_FACTS:
            return NOTHING_ENCODED
        assigned = unassigned = EMPTY
        if facts.assigned:
            assigned = _union(self.closures, _keys(facts.assigned, local_names))
        if facts.conditions:
            assigned |= _union(self.closures, facts.conditions)
        if facts.unassigned:
            unassigned = _union(self.bits, _keys(facts.unassigned, local_names, only_names=True))
        return EncodedFacts(assigned, unassigned, facts.results)

    def _add_success_closures(self, program: Program) -> None:
        """Add what each step has assigned whenever its `run` has succeeded, if a guard tests for that."""
        if any("succeeded" in use.template.source for use in program.uses):
            tasks: dict[str, FactSet] = {}
            for task in reversed(list(nx.topological_sort(program.call_graph))):
                tasks[task] = self._saved_on_success(program.symbols.tasks[task].run, tasks)
            for name, step in program.symbols.steps.items():
                run = step.run or () if step.loop is None else ()
                self.closures[f"steps.{name}.succeeded"] = self._saved_on_success(run, tasks)

    def _saved_on_success(self, run: Iterable[Entry], tasks: Mapping[str, FactSet]) -> FactSet:
        facts = EMPTY
        for entry in run:
            if isinstance(entry, ActionEntry | TaskEntry):
                if entry.if_ not in (None, True) or entry.on_error is not None:
                    continue
                facts |= self.saved.get(entry.path, EMPTY)
            facts |= tasks.get(called_task(entry) or "", EMPTY)
        return facts

    def key(self, bit: FactSet) -> str:
        """Return the key of a bit."""
        return self.keys[bit.bit_length() - 1]

    def base(self, bit: FactSet) -> FactSet:
        """Return the bit of the name that a clause is about, or the bit itself if it is that of a name."""
        return bit if bit & self.name_facts else self.bits[self.key(bit)]

    def resolve(self, facts: FactSet) -> FactSet:
        """Return the facts together with those that follow from their clauses."""
        if not facts & self._resolvable or facts == ALL_FACTS:
            return facts
        inputs = facts & self._resolution_inputs
        if inputs not in self._resolution_cache:
            resolved = inputs | self._combine_tests(inputs)
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

    def are_exclusive(self, facts: FactSet, other_facts: FactSet) -> bool:
        """Return whether a test is true in one fact set and false in the other."""
        first = self._first_results
        return bool(first & facts & other_facts >> 1 or first & other_facts & facts >> 1)


def _keys(
    accesses: Iterable[AccessPath], local_names: frozenset[str], *, only_names: bool = False
) -> Iterator[str | None]:
    """Yield the keys of accesses to names that are not local; with `only_names`, not to parts of values."""
    for access in accesses:
        if access[0] not in local_names and (not only_names or len(access) == 1 or access[0] == "steps"):
            yield fact_key(access)


def _union(facts_by_key: Mapping[Any, FactSet], keys: Iterable[Alternative | None]) -> FactSet:
    """Return the union of the facts of these keys."""
    facts = EMPTY
    for key in keys:
        facts |= facts_by_key.get(key, EMPTY)
    return facts
