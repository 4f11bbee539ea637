"""Which names steps save, and where that is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx
from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import DocumentPath, Entry, Step, Task, TaskEntry
from noetl.planner.syntax.symbols import Names

if TYPE_CHECKING:
    TaskGraph = nx.DiGraph[str]

Placed = tuple[DocumentPath, Entry]
"""An entry of a `run`, with its place."""


@dataclass(frozen=True, slots=True)
class Saved:
    """Where a name is saved: at an `as`, a key of `set`, or the name of a task that saves it."""

    path: DocumentPath
    is_key: bool = False


class Saves:
    """What the entries, tasks and steps of a playbook save: sets of names, as integers with a bit for each in the order of
    `names`. What a task saves counts for whoever calls it. What is saved inside a loop is local to the item, and left out.
    """

    def __init__(self, names: Names, task_calls: TaskGraph) -> None:
        self.steps = names
        self.names: list[str] = []
        self.bits: dict[str, int] = {}
        self.by_task: dict[str, int] = {}
        for task in reversed(list(nx.topological_sort(task_calls))):
            self.by_task[task] = self.of_run(self.run_of_task(names.tasks[task]))
        self.by_step = {name: self.of_run(self.run_of_step(step)) for name, step in names.steps.items()}

    def bit(self, name: str) -> int:
        found = self.bits.get(name)
        if found is None:
            found = self.bits[name] = 1 << len(self.names)
            self.names.append(name)
        return found

    def run_of_task(self, task: Task) -> Iterator[Placed]:
        return placed(task.run, task.run_path)

    def run_of_step(self, step: Step) -> Iterator[Placed]:
        """The work of a step in which names are saved, in place or not."""
        if step.loop is None:
            yield from placed(step.run or (), (*step.path, "run"))
        for case in step.rule or ():
            yield from (p for p in placed(case.run, (*case.path, "run")) if self.steps.target(p[1]) is None)

    def of_run(self, run: Iterable[Placed]) -> int:
        """What entries save."""
        found = 0
        for _, entry in run:
            found |= self.of_entry(entry)
        return found

    def of_entry(self, entry: Entry) -> int:
        found = 0
        for name, _ in find_saved_names([entry]):
            found |= self.bit(name)
        if (task := called(entry)) is not None:
            found |= self.by_task.get(task, 0)
        return found

    def place(self, run: Iterable[Placed], name: str) -> Saved:
        """Where the first entry that saves a name says so."""
        bit = self.bits[name]
        path, entry = next(one for one in run if self.of_entry(one[1]) & bit)
        for saved, place in find_saved_names([entry]):
            if saved == name:
                return Saved(place, is_key=place[-2] == "set")
        return Saved(path if isinstance(entry, str) else (*path, "task"))


def placed(entries: Iterable[Entry], path: DocumentPath) -> Iterator[Placed]:
    """Entries with their places in the `run` at a path."""
    return (((*path, index), entry) for index, entry in enumerate(entries))


def called(entry: Entry) -> str | None:
    """The task that an entry calls other than in a loop; a name may turn out to be a step's."""
    if isinstance(entry, TaskEntry):
        return entry.task if entry.loop is None else None
    return entry if isinstance(entry, str) else None


def repeated(masks: Mapping[str, int]) -> int:
    """The bits that more than one of the masks has."""
    once = twice = 0
    for mask in masks.values():
        twice |= once & mask
        once |= mask
    return twice
