"""Size limits of a playbook (NP701), counted in its plain data before any model is built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.models import DocumentPath

MAX_STEPS = 10_000
MAX_TASKS = 10_000
MAX_TRIGGERS = 30
"""How many triggers a playbook may have. Stores replace all of them in one transaction."""
MAX_CASES = 100
"""How many cases a rule may have."""
MAX_ALL_CASES = 100_000
MAX_TARGETS = 1_000
"""How many targets a case may have, and how many entries any other `run`."""
MAX_ALL_ENTRIES = 100_000


def check_limits(document: Document, diagnostics: Diagnostics) -> bool:
    """Return whether the playbook is within all limits. Report the first item beyond each limit as NP701."""
    return not _LimitChecker(document, diagnostics).exceeds_a_limit()


class _LimitChecker:
    """The counters of one playbook.

    Each method reports what it finds and returns whether a limit is exceeded.
    """

    def __init__(self, document: Document, diagnostics: Diagnostics) -> None:
        self.document = document
        self.diagnostics = diagnostics
        self.data = document.data
        self.cases = 0
        self.entries = 0

    def exceeds_a_limit(self) -> bool:
        steps, tasks = self.data.get("steps"), self.data.get("tasks")
        if self.is_too_long(steps, MAX_STEPS, f"playbook has more than {MAX_STEPS:,} steps", ("steps",)):
            return True
        if self.is_too_long(tasks, MAX_TASKS, f"playbook has more than {MAX_TASKS:,} tasks", ("tasks",)):
            return True
        triggers = self.data.get("triggers")
        message = f"playbook has more than {MAX_TRIGGERS} triggers"
        if self.is_too_long(triggers, MAX_TRIGGERS, message, ("triggers",)):
            return True
        is_exceeded = False
        for path, run in self.task_runs(tasks):
            is_exceeded |= self.check_run(run, f"`run` of a task has more than {MAX_TARGETS:,} entries", path)
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            if isinstance(step, dict):
                is_exceeded |= self.check_step(step, ("steps", index))
        return is_exceeded

    def check_step(self, step: dict[str, Any], path: DocumentPath) -> bool:
        message = f"`run` of a step has more than {MAX_TARGETS:,} entries"
        is_exceeded = self.check_run(step.get("run"), message, (*path, "run"))
        cases, path = step.get("rule"), (*path, "rule")
        if self.is_too_long(cases, MAX_CASES, f"rule has more than {MAX_CASES} cases", path):
            return True
        if not isinstance(cases, list):
            return is_exceeded
        self.cases += len(cases)
        message = f"playbook has more than {MAX_ALL_CASES:,} cases"
        is_exceeded |= self.is_sum_too_large(self.cases, len(cases), MAX_ALL_CASES, message, path)
        message = f"case has more than {MAX_TARGETS:,} targets"
        for index, case in enumerate(cases):
            if isinstance(case, dict):
                is_exceeded |= self.check_run(case.get("run"), message, (*path, index, "run"))
        return is_exceeded

    def task_runs(self, tasks: Any) -> Iterator[tuple[DocumentPath, Any]]:
        """Yield the path and the value of the `run` of each task, in each form that `tasks` may have."""
        if isinstance(tasks, list):
            for index, task in enumerate(tasks):
                if isinstance(task, dict):
                    yield ("tasks", index, "run"), task.get("run")
        elif isinstance(tasks, dict):
            for name, task in tasks.items():
                yield (
                    (("tasks", name, "run"), task.get("run"))
                    if isinstance(task, dict)
                    else (("tasks", name), task)
                )

    def check_run(self, run: Any, message: str, path: DocumentPath) -> bool:
        if self.is_too_long(run, MAX_TARGETS, message, path):
            return True
        if not isinstance(run, list):
            return False
        self.entries += len(run)
        message = f"playbook has more than {MAX_ALL_ENTRIES:,} entries in all `run` together"
        return self.is_sum_too_large(self.entries, len(run), MAX_ALL_ENTRIES, message, path)

    def is_too_long(self, items: Any, limit: int, message: str, path: DocumentPath) -> bool:
        if not isinstance(items, list | dict) or len(items) <= limit:
            return False
        first = limit if isinstance(items, list) else list(items)[limit]
        self.diagnostics.add("NP701", message, self.document.key_span((*path, first)))
        return True

    def is_sum_too_large(self, total: int, added: int, limit: int, message: str, path: DocumentPath) -> bool:
        """Return whether a sum exceeds its limit. Report it once, at the first item beyond the limit."""
        if total <= limit:
            return False
        if total - added <= limit:
            self.diagnostics.add("NP701", message, self.document.span((*path, limit - total + added)))
        return True
