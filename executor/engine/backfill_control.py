"""Control of a backfill by a person: it is paused, resumed, cancelled, or its failed runs are retried.

Problem: a process performs a turn of the backfill at the same time.

Algorithm: a change requires the edition of the entry that was read. If a turn was faster, the entry is read
again (optimistic concurrency).

Cost: one read and one write.

Limits: after MAX_TRIES turns that were faster, a request is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from noetl.executor.engine.backfill_partitions import describe_removal, find_version, next_instant
from noetl.executor.engine.quotas import check_backfill_quota
from noetl.executor.errors import RejectedError
from noetl.executor.model.backfills import Backfill, BackfillState, RetryMode, change_entry
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import replace

MAX_TRIES = 10

_ENDS = {
    BackfillState.SUCCEEDED: "has succeeded",
    BackfillState.FAILED: "has failed",
    BackfillState.CANCELLED: "was cancelled",
}


def read_backfill(store: Store, tenant: str, backfill_id: str) -> Backfill | None:
    """Return a backfill, or None if the tenant has no such backfill."""
    entry = _read_entry(store, tenant, backfill_id)
    return None if entry is None else Backfill.from_json(entry.record)


def pause_backfill(store: Store, tenant: str, backfill_id: str) -> Backfill | None:
    """Pause a backfill: it starts no run until it is resumed. Return it, or None if there is none.

    Its open runs go on. A repeated request changes nothing.

    Raises:
        RejectedError: `backfill_ended`; `backfill_changed`.
    """

    def pause(backfill: Backfill) -> Backfill:
        _check_open(backfill, "paused")
        return replace(backfill, state=BackfillState.PAUSED)

    return _change(store, tenant, backfill_id, pause)


def resume_backfill(store: Store, tenant: str, backfill_id: str) -> Backfill | None:
    """Resume a paused backfill. Return it, or None if there is none. A repeated request changes nothing.

    Raises:
        RejectedError: `backfill_ended`; `backfill_changed`.
    """

    def resume(backfill: Backfill) -> Backfill:
        _check_open(backfill, "resumed")
        return replace(backfill, state=BackfillState.RUNNING)

    return _change(store, tenant, backfill_id, resume)


def cancel_backfill(
    store: Store, tenant: str, backfill_id: str, *, cancels_runs: bool = False
) -> Backfill | None:
    """Cancel a backfill: it starts no run any more. Return it, or None if there is none.

    Its open runs go on, unless `cancels_runs`. A repeated request changes nothing.

    Raises:
        RejectedError: `backfill_ended`, if it has ended otherwise; `backfill_changed`.
    """

    def cancel(backfill: Backfill) -> Backfill:
        if backfill.state is not BackfillState.CANCELLED:
            _check_open(backfill, "cancelled")
        wanted = cancels_runs or backfill.cancels_runs
        cancelled = replace(backfill, state=BackfillState.CANCELLED, cancels_runs=wanted)
        return cancelled.settle(store.clock())

    return _change(store, tenant, backfill_id, cancel)


def retry_backfill(store: Store, tenant: str, backfill_id: str, mode: RetryMode) -> Backfill | None:
    """Resume the failed runs of a backfill that has ended, or start new ones. Return it, or None.

    Raises:
        RejectedError: `backfill_ended`, if it was cancelled, or nothing has failed; `backfill_open`;
            `backfill_changed`; `quota_exceeded`.
        SettingError: a setting is invalid.
    """

    def retry(backfill: Backfill) -> Backfill:
        if backfill.finished_at is None:
            message = f"backfill {backfill.id} has not ended, so its failed runs cannot be retried"
            raise RejectedError("backfill_open", message)
        if backfill.state is BackfillState.CANCELLED or not backfill.counts.failed:
            problem = "was cancelled" if backfill.state is BackfillState.CANCELLED else "has no failed run"
            raise RejectedError("backfill_ended", f"backfill {backfill.id} {problem}")
        check_backfill_quota(store, tenant)
        # The count of rejected partitions stays, so the reason of the last one does, too.
        is_rejection = backfill.counts.rejected > 0 and backfill.counts.passed == backfill.range.total
        return replace(
            backfill,
            state=BackfillState.RUNNING,
            retry=mode,
            cursor=_first_cursor(store, backfill),
            counts=replace(backfill.counts, passed=0),
            reason=backfill.reason if is_rejection else None,
            finished_at=None,
            progressed_at=store.clock(),
        )

    return _change(store, tenant, backfill_id, retry)


def _first_cursor(store: Store, backfill: Backfill) -> float | None:
    """Return the cursor at the first partition of a backfill.

    Raises:
        RejectedError: `backfill_ended`, if its instants are those of a version that was removed.
    """
    start = backfill.range.start_at
    if start is None:
        return 0.0
    header = find_version(store, backfill)
    if header is None:
        raise RejectedError("backfill_ended", describe_removal(backfill))
    declared = header.find_trigger(backfill.trigger)
    assert declared is not None
    return next_instant(backfill.range, declared.schedule, start)


def _check_open(backfill: Backfill, act: str) -> None:
    if backfill.state.is_final:
        message = f"backfill {backfill.id} {_ENDS[backfill.state]}; it cannot be {act}"
        raise RejectedError("backfill_ended", message)


def _read_entry(store: Store, tenant: str, backfill_id: str) -> OutboxEntry | None:
    entry = store.outbox.get(tenant, backfill_id)
    return entry if entry is not None and entry.kind is OutboxKind.BACKFILL else None


def _change(
    store: Store, tenant: str, backfill_id: str, change: Callable[[Backfill], Backfill]
) -> Backfill | None:
    """Write a change of a backfill, which is then due. Return it, or None if there is none."""
    for _ in range(MAX_TRIES):
        entry = _read_entry(store, tenant, backfill_id)
        if entry is None:
            return None
        backfill = Backfill.from_json(entry.record)
        changed = change(backfill)
        if changed == backfill:
            return backfill
        # A turn whose runs are being started has time to finish.
        due_at = entry.due_at if any(not item.is_started for item in changed.open) else None
        written = change_entry(entry, changed, store.clock() if due_at is None else due_at)
        if store.outbox.change(entry, written):
            return changed
    message = f"backfill {backfill_id} was changed meanwhile: try again"
    raise RejectedError("backfill_changed", message)
