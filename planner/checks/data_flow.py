"""NP701, and the checks that need the definite-assignment analysis: NP203, NP301, NP302, NP303 and NP307."""

from __future__ import annotations

from noetl.planner.checks.races import report_races
from noetl.planner.checks.undefined_names import report_undefined_names
from noetl.planner.checks.visit_timing import report_visit_timing
from noetl.planner.dataflow.definitions import Definitions
from noetl.planner.dataflow.liveness import (
    SAVE_TOGETHER,
    TOO_MANY_LIVE_NAMES,
    exceeds_limit_in_sequential_mode,
)
from noetl.planner.program.program import Program
from noetl.planner.syntax.entries import find_saved_names


def check_data_flow(program: Program) -> None:
    """Report too many live names in sequential mode, undefined names, unreachable cases, races, and what
    depends on the order of visits.

    A program that is not well-formed is skipped: its other errors would cause follow-up findings.
    """
    if not program.is_well_formed:
        return
    if _exceeds_live_name_limit(program):
        program.report("NP701", TOO_MANY_LIVE_NAMES, ("steps",), SAVE_TOGETHER, key=True)
        return
    unreachable = report_undefined_names(program)
    definitions = Definitions(program.symbols, program.call_graph)
    report_visit_timing(program, report_races(program, definitions, unreachable))


def _exceeds_live_name_limit(program: Program) -> bool:
    """Return whether the plan would exceed MAX_LIVE_NAMES in sequential mode (NP701).

    If so, the definite-assignment analysis is skipped.
    """
    if program.playbook.mode != "sequential" or not any(program.cfg.forks()):
        return False
    reachable, steps = program.cfg.reachable, program.symbols.steps
    uses = (use for use in program.uses if use.step in reachable)
    read = {access[0] for use in uses for access in use.template.reads if access[0] not in use.local_names}
    saved = {name for step in reachable for name, _ in find_saved_names(steps[step].run or ())}
    return exceeds_limit_in_sequential_mode(program.cfg, read & saved)
