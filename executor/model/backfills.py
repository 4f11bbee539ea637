"""Backfills: runs of a trigger for many past instants, or for the partitions of a list.

Problem: there may be 100,000 partitions, and a backfill may last for days. The processes that perform it die
and are replaced. Each partition must be started once, and never more than `limit` may be open.

Algorithm: a backfill is one entry of the outbox. A write-ahead record: the entry first names the partitions
that are started next, and moves its cursor past them. Then their runs are started, each with an id that
follows from its partition. A process that takes over starts those that the entry names and that do not exist.
Several attempts at one partition are numbered. The next attempt has the next free number.

Cost: two writes of the entry for the partitions that are started together, and a write for each run.

Limits: a list is kept in slices of LIST_SLICE partitions, since an item of a store has a greatest size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal

from noetl.executor.model.ids import derived_id
from noetl.executor.model.outbox import OutboxEntry, OutboxKind, postpone_entry
from noetl.executor.model.partition_numbers import (
    NO_NUMBERS,
    PartitionNumbers,
    add_number,
    decode_numbers,
    encode_numbers,
    has_number,
    remove_number,
)
from noetl.executor.model.triggers import LiveTrigger, instant_key
from noetl.planner.frozen import frozen, replace

MAX_PARTITIONS = 100_000
"""The most partitions of a backfill."""

MAX_OPEN_RUNS = 100
"""The most runs of a backfill that may be open at once."""

MAX_PARTITION_BYTES = 256
"""The greatest length of a partition of a list."""

LIST_SLICE = 500
"""Number of partitions of a list that one entry keeps."""

KEEP_SECONDS = 365 * 86_400.0
"""How long a backfill is kept after its start."""

MAX_SHOWN_FAILURES = 20
"""Number of failed partitions that a backfill names, the latest ones."""

Redo = Literal["failed", "all"]
RetryMode = Literal["resume", "fresh"]


class BackfillState(StrEnum):
    """The state of a backfill. The last three are final: no run is started any more."""

    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (BackfillState.RUNNING, BackfillState.PAUSED)


@frozen
class PartitionRange:
    """The partitions of a backfill: instants of a schedule, instants with one distance, or a list.

    Attributes:
        total: the number of partitions.
        start_at: the first instant that may be one; None for a list.
        end_at: the instant before which all are; None for a list.
        every_seconds: their distance from `start_at` on; None if they are those of the schedule.
    """

    total: int
    start_at: float | None = None
    end_at: float | None = None
    every_seconds: float | None = None

    @property
    def is_list(self) -> bool:
        return self.start_at is None

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        return {name: getattr(self, name) for name in self.__match_args__}


@frozen
class Partition:
    """One partition: an instant, or a value of a list."""

    value: str | int | float
    instant: float | None = None

    @property
    def text(self) -> str:
        """The partition as text, which tells it from the others."""
        return str(self.value)

    def attempt_key(self, attempt: int) -> str:
        """Return the key of the firing of an attempt at this partition.

        The first attempt at an instant has the key of the schedule at this instant, so it is the same firing.

        >>> Partition("eu").attempt_key(0), Partition("eu").attempt_key(1)
        ('partition eu', 'partition eu attempt 1')
        """
        key = f"partition {self.text}" if self.instant is None else self.text
        return key if attempt == 0 else f"{key} attempt {attempt}"

    @classmethod
    def at_instant(cls, instant: float) -> Partition:
        return cls(instant_key(instant), instant)


@frozen
class OpenPartition:
    """A partition whose run is started, or has not ended.

    Attributes:
        run_id: id of the run, which follows from the partition and the attempt.
        attempt: the number of the attempt at this partition, from 0.
        taken_at: when the backfill has chosen it.
        is_started: whether the run is known to have started, or to have been resumed.
        resumes: how often the run was resumed before; None if it is started, and not resumed.
        number: the place of the partition in the order of the backfill, from 0; None in the entry of an
            earlier commit.
    """

    partition: Partition
    run_id: str
    attempt: int
    taken_at: float
    is_started: bool = False
    resumes: int | None = None
    number: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return all fields by name. Their names are part of the stored format."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        return fields | {"partition": [self.partition.value, self.partition.instant]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> OpenPartition:
        return cls(**{**data, "partition": Partition(*data["partition"])})


@frozen
class BackfillCounts:
    """Numbers of partitions of a backfill.

    Attributes:
        passed: those that the current pass has reached.
        started: the runs that were started.
        succeeded: those whose run has succeeded.
        failed: those whose run has ended otherwise, or was deleted.
        skipped: those that had a run before.
        filtered: those for which the condition of the trigger is false.
        rejected: those whose input has no value, or was refused.
    """

    passed: int = 0
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    filtered: int = 0
    rejected: int = 0

    def add(self, name: str, number: int = 1) -> BackfillCounts:
        """Return the numbers with one of them changed."""
        return replace(self, **{name: getattr(self, name) + number})

    def to_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__match_args__}


@frozen
class Backfill:
    """A backfill, which an entry of the outbox holds.

    Attributes:
        version: the version of the playbook, which was live at the start of the backfill.
        limit: how many of its runs may be open at once.
        redo: which partitions that had a run before get another one; None if none.
        cursor: the next partition: an instant, or a position in the list; None after the last one.
        retry: what happens to failed runs in this pass; None in the first pass, which starts partitions.
        cancels_runs: whether the open runs of a cancelled backfill are cancelled.
        failures: the latest failed partitions, with the ids of their runs.
        reason: why it has ended before its last partition, or why its last rejected partition was rejected.
        request: the hash of the request that has started it.
        progressed_at: when one of its runs has started or ended last.
        finished_at: when it has ended, and its last run, too.
        failed: the numbers of the partitions that count as failed; None in the entry of an earlier commit.
    """

    id: str
    tenant: str
    playbook: str
    trigger: str
    version: str
    plan_hash: str
    created_at: float
    range: PartitionRange
    cursor: float | None
    request: str
    limit: int = 1
    redo: Redo | None = None
    state: BackfillState = BackfillState.RUNNING
    counts: BackfillCounts = BackfillCounts()
    open: Sequence[OpenPartition] = ()
    retry: RetryMode | None = None
    cancels_runs: bool = False
    failures: Sequence[tuple[str, str]] = ()
    reason: str | None = None
    progressed_at: float = 0.0
    finished_at: float | None = None
    failed: PartitionNumbers | None = NO_NUMBERS

    @property
    def fired_trigger(self) -> LiveTrigger:
        """The trigger in the version of the backfill."""
        return LiveTrigger(
            self.tenant,
            self.playbook,
            self.trigger,
            "schedule",
            self.version,
            self.plan_hash,
            self.created_at,
        )

    def end_open(self, item: OpenPartition, count: str) -> Backfill:
        """Return the backfill after the end of an open partition, which is counted as `count`."""
        failures, failed = self.failures, self.failed
        if count == "failed":
            failures = (*failures, (item.partition.text, item.run_id))[-MAX_SHOWN_FAILURES:]
            failed = None if failed is None or item.number is None else add_number(failed, item.number)
        left = tuple(other for other in self.open if other.run_id != item.run_id)
        return replace(self, open=left, failures=failures, failed=failed).count(count)

    def counts_as_failed(self, number: int, run_id: str, *, has_succeeded: bool) -> bool:
        """Return whether a partition, whose last run is given, counts as failed.

        The entry of an earlier commit only has the latest failures. It is unknown then which partitions have
        failed before them, except that their runs have not succeeded.
        """
        if self.failed is not None:
            return has_number(self.failed, number)
        has_others = len(self.failures) < self.counts.failed
        return any(failure[1] == run_id for failure in self.failures) or (has_others and not has_succeeded)

    def forget_failure(self, number: int, run_id: str) -> Backfill:
        """Return the backfill without a failed partition, which has succeeded since or is tried again."""
        failures = tuple(failure for failure in self.failures if failure[1] != run_id)
        failed = None if self.failed is None else remove_number(self.failed, number)
        return replace(self, failures=failures, failed=failed, counts=self.counts.add("failed", -1))

    def count(self, name: str) -> Backfill:
        """Return the backfill with one partition more in one of its numbers."""
        return replace(self, counts=self.counts.add(name))

    def start_open(self, item: OpenPartition) -> Backfill:
        """Return the backfill after the run of an open partition was started, or resumed."""
        started = replace(item, is_started=True)
        items = tuple(started if other.run_id == item.run_id else other for other in self.open)
        counts = self.counts.add("started") if item.resumes is None else self.counts
        return replace(self, open=items, counts=counts)

    def drop_open(self, item: OpenPartition) -> Backfill:
        """Return the backfill without an open partition whose run was not started."""
        return replace(self, open=tuple(other for other in self.open if other.run_id != item.run_id))

    def settle(self, now: float) -> Backfill:
        """Return the backfill after its end, if no partition is left to start, and no run is open."""
        state = self.state
        if state is BackfillState.RUNNING and self.cursor is None and not self.open:
            counts = self.counts
            state = BackfillState.FAILED if counts.failed or counts.rejected else BackfillState.SUCCEEDED
        is_over = state.is_final and not self.open
        return replace(self, state=state, finished_at=(self.finished_at or now) if is_over else None)

    def to_json(self) -> dict[str, Any]:
        """Return the record of its entry. Its names are part of the stored format.

        Processes of earlier commits refuse `failed`, so it is left out if it has no numbers.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in self.__match_args__}
        del fields["failed"]
        fields |= {"failed": encode_numbers(self.failed)} if self.failed else {}
        return fields | {
            "range": self.range.to_json(),
            "counts": self.counts.to_json(),
            "open": [item.to_json() for item in self.open],
            "failures": [list(failure) for failure in self.failures],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Backfill:
        counts, numbers = BackfillCounts(**data["counts"]), data.get("failed")
        unnamed = None if counts.failed else NO_NUMBERS
        decoded = {
            "range": PartitionRange(**data["range"]),
            "counts": counts,
            "open": tuple(map(OpenPartition.from_json, data["open"])),
            "failures": tuple((text, run_id) for text, run_id in data["failures"]),
            "state": BackfillState(data["state"]),
            "failed": unnamed if numbers is None else decode_numbers(numbers),
        }
        return cls(**{**data, **decoded})


def backfill_entry(backfill: Backfill) -> OutboxEntry:
    """Return the new entry of a backfill, which is due at once."""
    return OutboxEntry(
        backfill.id,
        backfill.tenant,
        OutboxKind.BACKFILL,
        backfill.created_at,
        due_at=backfill.created_at,
        record=backfill.to_json(),
        expires_at=backfill.created_at + KEEP_SECONDS,
    )


def change_entry(entry: OutboxEntry, backfill: Backfill, due_at: float | None) -> OutboxEntry:
    """Return the entry of a changed backfill. One that is finished is not due any more."""
    due = None if backfill.finished_at is not None else due_at
    return replace(postpone_entry(entry, due), record=backfill.to_json())


def list_entries(backfill: Backfill, values: Sequence[str | int | float]) -> list[OutboxEntry]:
    """Return the entries that keep the list of a backfill. They are never due."""
    return [
        OutboxEntry(
            slice_id(backfill.id, start // LIST_SLICE),
            backfill.tenant,
            OutboxKind.PARTITIONS,
            backfill.created_at,
            due_at=None,
            record={"backfill": backfill.id, "values": list(values[start : start + LIST_SLICE])},
            expires_at=backfill.created_at + KEEP_SECONDS,
        )
        for start in range(0, len(values), LIST_SLICE)
    ]


def slice_id(backfill_id: str, number: int) -> str:
    """Return the id of the entry that keeps a slice of the list of a backfill."""
    return derived_id("partitions", backfill_id, number)
