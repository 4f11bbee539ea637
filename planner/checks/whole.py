"""Whether a playbook can be judged as a whole."""

from __future__ import annotations

import networkx as nx

from planner.checks.subject import Subject
from planner.playbook import Case, TaskEntry


def is_whole(subject: Subject) -> bool:
    """Whether every step and task that is named is there, once, and could be read; and all branches can move.

    Where this is not so, the error that says so is the root: what follows from it is not looked at.
    """
    names = subject.names
    return (
        not (subject.broken_steps or subject.broken_tasks or subject.lost_names or subject.repeated_steps)
        and len(names.tasks) == len(subject.playbook.tasks)
        and (subject.playbook.start is None or subject.playbook.start in names.steps)
        and all(_is_known(subject, case) for step in names.steps.values() for case in step.rule or ())
        and nx.is_directed_acyclic_graph(subject.task_calls)
        and not (subject.joins.is_too_large or subject.joins.runaways)
    )


def _is_known(subject: Subject, case: Case) -> bool:
    names = subject.names
    work = names.work(case)
    targets = [names.target(entry) for entry in case.run if names.target(entry) is not None]
    return (
        all(target in names.steps for target in targets)
        and not (work and targets)
        and all(entry.task in names.tasks for entry in work if isinstance(entry, TaskEntry))
        and not any(isinstance(entry, str) and entry in names.steps for entry in work)
    )
