"""The table of a store in DynamoDB: its definition, and what makes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noetl.executor.clients.aws import client, translated
from noetl.executor.errors import ActionError, StoreError
from noetl.executor.stores.dynamo.store import SCHEMA_VERSION

DEFINITION = Path(__file__).parent / "dynamodb.json"
TIME_TO_LIVE = "expires"
"""The attribute that says when DynamoDB may delete an item, in seconds since the epoch."""


def definition() -> dict[str, Any]:
    """Keys, indexes and billing of the table, as `CreateTable` and CloudFormation want them."""
    found: dict[str, Any] = json.loads(DEFINITION.read_text("utf-8"))
    return found


def upgrade(table: str) -> list[str]:
    """Make the table where it is not there, and what it lacks where it is; what was made. Several may do so at once.

    Raises:
        StoreError: DynamoDB cannot be reached or refuses, or the table is none of a store.
    """
    try:
        return _upgrade(client("dynamodb"), table)
    except StoreError:
        raise
    except Exception as error:
        told = translated(error, f"table {table}")
        if isinstance(told, ActionError):
            raise StoreError(f"The store in DynamoDB cannot be made: {told.message}") from error
        raise


def _upgrade(dynamodb: Any, table: str) -> list[str]:
    wanted = definition()
    made = []
    try:
        found = dynamodb.describe_table(TableName=table)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException:
        try:
            dynamodb.create_table(TableName=table, **wanted)
            made.append(f"table {table}")
        except dynamodb.exceptions.ResourceInUseException:
            pass
        dynamodb.get_waiter("table_exists").wait(
            TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        found = dynamodb.describe_table(TableName=table)["Table"]
    if sorted(map(str, found["KeySchema"])) != sorted(map(str, wanted["KeySchema"])):
        raise StoreError(f"The table {table} has other keys than a store of noetl (schema {SCHEMA_VERSION}).")
    there = {index["IndexName"] for index in found.get("GlobalSecondaryIndexes", ())}
    for index in wanted["GlobalSecondaryIndexes"]:
        if index["IndexName"] not in there:
            dynamodb.update_table(
                TableName=table,
                AttributeDefinitions=wanted["AttributeDefinitions"],
                GlobalSecondaryIndexUpdates=[{"Create": index}],
            )
            made.append(f"index {index['IndexName']}")
    told = dynamodb.describe_time_to_live(TableName=table).get("TimeToLiveDescription", {})
    if told.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        dynamodb.update_time_to_live(
            TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": TIME_TO_LIVE}
        )
        made.append("time to live")
    return made
