"""The deletion of runs in a SQL store: of old runs by the sweep, and of a run with its child runs by request.

Problem: a run may have left hundreds of thousands of rows in a dozen tables. All writers of SQLite would wait
for a transaction that deletes them. A process may die between two transactions, the run may be resumed at
the same time, and a later run may get the same id.

Algorithm: a durable intent, then idempotent steps: the forward recovery of a saga (Garcia-Molina and Salem
1987), as in DynamoDB. One transaction deletes the rows of `runs`, on the condition that the runs have ended.
It also deletes up to `Database.max_deleted_rows` of the others. From then on the runs do not exist for any
reader. If rows are left, it also writes a row of `deletions` for each run. Further transactions delete as
many each. They lock the rows of `deletions`, and the last one removes them. A sweep completes what a process
has left. A start with the id of such a run completes its deletion first.

Cost: one deletion for each row, and a read of the ids of the tree. A start reads `deletions` once, without a
round trip of its own.

Limits: a transaction deletes up to MAX_TREE_RUNS runs, the leaves first. A larger tree takes several, so the
run may be resumed between them. It then starts its child runs again. Without workers or sweeps, nothing
completes the deletion of a process that has died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from noetl.executor.errors import StoreError
from noetl.executor.model.run import Run
from noetl.executor.model.run_transition import check_deletable
from noetl.executor.stores.sql.context import SqlContext
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.slots import take_slots

LARGE_ROW = 5
"""As how many rows one of a table with results counts."""

MAX_TREE_RUNS = 100
"""Number of runs that one transaction of a request deletes at most."""

MAX_COMPLETED_RUNS = 20
"""Number of runs whose deletion one call of `complete_some` continues."""

PAUSE_SECONDS = 0.005
"""Time between two transactions. Other processes that wait for the lock of SQLite look for it meanwhile."""

MAX_TRIES = 10
"""How often the tree of a run is read again, because it has changed."""

_DELETIONS = {
    "deletions.delete_damage": 1,
    "deletions.delete_idempotency_keys": 1,
    "deletions.delete_debounced": 1,
    "deletions.delete_tokens": 1,
    "deletions.delete_waits": 1,
    "deletions.delete_tags": 1,
    "deletions.delete_visits": LARGE_ROW,
    "deletions.delete_parts": LARGE_ROW,
    "deletions.delete_history": 1,
    "deletions.delete_joins": 1,
    "deletions.delete_arrivals": 1,
    "deletions.delete_visit_counts": 1,
    "deletions.delete_bytes": 1,
    "deletions.delete_times": 1,
    "deletions.delete_own_pauses": 1,
    "deletions.delete_cascades": 1,
    "deletions.delete_child_run_counts": 1,
}
"""Statements that delete rows of runs from each table, and as how many rows each of these counts.

What is found without the run comes first.
"""


class LeftoversError(Exception):
    """The id of a new run is that of a deleted one which has left rows. They are deleted first."""


class _ChangedTreeError(Exception):
    """A run was resumed, deleted or started a child run since its tree was read."""


def delete_tree(context: SqlContext, tenant: str, run_id: str) -> bool:
    """Delete a run of a tenant with its child runs. Return False if there is no such run.

    A call also completes a deletion that was interrupted.

    Raises:
        RejectedError: `not_ended`, `child_run`.
    """
    is_found = False
    for _ in range(MAX_TRIES):
        tree = context.database.fetch_all("sweep.find_tree", tenant=tenant, run_id=run_id)
        if not tree:
            return _complete_interrupted(context, tenant, run_id) or is_found
        is_found = True
        check_deletable(run_id, tree[-1]["parent"], [row["id"] for row in tree if not row["ended"]])
        try:
            for start in range(0, len(tree), MAX_TREE_RUNS):
                leaves = [row["id"] for row in tree[start : start + MAX_TREE_RUNS]]
                if not _delete_leaves(context, run_id, leaves):
                    complete(context, leaves)
        except _ChangedTreeError:
            continue
        return True
    raise StoreError(f"Run {run_id} could not be deleted: too many concurrent writers.")


def delete_old_runs(context: SqlContext, before: float, limit: int) -> bool:
    """Delete up to `limit` runs that ended before a time. Return whether more may be left.

    `complete_some` deletes the rows that they have left.
    """
    with context.database.transaction() as db:
        deleted = db.execute("sweep.delete_old_runs", before=before, limit=limit).fetchall()
        is_done = not deleted or _delete_first_rows(db, context, deleted)
        return not is_done or len(deleted) == limit


def complete_some(context: SqlContext) -> bool:
    """Delete some rows that deleted runs have left, in one transaction. Return whether more may be left."""
    found = context.database.fetch_all("deletions.find_some", limit=MAX_COMPLETED_RUNS)
    if not found:
        return False
    is_done = _delete_further_rows(context, [row["run_id"] for row in found])
    return not is_done or len(found) == MAX_COMPLETED_RUNS


def complete(context: SqlContext, run_ids: Sequence[str]) -> None:
    """Delete all rows that deleted runs have left. Other processes may do so at the same time."""
    while not _delete_further_rows(context, run_ids):
        time.sleep(PAUSE_SECONDS)


def start_after_deletion(context: SqlContext, run_id: str, start: Callable[[], Run]) -> Run:
    """Return the run that a function starts, after the rows of a deleted run of the same id are deleted."""
    while True:
        try:
            return start()
        except LeftoversError:
            complete(context, [run_id])


def _complete_interrupted(context: SqlContext, tenant: str, run_id: str) -> bool:
    """Complete the deletion of a run of a tenant, and return whether it was interrupted."""
    found = context.database.fetch_all("deletions.find", run_id=run_id)
    if not found or found[0]["tenant"] != tenant:
        return False
    complete(context, [run_id])
    return True


def _delete_leaves(context: SqlContext, root: str, run_ids: Sequence[str]) -> bool:
    """Delete runs of the tree of `root` that have ended or were set aside, and that are no parents.

    Return whether no rows of them are left.

    Raises:
        _ChangedTreeError: one of them or the root is active again, or one has a new child run.
    """
    ids = context.database.encode_list(run_ids)
    with context.transaction() as db:
        db.lock_run(root)
        if db.execute("sweep.has_ended", run_id=root).fetchone() is None:
            raise _ChangedTreeError
        damaged = [row["run_id"] for row in db.execute("damage.find_some", ids=ids).fetchall()]
        deleted = db.execute("sweep.delete_ended", ids=ids).fetchall()
        if len(deleted) < len(run_ids) or db.execute("sweep.find_child", ids=ids).fetchone() is not None:
            raise _ChangedTreeError
        for run_id in damaged:  # It may have slots and claims, since it has not ended.
            take_slots(db, "gates.take_of_run", run_id=run_id)
            db.execute("deletions.end_claims", run_id=run_id)
        return _delete_first_rows(db, context, deleted)


def _delete_first_rows(db: Writer, context: SqlContext, deleted: Sequence[Any]) -> bool:
    """Delete some rows of runs that the transaction has deleted, and return whether none are left.

    Otherwise record the runs, so that the others are deleted later. `deleted` has their ids and tenants.
    """
    ids = context.database.encode_list([row["id"] for row in deleted])
    is_done = _delete_rows(db, ids, context.database.max_deleted_rows)
    if not is_done:
        db.executemany("deletions.add", [{"run_id": row["id"], "tenant": row["tenant"]} for row in deleted])
    return is_done


def _delete_further_rows(context: SqlContext, run_ids: Sequence[str]) -> bool:
    """Delete some rows of deleted runs in a transaction, and return whether none are left."""
    with context.database.transaction() as db:
        locked = db.execute("deletions.lock", ids=context.database.encode_list(run_ids)).fetchall()
        ids = context.database.encode_list([row["run_id"] for row in locked])
        is_done = not locked or _delete_rows(db, ids, context.database.max_deleted_rows)
        if locked and is_done:
            db.execute("deletions.remove", ids=ids)
        return is_done


def _delete_rows(db: Writer, ids: Any, limit: int) -> bool:
    """Delete up to `limit` rows of deleted runs, and return whether none are left.

    `ids` is the encoded list of the ids of the runs.
    """
    left = limit
    for query, weight in _DELETIONS.items():
        left -= weight * db.execute(query, ids=ids, limit=max(left // weight, 1)).rowcount
        if left < weight:
            return False
    return True
