"""Compilation: the text of a playbook to a plan, or to diagnostics that explain why there is none.

The phases are: read YAML, parse the syntax model, parse templates, check, lower.
"""

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
from noetl.planner.checks.name_usage import check_name_usage
from noetl.planner.checks.names import check_names
from noetl.planner.checks.references import check_references
from noetl.planner.checks.timing import check_timing
from noetl.planner.checks.types import check_types
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.gc_control import gc_paused
from noetl.planner.lower import lower
from noetl.planner.plan import Plan
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_template_uses
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document

CHECKS: tuple[Callable[[Program], None], ...] = (
    check_names,
    check_inputs,
    check_control_flow,
    check_guards,
    check_expressions,
    check_references,
    check_data_flow,
    check_types,
    check_actions,
    check_idempotency,
    check_timing,
    check_name_usage,
)
"""The families of checks.

`check_name_usage` is last, because it reports unread names only if no check found an error.
"""


@dataclass(frozen=True)
class Compilation:
    """The result of compiling a playbook: a plan if there are no errors, and all diagnostics in the order of
    the text.
    """

    plan: Plan | None
    diagnostics: tuple[Diagnostic, ...]


def compile_playbook(text: str | bytes, catalogue: Catalogue, target: str | None = None) -> Compilation:
    """Compile a playbook. Invalid text of any kind leads to diagnostics and not to an exception.

    With the target `lambda`, also check the limits of Lambda invocations.
    """
    with gc_paused():
        return _compile(text, catalogue, target)


def _compile(text: str | bytes, catalogue: Catalogue, target: str | None) -> Compilation:
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, catalogue, diagnostics) if document is not None else None
    if document is None or parsed is None:
        return Compilation(None, tuple(diagnostics))
    uses = find_template_uses(parsed.playbook, document, diagnostics)
    if uses is None:
        return Compilation(None, tuple(diagnostics))
    program = Program(
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
        check(program)
    plan = None if diagnostics.error_count else lower(program)
    return Compilation(plan, tuple(diagnostics))
