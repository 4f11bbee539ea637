"""A run as it stands in the table, read at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from noetl.executor.model.run import DEADLINE, END, NEVER, RunStatus, VisitStatus
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.run_items import (
    BranchCounts,
    counts_of,
    deadline_of,
    first_of,
    is_over,
    spread_of,
)
from noetl.executor.stores.dynamo.visit_items import ACTIVE, VisitItem, decode_visit, followers
from noetl.planner.frozen import frozen

if TYPE_CHECKING:
    from noetl.executor.stores.dynamo.context import DynamoContext

MOST_LOOKS = 8


@frozen
class RunSnapshot:
    """The head of a run and the records of all its visits, in the order they came to be: also of those that nobody has
    claimed yet and that have no item.
    """

    head: Item
    counts: BranchCounts
    items: list[VisitItem]

    @property
    def current_items(self) -> list[VisitItem]:
        """The visits that the run knows of: not those that ended it before it was resumed."""
        resumes = self.head.get("resumes", 0)
        has_last = any(record.visit.id == finally_visit_id(resumes) for record in self.items)
        return [record for record in self.items if self._is_shown(record, resumes, has_last=has_last)]

    def _is_shown(self, record: VisitItem, resumes: int, *, has_last: bool) -> bool:
        if record.is_written and record.item.get("resumes", resumes) != resumes:
            return False
        if record.visit.step != DEADLINE:
            return True
        current = deadline_of(self.head)
        is_current = current is not None and current.visit.id == record.visit.id
        return is_current and not (has_last or is_over(self.head))

    @property
    def active_items(self) -> list[VisitItem]:
        """The visits that are not over, the one that is due longest first."""
        if is_over(self.head):
            return []
        found = [record for record in self.current_items if record.visit.status in ACTIVE]
        return sorted(found, key=lambda record: (record.visit.due_at, *record.order))

    @property
    def joins_to_fire(self) -> set[str]:
        """The joins at which branches have arrived, and for which none is on the way any more."""
        return {
            join for join, came in self.counts.arrived.items() if came and self.counts.joins.get(join, 0) <= 0
        }

    @property
    def last_done(self) -> VisitItem | None:
        """The visit of a step that was done last."""
        done = [one for one in self.items if "at" in one.item and not is_pseudo(one)]
        return max(done, key=lambda one: (one.item["at"], one.visit.clock), default=None)

    def status(self) -> RunStatus:
        """The run is `waiting` when there is nothing to do for it but to wait."""
        status = RunStatus(self.head["status"])
        if status.is_final:
            return status
        active = [record.visit for record in self.active_items if not record.visit.step.startswith("@")]
        waiting = [
            v for v in active if v.status in (VisitStatus.RETRYING, VisitStatus.WAITING) or v.due_at == NEVER
        ]
        return RunStatus.WAITING if 0 < len(active) == len(waiting) else status

    def record(self, visit_id: str) -> VisitItem | None:
        return next((record for record in self.items if record.visit.id == visit_id), None)


def read_snapshot(core: DynamoContext, run_id: str, *, saved: bool = False) -> RunSnapshot | None:
    """A run with all its visits, and with what they saved if `saved`. None when there is no such run."""
    head = core.table.get(keys.head(run_id))
    if head is None:
        return None
    for looks in range(MOST_LOOKS):
        if looks:
            head = core.head(run_id)
        spread = spread_of(head)
        parts = core.in_parallel(lambda number: _read_partition(core, run_id, number), range(spread))
        items = [item for part in parts for item in part]
        counters = [item for item in items if item["sk"] == "C"]
        written = [item for item in items if item["sk"] != "C"]
        records, is_torn = _records(core, head, written, saved=saved)
        if not is_torn:
            break
    step_of = core.step_of(head["plan"])
    return RunSnapshot(
        head, counts_of(head, counters, step_of), sorted(records, key=lambda record: record.order)
    )


def _read_partition(core: DynamoContext, run_id: str, number: int) -> list[Item]:
    counter = core.table.get(keys.counter(run_id, number))
    visits = list(core.table.query(keys.partition_key(run_id, number), "V#"))
    return visits if counter is None else [counter, *visits]


def _records(
    core: DynamoContext, head: Item, items: Iterable[Item], *, saved: bool
) -> tuple[list[VisitItem], bool]:
    """The records of items and of what follows from them; and whether some were read that follow from nothing that was: the
    table has changed while it was read.
    """
    step_of, spread = core.step_of(head["plan"]), spread_of(head)
    run_id = head["pk"][2:]
    in_turns = core.plans.header(head["plan"]).sequential
    found: dict[str, VisitItem] = {}
    by_id = {item["sk"][2:]: item for item in items}
    derived = {
        record.visit.id: record
        for record in (first_of(head, step_of), deadline_of(head))
        if record is not None
    }
    for id, item in by_id.items():
        record = decode_visit(run_id, item, core.blobs, whole=saved or bool(item.get("next")))
        if record is not None:
            found[id] = record
            derived.update(
                (each.visit.id, each) for each in followers(record, step_of, spread, in_turns=in_turns)
            )
    is_torn = False
    for id, item in by_id.items():
        if id in found:
            continue
        record = decode_visit(run_id, item, core.blobs, derived.get(id), whole=saved)
        if record is None:
            is_torn = True
        else:
            found[id] = record
    # What a visit follows from was written before it: where it is missing, its partition was read too early.
    is_torn = is_torn or any(
        id not in by_id for one in found.values() for id in (one.way.cause, *one.way.causes) if id
    )
    return [*found.values(), *(record for id, record in derived.items() if id not in found)], is_torn


def is_pseudo(record: VisitItem) -> bool:
    """Whether a visit is of no step of the playbook."""
    return record.visit.step in (END, DEADLINE)
