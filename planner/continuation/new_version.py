"""The new version of a playbook, with the analyses that every switch to it needs.

They do not depend on the run, so they are cached by the hash of the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from noetl.planner.catalogue import ActionDeclaration, Catalogue, Kind
from noetl.planner.compile import compile_program
from noetl.planner.continuation.rounds import NestedLoops
from noetl.planner.diagnostics.diagnostic import Diagnostic
from noetl.planner.gc_control import gc_paused
from noetl.planner.plan import Plan, TaskCall, Work
from noetl.planner.program.program import Program
from noetl.planner.templates.template import Expression, parse_template, temporary_templates

FindingKey = tuple[str, int, int]
"""The code of a finding, and the line and the column where it begins."""


@dataclass(frozen=True)
class NewVersion:
    """A plan with its program, its findings and the loops of its graph."""

    plan: Plan
    program: Program
    findings: frozenset[FindingKey]

    @cached_property
    def loops(self) -> NestedLoops:
        """The loops around each step."""
        return NestedLoops.build(self.program.cfg)


def finding_key(finding: Diagnostic) -> FindingKey:
    """Return what identifies a finding in a version and in its continuations."""
    return finding.code, finding.span.line, finding.span.column


class _Versions:
    """The new versions by the hash of their plans, so that a plan is not hashed as a cache key."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.by_hash: dict[str, NewVersion] = {}

    def analyse(self, plan: Plan, catalogue: Catalogue) -> NewVersion | None:
        version = self.by_hash.pop(plan.hash, None)
        if version is None:
            with gc_paused(), temporary_templates():
                compilation, program = compile_program(plan.source, catalogue)
            if program is None or compilation.plan is None:
                return None
            version = NewVersion(plan, program, frozenset(map(finding_key, compilation.diagnostics)))
        self.by_hash[plan.hash] = version
        while len(self.by_hash) > self.size:
            del self.by_hash[next(iter(self.by_hash))]
        return version


_VERSIONS = _Versions(8)


def analyse_version(plan: Plan, catalogue: Catalogue) -> NewVersion | None:
    """Return the analyses of a plan; None if its source has errors with this catalogue."""
    return _VERSIONS.analyse(plan, catalogue)


@lru_cache(maxsize=8)
def _forms_by_hash(plan_hash: str) -> dict[str, Any]:
    return {}


def step_form(plan: Plan, name: str, catalogue: Catalogue) -> Any:
    """Return what the analyses of a step depend on, in a form that is equal if they have the same result."""
    forms = _forms_by_hash(plan.hash)
    if name not in forms:
        step = plan.steps[name]
        data = step.to_json()
        cases = [
            {key: value for key, value in case.items() if key not in ("live", "leads_back")}
            for case in data["cases"]
        ]
        kept = {
            key: data[key]
            for key in ("parallel", "each", "max_visits", "loop", "repeat", "on_error", "saves")
        }
        join = None if step.join is None else step.join.mode
        work = [
            _form_work(plan, item, catalogue)
            for item in (*step.run, *(w for case in step.cases for w in case.work))
        ]
        for case in cases:
            case.pop("work")
        forms[name] = (kept, join, cases, work)
    return forms[name]


def _form_work(plan: Plan, work: Work, catalogue: Catalogue) -> Any:
    data = {key: value for key, value in work.to_json().items() if key != "line"}
    if isinstance(work, TaskCall):
        task = plan.tasks[work.task]
        return data, task.parallel, [_form_work(plan, item, catalogue) for item in task.run]
    declaration = catalogue.get(work.type)
    if declaration is None or declaration.saves_given_values or declaration.never_succeeds:
        return data
    data["parameters"] = {
        name: _form_text(value) if isinstance(value, str) and _is_free_text(declaration, name) else value
        for name, value in work.parameters.items()
    }
    keys = declaration.result_keys(work.parameters)
    return data, None if keys is None else dict(keys)


def _is_free_text(declaration: ActionDeclaration, name: str) -> bool:
    """Return whether a parameter takes any text, which decides neither the result nor the error."""
    declared = declaration.parameters.get(name)
    return (
        declared is not None
        and (Kind.STRING in declared.kinds or Kind.ANY in declared.kinds)
        and Kind.DURATION not in declared.kinds
        and not declared.choices
        and name != declaration.error_type
    )


def _form_text(text: str) -> Any:
    """Return the expressions of a text, without what is written between them.

    >>> _form_text("send {{ a }} to {{ b }}") == _form_text("{{ a }}, {{ b }}"), _form_text("send")
    (True, ())
    """
    parts = parse_template(text).parts
    return text if parts is None else tuple(part.source for part in parts if isinstance(part, Expression))
