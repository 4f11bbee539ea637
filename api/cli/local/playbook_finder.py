"""Playbooks in files beside another one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from noetl.executor.engine.external import in_registry
from noetl.executor.errors import ActionError

if TYPE_CHECKING:
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store

_SUFFIXES = (".yaml", ".yml", ".json")


class _File(NamedTuple):
    """A file as it was when its folder was looked at."""

    path: Path
    changed_ns: int
    size: int


class _Head(NamedTuple):
    """What a file says it is. `is_playbook` is false of other YAML and JSON. What is no YAML may be one, of any version."""

    is_playbook: bool
    name: str | None = None
    version: str | None = None
    is_broken: bool = False

    def has(self, version: str | None) -> bool:
        """Whether it may be the version of a playbook that is asked for."""
        return self.is_playbook and (version in (None, self.version) or self.is_broken)


class Beside:
    """Finds the playbooks that a run starts: in the folder of its own file, else in the registry. May be called from any
    thread, as `noetl.executor.engine.external.FindPlaybook` describes it.

    A file is the playbook when it is called like it, or when the playbook in it is; and when a version is asked for, has
    that version.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_registry = in_registry(store)
        self._lock = Lock()
        self._heads: dict[_File, _Head] = {}
        self._found: dict[tuple[Path, str, str | None], tuple[list[_File], _File | None]] = {}
        self._compiled: dict[_File, str] = {}

    def __call__(self, run: Run, name: str, version: str | None) -> str | None:
        """The hash of the plan of the playbook, which is in the store.

        Raises:
            ActionError: there is none; its file does not compile; or files beside each other claim to be it.
        """
        if run.source is None:
            return self._in_registry(run, name, version)
        with self._lock:
            folder = Path(run.source).parent
            files = _playbooks_in(folder)
            file = self._look(folder, files, run, name, version)
            if file is not None:
                return self._plan(file, run, name)
            found = self._in_registry(run, name, version)
            if found is None:
                raise self._missing(files, run, name, version)
            return found

    def _look(
        self, folder: Path, files: list[_File], run: Run, name: str, version: str | None
    ) -> _File | None:
        asked = (folder, name, version)
        if asked not in self._found or self._found[asked][0] != files:
            self._found[asked] = (files, self._chosen(files, run, name, version))
        return self._found[asked][1]

    def _chosen(self, files: list[_File], run: Run, name: str, version: str | None) -> _File | None:
        for file in files:
            if file.path.stem == name and self._head(file).has(version):
                return file
        named = [file for file in files if self._is_named(file, name) and self._head(file).has(version)]
        if len(named) > 1:
            listed = " and ".join(_shown(file.path, run) for file in named)
            raise _refused(
                f"`{name}` is the name of the playbooks in {listed}: which one is meant, `version` can say"
            )
        return named[0] if named else None

    def _is_named(self, file: _File, name: str) -> bool:
        return _may_hold(file, name) and self._head(file).name == name

    def _head(self, file: _File) -> _Head:
        if file not in self._heads:
            self._heads[file] = _head(file)
        return self._heads[file]

    def _plan(self, file: _File, run: Run, name: str) -> str:
        if file not in self._compiled:
            self._compiled[file] = self._compile(file.path, run, name)
        return self._compiled[file]

    def _compile(self, path: Path, run: Run, name: str) -> str:
        from noetl.api.cli.sources import Source, compile_source
        from noetl.planner.diagnostics.codes import Severity

        shown = _shown(path, run)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _refused(f"`{name}` cannot be read from {shown}: {error.strerror or error}") from error
        compilation = compile_source(Source(shown, content))
        if compilation.plan is None:
            first = next(found for found in compilation.diagnostics if found.severity is Severity.ERROR)
            raise _refused(
                f"`{name}` does not compile: {shown}:{first.span.line}: {first.code} {first.message}"
            )
        self._store.save_plan(compilation.plan)
        return compilation.plan.hash

    def _missing(self, files: list[_File], run: Run, name: str, version: str | None) -> ActionError:
        from noetl.planner.diagnostics.diagnostic import suggest

        wanted = f"playbook `{name}`" if version is None else f"version {version} of `{name}`"
        message = (
            f"there is no {wanted}, neither beside {_shown(Path(run.source or ''), run)} nor in the registry"
        )
        known = {
            file: head for file in files if (head := self._heads.get(file)) is not None and head.is_playbook
        }
        for file, head in known.items() if version is not None else ():
            if name in (file.path.stem, head.name):
                says = f"is version {head.version}" if head.version else "has no version"
                return _refused(f"{message}; {_shown(file.path, run)} {says}")
        hint = suggest(
            name, {file.path.stem for file in files} | {head.name for head in known.values() if head.name}
        )
        return _refused(f"{message}; {hint}" if hint else message)


def _refused(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)


def _playbooks_in(folder: Path) -> list[_File]:
    """The files that may be playbooks, in the order in which they are looked at."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):
                    if Path(entry.name).suffix in _SUFFIXES and entry.is_file():
                        stat = entry.stat()
                        found.append(_File(folder / entry.name, stat.st_mtime_ns, stat.st_size))
    except OSError:
        return []
    return sorted(found, key=lambda file: (_SUFFIXES.index(file.path.suffix), file.path.name))


def _may_hold(file: _File, name: str) -> bool:
    """Whether the name can stand in a file, short of reading it as YAML: most files of a folder are something else."""
    from noetl.planner.syntax.reader import MAX_BYTES

    words = name.split()
    if file.size > MAX_BYTES or not words:
        return False
    try:
        content = file.path.read_bytes()
    except OSError:
        return False
    return b"\\" in content or words[0].encode() in content


def _head(file: _File) -> _Head:
    from noetl.planner.diagnostics.diagnostic import Diagnostics
    from noetl.planner.syntax.reader import MAX_BYTES, read_document

    if file.size > MAX_BYTES:
        return _Head(is_playbook=False)
    try:
        document = read_document(file.path.read_bytes(), Diagnostics())
    except OSError:
        return _Head(is_playbook=False)
    if document is None:
        return _Head(is_playbook=True, is_broken=True)
    data = document.data
    if not isinstance(data, dict) or "steps" not in data:
        return _Head(is_playbook=False)
    name, version = data.get("name"), data.get("version")
    return _Head(True, name if isinstance(name, str) else None, None if version is None else str(version))


def _shown(path: Path, run: Run) -> str:
    """The path as whoever started the run would write it."""
    return str(path.relative_to(run.folder)) if run.folder and path.is_relative_to(run.folder) else str(path)
