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

    With `in_loops`, also yield the names that an action saves for a single item of its loop.
    """
    for entry in run:
        if not isinstance(entry, (ActionEntry, TaskEntry)):
            continue
        if entry.as_ is not None:
            yield entry.as_, (*entry.path, "as")
        if isinstance(entry, ActionEntry) and (in_loops or entry.loop is None):
            yield from entry.saved_names


def is_saved_by_key(path: DocumentPath) -> bool:
    """Return whether the path of a saved name leads to a key of a mapping, and not to the value of `as`.

    >>> is_saved_by_key(("steps", 0, "run", 0, "set", "x")), is_saved_by_key(("steps", 0, "run", 0, "as"))
    (True, False)
    """
    return isinstance(path[-2], str)
