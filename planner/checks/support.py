"""NP901: parts of the language that parse and are checked, and are not executed yet."""

from __future__ import annotations

from planner.checks.names import entries
from planner.checks.subject import Subject
from planner.playbook import ActionEntry, Path, TaskEntry


def check_support(subject: Subject) -> None:
    """Report every construct that the executor cannot walk yet. Action types are reported with the actions."""
    playbook = subject.playbook
    if playbook.mode == "sequential":
        _report(subject, "`mode: sequential`", ("mode",))
    if playbook.finally_ is not None:
        _report(subject, "`finally`", ("finally",))
    for step in playbook.steps:
        if step.loop is not None:
            _report(subject, "`loop`", (*step.path, "loop"))
        if step.repeat is not None:
            _report(subject, "`repeat`", (*step.path, "repeat"))
        if step.join != "all":
            _report(subject, f"`join: {step.join}`", (*step.path, "join"))
        if step.delivery != "at_least_once":
            _report(subject, f"`delivery: {step.delivery}`", (*step.path, "delivery"))
    for entry, _, _ in entries(subject):
        if isinstance(entry, ActionEntry | TaskEntry) and entry.loop is not None:
            _report(subject, "`loop`", (*entry.path, "loop"))


def _report(subject: Subject, what: str, path: Path) -> None:
    subject.report("NP901", f"{what} is not supported yet", path, key=True)
