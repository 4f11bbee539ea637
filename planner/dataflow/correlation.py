"""Correlation: find the tests of constant values that more than one guard or conditional template reads.

Problem: What is assigned under a condition is often read under the same condition. Without the correlation of
both guards, the analysis reports a name as maybe unassigned although no run reads it unassigned.

Algorithm: Branch correlation (Bodik, Gupta and Soffa 1997), restricted to values that never change in a run.
These are inputs, environment entries, variables, and names that one step assigns once. The result of a test
of such a value holds in the whole run, so it becomes a fact (`noetl.planner.dataflow.fact_encoding`). Only
values that at least two templates test are tracked, because only these can correlate.

Cost: Linear in the number of templates.

Limits: Above `MAX_CONDITIONAL_TEMPLATES` templates that test such values, none is tracked. More names are
then reported as maybe unassigned (NP302).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property

from noetl.planner.dataflow.narrowing import (
    NO_FACTS,
    Condition,
    Facts,
    Narrowing,
    is_unconditional,
    narrow,
    narrow_guard,
)
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import DocumentPath, InputDeclaration, Step
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath

_GIVEN_ROOTS = ("input", "environment")
_NEGATED_ORDER = {"lt": "gteq", "lteq": "gt"}

MAX_CONDITIONAL_TEMPLATES = 500
"""How many templates may test constant values. With more of them, no test is tracked."""


class ConditionCorrelation:
    """The tracked tests of a playbook.

    `tracked_accesses` are the accesses whose tests are tracked. `guard_conditions` are the conditions that
    the guards decide. `context_facts` holds, by path of an entry or a case, what its guard says about its
    work.
    """

    def __init__(self, program: Program, uses: Iterable[TemplateUse]) -> None:
        self.program = program
        self.inputs = program.playbook.input or {}
        conditional = [use for use in uses if is_guard(use) or not is_unconditional(use.template)]
        reads = [
            (use, access)
            for use in conditional
            for access in use.template.reads
            if self._may_be_constant(access, use)
        ]
        # Few values are read twice, so this cheap filter comes first.
        reads = self._read_more_than_once(reads)
        self.tracked_accesses: AbstractSet[AccessPath] = frozenset()
        if len({use.path for use, _ in reads}) <= MAX_CONDITIONAL_TEMPLATES:
            constant = [
                (use, access)
                for use, access in reads
                if access[0] in _GIVEN_ROOTS or self._is_constant_name(access[0])
            ]
            self.tracked_accesses = {access for _, access in self._read_more_than_once(constant)}
        self.context_facts: dict[DocumentPath, Facts] = {}
        self.guard_conditions: set[Condition] = set()
        for use in conditional:
            if is_guard(use) and (self.tracked_accesses or use.path[-1] == "if"):
                self._add_guard(use)

    def _add_guard(self, use: TemplateUse) -> None:
        narrowing = self.narrow(use)
        conditions = self.tracked_conditions(narrowing.true, use.local_names)
        self.guard_conditions |= conditions | self.tracked_conditions(narrowing.false, use.local_names)
        if use.path[-1] == "if":
            facts, path = Facts(unassigned=narrowing.true.unassigned, conditions=conditions), use.entry_path
        else:
            facts, path = Facts(conditions=conditions), use.path[:-1]
        if facts != NO_FACTS:
            self.context_facts[path] = facts

    @cached_property
    def _is_constant_name(self) -> Callable[[str], bool]:
        return _make_constant_name_test(self.program)

    def _read_more_than_once(
        self, reads: Sequence[tuple[TemplateUse, AccessPath]]
    ) -> list[tuple[TemplateUse, AccessPath]]:
        counts = Counter(self._root(access) for _, access in reads)
        return [read for read in reads if counts[self._root(read[1])] > 1]

    def narrow(self, use: TemplateUse) -> Narrowing:
        """Return the narrowing of a template, with conditions if it is a tracked guard."""
        return narrow_guard(use.template) if self.is_tracked_guard(use) else narrow(use.template)

    def is_tracked_guard(self, use: TemplateUse) -> bool:
        """Return whether a template is a guard that tests a tracked value."""
        return (
            bool(self.tracked_accesses)
            and is_guard(use)
            and not self.tracked_accesses.isdisjoint(use.template.reads)
        )

    def tracked_conditions(self, facts: Facts, local_names: frozenset[str]) -> frozenset[Condition]:
        """Return the conditions of tracked tests in canonical form, without those of local names."""
        if not facts.conditions:
            return facts.conditions
        return frozenset(
            self._canonical(condition)
            for condition in facts.conditions
            if condition.access in self.tracked_accesses and condition.access[0] not in local_names
        )

    def _root(self, access: AccessPath) -> AccessPath:
        """Return one access for a value that can be read in two ways: `input.x` is also `x`."""
        return access[1:] if access[0] == "input" and access[1] in self.inputs else access

    def _canonical(self, condition: Condition) -> Condition:
        """Return one of several equivalent conditions: of `x < 3` and `not x >= 3`, always the second."""
        access = self._root(condition.access)
        declaration = self.inputs.get(access[0]) if len(access) == 1 else None
        if declaration is None:
            return condition._replace(access=access)
        operator, _, constant = condition.test.partition(" ")
        if declaration.type in ("integer", "number") and operator in _NEGATED_ORDER:
            return Condition(access, f"{_NEGATED_ORDER[operator]} {constant}", not condition.truth)
        if operator == "eq" and (values := _two_values(declaration)) and constant == repr(values[1]):
            return Condition(access, f"eq {values[0]!r}", not condition.truth)
        return condition._replace(access=access)

    def surrounding_facts(self, use: TemplateUse) -> Facts:
        """Return the facts that the guards around a template give: of its entry and of its case."""
        entry_path = use.entry_path
        if not self.context_facts or not entry_path or use.path[len(entry_path)] in ("if", "loop", "retry"):
            return NO_FACTS
        return self.context_facts.get(entry_path, NO_FACTS) & self.context_facts.get(
            entry_path[:-2], NO_FACTS
        )

    def _may_be_constant(self, access: AccessPath, use: TemplateUse) -> bool:
        """Return whether an access may have one value in the whole run.

        A cheap test, which may say yes wrongly.
        """
        name = access[0]
        if name in use.local_names or name in use.item_names:
            return False
        return len(access) > 1 if name in _GIVEN_ROOTS else name not in RESERVED_NAMES


def _two_values(declaration: InputDeclaration) -> list[str]:
    """Return the values of an input that is always one of exactly two texts, else an empty list."""
    may_be_none = "default" in declaration.model_fields_set and declaration.default is None
    texts = [value for value in declaration.enum or () if isinstance(value, str)]
    return texts if len(texts) == 2 == len(declaration.enum or ()) and not may_be_none else []


def is_guard(use: TemplateUse) -> bool:
    """Return whether a template decides if an entry does its work, or if a case is taken."""
    path, entry_path = use.path, use.entry_path
    if entry_path:
        return path[-1] == "if" and len(path) == len(entry_path) + 1
    return path[-1] == "case"


def _make_constant_name_test(program: Program) -> Callable[[str], bool]:
    """Return a predicate: nothing assigns the name, or one entry does, which runs at most once in a run."""
    playbook = program.playbook
    assignments = Counter(
        name for run in program.work_lists() for name, _ in find_saved_names(run, in_loops=True)
    )
    given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
    assigned_once = {
        name for step in program.symbols.steps.values() for name in _names_assigned_once(program, step)
    } - given
    return lambda name: name not in assignments or (assignments[name] == 1 and name in assigned_once)


def _names_assigned_once(program: Program, step: Step) -> Iterator[str]:
    is_repeated = step.loop is not None or step.repeat is not None or step.name in program.joins.multi_merges
    if not is_repeated and step.name in program.cfg.reachable and not program.cfg.is_cyclic(step.name):
        for run in (step.run or (), *(case.run for case in step.rule or ())):
            yield from (name for name, _ in find_saved_names(run))
