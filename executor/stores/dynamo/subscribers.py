"""The item of a tenant that has the triggers and channels which ends of its runs concern.

Problem: the end of each run must know whether a trigger awaits it, and which channels receive it. One read
must suffice.

Algorithm: a materialized view. An attribute of the item belongs to one playbook, and has its triggers with
the playbooks that they await. Another belongs to one channel, and has its events. The transaction that
writes the triggers or the channel also writes their attribute. Its conditions are those of the triggers and
of the channel, so concurrent registrations of several playbooks do not overwrite each other.

Cost: one read, and one more item in a transaction that changes these triggers or events. A trigger takes some
80 bytes of the item. 4 KB are one unit of a read.

Limits: the item has at most 400 KB. These are some 4,000 triggers with names of usual length, and the
registration of another one is rejected. Transactions that change the item at the same time are tried
again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from noetl.executor.model.outbox import Subscribers
from noetl.executor.model.triggers import LiveTrigger
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.expressions import Update
from noetl.executor.stores.dynamo.table import DynamoTable

_PLAYBOOK = "T#"
"""First characters of an attribute with triggers; the name of their playbook follows."""

_CHANNEL = "C#"
"""First characters of an attribute with events; the name of their channel follows."""


def read_subscribers(table: DynamoTable, tenant: str, playbook: str) -> Subscribers:
    """Return the triggers and channels that the end of a run of a playbook concerns."""
    item = table.get(keys.subscribers(tenant)) or {}
    return Subscribers(
        has_triggers=any(
            awaited == playbook
            for attribute, triggers in item.items()
            if attribute.startswith(_PLAYBOOK)
            for _, awaited in triggers
        ),
        channels={
            attribute.removeprefix(_CHANNEL): tuple(events)
            for attribute, events in item.items()
            if attribute.startswith(_CHANNEL)
        },
    )


def find_awaiting(table: DynamoTable, tenant: str, playbook: str) -> list[tuple[str, str]]:
    """Return playbook and name of each trigger that awaits ends of runs of a playbook, in their order."""
    triggers = list_awaited(table, tenant)
    return sorted((owner, name) for awaited, owner, name in triggers if awaited == playbook)


def list_awaited(table: DynamoTable, tenant: str) -> Iterator[tuple[str, str, str]]:
    """Yield each playbook whose ends a trigger awaits, with the playbook and the name of the trigger."""
    item = table.get(keys.subscribers(tenant)) or {}
    for attribute, triggers in item.items():
        if attribute.startswith(_PLAYBOOK):
            for name, awaited in triggers:
                yield awaited, attribute.removeprefix(_PLAYBOOK), name


def triggers_update(
    tenant: str, playbook: str, before: Iterable[LiveTrigger], after: Iterable[LiveTrigger]
) -> list[Update]:
    """Return the write of the triggers of a playbook, unless they await the same ends as before."""
    awaited_before, awaited = (
        [[trigger.name, trigger.awaits] for trigger in triggers if trigger.awaits]
        for triggers in (before, after)
    )
    if sorted(awaited_before) == sorted(awaited):
        return []
    return [Update(keys.subscribers(tenant), {_PLAYBOOK + playbook: awaited or None})]


def channel_update(tenant: str, name: str, before: Sequence[str], after: Sequence[str]) -> list[Update]:
    """Return the write of the events of a channel, unless they are the same as before."""
    if list(before) == list(after):
        return []
    return [Update(keys.subscribers(tenant), {_CHANNEL + name: list(after) or None})]
