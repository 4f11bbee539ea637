"""The resume of a run that has ended: its failed and parked visits become due again.

Problem: a resume opens more visits than one transaction may hold, and may be interrupted between any two
requests.

Algorithm: a durable intent in the head, then idempotent steps: the forward recovery of a saga (Garcia-Molina
and Salem 1987). A resume writes the status and `reopening` to the head, in one transaction with the counters
of the branches that continue. Then it opens the visits one by one, and at last removes `reopening`.

Cost: a read of the run, and a write of each visit that is opened.

Limits: a worker that dies in a resume leaves `reopening` set. The next resume or the sweep completes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import NEVER, FailureState, Run, Visit, VisitStatus
from noetl.executor.model.run_transition import is_resumable, resume_run, run_resumed
from noetl.executor.model.visit_transition import reopen
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.retention import Retention
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import (
    CounterDeltas,
    append_event,
    decode_run,
    derive_deadline_visit,
    encode_given,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.sequential import activate_next_visit
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    encode_events_item,
    encode_outcome,
    is_unchanged,
)


class Resumes:
    """Resumes of runs that have ended, and completions of interrupted resumes."""

    def __init__(self, context: DynamoContext, retention: Retention) -> None:
        self._context = context
        self._retention = retention

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        """Continue a run that has ended; a run that has not ended is returned unchanged.

        Raises:
            RejectedError: `not_resumable`.
        """
        snapshot = read_snapshot(self._context, run_id, with_outputs=True)
        if snapshot is None:
            raise StoreError(f"The store in DynamoDB has no run {run_id}.")
        head = snapshot.head
        run = decode_run(head, self._context.blobs, snapshot.counts)
        if is_resumable(run):
            if head.get("expires", now + 1) <= now:
                raise RejectedError("not_resumable", f"the retention period of run {run_id} is over")
            try:
                head = self._reopen(snapshot, resume_run(run, deadline_at, values), now)
            except ConditionFailed:
                return self.resume(run_id, now, deadline_at=deadline_at, values=values)
        elif "reopening" not in head:
            return run
        head = self._open_and_announce(snapshot, head, now)
        self._context.changes.notify()
        return load_run(self._context, head)

    def _reopen(self, snapshot: RunSnapshot, run: Run, now: float) -> Item:
        """Write a run that continues, and return its head.

        Branches that ended in an unhandled failure are counted again. If the resume is interrupted from here
        on, the next one completes it.
        """
        head = snapshot.head
        is_same_end: tuple[Condition, ...] = (("finished", "=", head["finished"]),)
        sets = self._encode_reopened(head, run, now)
        writes: list[Write] = [Update(keys.head(run.id), sets, when=is_same_end)]
        if run.parent is not None:
            parent = run.parent
            spread = self._context.heads.spread(parent.run_id)
            writes.append(Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, spread)))
        deltas = self._count_reopened(snapshot)
        for home in deltas.homes():
            added, _ = deltas.changes_of(home)
            writes.append(Update(keys.counter(run.id, home), {}, {**added, "version": 1}))
        self._context.table.write(writes)
        return self._context.heads.read(run.id)

    def _encode_reopened(self, head: Item, run: Run, now: float) -> Item:
        """Return the attributes of the head that a resume sets, or removes if they are None."""
        blobs = self._context.blobs
        return {
            "status": run.status.value,
            "stop": None,
            "finished": None,
            "result": None,
            "error": None,
            "errors": None,
            "resumes": run.resumes,
            "deadline": run.deadline_at,
            "given": encode_given(run, blobs),
            "open": keys.open_shard(head["queue"], run.id),
            "told": append_event(head, run_resumed(run, now), blobs),
            "reopening": True,
        }

    def _count_reopened(self, snapshot: RunSnapshot) -> CounterDeltas:
        """Return the changes of the counters by branches that failed and that continue."""
        step_of = self._context.step_of(snapshot.head)
        deltas = CounterDeltas()
        for item in snapshot.items:
            if item.visit.failure is FailureState.ENDED:
                deltas.count_branch(item.origin.home, step_of(item.visit.step).regions, 1)
        if snapshot.counts.failed:
            # Only the sum over all partitions is read, so all failures may be taken from one.
            deltas.add(0, "failed", -snapshot.counts.failed)
        return deltas

    def _open_and_announce(self, snapshot: RunSnapshot, head: Item, now: float) -> Item:
        """Open the visits of a resumed run, announce those that are due, and return the head."""
        context = self._context
        # An interrupted resume may have opened some visits, or all.
        open_before = [item for item in snapshot.active_items if context.is_branch_visit(item.visit, head)]
        opened = [*open_before, *self._open_visits(snapshot, head, now)]
        self._retention.clear_expiry(head)
        head = context.table.update(Update(keys.head(run_id_of(head)), {"reopening": None}))
        due = [item for item in opened if item.visit.due_at < NEVER]
        if context.is_sequential(head):
            is_waiting = any(item.visit.status is VisitStatus.WAITING for item in opened)
            due = [] if is_waiting else activate_next_visit(context, head, None, now)
        if not opened:
            due = end_run(context, head, now)
        deadline = derive_deadline_visit(head)
        if deadline is not None and opened:
            due.append(deadline)
        context.announcer.announce(head, due, now)
        return head

    def _open_visits(self, snapshot: RunSnapshot, head: Item, now: float) -> list[VisitItem]:
        """Make parked visits and visits with an unhandled failure due again, and return them."""
        is_sequential = self._context.is_sequential(head)
        opened: list[VisitItem] = []
        for item in snapshot.items:
            visit = reopen(item.visit, now, is_sequential=is_sequential)
            if visit is not None and self._context.is_branch_visit(item.visit, head):
                opened.append(self._open_visit(item, visit, spread_of(head)))
        return opened

    def _open_visit(self, item: VisitItem, opened: Visit, spread: int) -> VisitItem:
        """Write a visit as it continues, move the events of its outcome to an item of their own, and return
        the visit.
        """
        visit, blobs = item.visit, self._context.blobs
        sets = {
            name: value
            for name, value in encode_outcome(opened, (), blobs).items()
            if value is not None or name in item.attributes
        }
        sets |= {
            name: None for name in ("at", "next", "numbers", "waited", "counted") if name in item.attributes
        }
        key = keys.visit(visit.run_id, visit.id, spread)
        writes: list[Write] = [Update(key, sets, when=is_unchanged(visit))]
        events = (blobs.load(item.attributes.get("told")) or {}).get("h")
        if events:
            events_key = keys.claim_events(visit.run_id, visit.id, visit.fence, spread)
            events_item = encode_events_item([Event(*event) for event in events], blobs, visit.run_id)
            writes.append(Put(events_key, events_item, when=()))
        # If it is refused, a concurrent resume has opened the visit, so it is open either way.
        with suppress(ConditionFailed):
            self._context.table.write(writes)
        attributes = {**item.attributes, **{name: value for name, value in sets.items() if value is not None}}
        return VisitItem(opened, item.origin, attributes)
