"""The DynamoDB table: consistent reads, and writes whose outcome is known after a lost response.

Problem: if the response to a conditional write is lost, its retry fails on the effect of the first try. A
claim or a commit would count as lost although it was applied.

Algorithm: idempotence tokens (Helland 2012). A conditional write of one item also writes a random token. If
a retry is refused and the item holds this token, the first try was applied. A transaction carries a
`ClientRequestToken`, which DynamoDB itself compares.

Cost: a single write costs half of what it costs in a transaction, so one write is never a transaction.

Limits: if another write has replaced the token meanwhile, the retry counts as refused. DynamoDB remembers
the token of a transaction for ten minutes. Reads are strongly consistent, except those of indexes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from noetl.executor.clients.aws_retry import (
    ConditionFailed,
    ItemTooLarge,
    call_with_retries,
    each_try,
    store_client,
)
from noetl.executor.errors import ActionError, PayloadTooLargeError, StoreError
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item
from noetl.executor.stores.dynamo.date_clock import DateClock
from noetl.executor.stores.dynamo.expressions import (
    WRITE_TOKEN,
    ConditionCheck,
    Delete,
    Put,
    Update,
    Write,
)
from noetl.executor.stores.dynamo.keys import SCHEMA, ItemKey

MAX_READ_ITEMS = 100
MAX_TRANSACTION_ITEMS = 100
"""Number of items that one call reads, and that one transaction writes, at most."""

MAX_DELETIONS = 25
"""Number of items that one call deletes at most."""

MAX_CONFLICTS = 64
"""Number of times that a change is tried again because of concurrent writers, before the store gives up."""

MAX_ITEM_BYTES = 400 * 1024
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
_MARGIN_BYTES = 8 * 1024
"""Bytes of an item that are kept free for attributes that an update does not write."""

_MAX_WRITTEN_BYTES = MAX_TRANSACTION_BYTES - MAX_TRANSACTION_ITEMS * 1024
"""Bytes that the writes of a transaction may have. The rest is for keys and conditions."""


class DynamoTable:
    """A table of the account and region that the environment names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = DateClock(lambda: self.get(SCHEMA))
        self._description = f"table {name} (NOETL_STORE)"

    @property
    def client(self) -> Any:
        """Client of the process for DynamoDB."""
        try:
            return store_client("dynamodb")
        except ActionError as error:
            raise StoreError(f"The store in DynamoDB cannot be used: {error.message}") from error

    def get(self, key: ItemKey, attributes: Sequence[str] = ()) -> Item | None:
        """Return an item with the named attributes or all, or None if it does not exist."""
        response = self._call(
            "get_item",
            TableName=self.name,
            Key=encode_item(key._asdict()),
            ConsistentRead=True,
            **_projection(attributes),
        )
        return decode_item(response["Item"]) if "Item" in response else None

    def get_many(self, keys: Sequence[ItemKey], attributes: Sequence[str] = ()) -> dict[ItemKey, Item]:
        """Return the items that exist, by key, with the named attributes or all.

        `attributes` must contain the key. Keys that DynamoDB leaves unprocessed are requested again.
        """
        items: dict[ItemKey, Item] = {}
        distinct = list(dict.fromkeys(keys))
        for start in range(0, len(distinct), MAX_READ_ITEMS):
            remaining = [encode_item(key._asdict()) for key in distinct[start : start + MAX_READ_ITEMS]]
            for _ in each_try():
                request = {self.name: {"Keys": remaining, "ConsistentRead": True, **_projection(attributes)}}
                response = self._call("batch_get_item", RequestItems=request)
                for encoded in response["Responses"].get(self.name, ()):
                    item = decode_item(encoded)
                    items[ItemKey(item["pk"], item["sk"])] = item
                remaining = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
                if not remaining:
                    break
            else:
                raise StoreError("The store in DynamoDB is overloaded: keys of a read stayed unprocessed.")
        return items

    def get_snapshot(self, keys: Sequence[ItemKey]) -> list[Item]:
        """Return items as of one moment; an item that does not exist is {}."""
        if len(keys) == 1:
            return [self.get(keys[0]) or {}]
        gets = [{"Get": {"TableName": self.name, "Key": encode_item(key._asdict())}} for key in keys]
        response = self._call("transact_get_items", TransactItems=gets)
        return [decode_item(entry.get("Item", {})) for entry in response["Responses"]]

    def query(
        self,
        pk: str,
        prefix: str,
        *,
        after: str | None = None,
        where: tuple[str, str | bool] | None = None,
        attributes: Sequence[str] = (),
    ) -> Iterator[Item]:
        """Yield the items of a partition whose sort keys start with `prefix`, in order, from `after` on
        (exclusive).

        `where` is an attribute and its value. DynamoDB reads the other items, too, and does not return them.
        Items have the named attributes, or all if none is named.
        """
        if after is None:
            which = " AND begins_with(sk, :prefix)" if prefix else ""
            values: dict[str, str | bool] = {":prefix": prefix} if prefix else {}
        else:
            which, values = (
                " AND sk BETWEEN :after AND :end",
                {":after": f"{after}\x00", ":end": f"{prefix}\U0010ffff"},
            )
        request = {
            "TableName": self.name,
            "KeyConditionExpression": f"pk = :pk{which}",
            "ConsistentRead": True,
            "ScanIndexForward": True,
            **_projection(attributes),
        }
        if where is not None:
            request["FilterExpression"] = "#where = :where"
            request.setdefault("ExpressionAttributeNames", {})["#where"] = where[0]
            values = {**values, ":where": where[1]}
        request["ExpressionAttributeValues"] = encode_item({":pk": pk, **values})
        return self._pages("query", request)

    def query_range(
        self,
        pk: str,
        bounds: tuple[str, str],
        *,
        limit: int | None = None,
        backward: bool = False,
        attributes: Sequence[str] = (),
    ) -> tuple[list[Item], bool]:
        """Return the items of a partition whose sort keys are within bounds, and whether these are
        all.

        With `limit`, at most so many are read, the last ones if `backward`. Items have the named attributes,
        or all if none is named.
        """
        request = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :first AND :last",
            "ExpressionAttributeValues": encode_item({":pk": pk, ":first": bounds[0], ":last": bounds[1]}),
            "ConsistentRead": True,
            "ScanIndexForward": not backward,
            **_projection(attributes),
        }
        if limit is None:
            return list(self._pages("query", request)), True
        response = self._call("query", Limit=limit, **request)
        return [decode_item(item) for item in response["Items"]], "LastEvaluatedKey" not in response

    def query_index(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Return a page of an index, as the client returns it."""
        return dict(self._call("query", TableName=self.name, IndexName=name, **parameters))

    def scan_index(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Return a page of all partitions of an index, as the client returns it."""
        return dict(self._call("scan", TableName=self.name, IndexName=name, **parameters))

    def scan(self, attributes: Sequence[str] = ()) -> Iterator[Item]:
        """Yield every item of the table, with the named attributes or all."""
        request = {"TableName": self.name, "ConsistentRead": True, **_projection(attributes)}
        return self._pages("scan", request)

    def _pages(self, call: str, request: dict[str, Any]) -> Iterator[Item]:
        while True:
            response = self._call(call, **request)
            yield from map(decode_item, response["Items"])
            if "LastEvaluatedKey" not in response:
                return
            request["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def update(self, update: Update) -> Item:
        """Apply an update and return the item as it is afterwards.

        An update whose response was lost, and that finds its own effect, counts as applied.

        Raises:
            ConditionFailed: a condition did not hold; it holds the current item.
            PayloadTooLargeError: the item would be too large.
        """
        _check_sizes([update])
        token = secrets.token_hex(4) if update.when else None
        request = update.parameters(self.name, token)
        if update.when:
            request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        response = self._write("update_item", token, ReturnValues="ALL_NEW", **request)
        return decode_item(response["Attributes"]) if "Attributes" in response else response

    def write(self, writes: Sequence[Write]) -> None:
        """Apply all of the writes or none.

        Raises:
            ConditionFailed, PayloadTooLargeError: as `update` does.
        """
        _check_sizes(writes)
        if len(writes) == 1:
            (single,) = writes
            token = secrets.token_hex(4) if single.when else None
            request = single.parameters(self.name, token)
            if single.when:
                request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            call = {Update: "update_item", Put: "put_item", Delete: "delete_item"}[type(single)]
            self._write(call, token, **request)
            return
        requests = []
        for write in writes:
            request = write.parameters(self.name, None)
            if write.when:
                request["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            requests.append({write.kind: request})
        # Retries of this call use the same token, so DynamoDB makes the transaction once.
        token = secrets.token_hex(16)
        self._write("transact_write_items", None, TransactItems=requests, ClientRequestToken=token)

    def delete(self, keys: Sequence[ItemKey]) -> None:
        """Delete items, not atomically."""
        for start in range(0, len(keys), MAX_DELETIONS):
            batch = keys[start : start + MAX_DELETIONS]
            remaining = [{"DeleteRequest": {"Key": encode_item(key._asdict())}} for key in batch]
            for _ in each_try():
                response = self._call("batch_write_item", RequestItems={self.name: remaining})
                remaining = response.get("UnprocessedItems", {}).get(self.name, [])
                if not remaining:
                    break
            else:
                raise StoreError("The store in DynamoDB is overloaded: deletions stayed unprocessed.")

    def _write(self, call: str, token: str | None, **request: Any) -> dict[str, Any]:
        try:
            return self._call(call, **request)
        except ItemTooLarge as problem:
            raise PayloadTooLargeError(f"an item is larger than DynamoDB accepts: {problem}") from None
        except ConditionFailed as refusal:
            refusal.items = [None if encoded is None else decode_item(encoded) for encoded in refusal.items]
            item = refusal.items[0]
            if token is not None and len(refusal.items) == 1 and refusal.may_have_been_applied:
                if (item or {}).get(WRITE_TOKEN) == token:
                    return item or {}
            raise

    def _call(self, call: str, **request: Any) -> dict[str, Any]:
        method: Callable[..., Any] = getattr(self.client, call)
        response: dict[str, Any] = call_with_retries(
            self._description, lambda: self.clock.observe(lambda: method(**request))
        )
        return response


def _projection(attributes: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of a read of the named attributes, or of all if none is named."""
    names = {f"#{index}": name for index, name in enumerate(attributes)}
    return {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names} if names else {}


def fits_transaction(writes: Sequence[Write], *, more: int = 0) -> bool:
    """Return whether one transaction can hold writes, with `more` condition checks."""
    size = sum(write.size for write in writes)
    return len(writes) + more <= MAX_TRANSACTION_ITEMS and size <= _MAX_WRITTEN_BYTES


def _check_sizes(writes: Sequence[Write]) -> None:
    """Raise PayloadTooLargeError for writes that DynamoDB would refuse."""
    largest = max(write.size for write in writes)
    if largest > MAX_ITEM_BYTES - _MARGIN_BYTES:
        raise PayloadTooLargeError(
            f"an item has more than the {MAX_ITEM_BYTES:,} bytes that DynamoDB accepts"
        )
    if len(writes) > MAX_TRANSACTION_ITEMS:
        raise PayloadTooLargeError(
            f"a commit changes more than the {MAX_TRANSACTION_ITEMS} items of a DynamoDB transaction"
        )
    if sum(write.size for write in writes) > _MAX_WRITTEN_BYTES:
        raise PayloadTooLargeError(
            f"a commit has more than the {MAX_TRANSACTION_BYTES:,} bytes of a DynamoDB transaction"
        )
    if any(isinstance(write, ConditionCheck) for write in writes) and len(writes) == 1:
        raise TypeError("a condition check alone writes nothing")
