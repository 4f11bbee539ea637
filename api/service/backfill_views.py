"""Views of backfills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from noetl.api.service.views import Timestamp, View
from noetl.executor.model.backfills import Backfill, BackfillState
from noetl.executor.model.events import timestamp


class BackfillNumbers(View, schema_name="BackfillCounts"):
    """Numbers of partitions of a backfill.

    `passed` are those that it has reached: in a retry, from the first one again. `started` are its runs.
    `succeeded` and `failed` are those whose run has ended. The other partitions had a run before (`skipped`),
    the condition of the trigger was false (`filtered`), or their input was refused (`rejected`).
    """

    passed: int
    started: int
    succeeded: int
    failed: int
    skipped: int
    filtered: int
    rejected: int


class PartitionRun(View, schema_name="PartitionRun"):
    """Run of a partition of a backfill."""

    partition: str
    workflow_id: str


class BackfillEntry(View, schema_name="Backfill"):
    """Backfill: runs of a trigger for past instants, or for the partitions of a list.

    `partitions` is their number. `start_at` and `end_at` are null if it has a list, and `every_seconds` if
    the instants are those of the schedule. `retry` says what happens to the failed runs, if they are retried.
    `open` are the runs that have not ended, and `failures` the latest that have failed. `reason` says why it
    has ended early, or why the last rejected partition was rejected.
    """

    id: str
    playbook: str
    trigger: str
    version: str
    state: BackfillState
    created_at: Timestamp
    finished_at: Timestamp | None
    start_at: Timestamp | None
    end_at: Timestamp | None
    every_seconds: float | None
    partitions: int
    limit: int
    redo: Literal["failed", "all"] | None
    retry: Literal["resume", "fresh"] | None
    counts: BackfillNumbers
    open: Sequence[PartitionRun]
    failures: Sequence[PartitionRun]
    reason: str | None

    @classmethod
    def from_backfill(cls, backfill: Backfill) -> BackfillEntry:
        partitions = backfill.range
        return cls(
            id=backfill.id,
            playbook=backfill.playbook,
            trigger=backfill.trigger,
            version=backfill.version,
            state=backfill.state,
            created_at=timestamp(backfill.created_at),
            finished_at=timestamp(backfill.finished_at),
            start_at=timestamp(partitions.start_at),
            end_at=timestamp(partitions.end_at),
            every_seconds=partitions.every_seconds,
            partitions=partitions.total,
            limit=backfill.limit,
            redo=backfill.redo,
            retry=backfill.retry,
            counts=BackfillNumbers(**backfill.counts.to_json()),
            open=[
                PartitionRun(partition=item.partition.text, workflow_id=item.run_id) for item in backfill.open
            ],
            failures=[PartitionRun(partition=text, workflow_id=run_id) for text, run_id in backfill.failures],
            reason=backfill.reason,
        )


class BackfillPage(View, schema_name="BackfillPage"):
    items: Sequence[BackfillEntry]
    next_cursor: str | None
