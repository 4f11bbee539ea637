"""Repairs: complete what a worker that died has left undone in an open run."""

from __future__ import annotations

from noetl.executor.model.run import VisitStatus
from noetl.executor.model.special_visits import is_pseudo_step
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.pauses import Pauses
from noetl.executor.stores.dynamo.plan_moves import is_moving, settle_move
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import has_ended, is_paused, run_id_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.executor.stores.dynamo.wakeups import Wakeups


class Repairs:
    """Repairs of runs. All of them are idempotent, so concurrent repairs of a run are safe."""

    def __init__(
        self, context: DynamoContext, joins: DynamoJoins, pauses: Pauses, resumes: Resumes, wakeups: Wakeups
    ) -> None:
        self._context = context
        self._joins = joins
        self._pauses = pauses
        self._stops = pauses.stops
        self._resumes = resumes
        self._wakeups = wakeups

    def repair(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """Complete what a worker that died has left undone, and return the visits that are due."""
        head = snapshot.head
        run_id = run_id_of(head)
        if has_ended(head):
            return []
        if is_moving(head):
            # The visits of the snapshot may have changed by this, so the next repair does the rest.
            settle_move(self._context, head, now)
            return []
        if "reopening" in head:
            self._resumes.complete(head, now)
            return []
        active = [item for item in snapshot.active_items if not is_pseudo_step(item.visit.step)]
        for item in active:
            if item.visit.status is VisitStatus.WAITING and item.visit.due_at > now:
                self._wakeups.wake_if_answered(run_id, item.visit.id, now)
        due: list[VisitItem] = []
        is_empty = False
        if snapshot.counts.joins_to_fire or snapshot.counts.live <= 0:
            # The counters of a snapshot are not as of one moment, so they are read again.
            due, counts = self._joins.fire(head, None, now)
            is_empty = counts.live <= 0
        if is_paused(head):
            return self._pauses.settle(head, now) if self._stops.parkable_items(snapshot) else []
        if "stop" in head:
            return due if self._is_settled(snapshot, active) else self._stops.settle(run_id, now)
        if self._pauses.paused_items(snapshot):
            due += self._pauses.settle(head, now)
        if not due and is_empty and not self._is_ending(snapshot):
            due = end_run(self._context, head, now)
        return due

    def _is_settled(self, snapshot: RunSnapshot, active: list[VisitItem]) -> bool:
        """Return whether a stopping run waits for a running visit or its finally step, and has nothing to
        park.
        """
        is_running = any(
            item.visit.status is VisitStatus.RUNNING
            or self._context.is_final_visit(item.visit, snapshot.head)
            for item in active
        )
        return is_running and not self._stops.parkable_items(snapshot)

    def _is_ending(self, snapshot: RunSnapshot) -> bool:
        """Return whether the visit that ends a run, or that of its finally step, is active."""
        return any(self._context.is_final_visit(item.visit, snapshot.head) for item in snapshot.active_items)
