"""The symbol table of a playbook: its steps and tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noetl.planner.syntax.models import ActionEntry, Case, Entry, Playbook, Step, StepEntry, Task, TaskEntry


@dataclass(frozen=True, slots=True)
class SymbolTable:
    """The steps and tasks of a playbook by name. Of several with one name, it contains the first."""

    steps: Mapping[str, Step]
    tasks: Mapping[str, Task]

    @classmethod
    def build(cls, playbook: Playbook) -> SymbolTable:
        """Return the symbol table of a playbook."""
        steps: dict[str, Step] = {}
        tasks: dict[str, Task] = {}
        for step in playbook.steps:
            steps.setdefault(step.name, step)
        for task in playbook.tasks:
            tasks.setdefault(task.name, task)
        return cls(steps, tasks)

    def target(self, entry: Entry) -> str | None:
        """Return the name of the step that an entry of a case leads to, or None if the entry is work."""
        if isinstance(entry, StepEntry):
            return entry.step
        return entry if isinstance(entry, str) and entry not in self.tasks else None

    def targets(self, case: Case) -> tuple[str, ...]:
        """Return the existing steps that a case leads to, in the order of the text and without duplicates."""
        targets = (self.target(entry) for entry in case.run)
        return tuple(dict.fromkeys(name for name in targets if name is not None and name in self.steps))

    def work(self, case: Case) -> list[str | ActionEntry | TaskEntry]:
        """Return the in-place work of a case."""
        return [
            entry for entry in case.run if not isinstance(entry, StepEntry) and self.target(entry) is None
        ]
