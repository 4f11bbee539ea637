"""API keys in the table: an item for each key, and a link from its tenant."""

from __future__ import annotations

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import RejectedError
from noetl.executor.model.registry import SERVICE_TENANT, ApiKey
from noetl.executor.model.request_counts import RequestBatch
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.expressions import ABSENT, PRESENT, Condition, Put, Update
from noetl.executor.stores.dynamo.table import DynamoTable


class DynamoApiKeys:
    """The API keys of the DynamoDB store."""

    def __init__(self, table: DynamoTable) -> None:
        self._table = table

    def add(self, key: ApiKey) -> None:
        item = {
            "hash": key.hash,
            "tenant_of": key.tenant,
            "name": key.name,
            "scopes": list(key.scopes),
            "at": key.created_at,
        }
        link = keys.api_key_link(key.tenant, key.created_at, key.id)
        try:
            self._table.write(
                [
                    Put(keys.api_key(key.id), item, (ABSENT,)),
                    Put(link, {"key": key.id}, when=()),
                    *([Update(keys.ANY_API_KEY, {"there": True})] if key.tenant != SERVICE_TENANT else []),
                ]
            )
        except ConditionFailed:
            raise RejectedError("key_exists", f"API key {key.id} already exists") from None

    def get(self, id: str) -> ApiKey | None:
        item = self._table.get(keys.api_key(id))
        return None if item is None else _decode_key(item)

    def find(self, tenant: str) -> list[ApiKey]:
        links = list(self._table.query(keys.api_key_link(tenant, 0.0, "").pk, "A#"))
        items = self._table.get_many([keys.api_key(link["key"]) for link in links])
        return sorted(map(_decode_key, items.values()), key=lambda key: (key.created_at, key.id))

    def any_exist(self) -> bool:
        return self._table.get(keys.ANY_API_KEY) is not None

    def revoke(self, tenant: str, id: str, now: float) -> bool:
        try:
            self._table.update(
                Update(keys.api_key(id), keep={"revoked": now}, when=(("tenant_of", "=", tenant),))
            )
        except ConditionFailed:
            return False
        return True

    def touch(self, id: str, now: float) -> None:
        item = self._table.get(keys.api_key(id))
        while item is not None and item.get("used", 0.0) < now:
            is_unchanged: Condition = (
                ("used", "=", item["used"]) if "used" in item else ("used", "absent", None)
            )
            try:
                self._table.update(Update(keys.api_key(id), {"used": now}, when=(PRESENT, is_unchanged)))
            except ConditionFailed as refusal:
                item = refusal.items[0]
            else:
                return

    def count_requests(self, batch: RequestBatch) -> bool:
        key = keys.request_count(batch.subject, batch.place)
        while True:
            items = {item["sk"]: item for item in self._table.query(key.pk, "")}
            window = [item for item in items.values() if batch.oldest_slot <= item["slot"] <= batch.slot]
            if sum(item["count"] for item in window) + batch.size > batch.limit:
                return False
            place = items.get(key.sk)
            earlier = place["count"] if place is not None and place["slot"] == batch.slot else 0
            unchanged: tuple[Condition, ...] = (
                (ABSENT,) if place is None else (("slot", "=", place["slot"]), ("count", "=", place["count"]))
            )
            try:
                count = {"slot": batch.slot, "count": earlier + batch.size}
                self._table.update(Update(key, count, when=unchanged))
            except ConditionFailed:
                continue
            return True


def _decode_key(item: Item) -> ApiKey:
    return ApiKey(
        item["pk"][2:],
        item["hash"],
        item["tenant_of"],
        item["name"],
        tuple(item["scopes"]),
        item["at"],
        item.get("used"),
        item.get("revoked"),
    )
