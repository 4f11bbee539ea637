"""Definitions: the names that entries, tasks and steps assign, and where the text says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import networkx as nx

from noetl.planner.syntax.entries import find_saved_names
from noetl.planner.syntax.models import DocumentPath, Entry, Step, Task, TaskEntry
from noetl.planner.syntax.symbols import SymbolTable

if TYPE_CHECKING:
    TaskGraph = nx.DiGraph[str]

PlacedEntry = tuple[DocumentPath, Entry]
"""An entry of a `run` with its path."""


class Definitions:
    """The names that the entries, tasks and steps of a playbook assign.

    A set of names is an int with one bit per name, in the order of `names`. The names of a task count for
    every caller. Names assigned inside a loop are local to the item and are left out.
    """

    def __init__(self, symbols: SymbolTable, call_graph: TaskGraph) -> None:
        self.symbols = symbols
        self.names: list[str] = []
        self._bits: dict[str, int] = {}
        self.by_task: dict[str, int] = {}
        for task in reversed(list(nx.topological_sort(call_graph))):
            self.by_task[task] = self._assigned_by_run(self.task_entries(symbols.tasks[task]))
        self.by_step = {
            name: self._assigned_by_run(self.step_entries(step)) for name, step in symbols.steps.items()
        }

    def _bit_of(self, name: str) -> int:
        bit = self._bits.get(name)
        if bit is None:
            bit = self._bits[name] = 1 << len(self.names)
            self.names.append(name)
        return bit

    def task_entries(self, task: Task) -> Iterator[PlacedEntry]:
        """Return the entries of a task."""
        return place_entries(task.run, task.run_path)

    def step_entries(self, step: Step) -> Iterator[PlacedEntry]:
        """Yield the entries of a step that assign names: those of its `run` and the work of its cases."""
        if step.loop is None:
            yield from place_entries(step.run or (), (*step.path, "run"))
        for case in step.rule or ():
            for path, entry in place_entries(case.run, (*case.path, "run")):
                if self.symbols.target(entry) is None:
                    yield path, entry

    def _assigned_by_run(self, run: Iterable[PlacedEntry]) -> int:
        """Return the names that entries assign."""
        names = 0
        for _, entry in run:
            names |= self.assigned_by_entry(entry)
        return names

    def assigned_by_entry(self, entry: Entry) -> int:
        """Return the names that an entry assigns, itself or through the task that it calls."""
        names = 0
        for name, _ in find_saved_names([entry]):
            names |= self._bit_of(name)
        if (task := called_task(entry)) is not None:
            names |= self.by_task.get(task, 0)
        return names


def place_entries(entries: Iterable[Entry], path: DocumentPath) -> Iterator[PlacedEntry]:
    """Return the entries of the `run` at a path, each with its own path."""
    return (((*path, index), entry) for index, entry in enumerate(entries))


def called_task(entry: Entry) -> str | None:
    """Return the name of the task that an entry calls outside of a loop. It may be the name of a step."""
    if isinstance(entry, TaskEntry):
        return entry.task if entry.loop is None else None
    return entry if isinstance(entry, str) else None


def bits_set_more_than_once(masks: Mapping[str, int]) -> int:
    """Return the bits that at least two of the masks have.

    >>> bits_set_more_than_once({"a": 0b011, "b": 0b110})
    2
    """
    seen = repeated = 0
    for mask in masks.values():
        repeated |= seen & mask
        seen |= mask
    return repeated
