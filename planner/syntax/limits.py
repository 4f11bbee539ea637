"""How large a playbook may be: counted in its plain data, before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from noetl.planner.diagnostics.diagnostic import Diagnostics
from noetl.planner.syntax.document import Document
from noetl.planner.syntax.models import DocumentPath

MAX_STEPS = 10_000
MAX_TASKS = 10_000
MAX_CASES = 100
MAX_ALL_CASES = 100_000
MAX_TARGETS = 1_000
"""How many targets a case may have, and how many entries any other `run`."""
MAX_ALL_ENTRIES = 100_000


def check_limits(document: Document, diagnostics: Diagnostics) -> bool:
    """Whether the playbook passes a limit; the first of each surplus is reported, as NP701."""
    return _Sizes(document, diagnostics).pass_a_limit()


class _Sizes:
    def __init__(self, document: Document, diagnostics: Diagnostics) -> None:
        self.document = document
        self.diagnostics = diagnostics
        self.data = document.data
        self.cases = 0
        self.entries = 0

    def pass_a_limit(self) -> bool:
        steps, tasks = self.data.get("steps"), self.data.get("tasks")
        if self.surplus(steps, MAX_STEPS, f"a playbook has at most {MAX_STEPS:,} steps", ("steps",)):
            return True
        if self.surplus(tasks, MAX_TASKS, f"a playbook has at most {MAX_TASKS:,} tasks", ("tasks",)):
            return True
        found = False
        for path, run in self.tasks_of(tasks):
            found |= self.run(run, f"a task has at most {MAX_TARGETS:,} entries", path)
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            if isinstance(step, dict):
                found |= self.step(step, ("steps", index))
        return found

    def step(self, step: dict[str, Any], path: DocumentPath) -> bool:
        found = self.run(
            step.get("run"), f"a step has at most {MAX_TARGETS:,} entries in `run`", (*path, "run")
        )
        cases, path = step.get("rule"), (*path, "rule")
        if self.surplus(cases, MAX_CASES, f"a step has at most {MAX_CASES} cases", path):
            return True
        if not isinstance(cases, list):
            return found
        self.cases += len(cases)
        message = f"a playbook has at most {MAX_ALL_CASES:,} cases"
        found |= self.total(self.cases, len(cases), MAX_ALL_CASES, message, path)
        message = f"a case has at most {MAX_TARGETS:,} targets"
        for number, case in enumerate(cases):
            if isinstance(case, dict):
                found |= self.run(case.get("run"), message, (*path, number, "run"))
        return found

    def tasks_of(self, tasks: Any) -> Iterator[tuple[DocumentPath, Any]]:
        """The `run` of each task, in whichever way it is written."""
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

    def run(self, run: Any, message: str, path: DocumentPath) -> bool:
        if self.surplus(run, MAX_TARGETS, message, path):
            return True
        if not isinstance(run, list):
            return False
        self.entries += len(run)
        message = f"all `run` of a playbook have at most {MAX_ALL_ENTRIES:,} entries together"
        return self.total(self.entries, len(run), MAX_ALL_ENTRIES, message, path)

    def surplus(self, items: Any, most: int, message: str, path: DocumentPath) -> bool:
        if not isinstance(items, list | dict) or len(items) <= most:
            return False
        first = most if isinstance(items, list) else list(items)[most]
        self.diagnostics.add("NP701", message, self.document.key_span((*path, first)))
        return True

    def total(self, number: int, added: int, most: int, message: str, path: DocumentPath) -> bool:
        """Whether a sum is passed; it is reported once, at the first item beyond it."""
        if number <= most:
            return False
        if number - added <= most:
            self.diagnostics.add("NP701", message, self.document.span((*path, most - number + added)))
        return True
