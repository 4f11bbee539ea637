"""The data of a playbook during error recovery: without invalid parts, but with the original paths.

Problem: pydantic validates all or nothing, but one report must list all errors of a playbook. After an error
the rest must still be checked, and later diagnostics must mark the original text.

Algorithm: error recovery by deletion (Aho, Sethi and Ullman 1986, section 4.1). A copy of the data holds the
short forms in expanded form. `remove` deletes an invalid value, `rename_key` corrects a misspelt key. Two
tables map paths of this copy to paths of the document. Names that a removed part would have defined are
collected, so that later checks stay silent about them.

Cost: O(size of the data) for the copy, made at the first change only; O(depth) for each translation of a
path.

Limits: a plain string in a `run` has no path of its own. Therefore an empty string replaces a removed entry
that others follow, which keeps their indexes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from noetl.planner.syntax.models import DocumentPath, is_limits_path


class RecoveredData:
    """The data to validate: the data of the document with short forms expanded and without invalid parts.

    `saving_parameters` are the parameters whose keys are names that an action saves. `broken` holds the names
    of steps and tasks that lost a part, `lost_names` the names that removed parts define.
    """

    def __init__(self, data: dict[str, Any], saving_parameters: AbstractSet[str]) -> None:
        self.data = dict(data)
        self._saving_parameters = saving_parameters
        self.broken: dict[str, set[str]] = {"steps": set(), "tasks": set()}
        self.lost_names: set[str] = set()
        self._document_items: dict[DocumentPath, list[str | int]] = {}
        self._document_keys: dict[DocumentPath, DocumentPath] = {}
        self._removed: set[DocumentPath] = set()
        self._is_copied = False
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
        self._document_items["tasks",] = list(tasks)
        self.data["tasks"] = expanded = []
        for name, value in tasks.items():
            if isinstance(value, list):
                expanded.append({"name": name, "run": value})
                self._document_keys["tasks", name, "run"] = ("tasks", name)
            else:
                expanded.append({**value, "name": name} if isinstance(value, dict) else value)

    def document_path(self, path: DocumentPath) -> DocumentPath:
        """Return the path in the document for a path in this data."""
        if not self._document_items and not self._document_keys:
            return path
        translated: DocumentPath = ()
        for part in path:
            if isinstance(part, int):
                items = self._document_items.get(translated)
                translated = (*translated, part if items is None else items[part])
            else:
                translated = (*translated, part)
                translated = self._document_keys.get(translated, translated)
        return translated

    def value_at(self, path: DocumentPath) -> Any:
        """Return the value at a path in this data."""
        value: Any = self.data
        for part in path:
            value = value[part]
        return value

    def resolve_location(self, location: Sequence[str | int]) -> DocumentPath:
        """Return the path for a location of a pydantic error, which also contains tags of unions."""
        path: DocumentPath = ()
        value: Any = self.data
        is_tag = False
        for part in location:
            if is_tag:
                is_tag = False
                continue
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
                is_tag = path[-1:] in (("run",), ("triggers",))
            else:
                break
            path = (*path, part)
            is_tag = is_tag or is_limits_path(path)
        return path

    def rename_key(self, path: DocumentPath, key: str) -> None:
        """Move the value at `path` to another key of the same mapping."""
        self._copy_once()
        parent, document_path = self.value_at(path[:-1]), self.document_path(path)
        self._document_keys[*self.document_path(path[:-1]), key] = document_path
        parent[key] = parent.pop(path[-1])

    def remove(self, path: DocumentPath) -> None:
        """Remove the value at `path`, and record the names that are lost with it."""
        self._copy_once()
        self._record_lost_names(path)
        parent: Any = self.value_at(path[:-1])
        last: Any = path[-1]
        if isinstance(parent, dict):
            self._removed.add(self.document_path(path))
            del parent[last]
        elif path[-2] == "run" and last + 1 < len(parent):
            parent[last] = ""
            self.broken["steps"].add("")
            self.broken["tasks"].add("")
        else:
            parent_path = self.document_path(path[:-1])
            if parent_path not in self._document_items:
                self._document_items[parent_path] = list(range(len(parent)))
            del parent[last], self._document_items[parent_path][last]

    def is_removed(self, path: DocumentPath) -> bool:
        """Return whether the value at `path`, or an item of it, was removed."""
        document_path = self.document_path(path)
        return document_path in self._removed or document_path in self._document_items

    def _copy_once(self) -> None:
        if not self._is_copied:
            self.data = _deep_copy(self.data)
            self._is_copied = True

    def _record_lost_names(self, path: DocumentPath) -> None:
        if path[0] in ("triggers", "notify", "concurrency", "rate", "debounce"):
            return
        value, key = self.value_at(path), path[-1]
        self.lost_names.update(self._defined_names(value))
        if len(path) > 1 and path[0] in self.broken:
            owner, document_key = self.value_at(path[:2]), self.document_path(path[:2])[1]
            name = owner.get("name") if isinstance(owner, dict) else document_key
            if isinstance(name, str):
                self.broken[path[0]].add(name)
        if key == "loop":
            self.lost_names.update(("loop", "item"))
        elif key == "with":
            self.lost_names.add("args")
        elif key in ("environment", "variables", "input") or path[:-1] == ("input",):
            self.lost_names.add(str(key))

    def _defined_names(self, value: Any) -> Iterator[str]:
        """Yield the names that actions and loops anywhere in `value` define."""
        if isinstance(value, list):
            for item in value:
                yield from self._defined_names(item)
        elif isinstance(value, dict):
            for key, item in value.items():
                if key == "as" and isinstance(item, str):
                    yield item
                elif key in self._saving_parameters and isinstance(item, dict):
                    yield from item
                yield from self._defined_names(item)


def _deep_copy(value: Any) -> Any:
    """Return a copy without shared objects.

    The data of a document shares objects where the text uses aliases.
    """
    if isinstance(value, dict):
        return {key: _deep_copy(item) for key, item in value.items()}
    return [_deep_copy(item) for item in value] if isinstance(value, list) else value
