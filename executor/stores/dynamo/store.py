"""The store in DynamoDB, with its messages in SQS and its long values in S3.

Each part is an object that is given the parts that it calls. So the constructor creates callees before their
callers, and no two parts call each other. `context.py` holds what all of them share.
"""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.errors import ChangedSchemaError
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.api_keys import DynamoApiKeys
from noetl.executor.stores.dynamo.cached_results import DynamoCache
from noetl.executor.stores.dynamo.channels import DynamoChannels
from noetl.executor.stores.dynamo.child_run_counts import ChildRunCounts
from noetl.executor.stores.dynamo.claims import Claims
from noetl.executor.stores.dynamo.commits import Commits
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.facts import DynamoFacts
from noetl.executor.stores.dynamo.followups import Followups
from noetl.executor.stores.dynamo.gates import DynamoGates
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.maintenance import DynamoMaintenance
from noetl.executor.stores.dynamo.outbox import DynamoOutbox
from noetl.executor.stores.dynamo.pauses import Pauses
from noetl.executor.stores.dynamo.playbooks import DynamoPlaybooks
from noetl.executor.stores.dynamo.queue import DynamoQueue
from noetl.executor.stores.dynamo.repairs import Repairs
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.retention import Retention
from noetl.executor.stores.dynamo.run_deletion import RunDeletion
from noetl.executor.stores.dynamo.runs import DynamoRuns
from noetl.executor.stores.dynamo.stops import Stops
from noetl.executor.stores.dynamo.switches import DynamoSwitches
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.triggers import DynamoTriggers
from noetl.executor.stores.dynamo.visits import DynamoVisits
from noetl.executor.stores.dynamo.waits import DynamoWaits
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.executor.stores.sqs.messages import MessageQueue

SCHEMA_VERSION = 1
"""Version of the format of items. A table that names no version has this one."""


class DynamoStore:
    """A store in a table of DynamoDB; `table` is its name, or the table itself.

    With the URL of a queue, messages say which visits of service runs are due. Visits of local runs, and of
    all runs without a queue, are found in the table. With a bucket, long values are stored there. Ended runs
    are kept for `retention_seconds`, or for ever.

    Raises:
        StoreError: the table does not exist, or cannot be reached.
    """

    def __init__(
        self,
        table: str | DynamoTable,
        *,
        queue_url: str | None = None,
        bucket: str | None = None,
        retention_seconds: float | None = None,
        limits: PayloadLimits | None = None,
    ) -> None:
        table = DynamoTable(table) if isinstance(table, str) else table
        limits = limits or PayloadLimits()
        message_queue = None if queue_url is None else MessageQueue(queue_url)
        self.context = context = DynamoContext(table, message_queue, bucket, retention_seconds)
        wakeups = Wakeups(context)
        retention = Retention(context)
        joins = DynamoJoins(context)
        stops = Stops(context, joins)
        resumes = Resumes(context, retention)
        self.pauses = pauses = Pauses(context, joins, stops, resumes)
        self.switches = DynamoSwitches(context, resumes, wakeups)
        repairs = Repairs(context, joins, pauses, resumes, wakeups)
        followups = Followups(context, joins, pauses, wakeups, retention)
        claims = Claims(context, pauses, wakeups)
        commits = Commits(context, limits)
        self.plans = context.plans
        deletion = RunDeletion(context)
        self.runs = DynamoRuns(context, stops, resumes, ChildRunCounts(retention_seconds))
        self.visits = DynamoVisits(context, self.runs)
        self.queue = DynamoQueue(context, claims, commits, followups, repairs)
        self.waits = DynamoWaits(context, wakeups, limits)
        self.registry = DynamoPlaybooks(context)
        self.triggers = DynamoTriggers(context)
        self.gates = DynamoGates(context, wakeups)
        self.outbox = DynamoOutbox(table)
        self.channels = DynamoChannels(table)
        self.keys = DynamoApiKeys(table)
        self.cache = DynamoCache(context)
        self.facts = DynamoFacts()
        self.maintenance = DynamoMaintenance(context, repairs, deletion)
        self.changes = context.changes
        self.work = context.announcer.work
        _check_schema(table)

    @property
    def clock(self) -> Callable[[], float]:
        """Clock of DynamoDB, by its answers."""
        return self.context.table.clock

    def close(self) -> None:
        """Return at once: the process shares its clients between stores."""


def _check_schema(table: DynamoTable) -> None:
    """Check that this version of noetl knows the schema of a table.

    Raises:
        ChangedSchemaError: a later version has written it.
    """
    item = table.get(keys.SCHEMA)
    schema = SCHEMA_VERSION if item is None else item["schema"]
    if schema > SCHEMA_VERSION:
        raise ChangedSchemaError(
            f"The store in DynamoDB has schema {schema}, but this version of noetl knows only"
            f" {SCHEMA_VERSION}: install a later version."
        )
