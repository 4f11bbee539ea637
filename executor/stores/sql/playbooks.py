"""The playbook registry in a SQL store.

A removed version keeps its row, so that its number and its name never mean another text.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.sql.database import Database, Writer
from noetl.executor.stores.sql.rows import Row, playbook_from_row

_NAME = "tenant = ? and name = ?"
_IS_NEWEST = (
    "number = (select max(number) from playbooks p where p.tenant = playbooks.tenant"
    " and p.name = playbooks.name and p.removed_at is null)"
)
"""Condition on the newest registered version of a playbook."""


class SqlPlaybooks:
    """The playbook registry of a SQL store."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def register(self, playbook: RegisteredPlaybook) -> RegisteredPlaybook:
        with self.database.transaction() as db:
            name = (playbook.tenant, playbook.name)
            self.database.lock_name(db, "\n".join(name))
            registered = _registered_row(db, playbook)
            if registered is not None:
                if registered["plan_hash"] != playbook.plan_hash:
                    message = (
                        f"version {playbook.version} of `{playbook.name}` is registered with another text"
                    )
                    raise RejectedError("version_exists", message)
                restore = f"update playbooks set removed_at = null where {_NAME} and version = ?"
                db.execute(restore, (*name, registered["version"]))
                return playbook_from_row(registered)
            query = f"select coalesce(max(number), 0) as number from playbooks where {_NAME}"
            number = db.execute(query, name).fetchone()["number"] + 1
            version = playbook.version
            while version is None:
                query = f"select 1 from playbooks where {_NAME} and version = ?"
                if db.execute(query, (*name, str(number))).fetchone() is None:
                    version = str(number)
                else:
                    number += 1
            row = (*name, version, number, playbook.plan_hash, playbook.created_at)
            db.execute("insert into playbooks values (?, ?, ?, ?, ?, ?, null)", row)
            return RegisteredPlaybook(
                playbook.tenant, playbook.name, version, playbook.plan_hash, playbook.created_at
            )

    def get(self, tenant: str, name: str, version: str | None = None) -> RegisteredPlaybook | None:
        condition, values = ("", []) if version is None else ("and version = ?", [version])
        query = (
            f"select * from playbooks where {_NAME} {condition} and removed_at is null"
            " order by number desc limit 1"
        )
        rows = self.database.fetch_all(query, tenant, name, *values)
        return playbook_from_row(rows[0]) if rows else None

    def find(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        values: list[Any] = [tenant]
        if name is None:
            where, order, after, key = _IS_NEWEST, "name", "name > ?", "name"
        else:
            where, order, after, key = "name = ?", "number desc", "number < ?", "number"
            values.append(name)
        if cursor is not None:
            where += f" and {after}"
            values.append(read_key_cursor(cursor, str if name is None else int))
        query = (
            f"select * from playbooks where tenant = ? and removed_at is null and {where}"
            f" order by {order} limit ?"
        )
        rows = self.database.fetch_all(query, *values, limit + 1)
        next_cursor = write_key_cursor(rows[limit - 1][key]) if len(rows) > limit else None
        return [playbook_from_row(row) for row in rows[:limit]], next_cursor

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        condition, values = ("", []) if version is None else ("and version = ?", [version])
        with self.database.transaction() as db:
            query = f"update playbooks set removed_at = ? where {_NAME} and removed_at is null {condition}"
            return db.execute(query, (now, tenant, name, *values)).rowcount


def _registered_row(db: Writer, playbook: RegisteredPlaybook) -> Row | None:
    """Return the row of the version of a playbook; without a version, the newest if it has the same text."""
    name = (playbook.tenant, playbook.name)
    row: Row | None
    if playbook.version is not None:
        query = f"select * from playbooks where {_NAME} and version = ?"
        row = db.execute(query, (*name, playbook.version)).fetchone()
        return row
    query = f"select * from playbooks where {_NAME} and removed_at is null order by number desc limit 1"
    row = db.execute(query, name).fetchone()
    return row if row is not None and row["plan_hash"] == playbook.plan_hash else None
