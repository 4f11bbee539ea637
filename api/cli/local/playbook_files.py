"""The playbooks in a folder, by their names.

A file matches a name by its stem, or by the `name` of the playbook in it. If a version is requested, the
playbook must have that version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from noetl.api.cli.sources import PLAYBOOK_SUFFIXES


class PlaybookFile(NamedTuple):
    """A file that may be a playbook, with the time and the size that tell whether it has changed."""

    path: Path
    modified_ns: int
    size: int


class PlaybookHead(NamedTuple):
    """Name and version of the playbook in a file.

    `awaits` are the playbooks whose ends fire its triggers. `is_playbook` is false if the file has other YAML
    or JSON. A file that is not YAML is broken: it may be a playbook of any version.
    """

    is_playbook: bool
    name: str | None = None
    version: str | None = None
    is_broken: bool = False
    awaits: frozenset[str] = frozenset()

    def matches(self, version: str | None) -> bool:
        """Return whether the file may be the requested version, or any version if that is None."""
        return self.is_playbook and (version in (None, self.version) or self.is_broken)


class AmbiguousNameError(Exception):
    """Several files have the name of a playbook: `paths`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = tuple(paths)


class PlaybookFiles:
    """Names and versions of playbooks in files. Each file is read once, until it changes."""

    def __init__(self) -> None:
        self._heads: dict[PlaybookFile, PlaybookHead] = {}

    def choose(self, files: Sequence[PlaybookFile], name: str, version: str | None) -> PlaybookFile | None:
        """Return the file of a playbook, in any version if that is None. Return None if no file matches.

        Raises:
            AmbiguousNameError: several playbooks have the name, and no file has it as its stem.
        """
        for file in files:
            if file.path.stem == name and self._head(file).matches(version):
                return file
        named_files = [
            file for file in files if self._has_name(file, name) and self._head(file).matches(version)
        ]
        if len(named_files) > 1:
            raise AmbiguousNameError([file.path for file in named_files])
        return named_files[0] if named_files else None

    def known_heads(self, files: Sequence[PlaybookFile]) -> dict[PlaybookFile, PlaybookHead]:
        """Return the names and versions of those playbooks that were read."""
        heads = self._heads
        return {file: heads[file] for file in files if file in heads and heads[file].is_playbook}

    def awaiting(self, files: Sequence[PlaybookFile]) -> dict[str, list[PlaybookFile]]:
        """Return the files with triggers that await the end of a playbook, by its name."""
        found: dict[str, list[PlaybookFile]] = {}
        for file in files:
            for name in self._head(file).awaits if may_contain(file, "triggers") else ():
                found.setdefault(name, []).append(file)
        return found

    def _has_name(self, file: PlaybookFile, name: str) -> bool:
        return may_contain(file, name) and self._head(file).name == name

    def _head(self, file: PlaybookFile) -> PlaybookHead:
        if file not in self._heads:
            self._heads[file] = _read_head(file)
        return self._heads[file]


def list_playbook_files(folder: Path) -> list[PlaybookFile]:
    """Return the files of a folder that may be playbooks, in the order of preference."""
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if Path(entry.name).suffix in PLAYBOOK_SUFFIXES and entry.is_file():
                        stat = entry.stat()
                        files.append(PlaybookFile(folder / entry.name, stat.st_mtime_ns, stat.st_size))
    except OSError:
        return []
    return sorted(files, key=lambda file: (PLAYBOOK_SUFFIXES.index(file.path.suffix), file.path.name))


def may_contain(file: PlaybookFile, name: str) -> bool:
    """Return whether a file may contain a name, without parsing it: most files of a folder do not match."""
    from noetl.planner.syntax.reader import MAX_BYTES

    words = name.split()
    if file.size > MAX_BYTES or not words:
        return False
    try:
        content = file.path.read_bytes()
    except OSError:
        return False
    return b"\\" in content or words[0].encode() in content


def _read_head(file: PlaybookFile) -> PlaybookHead:
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import MAX_BYTES, read_document

    if file.size > MAX_BYTES:
        return PlaybookHead(is_playbook=False)
    try:
        document = read_document(file.path.read_bytes(), Diagnostics())
    except OSError:
        return PlaybookHead(is_playbook=False)
    if document is None:
        return PlaybookHead(is_playbook=True, is_broken=True)
    data = document.data
    if not isinstance(data, dict) or "steps" not in data:
        return PlaybookHead(is_playbook=False)
    name, version = data.get("name"), data.get("version")
    return PlaybookHead(
        True,
        name if isinstance(name, str) else None,
        None if version is None else str(version),
        awaits=frozenset(_find_awaited(data.get("triggers"))),
    )


def _find_awaited(triggers: Any) -> Iterator[str]:
    """Yield the names that triggers await."""
    for trigger in triggers if isinstance(triggers, list) else ():
        if isinstance(trigger, dict) and isinstance(name := trigger.get("playbook"), str):
            yield name
