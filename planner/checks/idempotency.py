"""NP510: an action that is retried is idempotent, or passes an idempotency key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noetl.planner.diagnostics.diagnostic import Label
from noetl.planner.program.program import Program
from noetl.planner.program.template_uses import find_texts
from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, RetryPolicy, Step, TaskEntry
from noetl.planner.templates.template import TemplateProblem, has_template, parse_template

KEY_ACCESSES = (("step",), ("step", "idempotency_key"))
"""The accesses through which a template passes the idempotency key."""


def check_idempotency(program: Program) -> None:
    """Report actions that are not idempotent and that a retry may perform twice."""
    check = _IdempotencyCheck(program)
    for step in program.playbook.steps:
        check.check_step(step)
        for case in step.rule or ():
            check.check_run(program.symbols.work(case), None)
    for task in program.playbook.tasks:
        check.check_run(task.run, None)


@dataclass(frozen=True, slots=True)
class _RetryOrigin:
    """The reason why a `run` is repeated: the attempts of a retry policy, and the path of the policy."""

    attempts: int
    path: DocumentPath


class _IdempotencyCheck:
    def __init__(self, program: Program) -> None:
        self.program = program
        self._checked_tasks: set[tuple[str, bool]] = set()
        self._reported: set[DocumentPath] = set()

    def check_step(self, step: Step) -> None:
        policy = step.retry or self.program.playbook.retry
        retry = None
        if policy is not None and _repeats(policy):
            path: DocumentPath = (*step.path, "retry") if step.retry is not None else ("retry",)
            retry = _RetryOrigin(policy.attempts, path)
        is_concurrent = step.parallel or step.loop is not None
        self.check_run(step.run or (), retry, is_followed=is_concurrent, is_concurrent=is_concurrent)

    def check_run(
        self,
        run: Sequence[Entry],
        retry: _RetryOrigin | None,
        *,
        is_followed: bool = False,
        is_concurrent: bool = False,
    ) -> None:
        """Check the entries of a `run`.

        `is_followed` says that work after the `run` may fail, so that a retry repeats the `run` after
        success.
        """
        for index, entry in enumerate(run):
            followed = is_followed or is_concurrent or index + 1 < len(run)
            if isinstance(entry, ActionEntry):
                self.check_action(entry, retry, is_followed=followed or entry.loop is not None)
            elif retry is not None and not (isinstance(entry, TaskEntry) and entry.on_error == "continue"):
                name = entry.task if isinstance(entry, TaskEntry) else entry
                self.check_task(name, retry, is_followed=followed)

    def check_task(self, name: object, retry: _RetryOrigin, *, is_followed: bool) -> None:
        task = self.program.symbols.tasks.get(name) if isinstance(name, str) else None
        if task is not None and (task.name, is_followed) not in self._checked_tasks:
            self._checked_tasks.add((task.name, is_followed))
            self.check_run(task.run, retry, is_followed=is_followed, is_concurrent=task.parallel)

    def check_action(self, entry: ActionEntry, retry: _RetryOrigin | None, *, is_followed: bool) -> None:
        declaration = entry.declaration
        if declaration is None or declaration.is_idempotent(entry.parameters) or _passes_key(entry):
            return
        if entry.retry is not None and _repeats(entry.retry) and not declaration.is_atomic:
            self.report(entry, _RetryOrigin(entry.retry.attempts, (*entry.path, "retry")))
        elif retry is not None and (is_followed or not (declaration.is_atomic or entry.on_error)):
            self.report(entry, retry)

    def report(self, entry: ActionEntry, retry: _RetryOrigin) -> None:
        if entry.path in self._reported:
            return
        self._reported.add(entry.path)
        message = f"`{entry.action}` is not idempotent and may run up to {retry.attempts:,} times"
        label = Label(self.program.document.key_span(retry.path), "this retry repeats it")
        self.program.report("NP510", message, (*entry.path, "action"), _HINT, labels=[label])


_HINT = (
    "pass `{{ step.idempotency_key }}`, which is the same in each retry, or move it to a step without retry"
)


def _repeats(policy: RetryPolicy) -> bool:
    return policy.attempts > 1


def _passes_key(entry: ActionEntry) -> bool:
    """Return whether a parameter of an action reads the idempotency key.

    An invalid template counts as yes.
    """
    for text in find_texts(entry.parameters):
        if has_template(text):
            try:
                if any(key in parse_template(text).reads for key in KEY_ACCESSES):
                    return True
            except TemplateProblem:
                return True
    return False
