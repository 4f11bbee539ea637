"""The playbook registry in a SQL store.

A removed version keeps its row, so that its number and its name never mean another text. Each change of a
playbook locks its name. So the live version and the triggers, which are its triggers, change together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import (
    PlaybookAlias,
    RegisteredPlaybook,
    require_newest,
    require_no_alias,
    require_possible_alias,
    require_unnamed,
)
from noetl.executor.model.triggers import Firing
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.firing_log import log_firings
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.rows import Row, alias_from_row, playbook_from_row
from noetl.executor.stores.sql.triggers import remove_triggers, replace_triggers
from noetl.planner.catalogue import LIVE
from noetl.planner.frozen import replace
from noetl.planner.plan import Trigger


class SqlPlaybooks:
    """The playbook registry of a SQL store."""

    def __init__(self, context: SqlContext, plans: SqlPlans) -> None:
        self._context = context
        self._plans = plans

    def register(
        self, playbook: RegisteredPlaybook, *, newest: str | None = None, triggers: Sequence[Trigger] = ()
    ) -> RegisteredPlaybook:
        missed: Sequence[Firing] = ()
        with self._context.database.transaction() as db:
            _lock(db, playbook.tenant, playbook.name)
            if newest is not None:
                require_newest(playbook, _newest(db, playbook.tenant, playbook.name), newest)
            registered = _add(self._context, db, playbook)
            if registered == _live(db, playbook.tenant, playbook.name):
                header_of, registered_at = self._plans.header, playbook.registered_at
                missed = replace_triggers(db, registered, triggers, registered_at, header_of)
        log_firings(missed)
        return registered

    def get(
        self, tenant: str, name: str, version: str | None = None, *, alias: str | None = None
    ) -> RegisteredPlaybook | None:
        if alias is None:
            query, chosen = "registry.get", {} if version is None else {"version": version}
        elif alias == LIVE:
            query, chosen = "registry.live", {}
        else:
            query, chosen = "registry.at_alias", {"alias": alias}
        rows = self._context.database.fetch_all(query, tenant=tenant, name=name, **chosen)
        return playbook_from_row(rows[0]) if rows else None

    def find(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        after = {} if cursor is None else {"after": read_key_cursor(cursor, str if name is None else int)}
        page = {"tenant": tenant, "limit": limit + 1, **after}
        if name is None:
            rows, key = self._context.database.fetch_all("registry.find_playbooks", **page), "name"
        else:
            rows, key = (
                self._context.database.fetch_all("registry.find_versions", name=name, **page),
                "number",
            )
        next_cursor = write_key_cursor(rows[limit - 1][key]) if len(rows) > limit else None
        return [playbook_from_row(row) for row in rows[:limit]], next_cursor

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        chosen = {} if version is None else {"version": version}
        missed: Sequence[Firing] = ()
        with self._context.database.transaction() as db:
            _lock(db, tenant, name)
            require_unnamed(name, version, _read_aliases(self._context, db, tenant, name))
            removed = db.execute("registry.remove", tenant=tenant, name=name, now=now, **chosen).rowcount
            if version is None:
                db.execute("registry.remove_aliases", tenant=tenant, playbook=name)
            if removed:
                missed = self._place_triggers(db, tenant, name, now)
        log_firings(missed)
        return removed

    def promote(self, alias: PlaybookAlias) -> PlaybookAlias | None:
        name = {"tenant": alias.tenant, "name": alias.playbook}
        missed: Sequence[Firing] = ()
        with self._context.database.transaction() as db:
            _lock(db, alias.tenant, alias.playbook)
            version = db.execute("registry.version", **name, version=alias.version).fetchone()
            if version is None or version["removed_at"] is not None:
                return None
            known = {
                known.name: known for known in _read_aliases(self._context, db, alias.tenant, alias.playbook)
            }
            is_version = db.execute("registry.version", **name, version=alias.name).fetchone() is not None
            require_possible_alias(alias, known, is_version=is_version)
            current = known.get(alias.name)
            if current is not None and current.version == alias.version:
                return current
            db.execute(
                "registry.put_alias",
                tenant=alias.tenant,
                playbook=alias.playbook,
                alias=alias.name,
                version=alias.version,
                number=version["number"],
                changed_at=alias.changed_at,
                changed_by=alias.changed_by,
            )
            if alias.name == LIVE:
                missed = self._place_triggers(db, alias.tenant, alias.playbook, alias.changed_at)
        log_firings(missed)
        return alias

    def remove_alias(self, tenant: str, name: str, alias: str, *, now: float) -> bool:
        missed: Sequence[Firing] = ()
        with self._context.database.transaction() as db:
            _lock(db, tenant, name)
            removed = db.execute("registry.remove_aliases", tenant=tenant, playbook=name, alias=alias)
            if removed.rowcount == 0:
                return False
            if alias == LIVE:
                missed = self._place_triggers(db, tenant, name, now)
        log_firings(missed)
        return True

    def aliases(self, tenant: str, names: Collection[str]) -> list[PlaybookAlias]:
        database = self._context.database
        ids = database.encode_list(sorted(set(names)))
        return list(map(alias_from_row, database.fetch_all("registry.find_aliases", tenant=tenant, ids=ids)))

    def _place_triggers(self, db: Writer, tenant: str, name: str, now: float) -> Sequence[Firing]:
        """Let the triggers of a playbook be those of its live version. Without its plan, it has none.

        Return the firings that are missed by that.
        """
        live = _live(db, tenant, name)
        if live is None:
            return remove_triggers(db, tenant, name, now, self._plans.header)
        has_plan = self._plans.exists(live.plan_hash)
        declared = self._plans.header(live.plan_hash).triggers if has_plan else ()
        return replace_triggers(db, live, declared, now, self._plans.header)


def _lock(db: Writer, tenant: str, name: str) -> None:
    """Lock the versions of a playbook and their triggers until the end of the transaction."""
    db.lock_name(f"{tenant}\n{name}")


def _newest(db: Writer, tenant: str, name: str) -> RegisteredPlaybook | None:
    row = db.execute("registry.get", tenant=tenant, name=name).fetchone()
    return None if row is None else playbook_from_row(row)


def _live(db: Writer, tenant: str, name: str) -> RegisteredPlaybook | None:
    row = db.execute("registry.live", tenant=tenant, name=name).fetchone()
    return None if row is None else playbook_from_row(row)


def _read_aliases(context: SqlContext, db: Writer, tenant: str, name: str) -> list[PlaybookAlias]:
    ids = context.database.encode_list([name])
    return list(map(alias_from_row, db.execute("registry.find_aliases", tenant=tenant, ids=ids).fetchall()))


def _add(context: SqlContext, db: Writer, playbook: RegisteredPlaybook) -> RegisteredPlaybook:
    """Add a version of a playbook, or restore it.

    Raises:
        RejectedError: `version_exists`, `alias_exists`.
    """
    name = {"tenant": playbook.tenant, "name": playbook.name}
    registered = _registered_row(db, playbook)
    if registered is not None:
        if registered["plan_hash"] != playbook.plan_hash:
            message = f"version {playbook.version} of `{playbook.name}` is registered with another text"
            raise RejectedError("version_exists", message)
        db.execute("registry.restore", **name, version=registered["version"])
        return playbook_from_row(registered)
    aliases = _read_aliases(context, db, playbook.tenant, playbook.name)
    require_no_alias(playbook, [alias.name for alias in aliases])
    number = db.execute("registry.last_number", **name).fetchone()["number"] + 1
    version = playbook.version
    while version is None:
        if db.execute("registry.version", **name, version=str(number)).fetchone() is None:
            version = str(number)
        else:
            number += 1
    db.execute(
        "registry.add",
        **name,
        version=version,
        number=number,
        plan_hash=playbook.plan_hash,
        registered_at=playbook.registered_at,
        registered_by=playbook.registered_by,
    )
    return replace(playbook, version=version)


def _registered_row(db: Writer, playbook: RegisteredPlaybook) -> Row | None:
    """Return the row of the version of a playbook; without a version, the newest if it has the same text."""
    name = {"tenant": playbook.tenant, "name": playbook.name}
    row: Row | None
    if playbook.version is not None:
        row = db.execute("registry.version", **name, version=playbook.version).fetchone()
        return row
    row = db.execute("registry.get", **name).fetchone()
    return row if row is not None and row["plan_hash"] == playbook.plan_hash else None
