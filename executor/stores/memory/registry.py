"""The playbook registry of the store in memory.

The author of a store decides how it assigns the next number of a name once, also to concurrent callers. A
removed version keeps its entry, so that its number and its name never mean another text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook, require_newest
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.memory.state import MemoryState, RegistryEntry
from noetl.executor.stores.memory.triggers import remove_triggers, replace_triggers
from noetl.planner.frozen import replace
from noetl.planner.plan import Trigger


class MemoryRegistry:
    """The registered playbooks of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def register(
        self, playbook: RegisteredPlaybook, *, newest: str | None = None, triggers: Sequence[Trigger] = ()
    ) -> RegisteredPlaybook:
        with self._state.lock:
            require_newest(playbook, self.get(playbook.tenant, playbook.name), newest)
            versions = self._state.playbooks.setdefault((playbook.tenant, playbook.name), {})
            entry = self._find_registered(playbook) or self._number(playbook)
            registered = entry.playbook
            if all(
                entry.number >= kept.number for kept in self._newest_first(registered.tenant, registered.name)
            ):
                replace_triggers(self._state, registered, triggers, playbook.registered_at)
            versions[str(registered.version)] = replace(entry, is_removed=False)
            return registered

    def _number(self, playbook: RegisteredPlaybook) -> RegistryEntry:
        """Return the entry of a playbook that is new, with the next number of its name."""
        versions = self._state.playbooks[playbook.tenant, playbook.name]
        number = max((entry.number for entry in versions.values()), default=0) + 1
        while playbook.version is None and str(number) in versions:
            number += 1
        return RegistryEntry(number, replace(playbook, version=playbook.version or str(number)))

    def get(self, tenant: str, name: str, version: str | None = None) -> RegisteredPlaybook | None:
        with self._state.lock:
            entries = self._newest_first(tenant, name)
        playbooks = [entry.playbook for entry in entries if version in (None, entry.playbook.version)]
        return playbooks[0] if playbooks else None

    def find(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        after: Any = None if cursor is None else read_key_cursor(cursor, str if name is None else int)
        with self._state.lock:
            if name is None:
                names = sorted(key[1] for key in self._state.playbooks if key[0] == tenant)
                newest = {name: self._newest_first(tenant, name)[:1] for name in names}
                keyed = [(name, entry) for name, entries in newest.items() for entry in entries]
                rest: list[tuple[str | int, RegistryEntry]]
                rest = [(name, entry) for name, entry in keyed if after is None or name > after]
            else:
                entries = self._newest_first(tenant, name)
                rest = [(entry.number, entry) for entry in entries if after is None or entry.number < after]
        page = rest[:limit]
        next_cursor = write_key_cursor(page[-1][0]) if len(rest) > limit else None
        return [entry.playbook for _, entry in page], next_cursor

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        with self._state.lock:
            versions = self._state.playbooks.get((tenant, name), {})
            removed = [
                key for key, entry in versions.items() if not entry.is_removed and version in (None, key)
            ]
            kept = [e for e in self._newest_first(tenant, name) if e.playbook.version not in removed]
            if not kept:
                remove_triggers(self._state, tenant, name)
            elif removed:
                latest = kept[0].playbook
                plan = self._state.plans.get(latest.plan_hash)
                replace_triggers(self._state, latest, () if plan is None else plan.header.triggers, now)
            for key in removed:
                versions[key] = replace(versions[key], is_removed=True)
            return len(removed)

    def _newest_first(self, tenant: str, name: str) -> list[RegistryEntry]:
        versions = self._state.playbooks.get((tenant, name), {})
        kept = [entry for entry in versions.values() if not entry.is_removed]
        return sorted(kept, key=lambda entry: -entry.number)

    def _find_registered(self, playbook: RegisteredPlaybook) -> RegistryEntry | None:
        """Return the entry of the same version; without a version, the newest if it has the same text.

        Raises:
            RejectedError: `version_exists`.
        """
        if playbook.version is None:
            newest = self._newest_first(playbook.tenant, playbook.name)[:1]
            return next((entry for entry in newest if entry.playbook.plan_hash == playbook.plan_hash), None)
        entry = self._state.playbooks[playbook.tenant, playbook.name].get(playbook.version)
        if entry is not None and entry.playbook.plan_hash != playbook.plan_hash:
            message = f"version {playbook.version} of `{playbook.name}` is registered with another text"
            raise RejectedError("version_exists", message)
        return entry
