"""NP201 to NP207: every step can be reached, every cycle ends, every join can fire."""

from __future__ import annotations

import networkx as nx
from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.graph.joins import Runaway
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import DocumentPath, Step, StepEntry

ARROW = " → "


def check_control_flow(subject: Subject) -> None:
    """Report what is wrong with the graph as a whole."""
    _unreachable(subject)
    _unbounded_cycles(subject)
    _no_end(subject)
    _runaways(subject)
    _finally(subject)


def _ambiguous_targets(subject: Subject) -> list[tuple[str, str]]:
    """Names in cases that are both a step's and a task's, each with the step that names it."""
    names = subject.names
    return [
        (step.name, entry)
        for step in subject.playbook.steps
        for case in step.rule or ()
        for entry in case.run
        if isinstance(entry, str) and entry in names.steps and entry in names.tasks
    ]


def _targets_of_repeated_steps(subject: Subject) -> list[tuple[str, str]]:
    """Where any of the steps of one name leads, each with that name."""
    repeated = (step for step in subject.playbook.steps if step.name in subject.repeated_steps)
    return [
        (step.name, target)
        for step in repeated
        for case in step.rule or ()
        for target in subject.names.targets(case)
    ]


def _unreachable(subject: Subject) -> None:
    last = subject.playbook.finally_
    if subject.broken_steps or subject.flow.reachable.union((last,)) >= subject.names.steps.keys():
        return
    graph = subject.flow.graph.copy()
    graph.add_edges_from(_ambiguous_targets(subject))
    graph.add_edges_from(_targets_of_repeated_steps(subject))
    for source, target in subject.unknown_targets:
        meant = subject.diagnostics.suggest(target, subject.names.steps)
        if meant is None:
            return
        graph.add_edge(source, meant.split("`")[1])
    start = subject.playbook.start
    if start is not None and start not in subject.names.steps:
        return
    reached = nx.descendants(graph, subject.flow.start) | {subject.flow.start, last}
    hidden = [step for name, step in subject.names.steps.items() if name not in reached]
    behind = {t for step in hidden for t in graph.successors(step.name) if t != step.name}
    for step in [step for step in hidden if step.name not in behind] or hidden:
        message = f"no path from `{subject.flow.start}` leads to step `{step.name}`"
        hint = "name it in a case of a step that is reached, or remove it"
        subject.diagnostics.add("NP201", message, subject.name_span(step), hint)


def _unbounded_cycles(subject: Subject) -> None:
    steps = subject.names.steps
    bounded = {
        name for name, step in steps.items() if step.max_visits is not None or name in subject.repeated_steps
    }
    free = subject.flow.graph.subgraph(subject.flow.graph.nodes - bounded)
    for circle in nx.strongly_connected_components(free):
        first = next(name for name in steps if name in circle) if len(circle) > 1 else next(iter(circle))
        if len(circle) > 1 or free.has_edge(first, first):
            path = [source for source, _ in nx.find_cycle(free.subgraph(circle), first)]
            message = f"the cycle {ARROW.join([*path, path[0]])} has no bound"
            hint = f"give one of its steps `max_visits`, for example `{path[0]}`"
            subject.report("NP202", message, _target_path(subject, path[-1], path[0]), hint)


def _target_path(subject: Subject, source: str, target: str) -> DocumentPath:
    """Where the first edge between two steps is written."""
    for case in subject.names.steps[source].rule or ():
        for index, entry in enumerate(case.run):
            if subject.names.target(entry) == target:
                path: DocumentPath = (*case.path, "run", index)
                return (*path, "step") if isinstance(entry, StepEntry) else path
    return subject.names.steps[source].path


def _can_end(subject: Subject, step: Step) -> bool:
    """Whether a branch can end at the step other than by a failure that nothing handles."""
    if not step.rule:
        return True
    coverage = subject.verdicts[step.path]
    dead = {dead.case for dead in coverage.dead_cases}
    return coverage.may_match_none or any(
        not targets for at, targets in enumerate(subject.flow.targets[step.name]) if at not in dead
    )


def _no_end(subject: Subject) -> None:
    if subject.broken_steps or subject.repeated_steps or subject.unknown_targets:
        return
    steps = subject.names.steps
    if not any(_can_end(subject, steps[name]) for name in subject.flow.reachable):
        message = "no branch can ever end: every case that is taken leads to another step"
        hint = "let a case end with `run: []`, or with work instead of steps"
        subject.diagnostics.add("NP204", message, subject.name_span(steps[subject.flow.start]), hint)


def _runaways(subject: Subject) -> None:
    if subject.joins.is_too_large:
        message = (
            "branches meet in too many ways: which of them wait for which others is too much to find out"
        )
        hint = "let branches come together sooner, or move parts to other playbooks"
        subject.report("NP701", message, ("steps",), hint, key=True)
    for runaway in subject.joins.runaways:
        if subject.repeated_steps.isdisjoint((runaway.step, *runaway.cycle, *runaway.left)):
            _runaway(subject, runaway)
    if subject.playbook.mode == "sequential":
        _waves_in_turns(subject)


def _runaway(subject: Subject, runaway: Runaway) -> None:
    step = subject.names.steps[runaway.step]
    cycle = ARROW.join(runaway.cycle)
    left = ", ".join(f"`{name}`" for name in runaway.left)
    if runaway.first is not None:
        message = f"the cycle {cycle} starts again while branches that did not come first may still be on the way to {left}"
        hint = _JOIN_EACH_ROUND if runaway.left == (step.name,) else _JOIN_TOO
        subject.report("NP205", message, (*step.path, "join"), hint)
    elif runaway.case is None:
        message = f"{left} would wait for each other on the cycle {cycle}"
        subject.diagnostics.add("NP205", message, subject.name_span(step), _JOIN_FIRST)
    else:
        case = (step.rule or [])[runaway.case]
        message = f"the cycle {cycle} starts again while the branch at {left} may still be on the way"
        label = Label(subject.document.key_span((*case.path, "case")), "the branches part here")
        again = _target_path(subject, *runaway.cycle[-2:])
        subject.report("NP205", message, again, _JOIN_FIRST, labels=[label])


def _waves_in_turns(subject: Subject) -> None:
    """Report every `join: any` on a cycle of a playbook whose branches see what others before them went through: none of them
    knows any more in which round it parted from the others.
    """
    joins = subject.joins
    for name in subject.flow.targets:
        if name in joins.discriminators and subject.flow.is_cyclic(joins.dominators[name]):
            message = (
                f"where branches go one after another, `{name}` cannot tell those of different rounds apart"
            )
            subject.report("NP205", message, (*subject.names.steps[name].path, "join"), _WAIT)


_JOIN_FIRST = "let all branches of the fork lead to one step, and go round from there"
_WAIT = "let it wait for them: `join: all`"
_JOIN_EACH_ROUND = f"{_WAIT}, or let every round pass a fork and, behind it, a step with `join: any`"
_JOIN_TOO = f"{_WAIT}, or go round from a step that all of them lead to"


def _finally(subject: Subject) -> None:
    name = subject.playbook.finally_
    if name is None or name not in subject.names.steps or name in subject.repeated_steps:
        return
    if name == subject.flow.start or subject.flow.graph.in_degree(name) > 0:
        subject.report("NP207", f"step `{name}` runs last and is part of the flow as well", ("finally",))
    for case in subject.names.steps[name].rule or ():
        if subject.names.targets(case):
            message = f"step `{name}` runs last and leads to another step"
            subject.report("NP207", message, (*case.path, "case"), "nothing comes behind `finally`", key=True)
