"""Pauses of runs in a SQL store.

A transaction locks the run, and then its child runs. If these are many, further transactions follow.
"""

from __future__ import annotations

from noetl.executor.model.run import Run
from noetl.executor.model.run_transition import show_paused
from noetl.executor.stores.sql.branches import pause_branches, unpause_branches
from noetl.executor.stores.sql.cascade_completion import SqlCascades
from noetl.executor.stores.sql.cascades import Cascade
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.plans import SqlPlans


class SqlPauses:
    """The pauses of a SQL store."""

    def __init__(self, context: SqlContext, plans: SqlPlans) -> None:
        self._context = context
        self._plans = plans
        self._cascades = SqlCascades(context, plans)

    def pause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        with self._context.transaction() as db:
            run = pause_branches(Cascade(db, now, caller), self._plans, run_id)
            db.execute("branches.remember_own_pause", run_id=run_id)
        self._cascades.complete(run_id, now)
        return show_paused(run)

    def unpause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        with self._context.transaction() as db:
            run = unpause_branches(Cascade(db, now, caller), self._plans, run_id)
        self._context.announce_due()
        self._cascades.complete(run_id, now)
        return run
