"""Plans of playbooks that nobody has checked: what would be executed if the compiler let everything pass."""

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


class NoPlan(Exception):
    """The text has no meaning that could be executed."""


class _Unchecked(Lowering):
    """Lowers whatever there is. Steps that are named and missing stay among the targets."""

    def compute_visit_bound(self) -> int:
        try:
            return super().compute_visit_bound()
        except Exception:  # noqa: BLE001 - a cycle without a bound
            return MAX_COUNTED_VISITS


def unchecked_plan(text: str) -> Plan:
    """The plan of a playbook, whatever is wrong with it.

    Raises:
        NoPlan: so much is wrong that there is none.
    """
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, diagnostics) if document is not None else None
    if document is None or parsed is None or diagnostics.error_count:
        raise NoPlan("it cannot be read as a playbook")
    uses = find_template_uses(parsed.playbook, catalogue(), document, diagnostics)
    if uses is None or diagnostics.error_count:
        raise NoPlan("a template cannot be read")
    program = Program(parsed.playbook, document, catalogue(), diagnostics, uses)
    try:
        return _Unchecked(program).build_plan()
    except Exception as problem:
        raise NoPlan(f"it has no plan: {problem}") from problem


def dangling(text: str) -> set[tuple[str, int, str]]:
    """Names in cases that are neither a step's nor a task's: the step, the index of the case, the name."""
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, diagnostics) if document is not None else None
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
