"""The store in a SQL database, which SQLite and Postgres share: it puts the parts of a store together.

A part is an object for one subject, as in `interface.py`. The parts share a `SqlContext`; none of them is a
base class of a part for another subject. What differs between databases is behind `Database`, and in the
fragments of a dialect.
"""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.interface import StoreMaintenance, WorkQueue
from noetl.executor.stores.sql.api_keys import SqlApiKeys
from noetl.executor.stores.sql.cached_results import SqlCache
from noetl.executor.stores.sql.channels import SqlChannels
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Database
from noetl.executor.stores.sql.facts import SqlFacts
from noetl.executor.stores.sql.gates import SqlGates
from noetl.executor.stores.sql.maintenance import SqlMaintenance
from noetl.executor.stores.sql.outbox import SqlOutbox
from noetl.executor.stores.sql.pauses import SqlPauses
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.playbooks import SqlPlaybooks
from noetl.executor.stores.sql.queue import SqlQueue
from noetl.executor.stores.sql.runs import SqlRuns
from noetl.executor.stores.sql.switches import SqlSwitches
from noetl.executor.stores.sql.triggers import SqlTriggers
from noetl.executor.stores.sql.visits import SqlVisits
from noetl.executor.stores.sql.waits import SqlWaits


class SqlStore:
    """A store in a SQL database, by its parts."""

    def __init__(self, context: SqlContext, facts: SqlFacts) -> None:
        self.context = context
        self.facts = facts
        self.plans = SqlPlans(self.context)
        self.runs = SqlRuns(self.context, self.plans)
        self.visits = SqlVisits(self.context)
        self.pauses = SqlPauses(self.context, self.plans)
        self.switches = SqlSwitches(self.context, self.plans, self.visits)
        self.queue: WorkQueue = SqlQueue(self.context, self.plans)
        self.waits = SqlWaits(self.context)
        self.registry = SqlPlaybooks(self.context, self.plans)
        self.triggers = SqlTriggers(self.context)
        self.gates = SqlGates(self.context)
        self.outbox = SqlOutbox(self.context)
        self.channels = SqlChannels(self.context)
        self.keys = SqlApiKeys(self.context)
        self.cache = SqlCache(self.context)
        self.maintenance: StoreMaintenance = SqlMaintenance(self.context, self.plans, facts)

    @property
    def database(self) -> Database:
        """Database of all parts."""
        return self.context.database

    @property
    def changes(self) -> ChangeSignal:
        return self.context.changes

    @property
    def clock(self) -> Callable[[], float]:
        return self.context.database.clock

    @property
    def work(self) -> ChangeSignal:
        return self.context.work

    def close(self) -> None:
        self.context.database.close()
