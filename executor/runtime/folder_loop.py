"""The loop of a process that fires triggers for the files of folders.

Problem: a file may be read while it is still written. It stays in its folder after its firing. A restarted
process does not know which files it has fired.

Algorithm: each scan lists the files. A file counts when two scans have found it unchanged for the time that
the trigger names. The key of its firing is its path, size and time of change. The process remembers the keys
that it has fired, and asks the store about the others, so a restart fires nothing twice.

Cost: one query of the triggers, and one list of each folder, in SCAN_SECONDS. A change of the folder itself
is seen after CHECK_SECONDS. A file costs one query and one firing.

Limits: a scan visits MAX_ENTRIES entries of a folder. After MAX_FIRINGS files of a tenant, the other tenants
have their turn, and then its other triggers. Files that are older than the retention of runs are not read.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from noetl.executor.actions._files import allowed_folder, resolve_path
from noetl.executor.actions._glob import find_files
from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.engine.source_firing import SourceItem, fire_item, item_firing
from noetl.executor.engine.trial import try_trigger
from noetl.executor.errors import ActionError, TriggerChangedError
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.runtime.source_triggers import find_source_triggers
from noetl.executor.runtime.store_failures import repeat_until
from noetl.executor.security.allowed_sources import SOURCES_SETTING, describe_rule
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.interface import Store
from noetl.executor.stores.retention import read_retention_seconds
from noetl.planner.frozen import frozen
from noetl.planner.polled_sources import Folder

SCAN_SECONDS = 10.0
"""How often each folder is listed."""

CHECK_SECONDS = 1.0
"""How often a process checks whether a file was added to a folder, or removed from it."""

MAX_ENTRIES = 100_000
"""How many entries of a folder a scan visits, with those of the folders below."""

MAX_FIRINGS = 100
"""How many files of a trigger fire before others of its tenant, and other tenants, have their turn."""

logger = logging.getLogger("noetl.executor")


@frozen
class FoundFile:
    """A file of a folder. `path` begins at the folder of NOETL_FILES_ROOT.

    `arrived_at` is when it was last written, or moved to this place.
    """

    path: str
    size: int
    changed_ns: int
    arrived_at: float

    @property
    def key(self) -> str:
        """The name of this content of the file, which tells it from others."""
        return f"{self.size} {self.changed_ns} {self.path}"

    def to_item(self) -> SourceItem:
        """Return the file as an item of its folder."""
        name = self.path.rpartition("/")[2]
        return SourceItem(self.key, self.arrived_at, {"path": self.path, "name": name, "size": self.size})


class TooManyEntriesError(Exception):
    """A folder has more entries than a scan visits."""


def list_files(root: Path, source: Folder) -> list[FoundFile]:
    """Return the files of a folder below `root` that match its pattern, those that arrived first at first.

    Files whose name begins with a dot are left out, as are links to files outside of the folder.

    Raises:
        ActionError: the folder is outside of `root`.
        TooManyEntriesError: there are more than MAX_ENTRIES entries.
    """
    folder, count = resolve_path(root, source.folder), 0

    def count_entry() -> None:
        nonlocal count
        count += 1
        if count > MAX_ENTRIES:
            raise TooManyEntriesError

    parts = tuple(part for part in source.glob.split("/") if part not in ("", "."))
    paths = find_files(folder, parts, count_entry)
    files = [found for path in paths if (found := _read_file(root, folder, path)) is not None]
    return sorted(files, key=lambda file: (file.arrived_at, file.path))


def _read_file(root: Path, folder: Path, path: Path) -> FoundFile | None:
    """Return a regular file with a name that can be stored, or None."""
    if path.name.startswith("."):
        return None
    try:
        if not path.is_file() or not path.resolve().is_relative_to(folder):
            return None
        shown, status = path.relative_to(root).as_posix(), path.stat()
        shown.encode("utf-8")
    except (OSError, RuntimeError, UnicodeEncodeError):
        return None
    return FoundFile(shown, status.st_size, status.st_mtime_ns, status.st_ctime)


@dataclass(slots=True, eq=False, repr=False)
class FolderMemory:
    """The memory of a process about the folder of a trigger.

    Attributes:
        trigger: the trigger when the folder was last listed.
        waiting: when each file that has not fired was first found unchanged, by its key.
        fired: the keys of the files that have fired.
        modified_ns: the time of change of the folder.
        scan_at: when it is listed again.
        visit: the number of its last visit. Of a tenant, the one visited longest ago is next.
    """

    trigger: LiveTrigger
    waiting: dict[str, float] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)
    modified_ns: int = 0
    scan_at: float = 0.0
    visit: int = 0


class FolderLoop:
    """A loop that fires triggers for the files of folders until `stopping` is set.

    Every process of a service has one if a folder is allowed. They may scan the same folders.
    """

    def __init__(
        self,
        store: Store,
        capabilities: Capabilities,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._capabilities = capabilities
        self._stopping = stopping
        self._clock = clock
        self._memories: dict[tuple[str, str, str], FolderMemory] = {}
        self._visits = 0
        self._read_at = 0.0
        self._warned: set[tuple[str, ...]] = set()

    @property
    def is_needed(self) -> bool:
        """True if a tenant may read a folder."""
        return bool(self._capabilities.trigger_sources.tenants(("folder",)))

    def run(self) -> None:
        """Fire files when they have arrived, until the process stops."""
        repeat_until(
            self._stopping,
            self.scan_all,
            pause_seconds=SCAN_SECONDS,
            consequence="folders are read again",
            crash="folders could not be read; they are read again",
        )

    def scan_all(self) -> float:
        """Fire the files that have arrived. Return after how many seconds the folders are visited again.

        Raises:
            StoreError: the store cannot be reached.
        """
        now = self._clock()
        if now >= self._read_at:
            self._read_triggers()
            self._read_at = now + SCAN_SECONDS
        is_cut = False
        for memories in self._by_tenant().values():
            fired = 0
            for memory in memories:
                if self._stopping.is_set():
                    break
                if fired >= MAX_FIRINGS:
                    is_cut = True
                    break
                self._visits += 1
                memory.visit = self._visits
                fired += self._visit(memory, now)
        if is_cut:
            return 0.0
        following = min((memory.scan_at for memory in self._memories.values()), default=now + SCAN_SECONDS)
        pause = CHECK_SECONDS if self._memories else SCAN_SECONDS
        return min(max(following - self._clock(), 0.0), pause)

    def _by_tenant(self) -> dict[str, list[FolderMemory]]:
        """Return the folders of each tenant, the one that was visited longest ago first."""
        groups: dict[str, list[FolderMemory]] = {}
        for memory in sorted(self._memories.values(), key=lambda memory: memory.visit):
            groups.setdefault(memory.trigger.tenant, []).append(memory)
        return groups

    def _read_triggers(self) -> None:
        """Read the triggers of folders. One that has changed forgets which files it has fired."""
        tenants = self._capabilities.trigger_sources.tenants(("folder",))
        known, self._memories = self._memories, {}
        for trigger in find_source_triggers(self._store, tenants, "folder"):
            key = _key_of(trigger)
            memory = known.get(key)
            is_same = memory is not None and memory.trigger == trigger
            self._memories[key] = memory if memory is not None and is_same else FolderMemory(trigger)

    def _visit(self, memory: FolderMemory, now: float) -> int:
        """List the folder of a trigger if that is due or if it has changed, and fire its files.

        Return how many files have fired, or had fired before.
        """
        trigger = memory.trigger
        with try_trigger(trigger):
            return self._try_to_visit(memory, now)
        memory.scan_at = now + SCAN_SECONDS
        return 0

    def _try_to_visit(self, memory: FolderMemory, now: float) -> int:
        """List a folder and fire its files as `_visit`, whose trigger may fail."""
        trigger = memory.trigger
        try:
            firer = read_firer(self._store, trigger, self._store.clock())
            if firer is None or not isinstance(firer.declared.source, Folder):
                memory.scan_at = now + SCAN_SECONDS
                return 0
            root = allowed_folder(self._capabilities, "a trigger of type `folder`")
            folder = resolve_path(root, firer.declared.source.folder)
            if not self._is_allowed(trigger, folder.relative_to(root).as_posix()):
                memory.scan_at = now + SCAN_SECONDS
                return 0
            modified_ns = _modified_ns(folder)
            if now < memory.scan_at and modified_ns == memory.modified_ns:
                return 0
            memory.modified_ns = modified_ns
            self._warn_if_unreadable(trigger, folder)
            return self._fire_files(memory, firer, list_files(root, firer.declared.source), now)
        except TriggerChangedError:
            self._read_at = memory.scan_at = now
        except TooManyEntriesError:
            memory.scan_at = now + SCAN_SECONDS
            self._warn(
                trigger, f"has over {MAX_ENTRIES:,} entries and is not read: move files that were read"
            )
        except ActionError as problem:
            memory.scan_at = now + SCAN_SECONDS
            self._warn(trigger, f"cannot be read: {problem.message}")
        return 0

    def _fire_files(self, memory: FolderMemory, firer: Firer, files: list[FoundFile], now: float) -> int:
        """Fire files that have not changed for some time, at most MAX_FIRINGS of them. Return how many."""
        source = firer.declared.source
        assert isinstance(source, Folder)
        kept = _without_old(files, self._store.clock())
        keys = {file.key for file in kept}
        memory.fired &= keys
        waiting = {key: memory.waiting.get(key, now) for key in keys - memory.fired}
        memory.waiting = waiting
        due = [f for f in kept if f.key in waiting and waiting[f.key] + source.settle_seconds <= now]
        batch = due[:MAX_FIRINGS]
        # A firing that fails is tried again by the next scan.
        memory.scan_at = now + SCAN_SECONDS
        if batch and self._store.triggers.get(*_key_of(memory.trigger)) != memory.trigger:
            self._read_at = now
            return 0
        known = self._known_runs(firer, batch)
        for file in batch:
            if file.key not in known:
                fire_item(firer, file.to_item())
            memory.fired.add(file.key)
            del waiting[file.key]
        settled = min(waiting.values(), default=now + SCAN_SECONDS) + source.settle_seconds
        memory.scan_at = now if len(due) > len(batch) else min(memory.scan_at, max(settled, now))
        return len(batch)

    def _known_runs(self, firer: Firer, files: list[FoundFile]) -> set[str]:
        """Return the keys of files for which a run was started before."""
        ids: dict[str, str] = {}
        for file in files:
            try:
                ids[item_firing(firer, file.to_item()).id] = file.key
            except ActionError:
                continue
        return {ids[id] for id in self._store.runs.positions(list(ids))} if ids else set()

    def _is_allowed(self, trigger: LiveTrigger, folder: str) -> bool:
        if self._capabilities.trigger_sources.allows_folder(trigger.tenant, folder):
            return True
        rule = describe_rule(trigger.tenant, "folder", folder)
        self._warn(trigger, f"is not read: {SOURCES_SETTING} needs the rule `{rule}`")
        return False

    def _warn_if_unreadable(self, trigger: LiveTrigger, folder: Path) -> None:
        """Log that a folder exists and cannot be listed. It counts as empty, as one that does not exist."""
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            pass
        except OSError as problem:
            self._warn(trigger, f"cannot be read: {problem.strerror}")

    def _warn(self, trigger: LiveTrigger, problem: str) -> None:
        """Log a problem of the folder of a trigger, once."""
        warning = trigger.tenant, trigger.playbook, trigger.name, problem
        if warning not in self._warned:
            self._warned.add(warning)
            logger.warning("the folder of trigger %s of %s %s", trigger.name, trigger.playbook, problem)


def _key_of(trigger: LiveTrigger) -> tuple[str, str, str]:
    return trigger.tenant, trigger.playbook, trigger.name


def _modified_ns(folder: Path) -> int:
    """Return the time of change of a folder, or 0 if there is none."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _without_old(
    files: list[FoundFile], now: float, environ: Mapping[str, str] = os.environ
) -> list[FoundFile]:
    """Return the files that are not older than the retention: the records of older ones may be deleted."""
    retention = read_retention_seconds(environ)
    return files if retention is None else [file for file in files if file.arrived_at > now - retention]
