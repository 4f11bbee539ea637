"""The table: reads and writes of items, tried again where that helps, and known for certain to be made or not.

Every read is strongly consistent, but for those of the indexes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from noetl.executor.clients.aws import client
from noetl.executor.clients.aws_retry import (
    MAX_TRIES,
    ConditionFailed,
    ItemTooLarge,
    call_with_retries,
    pause_seconds,
    was_heard_before,
)
from noetl.executor.errors import ActionError, PayloadTooLargeError, StoreError
from noetl.executor.stores.dynamo.attributes import Item, decode_item, encode_item, encode_value
from noetl.executor.stores.dynamo.expressions import ConditionCheck, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.keys import ItemKey

MOST_READ = 100
MAX_TRANSACTION_ITEMS = 100
"""How many items one call reads, and one transaction writes, at most."""

MAX_ITEM_BYTES = 400 * 1024
MAX_TRANSACTION_BYTES = 4 * 1024 * 1024
_MARGIN = 8 * 1024
"""What is kept free of these for the rest of an item that an update leaves as it is."""


class DynamoTable:
    """A table of the region and the account that the environment names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._what = f"table {name} (NOETL_STORE)"

    @property
    def client(self) -> Any:
        try:
            return client("dynamodb", once=True)
        except ActionError as error:
            raise StoreError(f"The store in DynamoDB cannot be used: {error.message}") from error

    def describe(self) -> dict[str, Any]:
        return dict(self._call("describe_table", TableName=self.name)["Table"])

    def get(self, key: ItemKey) -> Item | None:
        found = self._call(
            "get_item", TableName=self.name, Key=encode_item(key._asdict()), ConsistentRead=True
        )
        return decode_item(found["Item"]) if "Item" in found else None

    def get_many(self, keys: Sequence[ItemKey]) -> dict[ItemKey, Item]:
        """The items that are there. Those that one call does not give are asked for again."""
        found: dict[ItemKey, Item] = {}
        wanted = list(dict.fromkeys(keys))
        for start in range(0, len(wanted), MOST_READ):
            left = [encode_item(key._asdict()) for key in wanted[start : start + MOST_READ]]
            for tries in range(MAX_TRIES):
                asked = {self.name: {"Keys": left, "ConsistentRead": True}}
                answer = self._call("batch_get_item", RequestItems=asked)
                for raw in answer["Responses"].get(self.name, ()):
                    item = decode_item(raw)
                    found[ItemKey(item["pk"], item["sk"])] = item
                left = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
                if not left:
                    break
                time.sleep(pause_seconds(tries))
            else:
                raise StoreError("The store in DynamoDB is overloaded: it left keys of a read unanswered.")
        return found

    def snapshot(self, keys: Sequence[ItemKey]) -> list[Item]:
        """The items as they stood at one moment; empty ones for those that are not there."""
        if len(keys) == 1:
            return [self.get(keys[0]) or {}]
        gets = [{"Get": {"TableName": self.name, "Key": encode_item(key._asdict())}} for key in keys]
        answer = self._call("transact_get_items", TransactItems=gets)
        return [decode_item(found.get("Item", {})) for found in answer["Responses"]]

    def query(
        self, pk: str, prefix: str, *, after: str | None = None, backward: bool = False
    ) -> Iterator[Item]:
        """The items of a partition whose sort key begins so, or all, in its order; `after` one of them."""
        if after is None:
            which, values = (" AND begins_with(sk, :prefix)", {":prefix": prefix}) if prefix else ("", {})
        else:
            which, values = (
                " AND sk BETWEEN :after AND :end",
                {":after": f"{after}\x00", ":end": f"{prefix}\U0010ffff"},
            )
        asked = {
            "TableName": self.name,
            "KeyConditionExpression": f"pk = :pk{which}",
            "ExpressionAttributeValues": encode_item({":pk": pk, **values}),
            "ConsistentRead": True,
            "ScanIndexForward": not backward,
        }
        while True:
            answer = self._call("query", **asked)
            yield from map(decode_item, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            asked["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def index(self, name: str, **asked: Any) -> dict[str, Any]:
        """A page of an index, as the client gives it."""
        return dict(self._call("query", TableName=self.name, IndexName=name, **asked))

    def scan(self, told: Sequence[str] = ()) -> Iterator[Item]:
        """Every item of the table: these attributes of it, or all."""
        asked: dict[str, Any] = {"TableName": self.name, "ConsistentRead": True}
        if told:
            names = {f"#{index}": name for index, name in enumerate(told)}
            asked |= {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
        while True:
            answer = self._call("scan", **asked)
            yield from map(decode_item, answer["Items"])
            if "LastEvaluatedKey" not in answer:
                return
            asked["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def update(self, change: Update) -> Item:
        """Make a change; the item as it is then.

        Raises:
            ConditionFailed: a condition did not hold, with the item as it is. A change whose answer was lost and that finds itself made
                is not refused.
            PayloadTooLargeError: the item would be too large.
        """
        _check_sizes([change])
        token = secrets.token_hex(4) if change.when else None
        asked = change.parameters(self.name, token)
        if change.when:
            asked["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
        found = self._write("update_item", token, ReturnValues="ALL_NEW", **asked)
        return decode_item(found["Attributes"]) if "Attributes" in found else found

    def write(self, writes: Sequence[Write]) -> None:
        """Make all of the writes or none; one for itself costs half of what it would in a transaction.

        Raises:
            ConditionFailed, PayloadTooLargeError: as `update` does.
        """
        _check_sizes(writes)
        if len(writes) == 1:
            (only,) = writes
            token = secrets.token_hex(4) if only.when else None
            asked = only.parameters(self.name, token)
            if only.when:
                asked["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            call = {Update: "update_item", Put: "put_item", Delete: "delete_item"}[type(only)]
            self._write(call, token, **asked)
            return
        asked_for = []
        for one in writes:
            asked = one.parameters(self.name, None)
            if one.when:
                asked["ReturnValuesOnConditionCheckFailure"] = "ALL_OLD"
            asked_for.append({one.kind: asked})
        # The same token again: what was done before is not done twice.
        token = secrets.token_hex(16)
        self._write("transact_write_items", None, TransactItems=asked_for, ClientRequestToken=token)

    def delete(self, keys: Sequence[ItemKey]) -> None:
        """Delete items, not all at one moment."""
        for start in range(0, len(keys), 25):
            left = [
                {"DeleteRequest": {"Key": encode_item(key._asdict())}} for key in keys[start : start + 25]
            ]
            for tries in range(MAX_TRIES):
                answer = self._call("batch_write_item", RequestItems={self.name: left})
                left = answer.get("UnprocessedItems", {}).get(self.name, [])
                if not left:
                    break
                time.sleep(pause_seconds(tries))
            else:
                raise StoreError("The store in DynamoDB is overloaded: it left items undeleted.")

    def _write(self, call: str, token: str | None, **asked: Any) -> dict[str, Any]:
        try:
            return self._call(call, **asked)
        except ItemTooLarge as problem:
            raise PayloadTooLargeError(
                f"what is to be kept is larger than DynamoDB takes: {problem}"
            ) from None
        except ConditionFailed as refused:
            refused.found = [None if raw is None else decode_item(raw) for raw in refused.found]
            (found, *others) = refused.found
            if (
                token is not None
                and not others
                and was_heard_before(refused)
                and (found or {}).get("wrote") == token
            ):
                return found or {}
            raise

    def _call(self, call: str, **asked: Any) -> dict[str, Any]:
        method: Callable[..., Any] = getattr(self.client, call)
        found: dict[str, Any] = call_with_retries(self._what, lambda: method(**asked))[0]
        return found


def text(value: str) -> dict[str, Any]:
    """Text as an expression of an index wants it."""
    return encode_value(value)


def _check_sizes(writes: Sequence[Write]) -> None:
    """Raises PayloadTooLargeError for what DynamoDB would refuse."""
    largest = max(one.size for one in writes)
    if largest > MAX_ITEM_BYTES - _MARGIN:
        raise PayloadTooLargeError(f"an item has more than the {MAX_ITEM_BYTES:,} bytes that DynamoDB takes")
    if len(writes) > MAX_TRANSACTION_ITEMS:
        raise PayloadTooLargeError(
            f"a commit changes more than the {MAX_TRANSACTION_ITEMS} items that DynamoDB takes at once"
        )
    if sum(one.size for one in writes) > MAX_TRANSACTION_BYTES - MAX_TRANSACTION_ITEMS * 1024:
        raise PayloadTooLargeError(
            f"a commit has more than the {MAX_TRANSACTION_BYTES:,} bytes that DynamoDB takes at once"
        )
    if any(isinstance(one, ConditionCheck) for one in writes) and len(writes) == 1:
        raise TypeError("a check alone writes nothing")
