"""Channels of notifications in a SQL store. A write names the edition that was read."""

from __future__ import annotations

import json
from typing import Any

from noetl.executor.model.channels import Channel
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.context import SqlContext


class SqlChannels:
    """The channels of a SQL store."""

    def __init__(self, context: SqlContext) -> None:
        self._context = context

    def get(self, tenant: str, name: str) -> Channel | None:
        rows = self._context.database.fetch_all("channels.get", tenant=tenant, name=name)
        return _decode_channel(rows[0]) if rows else None

    def find(self, tenant: str) -> list[Channel]:
        rows = self._context.database.fetch_all("channels.find", tenant=tenant)
        return [_decode_channel(row) for row in rows]

    def put(self, channel: Channel, read: Channel | None) -> bool:
        values = {
            "tenant": channel.tenant,
            "name": channel.name,
            "events": encode_json(list(channel.events)) if channel.events else None,
            "edition": channel.edition,
            "record": encode_json(channel.to_json()),
        }
        with self._context.database.transaction() as db:
            if read is None:
                written = db.execute("channels.add", **values)
            else:
                written = db.execute("channels.change", edition_before=read.edition, **values)
            return written.rowcount == 1

    def remove(self, channel: Channel) -> bool:
        key = {"tenant": channel.tenant, "name": channel.name, "edition": channel.edition}
        with self._context.database.transaction() as db:
            return db.execute("channels.remove", **key).rowcount == 1


def _decode_channel(row: Any) -> Channel:
    return Channel.from_json(json.loads(row["record"]))
