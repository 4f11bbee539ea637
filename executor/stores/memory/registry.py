"""The playbook registry of the store in memory.

The author of a store decides how it assigns the next number of a name once, also to concurrent callers. A
removed version keeps its entry, so that its number and its name never mean another text. The triggers of a
playbook are those of its live version, so a write that moves it replaces them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import (
    PlaybookAlias,
    RegisteredPlaybook,
    require_newest,
    require_no_alias,
    require_possible_alias,
    require_unnamed,
)
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.memory.state import MemoryState, RegistryEntry
from noetl.executor.stores.memory.triggers import remove_triggers, replace_triggers
from noetl.planner.catalogue import LIVE
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
            aliases = self._aliases(playbook.tenant, playbook.name)
            entry = self._find_registered(playbook)
            if entry is None:
                require_no_alias(playbook, aliases)
                entry = self._number(playbook)
            registered = entry.playbook
            if LIVE not in aliases and all(
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

    def get(
        self, tenant: str, name: str, version: str | None = None, *, alias: str | None = None
    ) -> RegisteredPlaybook | None:
        with self._state.lock:
            entries = self._newest_first(tenant, name)
            named = self._aliases(tenant, name).get(alias or "")
        if named is not None:
            version = named.version
        elif alias not in (None, LIVE):
            return None
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
            aliases = self._aliases(tenant, name)
            require_unnamed(name, version, aliases.values())
            removed = [
                key for key, entry in versions.items() if not entry.is_removed and version in (None, key)
            ]
            kept = [e for e in self._newest_first(tenant, name) if e.playbook.version not in removed]
            if not kept:
                remove_triggers(self._state, tenant, name, now)
            elif removed and LIVE not in aliases:
                self._place_triggers(kept[0].playbook, now)
            for key in removed:
                versions[key] = replace(versions[key], is_removed=True)
            if version is None:
                self._state.aliases.pop((tenant, name), None)
            return len(removed)

    def promote(self, alias: PlaybookAlias) -> PlaybookAlias | None:
        key = (alias.tenant, alias.playbook)
        with self._state.lock:
            versions = self._state.playbooks.get(key, {})
            entry = versions.get(alias.version)
            if entry is None or entry.is_removed:
                return None
            aliases = self._aliases(*key)
            require_possible_alias(alias, aliases, is_version=alias.name in versions)
            current = aliases.get(alias.name)
            if current is not None and current.version == alias.version:
                return current
            if alias.name == LIVE:
                self._place_triggers(entry.playbook, alias.changed_at)
            self._state.aliases.setdefault(key, {})[alias.name] = alias
            return alias

    def remove_alias(self, tenant: str, name: str, alias: str, *, now: float) -> bool:
        with self._state.lock:
            if alias not in self._aliases(tenant, name):
                return False
            if alias == LIVE:
                self._place_triggers(self._newest_first(tenant, name)[0].playbook, now)
            del self._state.aliases[tenant, name][alias]
            return True

    def aliases(self, tenant: str, names: Collection[str]) -> list[PlaybookAlias]:
        with self._state.lock:
            found = [self._aliases(tenant, name) for name in sorted(set(names))]
            return [alias for aliases in found for _, alias in sorted(aliases.items())]

    def _aliases(self, tenant: str, name: str) -> Mapping[str, PlaybookAlias]:
        return self._state.aliases.get((tenant, name), {})

    def _place_triggers(self, live: RegisteredPlaybook, now: float) -> None:
        """Let the triggers of a playbook be those of a version. Without its plan, it has none."""
        plan = self._state.plans.get(live.plan_hash)
        replace_triggers(self._state, live, () if plan is None else plan.header.triggers, now)

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
