"""NP901: parts of the language that parse and are checked, and are not executed yet."""

from __future__ import annotations

from collections.abc import Iterable

from planner.checks.names import entries
from planner.checks.subject import Subject
from planner.playbook import ActionEntry, Entry, Path, Step, TaskEntry


def check_support(subject: Subject) -> None:
    """Report every construct that the executor cannot walk yet. Action types are reported with the actions."""
    playbook = subject.playbook
    if playbook.mode == "sequential":
        _report(subject, "`mode: sequential`", ("mode",))
    for step in playbook.steps:
        if step.join != "all":
            _report(subject, f"`join: {step.join}`", (*step.path, "join"))
        _check_pauses(subject, step)
    _check_batches(subject)
    for task in playbook.tasks:
        _refuse_pauses(subject, task.run, "in a task")


def _check_batches(subject: Subject) -> None:
    for entry, _, _ in entries(subject):
        if isinstance(entry, ActionEntry | TaskEntry) and entry.loop is not None and entry.loop.batch is not None:
            _report(subject, "`batch` of a loop that is not a step's", (*entry.path, "loop", "batch"))


def _check_pauses(subject: Subject, step: Step) -> None:
    """Actions that suspend may stand in the `run` of a step, one after another; not yet in other places."""
    if step.parallel or step.loop is not None:
        _refuse_pauses(subject, step.run or (), "in a loop or beside others")
    else:
        looped = [entry for entry in step.run or () if isinstance(entry, ActionEntry) and entry.loop is not None]
        _refuse_pauses(subject, looped, "in a loop")
    for case in step.rule or ():
        _refuse_pauses(subject, case.run, "in a case")


def _refuse_pauses(subject: Subject, run: Iterable[Entry], where: str) -> None:
    for entry in run:
        if isinstance(entry, ActionEntry) and (declaration := subject.catalogue.get(entry.action)):
            if declaration.suspends and declaration.supported:
                _report(subject, f"`{entry.action}` {where}", (*entry.path, "action"))


def _report(subject: Subject, what: str, path: Path) -> None:
    subject.report("NP901", f"{what} is not supported yet", path, key=True)
