"""The entries of the outbox that the start and the end of a run write by themselves."""

from __future__ import annotations

from noetl.executor.model.ids import derived_id
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.model.run import Run, RunStatus


def ended_entry(run: Run, status: RunStatus, now: float) -> OutboxEntry:
    """Return the entry that fires the triggers which await the end of a run, with the status `status`."""
    return OutboxEntry(
        derived_id("run_ended", run.id, run.resumes),
        run.tenant,
        OutboxKind.RUN_ENDED,
        created_at=now,
        due_at=now,
        record={
            "run_id": run.id,
            "playbook": run.playbook,
            "status": status.value,
            "ending": run.resumes,
        },
    )


def entries_of_start(run: Run) -> tuple[OutboxEntry, ...]:
    """Return the entries that the start of a run writes: that of a late run, if it may be late."""
    if run.late_at is None:
        return ()
    entry = OutboxEntry(
        derived_id("late", run.id),
        run.tenant,
        OutboxKind.LATE,
        run.created_at,
        run.late_at,
        {"run_id": run.id, "playbook": run.playbook},
    )
    return (entry,)
