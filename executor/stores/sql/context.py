"""The context that the parts of a SQL store share: database, settings, and the signals of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from noetl.executor.model.gates import SHARED_TENANT, GateKey, named_gate
from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.change_signal import ChangeSignal
from noetl.executor.stores.sql.database import Database, Writer
from noetl.executor.stores.sql.due_floor import DueFloor
from noetl.executor.stores.sql.slots import give_back_slots

MAX_SHARED_LIMITS = 1000
"""How many names of limits that all tenants share a process remembers."""


class SqlContext:
    """The database of a store, its settings, and its signals.

    Runs that ended more than `retention_seconds` ago are deleted, unless it is None.
    """

    def __init__(
        self,
        database: Database,
        limits: PayloadLimits | None = None,
        retention_seconds: float | None = None,
    ) -> None:
        self.database = database
        self.limits = limits or PayloadLimits()
        self.retention_seconds = retention_seconds
        self.floor = DueFloor(database.clock)
        self.changes = ChangeSignal()
        self.work = ChangeSignal()
        self._shared_limits: set[str] = set()
        """The names of operators' limits that all tenants shared when they were read last."""

    @contextmanager
    def transaction(self) -> Iterator[Writer]:
        """Begin a write transaction that signals a change of runs when it is committed.

        Before that, it gives back the units of the slots that it has deleted.
        """
        with self.database.transaction(self.changes.notify) as db:
            yield db
            give_back_slots(db)

    def remember_shared(self, name: str, *, is_shared: bool) -> None:
        """Remember whether all tenants share the operator's limit of a name."""
        if not is_shared:
            self._shared_limits.discard(name)
            return
        if len(self._shared_limits) >= MAX_SHARED_LIMITS:
            self._shared_limits.clear()
        self._shared_limits.add(name)

    def assume_named(self, tenant: str, name: str) -> GateKey:
        """Return the gate of an operator's limit, without a read. The store checks whether it is hidden."""
        return named_gate(SHARED_TENANT if name in self._shared_limits else tenant, name)

    def announce_due(self, count: int | None = None) -> None:
        """Signal workers that `count` visits have become due, or that some may have if it is None."""
        self.work.notify(count)
        if count != 0:
            self.database.notify(count)

    def announce_end(self, due: int) -> None:
        """Signal other processes that a run has ended, and workers that `due` visits have become due by it.

        A process without workers may wait for the run.
        """
        self.work.notify(due)
        self.database.notify(due)
