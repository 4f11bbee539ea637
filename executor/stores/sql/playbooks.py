"""The playbook registry in a SQL store.

A removed version keeps its row, so that its number and its name never mean another text.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import RegisteredPlaybook
from noetl.executor.stores.cursors import read_key_cursor, write_key_cursor
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import playbook_from_row


class SqlPlaybooks:
    """The part of a SQL store that stores registered playbooks."""

    database: Database

    def register(self, playbook: RegisteredPlaybook) -> RegisteredPlaybook:
        with self.database.transaction() as db:
            whose = (playbook.tenant, playbook.name)
            self.database.lock_name(db, "\n".join(whose))
            where = "tenant = ? and name = ?"
            if playbook.version is not None:
                query = f"select * from playbooks where {where} and version = ?"
                same = db.execute(query, (*whose, playbook.version)).fetchone()
            else:
                query = f"select * from playbooks where {where} and removed_at is null order by number desc limit 1"
                same = db.execute(query, whose).fetchone()
                same = same if same is not None and same["plan_hash"] == playbook.plan_hash else None
            if same is not None:
                if same["plan_hash"] != playbook.plan_hash:
                    message = (
                        f"version {playbook.version} of `{playbook.name}` was registered with another text"
                    )
                    raise RejectedError("version_exists", message)
                db.execute(
                    f"update playbooks set removed_at = null where {where} and version = ?",
                    (*whose, same["version"]),
                )
                return playbook_from_row(same)
            query = f"select coalesce(max(number), 0) as number from playbooks where {where}"
            number = db.execute(query, whose).fetchone()["number"] + 1
            version = playbook.version
            while version is None:
                taken = db.execute(
                    f"select 1 from playbooks where {where} and version = ?", (*whose, str(number))
                )
                version, number = (str(number), number) if taken.fetchone() is None else (None, number + 1)
            row = (*whose, version, number, playbook.plan_hash, playbook.created_at)
            db.execute("insert into playbooks values (?, ?, ?, ?, ?, ?, null)", row)
            return RegisteredPlaybook(
                playbook.tenant, playbook.name, version, playbook.plan_hash, playbook.created_at
            )

    def playbook(self, tenant: str, name: str, version: str | None = None) -> RegisteredPlaybook | None:
        which, values = ("", []) if version is None else ("and version = ?", [version])
        query = (
            f"select * from playbooks where tenant = ? and name = ? {which} and removed_at is null"
            " order by number desc limit 1"
        )
        rows = self.database.fetch_all(query, tenant, name, *values)
        return playbook_from_row(rows[0]) if rows else None

    def playbooks(
        self, tenant: str, name: str | None = None, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[RegisteredPlaybook], str | None]:
        values: list[Any] = [tenant]
        if name is None:
            newest = "number = (select max(number) from playbooks p where p.tenant = playbooks.tenant and p.name = playbooks.name and p.removed_at is null)"
            where, order, column = newest, "name", "name > ?"
        else:
            where, order, column = "name = ?", "number desc", "number < ?"
            values.append(name)
        if cursor is not None:
            where += f" and {column}"
            values.append(read_key_cursor(cursor, str if name is None else int))
        query = f"select * from playbooks where tenant = ? and removed_at is null and {where} order by {order} limit ?"
        rows = self.database.fetch_all(query, *values, limit + 1)
        more = (
            write_key_cursor(rows[limit - 1]["name" if name is None else "number"])
            if len(rows) > limit
            else None
        )
        return [playbook_from_row(row) for row in rows[:limit]], more

    def unregister(self, tenant: str, name: str, version: str | None = None, *, now: float) -> int:
        which, values = ("", []) if version is None else ("and version = ?", [version])
        with self.database.transaction() as db:
            query = f"update playbooks set removed_at = ? where tenant = ? and name = ? and removed_at is null {which}"
            return db.execute(query, (now, tenant, name, *values)).rowcount
