"""Checks of names and references: names are valid, unique and used where allowed (NP101 to NP110)."""

from __future__ import annotations

import keyword
from collections.abc import Collection

import networkx as nx

from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.program.program import EntryPlace, Program
from noetl.planner.syntax.entries import find_saved_names, is_saved_by_key
from noetl.planner.syntax.models import ActionEntry, Case, DocumentPath, Step, StepEntry, TaskEntry
from noetl.planner.syntax.names import (
    INTERNAL_PREFIX,
    MAX_NAME_LENGTH,
    MAX_TASK_DEPTH,
    RESERVED_NAMES,
    find_identifier_problem,
    is_valid_name,
)


def check_names(program: Program) -> None:
    """Check all names and references."""
    if not is_valid_name(program.playbook.name):
        program.report("NP110", _describe_names("playbook"), ("name",))
    _check_definitions(program)
    _check_bound_names(program)
    _check_references(program)
    _check_steps(program)
    _check_task_cycles(program)
    _check_task_depth(program)
    _check_unused_tasks(program)


def _check_definitions(program: Program) -> None:
    """Check that names of steps and tasks are unique and valid."""
    for code, construct, items in (
        ("NP102", "step", program.playbook.steps),
        ("NP104", "task", program.playbook.tasks),
    ):
        first: dict[str, Span] = {}
        for item in items:
            span = program.name_span(item)
            if item.name in first:
                labels = [Label(first[item.name], "first definition")]
                hint = "rename one of them"
                program.diagnostics.add(
                    code, f"duplicate {construct} `{item.name}`", span, hint, labels=labels
                )
            first.setdefault(item.name, span)
            if not is_valid_name(item.name):
                program.diagnostics.add("NP110", _describe_names(construct), span)
            elif construct == "step" and item.name.startswith(INTERNAL_PREFIX):
                message = f"name of a step cannot start with `{INTERNAL_PREFIX}`, which marks internal steps"
                hint = f"rename it to `{item.name.lstrip(INTERNAL_PREFIX).strip() or 'step'}`"
                program.diagnostics.add("NP110", message, span, hint)


def _describe_names(construct: str) -> str:
    """Return what the name of a playbook, a step or a task must be."""
    return (
        f"name of a {construct} must be printable text of 1 to {MAX_NAME_LENGTH} characters, "
        "without blanks at its start or end"
    )


def _check_bound_names(program: Program) -> None:
    """Check that names of inputs, variables, saved values and loops are identifiers."""
    playbook = program.playbook
    for section in ("input", "variables"):
        for name in getattr(playbook, section) or ():
            _check_identifier(program, name, (section, name), key=True)
    for entry, _, _ in program.entries:
        if not isinstance(entry, ActionEntry | TaskEntry):
            continue
        for name, path in find_saved_names([entry], in_loops=True):
            _check_identifier(program, name, path, key=is_saved_by_key(path))
        if entry.loop is not None and entry.loop.as_ != "item":
            _check_identifier(program, entry.loop.as_, (*entry.path, "loop", "as"))
    for step in playbook.steps:
        if step.loop is not None and step.loop.as_ != "item":
            _check_identifier(program, step.loop.as_, (*step.path, "loop", "as"))


def _check_identifier(program: Program, name: str, path: DocumentPath, *, key: bool = False) -> None:
    if name.lower() in RESERVED_NAMES or keyword.iskeyword(name):
        program.report("NP110", f"`{name}` is a reserved name", path, f"try `{name.lower()}_value`", key=key)
    elif message := find_identifier_problem(name):
        program.report("NP110", message, path, key=key)


def _check_references(program: Program) -> None:
    """Check `start`, `finally` and the steps and tasks that entries name."""
    steps = program.symbols.steps.keys() | program.broken_steps
    for section, value in (("start", program.playbook.start), ("finally", program.playbook.finally_)):
        if value is not None and value not in steps:
            _report_unknown_step(program, value, (section,), steps)
    tasks = program.symbols.tasks.keys() | program.broken_tasks
    for place in program.entries:
        if place.case is None:
            _check_work_entry(program, place, steps, tasks)
        else:
            _check_case_entry(program, place, steps, tasks)


def _check_work_entry(
    program: Program, place: EntryPlace, steps: Collection[str], tasks: Collection[str]
) -> None:
    """Check an entry of the `run` of a step or task."""
    match place.entry:
        case StepEntry(step=name):
            _report_step_outside_case(program, name, place.path)
        case TaskEntry(task=name) if name not in tasks:
            _report_unknown_task(program, name, (*place.path, "task"), steps, tasks)
        case str(name) if name not in tasks:
            _report_unknown_task(program, name, place.path, steps, tasks)


def _check_case_entry(
    program: Program, place: EntryPlace, steps: Collection[str], tasks: Collection[str]
) -> None:
    """Check an entry of a case."""
    match place.entry:
        case StepEntry(step=name) if name not in steps:
            _report_unknown_step(program, name, (*place.path, "step"), steps)
        case TaskEntry(task=name) if name not in tasks:
            _report_unknown_task(program, name, (*place.path, "task"), steps, tasks)
        case str(name) if name in steps and name in tasks:
            hint = f"write `{{step: {name}}}` or `{{task: {name}}}`"
            program.report("NP105", f"`{name}` is both a step and a task", place.path, hint)
        case str(name) if name not in steps and name not in tasks:
            _report_unknown_step(program, name, place.path, {*steps, *tasks})


def _report_unknown_step(program: Program, name: str, path: DocumentPath, known: Collection[str]) -> None:
    hint = program.diagnostics.did_you_mean(name, known)
    program.report("NP101", f"unknown step `{name}`", path, hint)


def _report_unknown_task(
    program: Program, name: str, path: DocumentPath, steps: Collection[str], tasks: Collection[str]
) -> None:
    if name in steps:
        _report_step_outside_case(program, name, path)
    else:
        hint = program.diagnostics.did_you_mean(name, tasks)
        if name in program.catalogue:
            hint = f"write `action: {name}` and its parameters"
        program.report("NP103", f"unknown task `{name}`", path, hint)


def _report_step_outside_case(program: Program, name: str, path: DocumentPath) -> None:
    hint = "name steps only in the cases of a `rule`"
    program.report("NP106", f"step `{name}` is named outside of a case", path, hint)


def _check_steps(program: Program) -> None:
    for step in program.playbook.steps:
        if not step.run and not step.rule and not _has_unparsed_work(program, step):
            message = f"step `{step.name}` has neither `run` nor `rule`"
            hint = "add a `run` or a `rule`, or remove the step"
            program.diagnostics.add("NP107", message, program.name_span(step), hint)
        for case in step.rule or ():
            _check_case(program, case)


def _has_unparsed_work(program: Program, step: Step) -> bool:
    """Return whether the text of a step contains work or a rule that could not be parsed."""
    value = program.document.value_at(step.path)
    return bool(value.get("run") or value.get("rule"))


def _check_case(program: Program, case: Case) -> None:
    """Check that a case names either steps or work, and no step twice."""
    symbols = program.symbols
    entries = [entry for entry in case.run if entry != ""]
    is_ambiguous = any(
        isinstance(entry, str) and entry in symbols.steps and entry in symbols.tasks for entry in entries
    )
    steps = [entry for entry in entries if symbols.target(entry) is not None]
    if steps and len(steps) < len(entries) and not is_ambiguous:
        hint = "move the work into the `run` of a step, or remove the steps"
        program.report("NP106", "case names both steps and work", (*case.path, "case"), hint, key=True)
    named = set()
    for index, target in enumerate(map(symbols.target, case.run)):
        if target and target in named:
            program.report("NP106", f"duplicate step `{target}` in a case", (*case.path, "run", index))
        named.add(target)


def _check_task_cycles(program: Program) -> None:
    calls = program.call_graph
    for component in nx.strongly_connected_components(calls):
        is_cycle = len(component) > 1
        first = (
            next(task for task in program.symbols.tasks if task in component) if is_cycle else min(component)
        )
        if is_cycle or calls.has_edge(first, first):
            cycle = [source for source, _ in nx.find_cycle(calls.subgraph(component), first)]
            message = f"tasks call each other in a cycle: {' → '.join([*cycle, cycle[0]])}"
            program.diagnostics.add("NP108", message, program.name_span(program.symbols.tasks[first]))


def _check_task_depth(program: Program) -> None:
    """Check the depth of task calls, because tasks are executed by recursion."""
    calls = program.call_graph
    if nx.is_directed_acyclic_graph(calls) and len(path := nx.dag_longest_path(calls)) > MAX_TASK_DEPTH:
        message = f"tasks call each other {len(path):,} levels deep (at most {MAX_TASK_DEPTH})"
        program.diagnostics.add("NP701", message, program.name_span(program.symbols.tasks[path[0]]))


def _check_unused_tasks(program: Program) -> None:
    if program.broken_steps or program.broken_tasks:
        return
    names = (entry.task if isinstance(entry, TaskEntry) else entry for entry, _, _ in program.entries)
    used = {name for name in names if name and isinstance(name, str)}
    for name, task in program.symbols.tasks.items():
        if name not in used:
            program.diagnostics.add("NP109", f"unused task `{name}`", program.name_span(task))
