"""NP101 to NP110: every name is there once, is written as names are, and stands where it may."""

from __future__ import annotations

import keyword
from collections.abc import Collection

import networkx as nx
from noetl.planner.diagnostics.diagnostic import Label, Span
from noetl.planner.program.program import Subject
from noetl.planner.syntax.models import ActionEntry, Case, DocumentPath, Step, StepEntry, TaskEntry
from noetl.planner.syntax.names import MAX_NAME, MAX_TASK_DEPTH, OURS, RESERVED, is_name


def check_names(subject: Subject) -> None:
    """Report every wrong name and reference."""
    _definitions(subject)
    _bound_names(subject)
    _references(subject)
    _task_circles(subject)
    _task_depth(subject)
    _unused_tasks(subject)


def _definitions(subject: Subject) -> None:
    for code, what, items in (
        ("NP102", "step", subject.playbook.steps),
        ("NP104", "task", subject.playbook.tasks),
    ):
        first: dict[str, Span] = {}
        for item in items:
            span = subject.name_span(item)
            if item.name in first:
                message = f"a {what} `{item.name}` is there already"
                labels = [Label(first[item.name], "the first one is here")]
                subject.diagnostics.add(code, message, span, "give each its own name", labels=labels)
            first.setdefault(item.name, span)
            if not is_name(item.name):
                message = f"the name of a {what} is printable text of 1 to {MAX_NAME} characters without blanks around it"
                subject.diagnostics.add("NP110", message, span)
            elif what == "step" and item.name.startswith(OURS):
                message = f"names that begin with `{OURS}` are kept for the steps that a run has besides those of its playbook"
                subject.diagnostics.add(
                    "NP110", message, span, f"call it `{item.name.lstrip(OURS).strip() or 'step'}`"
                )


def _bound_names(subject: Subject) -> None:
    playbook = subject.playbook
    for section in ("input", "variables"):
        for name in getattr(playbook, section) or ():
            _check_identifier(subject, name, (section, name), key=True)
    for entry, _, _ in subject.entries:
        if not isinstance(entry, ActionEntry | TaskEntry):
            continue
        if entry.as_ is not None:
            _check_identifier(subject, entry.as_, (*entry.path, "as"))
        if entry.loop is not None and entry.loop.as_ != "item":
            _check_identifier(subject, entry.loop.as_, (*entry.path, "loop", "as"))
        if (
            isinstance(entry, ActionEntry)
            and entry.action == "set"
            and isinstance(entry.parameters.get("set"), dict)
        ):
            for name in entry.parameters["set"]:
                _check_identifier(subject, name, (*entry.path, "set", name), key=True)
    for step in playbook.steps:
        if step.loop is not None and step.loop.as_ != "item":
            _check_identifier(subject, step.loop.as_, (*step.path, "loop", "as"))


def _check_identifier(subject: Subject, name: str, path: DocumentPath, *, key: bool = False) -> None:
    if name.lower() in RESERVED or keyword.iskeyword(name):
        subject.report("NP110", f"`{name}` is a reserved name", path, f"try `{name.lower()}_value`", key=key)
    elif not name.isidentifier() or name.startswith("_"):
        message = f"`{name}` is not an identifier: letters, digits and `_`, beginning with a letter"
        subject.report("NP110", message, path, key=key)


def _references(subject: Subject) -> None:
    names, suggest = subject.names, subject.diagnostics.suggest
    steps = names.steps.keys() | subject.broken_steps
    tasks = names.tasks.keys() | subject.broken_tasks
    both = steps | tasks
    for section, value in (("start", subject.playbook.start), ("finally", subject.playbook.finally_)):
        if value is not None and value not in steps:
            subject.report("NP101", f"step `{value}` does not exist", (section,), suggest(value, steps))
    for entry, path, case in subject.entries:
        match entry:
            case StepEntry(step=name) if case is None:
                subject.report("NP106", f"step `{name}` is named outside a case", path, _IN_CASE)
            case StepEntry(step=name) if name not in steps:
                subject.report(
                    "NP101", f"step `{name}` does not exist", (*path, "step"), suggest(name, steps)
                )
            case TaskEntry(task=name) if name not in tasks:
                _unknown_task(subject, name, (*path, "task"), steps, tasks)
            case str(name) if case is None and name not in tasks:
                _unknown_task(subject, name, path, steps, tasks)
            case str(name) if case is not None and name in steps and name in tasks:
                hint = f"write `{{step: {name}}}` or `{{task: {name}}}`"
                subject.report("NP105", f"`{name}` is both a step and a task", path, hint)
            case str(name) if case is not None and name not in steps and name not in tasks:
                subject.report("NP101", f"step `{name}` does not exist", path, suggest(name, both))
    for step in subject.playbook.steps:
        if not step.run and not step.rule and not _has_lost_work(subject, step):
            message = f"step `{step.name}` has neither `run` nor `rule`"
            subject.diagnostics.add(
                "NP107", message, subject.name_span(step), "give it work or a rule, or remove it"
            )
        for case in step.rule or ():
            _check_case(subject, case)


def _has_lost_work(subject: Subject, step: Step) -> bool:
    """Whether work or a rule is written there that could not be read."""
    written = subject.document.data
    for part in step.path:
        written = written[part]
    return bool(written.get("run") or written.get("rule"))


_IN_CASE = "steps are named in the cases of `rule` only"


def _unknown_task(
    subject: Subject, name: str, path: DocumentPath, steps: Collection[str], tasks: Collection[str]
) -> None:
    if name in steps:
        subject.report("NP106", f"step `{name}` is named outside a case", path, _IN_CASE)
    else:
        subject.report(
            "NP103", f"task `{name}` does not exist", path, subject.diagnostics.suggest(name, tasks)
        )


def _check_case(subject: Subject, case: Case) -> None:
    names = subject.names
    entries = [entry for entry in case.run if entry != ""]
    both = [e for e in entries if isinstance(e, str) and e in names.steps and e in names.tasks]
    steps = [entry for entry in entries if names.target(entry) is not None]
    if steps and len(steps) < len(entries) and not both:
        message = "the case names steps and work together"
        hint = "move the work into the `run` of a step, or leave the steps out"
        subject.report("NP106", message, (*case.path, "case"), hint, key=True)
    named = set()
    for index, target in enumerate(map(names.target, case.run)):
        if target and target in named:
            subject.report("NP106", f"the case names step `{target}` twice", (*case.path, "run", index))
        named.add(target)


def _task_circles(subject: Subject) -> None:
    calls = subject.task_calls
    for circle in nx.strongly_connected_components(calls):
        first = (
            next(task for task in subject.names.tasks if task in circle) if len(circle) > 1 else min(circle)
        )
        if len(circle) > 1 or calls.has_edge(first, first):
            path = [source for source, _ in nx.find_cycle(calls.subgraph(circle), first)]
            message = f"tasks call each other in a circle: {' → '.join([*path, path[0]])}"
            subject.diagnostics.add("NP108", message, subject.name_span(subject.names.tasks[first]))


def _task_depth(subject: Subject) -> None:
    """Tasks are performed by recursion, so how deep they call each other is bounded."""
    calls = subject.task_calls
    if nx.is_directed_acyclic_graph(calls) and len(path := nx.dag_longest_path(calls)) > MAX_TASK_DEPTH:
        message = f"tasks call each other {len(path):,} deep; at most {MAX_TASK_DEPTH} are allowed"
        subject.diagnostics.add("NP701", message, subject.name_span(subject.names.tasks[path[0]]))


def _unused_tasks(subject: Subject) -> None:
    if subject.broken_steps or subject.broken_tasks:
        return
    used = {
        name
        for entry, _, _ in subject.entries
        if (name := entry.task if isinstance(entry, TaskEntry) else entry) and isinstance(name, str)
    }
    for name, task in subject.names.tasks.items():
        if name not in used:
            subject.diagnostics.add("NP109", f"nothing calls task `{name}`", subject.name_span(task))
