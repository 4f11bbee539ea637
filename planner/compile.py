"""The planner's one way in: text to a plan, or to diagnostics that say why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from noetl.planner.catalogue import Catalogue
from noetl.planner.checks.actions import check_actions
from noetl.planner.checks.control_flow import check_control_flow
from noetl.planner.checks.data_flow import check_data_flow
from noetl.planner.checks.expressions import check_expressions
from noetl.planner.checks.guards import check_guards
from noetl.planner.checks.idempotency import check_idempotency
from noetl.planner.checks.inputs import check_inputs
from noetl.planner.checks.name_usage import check_meanings
from noetl.planner.checks.names import check_names
from noetl.planner.checks.references import check_references
from noetl.planner.checks.timing import check_timing
from noetl.planner.checks.types import check_shapes
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.gc_control import collection_paused
from noetl.planner.lower import lower
from noetl.planner.plan import Plan
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import find_uses
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document

CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_names,
    check_inputs,
    check_control_flow,
    check_guards,
    check_expressions,
    check_references,
    check_data_flow,
    check_shapes,
    check_actions,
    check_idempotency,
    check_timing,
    check_meanings,
)
"""Every family of checks. Each reports what it finds and none depends on another."""


@dataclass(frozen=True)
class Compilation:
    """What became of a playbook: a plan when there are no errors, and all diagnostics in the order of the text."""

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]


def compile_playbook(text: str | bytes, catalogue: Catalogue, target: str | None = None) -> Compilation:
    """Compile a playbook; whatever the text is, the answer is a `Compilation` and not an exception.

    With `target: lambda` it is also judged by what an invocation there can do.
    """
    with collection_paused():
        return _compile(text, catalogue, target)


def _compile(text: str | bytes, catalogue: Catalogue, target: str | None) -> Compilation:
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, diagnostics) if document is not None else None
    if document is None or parsed is None:
        return Compilation(None, tuple(diagnostics))
    uses = find_uses(parsed.playbook, catalogue, document, diagnostics)
    if uses is None:
        return Compilation(None, tuple(diagnostics))
    subject = Subject(
        parsed.playbook,
        document,
        catalogue,
        diagnostics,
        uses,
        parsed.broken_steps,
        parsed.broken_tasks,
        parsed.lost_names,
        target,
    )
    for check in CHECKS:
        check(subject)
    plan = None if diagnostics.errors else lower(subject)
    return Compilation(plan, tuple(diagnostics))
