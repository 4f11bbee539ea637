"""API keys in a SQL store."""

from __future__ import annotations

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import ApiKey
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.rows import encode_json, key_from_row


class SqlApiKeys:
    """The API keys of a SQL store."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, key: ApiKey) -> None:
        row = (key.id, key.hash, key.tenant, key.name, encode_json(list(key.scopes)), key.created_at)
        with self.database.transaction() as db:
            insert = "insert into keys values (?, ?, ?, ?, ?, ?, null, null) on conflict do nothing"
            if db.execute(insert, row).rowcount == 0:
                raise RejectedError("key_exists", f"API key {key.id} already exists")

    def get(self, id: str) -> ApiKey | None:
        rows = self.database.fetch_all("select * from keys where id = ?", id)
        return key_from_row(rows[0]) if rows else None

    def find(self, tenant: str) -> list[ApiKey]:
        query = "select * from keys where tenant = ? order by created_at, id"
        return [key_from_row(row) for row in self.database.fetch_all(query, tenant)]

    def any_exist(self) -> bool:
        return bool(self.database.fetch_all("select 1 as found from keys limit 1"))

    def revoke(self, tenant: str, id: str, now: float) -> bool:
        query = "update keys set revoked_at = coalesce(revoked_at, ?) where tenant = ? and id = ?"
        with self.database.transaction() as db:
            return db.execute(query, (now, tenant, id)).rowcount == 1

    def touch(self, id: str, now: float) -> None:
        query = "update keys set last_used_at = ? where id = ? and coalesce(last_used_at, 0) < ?"
        with self.database.transaction() as db:
            db.execute(query, (now, id, now))
