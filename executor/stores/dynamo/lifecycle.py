"""The lifecycle of a run: its end, its stop, and its resume.

Problem: ending, stopping and resuming a run change many items, more than one transaction may hold, while
workers claim and commit.

Algorithm: a durable intent in the head, then idempotent steps: the forward recovery of a saga (Garcia-Molina
and Salem 1987). A stop writes `stop` to the head, and then parks visits and fires joins until a snapshot
shows nothing left to park. The run ends by one visit with a derived id, whose commit writes the final
status. A resume writes the status and `reopening` to the head in one transaction with the counters. Then it
opens the visits one by one, and at last removes `reopening`.

Cost: a stop and a resume read the run and write each visit that they park or open.

Limits: a stop gives up after MAX_CONFLICTS rounds. A worker that dies in a resume leaves `reopening` set;
the next resume or the sweep completes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import FencedError, PayloadTooLargeError, RejectedError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    NEVER,
    Branch,
    Claim,
    ErrorRecord,
    FailureState,
    Run,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.special_visits import FINALLY_CLOCK, end_visit, finally_visit_id
from noetl.executor.model.transition import names_after, start_next_sequential
from noetl.executor.stores.dynamo import commits, keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.commits import encode_events_item
from noetl.executor.stores.dynamo.context import MAX_CONFLICTS
from noetl.executor.stores.dynamo.expressions import ABSENT, PRESENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.run_items import (
    CounterDeltas,
    decode_run,
    derive_deadline_visit,
    has_ended,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, is_pseudo_step, read_snapshot
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    decode_visit,
    encode_event,
    encode_outcome,
    encode_unclaimed,
    new_visit,
    reset_visit,
)
from noetl.executor.stores.sql.rows import encode_json

_NOT_RUNNING = (VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)


class DynamoLifecycle(DynamoJoins):
    """The part of the DynamoDB store that ends, stops and resumes runs."""

    # End

    def end_run(self, head: Item, now: float) -> list[VisitItem]:
        run_id, resumes = run_id_of(head), head.get("resumes", 0)
        finally_step = self.plans.header(head["plan"]).finally_step
        if finally_step is not None:
            branch = Branch(finally_visit_id(resumes), finally_step, FINALLY_CLOCK, {})
            item, is_new = self._create(head, new_visit(branch, run_id, now), now)
            if is_new or item.visit.finished_at is None:
                return [item] if item.visit.status is VisitStatus.READY else []
        item, _ = self._create(head, end_visit(run_id, resumes, now), now)
        return [item] if item.visit.status is VisitStatus.READY else []

    def _create(self, head: Item, visit: Visit, now: float) -> tuple[VisitItem, bool]:
        """Create a visit unless it exists, and return it and whether it is new."""
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        origin = VisitOrigin(entered_at=now, parent_clock=FINALLY_CLOCK)
        item = encode_unclaimed(visit, origin) | {"resumes": head.get("resumes", 0)}
        try:
            self.table.write([Put(key, item)])
        except ConditionFailed as refusal:
            existing = refusal.items[0] or self.table.get(key)
            decoded = None if existing is None else decode_visit(visit.run_id, existing, self.blobs)
            assert decoded is not None
            return decoded, False
        return VisitItem(visit, origin, {**item, "pk": key.pk, "sk": key.sk}), True

    def finish(
        self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float
    ) -> None:
        run, visit = claim.run, claim.visit
        if len(encode_json(result)) + len(encode_json(list(errors))) > commits.MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(
                f"the result of the run exceeds {commits.MAX_PAYLOAD_BYTES:,} bytes of JSON"
            )
        head = self.read_head(run.id)
        writes: list[Write] = [
            self._finish_visit(head, visit, now),
            self._finish_head(head, status, result, errors, now),
        ]
        if run.parent is not None:
            parent = run.parent
            key = keys.wait(parent.run_id, parent.visit_id, parent.id, self.spread(parent.run_id))
            writes.append(Update(key, {"answer": b"null", "answered": now}))
        try:
            self.table.write(writes)
        except ConditionFailed:
            raise FencedError(f"the claim of the end of run {run.id} is lost") from None
        self.forget_claim(visit)
        self.cache_head(head | {"finished": now})
        self.answer_parent(head, now)
        self.set_expiry(head, now)
        if self.receiver is not None:
            self.receiver.finish(run.id, visit.id)
        self.changes.notify()
        self.work.notify()

    def _finish_visit(self, head: Item, visit: Visit, now: float) -> Update:
        """Return the write that finishes the visit that ends a run, if its claim is held."""
        is_held: tuple[Condition, ...] = (
            ("fence", "=", visit.fence),
            ("status", "=", VisitStatus.RUNNING.value),
        )
        finished = replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now)
        outcome = encode_outcome(finished, (), self.blobs)
        sets = {name: value for name, value in outcome.items() if value is not None} | {"at": now}
        return Update(keys.visit(visit.run_id, visit.id, spread_of(head)), sets, when=is_held)

    def _finish_head(
        self, head: Item, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float
    ) -> Update:
        """Return the write that gives a run its final status, unless it has ended."""
        run_id = run_id_of(head)
        name = status if status in ("failed", "cancelled", "timed_out") else "completed"
        duration = max(now - head.get("started", now), 0.0)
        event = Event(f"workflow.{name}", now, duration_seconds=duration, payload={"status": status.value})
        error = self.blobs.store(run_id, next(iter(errors), None))
        sets = {
            "status": status.value,
            "result": self.blobs.store(run_id, result) if result != {} else b"{}",
            "errors": self.blobs.store(run_id, list(errors)) if errors else None,
            "finished": now,
            "open": None,
            "told": self._append_event(head, event),
        }
        keep = {} if error is None else {"error": error}
        return Update(keys.head(run_id), sets, keep=keep, when=(("finished", "absent", None),))

    def _append_event(self, head: Item, event: Event) -> bytes:
        """Return the events of a run with one more, as its head stores them."""
        events = self.blobs.load(head.get("told")) or []
        return self.blobs.store(run_id_of(head), [*events, encode_event(event)]) or b"[]"

    def answer_parent(self, head: Item, now: float) -> None:
        if "parent" in head:
            run_id, visit_id, _ = head["parent"]
            self.make_due(run_id, visit_id, now)

    # Stop

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        head = self.read_head(run_id)
        if has_ended(head):
            run = decode_run(head, self.blobs)
            if run.status is status:
                return run
            raise RejectedError("finished", f"run {run_id} has already ended: {run.status}")
        if "stop" not in head:
            is_open: tuple[Condition, ...] = (PRESENT, ("finished", "absent", None))
            try:
                head = self.table.update(Update(keys.head(run_id), keep={"stop": str(status)}, when=is_open))
            except ConditionFailed:
                return self.stop(run_id, status, now)
        self.announce(head, self.settle_stop(run_id, now), now)
        self.changes.notify()
        return self.load_run(head)

    def settle_stop(self, run_id: str, now: float) -> list[VisitItem]:
        for tries in range(MAX_CONFLICTS):
            snapshot = read_snapshot(self, run_id)
            if snapshot is None or "stop" not in snapshot.head or has_ended(snapshot.head):
                return []
            if not self._park_all(snapshot, now):
                break
            time.sleep(pause_seconds(tries) if tries > 1 else 0.0)
        else:
            raise StoreError(f"Run {run_id} could not be stopped: too many concurrent writers.")
        self._cancel_children(run_id, now, except_visit=finally_visit_id(snapshot.head.get("resumes", 0)))
        is_running = any(
            item.visit.status is VisitStatus.RUNNING and not is_pseudo_step(item)
            for item in snapshot.active_items
        )
        return [] if is_running else self.end_run(snapshot.head, now)

    def _park_all(self, snapshot: RunSnapshot, now: float) -> bool:
        """Park all visits that are not running, and return whether there were any."""
        head = snapshot.head
        fired, _ = self.fire_joins(head, None, now)
        parkable = self.parkable_items(snapshot)
        self.in_parallel(lambda item: self._park_item(item, head, now), parkable)
        return bool(parkable or fired)

    def parkable_items(self, snapshot: RunSnapshot) -> list[VisitItem]:
        """Return the visits of a stopping run that have not started or that are suspended."""
        return [
            item
            for item in snapshot.active_items
            if item.visit.status in _NOT_RUNNING and self._is_step(item, snapshot.head)
        ]

    def _is_step(self, item: VisitItem, head: Item) -> bool:
        """Return whether a visit belongs to a branch: no end, no deadline, no finally step."""
        return not is_pseudo_step(item) and not self.is_final_step(item, head)

    def _park_item(self, item: VisitItem, head: Item, now: float) -> None:
        """Park a visit, unless a worker has claimed it since it was read."""
        visit = item.visit
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        due_at = now if visit.status is VisitStatus.READY else visit.due_at
        parked = {"status": VisitStatus.PARKED.value, "due": due_at}
        try:
            if not item.is_written:
                sets = {"step": visit.step, "cause": item.origin.cause or None, **parked}
                self.table.write(
                    [Put(key, {name: value for name, value in sets.items() if value is not None})]
                )
            else:
                self.table.update(Update(key, parked, when=_is_unchanged(visit)))
        except ConditionFailed:
            return

    def cancel_child_runs(self, run_id: str, visit_id: str, now: float) -> None:
        self._cancel_children(run_id, now, of_visit=visit_id)

    def _cancel_children(
        self, run_id: str, now: float, *, of_visit: str | None = None, except_visit: str | None = None
    ) -> None:
        """Cancel the child runs of one visit, or of all visits except one."""
        prefix = "K#" if of_visit is None else f"K#{of_visit}#"
        for item in self.table.query(keys.partition_key(run_id), prefix):
            _, visit_id, child = item["sk"].split("#", 2)
            if visit_id == except_visit:
                continue
            head = self.table.get(keys.head(child))
            if head is not None and not has_ended(head) and "stop" not in head:
                with suppress(RejectedError):  # it has ended since it was read
                    self.stop(child, RunStatus.CANCELLED, now)

    # Sequential mode

    def activate_next_visit(self, head: Item, finished: VisitItem | None, now: float) -> list[VisitItem]:
        run_id = run_id_of(head)
        snapshot = read_snapshot(self, run_id, with_outputs=True)
        if snapshot is None:
            return []
        active = [item for item in snapshot.active_items if self._is_step(item, head)]
        is_any_activated = any(
            item.visit.status is not VisitStatus.READY or item.visit.due_at < NEVER for item in active
        )
        if is_any_activated or not active:
            return []
        # Visits of the last commit come first, in the order written; then those of earlier commits.
        chosen = min(active, key=lambda item: (-item.origin.parent_clock, *item.sibling_key))
        clock = 0 if finished is None else finished.visit.clock
        names = {} if finished is None else names_after(finished.visit)
        visit = replace(start_next_sequential(chosen.visit, clock, names), due_at=now)
        key = keys.visit(run_id, visit.id, spread_of(head))
        item = encode_unclaimed(visit, chosen.origin)
        try:
            if not chosen.is_written:
                self.table.write([Put(key, item, (ABSENT,))])
                return [VisitItem(visit, chosen.origin, {**item, "pk": key.pk, "sk": key.sk})]
            when: tuple[Condition, ...] = (("status", "=", VisitStatus.READY.value), ("due", "=", NEVER))
            sets = {name: value for name, value in item.items() if value is not None}
            item = self.table.update(Update(key, sets, when=when))
        except ConditionFailed:
            return []
        return [VisitItem(visit, chosen.origin, item)]

    # Resume

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        snapshot = read_snapshot(self, run_id, with_outputs=True)
        if snapshot is None:
            raise StoreError(f"The store in DynamoDB has no run {run_id}.")
        head = snapshot.head
        run = decode_run(head, self.blobs, snapshot.counts)
        if not run.status.is_final and "reopening" not in head:
            return run
        if run.status is RunStatus.SUCCEEDED:
            raise RejectedError("not_resumable", f"run {run_id} has succeeded; there is nothing to resume")
        if run.status.is_final:
            if head.get("expires", now + 1) <= now:
                raise RejectedError("not_resumable", f"the retention period of run {run_id} is over")
            try:
                head = self._reopen(snapshot, run, now, deadline_at, values)
            except ConditionFailed:
                return self.resume(run_id, now, deadline_at=deadline_at, values=values)
        head = self._open_and_announce(snapshot, head, now)
        self.changes.notify()
        return self.load_run(head)

    def _open_and_announce(self, snapshot: RunSnapshot, head: Item, now: float) -> Item:
        """Open the visits of a resumed run, announce those that are due, and return the head."""
        # An interrupted resume may have opened some visits, or all.
        open_before = [item for item in snapshot.active_items if self._is_step(item, head)]
        opened = [*open_before, *self._open_visits(snapshot, head, now)]
        self.clear_expiry(head)
        head = self.table.update(Update(keys.head(run_id_of(head)), {"reopening": None}))
        due = [item for item in opened if item.visit.due_at < NEVER]
        if self.is_sequential(head):
            is_waiting = any(item.visit.status is VisitStatus.WAITING for item in opened)
            due = [] if is_waiting else self.activate_next_visit(head, None, now)
        if not opened:
            due = self.end_run(head, now)
        deadline = derive_deadline_visit(head)
        if deadline is not None and opened:
            due.append(deadline)
        self.announce(head, due, now)
        return head

    def _reopen(
        self,
        snapshot: RunSnapshot,
        run: Run,
        now: float,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
    ) -> Item:
        """Make an ended run active, and return its head.

        Branches that ended in an unhandled failure are counted again. If the resume is interrupted from here
        on, the next one completes it.
        """
        head, step_of = snapshot.head, self.step_of(snapshot.head["plan"])
        deltas = CounterDeltas()
        for item in snapshot.items:
            if item.visit.failure is FailureState.ENDED:
                deltas.count_branch(item.origin.home, step_of(item.visit.step).regions, 1)
        if snapshot.counts.failed:
            # Only the sum over all partitions is read, so all failures may be taken from one.
            deltas.add(0, "failed", -snapshot.counts.failed)
        resumes = head.get("resumes", 0) + 1
        given = (self.blobs.load(head.get("given")) or {}) | {
            name: dict(value) for name, value in values.items()
        }
        event = Event("workflow.resumed", now, payload={"resumes": resumes})
        sets = {
            "status": RunStatus.QUEUED.value,
            "stop": None,
            "finished": None,
            "result": None,
            "error": None,
            "errors": None,
            "resumes": resumes,
            "deadline": deadline_at,
            "given": self.blobs.store(run.id, given),
            "open": keys.open_shard(head["queue"], run.id),
            "told": self._append_event(head, event),
            "reopening": True,
        }
        is_same_end: tuple[Condition, ...] = (("finished", "=", head["finished"]),)
        writes: list[Write] = [Update(keys.head(run.id), sets, when=is_same_end)]
        if run.parent is not None:
            parent = run.parent
            spread = self.spread(parent.run_id)
            writes.append(Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, spread)))
        for home in deltas.homes():
            added, _ = deltas.changes_of(home)
            writes.append(Update(keys.counter(run.id, home), {}, {**added, "version": 1}))
        self.table.write(writes)
        return self.read_head(run.id)

    def _open_visits(self, snapshot: RunSnapshot, head: Item, now: float) -> list[VisitItem]:
        """Make parked visits and visits with an unhandled failure due again, and return them."""
        opened: list[VisitItem] = []
        for item in snapshot.items:
            visit = item.visit
            is_parked = visit.status is VisitStatus.PARKED
            if not is_parked and visit.failure not in (FailureState.OPEN, FailureState.ENDED):
                continue
            if self._is_step(item, snapshot.head):
                opened.append(self._open_visit(item, head, now))
        return opened

    def _open_visit(self, item: VisitItem, head: Item, now: float) -> VisitItem:
        """Make one visit due again, and return it."""
        visit, spread = item.visit, spread_of(head)
        is_parked = visit.status is VisitStatus.PARKED
        # A parked visit with an error was to be retried, which happens at once.
        is_suspended = is_parked and visit.due_at > now and visit.progress is not None and visit.error is None
        due_at = visit.due_at if is_suspended else NEVER if self.is_sequential(head) else now
        opened = reset_visit(visit, due_at)
        opened = replace(opened, status=VisitStatus.WAITING) if is_suspended else opened
        sets = {
            name: value
            for name, value in encode_outcome(opened, (), self.blobs).items()
            if value is not None or name in item.attributes
        }
        sets |= {
            name: None for name in ("at", "next", "numbers", "waited", "counted") if name in item.attributes
        }
        key = keys.visit(visit.run_id, visit.id, spread)
        writes: list[Write] = [Update(key, sets, when=_is_unchanged(visit))]
        events = (self.blobs.load(item.attributes.get("told")) or {}).get("h")
        if events:
            events_key = keys.claim_events(visit.run_id, visit.id, visit.fence, spread)
            events_item = encode_events_item([Event(*event) for event in events], self.blobs, visit.run_id)
            writes.append(Put(events_key, events_item, when=()))
        # If it is refused, a concurrent resume has opened the visit, so it is open either way.
        with suppress(ConditionFailed):
            self.table.write(writes)
        attributes = {**item.attributes, **{name: value for name, value in sets.items() if value is not None}}
        return VisitItem(opened, item.origin, attributes)


def _is_unchanged(visit: Visit) -> tuple[Condition, ...]:
    """Return the condition that a visit has the status and the fence with which it was read."""
    return (("status", "=", visit.status.value), ("fence", "absent or =", visit.fence))
