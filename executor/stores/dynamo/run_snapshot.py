"""A snapshot of a run: its head, its counters, and all of its visits, also those that have no item yet.

Problem: a run is spread over several partitions, which are read one after the other, while workers write to
them. Most visits that are due have no item, because they follow from the item of their cause.

Algorithm: read the head, then all partitions in parallel, and derive the visits that follow from finished
ones. The item of a cause is written before the item of its followers. So an item whose cause is missing
shows that the cause was read too early (a torn read), and the run is read again. So it is if an item was
written under a later plan than that of the head.

Cost: one query for each partition, and one read of the head and of each counter.

Limits: after MAX_READS torn reads the last one is returned without the visits of unknown origin. Counters
and visits are not read as of one moment, so a caller that must be certain checks the counters by
`get_snapshot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from noetl.executor.model.run import DEADLINE, Run, RunStatus
from noetl.executor.model.run_transition import shown_status
from noetl.executor.model.special_visits import finally_visit_id, is_pseudo_step
from noetl.executor.model.visit_states import ACTIVE
from noetl.executor.model.visit_transition import is_waiting
from noetl.executor.stores.damage import reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.plan_moves import current_item
from noetl.executor.stores.dynamo.run_items import (
    BranchCounts,
    decode_run,
    derive_deadline_visit,
    derive_initial_visits,
    derive_next_visits,
    era_of,
    has_ended,
    run_id_of,
    spread_of,
    stop_of,
    sum_counters,
)
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_visit
from noetl.planner.frozen import frozen

MAX_READS = 8
"""Number of times that a run is read because of torn reads."""


@frozen
class RunSnapshot:
    """The head of a run, its branch counts, and all of its visits in the order of creation.

    The visits include those that no worker has claimed yet and that have no item. `counter` is the counter of
    the first partition, which was read before the visits.
    """

    head: Item
    counts: BranchCounts
    items: list[VisitItem]
    counter: Item

    @property
    def current_items(self) -> list[VisitItem]:
        """Visits since the last resume: without those that ended the run before it."""
        resumes = self.head.get("resumes", 0)
        has_finally_visit = any(item.visit.id == finally_visit_id(resumes) for item in self.items)
        return [
            item
            for item in self.items
            if self._is_current(item, resumes, has_finally_visit=has_finally_visit)
        ]

    def _is_current(self, item: VisitItem, resumes: int, *, has_finally_visit: bool) -> bool:
        if item.is_written and item.attributes.get("resumes", resumes) != resumes:
            return False
        if item.visit.step != DEADLINE:
            return True
        deadline = derive_deadline_visit(self.head)
        is_current = deadline is not None and deadline.visit.id == item.visit.id
        return is_current and not (has_finally_visit or has_ended(self.head))

    @property
    def active_items(self) -> list[VisitItem]:
        """Visits that are not finished, the one that has been due longest first."""
        if has_ended(self.head):
            return []
        active = [item for item in self.current_items if item.visit.status in ACTIVE]
        return sorted(active, key=lambda item: (item.visit.due_at, *item.sort_key))

    def status(self) -> RunStatus:
        """Return the status of the run that readers see."""
        active = [item.visit for item in self.active_items if not is_pseudo_step(item.visit.step)]
        waiting = sum(map(is_waiting, active))
        return shown_status(RunStatus(self.head["status"]), stop_of(self.head), len(active), waiting)


def read_snapshot(
    context: DynamoContext, run_id: str, *, with_outputs: bool = False, attributes: Sequence[str] = ()
) -> RunSnapshot | None:
    """Return a snapshot of a run, or None if there is no such run.

    Its head has the named attributes, or all if none is named.
    """
    head = context.table.get(keys.head(run_id), attributes)
    if head is None:
        return None
    return read_snapshot_of(context, head, with_outputs=with_outputs, attributes=attributes)


def read_snapshot_of(
    context: DynamoContext, head: Item, *, with_outputs: bool = False, attributes: Sequence[str] = ()
) -> RunSnapshot:
    """Return a snapshot of the run of a head that was just read, with the named attributes or all.

    Raises:
        DamagedRunError: data of the run cannot be decoded, or its plan is missing.
    """
    with reading_run(run_id_of(head)):
        return _read_snapshot_of(context, head, with_outputs=with_outputs, attributes=attributes)


def _read_snapshot_of(
    context: DynamoContext, head: Item, *, with_outputs: bool, attributes: Sequence[str]
) -> RunSnapshot:
    run_id = run_id_of(head)
    for reads in range(MAX_READS):
        if reads:
            head = context.table.get(keys.head(run_id), attributes) or head
        partitions = context.in_parallel(
            lambda number: _read_partition(context.table, run_id, number), range(spread_of(head))
        )
        written = [item for partition in partitions for item in partition]
        counters = [item for item in written if item["sk"] == "C"]
        visits = [item for item in written if item["sk"] != "C"]
        items, is_torn = assemble_visits(context, head, visits, with_outputs=with_outputs)
        if not (is_torn or any(era_of(counter) > era_of(head) for counter in counters)):
            break
    counts = sum_counters(head, counters, context.step_of(head))
    first = next((item for item in counters if item["pk"] == keys.counter(run_id, 0).pk), {})
    return RunSnapshot(head, counts, sorted(items, key=lambda item: item.sort_key), first)


def _read_partition(table: DynamoTable, run_id: str, number: int) -> list[Item]:
    counter = table.get(keys.counter(run_id, number))
    visits = list(table.query(keys.partition_key(run_id, number), "V#"))
    return visits if counter is None else [counter, *visits]


def assemble_visits(
    context: DynamoContext, head: Item, visits: Iterable[Item], *, with_outputs: bool
) -> tuple[list[VisitItem], bool]:
    """Return the visits of items and those that follow from them, and whether the read was torn."""
    step_of, run_id = context.step_of(head), run_id_of(head)
    written = {visit["sk"][2:]: current_item(visit, head) for visit in visits}
    decoded: dict[str, VisitItem] = {}
    derived = {item.visit.id: item for item in derive_initial_visits(head, step_of)}
    for id, visit in written.items():
        item = decode_visit(run_id, visit, context.blobs, with_outputs=with_outputs)
        if item is not None:
            decoded[id] = item
            followers = derive_next_visits(head, item, step_of)
            derived.update((follower.visit.id, follower) for follower in followers)
    # The run may have changed its plan since its head was read.
    is_torn = any(era_of(visit) > era_of(head) for visit in written.values())
    for id, visit in written.items():
        if id in decoded:
            continue
        item = decode_visit(run_id, visit, context.blobs, derived.get(id), with_outputs=with_outputs)
        if item is None:
            is_torn = True
        else:
            decoded[id] = item
    is_torn = is_torn or any(
        cause not in written
        for item in decoded.values()
        for cause in (item.origin.cause, *item.origin.causes)
        if cause
    )
    return [*decoded.values(), *(item for id, item in derived.items() if id not in decoded)], is_torn


def load_run(context: DynamoContext, head: Item) -> Run:
    """Return a run with the counts of its branches, of which only the counters are read."""
    run_id = run_id_of(head)
    items = context.table.get_many([keys.counter(run_id, number) for number in range(spread_of(head))])
    counts = sum_counters(head, list(items.values()), context.step_of(head))
    return decode_run(head, context.blobs, counts)
