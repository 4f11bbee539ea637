"""The pause of a run: no visit starts until the run is unpaused, then every visit continues as it was.

Problem: a pause parks more visits than one transaction may hold. Meanwhile workers claim and commit, and
other clients pause, unpause or stop the run. A process may die between any two requests.

Algorithm: a reconciliation loop. Source: the controller pattern of Kubernetes. The head says whether the run
is paused, which is one conditional write. Each process that has changed something then reads the run, and
parks or releases visits until a snapshot agrees with its head. So the last one that writes leaves a run that
agrees. Both sides write before they read, as in Dekker's mutual exclusion (Dijkstra 1965). A pause writes the
head and then reads the visits. A claim writes the visit and then reads the head.

Cost: each round reads the run, and writes each visit that it parks or releases. A paused run whose visits are
all parked sleeps: the first sweep that meets it leaves it out from then on.

Limits: a process that dies before its run agrees leaves visits that are parked without reason, or that wait
for a claim in vain. The next call, claim or sweep corrects them. A child run is paused by a request of its
own, after its parent; it is unpaused before its parent. So the same call again completes an interrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.ids import derived_id
from noetl.executor.model.run import END, Run, VisitStatus
from noetl.executor.model.run_transition import pause_run, run_paused, run_unpaused, unpause_run
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.model.visit_transition import is_waiting, unpause
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.branch_stacks import decode_stack, end_counted_wait
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Update, Write
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.plan_moves import is_moving, settle_move
from noetl.executor.stores.dynamo.resumes import Resumes
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    encode_shift,
    has_ended,
    is_paused,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.sleeping_runs import is_asleep
from noetl.executor.stores.dynamo.stops import Stops
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import VisitItem, is_unchanged
from noetl.planner.frozen import replace


class Pauses:
    """Pauses of runs and of their child runs."""

    def __init__(self, context: DynamoContext, joins: DynamoJoins, stops: Stops, resumes: Resumes) -> None:
        self._context = context
        self._joins = joins
        self._resumes = resumes
        self.stops = stops

    def pause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        """Pause a run and the child runs that it waits for. A second call completes the first.

        An interrupted resume is completed before.

        Raises:
            RejectedError: as `run_transition.pause_run`.
        """
        return self._pause(run_id, now, caller, is_own=True)

    def _pause(self, run_id: str, now: float, caller: str | None, *, is_own: bool) -> Run:
        """Pause a run by a request of its own, or with its parent."""
        head = self._context.heads.read(run_id)
        if "reopening" in head:
            self._resumes.complete(head, now)
            head = self._context.heads.read(run_id)
        run = decode_run(head, self._context.blobs)
        if pause_run(run, is_ending=self._is_ending(head)) is not run:
            sets: Item = {"held": True, "open": keys.open_shard(head["queue"], run_id)}
            sets["alone"] = is_own or None
            if is_asleep(head):
                self._context.plan_uses.require(head["plan"])
            is_active: tuple[Condition, ...] = (
                PRESENT,
                *((name, "absent", None) for name in ("finished", "stop", "held", "reopening")),
            )
            try:
                head = self._write(head, sets, run_paused(now, caller), is_active)
            except ConditionFailed:
                return self._pause(run_id, now, caller, is_own=is_own)
        elif is_own and "alone" not in head:
            with suppress(ConditionFailed):  # it has been unpaused since
                update = Update(keys.head(run_id), {"alone": True}, when=(("held", "present", None),))
                head = self._context.table.update(update)
        self.settle(head, now)
        self._pause_children(keys.child_prefix(), head, now, caller)
        self._context.changes.notify()
        return load_run(self._context, head)

    def unpause(self, run_id: str, now: float, caller: str | None = None) -> Run:
        """Let a paused run continue, and its child runs that were paused with it.

        A second call completes the first.

        Raises:
            RejectedError: as `run_transition.unpause_run`.
        """
        head = self._context.heads.read(run_id)
        run = decode_run(head, self._context.blobs)
        if unpause_run(run) is not run:
            for child in self._child_heads(keys.child_prefix(), head):
                if is_paused(child) and "alone" not in child:
                    with suppress(RejectedError):  # it has ended since it was read
                        self.unpause(run_id_of(child), now, caller)
            is_held: tuple[Condition, ...] = (("held", "present", None), ("stop", "absent", None))
            try:
                sets = {"held": None, "alone": None, "open": keys.open_shard(head["queue"], run_id)}
                if is_asleep(head):
                    self._context.plan_uses.require(head["plan"])
                head = self._write(head, sets, run_unpaused(now, caller), is_held)
            except ConditionFailed:
                return self.unpause(run_id, now, caller)
        if "reopening" not in head:
            self._context.announcer.announce(head, self.settle(head, now), now)
        self._context.changes.notify()
        return load_run(self._context, head)

    def pause_child_runs(self, head: Item, visit_id: str, now: float) -> None:
        """Pause the child runs of a visit."""
        self._pause_children(keys.child_prefix(visit_id), head, now, None)

    def settle(self, head: Item, now: float) -> list[VisitItem]:
        """Park or release visits of a run until they agree with its head, and return those that are due.

        `head` was just read. A run that stops is settled as `Stops.settle` does.
        """
        run_id, due = run_id_of(head), list[VisitItem]()
        if "stop" in head:
            return self.stops.settle(run_id, now)
        for tries in range(MAX_CONFLICTS):
            snapshot = read_snapshot(self._context, run_id)
            if snapshot is None or has_ended(snapshot.head) or "reopening" in snapshot.head:
                return due
            if "stop" in snapshot.head:
                return self.stops.settle(run_id, now)
            if is_moving(snapshot.head):
                settle_move(self._context, snapshot.head, now, is_forced=True)
            elif is_paused(snapshot.head):
                due = []
                if not self.stops.park_all(snapshot, now):
                    return []
            else:
                paused = self.paused_items(snapshot)
                if not paused:
                    return due + self._end_if_empty(snapshot, now)
                due += self._release_all(paused, snapshot.head, now)
            time.sleep(pause_seconds(tries) if tries > 1 else 0.0)
        raise StoreError(f"Run {run_id} could not be paused or unpaused: too many concurrent writers.")

    def paused_items(self, snapshot: RunSnapshot) -> list[VisitItem]:
        """Return the parked visits of a run that continue if it is not paused.

        In sequential mode, visits that a resume continues are parked until their turn.
        """
        head = snapshot.head
        parked = [
            item
            for item in snapshot.current_items
            if item.visit.status is VisitStatus.PARKED and self._context.is_branch_visit(item.visit, head)
        ]
        if not parked or not self._context.is_sequential(head):
            return parked
        waiting_ids = decode_stack(self._context, head, snapshot.counter).stack.resumed_ids
        return [item for item in parked if item.visit.id not in waiting_ids]

    def _is_ending(self, head: Item) -> bool:
        """Return whether the finally step of a run has begun, or the visit that ends it exists."""
        resumes = head.get("resumes", 0)
        ids = (finally_visit_id(resumes), derived_id(END, resumes))
        final_keys = [keys.visit(run_id_of(head), id, spread_of(head)) for id in ids]
        return bool(self._context.table.get_many(final_keys))

    def _write(self, head: Item, sets: Item, event: Event, when: tuple[Condition, ...]) -> Item:
        """Write the begin or the end of a pause with its event, and return the head.

        Raises:
            ConditionFailed: the run has changed.
        """
        shifts = {"shifts": [encode_shift(event)]}
        return self._context.table.update(Update(keys.head(run_id_of(head)), sets, append=shifts, when=when))

    def _release_all(self, items: Iterable[VisitItem], head: Item, now: float) -> list[VisitItem]:
        """Let parked visits continue, and return those that have not changed since they were read."""
        released = self._context.in_parallel(lambda item: self._release(item, head, now), list(items))
        return [item for item in released if item is not None]

    def _release(self, item: VisitItem, head: Item, now: float) -> VisitItem | None:
        """Let a parked visit continue, and return it, or None if it has changed since it was read."""
        visit, queue = unpause(item.visit, now), head["queue"]
        sets: Item = {"status": visit.status.value, "due": visit.due_at}
        home, counted = end_counted_wait(item, visit)
        announcer = self._context.announcer
        # The counter of one that waits may count it as one that waits long, although it is due soon.
        is_long = is_waiting(visit) or announcer.is_long_wait(queue, visit.due_at, now)
        if is_long and announcer.is_indexed(queue, visit.due_at):
            sets["wakes"] = keys.due_shard(visit.run_id)
        if counted:
            sets["paused"] = None
        is_same: tuple[Condition, ...] = (*is_unchanged(item.visit), ("due", "=", item.attributes["due"]))
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        writes: list[Write] = [Update(key, sets, when=is_same)]
        if counted:
            writes.append(Update(keys.counter(visit.run_id, home), add=counted))
        try:
            self._context.table.write(writes)
        except ConditionFailed:
            return None
        attributes = {name: value for name, value in {**item.attributes, **sets}.items() if value is not None}
        return replace(item, visit=visit, attributes=attributes)

    def _end_if_empty(self, snapshot: RunSnapshot, now: float) -> list[VisitItem]:
        """End a run whose last branch has ended while it was paused, and return the visits that are due."""
        if snapshot.counts.live > 0 and not snapshot.counts.joins_to_fire:
            return []
        # The counters of a snapshot are not as of one moment, so they are read again.
        fired, counts = self._joins.fire(snapshot.head, None, now)
        return fired or (end_run(self._context, snapshot.head, now) if counts.live <= 0 else [])

    def _pause_children(self, prefix: str, head: Item, now: float, caller: str | None) -> None:
        for child in self._child_heads(prefix, head):
            if not has_ended(child) and "stop" not in child:
                with suppress(RejectedError):  # it is ending
                    self._pause(run_id_of(child), now, caller, is_own=False)

    def _child_heads(self, prefix: str, head: Item) -> list[Item]:
        """Return the heads of the child runs that a run has started and waits for, by the prefix of their
        links.
        """
        links = self._context.table.query(keys.partition_key(run_id_of(head)), prefix)
        head_keys = [keys.head(link["sk"].split("#", 2)[2]) for link in links]
        return list(self._context.table.get_many(head_keys).values())
