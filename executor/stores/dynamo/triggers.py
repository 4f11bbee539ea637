"""Triggers of registered playbooks in DynamoDB, and their firings.

Problem: several processes perform the firings that are due, while versions of the playbook are registered.

Algorithm: optimistic concurrency. An item for each trigger has its edition, and a write requires the one that
was read. All triggers of a tenant are in one partition, in the order of their playbooks and names. A firing
is an item of its own in a partition of its trigger.

A trigger that is due some time has a place in the index `due`, in a partition that all triggers share
(`due_items.py`). Other items lead to the trigger of a path (`webhook_paths.py`), and to the triggers that
wait for the end of a run (`subscribers.py`).

Cost: a firing adds two items to the transaction that starts its run. A look for due triggers is one query,
and one read for each 100 that are due.

Limits: a partition of the index accepts 1,000 writes in a second, and a firing makes two. Firings expire as
long after they were performed as runs after their end.

The item of a trigger has `edition`, `version` and `record`, its JSON. That of a firing has `record`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.triggers import Advance, Firing, LiveTrigger, place_triggers, record_removed
from noetl.executor.stores.cursors import (
    read_key_cursor,
    read_name_cursor,
    write_key_cursor,
    write_name_cursor,
)
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.due_items import find_due_items
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.subscribers import find_awaiting, list_awaited, triggers_update
from noetl.executor.stores.dynamo.webhook_paths import find_owner, list_paths, path_updates
from noetl.executor.stores.finding import LOST_LOOKUP, WRONG_LOOKUP
from noetl.planner.plan import Trigger

MAX_MOVES = 3
"""Number of times that a path is looked up, if registrations move it between its triggers meanwhile."""

_FIRST_POSITION = "0"
"""Text before all positions of firings."""


class TriggerChange(NamedTuple):
    """The writes that replace the triggers of a playbook, and the firings that are missed by that."""

    writes: Sequence[Write] = ()
    missed: Sequence[Firing] = ()


class DynamoTriggers:
    """The triggers of a DynamoDB store."""

    def __init__(self, context: DynamoContext) -> None:
        self._context = context

    def get(self, tenant: str, playbook: str, name: str) -> LiveTrigger | None:
        item = self._context.table.get(keys.trigger(tenant, playbook, name))
        return None if item is None else _decode_trigger(item)

    def find(
        self, tenant: str, playbook: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[LiveTrigger], str | None]:
        after = None if cursor is None else keys.trigger(tenant, *read_name_cursor(cursor)).sk
        pk, prefix = keys.triggers(tenant, playbook)
        items = self._context.table.query(pk, prefix, after=after)
        found = [_decode_trigger(item) for item in islice(items, limit + 1)]
        page = found[:limit]
        next_cursor = write_name_cursor(page[-1].playbook, page[-1].name) if len(found) > limit else None
        return page, next_cursor

    def at_path(self, tenant: str, path: str) -> LiveTrigger | None:
        for _ in range(MAX_MOVES):
            owner = find_owner(self._context.table, tenant, path)
            if owner is None:
                return None
            trigger = self.get(tenant, *owner)
            if trigger is not None and trigger.path == path:
                return trigger
        return None

    def awaiting(self, tenant: str, playbook: str) -> list[LiveTrigger]:
        table = self._context.table
        places = [keys.trigger(tenant, *names) for names in find_awaiting(table, tenant, playbook)]
        items = table.get_many(places)
        triggers = [_decode_trigger(items[place]) for place in places if place in items]
        return [trigger for trigger in triggers if trigger.awaits == playbook]

    def due(self, now: float, limit: int, passed_over: Collection[str] = ()) -> list[LiveTrigger]:
        passed = {keys.triggers(tenant, None)[0] for tenant in passed_over}
        items = find_due_items(
            self._context.table, keys.TRIGGERS, now, limit, lambda place: place.pk in passed
        )
        return [_decode_trigger(item) for item in items]

    def advance(self, advance: Advance) -> bool:
        writes = advance_writes(self._context, advance)
        try:
            if writes:
                self._context.table.write(writes)
        except ConditionFailed:
            return False
        return True

    def firings(
        self, tenant: str, playbook: str, trigger: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Firing], str | None]:
        last = keys.END_OF_TEXTS if cursor is None else str(read_key_cursor(cursor, str))
        if last <= _FIRST_POSITION:
            return [], None
        pk = keys.firing(tenant, playbook, trigger, "").pk
        # The bounds include the entry of the cursor.
        items, _ = self._context.table.query_range(
            pk, (_FIRST_POSITION, last), limit=limit + 2, backward=True
        )
        found = [item for item in items if item["sk"] < last]
        page = [Firing.from_json(json.loads(item["record"])) for item in found[:limit]]
        return page, write_key_cursor(found[limit - 1]["sk"]) if len(found) > limit else None

    def newest_firings(
        self, tenant: str, triggers: Sequence[tuple[str, str]], before: str, limit: int
    ) -> dict[tuple[str, str], list[Firing]]:
        """Return the newest firings of triggers. Each takes a request, of which several run in parallel."""
        cursor = write_key_cursor(before)
        pages = self._context.in_parallel(
            lambda key: self.firings(tenant, *key, limit=limit, cursor=cursor), triggers
        )
        return {key: firings for key, (firings, _) in zip(triggers, pages, strict=True)}


def advance_writes(context: DynamoContext, advance: Advance) -> list[Write]:
    """Return the write of a trigger, which requires the edition that was read, and those of its firings.

    A trigger that does not change is not written.
    """
    changed = [_put(advance.written, advance.read)] if advance.changes_trigger else []
    return [*changed, *firing_writes(context, advance.firings)]


def firing_writes(context: DynamoContext, firings: Sequence[Firing]) -> list[Put]:
    """Return the writes of the records of firings."""
    seconds, writes = context.plan_uses.retention_seconds, list[Put]()
    for firing in firings:
        key = keys.firing(firing.tenant, firing.playbook, firing.trigger, firing.position)
        item: Item = {"record": encode_json(firing.to_json())}
        if seconds is not None:
            item["expires"] = int(firing.fired_at + seconds)
        writes.append(Put(key, item, when=()))
    return writes


def replacing_writes(
    context: DynamoContext, playbook: RegisteredPlaybook, declared: Sequence[Trigger], now: float
) -> TriggerChange:
    """Return the writes that let the triggers of a playbook be those of its live version.

    Raises:
        RejectedError: `path_taken`.
    """
    known = _read_triggers(context, playbook.tenant, playbook.name)
    placed = place_triggers(list(known.values()), declared, playbook, now, context.plans.header)
    later = {**known, **{trigger.name: trigger for trigger in placed.written}}
    for trigger in placed.removed:
        del later[trigger.name]
    writes = [
        *(_put(trigger, known.get(trigger.name)) for trigger in placed.written),
        *map(_delete, placed.removed),
        *_lookup_writes(context, playbook, known.values(), later.values()),
    ]
    return TriggerChange(writes, placed.missed)


def removing_writes(context: DynamoContext, playbook: RegisteredPlaybook, now: float) -> TriggerChange:
    """Return the writes that remove all triggers of a playbook. Their firings stay."""
    known = list(_read_triggers(context, playbook.tenant, playbook.name).values())
    writes = [*map(_delete, known), *_lookup_writes(context, playbook, known, ())]
    return TriggerChange(writes, record_removed(known, now, context.plans.header))


def _lookup_writes(
    context: DynamoContext,
    playbook: RegisteredPlaybook,
    before: Collection[LiveTrigger],
    after: Collection[LiveTrigger],
) -> list[Update]:
    """Return the writes by which triggers are found: at their paths, and by the ends for which they wait."""
    tenant, name = playbook.tenant, playbook.name
    return [
        *path_updates(context.table, tenant, name, before, after),
        *triggers_update(tenant, name, before, after),
    ]


def find_wrong_lookups(context: DynamoContext, tenant: str) -> list[str]:
    """Return a message for each trigger that its path or an end does not lead to, or wrongly leads to."""
    table = context.table
    found = {*list_paths(table, tenant), *list_awaited(table, tenant)}
    expected = {
        (lookup, trigger.playbook, trigger.name)
        for trigger in map(_decode_trigger, table.query(*keys.triggers(tenant)))
        if (lookup := trigger.path or trigger.awaits) is not None
    }
    lost = [LOST_LOOKUP.format(playbook=playbook, name=name) for _, playbook, name in expected - found]
    wrong = [
        WRONG_LOOKUP.format(lookup=lookup, playbook=playbook, name=name)
        for lookup, playbook, name in found - expected
    ]
    return sorted(lost + wrong)


def _read_triggers(context: DynamoContext, tenant: str, playbook: str) -> Mapping[str, LiveTrigger]:
    """Return the triggers of a playbook by name."""
    triggers = map(_decode_trigger, context.table.query(*keys.triggers(tenant, playbook)))
    return {trigger.name: trigger for trigger in triggers}


def _put(trigger: LiveTrigger, read: LiveTrigger | None) -> Put:
    item: Item = {
        "edition": trigger.edition,
        "version": trigger.version,
        "record": encode_json(trigger.to_json()),
    }
    if trigger.due_at is not None:
        item |= {"wakes": keys.TRIGGERS, "due": trigger.due_at}
    when = ABSENT if read is None else _is_unchanged(read)
    return Put(keys.trigger(trigger.tenant, trigger.playbook, trigger.name), item, when=(when,))


def _delete(trigger: LiveTrigger) -> Write:
    key = keys.trigger(trigger.tenant, trigger.playbook, trigger.name)
    return Delete(key, when=(_is_unchanged(trigger),))


def _is_unchanged(trigger: LiveTrigger) -> Condition:
    return ("edition", "=", trigger.edition)


def _decode_trigger(item: Item) -> LiveTrigger:
    return LiveTrigger.from_json(json.loads(item["record"]))
