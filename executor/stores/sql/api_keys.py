"""API keys in a SQL store."""

from __future__ import annotations

from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import ApiKey
from noetl.executor.model.request_counts import RequestBatch
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.rows import key_from_row


class SqlApiKeys:
    """The API keys of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def add(self, key: ApiKey) -> None:
        with self._context.database.transaction() as db:
            added = db.execute(
                "keys.add",
                id=key.id,
                hash=key.hash,
                tenant=key.tenant,
                name=key.name,
                scopes=encode_json(list(key.scopes)),
                created_at=key.created_at,
            )
            if added.rowcount == 0:
                raise RejectedError("key_exists", f"API key {key.id} already exists")

    def get(self, id: str) -> ApiKey | None:
        rows = self._context.database.fetch_all("keys.get", id=id)
        return key_from_row(rows[0]) if rows else None

    def find(self, tenant: str) -> list[ApiKey]:
        return [key_from_row(row) for row in self._context.database.fetch_all("keys.find", tenant=tenant)]

    def any_exist(self) -> bool:
        return bool(self._context.database.fetch_all("keys.any"))

    def revoke(self, tenant: str, id: str, now: float) -> bool:
        with self._context.database.transaction() as db:
            return db.execute("keys.revoke", tenant=tenant, id=id, now=now).rowcount == 1

    def touch(self, id: str, now: float) -> None:
        with self._context.database.transaction() as db:
            db.execute("keys.touch", id=id, now=now)

    def count_requests(self, batch: RequestBatch) -> bool:
        window = {"subject": batch.subject, "oldest": batch.oldest_slot, "slot": batch.slot}
        with self._context.database.transaction() as db:
            allowed = batch.limit - db.execute("keys.count_earlier_requests", **window).fetchone()["used"]
            if batch.size > allowed:
                return False
            counted = db.execute(
                "keys.count_requests",
                subject=batch.subject,
                place=batch.place,
                slot=batch.slot,
                size=batch.size,
                allowed=allowed,
            )
            return counted.rowcount == 1
