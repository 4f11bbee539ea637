"""What the entries of a `run` call and save."""

from __future__ import annotations

from collections.abc import Iterable

from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, TaskEntry


def find_called_tasks(run: Iterable[Entry]) -> Iterable[str]:
    """The names that entries call as tasks, in the order written; a name may turn out to be a step's."""
    for entry in run:
        if isinstance(entry, TaskEntry):
            yield entry.task
        elif isinstance(entry, str):
            yield entry


def find_saved_names(run: Iterable[Entry], *, in_loops: bool = False) -> Iterable[tuple[str, DocumentPath]]:
    """The names that entries themselves save, with the places where they are written; `in_loops` also those that the items of
    a loop save, each for itself.
    """
    for entry in run:
        if not isinstance(entry, ActionEntry | TaskEntry):
            continue
        if entry.as_ is not None:
            yield entry.as_, (*entry.path, "as")
        if isinstance(entry, ActionEntry) and entry.action == "set" and (in_loops or entry.loop is None):
            values = entry.parameters.get("set")
            for name in values if isinstance(values, dict) else ():
                yield name, (*entry.path, "set", name)
