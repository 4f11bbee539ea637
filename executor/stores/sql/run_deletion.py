"""The deletion of runs in a SQL store: of old runs by the sweep, and of a run with its child runs by request.

Problem: a deleted run leaves rows in a dozen tables. Its child runs answer to it, so none of them may stay.

Algorithm: the rows of a run and of all tables are deleted in one transaction. A request finds the tree of
child runs by a recursive query, and deletes its leaves first. If a run of it is resumed, or starts a
child run meanwhile, the transaction is rolled back and begins again.

Cost: one deletion for each row, and a read of the ids of the tree for each transaction.

Limits: a transaction of a request deletes up to MAX_TREE_RUNS runs. A larger tree takes several, so the run
may be resumed between them. It then starts its child runs again.
"""

from __future__ import annotations

from typing import Any

from noetl.executor.model.run_transition import check_deletable
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import UnwrittenError, Writer
from noetl.executor.stores.sql.slots import take_slots

MAX_TREE_RUNS = 500
"""Number of runs that one transaction of a request deletes at most."""

_DELETIONS = (
    "sweep.delete_visits",
    "sweep.delete_joins",
    "sweep.delete_arrivals",
    "sweep.delete_visit_counts",
    "sweep.delete_waits",
    "sweep.delete_tokens",
    "sweep.delete_parts",
    "sweep.delete_history",
    "sweep.delete_idempotency_keys",
    "sweep.delete_debounced",
    "sweep.delete_tags",
    "sweep.delete_bytes",
    "sweep.delete_times",
    "damage.remove_all",
    "sweep.delete_own_pauses",
    "sweep.delete_own_child_run_counts",
)
"""Statements that delete the rows of runs from each table."""


def delete_rows(db: Writer, ids: Any) -> None:
    """Delete what belongs to deleted runs. `ids` is the encoded list of their ids."""
    for query in _DELETIONS:
        db.execute(query, ids=ids)


def delete_tree(context: SqlContext, tenant: str, run_id: str) -> bool:
    """Delete a run of a tenant with its child runs. Return False if there is no such run.

    Raises:
        RejectedError: `not_ended`, `child_run`.
    """
    has_more, is_found = True, False
    while has_more:
        with context.transaction() as db:
            db.lock_run(run_id)
            tree = db.execute("sweep.find_tree", tenant=tenant, run_id=run_id).fetchall()
            is_found = is_found or bool(tree)
            if not tree:
                break
            check_deletable(run_id, tree[-1]["parent"], [row["id"] for row in tree if not row["ended"]])
            for row in tree[:MAX_TREE_RUNS]:
                if row["is_damaged"]:  # It may have slots, since it has not ended.
                    take_slots(db, "gates.take_of_run", run_id=row["id"])
            _delete_leaves(db, context, [row["id"] for row in tree[:MAX_TREE_RUNS]])
            has_more = len(tree) > MAX_TREE_RUNS
    return is_found


def _delete_leaves(db: Writer, context: SqlContext, run_ids: list[str]) -> None:
    """Delete runs that have ended or were set aside, and that no other run names as its parent.

    Raises:
        UnwrittenError: one of them is active again, or has a new child run.
    """
    ids = context.database.encode_list(run_ids)
    deleted = db.execute("sweep.delete_ended", ids=ids).fetchall()
    if len(deleted) < len(run_ids) or db.execute("sweep.find_child", ids=ids).fetchone() is not None:
        raise UnwrittenError("A run has continued while it was being deleted.")
    delete_rows(db, ids)
