"""Plans of playbooks without checks, as if the compiler accepted everything."""

from __future__ import annotations

from noetl.executor.actions import catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.lower import Lowering
from noetl.planner.plan import MAX_COUNTED_VISITS, Plan
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_template_uses
from noetl.planner.syntax.models import Entry
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document


class NoPlanError(Exception):
    """The text has no plan that can be executed."""


class _Unchecked(Lowering):
    """A lowering without checks. Missing steps stay among the targets."""

    def compute_visit_bound(self) -> int:
        try:
            return super().compute_visit_bound()
        except Exception:  # noqa: BLE001 - a cycle without a bound
            return MAX_COUNTED_VISITS


def build_unchecked_plan(text: str) -> Plan:
    """Return the plan of a playbook, even if it is faulty.

    Raises:
        NoPlanError: The playbook is too faulty to have a plan.
    """
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, catalogue(), diagnostics) if document is not None else None
    if document is None or parsed is None or diagnostics.error_count:
        raise NoPlanError("it cannot be read as a playbook")
    uses = find_template_uses(parsed.playbook, document, diagnostics)
    if uses is None or diagnostics.error_count:
        raise NoPlanError("a template cannot be read")
    program = Program(parsed.playbook, document, catalogue(), diagnostics, uses)
    try:
        return _Unchecked(program).build_plan()
    except Exception as problem:
        raise NoPlanError(f"it has no plan: {problem}") from problem


def find_dangling_targets(text: str) -> set[tuple[str, int, str]]:
    """Return the targets of cases that are missing: the step, the index of the case and the name."""
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, catalogue(), diagnostics) if document is not None else None
    if parsed is None:
        return set()
    names = {step.name for step in parsed.playbook.steps} | {task.name for task in parsed.playbook.tasks}
    return {
        (step.name, index, name)
        for step in parsed.playbook.steps
        for index, case in enumerate(step.rule or ())
        for entry in case.run
        if (name := _named(entry)) is not None and name not in names
    }


def _named(entry: Entry) -> str | None:
    return entry if isinstance(entry, str) else None
