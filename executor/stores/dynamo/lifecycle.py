"""How runs end, stop and go on."""

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
from noetl.executor.stores.dynamo import commits as limits
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.commits import past_item
from noetl.executor.stores.dynamo.context import MOST_RACES
from noetl.executor.stores.dynamo.expressions import ABSENT, PRESENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.joins import DynamoJoins
from noetl.executor.stores.dynamo.run_items import CounterDeltas, deadline_of, is_over, run_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot, is_pseudo, read_snapshot
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    VisitOrigin,
    as_ready,
    decode_visit,
    entered,
    event_to_list,
    outcome,
    visit_of,
)
from noetl.executor.stores.sql.rows import encode_json

_WAITS = (VisitStatus.READY, VisitStatus.RETRYING, VisitStatus.WAITING)


class DynamoLifecycle(DynamoJoins):
    """The part of the store that ends runs, stops them and goes on with them."""

    def end(self, head: Item, now: float) -> list[VisitItem]:
        """Let a run end: with the step that runs last if there is one, and when that is done for good."""
        run_id, resumes = head["pk"][2:], head.get("resumes", 0)
        last_step = self.plans.header(head["plan"]).finally_step
        if last_step is not None:
            branch = Branch(finally_visit_id(resumes), last_step, FINALLY_CLOCK, {})
            record, is_new = self._make(head, visit_of(branch, run_id, now), now)
            if is_new or record.visit.finished_at is None:
                return [record] if record.visit.status is VisitStatus.READY else []
        record, _ = self._make(head, end_visit(run_id, resumes, now), now)
        return [record] if record.visit.status is VisitStatus.READY else []

    def _make(self, head: Item, visit: Visit, now: float) -> tuple[VisitItem, bool]:
        """Add a visit unless it is there; the record as it is, and whether it is new."""
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        way = VisitOrigin(entered=now, line=FINALLY_CLOCK)
        item = entered(visit, way) | {"resumes": head.get("resumes", 0)}
        try:
            self.table.write([Put(key, item)])
        except ConditionFailed as refused:
            found = refused.items[0] or self.table.get(key)
            record = None if found is None else decode_visit(visit.run_id, found, self.blobs)
            assert record is not None
            return record, False
        return VisitItem(visit, way, {**item, "pk": key.pk, "sk": key.sk}), True

    def finish(
        self, claim: Claim, status: RunStatus, result: Any, errors: Sequence[ErrorRecord], now: float
    ) -> None:
        run, visit = claim.run, claim.visit
        if len(encode_json(result)) + len(encode_json(list(errors))) > limits.MAX_PAYLOAD_BYTES:
            raise PayloadTooLargeError(
                f"the result of the run has more than {limits.MAX_PAYLOAD_BYTES:,} bytes"
            )
        head = self.head(run.id)
        name = status if status in ("failed", "cancelled", "timed_out") else "completed"
        duration = max(now - head.get("started", now), 0.0)
        event = Event(f"workflow.{name}", now, duration_seconds=duration, payload={"status": status.value})
        done = replace(visit, status=VisitStatus.SUCCEEDED, finished_at=now)
        held: tuple[Condition, ...] = (
            ("fence", "=", visit.fence),
            ("status", "=", VisitStatus.RUNNING.value),
        )
        ended = {**{k: v for k, v in outcome(done, (), self.blobs).items() if v is not None}, "at": now}
        kept = self.blobs.store(run.id, next(iter(errors), None))
        writes: list[Write] = [
            Update(keys.visit(run.id, visit.id, spread_of(head)), ended, when=held),
            Update(
                keys.head(run.id),
                {
                    "status": status.value,
                    "result": self.blobs.store(run.id, result) if result != {} else b"{}",
                    "errors": self.blobs.store(run.id, list(errors)) if errors else None,
                    "finished": now,
                    "open": None,
                    "told": self._told(head, event),
                },
                keep={} if kept is None else {"error": kept},
                when=(("finished", "absent", None),),
            ),
        ]
        if run.parent is not None:
            parent = run.parent
            key = keys.wait(parent.run_id, parent.visit_id, parent.id, self.spread(parent.run_id))
            writes.append(Update(key, {"answer": b"null", "answered": now}))
        try:
            self.table.write(writes)
        except ConditionFailed:
            raise FencedError(f"the claim of the end of run {run.id} has been lost") from None
        self.let_go(visit)
        self.note_head(head | {"finished": now})
        self.answer_parent(head, now)
        self.let_expire(head, now)
        if self.receiver is not None:
            self.receiver.finish(run.id, visit.id)
        self.changes.notify()
        self.work.notify()

    def _told(self, head: Item, event: Event) -> bytes:
        """What has happened to a run as a whole, with one thing more."""
        told = self.blobs.load(head.get("told")) or []
        return self.blobs.store(head["pk"][2:], [*told, event_to_list(event)]) or b"[]"

    def answer_parent(self, head: Item, now: float) -> None:
        if "parent" in head:
            run_id, visit_id, _ = head["parent"]
            self.make_due(run_id, visit_id, now)

    def stop(self, run_id: str, status: RunStatus, now: float) -> Run:
        head = self.head(run_id)
        if is_over(head):
            found = run_of(head, self.blobs)
            if found.status is status:
                return found
            raise RejectedError("finished", f"run {run_id} has ended already: {found.status}")
        if "stop" not in head:
            try:
                stops = Update(
                    keys.head(run_id),
                    keep={"stop": str(status)},
                    when=(PRESENT, ("finished", "absent", None)),
                )
                head = self.table.update(stops)
            except ConditionFailed:
                return self.stop(run_id, status, now)
        self.dispatch(head, self.settle_stop(run_id, now), now)
        self.changes.notify()
        return self.told_run(head)

    def settle_stop(self, run_id: str, now: float) -> list[VisitItem]:
        for tries in range(MOST_RACES):
            snapshot = read_snapshot(self, run_id)
            if snapshot is None or "stop" not in snapshot.head or is_over(snapshot.head):
                return []
            if not self._park_all(snapshot, now):
                break
            time.sleep(pause_seconds(tries) if tries > 1 else 0.0)
        else:
            raise StoreError(f"Run {run_id} could not be stopped: too many others write to it.")
        self._stop_children(run_id, now, but=finally_visit_id(snapshot.head.get("resumes", 0)))
        at_work = [
            one
            for one in snapshot.active_items
            if one.visit.status is VisitStatus.RUNNING and not is_pseudo(one)
        ]
        return [] if at_work else self.end(snapshot.head, now)

    def _park_all(self, snapshot: RunSnapshot, now: float) -> bool:
        """Let all that has not started wait for a resume; whether there was anything."""
        head = snapshot.head
        fired, _ = self.fire_joins(head, None, now)
        waiting = self.parkable(snapshot)
        self.in_parallel(lambda record: self._park_waiting(record, head, now), waiting)
        return bool(waiting or fired)

    def parkable(self, snapshot: RunSnapshot) -> list[VisitItem]:
        """The visits that have not started, or that wait, of a run that is stopping."""
        return [
            one
            for one in snapshot.active_items
            if one.visit.status in _WAITS and self._may_park(one, snapshot.head)
        ]

    def _may_park(self, record: VisitItem, head: Item) -> bool:
        return not is_pseudo(record) and not self.is_last(record, head)

    def _park_waiting(self, record: VisitItem, head: Item, now: float) -> None:
        """Let a visit that has not started, or that waits, wait for a resume. Somebody may have claimed it meanwhile."""
        visit = record.visit
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        due_at = now if visit.status is VisitStatus.READY else visit.due_at
        parked = {"status": VisitStatus.PARKED.value, "due": due_at}
        try:
            if not record.is_written:
                item = {"step": visit.step, "cause": record.way.cause or None, **parked}
                self.table.write(
                    [Put(key, {name: value for name, value in item.items() if value is not None})]
                )
            else:
                when: tuple[Condition, ...] = (
                    ("status", "=", visit.status.value),
                    ("fence", "absent or =", visit.fence),
                )
                self.table.update(Update(key, parked, when=when))
        except ConditionFailed:
            return

    def give_up_runs(self, run_id: str, visit_id: str, now: float) -> None:
        self._stop_children(run_id, now, of=visit_id)

    def _stop_children(
        self, run_id: str, now: float, *, of: str | None = None, but: str | None = None
    ) -> None:
        """Cancel the runs that a run waits for: those of one visit, or all but those of one."""
        prefix = "K#" if of is None else f"K#{of}#"
        for item in self.table.query(keys.partition_key(run_id), prefix):
            _, visit_id, child = item["sk"].split("#", 2)
            if visit_id == but:
                continue
            head = self.table.get(keys.head(child))
            if head is not None and not is_over(head) and "stop" not in head:
                with suppress(RejectedError):  # it has ended meanwhile
                    self.stop(child, RunStatus.CANCELLED, now)

    def take_turn(self, head: Item, record: VisitItem | None, now: float) -> list[VisitItem]:
        """Let the visit go whose turn it is: of those that the last step made the first, then of those before. It sees what
        those before it have seen.
        """
        run_id = head["pk"][2:]
        snapshot = read_snapshot(self, run_id, saved=True)
        if snapshot is None:
            return []
        active = [one for one in snapshot.active_items if self._may_park(one, head)]
        if any(one.visit.status is not VisitStatus.READY or one.visit.due_at < NEVER for one in active):
            return []  # somebody has a turn
        in_line = sorted(active, key=lambda one: (-one.way.line, *one.place))
        if not in_line:
            return []
        chosen = in_line[0]
        visit = chosen.visit
        seen = {} if record is None else names_after(record.visit)
        visit = replace(
            start_next_sequential(visit, 0 if record is None else record.visit.clock, seen), due_at=now
        )
        key = keys.visit(run_id, visit.id, spread_of(head))
        item = entered(visit, chosen.way)
        try:
            if not chosen.is_written:
                self.table.write([Put(key, item, (ABSENT,))])
                return [VisitItem(visit, chosen.way, {**item, "pk": key.pk, "sk": key.sk})]
            when: tuple[Condition, ...] = (("status", "=", VisitStatus.READY.value), ("due", "=", NEVER))
            item = self.table.update(Update(key, {k: v for k, v in item.items() if v is not None}, when=when))
        except ConditionFailed:
            return []
        return [VisitItem(visit, chosen.way, item)]

    def resume(
        self, run_id: str, now: float, *, deadline_at: float | None, values: Mapping[str, Mapping[str, Any]]
    ) -> Run:
        snapshot = read_snapshot(self, run_id, saved=True)
        if snapshot is None:
            raise StoreError(f"There is no run {run_id} in the store.")
        head = snapshot.head
        run = run_of(head, self.blobs, snapshot.counts)
        if not run.status.is_final and "reopening" not in head:
            return run
        if run.status is RunStatus.SUCCEEDED:
            raise RejectedError(
                "not_resumable", f"run {run_id} has succeeded; there is nothing to go on with"
            )
        if run.status.is_final:
            if head.get("expires", now + 1) <= now:
                raise RejectedError(
                    "not_resumable", f"run {run_id} has been kept for as long as runs are kept"
                )
            try:
                head = self._reopen(snapshot, run, now, deadline_at, values)
            except ConditionFailed:
                return self.resume(run_id, now, deadline_at=deadline_at, values=values)
        # A resume that was interrupted may have opened some before, or all.
        before = [one for one in snapshot.active_items if self._may_park(one, head)]
        opened = [*before, *self._open_visits(snapshot, head, now)]
        self.keep(head)
        head = self.table.update(Update(keys.head(run_id), {"reopening": None}))
        due = [one for one in opened if one.visit.due_at < NEVER]
        if self.plans.header(head["plan"]).sequential:
            is_waiting = any(one.visit.status is VisitStatus.WAITING for one in opened)
            due = [] if is_waiting else self.take_turn(head, None, now)
        if not opened:
            due = self.end(head, now)
        deadline = deadline_of(head)
        if deadline is not None and opened:
            due.append(deadline)
        self.dispatch(head, due, now)
        self.changes.notify()
        return self.told_run(head)

    def _reopen(
        self,
        snapshot: RunSnapshot,
        run: Run,
        now: float,
        deadline_at: float | None,
        values: Mapping[str, Mapping[str, Any]],
    ) -> Item:
        """Make the run go on, with the branches counted again that ended in a failure nothing handled. From then on a resume
        that is interrupted is gone on with by the next.
        """
        head, step_of = snapshot.head, self.step_of(snapshot.head["plan"])
        deltas = CounterDeltas()
        ended = [one for one in snapshot.items if one.visit.failure is FailureState.ENDED]
        for record in ended:
            deltas.branch(record.way.home, step_of(record.visit.step).regions, 1)
        if snapshot.counts.failed:
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
            "told": self._told(head, event),
            "reopening": True,
        }
        when: tuple[Condition, ...] = (("finished", "=", head["finished"]),)
        writes: list[Write] = [Update(keys.head(run.id), sets, when=when)]
        if run.parent is not None:
            parent = run.parent
            writes.append(
                Delete(keys.wait(parent.run_id, parent.visit_id, parent.id, self.spread(parent.run_id)))
            )
        for home in deltas.homes():
            added, _ = deltas.changes_of(home)
            # The failures of all partitions are taken from one: only their sum is ever asked for.
            writes.append(Update(keys.counter(run.id, home), {}, {**added, "version": 1}))
        self.table.write(writes)
        return self.head(run.id)

    def _open_visits(self, snapshot: RunSnapshot, head: Item, now: float) -> list[VisitItem]:
        """Let what was parked, and what had failed and nothing handled, be due again."""
        opened: list[VisitItem] = []
        in_turns = self.plans.header(head["plan"]).sequential
        for record in snapshot.items:
            visit = record.visit
            parked = visit.status is VisitStatus.PARKED
            if not parked and visit.failure not in (FailureState.OPEN, FailureState.ENDED):
                continue
            if self.is_last(record, snapshot.head) or is_pseudo(record):
                continue
            # One with an error was to be tried again: that is done at once.
            waits = parked and visit.due_at > now and visit.progress is not None and visit.error is None
            due_at = visit.due_at if waits else now
            if in_turns and not waits:
                due_at = NEVER
            again = as_ready(
                visit, attempt=1, claims=0, started_at=None, piece_at=None, finished_at=None, due_at=due_at, case=None,
                error=None, failure=None,
            )  # fmt: skip
            again = replace(again, status=VisitStatus.WAITING) if waits else again
            spread = spread_of(head)
            key = keys.visit(run_id := visit.run_id, visit.id, spread)
            sets = {
                name: value
                for name, value in outcome(again, (), self.blobs).items()
                if value is not None or name in record.item
            }
            sets |= {
                name: None for name in ("at", "next", "numbers", "waited", "counted") if name in record.item
            }
            when: tuple[Condition, ...] = (
                ("status", "=", visit.status.value),
                ("fence", "absent or =", visit.fence),
            )
            writes: list[Write] = [Update(key, sets, when=when)]
            told = (self.blobs.load(record.item.get("told")) or {}).get("h")
            if told:
                past = keys.claim_events(run_id, visit.id, visit.fence, spread)
                events = [Event(*event) for event in told]
                writes.append(Put(past, past_item(events, self, run_id), when=()))
            # Where it is refused, another resume of the same was faster: then it is open, too, and the run does not end here.
            with suppress(ConditionFailed):
                self.table.write(writes)
            item = {**record.item, **{name: value for name, value in sets.items() if value is not None}}
            opened.append(VisitItem(again, record.way, item))
        return opened
