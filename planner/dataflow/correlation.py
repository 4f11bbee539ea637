"""Which tests are worth remembering: those of values that never change in a run, asked at more places than one.

What is saved under a condition is often read under the same one. An input never changes, nor does a name that is saved once; so
what a test of one has said anywhere holds everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property

from noetl.planner.dataflow.narrowing import (
    NOTHING,
    Condition,
    Facts,
    Implied,
    implied,
    implied_by_guard,
    is_unconditional,
)
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import Use
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import DocumentPath, InputDeclaration, Step
from noetl.planner.syntax.names import RESERVED
from noetl.planner.templates.access_paths import AccessPath

_GIVEN = ("input", "environment")
_OTHERWISE = {"lt": "gteq", "lteq": "gt"}

MAX_ASKING = 500
"""How many templates that ask for lasting values are looked at: where there are more, none is."""


class Conditions:
    """The tests of a playbook that last: `tested` are the accesses, `choosing` the outcomes that guards ask for,
    `contexts` what is known where the work of an entry is done, or of a case.
    """

    def __init__(self, subject: Subject, uses: Iterable[Use]) -> None:
        self.subject = subject
        self.inputs = subject.playbook.input or {}
        asking = [use for use in uses if is_guard(use) or not is_unconditional(use.template)]
        asked = [
            (use, access) for use in asking for access in use.template.reads if self.may_last(access, use)
        ]
        # Few are asked for twice, so that this is found out first.
        asked = self.repeated(asked)
        self.tested: AbstractSet[AccessPath] = frozenset()
        if len({use.path for use, _ in asked}) <= MAX_ASKING:
            lasting = [
                (use, access) for use, access in asked if access[0] in _GIVEN or self.lasting(access[0])
            ]
            self.tested = {access for _, access in self.repeated(lasting)}
        self.contexts: dict[DocumentPath, Facts] = {}
        self.choosing: set[Condition] = set()
        for use in (use for use in asking if is_guard(use) and (self.tested or use.path[-1] == "if")):
            found = self.implied(use)
            met = self.of(found.true, use.local)
            self.choosing |= met | self.of(found.false, use.local)
            if use.path[-1] == "if":
                facts, place = Facts(gone=found.true.gone, met=met), use.owner
            else:
                facts, place = Facts(met=met), use.path[:-1]
            if facts != NOTHING:
                self.contexts[place] = facts

    @cached_property
    def lasting(self) -> Callable[[str], bool]:
        """Tells of a name whether it never changes."""
        return _lasting(self.subject)

    def repeated(self, asked: Sequence[tuple[Use, AccessPath]]) -> list[tuple[Use, AccessPath]]:
        """Those of values that are asked for at more places than one."""
        counted = Counter(self.root(access) for _, access in asked)
        return [one for one in asked if counted[self.root(one[1])] > 1]

    def implied(self, use: Use) -> Implied:
        """What a template needs and implies, with the outcomes of tests that last."""
        return implied_by_guard(use.template) if self.is_asked(use) else implied(use.template)

    def is_asked(self, use: Use) -> bool:
        """Whether it is a guard that tests what another template tests too."""
        return bool(self.tested) and is_guard(use) and not self.tested.isdisjoint(use.template.reads)

    def of(self, facts: Facts, local: frozenset[str]) -> frozenset[Condition]:
        """The outcomes of lasting tests among facts, but for those of local names."""
        met = (one for one in facts.met if one.access in self.tested and one.access[0] not in local)
        return frozenset(map(self.plain, met)) if facts.met else facts.met

    def root(self, access: AccessPath) -> AccessPath:
        """An access by which a value is known, however it is read."""
        return access[1:] if access[0] == "input" and access[1] in self.inputs else access

    def plain(self, condition: Condition) -> Condition:
        """One of several ways to say the same of an input."""
        access = self.root(condition.access)
        declared = self.inputs.get(access[0]) if len(access) == 1 else None
        operator, _, constant = condition.test.partition(" ")
        if declared is not None and declared.type in ("integer", "number") and operator in _OTHERWISE:
            return Condition(access, f"{_OTHERWISE[operator]} {constant}", not condition.truth)
        if (
            operator == "eq"
            and declared is not None
            and (both := _either(declared))
            and constant == repr(both[1])
        ):
            return Condition(access, f"eq {both[0]!r}", not condition.truth)
        return condition._replace(access=access)

    def around(self, use: Use) -> Facts:
        """What the guards around a template say that hold where it is read: of its entry, and of the case it belongs to."""
        if not self.contexts or not use.owner or use.path[len(use.owner)] in ("if", "loop", "retry"):
            return NOTHING
        return self.contexts.get(use.owner, NOTHING) & self.contexts.get(use.owner[:-2], NOTHING)

    def may_last(self, access: AccessPath, use: Use) -> bool:
        """Whether the value of an access may be the same wherever it has one."""
        name = access[0]
        if name in use.local or name in use.own:
            return False
        return len(access) > 1 if name in _GIVEN else name not in RESERVED


def _either(declared: InputDeclaration) -> list[str]:
    """The two texts of which an input is always one."""
    may_be_none = "default" in declared.model_fields_set and declared.default is None
    texts = [value for value in declared.enum or () if isinstance(value, str)]
    return texts if len(texts) == 2 == len(declared.enum or ()) and not may_be_none else []


def is_guard(use: Use) -> bool:
    """Whether a template decides if the work of an entry is done, or if a case is taken."""
    path = use.path
    return path[-1] == "if" and len(path) == len(use.owner) + 1 if use.owner else path[-1] == "case"


def _lasting(subject: Subject) -> Callable[[str], bool]:
    """Tells of a name whether it never changes: nothing saves it, or one entry does, which a run comes to once."""
    playbook = subject.playbook
    saved = Counter(name for run in subject.runs() for name, _ in find_saved_names(run, in_loops=True))
    given = (playbook.input or {}).keys() | playbook.variables.keys() | playbook.environment.keys()
    once = {name for step in subject.names.steps.values() for name in _saved_once(subject, step)} - given
    return lambda name: name not in saved or (saved[name] == 1 and name in once)


def _saved_once(subject: Subject, step: Step) -> Iterator[str]:
    is_repeated = step.loop is not None or step.repeat is not None or step.name in subject.joins.multi
    if not is_repeated and step.name in subject.flow.reachable and not subject.flow.is_cyclic(step.name):
        for run in (step.run or (), *(case.run for case in step.rule or ())):
            yield from (name for name, _ in find_saved_names(run))
