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
from noetl.executor.errors import PayloadLostError, RejectedError
from noetl.executor.model.branch_stack import put_resumed_visits
from noetl.executor.model.run import NEVER, FailureState, Run, Visit, VisitStatus
from noetl.executor.model.run_transition import (
    check_same_request,
    is_resumable,
    payload_lost,
    resume_run,
    run_resumed,
    unknown_run,
)
from noetl.executor.model.visit_transition import mark_skipped, reopen
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.branch_stacks import (
    begin_next_visit,
    build_reopen_writes,
    decode_stack,
    encode_stack,
    end_counted_wait,
)
from noetl.executor.stores.dynamo.conflicts import repeat_on_conflict
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Delete, Update, Write
from noetl.executor.stores.dynamo.open_waits import relist_waits
from noetl.executor.stores.dynamo.plan_moves import is_moving, settle_move
from noetl.executor.stores.dynamo.retention import Retention
from noetl.executor.stores.dynamo.run_ends import end_run
from noetl.executor.stores.dynamo.run_items import (
    CounterDeltas,
    append_event,
    decode_run,
    derive_deadline_visit,
    encode_given,
    put_request,
    run_id_of,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, load_run, read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem
from noetl.planner.frozen import replace


class Resumes:
    """Resumes of runs that have ended, and completions of interrupted resumes."""

    def __init__(self, context: DynamoContext, retention: Retention) -> None:
        self._context = context
        self._retention = retention

    def resume(
        self,
        run_id: str,
        now: float,
        *,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
        idempotency: tuple[str, str] | None = None,
    ) -> Run:
        """Continue a run that has ended; a run that has not ended is returned unchanged.

        Raises:
            RejectedError: `not_resumable`, `payload_lost`.
        """
        snapshot = read_snapshot(self._context, run_id, with_outputs=True)
        if snapshot is None:
            raise unknown_run(run_id)
        head = snapshot.head
        if is_moving(head):
            settle_move(self._context, head, now, is_forced=True)
            return self.resume(run_id, now, deadline_at=deadline_at, values=values, idempotency=idempotency)
        run = decode_run(head, self._context.blobs, snapshot.counts)
        if idempotency is not None and self.was_requested(run, idempotency) and "reopening" not in head:
            # The earlier request may have resumed the run since the snapshot was read.
            return load_run(self._context, self._context.heads.read(run_id))
        if is_resumable(run, self._context.plans.header(head["plan"])):
            if head.get("expires", now + 1) <= now:
                raise RejectedError("not_resumable", f"the retention period of run {run_id} is over")
            try:
                resumed = resume_run(run, deadline_at, values)
                head = self._reopen(snapshot, resumed, now, idempotency, values.get("skips", {}))
            except ConditionFailed:
                return self.resume(
                    run_id, now, deadline_at=deadline_at, values=values, idempotency=idempotency
                )
        elif "reopening" not in head:
            if idempotency is not None:
                self._record_request(run, idempotency)
            return run
        head = self._open_and_announce(snapshot, head, now)
        self._context.changes.notify()
        return load_run(self._context, head)

    def complete(self, head: Item, now: float) -> Run:
        """Complete the resume of a run whose head has `reopening`, and return the run."""
        return self.resume(run_id_of(head), now, deadline_at=head.get("deadline"), values={})

    def was_requested(self, run: Run, idempotency: tuple[str, str]) -> bool:
        """Return whether an earlier request had the idempotency key.

        Raises:
            RejectedError: `idempotency_key_reused`.
        """
        name, request_hash = idempotency
        item = self._context.table.get(keys.idempotency(run.tenant, name))
        if item is not None:
            check_same_request(item["request"], request_hash)
        return item is not None

    def _record_request(self, run: Run, idempotency: tuple[str, str]) -> None:
        """Record the idempotency key of a request that found the run active. Its head names the key.

        Raises:
            RejectedError: `idempotency_key_reused`, by a request at the same time.
        """
        request = put_request(run, idempotency)
        named = Update(keys.head(run.id), append={"requests": [request.key.pk]}, when=(PRESENT,))
        try:
            self._context.table.write([request, named])
        except ConditionFailed:
            self.was_requested(run, idempotency)

    def _reopen(
        self,
        snapshot: RunSnapshot,
        run: Run,
        now: float,
        idempotency: tuple[str, str] | None,
        skips: Mapping[str, Any],
    ) -> Item:
        """Write a run that continues, and return its head.

        Branches that ended in an unhandled failure are counted again. If the resume is interrupted from here
        on, the next one completes it.
        """
        head = snapshot.head
        self._context.plan_uses.require(head["plan"])
        is_same_end: tuple[Condition, ...] = (
            ("finished", "=", head["finished"]),
            ("moving_since", "absent", None),
        )
        sets = self._encode_reopened(head, run, now)
        sets["skips"] = self._context.blobs.store(run.id, dict(skips)) if skips else None
        request = None if idempotency is None else put_request(run, idempotency)
        named = {} if request is None else {"requests": [request.key.pk]}
        writes: list[Write] = [Update(keys.head(run.id), sets, append=named, when=is_same_end)]
        if request is not None:
            writes.append(request)
        if run.parent is not None:
            parent = run.parent
            spread = self._context.heads.spread(parent.run_id)
            writes.append(Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, spread)))
        writes += self._count_reopened(snapshot)
        self._context.table.write(writes)
        return self._context.heads.read(run.id)

    def _encode_reopened(self, head: Item, run: Run, now: float) -> Item:
        """Return the attributes of the head that a resume sets, or removes if they are None."""
        blobs = self._context.blobs
        return {
            "status": run.status.value,
            "stop": None,
            "held": None,
            "finished": None,
            "result": None,
            "error": None,
            "errors": None,
            "resumes": run.resumes,
            "deadline": run.deadline_at,
            "given": encode_given(run, blobs),
            "open": keys.open_shard(head["queue"], run.id),
            "wakes": None,
            "due": None,
            **self._context.announcer.deadline_row(run, now),
            "told": append_event(head, run_resumed(run, now), blobs),
            "reopening": True,
        }

    def _count_reopened(self, snapshot: RunSnapshot) -> list[Write]:
        """Return the writes that count the branches that failed and that continue.

        In sequential mode, they put all visits that continue on the stack.
        """
        if self._context.is_sequential(snapshot.head):
            return [self._put_on_stack(snapshot)]
        run_id = run_id_of(snapshot.head)
        step_of = self._context.step_of(snapshot.head)
        deltas = CounterDeltas()
        for item in snapshot.items:
            if item.visit.failure is FailureState.ENDED:
                deltas.count_branch(item.origin.home, step_of(item.visit.step).regions, 1)
        if snapshot.counts.failed:
            # Only the sum over all partitions is read, so all failures may be taken from one.
            deltas.add(0, "failed", -snapshot.counts.failed)
        changes = {home: deltas.changes_of(home)[0] for home in deltas.homes()}
        return [
            Update(keys.counter(run_id, home), {}, {**added, "version": 1}) for home, added in changes.items()
        ]

    def _put_on_stack(self, snapshot: RunSnapshot) -> Update:
        """Return the write that puts the visits on the stack that a resume continues."""
        context, head = self._context, snapshot.head
        try:
            stored = decode_stack(context, head, snapshot.counter)
        except PayloadLostError as problem:
            raise payload_lost(run_id_of(head), str(problem)) from problem
        opened = [
            item.visit
            for item in snapshot.items
            if context.is_branch_visit(item.visit, head) and reopen(item.visit, 0.0) is not None
        ]
        update = encode_stack(
            context, head, stored, put_resumed_visits(stored.stack, opened, context.step_of(head))
        )
        failed = {"failed": -snapshot.counts.failed} if snapshot.counts.failed else {}
        return replace(update, add={**update.add, **failed})

    def _open_and_announce(self, snapshot: RunSnapshot, head: Item, now: float) -> Item:
        """Open the visits of a resumed run, announce those that are due, and return the head."""
        context = self._context
        if context.is_sequential(head):
            opened = self._open_next_visit(run_id_of(head), now)
        else:
            # An interrupted resume may have opened some visits, or all.
            opened = [*self._active_visits(snapshot), *self._open_visits(snapshot, head, now)]
        waiting = [item for item in snapshot.active_items if item.visit.status is VisitStatus.WAITING]
        parked = [item for item in snapshot.items if reopen(item.visit, now) is not None]
        relist_waits(context, head, [*waiting, *parked])
        self._retention.clear_expiry(head)
        head = context.table.update(Update(keys.head(run_id_of(head)), {"reopening": None}))
        due = [item for item in opened if item.visit.due_at < NEVER]
        if not opened:
            due = end_run(context, head, now)
        deadline = derive_deadline_visit(head)
        if deadline is not None and opened:
            due.append(deadline)
        context.announcer.announce(head, due, now)
        return head

    def _active_visits(self, snapshot: RunSnapshot) -> list[VisitItem]:
        """Return the visits of steps that are active."""
        return [
            item for item in snapshot.active_items if self._context.is_branch_visit(item.visit, snapshot.head)
        ]

    def _open_next_visit(self, run_id: str, now: float) -> list[VisitItem]:
        """Let the visit on top of the stack continue, unless a visit is active, and return it."""

        def open_next() -> list[VisitItem]:
            # The stack is read before the visits, so if another process has opened one, either shows it.
            snapshot = read_snapshot(self._context, run_id, with_outputs=True)
            assert snapshot is not None
            active = self._active_visits(snapshot)
            if active:
                return active
            begun = begin_next_visit(self._context, snapshot, now)
            return [] if begun is None else [begun]

        return repeat_on_conflict(open_next, f"Run {run_id} could not be resumed")

    def _open_visits(self, snapshot: RunSnapshot, head: Item, now: float) -> list[VisitItem]:
        """Make parked visits and visits with an unhandled failure due again, and return them."""
        opened: list[VisitItem] = []
        skips = self._context.blobs.load(head.get("skips")) or {}
        for item in snapshot.items:
            skip = skips.get(item.visit.id)
            marked = item.visit if skip is None else mark_skipped(item.visit, skip, head["resumes"])
            visit = reopen(marked, now)
            if visit is not None and self._context.is_branch_visit(item.visit, head):
                opened.append(self._open_visit(item, visit, head))
        return opened

    def _open_visit(self, item: VisitItem, opened: Visit, head: Item) -> VisitItem:
        """Write a visit as it continues, and return it."""
        writes, again = build_reopen_writes(self._context, head, item, opened)
        home, counted = end_counted_wait(item, opened)
        if counted:
            writes = [*writes, Update(keys.counter(opened.run_id, home), add=counted)]
        # If it is refused, a concurrent resume has opened the visit, so it is open either way.
        with suppress(ConditionFailed):
            self._context.table.write(writes)
        return again
