"""The store in DynamoDB, with its messages in SQS and its long values in S3.

Its parts are classes that this package combines by inheritance: claims, commits, joins, lifecycle, sweep,
queries, waits, playbooks, API keys, retention and history. `context.py` holds what they share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from noetl.executor.errors import SchemaError
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.api_keys import DynamoApiKeys
from noetl.executor.stores.dynamo.history import DynamoHistory
from noetl.executor.stores.dynamo.playbooks import DynamoPlaybooks
from noetl.executor.stores.dynamo.queries import DynamoQueries
from noetl.executor.stores.dynamo.retention import DynamoRetention
from noetl.executor.stores.dynamo.sweep import DynamoSweep
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.waits import DynamoWaits
from noetl.executor.stores.sqs.messages import MessageQueue

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding

SCHEMA_VERSION = 1
"""Version of the format of items. A table that names no version has this one."""


class DynamoStore(
    DynamoWaits,
    DynamoHistory,
    DynamoRetention,
    DynamoQueries,
    DynamoSweep,
):
    """A store in a table of DynamoDB.

    With the URL of a queue, messages say which visits of service runs are due. Visits of local runs, and of
    all runs without a queue, are found in the table. With a bucket, long values are stored there. Ended runs
    are kept for `retention_seconds`, or for ever.

    Raises:
        StoreError: the table does not exist, or cannot be reached.
    """

    def __init__(
        self,
        table: str,
        *,
        queue_url: str | None = None,
        bucket: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        queue = None if queue_url is None else MessageQueue(queue_url)
        super().__init__(DynamoTable(table), queue, bucket, retention_seconds)
        self.registry = DynamoPlaybooks(self.table)
        self.keys = DynamoApiKeys(self.table)
        schema_item = self.table.get(keys.SCHEMA)
        schema = SCHEMA_VERSION if schema_item is None else schema_item["schema"]
        if schema > SCHEMA_VERSION:
            raise SchemaError(
                f"The store in DynamoDB has schema {schema}, but this version of noetl knows only"
                f" {SCHEMA_VERSION}: install a later version."
            )

    @property
    def runs(self) -> Self:
        return self

    @property
    def queue(self) -> Self:
        return self

    @property
    def waits(self) -> Self:
        return self

    @property
    def maintenance(self) -> Self:
        return self

    def close(self) -> None:
        """Return at once: the process shares its clients between stores."""

    def check_consistency(self) -> list[Finding]:
        """Return the inconsistencies of the table, the bucket and the queue, without changing them."""
        from noetl.executor.stores.dynamo.consistency import ConsistencyCheck

        return ConsistencyCheck(self).check_consistency()
