"""The gates of a Postgres store: one statement for the most frequent request.

Problem: the transaction that asks for slots takes three round trips. Most visits that ask after their claim
need not wait.

Algorithm: a request for one slot is sent with the lock of the run in one pipeline, which is one transaction.
The statement returns the slot if its owner holds it already, or takes units by the conditions of
`gates.admit` or `rate_gates.reserve`. If it returns nothing, the transaction of `SqlGates` decides.

Cost: one round trip, and those of `SqlGates` if the owner has to wait.

Limits: owners with several limits or rates take the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.gates import Slot, SlotOwner, SlotRequest
from noetl.executor.model.run import Claim
from noetl.executor.stores.postgres.database import PostgresDatabase
from noetl.executor.stores.postgres.slots import AcquiringStatement
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.gates import SqlGates


class PostgresGates(SqlGates):
    """The gates of a Postgres store."""

    def __init__(self, context: SqlContext, database: PostgresDatabase) -> None:
        super().__init__(context)
        self._database = database

    def acquire(
        self, claim: Claim, owner: SlotOwner, requests: Sequence[SlotRequest], now: float
    ) -> list[Slot]:
        if len(requests) == 1:
            slot = self._acquire_one(claim, owner, requests[0], now)
            if slot is not None:
                return [slot]
        return super().acquire(claim, owner, requests, now)

    def _acquire_one(self, claim: Claim, owner: SlotOwner, request: SlotRequest, now: float) -> Slot | None:
        """Return the slot that an owner holds or gets at once, or None if it has to wait or is refused."""
        acquiring = AcquiringStatement(claim.visit, owner, request, now)
        query, values = acquiring.statement
        return acquiring.slot(self._database.execute_returning_locked(query, **values))
