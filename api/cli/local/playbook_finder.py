"""Finder of the playbooks that a local run starts: files in the folder of its own file, else the registry.

A file matches a name by its stem, or by the `name` of the playbook in it. If a version is requested, the
playbook must have that version. Files are compiled once, until they change.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from noetl.executor.engine.external import FoundPlaybook, registry_finder
from noetl.executor.errors import ActionError

if TYPE_CHECKING:
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store
    from noetl.planner.plan import Plan

_SUFFIXES = (".yaml", ".yml", ".json")


class _PlaybookFile(NamedTuple):
    """A file that may be a playbook, with the time and the size that tell whether it has changed."""

    path: Path
    modified_ns: int
    size: int


class _PlaybookHead(NamedTuple):
    """Name and version of the playbook in a file.

    `is_playbook` is false if the file has other YAML or JSON. A file that is not YAML is broken: it may be a
    playbook of any version.
    """

    is_playbook: bool
    name: str | None = None
    version: str | None = None
    is_broken: bool = False

    def matches(self, version: str | None) -> bool:
        """Return whether the file may be the requested version, or any version if that is None."""
        return self.is_playbook and (version in (None, self.version) or self.is_broken)


class SiblingPlaybookFinder:
    """A finder of playbooks for local runs, as `noetl.executor.engine.external.FindPlaybook` specifies.

    Safe to call from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._find_registered = registry_finder(store)
        self._lock = Lock()
        self._heads: dict[_PlaybookFile, _PlaybookHead] = {}
        self._choices: dict[
            tuple[Path, str, str | None], tuple[list[_PlaybookFile], _PlaybookFile | None]
        ] = {}
        self._plans: dict[_PlaybookFile, Plan] = {}

    def __call__(self, run: Run, name: str, version: str | None) -> FoundPlaybook | None:
        """Return a playbook whose plan is in the store.

        Raises:
            ActionError: the playbook is unknown, its file does not compile, or several files match.
        """
        if run.source is None:
            return self._find_registered(run, name, version)
        with self._lock:
            folder = Path(run.source).parent
            files = _list_playbook_files(folder)
            file = self._choose_cached(folder, files, run, name, version)
            if file is not None:
                return self._compile_cached(file, run, name)
            found = self._find_registered(run, name, version)
            if found is None:
                raise self._unknown_playbook(files, run, name, version)
            return found

    def _choose_cached(
        self, folder: Path, files: list[_PlaybookFile], run: Run, name: str, version: str | None
    ) -> _PlaybookFile | None:
        key = (folder, name, version)
        if key not in self._choices or self._choices[key][0] != files:
            self._choices[key] = (files, self._choose(files, run, name, version))
        return self._choices[key][1]

    def _choose(
        self, files: list[_PlaybookFile], run: Run, name: str, version: str | None
    ) -> _PlaybookFile | None:
        for file in files:
            if file.path.stem == name and self._head(file).matches(version):
                return file
        named_files = [
            file for file in files if self._has_name(file, name) and self._head(file).matches(version)
        ]
        if len(named_files) > 1:
            paths = " and ".join(_shown_path(file.path, run) for file in named_files)
            raise _error(f"`{name}` is ambiguous: {paths} have this name; pass `version` to choose one")
        return named_files[0] if named_files else None

    def _has_name(self, file: _PlaybookFile, name: str) -> bool:
        return _may_contain(file, name) and self._head(file).name == name

    def _head(self, file: _PlaybookFile) -> _PlaybookHead:
        if file not in self._heads:
            self._heads[file] = _read_head(file)
        return self._heads[file]

    def _compile_cached(self, file: _PlaybookFile, run: Run, name: str) -> FoundPlaybook:
        if file not in self._plans:
            self._plans[file] = self._compile(file.path, run, name)
        plan = self._plans[file]
        # Retention may have deleted a plan that was saved for an earlier run.
        self._store.plans.save(plan)
        return FoundPlaybook(plan.hash, plan.header.version)

    def _compile(self, path: Path, run: Run, name: str) -> Plan:
        from noetl.api.cli.sources import PlaybookSource, compile_source
        from noetl.planner.diagnostics.codes import Severity

        shown_path = _shown_path(path, run)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _error(f"cannot read `{name}` from {shown_path}: {error.strerror or error}") from error
        compilation = compile_source(PlaybookSource(shown_path, content))
        if compilation.plan is None:
            first = next(d for d in compilation.diagnostics if d.severity is Severity.ERROR)
            position = f"{shown_path}:{first.span.line}"
            raise _error(f"`{name}` does not compile: {position}: {first.code} {first.message}")
        return compilation.plan

    def _unknown_playbook(
        self, files: list[_PlaybookFile], run: Run, name: str, version: str | None
    ) -> ActionError:
        from noetl.planner.diagnostics.diagnostic import did_you_mean

        subject = f"playbook `{name}`" if version is None else f"version `{version}` of playbook `{name}`"
        own_path = _shown_path(Path(run.source or ""), run)
        message = f"unknown {subject}: it is neither in the folder of {own_path} nor in the registry"
        heads = {
            file: head for file in files if (head := self._heads.get(file)) is not None and head.is_playbook
        }
        for file, head in heads.items() if version is not None else ():
            if name in (file.path.stem, head.name):
                actual_version = f"version `{head.version}`" if head.version else "no version"
                return _error(f"{message}; {_shown_path(file.path, run)} has {actual_version}")
        known_names = {file.path.stem for file in files} | {head.name for head in heads.values() if head.name}
        hint = did_you_mean(name, known_names)
        return _error(f"{message}; {hint}" if hint else message)


def _error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)


def _list_playbook_files(folder: Path) -> list[_PlaybookFile]:
    """Return the files of a folder that may be playbooks, in the order of preference."""
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if Path(entry.name).suffix in _SUFFIXES and entry.is_file():
                        stat = entry.stat()
                        files.append(_PlaybookFile(folder / entry.name, stat.st_mtime_ns, stat.st_size))
    except OSError:
        return []
    return sorted(files, key=lambda file: (_SUFFIXES.index(file.path.suffix), file.path.name))


def _may_contain(file: _PlaybookFile, name: str) -> bool:
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


def _read_head(file: _PlaybookFile) -> _PlaybookHead:
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import MAX_BYTES, read_document

    if file.size > MAX_BYTES:
        return _PlaybookHead(is_playbook=False)
    try:
        document = read_document(file.path.read_bytes(), Diagnostics())
    except OSError:
        return _PlaybookHead(is_playbook=False)
    if document is None:
        return _PlaybookHead(is_playbook=True, is_broken=True)
    data = document.data
    if not isinstance(data, dict) or "steps" not in data:
        return _PlaybookHead(is_playbook=False)
    name, version = data.get("name"), data.get("version")
    return _PlaybookHead(
        True, name if isinstance(name, str) else None, None if version is None else str(version)
    )


def _shown_path(path: Path, run: Run) -> str:
    """Return a path relative to the working directory in which the run was started, if it is below."""
    return str(path.relative_to(run.folder)) if run.folder and path.is_relative_to(run.folder) else str(path)
