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
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from noetl.planner.dataflow.narrowing import (
    NO_FACTS,
    Condition,
    Facts,
    Narrowing,
    RequiredAccess,
    is_unconditional,
    narrow,
)
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import TemplateUse
from noetl.planner.syntax.models import DocumentPath, InputDeclaration
from noetl.planner.syntax.names import RESERVED_NAMES
from noetl.planner.templates.access_paths import AccessPath

_GIVEN_ROOTS = ("input", "environment")
_NEGATED_ORDER = {"lt": "gteq", "lteq": "gt"}

MAX_CONDITIONAL_TEMPLATES = 500
"""How many templates may test constant values. With more of them, no test is tracked."""


class ConditionCorrelation:
    """The tracked tests of a playbook.

    `narrowings` holds the narrowing of each template by path, if the template does more than require all that
    it reads. It contains conditions of tracked tests only, and what the guards around the template say.
    `guards` are the paths of the guards with tracked tests, `guard_conditions` the conditions that they
    decide. `context_facts` holds, by path of an entry or a case, what its guard says about its work.
    """

    def __init__(self, program: Program) -> None:
        self.inputs = program.playbook.input or {}
        conditional = [use for use in program.uses if _is_guard(use) or not is_unconditional(use.template)]
        self.tracked_accesses = self._find_tracked_accesses(program, conditional)
        self.narrowings: dict[DocumentPath, Narrowing] = {}
        self.guards: set[DocumentPath] = set()
        self.guard_conditions: set[Condition] = set()
        self.context_facts: dict[DocumentPath, Facts] = {}
        for use in conditional:
            if _is_guard(use) and (use.path[-1] == "if" or self._is_tracked(use)):
                self._add_guard(use)
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
        # Few values are read twice, so this cheap filter comes first.
        reads = self._read_more_than_once(reads)
        if not reads or len({path for path, _ in reads}) > MAX_CONDITIONAL_TEMPLATES:
            return frozenset()
        changing = _find_changing_names(program)
        constant = [read for read in reads if read[1][0] in _GIVEN_ROOTS or read[1][0] not in changing]
        return {access for _, access in self._read_more_than_once(constant)}

    def _read_more_than_once(
        self, reads: list[tuple[DocumentPath, AccessPath]]
    ) -> list[tuple[DocumentPath, AccessPath]]:
        counts = Counter(self._root(access) for _, access in reads)
        return [read for read in reads if counts[self._root(read[1])] > 1]

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
        """Return facts whose conditions are tracked tests in canonical form, none of them of local names."""
        if not facts.conditions:
            return facts
        conditions = frozenset(
            self._canonical(condition)
            for condition in facts.conditions
            if condition.access in self.tracked_accesses and condition.access[0] not in local_names
        )
        return Facts(facts.assigned, facts.unassigned, facts.results, conditions)

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


def _two_values(declaration: InputDeclaration) -> list[str]:
    """Return the values of an input that is always one of exactly two texts, else an empty list."""
    may_be_none = "default" in declaration.model_fields_set and declaration.default is None
    texts = [value for value in declaration.enum or () if isinstance(value, str)]
    return texts if len(texts) == 2 == len(declaration.enum or ()) and not may_be_none else []


def _find_changing_names(program: Program) -> AbstractSet[str]:
    """Return the names that may be assigned more than once in a run."""
    playbook, cfg = program.playbook, program.cfg
    given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
    seen: set[str] = set(given)
    changing: set[str] = set()
    for saved in program.saved_names:
        step = saved.step
        is_assigned_once = (
            step is not None
            and not saved.is_entry_local
            and step.loop is None
            and step.repeat is None
            and step.name not in program.joins.multi_merges
            and step.name in cfg.reachable
            and step.name not in cfg.cyclic_steps
        )
        if saved.name in seen or not is_assigned_once:
            changing.add(saved.name)
        seen.add(saved.name)
    return changing
