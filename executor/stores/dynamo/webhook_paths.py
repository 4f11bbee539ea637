"""The paths of webhooks of a tenant, each of which belongs to one trigger.

Problem: a path must not have two triggers, although several playbooks are registered at the same time. A
playbook may move all of its paths between its triggers. A transaction has at most 100 items.

Algorithm: a unique index in PATH_SHARDS items. An attribute is a path, and has the playbook and the name of
its trigger. The transaction that writes triggers also writes their paths, under the condition that no other
playbook has them.

Cost: one read for a look-up. A registration reads and writes one item for each shard whose paths change.

Limits: an item has at most 400 KB, so a tenant has some 50,000 paths. The registration of more is rejected.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from noetl.executor.model.triggers import LiveTrigger, path_taken
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Condition, Update
from noetl.executor.stores.dynamo.table import DynamoTable

_PATH = "P#"
"""First characters of an attribute of a path."""


def find_owner(table: DynamoTable, tenant: str, path: str) -> tuple[str, str] | None:
    """Return playbook and name of the trigger that has a path, or None."""
    owner = (table.get(keys.path_shard(tenant, path), (_PATH + path,)) or {}).get(_PATH + path)
    return None if owner is None else (owner[0], owner[1])


def list_paths(table: DynamoTable, tenant: str) -> Iterator[tuple[str, str, str]]:
    """Yield each path of a tenant, with the playbook and the name of its trigger."""
    for item in table.get_many(keys.path_shards(tenant)).values():
        for attribute, owner in item.items():
            if attribute.startswith(_PATH):
                yield attribute.removeprefix(_PATH), owner[0], owner[1]


def path_updates(
    table: DynamoTable,
    tenant: str,
    playbook: str,
    before: Iterable[LiveTrigger],
    after: Iterable[LiveTrigger],
) -> list[Update]:
    """Return the writes of the paths of a playbook whose triggers change.

    Raises:
        RejectedError: `path_taken`.
    """
    earlier, later = _names_by_path(before), _names_by_path(after)
    new_paths = sorted(later.keys() - earlier.keys())
    items = table.get_many([keys.path_shard(tenant, path) for path in new_paths])
    when: dict[keys.ItemKey, list[Condition]] = defaultdict(list)
    for path in new_paths:
        key, attribute = keys.path_shard(tenant, path), _PATH + path
        owner = items.get(key, {}).get(attribute)
        if owner is None:
            when[key].append((attribute, "absent", None))
        elif owner[0] != playbook:
            raise path_taken(path, *owner)
    changes: dict[keys.ItemKey, dict[str, list[str] | None]] = defaultdict(dict)
    for path in sorted(earlier.keys() | later.keys()):
        name = later.get(path)
        if name != earlier.get(path):
            owner = None if name is None else [playbook, name]
            changes[keys.path_shard(tenant, path)][_PATH + path] = owner
    return [Update(key, change, when=tuple(when[key])) for key, change in changes.items()]


def _names_by_path(triggers: Iterable[LiveTrigger]) -> Mapping[str, str]:
    return {trigger.path: trigger.name for trigger in triggers if trigger.path is not None}
