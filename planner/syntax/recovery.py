"""The data of a playbook while it is being fitted to the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from noetl.planner.syntax.models import DocumentPath


class Draft:
    """The data to validate: the document's, with short forms written out, and without what was found to be wrong.

    `place` tells where in the document a value of the draft stands.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = dict(data)
        self.broken: dict[str, set[str]] = {"steps": set(), "tasks": set()}
        self.lost: set[str] = set()
        self._items: dict[DocumentPath, list[str | int]] = {}
        self._keys: dict[DocumentPath, DocumentPath] = {}
        self._left_out: set[DocumentPath] = set()
        self._is_own = False
        self._expand_inputs()
        self._expand_tasks()

    def _expand_inputs(self) -> None:
        inputs = self.data.get("input")
        if isinstance(inputs, dict):
            self.data["input"] = {k: {"type": v} if isinstance(v, str) else v for k, v in inputs.items()}

    def _expand_tasks(self) -> None:
        tasks = self.data.get("tasks")
        if not isinstance(tasks, dict):
            return
        self._items["tasks",] = list(tasks)
        self.data["tasks"] = expanded = []
        for name, value in tasks.items():
            if isinstance(value, list):
                expanded.append({"name": name, "run": value})
                self._keys["tasks", name, "run"] = ("tasks", name)
            else:
                expanded.append({**value, "name": name} if isinstance(value, dict) else value)

    def place(self, path: DocumentPath) -> DocumentPath:
        """Where in the document the value at `path` of the draft stands."""
        if not self._items and not self._keys:
            return path
        place: DocumentPath = ()
        for part in path:
            if isinstance(part, int):
                place = (*place, self._items[place][part] if place in self._items else part)
            else:
                place = (*place, part)
                place = self._keys.get(place, place)
        return place

    def at(self, path: DocumentPath) -> Any:
        """The value at `path`."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value

    def locate(self, location: Sequence[str | int]) -> DocumentPath:
        """The path that a location in an error stands for, which also names the alternatives of unions."""
        path: DocumentPath = ()
        value: Any = self.data
        is_alternative = False
        for part in location:
            if is_alternative:
                is_alternative = False
                continue
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
                is_alternative = path[-1:] == ("run",)
            else:
                break
            path = (*path, part)
        return path

    def rename(self, path: DocumentPath, key: str) -> None:
        """Take the value at `path` for the one of another key of the same mapping."""
        self._make_own()
        parent, place = self.at(path[:-1]), self.place(path)
        self._keys[*self.place(path[:-1]), key] = place
        parent[key] = parent.pop(path[-1])

    def leave_out(self, path: DocumentPath) -> None:
        """Do without the value at `path`, remembering what is lost with it."""
        self._make_own()
        self._note_loss(path)
        parent: Any = self.at(path[:-1])
        last: Any = path[-1]
        if isinstance(parent, dict):
            self._left_out.add(self.place(path))
            del parent[last]
        elif path[-2] == "run" and last + 1 < len(parent):
            parent[last] = ""
            self.broken["steps"].add("")
            self.broken["tasks"].add("")
        else:
            place = self.place(path[:-1])
            if place not in self._items:
                self._items[place] = list(range(len(parent)))
            del parent[last], self._items[place][last]

    def is_left_out(self, path: DocumentPath) -> bool:
        """Whether what stood at `path`, or an item of it, was left out."""
        place = self.place(path)
        return place in self._left_out or place in self._items

    def _make_own(self) -> None:
        if not self._is_own:
            self.data = _copied(self.data)
            self._is_own = True

    def _note_loss(self, path: DocumentPath) -> None:
        value, key = self.at(path), path[-1]
        self.lost.update(_bound_in(value))
        if len(path) > 1 and path[0] in self.broken:
            owner, written = self.at(path[:2]), self.place(path[:2])[1]
            name = owner.get("name") if isinstance(owner, dict) else written
            if isinstance(name, str):
                self.broken[path[0]].add(name)
        if key == "loop":
            self.lost.update(("loop", "item"))
        elif key == "with":
            self.lost.add("args")
        elif key in ("environment", "variables", "input") or path[:-1] == ("input",):
            self.lost.add(str(key))


def _copied(value: Any) -> Any:
    """A copy that shares nothing, unlike the data of a document with aliases."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _bound_in(value: Any) -> Iterator[str]:
    """The names that actions and loops somewhere in `value` bind."""
    if isinstance(value, list):
        for item in value:
            yield from _bound_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key == "as" and isinstance(item, str):
                yield item
            elif key == "set" and isinstance(item, dict):
                yield from item
            yield from _bound_in(item)
