"""The stop of a run: no visit starts any more, running visits finish, and the run ends.

Problem: a stop parks more visits than one transaction may hold, while workers claim and commit.

Algorithm: a durable intent in the head, then idempotent steps: the forward recovery of a saga (Garcia-Molina
and Salem 1987). A stop writes `stop` to the head. It then parks visits and fires joins, until a snapshot
shows nothing left to park. If no visit is running, it creates the visit that ends the run; otherwise the
commit of the last running visit does.

Cost: each round reads the run, and writes each visit that it parks.

Limits: a stop gives up after MAX_CONFLICTS rounds.
"""

from __future__ import annotations

import time
from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.run import ErrorRecord, Run, RunStatus, VisitStatus
from noetl.executor.model.run_transition import stop_run
from noetl.executor.model.special_visits import finally_visit_id, is_pseudo_step
from noetl.executor.model.visit_states import PARKABLE
from noetl.executor.model.visit_transition import park
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Put, Update
from noetl.executor.stores.dynamo.gate_items import decode_slot
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.plan_moves import is_moving, settle_move
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import decode_run, has_ended, run_id_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.slot_returns import (
    SlotReturns,
    has_slots,
    read_slot_items,
    write_returning,
)
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import VisitItem, is_unchanged
from noetl.planner.frozen import replace


class Stops:
    """Stops of runs and of their child runs."""

    def __init__(self, context: DynamoContext, joins: DynamoJoins) -> None:
        self._context = context
        self._joins = joins

    def stop(self, run_id: str, status: RunStatus, now: float, reason: ErrorRecord | None = None) -> Run:
        """Let a run end with `status`; a second call changes nothing. A `reason` is the error of the run.

        Raises:
            RejectedError: `finished`, if the run has ended with another status.
        """
        head = self._context.heads.read(run_id)
        if has_ended(head):
            return stop_run(decode_run(head, self._context.blobs), status)
        if "stop" not in head:
            is_open: tuple[Condition, ...] = (PRESENT, ("finished", "absent", None))
            awake = {"open": keys.open_shard(head["queue"], run_id)}
            keep: Item = {"stop": str(status)}
            if reason is not None:
                keep |= {"error": self._context.blobs.store(run_id, reason)}
            update = Update(keys.head(run_id), awake, keep=keep, when=is_open)
            try:
                head = self._context.table.update(update)
            except ConditionFailed:
                return self.stop(run_id, status, now, reason)
        self._context.announcer.announce(head, self.settle(run_id, now), now)
        self._context.changes.notify()
        return load_run(self._context, head)

    def settle(self, run_id: str, now: float, *, is_repeated: bool = False) -> list[VisitItem]:
        """Park what has not started in a stopping run, and end it if no visit is running; return the due
        visits.

        A repetition also returns the visit of the end that is running.
        """
        for tries in range(MAX_CONFLICTS):
            snapshot = read_snapshot(self._context, run_id)
            if snapshot is None or "stop" not in snapshot.head or has_ended(snapshot.head):
                return []
            if is_moving(snapshot.head):
                settle_move(self._context, snapshot.head, now, is_forced=True)
            elif not self.park_all(snapshot, now):
                break
            time.sleep(pause_seconds(tries) if tries > 1 else 0.0)
        else:
            raise StoreError(f"Run {run_id} could not be stopped: too many concurrent writers.")
        finally_visit = finally_visit_id(snapshot.head.get("resumes", 0))
        self._cancel_children(run_id, now, except_visit=finally_visit)
        is_running = any(
            item.visit.status is VisitStatus.RUNNING and not is_pseudo_step(item.visit.step)
            for item in snapshot.active_items
        )
        if is_running:
            return []
        return end_run(self._context, snapshot.head, now, is_repeated=is_repeated)

    def parkable_items(self, snapshot: RunSnapshot) -> list[VisitItem]:
        """Return the visits of a stopping or paused run that have not started or that are suspended."""
        return [
            item
            for item in snapshot.active_items
            if item.visit.status in PARKABLE and self._context.is_branch_visit(item.visit, snapshot.head)
        ]

    def cancel_child_runs(self, run_id: str, visit_id: str, now: float) -> None:
        """Cancel the runs that a visit has started and no longer waits for."""
        self._cancel_children(run_id, now, of_visit=visit_id)

    def park_all(self, snapshot: RunSnapshot, now: float) -> bool:
        """Park all visits that are not running, and return whether there were any."""
        head = snapshot.head
        fired, _ = self._joins.fire(head, None, now)
        parkable = self.parkable_items(snapshot)
        owners = self._slot_owners(head)
        self._context.in_parallel(
            lambda item: self._park(item, head, now, is_owner=item.visit.id in owners), parkable
        )
        return bool(parkable or fired)

    def _slot_owners(self, head: Item) -> set[str]:
        """Return the ids of the visits of a run that have slots."""
        if not has_slots(head):
            return set()
        run_id = run_id_of(head)
        slots = read_slot_items(self._context.table, run_id)
        return {decode_slot(item, run_id).owner.visit_id for item in slots}

    def _park(self, item: VisitItem, head: Item, now: float, *, is_owner: bool) -> None:
        """Park a visit, unless a worker has claimed it since it was read.

        Its slots are given back. It asks for them again when its run continues. So does one that waits for
        the slot of its run.
        """
        visit, parked = item.visit, park(item.visit)
        if is_owner or "queued" in item.attributes:
            parked = replace(parked, due_at=now)
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        state: Item = {"status": parked.status.value, "due": parked.due_at}
        with suppress(ConditionFailed):
            if item.is_written:
                state |= {"wakes": None} if "wakes" in item.attributes else {}
                # An answer may have made it due since it was read.
                is_same: tuple[Condition, ...] = (*is_unchanged(visit), ("due", "=", item.attributes["due"]))
                update, table = Update(key, state, when=is_same), self._context.table
                if is_owner:
                    write_returning(table, [update], SlotReturns(table, visit.run_id, visit.id), now)
                else:
                    table.update(update)
                return
            cause = {"cause": item.origin.cause} if item.origin.cause else {}
            self._context.table.write([Put(key, {"step": visit.step, **cause, **state})])

    def _cancel_children(
        self, run_id: str, now: float, *, of_visit: str | None = None, except_visit: str | None = None
    ) -> None:
        """Cancel the child runs of one visit, or of all visits except one."""
        prefix = keys.child_prefix(of_visit)
        for item in self._context.table.query(keys.partition_key(run_id), prefix):
            _, visit_id, child = item["sk"].split("#", 2)
            if visit_id == except_visit:
                continue
            head = self._context.table.get(keys.head(child))
            # A damaged run cannot be stopped. It is deleted with its parent.
            if head is not None and not has_ended(head) and not head.keys() & {"stop", "damage"}:
                with suppress(RejectedError):  # it has ended since it was read
                    self.stop(child, RunStatus.CANCELLED, now)
