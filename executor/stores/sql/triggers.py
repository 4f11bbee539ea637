"""Triggers of registered playbooks in a SQL store, and their firings.

Problem: several processes perform the firings that are due, while versions of the playbook are registered.

Algorithm: optimistic concurrency. A write names the edition that was read, and changes nothing if the row has
another. A registration locks all triggers of its playbook before it replaces them. It also locks the paths of
its tenant, if it takes one.

Cost: a firing adds a row to the transaction that starts its run, and updates one. A partial index has the
triggers that are due some time.

Limits: the triggers that are due first are read by every process, and one of them wins each firing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

from noetl.executor.errors import TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.model.stored_json import encode_json
from noetl.executor.model.triggers import (
    Advance,
    Firing,
    LiveTrigger,
    path_taken,
    place_triggers,
    record_removed,
    trigger_changed,
)
from noetl.executor.stores.cursors import (
    read_key_cursor,
    read_name_cursor,
    write_key_cursor,
    write_name_cursor,
)
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.facts import add_firing_fact
from noetl.planner.plan import Header, Trigger

MAX_DELETED_FIRINGS = 500
"""Number of firings that one transaction deletes at most."""


class SqlTriggers:
    """The triggers of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def get(self, tenant: str, playbook: str, name: str) -> LiveTrigger | None:
        key = {"tenant": tenant, "playbook": playbook, "name": name}
        rows = self._context.database.fetch_all("triggers.get", **key)
        return _decode_trigger(rows[0]) if rows else None

    def find(
        self, tenant: str, playbook: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[LiveTrigger], str | None]:
        values: dict[str, Any] = {} if playbook is None else {"playbook": playbook}
        if cursor is not None:
            values["after_playbook"], values["after_name"] = read_name_cursor(cursor)
        rows = self._context.database.fetch_all("triggers.find", tenant=tenant, limit=limit + 1, **values)
        page = [_decode_trigger(row) for row in rows[:limit]]
        next_cursor = write_name_cursor(page[-1].playbook, page[-1].name) if len(rows) > limit else None
        return page, next_cursor

    def at_path(self, tenant: str, path: str) -> LiveTrigger | None:
        rows = self._context.database.fetch_all("triggers.find_at_path", tenant=tenant, path=path)
        return _decode_trigger(rows[0]) if rows else None

    def awaiting(self, tenant: str, playbook: str) -> list[LiveTrigger]:
        rows = self._context.database.fetch_all("triggers.find_awaiting", tenant=tenant, awaits=playbook)
        return [_decode_trigger(row) for row in rows]

    def due(self, now: float, limit: int, passed_over: Collection[str] = ()) -> list[LiveTrigger]:
        database = self._context.database
        passed = {"ids": database.encode_list(sorted(passed_over))} if passed_over else {}
        rows = database.fetch_all("triggers.find_due", now=now, limit=limit, **passed)
        return [_decode_trigger(row) for row in rows]

    def advance(self, advance: Advance) -> bool:
        try:
            with self._context.database.transaction() as db:
                write_advance(db, advance)
        except TriggerChangedError:
            return False
        return True

    def firings(
        self, tenant: str, playbook: str, trigger: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Firing], str | None]:
        values: dict[str, Any] = {"tenant": tenant, "playbook": playbook, "name": trigger}
        if cursor is not None:
            values["before"] = read_key_cursor(cursor, str)
        rows = self._context.database.fetch_all("triggers.find_firings", limit=limit + 1, **values)
        page = [Firing.from_json(json.loads(row["record"])) for row in rows[:limit]]
        next_cursor = write_key_cursor(rows[limit - 1]["position"]) if len(rows) > limit else None
        return page, next_cursor

    def newest_firings(
        self, tenant: str, triggers: Sequence[tuple[str, str]], before: str, limit: int
    ) -> dict[tuple[str, str], list[Firing]]:
        found: dict[tuple[str, str], list[Firing]] = {key: [] for key in triggers}
        values = {"tenant": tenant, "triggers": encode_json(triggers), "before": before, "last": limit - 1}
        rows = self._context.database.fetch_all("triggers.find_newest_firings", **values) if triggers else []
        for row in rows:
            found[row["playbook"], row["name"]].append(Firing.from_json(json.loads(row["record"])))
        return found


def write_advance(db: Writer, advance: Advance) -> None:
    """Write a trigger and the records of its firings.

    Raises:
        TriggerChangedError: another process has changed the trigger since it was read.
    """
    if advance.changes_trigger:
        values = _trigger_values(advance.written)
        if db.execute("triggers.advance", edition_before=advance.read.edition, **values).rowcount == 0:
            raise trigger_changed(advance.read)
    _add_firings(db, advance.firings)


def _add_firings(db: Writer, firings: Sequence[Firing]) -> None:
    """Add the records of firings. One that exists already is not changed."""
    for firing in firings:
        added = db.execute(
            "triggers.add_firing",
            tenant=firing.tenant,
            playbook=firing.playbook,
            name=firing.trigger,
            position=firing.position,
            fired_at=firing.fired_at,
            record=encode_json(firing.to_json()),
        )
        if added.rowcount:
            add_firing_fact(db, firing)


def replace_triggers(
    db: Writer,
    playbook: RegisteredPlaybook,
    declared: Sequence[Trigger],
    now: float,
    header_of: Callable[[str], Header],
) -> Sequence[Firing]:
    """Let the triggers of a playbook be those of its live version. `header_of` reads a plan.

    Return the firings that are missed by that.

    Raises:
        RejectedError: `path_taken`.
    """
    key = {"tenant": playbook.tenant, "playbook": playbook.name}
    current = [_decode_trigger(row) for row in db.execute("triggers.lock_all", **key).fetchall()]
    placed = place_triggers(current, declared, playbook, now, header_of)
    for trigger in placed.removed:
        db.execute("triggers.remove", name=trigger.name, **key)
    _take_paths(db, current, placed.written)
    for trigger in placed.written:
        db.execute("triggers.put", path=trigger.path, awaits=trigger.awaits, **_trigger_values(trigger))
    _add_firings(db, placed.missed)
    return placed.missed


def _take_paths(db: Writer, current: Sequence[LiveTrigger], written: Sequence[LiveTrigger]) -> None:
    """Let triggers give up their paths, and check that no other trigger has those that are written."""
    paths = {trigger.name: trigger.path for trigger in written}
    for trigger in current:
        if trigger.path is not None and paths.get(trigger.name, trigger.path) != trigger.path:
            key = {"tenant": trigger.tenant, "playbook": trigger.playbook}
            db.execute("triggers.release_path", name=trigger.name, **key)
    kept = {(trigger.name, trigger.path) for trigger in current}
    taken = [t for t in written if t.path is not None and (t.name, t.path) not in kept]
    if taken:
        db.lock_name(f"paths\n{taken[0].tenant}")
    for trigger in taken:
        row = db.execute("triggers.find_at_path", tenant=trigger.tenant, path=trigger.path).fetchone()
        if row is not None:
            owner = _decode_trigger(row)
            raise path_taken(str(trigger.path), owner.playbook, owner.name)


def remove_triggers(
    db: Writer, tenant: str, playbook: str, now: float, header_of: Callable[[str], Header]
) -> Sequence[Firing]:
    """Remove all triggers of a playbook. Their firings stay. Return those that are missed by that."""
    key = {"tenant": tenant, "playbook": playbook}
    removed = [_decode_trigger(row) for row in db.execute("triggers.lock_all", **key).fetchall()]
    for trigger in removed:
        db.execute("triggers.remove", name=trigger.name, **key)
    missed = record_removed(removed, now, header_of)
    _add_firings(db, missed)
    return missed


def delete_old_firings(db: Writer, before: float) -> bool:
    """Delete some firings of a time before another, and return whether more may be left."""
    deleted = db.execute("triggers.delete_old_firings", before=before, limit=MAX_DELETED_FIRINGS)
    return deleted.rowcount == MAX_DELETED_FIRINGS


def _trigger_values(trigger: LiveTrigger) -> dict[str, Any]:
    """Return the values of a row of `triggers`."""
    return {
        "tenant": trigger.tenant,
        "playbook": trigger.playbook,
        "name": trigger.name,
        "version": trigger.version,
        "due_at": trigger.due_at,
        "edition": trigger.edition,
        "record": encode_json(trigger.to_json()),
    }


def _decode_trigger(row: Any) -> LiveTrigger:
    return LiveTrigger.from_json(json.loads(row["record"]))
