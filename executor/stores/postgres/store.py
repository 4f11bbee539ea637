"""The store in Postgres, for any number of workers on any number of machines.

It is the store of `sql/store.py` with runs, a work queue and a maintenance of its own. Here, and nowhere
else, the parts learn to retry.
"""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.postgres.facts import PostgresFacts
from noetl.executor.stores.postgres.gates import PostgresGates
from noetl.executor.stores.postgres.maintenance import PostgresMaintenance
from noetl.executor.stores.postgres.message_tables import MessageTables
from noetl.executor.stores.postgres.queue import PostgresQueue
from noetl.executor.stores.postgres.runs import PostgresRuns
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.retry import retry_part
from noetl.executor.stores.sql.store import SqlStore
from noetl.executor.stores.sqs.messages import MessageQueue


class PostgresStore(SqlStore):
    """A store in the database at a libpq URI, or at the URI that a function returns for each connection.

    An operation that failed and certainly wrote nothing is retried. If it may have been written, it raises a
    StoreError. With the URL of a queue, messages announce the due visits of service runs, so that functions
    execute them. The table remains the queue. `threads` is how many threads of the process execute visits.

    Raises:
        StoreError: the database cannot be reached, or its schema is not up to date.
    """

    runs: PostgresRuns
    queue: PostgresQueue
    maintenance: PostgresMaintenance

    def __init__(
        self,
        uri: str | Callable[[], str],
        *,
        queue_url: str | None = None,
        threads: int | None = None,
        limits: PayloadLimits | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.message_queue = None if queue_url is None else MessageQueue(queue_url)
        self.postgres = PostgresDatabase(uri, self.message_queue, threads)
        context = SqlContext(self.postgres, limits, retention_seconds)
        super().__init__(context, PostgresFacts(context))
        self.runs = PostgresRuns(self.context, self.plans)
        self.gates = PostgresGates(self.context, self.postgres)
        self.queue = PostgresQueue(self.context, self.plans, self.postgres)
        self.maintenance = PostgresMaintenance(self.maintenance, self.postgres)
        for part in (
            self.plans,
            self.runs,
            self.visits,
            self.pauses,
            self.switches,
            self.queue,
            self.waits,
            self.registry,
            self.triggers,
            self.gates,
            self.outbox,
            self.channels,
            self.keys,
            self.cache,
            self.facts,
            self.maintenance,
        ):
            retry_part(part)
        self.message_tables = MessageTables(self.postgres.connect_session)
        self.postgres.listen(self._signal)

    def _signal(self, due: int | None) -> None:
        self.work.notify(due)
        self.changes.notify()
