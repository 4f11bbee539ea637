"""The playbook registry in DynamoDB: an item for each version, and one for each name.

The item of a name stores the newest version and an `edition`. A change of the playbook requires the edition
that was read, and increases it, so concurrent changes of one playbook are serial (optimistic concurrency).
The same transaction counts the registered versions of each plan in its use (`plan_uses.py`). The attribute
`counted` of a version says that it is counted.

The item of a name also has the aliases as JSON, each with the attributes of the version that it names. So one
read finds the version of an alias, and changes of aliases and versions are serial. If the live version
changes, the transaction also replaces the triggers of the playbook.

Limits: a process that dies after a transaction of 100 items may leave missed firings without a record.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from noetl.executor.errors import PayloadTooLargeError, RejectedError
from noetl.executor.model.registry import (
    PlaybookAlias,
    RegisteredPlaybook,
    require_newest,
    require_no_alias,
    require_possible_alias,
    require_unnamed,
)
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.conflicts import repeat_on_conflict
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Put, Update, Write
from noetl.executor.stores.dynamo.table import MAX_TRANSACTION_ITEMS
from noetl.executor.stores.dynamo.triggers import (
    TriggerChange,
    firing_writes,
    removing_writes,
    replacing_writes,
)
from noetl.executor.stores.firing_log import log_firings
from noetl.planner.catalogue import LIVE
from noetl.planner.plan import Trigger

MAX_REMOVED = 10
"""Number of versions that one transaction removes, with their plans.

It may also write the triggers of two versions, all items of their paths, and that of the subscribers.
"""

_VERSION_ATTRIBUTES = ("version", "number", "plan", "at", "by")
"""Attributes that the item of a name has of the newest version, and an alias of the version that it names."""


class DynamoPlaybooks:
    """The playbook registry of the DynamoDB store."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context
        self._table = context.table

    def register(
        self, playbook: RegisteredPlaybook, *, newest: str | None = None, triggers: Sequence[Trigger] = ()
    ) -> RegisteredPlaybook:
        with _reject_large_triggers(playbook.name):
            return repeat_on_conflict(
                lambda: self._register(playbook, newest, triggers),
                f"Playbook `{playbook.name}` could not be registered",
            )

    def _register(
        self, playbook: RegisteredPlaybook, expected: str | None, triggers: Sequence[Trigger]
    ) -> RegisteredPlaybook:
        """Register a playbook, if `expected` is its newest version or None.

        Raises:
            ConditionFailed: another caller has changed the playbook since it was read.
            RejectedError: as `register` does.
        """
        tenant, name = playbook.tenant, playbook.name
        name_item = self._table.get(keys.playbook(tenant, name)) or {}
        versions = {item["version"]: item for item in self._versions(tenant, name)}
        use_key = keys.plan_use(playbook.plan_hash)
        # Plans of earlier versions have no use, and are kept for ever.
        is_counted = self._table.get(use_key) is not None
        count = [Update(use_key, add={"versions": 1}, when=(PRESENT,))] if is_counted else []
        newest = _newest(versions.values())
        latest = None if newest is None else _decode_playbook(tenant, name, newest)
        require_newest(playbook, latest, expected)
        aliases = decode_aliases(name_item)
        if playbook.version is not None:
            registered = versions.get(playbook.version)
        else:
            registered = newest if newest is not None and newest["plan"] == playbook.plan_hash else None
        if registered is not None:
            if registered["plan"] != playbook.plan_hash:
                message = f"version {playbook.version} of `{name}` is registered with another text"
                raise RejectedError("version_exists", message)
            writes: list[Write] = []
            change = TriggerChange()
            if "removed" in registered:
                del registered["removed"]
                newest = _newest(versions.values())
                key = keys.version(tenant, name, registered["version"])
                writes = [Update(key, {"removed": None, "counted": is_counted or None}), *count]
            restored = _decode_playbook(tenant, name, registered)
            if newest is registered and LIVE not in aliases:
                change = replacing_writes(self._context, restored, triggers, playbook.registered_at)
            if writes or change.writes:
                self._write([*writes, _name_update(playbook, name_item, newest)], change)
            return restored
        require_no_alias(playbook, aliases)
        item = _new_item(playbook, versions)
        counted = {"counted": True} if is_counted else {}
        added = _decode_playbook(tenant, name, item)
        writes = [
            Put(keys.version(tenant, name, item["version"]), item | counted),
            _name_update(playbook, name_item, item),
            *count,
        ]
        change = TriggerChange()
        if LIVE not in aliases:
            change = replacing_writes(self._context, added, triggers, playbook.registered_at)
        self._write(writes, change)
        return added

    def _write(self, writes: Sequence[Write], change: TriggerChange) -> None:
        """Write a change of a playbook and of its triggers, and records of the firings that it misses.

        A record that does not fit into the transaction is written after it.

        Raises:
            ConditionFailed: another caller has changed the playbook since it was read.
        """
        records, written = firing_writes(self._context, change.missed), [*writes, *change.writes]
        count = max(MAX_TRANSACTION_ITEMS - len(written), 0)
        self._table.write([*written, *records[:count]])
        if records[count:]:
            self._table.write(records[count:])
        log_firings(change.missed)

    def _versions(self, tenant: str, name: str) -> list[Item]:
        return list(self._table.query(keys.version(tenant, name, "").pk, "V#"))

    def get(
        self, tenant: str, name: str, version: str | None = None, *, alias: str | None = None
    ) -> RegisteredPlaybook | None:
        key = keys.playbook(tenant, name) if version is None else keys.version(tenant, name, version)
        item = self._table.get(key)
        if item is not None and alias is not None:
            item = decode_aliases(item).get(alias, item if alias == LIVE else {})
        if item is None or "removed" in item or "version" not in item:
            return None
        return _decode_playbook(tenant, name, item)

    def find(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        if name is None:
            return self._newest_playbooks(tenant, limit, cursor)
        number_limit = None if cursor is None else read_key_cursor(cursor, int)
        items = sorted(self._versions(tenant, name), key=lambda item: -item["number"])
        remaining = [
            item
            for item in items
            if "removed" not in item and (number_limit is None or item["number"] < number_limit)
        ]
        next_cursor = write_key_cursor(remaining[limit - 1]["number"]) if len(remaining) > limit else None
        return [_decode_playbook(tenant, name, item) for item in remaining[:limit]], next_cursor

    def _newest_playbooks(
        self, tenant: str, limit: int, cursor: str | None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        """Return a page of the newest version of each playbook, by name."""
        playbooks: list[RegisteredPlaybook] = []
        after = None if cursor is None else f"N#{read_key_cursor(cursor, str)}"
        for item in self._table.query(keys.playbook(tenant, "").pk, "N#", after=after):
            if "version" in item:
                playbooks.append(_decode_playbook(tenant, item["sk"][2:], item))
            if len(playbooks) > limit:
                return playbooks[:limit], write_key_cursor(playbooks[limit - 1].name)
        return playbooks, None

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        removed = repeat_on_conflict(
            lambda: self._unregister(tenant, name, version, now),
            f"Playbook `{name}` could not be removed",
        )
        has_more = version is None and removed == MAX_REMOVED
        return removed + (self.unregister(tenant, name, now=now) if has_more else 0)

    def _unregister(self, tenant: str, name: str, version: str | None, now: float) -> int:
        """Remove a version, or MAX_REMOVED of all, and return how many were removed.

        Raises:
            ConditionFailed: another caller has changed the playbook since it was read.
        """
        name_item = self._table.get(keys.playbook(tenant, name)) or {}
        versions = [item for item in self._versions(tenant, name) if "removed" not in item]
        versions.sort(key=lambda item: int(item["number"]))  # the newest is removed last
        require_unnamed(name, version, _list_aliases(tenant, name, name_item))
        aliases = {} if version is None else decode_aliases(name_item)
        chosen = [item for item in versions if version in (None, item["version"])][:MAX_REMOVED]
        if not chosen:
            return 0
        remaining = [item for item in versions if item not in chosen]
        playbook, newest = RegisteredPlaybook(tenant, name, None, "", now), _newest(remaining)
        writes: list[Write] = [
            Update(keys.version(tenant, name, item["version"]), {"removed": now}) for item in chosen
        ]
        writes.append(_name_update(playbook, name_item, newest, aliases))
        writes += self._count_removed(chosen)
        self._write(writes, self._place_live(playbook, aliases.get(LIVE, newest)))
        return len(chosen)

    def promote(self, alias: PlaybookAlias) -> PlaybookAlias | None:
        with _reject_large_triggers(alias.playbook):
            return repeat_on_conflict(lambda: self._promote(alias), _describe_change(alias.playbook))

    def _promote(self, alias: PlaybookAlias) -> PlaybookAlias | None:
        """Let an alias name a version, as `promote` does.

        Raises:
            ConditionFailed: another caller has changed the playbook since it was read.
        """
        tenant, name = alias.tenant, alias.playbook
        playbook = RegisteredPlaybook(tenant, name, None, "", alias.changed_at)
        name_item = self._table.get(keys.playbook(tenant, name)) or {}
        version = self._table.get(keys.version(tenant, name, alias.version))
        if version is None or "removed" in version:
            return None
        aliases = decode_aliases(name_item)
        is_version = self._table.get(keys.version(tenant, name, alias.name), ("pk",)) is not None
        require_possible_alias(alias, aliases, is_version=is_version)
        if alias.name in aliases and aliases[alias.name]["version"] == alias.version:
            return _decode_alias(tenant, name, alias.name, aliases[alias.name])
        aliases[alias.name] = {
            **{key: version[key] for key in _VERSION_ATTRIBUTES if key in version},
            "changed_at": alias.changed_at,
            "changed_by": alias.changed_by,
        }
        change = self._place_live(playbook, version) if alias.name == LIVE else TriggerChange()
        self._write([_aliases_update(playbook, name_item, aliases)], change)
        return alias

    def remove_alias(self, tenant: str, name: str, alias: str, *, now: float) -> bool:
        playbook = RegisteredPlaybook(tenant, name, None, "", now)

        def remove() -> bool:
            name_item = self._table.get(keys.playbook(tenant, name)) or {}
            aliases = decode_aliases(name_item)
            if aliases.pop(alias, None) is None:
                return False
            change = self._place_live(playbook, name_item) if alias == LIVE else TriggerChange()
            self._write([_aliases_update(playbook, name_item, aliases)], change)
            return True

        with _reject_large_triggers(name):
            return repeat_on_conflict(remove, _describe_change(name))

    def aliases(self, tenant: str, names: Collection[str]) -> list[PlaybookAlias]:
        places = {keys.playbook(tenant, name): name for name in sorted(set(names))}
        items = self._table.get_many(list(places))
        found = [_list_aliases(tenant, name, items.get(place, {})) for place, name in places.items()]
        return [alias for aliases in found for alias in aliases]

    def _place_live(self, playbook: RegisteredPlaybook, live: Item | None) -> TriggerChange:
        """Return the change of the triggers when `live` is the live version of a playbook."""
        tenant, name, now = playbook.tenant, playbook.name, playbook.registered_at
        if live is None:
            return removing_writes(self._context, playbook, now)
        # Without its plan, a version has no triggers.
        has_plan = self._table.get(keys.plan(live["plan"]), ("pk",)) is not None
        triggers = self._context.plans.header(live["plan"]).triggers if has_plan else ()
        return replacing_writes(self._context, _decode_playbook(tenant, name, live), triggers, now)

    def _count_removed(self, versions: Iterable[Item]) -> list[Update]:
        """Return the writes that count removed versions in the uses of their plans.

        The deletion of plans examines these again.
        """
        counts = Counter(item["plan"] for item in versions if "counted" in item)
        uses = self._table.get_many([keys.plan_use(plan_hash) for plan_hash in counts])
        return [
            Update(key, {"wakes": keys.plan_shard(hash)}, add={"versions": -counts[hash]}, when=(PRESENT,))
            for hash, key in ((hash, keys.plan_use(hash)) for hash in counts)
            if key in uses
        ]


def _name_update(
    playbook: RegisteredPlaybook,
    name_item: Item,
    newest: Item | None,
    aliases: Mapping[str, Item] | None = None,
) -> Update:
    """Return the write of the newest version, under the condition that the edition is unchanged.

    Without `aliases`, these stay as they are.
    """
    sets = {name: None if newest is None else newest.get(name) for name in _VERSION_ATTRIBUTES}
    if aliases is not None:
        sets["aliases"] = _encode_aliases(aliases)
    return _edition_update(playbook, name_item, sets)


def _aliases_update(playbook: RegisteredPlaybook, name_item: Item, aliases: Mapping[str, Item]) -> Update:
    """Return the write of the aliases, under the condition that the edition is unchanged."""
    return _edition_update(playbook, name_item, {"aliases": _encode_aliases(aliases)})


def _edition_update(playbook: RegisteredPlaybook, name_item: Item, sets: Item) -> Update:
    edition = name_item.get("edition", 0)
    is_unchanged: Condition = ("edition", "=", edition) if edition else ("edition", "absent", None)
    key = keys.playbook(playbook.tenant, playbook.name)
    return Update(key, {**sets, "edition": edition + 1}, when=(is_unchanged,))


def _encode_aliases(aliases: Mapping[str, Item]) -> str | None:
    return encode_json(aliases) if aliases else None


def decode_aliases(name_item: Item) -> dict[str, Item]:
    """Return the aliases of the item of a name: the attributes of their versions, by alias."""
    aliases: dict[str, Item] = json.loads(name_item.get("aliases", "{}"))
    return aliases


def _list_aliases(tenant: str, name: str, name_item: Item) -> list[PlaybookAlias]:
    aliases = decode_aliases(name_item)
    return [_decode_alias(tenant, name, alias, item) for alias, item in sorted(aliases.items())]


def _decode_alias(tenant: str, name: str, alias: str, item: Item) -> PlaybookAlias:
    return PlaybookAlias(tenant, name, alias, item["version"], item["changed_at"], item.get("changed_by"))


def _describe_change(name: str) -> str:
    """Return what is given up if the aliases of a playbook change all the time."""
    return f"The aliases of `{name}` could not be changed"


@contextmanager
def _reject_large_triggers(name: str) -> Iterator[None]:
    """Reject triggers of a playbook that exceed an item.

    Raises:
        RejectedError: `too_large`.
    """
    try:
        yield
    except PayloadTooLargeError as problem:
        message = f"the triggers of playbook `{name}` exceed an item of DynamoDB"
        raise RejectedError("too_large", message) from problem


def _new_item(playbook: RegisteredPlaybook, versions: Mapping[str, Item]) -> Item:
    """Return the item of a version that is new. Without a version, a playbook gets the next number."""
    number = max((item["number"] for item in versions.values()), default=0) + 1
    while playbook.version is None and str(number) in versions:
        number += 1
    version = playbook.version or str(number)
    item: Item = {"version": version, "number": number, "plan": playbook.plan_hash}
    item["at"] = playbook.registered_at
    if playbook.registered_by is not None:
        item["by"] = playbook.registered_by
    return item


def _newest(versions: Iterable[Item]) -> Item | None:
    registered = (item for item in versions if "removed" not in item)
    return max(registered, key=lambda item: int(item["number"]), default=None)


def _decode_playbook(tenant: str, name: str, item: Item) -> RegisteredPlaybook:
    return RegisteredPlaybook(tenant, name, item["version"], item["plan"], item["at"], item.get("by"))
