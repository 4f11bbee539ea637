"""The symbol table of a playbook: its steps and tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noetl.planner.syntax.models import ActionEntry, Case, Entry, Playbook, Step, StepEntry, Task, TaskEntry


@dataclass(frozen=True, slots=True)
class Names:
    """The steps and tasks of a playbook by name; of two with one name, the first."""

    steps: Mapping[str, Step]
    tasks: Mapping[str, Task]

    @classmethod
    def of(cls, playbook: Playbook) -> Names:
        steps: dict[str, Step] = {}
        tasks: dict[str, Task] = {}
        for step in playbook.steps:
            steps.setdefault(step.name, step)
        for task in playbook.tasks:
            tasks.setdefault(task.name, task)
        return cls(steps, tasks)

    def target(self, entry: Entry) -> str | None:
        """The step that an entry of a case leads to, or None when the entry is work."""
        if isinstance(entry, StepEntry):
            return entry.step
        return entry if isinstance(entry, str) and entry not in self.tasks else None

    def targets(self, case: Case) -> tuple[str, ...]:
        """The steps of the playbook that a case leads to, in the order written."""
        found = (self.target(entry) for entry in case.run)
        return tuple(dict.fromkeys(name for name in found if name is not None and name in self.steps))

    def work(self, case: Case) -> list[str | ActionEntry | TaskEntry]:
        """The in-place work of a case."""
        return [e for e in case.run if not isinstance(e, StepEntry) and self.target(e) is None]
