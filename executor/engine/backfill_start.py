"""The start of a backfill: its request is checked, its partitions are counted, and its entry is written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from noetl.executor.engine.backfill_partitions import count_instants, next_instant
from noetl.executor.engine.quotas import check_backfill_quota
from noetl.executor.errors import RejectedError
from noetl.executor.model.backfills import (
    MAX_OPEN_RUNS,
    MAX_PARTITION_BYTES,
    MAX_PARTITIONS,
    Backfill,
    PartitionRange,
    Redo,
    backfill_entry,
    list_entries,
)
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run_transition import check_same_request
from noetl.executor.model.triggers import LiveTrigger, instant_key
from noetl.executor.stores.interface import Store
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen, replace
from noetl.planner.kinds import describe_kind_of
from noetl.planner.schedules.schedule import Schedule
from noetl.planner.schedules.zone_names import find_zone
from noetl.planner.syntax.instants import InstantYearError, check_instant, parse_instant


@frozen
class BackfillRequest:
    """A request to start a backfill: for the instants from `start` to `end`, or for a list.

    Both are times of ISO 8601. Without an offset, they are times of the zone of the trigger. `end` is no
    instant of it. Without `every_seconds`, the instants are those of the schedule of the trigger. The same
    `idempotency_key` with the same request starts one backfill.
    """

    start: str | None = None
    end: str | None = None
    every_seconds: float | None = None
    partitions: Sequence[Any] | None = None
    limit: int = 1
    redo: Redo | None = None
    idempotency_key: str | None = None


def start_backfill(
    store: Store, trigger: LiveTrigger, request: BackfillRequest, now: float
) -> tuple[Backfill, bool]:
    """Start a backfill of a trigger in its current version.

    Return the backfill, and whether an earlier request has started it.

    Raises:
        RejectedError: `invalid_backfill`; `idempotency_key_reused`; `quota_exceeded`.
        SettingError: a setting is invalid.
    """
    backfill_id = secrets.token_hex(12)
    if request.idempotency_key is not None:
        backfill_id = derived_id("backfill", trigger.tenant, request.idempotency_key)
    content = _hash_request(trigger, request)
    if (earlier := _find_earlier(store, trigger.tenant, backfill_id, content)) is not None:
        return earlier, True
    schedule = _schedule_of(store, trigger)
    if not 1 <= request.limit <= MAX_OPEN_RUNS:
        raise _invalid(f"`limit` must be from 1 to {MAX_OPEN_RUNS}")
    partitions, cursor = _find_range(request, schedule, now)
    check_backfill_quota(store, trigger.tenant)
    backfill = Backfill(
        backfill_id,
        trigger.tenant,
        trigger.playbook,
        trigger.name,
        trigger.version,
        trigger.plan_hash,
        now,
        partitions,
        cursor,
        content,
        limit=request.limit,
        redo=request.redo,
        progressed_at=now,
    )
    if request.partitions is not None:
        # The list is complete before the entry of the backfill exists. What is left over expires.
        for entry in list_entries(backfill, request.partitions):
            store.outbox.add(entry)
    if store.outbox.add(backfill_entry(backfill)):
        return backfill, False
    earlier = _find_earlier(store, trigger.tenant, backfill_id, content)
    assert earlier is not None
    return earlier, True


def _hash_request(trigger: LiveTrigger, request: BackfillRequest) -> str:
    content = replace(request, idempotency_key=None, partitions=None)
    values = request.partitions if request.partitions is None else list(request.partitions)
    return derived_id("backfill request", trigger.playbook, trigger.name, content, values)


def _find_earlier(store: Store, tenant: str, backfill_id: str, content: str) -> Backfill | None:
    """Return the backfill that a request with the same key has started, or None.

    Raises:
        RejectedError: `idempotency_key_reused`.
    """
    entry = store.outbox.get(tenant, backfill_id)
    if entry is None:
        return None
    earlier = Backfill.from_json(entry.record)
    check_same_request(earlier.request, content)
    return earlier


def _schedule_of(store: Store, trigger: LiveTrigger) -> Schedule:
    """Return the schedule of a trigger.

    Raises:
        RejectedError: `invalid_backfill`, if the trigger is of another type.
    """
    declared = store.plans.header(trigger.plan_hash).find_trigger(trigger.name)
    source = None if declared is None else declared.source
    if not isinstance(source, Schedule):
        message = (
            f"trigger `{trigger.name}` is of type `{trigger.type}`; a backfill needs one of type `schedule`"
        )
        raise _invalid(message)
    return source


def _find_range(
    request: BackfillRequest, schedule: Schedule, now: float
) -> tuple[PartitionRange, float | None]:
    """Return the partitions of a request, and the first cursor.

    Raises:
        RejectedError: `invalid_backfill`.
    """
    distance = request.every_seconds
    start, end = (
        _read_time(name, text, schedule) for name, text in (("from", request.start), ("to", request.end))
    )
    if request.partitions is not None:
        if start is not None or end is not None or distance is not None:
            raise _invalid("a list of partitions contradicts `from`, `to` and `every`")
        _check_list(request.partitions)
        return PartitionRange(len(request.partitions)), 0.0
    if start is None or end is None:
        raise _invalid("a backfill needs `from` and `to`, or a list of partitions")
    if start >= end:
        raise _invalid(f"`from` must be before `to`: {instant_key(start)} is not before {instant_key(end)}")
    if end > now:
        raise _invalid(f"`to` must not be in the future: it is {instant_key(end)}")
    if distance is not None and distance < 1:
        raise _invalid("`every` must be at least 1 s")
    partitions = PartitionRange(0, start, end, distance)
    total = count_instants(partitions, schedule)
    if total > MAX_PARTITIONS:
        raise _invalid(f"a backfill has at most {MAX_PARTITIONS:,} partitions; choose a shorter range")
    if total == 0:
        message = f"the trigger has no instant from {instant_key(start)} to {instant_key(end)}"
        raise _invalid(message)
    return replace(partitions, total=total), next_instant(partitions, schedule, start)


def _read_time(name: str, text: str | None, schedule: Schedule) -> float | None:
    """Return the seconds since the epoch of a time.

    Raises:
        RejectedError: `invalid_backfill`, if the text is no time.
    """
    if text is None:
        return None
    try:
        return parse_instant(check_instant(text), find_zone(schedule.timezone))
    except InstantYearError as problem:
        raise _invalid(f"`{name}` must have {problem}, not {abbreviate(text)}") from None
    except (ValueError, OverflowError):
        message = (
            f"`{name}` must be a time such as 2026-01-31 or 2026-01-31T09:30:00Z, not {abbreviate(text)}"
        )
        raise _invalid(message) from None


def _check_list(values: Sequence[Any]) -> None:
    """Check the partitions of a list.

    Raises:
        RejectedError: `invalid_backfill`.
    """
    if not values:
        raise _invalid("the list has no partition")
    if len(values) > MAX_PARTITIONS:
        raise _invalid(f"a backfill has at most {MAX_PARTITIONS:,} partitions, not {len(values):,}")
    seen: set[str] = set()
    for number, value in enumerate(values, 1):
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            message = f"partition {number} must be a text or a number, not {describe_kind_of(value)}"
            raise _invalid(message)
        text = str(value)
        if not 1 <= len(text.encode("utf-8", "surrogatepass")) <= MAX_PARTITION_BYTES:
            raise _invalid(f"partition {number} must have from 1 to {MAX_PARTITION_BYTES} bytes")
        if text in seen:
            raise _invalid(f"duplicate partition `{abbreviate(text)}`")
        seen.add(text)


def _invalid(message: str) -> RejectedError:
    return RejectedError("invalid_backfill", message)
