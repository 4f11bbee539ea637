"""The completion of commands that child runs have not followed yet, in transactions of their own.

`noetl.executor.stores.sql.cascades` has the algorithm.
"""

from __future__ import annotations

import logging
import time

from noetl.executor.errors import DamagedRunError, StoreError
from noetl.executor.stores.damage import naming_run
from noetl.executor.stores.sql.branches import resume_cascade
from noetl.executor.stores.sql.cascades import Cascade, ChildSelection
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.damaged_runs import set_aside
from noetl.executor.stores.sql.plans import SqlPlans
from noetl.executor.stores.sql.retry import retry_unwritten
from noetl.executor.stores.sql.rows import Row

PAUSE_SECONDS = 0.005
"""Time between two transactions. Other processes that wait for the lock of SQLite look for it meanwhile."""

logger = logging.getLogger("noetl.executor")


class PendingCascadeError(Exception):
    """Child runs have not followed an earlier command to their parent."""


class SqlCascades:
    """The commands of a SQL store that child runs have not followed yet."""

    def __init__(self, context: SqlContext, plans: SqlPlans) -> None:
        self._context = context
        self._plans = plans

    def complete(self, run_id: str, now: float) -> None:
        """Return when all runs below a run have followed the commands to it, and to runs above it.

        Other processes may do the same at the same time. The time of a transaction is that of the request,
        and the whole seconds since. Claims do not find at once what becomes due long before the present.
        """
        is_any, began = False, time.monotonic()
        while rows := self._context.database.fetch_all("cascades.find_of_tree", run_id=run_id):
            if is_any:
                time.sleep(PAUSE_SECONDS)
            is_any = True
            self._continue(rows[0], now + (time.monotonic() - began) // 1)
        if is_any:
            self._context.announce_due()

    def try_complete(self, run_id: str, now: float) -> None:
        """Complete the commands that a commit has sent. If the store refuses, a sweep does it later."""
        try:
            self.complete(run_id, now)
        except StoreError as error:
            fields = {"workflow_id": run_id}
            message = "some child runs of run %s follow it after the next sweep: %s"
            logger.warning(message, run_id, error, extra={"fields": fields})

    def complete_some(self, now: float) -> bool:
        """Let some child runs follow a command that a process has left, in one transaction.

        Return whether there was such a command.
        """
        rows = self._context.database.fetch_all("cascades.find_first")
        for row in rows:
            self._continue(row, now)
            self._context.announce_due()
        return bool(rows)

    @retry_unwritten
    def _continue(self, row: Row, now: float) -> None:
        """Let some child runs follow the command of a row, in one transaction.

        A child run that cannot be read is set aside, and the others follow.
        """
        run_id, damaged = row["run_id"], frozenset[str]()
        while True:
            try:
                with naming_run(run_id), self._context.transaction() as db:
                    db.lock_run(run_id)
                    found = db.execute("cascades.read", run_id=run_id, visit_id=row["visit_id"]).fetchone()
                    if found is not None:
                        cascade = Cascade(db, now, found["caller"])
                        cascade.skipped = damaged
                        resume_cascade(cascade, self._plans, ChildSelection.from_row(found))
            except DamagedRunError as error:
                if error.run_id is None or error.run_id in damaged:
                    raise
                set_aside(self._context, error.run_id, error.message)
                damaged |= {error.run_id}
            else:
                return
