"""Checks of the control-flow graph: reachability, bounds of cycles, ends, overlapping cycles and `finally`.

These are the codes NP201, NP202, NP204, NP205 and NP207.
"""

from __future__ import annotations

import networkx as nx

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.diagnostics.wording import as_code
from noetl.planner.graph.joins import OverlappingCycle
from noetl.planner.program.program import Program
from noetl.planner.syntax.models import DocumentPath, Step, StepEntry

ARROW = " → "


def check_control_flow(program: Program) -> None:
    """Check the control-flow graph."""
    _check_unreachable_steps(program)
    _check_unbounded_cycles(program)
    _check_ends(program)
    _check_joins(program)
    _check_finally(program)


def _ambiguous_targets(program: Program) -> list[tuple[str, str]]:
    """Return the targets that name both a step and a task, each after the step that names it."""
    symbols = program.symbols
    return [
        (step.name, entry)
        for step in program.playbook.steps
        for case in step.rule or ()
        for entry in case.run
        if isinstance(entry, str) and entry in symbols.steps and entry in symbols.tasks
    ]


def _targets_of_duplicate_steps(program: Program) -> list[tuple[str, str]]:
    """Return the targets of all steps with a duplicate name, each after that name."""
    duplicates = (step for step in program.playbook.steps if step.name in program.duplicate_steps)
    return [
        (step.name, target)
        for step in duplicates
        for case in step.rule or ()
        for target in program.symbols.targets(case)
    ]


def _check_unreachable_steps(program: Program) -> None:
    """Report unreachable steps, but not those that only the fix of another error makes reachable."""
    finally_step = program.playbook.finally_
    steps = program.symbols.steps
    if program.broken_steps or program.cfg.reachable.union((finally_step,)) >= steps.keys():
        return
    graph = program.cfg.graph.copy()
    graph.add_edges_from(_ambiguous_targets(program))
    graph.add_edges_from(_targets_of_duplicate_steps(program))
    for source, target in program.unknown_targets:
        meant = program.diagnostics.closest(target, steps)
        if meant is None:
            return
        graph.add_edge(source, meant)
    start = program.playbook.start
    if start is not None and start not in steps:
        return
    reachable = nx.descendants(graph, program.cfg.start) | {program.cfg.start, finally_step}
    unreachable = [step for name, step in steps.items() if name not in reachable]
    successors = {t for step in unreachable for t in graph.successors(step.name) if t != step.name}
    for step in [step for step in unreachable if step.name not in successors] or unreachable:
        message = f"unreachable step `{step.name}`: no path from `{program.cfg.start}` leads to it"
        hint = "name it in a case of a reachable step, or remove it"
        program.diagnostics.add("NP201", message, program.name_span(step), hint)


def _check_unbounded_cycles(program: Program) -> None:
    steps = program.symbols.steps
    bounded = {
        name for name, step in steps.items() if step.max_visits is not None or name in program.duplicate_steps
    }
    unbounded = program.cfg.graph.subgraph(program.cfg.graph.nodes - bounded)
    for component in nx.strongly_connected_components(unbounded):
        first = next(name for name in steps if name in component) if len(component) > 1 else min(component)
        if len(component) > 1 or unbounded.has_edge(first, first):
            cycle = [source for source, _ in nx.find_cycle(unbounded.subgraph(component), first)]
            message = f"cycle {ARROW.join([*cycle, cycle[0]])} has no bound"
            hint = f"add `max_visits` to one of its steps, for example `{cycle[0]}`"
            program.report("NP202", message, _edge_path(program, cycle[-1], cycle[0]), hint)


def _edge_path(program: Program, source: str, target: str, first_case: int = 0) -> DocumentPath:
    """Return the path of the first entry that leads from one step to another."""
    path, entry = next(
        ((*case.path, "run", index), entry)
        for case in (program.symbols.steps[source].rule or [])[first_case:]
        for index, entry in enumerate(case.run)
        if program.symbols.target(entry) == target
    )
    return (*path, "step") if isinstance(entry, StepEntry) else path


def _can_end(program: Program, step: Step) -> bool:
    """Return whether a branch can end at the step in another way than by an unhandled failure."""
    if not step.rule:
        return True
    coverage = program.rule_coverage[step.path]
    dead = {dead_case.case for dead_case in coverage.dead_cases}
    return coverage.may_match_none or any(
        not targets for index, targets in enumerate(program.cfg.targets[step.name]) if index not in dead
    )


def _check_ends(program: Program) -> None:
    if program.broken_steps or program.duplicate_steps or program.unknown_targets:
        return
    steps = program.symbols.steps
    if not any(_can_end(program, steps[name]) for name in program.cfg.reachable):
        message = "no branch can end: every case that can be taken leads to another step"
        hint = "end a case with `run: []`, or with work instead of steps"
        program.diagnostics.add("NP204", message, program.name_span(steps[program.cfg.start]), hint)


def _check_joins(program: Program) -> None:
    if program.joins.is_too_large:
        message = "too many branches can meet: the joins cannot be computed"
        hint = "join branches sooner, or move parts to other playbooks"
        program.report("NP701", message, ("steps",), hint, key=True)
    for overlapping in program.joins.overlapping_cycles:
        names = (overlapping.step, *overlapping.cycle, *overlapping.unfinished_steps)
        if program.duplicate_steps.isdisjoint(names):
            _report_overlapping_cycle(program, overlapping)
    if program.playbook.mode == "sequential":
        _check_discriminators_in_sequential_mode(program)


def _report_overlapping_cycle(program: Program, overlapping: OverlappingCycle) -> None:
    steps = program.symbols.steps
    step, loop_exit = steps[overlapping.step], overlapping.loop_exit
    cycle = ARROW.join(overlapping.cycle)
    unfinished = ", ".join(as_code(overlapping.unfinished_steps))
    if overlapping.starts_early:
        message = (
            f"cycle {cycle} may start its next round while branches that `join: any` "
            f"at `{step.name}` did not wait for are on the way to {unfinished}"
        )
        hint = _JOIN_EACH_ROUND if overlapping.unfinished_steps == (step.name,) else _JOIN_FROM_COMMON_STEP
        program.report("NP205", message, (*step.path, "join"), hint)
    elif loop_exit is None:
        message = f"joins {unfinished} wait for each other on the cycle {cycle}"
        program.diagnostics.add("NP205", message, program.name_span(step), _JOIN_FIRST)
    else:
        message = f"cycle {cycle} may start its next round before the branch at {unfinished} has ended"
        hint = f"{_JOIN_FIRST}; or set `join: each` on {unfinished}"
        fork = loop_exit.separation.fork
        case = (steps[fork.step].rule or [])[fork.case]
        source, target = overlapping.cycle[-2:]
        next_round = program.document.span(_edge_path(program, source, target))
        labels = [
            Label(program.document.key_span((*case.path, "case")), "the branches separate here"),
            Label(next_round, "the next round starts here"),
        ]
        exit_path = _edge_path(program, step.name, overlapping.unfinished_steps[0], loop_exit.case)
        program.report("NP205", message, exit_path, hint, labels=labels)


def _check_discriminators_in_sequential_mode(program: Program) -> None:
    """Report every `join: any` on a cycle in sequential mode.

    Each branch sees the names of the branches before it, so none knows in which round it separated from the
    others.
    """
    joins = program.joins
    for name in program.cfg.targets:
        if name in joins.discriminators and program.cfg.is_cyclic(joins.dominators[name]):
            message = f"`join: any` at `{name}` is on a cycle, which `mode: sequential` does not support"
            program.report("NP205", message, (*program.symbols.steps[name].path, "join"), _WAIT_FOR_ALL)


_JOIN_FIRST = "lead all branches of the fork to one step, and start the next round from there"
_WAIT_FOR_ALL = "wait for all branches: `join: all`"
_JOIN_EACH_ROUND = f"{_WAIT_FOR_ALL}, or let every round pass a fork and, after it, a step with `join: any`"
_JOIN_FROM_COMMON_STEP = f"{_WAIT_FOR_ALL}, or start the next round from a step that all branches lead to"


def _check_finally(program: Program) -> None:
    name = program.playbook.finally_
    if name is None or name not in program.symbols.steps or name in program.duplicate_steps:
        return
    if name == program.cfg.start or program.cfg.graph.in_degree(name) > 0:
        program.report("NP207", f"`finally` step `{name}` is also part of the flow", ("finally",))
    for case in program.symbols.steps[name].rule or ():
        if program.symbols.targets(case):
            message = f"`finally` step `{name}` leads to another step"
            hint = "remove the targets: no step can follow `finally`"
            program.report("NP207", message, (*case.path, "case"), hint, key=True)
