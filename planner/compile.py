"""Compilation: the text of a playbook to a plan, or to diagnostics that explain why there is none.

The phases are: read YAML, parse the syntax model, parse templates, check, lower, and check the flow of data.
The plan does not depend on the last phase, but there is none if that phase finds an error. So a plan can be
drawn while the last checks run.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module

from noetl.planner import checks
from noetl.planner.catalogue import Catalogue
from noetl.planner.diagnostics.diagnostic import Diagnostic, Diagnostics
from noetl.planner.diagnostics.fixes import add_fixes
from noetl.planner.gc_control import gc_paused
from noetl.planner.lower import lower, report_too_many_live_names
from noetl.planner.plan import Plan
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_template_uses, find_trigger_uses
from noetl.planner.syntax.parser import parse_playbook
from noetl.planner.syntax.reader import read_document
from noetl.planner.templates.template import temporary_templates

FIRST_CHECKS = (
    "names",
    "inputs",
    "control_flow",
    "guards",
    "expressions",
    "references",
    "types",
    "actions",
    "idempotency",
    "timing",
)
"""The order in which checks use the budgets of `Diagnostics`: MAX_FINDINGS and MAX_COMPARED_WORDS."""

LAST_CHECKS = ("data_flow", "name_usage")
"""The checks after lowering. The last one reports unread names only if no other check found an error."""

Check = Callable[[Program], None]


def find_checks() -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """Return the functions `check_NAME` of the modules of `planner/checks`: those before and after lowering.

    Those that neither FIRST_CHECKS nor LAST_CHECKS names are before it, in the order of the alphabet.
    """
    names = {module.name for module in pkgutil.iter_modules(checks.__path__)}
    further_names = sorted(names - {*FIRST_CHECKS, *LAST_CHECKS})
    before, after = map(_import_checks, ((*FIRST_CHECKS, *further_names), LAST_CHECKS))
    return before, after


def _import_checks(names: Iterable[str]) -> tuple[Check, ...]:
    """Return the functions of those modules that have one."""
    modules = ((name, import_module(f"{checks.__name__}.{name}")) for name in names)
    functions = (getattr(module, f"check_{name}", None) for name, module in modules)
    return tuple(function for function in functions if function is not None)


CHECKS, CHECKS_AFTER_LOWERING = find_checks()


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
    with gc_paused(), temporary_templates():
        return compile_program(text, catalogue, target)[0]


def compile_program(
    text: str | bytes,
    catalogue: Catalogue,
    target: str | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    *,
    for_editor: bool = False,
) -> tuple[Compilation, Program | None]:
    """Return the compilation of a playbook, and its program if the text could be parsed.

    `on_plan` gets the plan before the last checks run. These may find errors.
    With `for_editor`, the analyses of the program have what the names in scope need.
    The caller pauses the garbage collector and keeps the templates for itself, as `compile_playbook` does.
    """
    diagnostics = Diagnostics()
    document = read_document(text, diagnostics)
    parsed = parse_playbook(document, catalogue, diagnostics) if document is not None else None
    if document is None or parsed is None:
        return Compilation(None, add_fixes(diagnostics, "" if document is None else document.text)), None
    uses = find_template_uses(parsed.playbook, document, diagnostics)
    trigger_uses = find_trigger_uses(parsed.playbook, document, diagnostics)
    if uses is None or trigger_uses is None:
        return Compilation(None, add_fixes(diagnostics, document.text)), None
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
        trigger_uses,
        analyses_all_names=for_editor,
    )
    for check in CHECKS:
        check(program)
    plan = None if diagnostics.error_count else lower(program)
    if plan is not None and on_plan is not None:
        on_plan(plan)
    for check in CHECKS_AFTER_LOWERING:
        check(program)
    if diagnostics.error_count:
        plan = None
    elif plan is None:
        report_too_many_live_names(program)
    return Compilation(plan, add_fixes(diagnostics, document.text)), program
