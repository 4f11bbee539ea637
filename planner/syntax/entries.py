"""The tasks that the entries of a `run` call, and the names that they save."""

from __future__ import annotations

from collections.abc import Iterable

from noetl.planner.syntax.models import ActionEntry, DocumentPath, Entry, TaskEntry


def find_called_tasks(run: Iterable[Entry]) -> Iterable[str]:
    """Yield the names that entries call as tasks, in order. In a case, a plain name may also be a step."""
    for entry in run:
        if isinstance(entry, TaskEntry):
            yield entry.task
        elif isinstance(entry, str):
            yield entry


def find_saved_names(run: Iterable[Entry], *, in_loops: bool = False) -> Iterable[tuple[str, DocumentPath]]:
    """Yield each name that the entries save, with the path of the key or value that names it.

    With `in_loops`, also yield the names that `set` saves for a single item of a loop.
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
