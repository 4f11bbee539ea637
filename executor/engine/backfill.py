"""The performance of a backfill: a turn of it counts the runs that have ended, and starts the next ones.

Problem: the process that performs a turn may die at any point, and several processes may perform one turn.

Algorithm: a turn reads the statuses of the open runs and chooses the next partitions. It writes both into
the entry, which requires that the entry is as it was read. Only then are the chosen runs started. Their ids
are in the entry, so the next turn starts those that are missing, and none is started twice. A turn starts
runs for PERFORM_SECONDS, and leaves the rest to the next one.

Cost: a query for the open runs, one for the earlier attempts at the chosen partitions, and two writes.

Limits: a turn examines MAX_EXAMINED partitions. The end of a run is seen up to MAX_PAUSE_SECONDS later.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from noetl.executor.engine.backfill_partitions import (
    Attempt,
    describe_removal,
    find_joined,
    find_last_attempts,
    find_version,
    read_partitions,
    run_id_of,
    view_partition,
)
from noetl.executor.engine.firing import Firer, read_firer
from noetl.executor.engine.quotas import check_branch_quota
from noetl.executor.engine.run_log import log_run_resume
from noetl.executor.errors import RejectedError, UnknownRunError
from noetl.executor.model.backfills import (
    Backfill,
    BackfillState,
    OpenPartition,
    Partition,
    change_entry,
)
from noetl.executor.model.outbox import PERFORM_SECONDS, POSTPONE_SECONDS, OutboxEntry
from noetl.executor.model.run import SERVICE_QUEUE, RunStatus
from noetl.executor.model.triggers import Advance, FiringOutcome, new_firing
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import replace

MAX_EXAMINED = 400
"""Number of partitions that a turn examines at most."""

START_SECONDS = 5.0
"""After which time another process starts the runs that a turn has chosen, if it has died."""

MIN_PAUSE_SECONDS = 0.1
"""The shortest pause before a turn that counts ended runs. With a limit of 1, one run starts in this time."""

TABLE_PAUSE_SECONDS = 1.0
"""The same for a store that bills each request."""

MAX_PAUSE_SECONDS = 30.0
PAUSE_PART = 0.25
"""The pause before the next turn, as a part of the time since a run has started or ended."""

logger = logging.getLogger("noetl.executor")


def perform_backfill(store: Store, entry: OutboxEntry, now: float) -> bool:
    """Perform a turn of a backfill. Return whether this process has written the entry.

    Raises:
        RejectedError: a run was refused, for another reason than the quota of the tenant.
        StoreError: the store cannot be reached, or the plan or the list cannot be read.
    """
    backfill = _check_open_runs(store, Backfill.from_json(entry.record), now)
    is_removed = find_version(store, backfill) is None
    firer = None if is_removed else read_firer(store, backfill.fired_trigger, now)
    if firer is None and not backfill.state.is_final:
        backfill = replace(backfill, state=BackfillState.FAILED, reason=describe_removal(backfill))
    if firer is not None and backfill.state is BackfillState.RUNNING:
        backfill = _choose(firer, backfill)
    backfill = backfill.settle(now)
    started = [item for item in backfill.open if not item.is_started]
    written = change_entry(
        entry, backfill, now + START_SECONDS if started else _next_turn(store, backfill, now)
    )
    if not store.outbox.change(entry, written):
        return False
    if firer is None or not started:
        return True
    backfill, delay = _start_all(firer, backfill, started)
    backfill = backfill.settle(now)
    following = _next_turn(store, backfill, now) if delay is None else now + delay
    store.outbox.change(written, change_entry(written, backfill, following))
    return True


def _next_turn(store: Store, backfill: Backfill, now: float) -> float | None:
    """Return when the next turn is due, or None if nothing is left to do."""
    has_place = len(backfill.open) < backfill.limit and backfill.cursor is not None
    if has_place and backfill.state is BackfillState.RUNNING:
        return now
    if not backfill.open:
        return None
    pause = PAUSE_PART * (now - backfill.progressed_at)
    least = MIN_PAUSE_SECONDS if store.queue.claims_in_turn else TABLE_PAUSE_SECONDS
    return now + min(max(pause, least), MAX_PAUSE_SECONDS)


def _check_open_runs(store: Store, backfill: Backfill, now: float) -> Backfill:
    """Return a backfill that has counted its ended runs. Cancel its open runs if a person has said so."""
    if not backfill.open:
        return backfill
    positions = store.runs.positions([item.run_id for item in backfill.open])
    counted = backfill
    for item in backfill.open:
        position = positions.get(item.run_id)
        status = None if position is None else position.status
        if not item.is_started and not _has_started(store, backfill, item, status):
            if backfill.state.is_final:
                counted = _drop(counted, item)
            continue
        counted = counted if item.is_started else counted.start_open(item)
        if status is None:
            counted = counted.end_open(item, "failed")
        elif status.is_final:
            counted = counted.end_open(item, "succeeded" if status is RunStatus.SUCCEEDED else "failed")
        elif backfill.cancels_runs:
            _cancel(store, item.run_id, now)
    return counted if counted == backfill else replace(counted, progressed_at=now)


def _drop(backfill: Backfill, item: OpenPartition) -> Backfill:
    """Return a backfill without a partition whose run is not started. That of a retry has failed again."""
    dropped = backfill.drop_open(item)
    if backfill.retry is None:
        return dropped
    if item.resumes is None:
        item = replace(item, run_id=run_id_of(backfill, item.partition, item.attempt - 1))
    return dropped.end_open(item, "failed")


def _has_started(store: Store, backfill: Backfill, item: OpenPartition, status: RunStatus | None) -> bool:
    """Return whether the run of an open partition was started, or resumed, by a turn that was cut off."""
    if status is None or item.resumes is None:
        return status is not None
    if not status.is_final:
        return True
    summary = store.runs.summary(backfill.tenant, item.run_id)
    return summary is None or summary.resumes > item.resumes


def _cancel(store: Store, run_id: str, now: float) -> None:
    try:
        store.runs.stop(run_id, RunStatus.CANCELLED, now)
    except (RejectedError, UnknownRunError):
        # It has ended meanwhile, and is counted in the next turn.
        return


def _choose(firer: Firer, backfill: Backfill) -> Backfill:
    """Return a backfill with the next partitions among its open ones, and its cursor after them."""
    store, schedule = firer.store, firer.declared.schedule
    examined, size = 0, backfill.limit - len(backfill.open)
    while len(backfill.open) < backfill.limit and backfill.cursor is not None and examined < MAX_EXAMINED:
        partitions, cursor = read_partitions(store, backfill, schedule, size)
        last = find_last_attempts(store, backfill, partitions)
        examined += len(partitions)
        for number, partition in enumerate(partitions):
            if len(backfill.open) == backfill.limit:
                # The rest is examined again when there is a place for it.
                cursor = _position_of(backfill, partitions, number)
                break
            backfill = _take(firer, backfill, partition, last.get(partition.text))
        backfill = replace(backfill, cursor=cursor)
        size = min(2 * size, MAX_EXAMINED - examined)
    return backfill


def _position_of(backfill: Backfill, partitions: Sequence[Partition], number: int) -> float:
    """Return the cursor that stands at one of the partitions that were read at the cursor of a backfill."""
    instant = partitions[number].instant
    assert backfill.cursor is not None
    return backfill.cursor + number if instant is None else instant


def _take(firer: Firer, backfill: Backfill, partition: Partition, last: Attempt | None) -> Backfill:
    """Return a backfill after it has passed a partition: it is open then, or it is skipped."""
    if backfill.retry is not None:
        return _take_again(firer, backfill, partition, last)
    passed = replace(backfill, counts=backfill.counts.add("passed"))
    last = last or find_joined(firer.store, backfill, partition)
    if last is None:
        return _open(passed, partition, 0, firer.now)
    is_failed = last.status.is_final and last.status is not RunStatus.SUCCEEDED
    is_wanted = backfill.redo == "all" and last.status.is_final
    if is_wanted or (backfill.redo == "failed" and is_failed):
        return _open(passed, partition, last.number + 1, firer.now)
    return replace(passed, counts=passed.counts.add("skipped"))


def _take_again(firer: Firer, backfill: Backfill, partition: Partition, last: Attempt | None) -> Backfill:
    """Return a backfill that retries, after it has passed a partition."""
    number, passed = backfill.counts.passed, replace(backfill, counts=backfill.counts.add("passed"))
    if last is None:
        return passed
    has_succeeded = last.status is RunStatus.SUCCEEDED
    if not passed.counts_as_failed(number, last.run_id, has_succeeded=has_succeeded):
        # It has succeeded, or an earlier retry has filtered or rejected it.
        return passed
    summary = firer.store.runs.summary(backfill.tenant, last.run_id)
    if summary is None or (summary.trigger or {}).get("backfill") != backfill.id:
        return passed
    passed = passed.forget_failure(number, last.run_id)
    if has_succeeded:
        # A person has resumed it since it was counted as failed.
        return passed.count("succeeded")
    item = OpenPartition(partition, last.run_id, last.number, firer.now, number=number)
    if not last.status.is_final:
        item = replace(item, is_started=True)
    elif backfill.retry == "fresh":
        return _open(passed, partition, last.number + 1, firer.now)
    else:
        item = replace(item, resumes=summary.resumes)
    return replace(passed, open=(*passed.open, item))


def _open(backfill: Backfill, partition: Partition, attempt: int, now: float) -> Backfill:
    """Return a backfill that has passed a partition, with an attempt at it among its open ones."""
    number = backfill.counts.passed - 1
    item = OpenPartition(partition, run_id_of(backfill, partition, attempt), attempt, now, number=number)
    return replace(backfill, open=(*backfill.open, item))


def _start_all(
    firer: Firer, backfill: Backfill, items: Sequence[OpenPartition]
) -> tuple[Backfill, float | None]:
    """Start or resume the runs of open partitions.

    Return the backfill, and after how many seconds the others are started, or None if there are none.
    """
    ends_at = time.monotonic() + PERFORM_SECONDS
    for item in items:
        try:
            backfill = _start(firer, backfill, item)
        except RejectedError as problem:
            if not problem.is_temporary:
                raise
            logger.warning("backfill %s starts runs later: %s", backfill.id, problem)
            return backfill, POSTPONE_SECONDS
        if item is not items[-1] and time.monotonic() >= ends_at:
            return replace(backfill, progressed_at=firer.now), 0.0
    return replace(backfill, progressed_at=firer.now), None


def _start(firer: Firer, backfill: Backfill, item: OpenPartition) -> Backfill:
    """Return a backfill after the run of an open partition was started or resumed, or was refused.

    Raises:
        RejectedError: `quota_exceeded`.
    """
    if item.resumes is not None:
        return _resume(firer, backfill, item)
    partition, trigger = item.partition, firer.trigger
    firing = new_firing(trigger, partition.attempt_key(item.attempt), item.taken_at)
    firing = replace(firing, scheduled_at=partition.instant, backfill=backfill.id)
    view = view_partition(backfill, firer.declared.schedule, partition)
    advance = firer.fire(firing, view, Advance(trigger, trigger))
    if advance is not None and advance.earlier_run not in (None, item.run_id):
        # Its firing has joined another run since the partition was chosen.
        return backfill.end_open(item, "skipped")
    recorded = advance.firings[-1] if advance is not None and advance.firings else None
    outcome = None if recorded is None else recorded.outcome
    if outcome is FiringOutcome.FILTERED:
        return backfill.end_open(item, "filtered")
    if recorded is not None and outcome is FiringOutcome.REJECTED:
        reason = f"partition {abbreviate(partition.text)} was rejected: {recorded.reason}"
        return replace(backfill.end_open(item, "rejected"), reason=reason)
    return backfill.start_open(item)


def _resume(firer: Firer, backfill: Backfill, item: OpenPartition) -> Backfill:
    """Return a backfill after a failed run was resumed. One that cannot be resumed has failed again.

    Raises:
        RejectedError: `quota_exceeded`.
    """
    store = firer.store
    check_branch_quota(store, backfill.tenant, SERVICE_QUEUE)
    # A person may have switched the run to another version.
    summary = store.runs.summary(backfill.tenant, item.run_id)
    header = firer.header if summary is None else store.plans.header(summary.plan_hash)
    deadline_at = None if header.timeout_seconds is None else firer.now + header.timeout_seconds
    try:
        log_run_resume(store.runs.resume(item.run_id, firer.now, deadline_at=deadline_at, values={}))
    except (RejectedError, UnknownRunError) as problem:
        logger.warning("run %s of backfill %s cannot be resumed: %s", item.run_id, backfill.id, problem)
        return backfill.end_open(item, "failed")
    return backfill.start_open(item)
