"""The registry of playbooks: an item for each version, and one for each name, which all who change it take turns with."""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import MOST_RACES, DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, Put, Update, Write


class DynamoPlaybooks(DynamoContext):
    """The part of the store that keeps playbooks."""

    def register(self, playbook: RegisteredPlaybook) -> RegisteredPlaybook:
        for _ in range(MOST_RACES):
            try:
                return self._register(playbook)
            except ConditionFailed:
                continue
        raise StoreError(f"Playbook `{playbook.name}` could not be registered: too many others register it.")

    def _register(self, playbook: RegisteredPlaybook) -> RegisteredPlaybook:
        tenant, name = playbook.tenant, playbook.name
        named = self.table.get(keys.playbook(tenant, name)) or {}
        versions = {item["version"]: item for item in self._versions(tenant, name)}
        newest = _newest(versions.values())
        if playbook.version is not None:
            same = versions.get(playbook.version)
        else:
            same = newest if newest is not None and newest["plan"] == playbook.plan_hash else None
        if same is not None:
            if same["plan"] != playbook.plan_hash:
                message = f"version {playbook.version} of `{name}` was registered with another text"
                raise RejectedError("version_exists", message)
            if "removed" in same:
                del same["removed"]
                key = keys.version(tenant, name, same["version"])
                self.table.write(
                    [Update(key, {"removed": None}), self._name(playbook, named, _newest(versions.values()))]
                )
            return _playbook(tenant, name, same)
        number = max((item["number"] for item in versions.values()), default=0) + 1
        version = playbook.version
        if version is None:
            while str(number) in versions:
                number += 1
            version = str(number)
        item = {"version": version, "number": number, "plan": playbook.plan_hash, "at": playbook.created_at}
        writes: list[Write] = [
            Put(keys.version(tenant, name, version), item),
            self._name(playbook, named, item),
        ]
        self.table.write(writes)
        return _playbook(tenant, name, item)

    def _name(self, playbook: RegisteredPlaybook, named: Item, newest: Item | None) -> Update:
        """The write that says which version is the newest, unless somebody has changed anything meanwhile."""
        edition = named.get("edition", 0)
        same: Condition = ("edition", "=", edition) if edition else ("edition", "absent", None)
        told = {
            name: None if newest is None else newest[name] for name in ("version", "number", "plan", "at")
        }
        return Update(
            keys.playbook(playbook.tenant, playbook.name), {**told, "edition": edition + 1}, when=(same,)
        )

    def _versions(self, tenant: str, name: str) -> list[Item]:
        return list(self.table.query(keys.version(tenant, name, "").pk, "V#"))

    def playbook(self, tenant: str, name: str, version: str | None = None) -> RegisteredPlaybook | None:
        at = keys.playbook(tenant, name) if version is None else keys.version(tenant, name, version)
        item = self.table.get(at)
        return (
            None
            if item is None or "removed" in item or "version" not in item
            else _playbook(tenant, name, item)
        )

    def playbooks(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        found: list[RegisteredPlaybook] = []
        if name is None:
            behind = None if cursor is None else f"N#{read_key_cursor(cursor, str)}"
            for item in self.table.query(keys.playbook(tenant, "").pk, "N#", after=behind):
                if "version" in item:
                    found.append(_playbook(tenant, item["sk"][2:], item))
                if len(found) > limit:
                    return found[:limit], write_key_cursor(found[limit - 1].name)
            return found, None
        below = None if cursor is None else read_key_cursor(cursor, int)
        items = sorted(self._versions(tenant, name), key=lambda item: -item["number"])
        left = [item for item in items if "removed" not in item and (below is None or item["number"] < below)]
        more = write_key_cursor(left[limit - 1]["number"]) if len(left) > limit else None
        return [_playbook(tenant, name, item) for item in left[:limit]], more

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        for _ in range(MOST_RACES):
            named = self.table.get(keys.playbook(tenant, name)) or {}
            versions = [item for item in self._versions(tenant, name) if "removed" not in item]
            chosen = [item for item in versions if version in (None, item["version"])][:90]
            if not chosen:
                return 0
            left = [item for item in versions if item not in chosen]
            playbook = RegisteredPlaybook(tenant, name, None, "", now)
            writes: list[Write] = [
                Update(keys.version(tenant, name, item["version"]), {"removed": now}) for item in chosen
            ]
            writes.append(self._name(playbook, named, _newest(left)))
            try:
                self.table.write(writes)
            except ConditionFailed:
                continue
            return len(chosen) + (self.unregister(tenant, name, now=now) if version is None and left else 0)
        raise StoreError(f"Playbook `{name}` could not be removed: too many others change it.")


def _newest(items: object) -> Item | None:
    there = [item for item in items if "removed" not in item]  # type: ignore[attr-defined]
    return max(there, key=lambda item: int(item["number"]), default=None)


def _playbook(tenant: str, name: str, item: Item) -> RegisteredPlaybook:
    return RegisteredPlaybook(tenant, name, item["version"], item["plan"], item["at"])
