"""Followups: everything that follows from a stored outcome, and that its commit has not written.

Problem: an outcome may fire joins, stop child runs, stop the run or end it, which one transaction cannot
hold. A worker may die between any two requests.

Algorithm: idempotent redo (Mohan et al. 1992). Each followup is a function of the stored outcome: visits have
derived ids, joins fire under the condition of their wave, messages are hints. So a second try changes nothing
and completes the first. Visits that are due are returned, and the caller announces or claims them.

Cost: none for a step of a chain. A commit that changes counters reads the counters.

Limits: followups that a dead worker has left undone are completed when the message of the visit is delivered
again, or by the sweep.
"""

from __future__ import annotations

from noetl.executor.model.run import DEADLINE, END, VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.commits import WrittenOutcome
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.pauses import Pauses
from noetl.executor.stores.dynamo.retention import Retention
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import (
    derive_next_visits,
    era_of,
    is_paused,
    spread_of,
    starts_nothing,
)
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_visit
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.planner.frozen import frozen


@frozen
class DueVisits:
    """The visits of a run that are due now or later, and the head of the run as it was read."""

    head: Item
    items: list[VisitItem]


class Followups:
    """The effects of stored outcomes on joins, branches, child runs and the run itself."""

    def __init__(
        self,
        context: DynamoContext,
        joins: DynamoJoins,
        pauses: Pauses,
        wakeups: Wakeups,
        retention: Retention,
    ) -> None:
        self._context = context
        self._joins = joins
        self._pauses = pauses
        self._stops = pauses.stops
        self._wakeups = wakeups
        self._retention = retention

    def apply(self, committed: WrittenOutcome, now: float, known_head: Item | None) -> DueVisits:
        """Apply what follows from an outcome, and return the visits that are due.

        `known_head` is the head of the run as of the claim. It is used if the outcome is that of a step of a
        chain; otherwise the head is read.
        """
        head = self._head_for(committed.item, known_head)
        begun = [] if committed.begun is None else [committed.begun]
        return DueVisits(head, self._due_after(committed.item, head, now, begun))

    def repeat(self, item: VisitItem, now: float) -> DueVisits:
        """Complete what an earlier application may have left undone, and return all visits that are due."""
        head = self._context.heads.read(item.visit.run_id)
        return DueVisits(head, self._due_after(item, head, now))

    def complete_end(self, head: Item, now: float) -> None:
        """Wake the parent of a run that has ended, and let the items of the run expire."""
        self._wakeups.wake_parent(head, now)
        self._retention.set_expiry(head, now)

    def settle_stop(self, run_id: str, now: float) -> DueVisits:
        """Settle a run that stops or is paused since the head of the claim was read."""
        head = self._context.heads.read(run_id)
        return DueVisits(head, self._pauses.settle(head, now) if starts_nothing(head) else [])

    def _due_after(
        self, item: VisitItem, head: Item, now: float, begun: list[VisitItem] | None = None
    ) -> list[VisitItem]:
        """Apply what follows from an outcome, and return the visits that are due or will be.

        `begun` are the visits that the commit itself has written. A repetition passes None, and reads them.
        """
        visit, is_repeated = item.visit, begun is None
        if item.attributes.get("resumes", 0) != head.get("resumes", 0) and "resumes" in item.attributes:
            return []  # the run was resumed after it had ended
        if visit.step == END:
            self.complete_end(head, now)
            return []
        is_finished = visit.finished_at is not None
        if is_finished and item.attributes.get("waited"):
            self._stops.cancel_child_runs(visit.run_id, visit.id, now)
        due: list[VisitItem] = []
        is_empty = False
        is_current = not is_finished or era_of(item.attributes) == era_of(head)
        if is_current and item.attributes.get("counted"):
            fired, is_empty = self._joins.fire_touched(item, head, now, again=is_repeated)
            due += fired
        due += self._read_begun(item, head) if begun is None else begun
        # The switch of the run to another plan has completed what followed under the earlier one.
        if is_current:
            due += self._followers(item, head) if is_finished else self._suspended(item, now)
        if item.attributes.get("last"):
            ends = end_run(self._context, head, now, is_repeated=is_repeated) if is_finished else []
            return due + ends
        if "stop" in head or (visit.step == DEADLINE and is_finished):
            return self._stops.settle(visit.run_id, now, is_repeated=is_repeated)
        if is_paused(head):
            self._pauses.pause_child_runs(head, visit.id, now)
            return self._pauses.settle(head, now)
        if is_finished and is_empty:
            due += end_run(self._context, head, now, is_repeated=is_repeated)
        return due

    def _head_for(self, item: VisitItem, known_head: Item | None) -> Item:
        """Return the head as of the claim for a step of a chain, and the current head otherwise."""
        visit = item.visit
        has_effects = any(item.attributes.get(name) for name in ("counted", "waited", "last"))
        is_chain_step = visit.finished_at is not None and not has_effects and not is_pseudo_step(visit.step)
        if is_chain_step and known_head is not None:
            return known_head
        return self._context.heads.read(visit.run_id)

    def _suspended(self, item: VisitItem, now: float) -> list[VisitItem]:
        """Return a suspended visit, unless an answer has made it due already."""
        visit = item.visit
        is_woken = bool(item.attributes.get("awaits")) and self._wakeups.wake_if_answered(
            visit.run_id, visit.id, now
        )
        return [] if is_woken else [item]

    def _followers(self, item: VisitItem, head: Item) -> list[VisitItem]:
        """Return the visits that follow a finished visit; in sequential mode they are not derived."""
        followers = derive_next_visits(head, item, self._context.step_of(head))
        return followers + self._created_at_joins(item, head)

    def _read_begun(self, item: VisitItem, head: Item) -> list[VisitItem]:
        """Return the visit that has begun after a visit in sequential mode, if no worker has claimed it."""
        if "begins" not in item.attributes:
            return []
        run_id = item.visit.run_id
        begun = self._context.table.get(keys.visit(run_id, item.attributes["begins"], spread_of(head)))
        decoded = None if begun is None else decode_visit(run_id, begun, self._context.blobs)
        is_ready = decoded is not None and decoded.visit.status is VisitStatus.READY
        return [decoded] if decoded is not None and is_ready else []

    def _created_at_joins(self, item: VisitItem, head: Item) -> list[VisitItem]:
        """Return the visits at a `join: any` that a commit has created and that no worker has claimed."""
        if not item.attributes.get("next"):
            return []
        step_of = self._context.step_of(head)
        visit, spread = item.visit, spread_of(head)
        branches = branches_after(visit, step_of(visit.step), step_of)
        visit_keys = [
            keys.visit(visit.run_id, branch.id, spread) for branch in branches if branch.is_absorbed
        ]
        if not visit_keys:
            return []
        items = self._context.table.get_many(visit_keys).values()
        created = (decode_visit(visit.run_id, created_item, self._context.blobs) for created_item in items)
        return [
            other
            for other in created
            if other is not None
            and other.origin.cause == visit.id
            and other.visit.status is VisitStatus.READY
        ]
