"""The store in DynamoDB, whose messages are in SQS and whose large values are in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from noetl.planner.plan import Header, Plan, Step, Task

if TYPE_CHECKING:
    from noetl.executor.stores.finding import Finding

SCHEMA_VERSION = 1
"""What the items of a table are like; one that says nothing of it is of this version."""


class DynamoStore(
    DynamoWaits, DynamoPlaybooks, DynamoApiKeys, DynamoHistory, DynamoRetention, DynamoQueries, DynamoSweep
):
    """Runs in a table of DynamoDB. With the URL of a queue, the runs of a service are walked as its messages say; those of
    local runs, and without a queue all, as the table says. With a bucket, large values lie there. Runs that have ended are kept for
    `retention_seconds`, or for ever.

    Raises:
        StoreError: the table cannot be reached, or is not there.
    """

    def __init__(
        self,
        table: str,
        *,
        queue_url: str | None = None,
        bucket: str | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        super().__init__(
            DynamoTable(table),
            None if queue_url is None else MessageQueue(queue_url),
            bucket,
            retention_seconds,
        )
        kept = self.table.get(keys.SCHEMA)
        schema = SCHEMA_VERSION if kept is None else kept["schema"]
        if schema > SCHEMA_VERSION:
            message = f"The store in DynamoDB has schema {schema}, and this version of noetl knows {SCHEMA_VERSION}: it takes a later one."
            raise SchemaError(message)

    def close(self) -> None:
        """Clients are shared by the whole process, so there is nothing to give up."""

    def check_consistency(self) -> list[Finding]:
        """What is wrong with the store. Runs may be at work meanwhile; nothing is written."""
        from noetl.executor.stores.dynamo.consistency import ConsistencyCheck

        return ConsistencyCheck(self).check_consistency()

    def save_plan(self, plan: Plan) -> None:
        self.plans.save(plan)

    def plan_header(self, plan_hash: str) -> Header:
        return self.plans.header(plan_hash)

    def plan_step(self, plan_hash: str, name: str) -> Step:
        return self.plans.step(plan_hash, name)

    def plan_task(self, plan_hash: str, name: str) -> Task:
        return self.plans.task(plan_hash, name)

    def plan(self, plan_hash: str) -> Plan:
        return self.plans.plan(plan_hash)
