"""Pending runs of playbooks with `debounce` in a SQL store, and the starts that join them.

Problem: several processes start runs of one key at once, while a worker claims the first visit.

Algorithm: two-phase locking (Eswaran et al. 1976). A start locks the name of its key, and then the pending
run, which a claim locks, too. So the decision of `noetl.executor.model.debounce` stays true until the commit.

Cost: a lock and one read; three reads and two writes if the start joins a run.

Limits: starts of one key wait for each other.
"""

from __future__ import annotations

from noetl.executor.model.debounce import is_pending, join_run
from noetl.executor.model.run import Run, Visit
from noetl.executor.model.stored_json import encode_json
from noetl.executor.stores.sql.database import Writer
from noetl.executor.stores.sql.rows import encode_run_data, run_from_row, visit_from_row
from noetl.planner.frozen import replace


def find_pending(db: Writer, start: Run, first: Visit) -> Run | None:
    """Return the locked run that a start may join, or None. The first visit of both has the same id."""
    if start.debounce is None:
        return None
    db.lock_name(f"debounce\n{start.debounce.key}")
    found = db.execute("runs.find_debounced", key=start.debounce.key).fetchone()
    if found is None:
        return None
    run_id = found["run_id"]
    db.lock_run(run_id)
    row = db.execute("runs.read", run_id=run_id).fetchone()
    visit = db.execute("branches.read_visit", run_id=run_id, visit_id=first.id).fetchone()
    if row is None or visit is None:
        return None
    run = run_from_row(row)
    return run if is_pending(run, visit_from_row(visit), start) else None


def write_joined(db: Writer, pending: Run, start: Run, first: Visit) -> Run:
    """Let a start join a pending run, whose first visit is then due later. Return the run."""
    assert start.debounce is not None
    joined = join_run(pending, start)
    db.mark_run_written(joined.id)
    data = encode_run_data(joined)
    db.write_run_data(joined.id, data)
    db.execute(
        "runs.join",
        run_id=joined.id,
        **db.columns_of_run(data),
        trigger=None if joined.trigger is None else encode_json(dict(joined.trigger)),
        starts=joined.starts,
    )
    due_at = start.debounce.due_at(start.created_at, joined.created_at)
    db.execute("runs.postpone", run_id=joined.id, visit_id=first.id, due_at=due_at)
    return replace(joined, debounce=start.debounce)
