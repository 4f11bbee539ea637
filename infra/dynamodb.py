"""The table of a store in DynamoDB: its definition, and the function that creates it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from noetl.executor.clients.aws import client, translate_error
from noetl.executor.errors import ActionError, StoreError
from noetl.executor.stores.dynamo.store import SCHEMA_VERSION

DEFINITION = Path(__file__).parent / "dynamodb.json"
TIME_TO_LIVE = "expires"
"""Attribute with the time from which DynamoDB may delete an item, in seconds since the epoch."""


def definition() -> dict[str, Any]:
    """Return keys, indexes and billing of the table in the form of `CreateTable` and CloudFormation."""
    parameters: dict[str, Any] = json.loads(DEFINITION.read_text("utf-8"))
    return parameters


def upgrade(table: str) -> list[str]:
    """Create the table, its indexes and its time to live if they are missing, and return what was created.

    Concurrent calls are safe.

    Raises:
        StoreError: DynamoDB cannot be reached or refuses, or the table is not that of a store.
    """
    try:
        return _upgrade(client("dynamodb"), table)
    except StoreError:
        raise
    except Exception as error:
        translated_error = translate_error(error, f"table {table}")
        if isinstance(translated_error, ActionError):
            raise StoreError(
                f"The store in DynamoDB cannot be created: {translated_error.message}"
            ) from error
        raise


def _upgrade(dynamodb: Any, table: str) -> list[str]:
    expected = definition()
    created = []
    try:
        description = dynamodb.describe_table(TableName=table)["Table"]
    except dynamodb.exceptions.ResourceNotFoundException:
        try:
            dynamodb.create_table(TableName=table, **expected)
            created.append(f"table {table}")
        except dynamodb.exceptions.ResourceInUseException:
            pass
        dynamodb.get_waiter("table_exists").wait(
            TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        description = dynamodb.describe_table(TableName=table)["Table"]
    if sorted(map(str, description["KeySchema"])) != sorted(map(str, expected["KeySchema"])):
        raise StoreError(
            f"The table {table} does not have the keys of a noetl store (schema {SCHEMA_VERSION})."
        )
    existing = {index["IndexName"] for index in description.get("GlobalSecondaryIndexes", ())}
    for index in expected["GlobalSecondaryIndexes"]:
        if index["IndexName"] not in existing:
            dynamodb.update_table(
                TableName=table,
                AttributeDefinitions=expected["AttributeDefinitions"],
                GlobalSecondaryIndexUpdates=[{"Create": index}],
            )
            created.append(f"index {index['IndexName']}")
    time_to_live = dynamodb.describe_time_to_live(TableName=table).get("TimeToLiveDescription", {})
    if time_to_live.get("TimeToLiveStatus") not in ("ENABLED", "ENABLING"):
        dynamodb.update_time_to_live(
            TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": TIME_TO_LIVE}
        )
        created.append("time to live")
    return created
