"""Triggers and firings of the store in memory.

The author of a store decides how due triggers are found. He also decides how a write requires that a trigger
is as it was read. Here the lock orders all writes, and all triggers are examined.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from noetl.executor.errors import TriggerChangedError
from noetl.executor.model.registry import RegisteredPlaybook
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
from noetl.executor.stores.firing_log import log_firings
from noetl.executor.stores.memory.facts import add_firing_fact
from noetl.executor.stores.memory.state import MemoryState
from noetl.planner.plan import Trigger


class MemoryTriggers:
    """The triggers of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def get(self, tenant: str, playbook: str, name: str) -> LiveTrigger | None:
        with self._state.lock:
            return self._state.triggers.get((tenant, playbook, name))

    def find(
        self, tenant: str, playbook: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[LiveTrigger], str | None]:
        after = None if cursor is None else read_name_cursor(cursor)
        with self._state.lock:
            triggers = sorted(self._state.triggers.items())
        found = [
            trigger
            for key, trigger in triggers
            if key[0] == tenant and playbook in (None, key[1]) and (after is None or key[1:] > after)
        ]
        page = found[:limit]
        next_cursor = write_name_cursor(page[-1].playbook, page[-1].name) if len(found) > limit else None
        return page, next_cursor

    def at_path(self, tenant: str, path: str) -> LiveTrigger | None:
        with self._state.lock:
            triggers = list(self._state.triggers.values())
        return next((t for t in triggers if (t.tenant, t.path) == (tenant, path)), None)

    def awaiting(self, tenant: str, playbook: str) -> list[LiveTrigger]:
        with self._state.lock:
            triggers = sorted(self._state.triggers.items())
        return [trigger for key, trigger in triggers if (key[0], trigger.awaits) == (tenant, playbook)]

    def due(self, now: float, limit: int, passed_over: Collection[str] = ()) -> list[LiveTrigger]:
        with self._state.lock:
            triggers = list(self._state.triggers.values())
        timed = [
            (trigger.due_at, trigger)
            for trigger in triggers
            if trigger.due_at is not None and trigger.tenant not in passed_over
        ]
        due = [(due_at, trigger) for due_at, trigger in timed if due_at <= now]
        return [trigger for _, trigger in sorted(due, key=lambda entry: entry[0])[:limit]]

    def advance(self, advance: Advance) -> bool:
        with self._state.lock:
            try:
                check_advance(self._state, advance)
            except TriggerChangedError:
                return False
            write_advance(self._state, advance)
            return True

    def firings(
        self, tenant: str, playbook: str, trigger: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[Firing], str | None]:
        before = None if cursor is None else str(read_key_cursor(cursor, str))
        with self._state.lock:
            firings = list(self._state.firings.get((tenant, playbook, trigger), {}).items())
        found = [entry for entry in sorted(firings, reverse=True) if before is None or entry[0] < before]
        next_cursor = write_key_cursor(found[limit - 1][0]) if len(found) > limit else None
        return [firing for _, firing in found[:limit]], next_cursor

    def newest_firings(
        self, tenant: str, triggers: Sequence[tuple[str, str]], before: str, limit: int
    ) -> dict[tuple[str, str], list[Firing]]:
        cursor = write_key_cursor(before)
        return {key: self.firings(tenant, *key, limit=limit, cursor=cursor)[0] for key in triggers}


def check_advance(state: MemoryState, advance: Advance) -> None:
    """Check that a trigger that changes is as it was read.

    Raises:
        TriggerChangedError: another process has changed it.
    """
    read = advance.read
    if not advance.changes_trigger:
        return
    current = state.triggers.get((read.tenant, read.playbook, read.name))
    if current is None or current.edition != read.edition:
        raise trigger_changed(read)


def write_advance(state: MemoryState, advance: Advance) -> None:
    """Write a trigger and the records of its firings."""
    written = advance.written
    key = (written.tenant, written.playbook, written.name)
    if advance.changes_trigger:
        state.triggers[key] = written
    _add_firings(state, advance.firings)


def _add_firings(state: MemoryState, added: Sequence[Firing]) -> None:
    """Add the records of firings. One that exists already is not changed."""
    for firing in added:
        firings = state.firings.setdefault((firing.tenant, firing.playbook, firing.trigger), {})
        if firing.position not in firings:
            firings[firing.position] = firing
            add_firing_fact(state, firing)


def replace_triggers(
    state: MemoryState, playbook: RegisteredPlaybook, declared: Sequence[Trigger], now: float
) -> None:
    """Let the triggers of a playbook be those of its live version.

    Raises:
        RejectedError: `path_taken`. Nothing has changed.
    """
    key = (playbook.tenant, playbook.name)
    current = [trigger for trigger in state.triggers.values() if (trigger.tenant, trigger.playbook) == key]
    placed = place_triggers(current, declared, playbook, now, lambda plan_hash: state.plan(plan_hash).header)
    paths = {trigger.path for trigger in placed.written if trigger.path is not None}
    for owner in state.triggers.values():
        if owner.tenant == playbook.tenant and owner.playbook != playbook.name and owner.path in paths:
            raise path_taken(owner.path, owner.playbook, owner.name)
    for trigger in placed.removed:
        del state.triggers[*key, trigger.name]
    for trigger in placed.written:
        state.triggers[*key, trigger.name] = trigger
    _add_firings(state, placed.missed)
    log_firings(placed.missed)


def remove_triggers(state: MemoryState, tenant: str, playbook: str, now: float) -> None:
    """Remove all triggers of a playbook. Their firings stay."""
    removed = [t for key, t in state.triggers.items() if key[:2] == (tenant, playbook)]
    state.triggers = {key: t for key, t in state.triggers.items() if key[:2] != (tenant, playbook)}
    missed = record_removed(removed, now, lambda plan_hash: state.plan(plan_hash).header)
    _add_firings(state, missed)
    log_firings(missed)
