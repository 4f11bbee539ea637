"""NP510: work that is retried, and of which nobody outside can tell that it was done before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.program.program import Subject
from noetl.planner.program.template_uses import texts_in
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, RetryPolicy, Step, TaskEntry
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template

KEYS = (("step",), ("step", "idempotency_key"))
"""What a template reads that hands over the key of the work."""


def check_repetition(subject: Subject) -> None:
    """Report actions that may act twice since they, or the steps that do them, are retried."""
    check = _Check(subject)
    for step in subject.playbook.steps:
        check.step(step)
        for case in step.rule or ():
            check.run(subject.names.work(case), None)
    for task in subject.playbook.tasks:
        check.run(task.run, None)


@dataclass(frozen=True, slots=True)
class _Retried:
    """Why a `run` is done again: the policy of a step, and where it is written."""

    attempts: int
    path: DocumentPath


class _Check:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._seen: set[tuple[str, bool]] = set()
        self._reported: set[DocumentPath] = set()

    def step(self, step: Step) -> None:
        path: DocumentPath = (*step.path, "retry") if step.retry is not None else ("retry",)
        policy = step.retry or self.subject.playbook.retry
        retried = None if not _is_retried(policy) else _Retried(policy.attempts, path) if policy else None
        together = step.parallel or step.loop is not None
        self.run(step.run or (), retried, is_followed=together, together=together)

    def run(
        self,
        run: Sequence[Entry],
        retried: _Retried | None,
        *,
        is_followed: bool = False,
        together: bool = False,
    ) -> None:
        """Look at the entries of a `run`. `is_followed` says that something behind it may fail, so that it is done again."""
        for at, entry in enumerate(run):
            followed = is_followed or together or at + 1 < len(run)
            if isinstance(entry, ActionEntry):
                self.action(entry, retried, is_followed=followed or entry.loop is not None)
            elif retried is not None and not (isinstance(entry, TaskEntry) and entry.on_error == "continue"):
                self.task(
                    entry.task if isinstance(entry, TaskEntry) else entry, retried, is_followed=followed
                )

    def task(self, name: object, retried: _Retried, *, is_followed: bool) -> None:
        task = self.subject.names.tasks.get(name) if isinstance(name, str) else None
        if task is not None and (task.name, is_followed) not in self._seen:
            self._seen.add((task.name, is_followed))
            self.run(task.run, retried, is_followed=is_followed, together=task.parallel)

    def action(self, entry: ActionEntry, retried: _Retried | None, *, is_followed: bool) -> None:
        declaration = self.subject.catalogue.get(entry.action)
        if declaration is None or not declaration.may_act_twice(entry.parameters) or _has_key(entry):
            return
        if _is_retried(entry.retry) and not declaration.is_atomic and entry.retry is not None:
            self.report(entry, _Retried(entry.retry.attempts, (*entry.path, "retry")))
        elif retried is not None and (is_followed or not (declaration.is_atomic or entry.on_error)):
            self.report(entry, retried)

    def report(self, entry: ActionEntry, retried: _Retried) -> None:
        if entry.path in self._reported:
            return
        self._reported.add(entry.path)
        message = f"`{entry.action}` may act twice: it is done up to {retried.attempts:,} times, and the other side cannot tell"
        label = Label(self.subject.document.key_span(retried.path), "retried by this")
        self.subject.report("NP510", message, (*entry.path, "action"), _HINT, labels=[label])


_HINT = (
    "hand over `{{ step.idempotency_key }}`, which a retry repeats, or do it in a step that is not retried"
)


def _is_retried(policy: RetryPolicy | None) -> bool:
    return policy is not None and policy.attempts > 1


def _has_key(entry: ActionEntry) -> bool:
    for text in texts_in(entry.parameters):
        if has_template(text):
            try:
                if any(key in parse_template(text).reads for key in KEYS):
                    return True
            except TemplateProblem:
                return True
    return False
