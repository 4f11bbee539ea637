"""The partitions of a backfill, in their order, and the attempts at them.

Problem: a backfill may have 100,000 partitions, some of which had runs before it.

Algorithm: the instants are enumerated from the cursor on, so no list of them is stored. The ids of the runs
of a partition follow from the number of the attempt. So one query of the store finds the last attempt at each
of many partitions.

Cost: PROBED_ATTEMPTS ids of the query for each partition, and more for one with more attempts. A read more
for each partition that is taken without an attempt: its firing may have joined another run.

Limits: an attempt whose run was deleted is not known any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noetl.executor.engine.schedule_firing import find_previous, view_schedule
from noetl.executor.errors import StoreError
from noetl.executor.model.backfills import LIST_SLICE, Backfill, Partition, PartitionRange, slice_id
from noetl.executor.model.debounce import identify_firing
from noetl.executor.model.run import RunStatus
from noetl.executor.model.triggers import firing_id, instant_key
from noetl.executor.stores.interface import Store
from noetl.planner.frozen import frozen
from noetl.planner.plan import Header
from noetl.planner.schedules.schedule import Schedule

PROBED_ATTEMPTS = 2
"""Number of attempts at a partition that one query looks for."""

_JUST_BEFORE = 1e-6


def next_instant(partitions: PartitionRange, schedule: Schedule, instant: float) -> float | None:
    """Return the first partition from an instant on, or None.

    >>> days = PartitionRange(2, 0.0, 172800.0, 86400.0)
    >>> next_instant(days, Schedule(every_seconds=1), 1.0), next_instant(days, Schedule(every_seconds=1), 1e6)
    (86400.0, None)
    """
    assert partitions.start_at is not None
    assert partitions.end_at is not None
    earliest = max(instant, partitions.start_at)
    following = _source_of(partitions, schedule).next_after(earliest - _JUST_BEFORE)
    return None if following is None or following >= partitions.end_at else following


def count_instants(partitions: PartitionRange, schedule: Schedule) -> int:
    """Return the number of instants of a range."""
    assert partitions.start_at is not None
    assert partitions.end_at is not None
    source = _source_of(partitions, schedule)
    return source.count_between(partitions.start_at, partitions.end_at)


def _source_of(partitions: PartitionRange, schedule: Schedule) -> Schedule:
    """Return the schedule of the instants of a range: one of its own, or that of the trigger."""
    if partitions.every_seconds is None:
        return schedule
    return Schedule(every_seconds=partitions.every_seconds, start_at=partitions.start_at)


def read_partitions(
    store: Store, backfill: Backfill, schedule: Schedule, number: int
) -> tuple[list[Partition], float | None]:
    """Return up to `number` partitions from the cursor of a backfill on, and the cursor after them.

    Raises:
        StoreError: the list was deleted.
    """
    cursor = backfill.cursor
    if cursor is None:
        return [], None
    if backfill.range.is_list:
        return _read_list(store, backfill, int(cursor), number)
    found: list[Partition] = []
    while cursor is not None and len(found) < number:
        found.append(Partition.at_instant(cursor))
        cursor = next_instant(backfill.range, schedule, cursor + 2 * _JUST_BEFORE)
    return found, cursor


def _read_list(
    store: Store, backfill: Backfill, position: int, number: int
) -> tuple[list[Partition], float | None]:
    list_slice = store.outbox.get(backfill.tenant, slice_id(backfill.id, position // LIST_SLICE))
    if list_slice is None:
        raise StoreError(f"the list of backfill {backfill.id} was deleted")
    start = position % LIST_SLICE
    found = [Partition(value) for value in list_slice.record["values"][start : start + number]]
    following = position + len(found)
    return found, None if following >= backfill.range.total else float(following)


@frozen
class Attempt:
    """The last attempt at a partition: its number, the id of its run, and the status of the run."""

    number: int
    run_id: str
    status: RunStatus


def find_version(store: Store, backfill: Backfill) -> Header | None:
    """Return the header of the plan that a backfill starts, or None if its version was removed."""
    registered = store.registry.get(backfill.tenant, backfill.playbook, backfill.version)
    if registered is None or registered.plan_hash != backfill.plan_hash:
        return None
    return store.plans.header(backfill.plan_hash)


def describe_removal(backfill: Backfill) -> str:
    """Return why a backfill whose version was removed starts no run."""
    return f"version {backfill.version} of playbook `{backfill.playbook}` was removed"


def run_id_of(backfill: Backfill, partition: Partition, attempt: int) -> str:
    """Return the id of the run of an attempt at a partition."""
    key = partition.attempt_key(attempt)
    return firing_id(backfill.tenant, backfill.playbook, backfill.trigger, key)


def find_last_attempts(
    store: Store, backfill: Backfill, partitions: Sequence[Partition]
) -> dict[str, Attempt]:
    """Return the last attempt at each partition that has one, by the text of the partition."""
    last: dict[str, Attempt] = {}
    probed, first = list(partitions), 0
    while probed:
        ids = {
            run_id_of(backfill, partition, number): (partition, number)
            for partition in probed
            for number in range(first, first + PROBED_ATTEMPTS)
        }
        positions = store.runs.positions(list(ids))
        first += PROBED_ATTEMPTS
        continued: dict[str, Partition] = {}
        for run_id, (partition, number) in ids.items():
            if run_id in positions:
                last[partition.text] = Attempt(number, run_id, positions[run_id].status)
                if number == first - 1:
                    continued[partition.text] = partition
        probed = list(continued.values())
    return last


def find_joined(store: Store, backfill: Backfill, partition: Partition) -> Attempt | None:
    """Return the run with `debounce` that the firing of a partition has joined, as its first attempt."""
    key, _ = identify_firing(run_id_of(backfill, partition, 0))
    request = store.runs.find_request(backfill.tenant, key)
    if request is None:
        return None
    run_id = request[1]
    position = store.runs.positions([run_id]).get(run_id)
    return None if position is None else Attempt(0, run_id, position.status)


def view_partition(backfill: Backfill, schedule: Schedule, partition: Partition) -> dict[str, Any]:
    """Return what the templates of a trigger read under `trigger` for a partition."""
    instant, distance = partition.instant, backfill.range.every_seconds
    if instant is None:
        names = ("scheduled_at", "previous_at", "next_at", "local")
        return dict.fromkeys(names) | {"partition": partition.value}
    view = view_schedule(backfill.fired_trigger, schedule, instant)
    if distance is not None:
        before, after = instant_key(instant - distance), instant_key(instant + distance)
        return view | {"previous_at": before, "next_at": after}
    previous = find_previous(schedule, instant)
    return view | {"previous_at": None if previous is None else instant_key(previous)}
