"""Channels of notifications in DynamoDB: an item for each, in the partition of its tenant.

A write requires the edition that was read. If the events of a channel change, the same transaction changes
them in the item of the tenant's subscribers.

The item of a channel has `edition` and `record`, its JSON.
"""

from __future__ import annotations

import json

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.model.channels import Channel
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Write
from noetl.executor.stores.dynamo.subscribers import channel_update
from noetl.executor.stores.dynamo.table import DynamoTable


class DynamoChannels:
    """The channels of a DynamoDB store."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table

    def get(self, tenant: str, name: str) -> Channel | None:
        item = self._table.get(keys.channel(tenant, name))
        return None if item is None else _decode_channel(item)

    def find(self, tenant: str) -> list[Channel]:
        return [_decode_channel(item) for item in self._table.query(*keys.channel(tenant, ""))]

    def put(self, channel: Channel, read: Channel | None) -> bool:
        key = keys.channel(channel.tenant, channel.name)
        when = ABSENT if read is None else _is_unchanged(read)
        item: Item = {"edition": channel.edition, "record": encode_json(channel.to_json())}
        before = () if read is None else read.events
        updates = channel_update(channel.tenant, channel.name, before, channel.events)
        return self._write(Put(key, item, when=(when,)), *updates)

    def remove(self, channel: Channel) -> bool:
        key = keys.channel(channel.tenant, channel.name)
        updates = channel_update(channel.tenant, channel.name, channel.events, ())
        return self._write(Delete(key, when=(_is_unchanged(channel),)), *updates)

    def _write(self, *writes: Write) -> bool:
        try:
            self._table.write(writes)
        except ConditionFailed:
            return False
        return True


def _is_unchanged(channel: Channel) -> Condition:
    return ("edition", "=", channel.edition)


def _decode_channel(item: Item) -> Channel:
    return Channel.from_json(json.loads(item["record"]))
