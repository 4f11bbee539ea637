"""Finder of the playbooks that a local run starts: files in the folder of its own file, else the registry.

Files are compiled once, until they change.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from noetl.api.cli.local.playbook_files import (
    AmbiguousNameError,
    PlaybookFile,
    PlaybookFiles,
    list_playbook_files,
)
from noetl.executor.engine.external import FoundPlaybook, registry_finder
from noetl.executor.errors import ActionError
from noetl.planner.catalogue import LIVE

if TYPE_CHECKING:
    from noetl.executor.model.run import Run
    from noetl.executor.stores.interface import Store
    from noetl.planner.catalogue import PlaybookCall
    from noetl.planner.plan import Plan


class SiblingPlaybookFinder:
    """A finder of playbooks for local runs, as `noetl.executor.engine.external.FindPlaybook` specifies.

    Safe to call from any thread.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._find_registered = registry_finder(store)
        self._lock = Lock()
        self._files = PlaybookFiles()
        self._choices: dict[tuple[Path, str, str | None], tuple[list[PlaybookFile], PlaybookFile | None]] = {}
        self._plans: dict[PlaybookFile, Plan] = {}

    def __call__(self, run: Run, call: PlaybookCall) -> FoundPlaybook | None:
        """Return a playbook whose plan is in the store. Files have no aliases, so one is of the registry.

        Raises:
            ActionError: the playbook is unknown, its file does not compile, or several files match.
        """
        if run.source is None or call.alias not in (None, LIVE):
            return self._find_registered(run, call)
        name, version = call.name, call.version
        with self._lock:
            folder = Path(run.source).parent
            files = list_playbook_files(folder)
            file = self._choose_cached(folder, files, run, name, version)
            if file is not None:
                return self._compile_cached(file, run, name)
            found = self._find_registered(run, call)
            if found is None:
                raise self._unknown_playbook(files, run, name, version)
            return found

    def _choose_cached(
        self, folder: Path, files: list[PlaybookFile], run: Run, name: str, version: str | None
    ) -> PlaybookFile | None:
        key = (folder, name, version)
        if key not in self._choices or self._choices[key][0] != files:
            try:
                self._choices[key] = (files, self._files.choose(files, name, version))
            except AmbiguousNameError as error:
                paths = " and ".join(_shown_path(path, run) for path in error.paths)
                message = f"`{name}` is ambiguous: {paths} have this name; pass `version` to choose one"
                raise _error(message) from None
        return self._choices[key][1]

    def _compile_cached(self, file: PlaybookFile, run: Run, name: str) -> FoundPlaybook:
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
        self, files: list[PlaybookFile], run: Run, name: str, version: str | None
    ) -> ActionError:
        from noetl.planner.diagnostics.diagnostic import did_you_mean

        subject = f"playbook `{name}`" if version is None else f"version `{version}` of playbook `{name}`"
        own_path = _shown_path(Path(run.source or ""), run)
        message = f"unknown {subject}: it is neither in the folder of {own_path} nor in the registry"
        heads = self._files.known_heads(files)
        for file, head in heads.items() if version is not None else ():
            if name in (file.path.stem, head.name):
                actual_version = f"version `{head.version}`" if head.version else "no version"
                return _error(f"{message}; {_shown_path(file.path, run)} has {actual_version}")
        known_names = {file.path.stem for file in files} | {head.name for head in heads.values() if head.name}
        hint = did_you_mean(name, known_names)
        return _error(f"{message}; {hint}" if hint else message)


def _error(message: str) -> ActionError:
    return ActionError("ParameterError", message, retryable=False)


def _shown_path(path: Path, run: Run) -> str:
    """Return a path relative to the working directory in which the run was started, if it is below."""
    return str(path.relative_to(run.folder)) if run.folder and path.is_relative_to(run.folder) else str(path)
