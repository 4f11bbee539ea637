"""Runs of a SQL store that are set aside because they are damaged."""

from __future__ import annotations

from noetl.executor.stores.damage import log_set_aside
from noetl.executor.stores.sql.context import SqlContext


def set_aside(context: SqlContext, run_id: str, reason: str) -> bool:
    """Let no worker claim visits of a damaged run, and log it. Return False if it was set aside before."""
    now = context.database.clock()
    with context.transaction() as db:
        db.lock_run(run_id)
        is_new = db.execute("damage.add", run_id=run_id, reason=reason, now=now).rowcount == 1
        db.execute("damage.hide_visits", run_id=run_id)
    if is_new:
        log_set_aside(run_id, reason)
    return is_new
