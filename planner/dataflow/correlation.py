"""Correlation: find the tests of constant values that decide what is assigned and what is read.

Problem: What is assigned under a condition is often read under the same condition. Without the correlation of
both guards, the analysis reports a name as maybe unassigned although no run reads it unassigned.

Algorithm: Branch correlation (Bodik, Gupta and Soffa 1997), restricted to values that never change in a run.
These are inputs, environment entries, variables, and names that a run assigns once. The result of a test of
such a value holds in the whole run, so it becomes a fact (`noetl.planner.dataflow.fact_encoding`). Only
values that at least two templates test are tracked, because only these can correlate. One template suffices
if the possible values of a name are known (`noetl.planner.program.possible_values`). A test of it is then the
set of the values for which it is true. So one test implies another one, and a definition decides tests.

Cost: Linear in the number of templates.

Limits: A name that a run may assign twice is not tracked. Above `MAX_CONDITIONAL_TEMPLATES` templates that
test constant values, none is tracked. More names are then reported as maybe unassigned (NP302). Of the names
that several exclusive steps assign, `MAX_NAMES_IN_BRANCHES` are tracked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from itertools import chain

from noetl.planner.dataflow.narrowing import (
    NO_FACTS,
    UNREACHABLE,
    Condition,
    Facts,
    Narrowing,
    RequiredAccess,
    ValueSet,
    is_unconditional,
    narrow,
)
from noetl.planner.graph.exclusive_steps import ExclusiveSteps
from noetl.planner.program.possible_values import SavedName
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import DocumentPath
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath

_GIVEN_ROOTS = ("input", "environment")
_NEGATED_ORDER = {"lt": "gteq", "lteq": "gt"}

MAX_CONDITIONAL_TEMPLATES = 500
"""How many templates may test constant values. With more of them, no test is tracked."""

MAX_NAMES_IN_BRANCHES = 50
"""How many names are tracked that several steps assign, of which a run visits only one."""


class ConditionCorrelation:
    """The tracked tests of a playbook.

    `narrowings` holds the narrowing of each template by path, if the template does more than require all that
    it reads. It contains conditions of tracked tests only, and what the guards around the template say.
    `guards` are the paths of the guards with tracked tests, `guard_conditions` the conditions that they
    decide. `decided_conditions` are those of definitions, which several guards may decide together.
    `context_facts` holds, by path of an entry or a case, what its guard says about its work. `selected` holds
    the conditions on possible values, each with the values for which it holds. `values_of_definitions` says
    which of the possible values a definition gives, by its path, if its name is tracked.
    """

    def __init__(self, program: Program) -> None:
        self.inputs = program.playbook.input or {}
        self.possible_values = program.possible_values
        conditional = [use for use in program.uses if _is_guard(use) or not is_unconditional(use.template)]
        self.tracked_accesses = self._find_tracked_accesses(program, conditional)
        self.tracked_roots = frozenset(map(self._root, self.tracked_accesses))
        self.narrowings: dict[DocumentPath, Narrowing] = {}
        self.guards: set[DocumentPath] = set()
        self.guard_conditions: set[Condition] = set()
        self.context_facts: dict[DocumentPath, Facts] = {}
        self.selected: dict[Condition, ValueSet] = {}
        self.values_of_definitions: dict[DocumentPath, ValueSet] = {}
        for use in conditional:
            if _is_guard(use) and (use.path[-1] == "if" or self._is_tracked(use)):
                self._add_guard(use)
        self.decided_conditions = self._find_decided_conditions(program)
        paths = {use.path for use in conditional}
        for use in program.uses:
            context = self._surrounding_facts(use)
            if context is not NO_FACTS or use.path in paths or self._is_tracked(use):
                self.narrowings[use.path] = self._narrow(use, context)

    def _add_guard(self, use: TemplateUse) -> None:
        narrowing = self._narrow(use, NO_FACTS)
        conditions = narrowing.true.conditions
        if self._is_tracked(use):
            self.guards.add(use.path)
            self.guard_conditions |= conditions | narrowing.false.conditions
        if use.path[-1] == "if":
            facts, path = Facts(unassigned=narrowing.true.unassigned, conditions=conditions), use.entry_path
        else:
            facts, path = Facts(conditions=conditions), use.path[:-1]
        if facts != NO_FACTS:
            self.context_facts[path] = facts

    def _is_tracked(self, use: TemplateUse) -> bool:
        return not self.tracked_accesses.isdisjoint(use.template.reads)

    def _find_tracked_accesses(
        self, program: Program, conditional: Iterable[TemplateUse]
    ) -> AbstractSet[AccessPath]:
        reads = [
            (use.path, access)
            for use in conditional
            for access in use.template.reads
            if access[0] not in use.local_names and access[0] not in use.item_names
            if (len(access) > 1 if access[0] in _GIVEN_ROOTS else access[0] not in RESERVED_NAMES)
        ]
        # Few values are read twice or are literals, so this cheap filter comes first.
        reads = self._may_correlate(reads)
        if not reads or len({path for path, _ in reads}) > MAX_CONDITIONAL_TEMPLATES:
            return frozenset()
        changing = _find_changing_names(program, dict.fromkeys(access[0] for _, access in reads))
        constant = [read for read in reads if read[1][0] in _GIVEN_ROOTS or read[1][0] not in changing]
        return {access for _, access in self._may_correlate(constant)}

    def _may_correlate(
        self, reads: list[tuple[DocumentPath, AccessPath]]
    ) -> list[tuple[DocumentPath, AccessPath]]:
        """Return the reads of values that are read more than once, or that a definition decides."""
        counts = Counter(self._root(access) for _, access in reads)
        return [
            (path, access)
            for path, access in reads
            if counts[root := self._root(access)] > 1
            or (root[0] not in self.inputs and self.possible_values[root])
        ]

    def _narrow(self, use: TemplateUse, context: Facts) -> Narrowing:
        """Return the narrowing of a template with tracked conditions, where `context` holds around it."""
        narrowing, local_names = narrow(use.template), use.local_names
        given = [required.given for required in narrowing.required if required.given is not NO_FACTS]
        if context is NO_FACTS and not any(facts.conditions for facts in (*given, *narrowing[1:])):
            return narrowing
        return Narrowing(
            tuple(
                RequiredAccess(access, offset, self._track(given, local_names) & context)
                for access, offset, given in narrowing.required
            ),
            *(self._track(facts, local_names) for facts in narrowing[1:]),
        )

    def _track(self, facts: Facts, local_names: frozenset[str]) -> Facts:
        """Return facts whose conditions are tracked tests in canonical form, none of them of local names.

        No place is reached where a value is none of its possible ones, whether it is tracked or not.
        """
        if not facts.conditions:
            return facts
        conditions: set[Condition] = set()
        possible: dict[AccessPath, ValueSet] = {}
        for condition in facts.conditions:
            if condition.access[0] in local_names:
                continue
            access = self._root(condition.access)
            values = condition.select(self.possible_values[access])
            if values is not None:
                possible[access] = possible.get(access, values) & values
            elif condition.access in self.tracked_accesses:
                conditions.add(self._canonical(condition._replace(access=access)))
        for access, values in possible.items():
            if not values:
                return UNREACHABLE
            if access in self.tracked_roots:
                conditions |= self._condition_of(access, values)
        return Facts(facts.assigned, facts.unassigned, facts.results, frozenset(conditions))

    def _condition_of(self, access: AccessPath, values: ValueSet) -> set[Condition]:
        """Return the condition that a value is one of these possible ones: none if these are all."""
        excluded = (1 << len(self.possible_values[access])) - 1 & ~values
        if not excluded:
            return set()
        has_first = bool(values & 1)
        condition = Condition(access, f"among {values if has_first else excluded}", has_first)
        self.selected |= {condition: values, condition.opposite: excluded}
        return {condition}

    def _find_decided_conditions(self, program: Program) -> AbstractSet[Condition]:
        """Return what definitions say of names with three or more possible values, and the opposites."""
        conditions: set[Condition] = set()
        for saved in program.saved_names if self.tracked_accesses else ():
            access = (saved.name,)
            if access in self.tracked_accesses:
                self.values_of_definitions[saved.path] = values = self._select_definition(saved)
                if len(self.possible_values[access]) > 2:
                    conditions |= self._condition_of(access, values)
        return conditions | {condition.opposite for condition in conditions}

    def _select_definition(self, saved: SavedName) -> ValueSet:
        """Return which of the possible values of a name a definition gives."""
        given = {(type(literal), repr(literal)) for literal in saved.literals}
        possible = self.possible_values[saved.name,]
        return sum(
            1 << index for index, literal in enumerate(possible) if (type(literal), repr(literal)) in given
        )

    def _root(self, access: AccessPath) -> AccessPath:
        """Return one access for a value that can be read in two ways: `input.x` is also `x`."""
        return access[1:] if access[0] == "input" and access[1] in self.inputs else access

    def _canonical(self, condition: Condition) -> Condition:
        """Return one of two equivalent conditions: of `x < 3` and `not x >= 3`, always the second."""
        access = condition.access
        declaration = self.inputs.get(access[0]) if len(access) == 1 else None
        operator, _, constant = condition.test.partition(" ")
        if declaration and declaration.type in ("integer", "number") and operator in _NEGATED_ORDER:
            return Condition(access, f"{_NEGATED_ORDER[operator]} {constant}", not condition.truth)
        return condition

    def _surrounding_facts(self, use: TemplateUse) -> Facts:
        """Return the facts that the guards around a template give: of its entry and of its case."""
        entry_path = use.entry_path
        if not self.context_facts or not entry_path or use.path[len(entry_path)] in ("if", "loop", "retry"):
            return NO_FACTS
        return self.context_facts.get(entry_path, NO_FACTS) & self.context_facts.get(
            entry_path[:-2], NO_FACTS
        )


def _is_guard(use: TemplateUse) -> bool:
    """Return whether a template decides if an entry does its work, or if a case is taken."""
    path, entry_path = use.path, use.entry_path
    if entry_path:
        return path[-1] == "if" and len(path) == len(entry_path) + 1
    return path[-1] == "case"


def _find_changing_names(program: Program, names: Iterable[str]) -> AbstractSet[str]:
    """Return the names, of these and others, that may be assigned more than once in a run."""
    playbook, cfg, joins = program.playbook, program.cfg, program.joins
    given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
    savers: dict[str, list[str]] = {}
    changing: set[str] = set()
    for saved in program.saved_names:
        step = saved.step
        is_assigned_once = (
            step is not None
            and not saved.is_entry_local
            and step.loop is None
            and step.repeat is None
            and step.name not in joins.multi_merges
            and step.name in cfg.reachable
            and step.name not in cfg.cyclic_steps
        )
        if step is None or saved.name in given or not is_assigned_once:
            changing.add(saved.name)
        else:
            savers.setdefault(saved.name, []).append(step.name)
    repeated = {name: steps for name, steps in savers.items() if len(steps) > 1}
    candidates = [
        name
        for name in names
        if name not in changing and len(steps := repeated.get(name, ())) == len({*steps}) > 0
    ]
    if not candidates:
        return changing | repeated.keys()
    candidates = candidates[:MAX_NAMES_IN_BRANCHES]
    exclusive_steps = ExclusiveSteps(cfg, joins, chain.from_iterable(map(repeated.__getitem__, candidates)))
    exclusive = {name for name in candidates if exclusive_steps.are_exclusive(repeated[name])}
    return changing | (repeated.keys() - exclusive)
