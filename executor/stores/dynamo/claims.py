"""DynamoClaims: of visits that messages or the table say are due.

A claim is one conditional write of the visit's item, which makes the item where there is none, and one read of what the
step needs. Whether the run is stopping is seen by that read: who stops a run writes its head first and then looks at all
visits, who claims writes the visit first and then looks at the head, so one of them sees the other.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import MessageError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    NEVER,
    SERVICE_QUEUE,
    Claim,
    Lease,
    RunStatus,
    Visit,
    VisitStatus,
)
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.model.transition import MAX_CLAIMS
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.commits import past_item
from noetl.executor.stores.dynamo.context import MOST_RACES, DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import deadline_of, first_of, is_over, run_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_visit, followers
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.receiver import MessageReceiver

_DONE = (VisitStatus.SUCCEEDED.value, VisitStatus.FAILED.value)

logger = logging.getLogger("noetl.executor")


class DynamoClaims(DynamoContext):
    """The part of the store that claims."""

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        if queue == SERVICE_QUEUE and self.receiver is not None:
            return self._claim_next(self.receiver, lease, now)
        for _ in range(MOST_RACES):
            note = self.memory.take(queue, now)
            if note is None:
                self.memory.replace(queue, self._active(queue, now))
                note = self.memory.take(queue, now)
            if note is None:
                return None
            found = self._claim(note, lease, now, repeats=False)
            if isinstance(found, Claim):
                return found
        return None

    def next_due(self, queue: str) -> float | None:
        if queue == SERVICE_QUEUE and self.message_queue is not None:
            return None
        return min((note.due_at for note in self._active(queue)), default=None)

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        return self._claim(DueMessage.decode(body), lease, now, give_up=give_up)

    def claim_record(self, record: VisitItem, head: Item, lease: Lease, now: float) -> Visit | None:
        # What the step reads is asked for when it is begun.
        note = replace(self.note_of(record, head), holders=())
        found = self._claim(note, lease, now, known=record, repeats=False)
        return found.visit if isinstance(found, Claim) else None

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        writes: list[Write] = [
            Update(self.visit_key(run_id, visit_id), {"due": until}, when=_held_with(fence))
        ]
        if events:
            key = keys.renewal_events(run_id, visit_id, fence, events_already_written, self.spread(run_id))
            writes.append(Put(key, past_item(events, self, run_id), when=()))
        try:
            self.table.write(writes)
        except ConditionFailed:
            return False
        if events:
            self.changes.notify()
        if self.receiver is not None:
            self.receiver.extend(run_id, visit_id)
        return True

    def release(self, run_id: str, visit_id: str, fence: int, now: float, *, counts: bool) -> None:
        added = {"fence": 1} if counts else {"fence": 1, "claims": -1}
        try:
            item = self.table.update(
                Update(self.visit_key(run_id, visit_id), {"due": now}, added, when=_held_with(fence))
            )
        except ConditionFailed:
            return
        note = DueMessage(run_id, visit_id, item["step"], now, self.spread(run_id))
        self.tell(self.head(run_id)["queue"], [note], now)
        if self.receiver is not None:
            self.receiver.finish(run_id, visit_id)
        self.changes.notify()

    def release_dead(self, queue: str, now: float) -> int:
        """Who is dead can be told on the same machine only."""
        return 0

    def _claim_next(self, receiver: MessageReceiver, lease: Lease, now: float) -> Claim | None:
        """The claim of a visit that a message told of. One thread at a time waits for messages, and lets the others know."""
        while (message := receiver.take()) is not None:
            try:
                found = self.claim_message(message["Body"], lease, now)
            except MessageError as problem:
                # It comes again, until the queue puts it aside.
                logger.warning("a message was left in the queue: %s", problem)
                continue
            if isinstance(found, Claim):
                receiver.bind(found.visit, message["ReceiptHandle"])
                return found
            if found is MessageOutcome.DONE:
                receiver.delete(message["ReceiptHandle"])
        # What comes is looked at in the next round, which knows how late it is by then.
        self.work.notify(receiver.poll(math.ceil(lease.seconds)))
        return None

    def _active(self, queue: str, now: float | None = None) -> list[DueMessage]:
        """What is to be done in a queue, as the table says: the visits of its open runs. With `now`, what follows from a commit
        whose worker died is done before.
        """
        ids = sorted(self.known_open(queue) | set(self.open_runs(queue)))
        notes: list[tuple[tuple[object, ...], DueMessage]] = []
        for snapshot in self.in_parallel(lambda run_id: read_snapshot(self, run_id), ids):
            if snapshot is None:
                continue
            self.note_head(snapshot.head)
            head = snapshot.head
            mended = [] if now is None else self.mend(snapshot, now)
            notes += [
                ((one.visit.due_at, *one.order), self.note_of(one, head))
                for one in [*snapshot.active_items, *mended]
            ]
        return [note for _, note in sorted(notes, key=lambda one: one[0])]

    def open_runs(self, queue: str) -> list[str]:
        """The ids of the runs of a queue that have not ended."""
        return [id for ids in self.in_parallel(self._open_in, keys.open_shards(queue)) for id in ids]

    def _open_in(self, shard: str) -> list[str]:
        found: list[str] = []
        asked = {"KeyConditionExpression": "#o = :q", "ExpressionAttributeNames": {"#o": "open"}}
        values = {"ExpressionAttributeValues": {":q": {"S": shard}}}
        start: dict[str, object] = {}
        while True:
            page = self.table.query_index("open", **asked, **values, **start)
            found += [item["pk"]["S"][2:] for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return found
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _claim(
        self,
        note: DueMessage,
        lease: Lease,
        now: float,
        *,
        known: VisitItem | None = None,
        give_up: bool = False,
        repeats: bool = True,
    ) -> Claim | MessageOutcome:
        """Claim the visit that a note tells of. Where it is done, what follows from it is done again if `repeats`."""
        key = keys.visit(note.run_id, note.visit_id, note.spread)
        before: Item | None = None
        if note.cause is None:
            before = self.table.get(key)
            if before is None:
                logger.warning(
                    "a message about a visit that is not there: run %s, visit %s", note.run_id, note.visit_id
                )
                return MessageOutcome.DONE
        for _ in range(MOST_RACES):
            if before is not None:
                verdict = self._judge(note, before, now, give_up=give_up, repeats=repeats)
                if verdict is not None:
                    return verdict
            elif note.due_at > now:
                return self._later(note, note.due_at, now)
            try:
                item = self.table.update(_claiming(key, note, before, lease, now, give_up=give_up))
            except ConditionFailed as refused:
                before = refused.items[0] or self.table.get(key)
                continue
            return self._claimed(note, key, before, item, known, now)
        return MessageOutcome.HELD

    def _judge(
        self, note: DueMessage, item: Item, now: float, *, give_up: bool, repeats: bool
    ) -> MessageOutcome | None:
        """Why a visit is not to be claimed, as its item stands; None when it is."""
        if item["status"] in _DONE:
            if repeats:
                self._follow_again(note, item, now)
            return MessageOutcome.DONE
        if item["status"] == VisitStatus.PARKED:
            return MessageOutcome.DONE
        if item["due"] <= now:
            return None
        if item["status"] == VisitStatus.RUNNING:
            return MessageOutcome.HELD
        if (
            item["status"] == VisitStatus.WAITING
            and repeats
            and self.wake_if_answered(note.run_id, note.visit_id, now)
        ):
            return None
        return self._later(replace(note, cause=None), item["due"], now)

    def _later(self, note: DueMessage, due_at: float, now: float) -> MessageOutcome:
        """Let a message come again when its visit is due: its delay has an upper bound."""
        if due_at < NEVER:
            head = self.table.get(keys.head(note.run_id))
            if head is not None and not is_over(head):
                self.tell(head["queue"], [replace(note, due_at=due_at)], now)
        return MessageOutcome.DONE

    def _follow_again(self, note: DueMessage, item: Item, now: float) -> None:
        record = self._whole_record(note.run_id, item)
        if record is not None:
            self.follow(record, now, again=True)

    def _whole_record(self, run_id: str, item: Item) -> VisitItem | None:
        return decode_visit(run_id, item, self.blobs)

    def _claimed(
        self,
        note: DueMessage,
        key: keys.ItemKey,
        before: Item | None,
        item: Item,
        known: VisitItem | None,
        now: float,
    ) -> Claim | MessageOutcome:
        """The claim whose item was written; or it is taken back, where the run says that it must not be."""
        wanted = [keys.head(note.run_id)]
        needs_cause = "clock" not in item and known is None
        cause = item.get("cause", "") if needs_cause else ""
        if cause:
            wanted.append(keys.visit(note.run_id, cause, note.spread))
        holders = {keys.visit(note.run_id, id, note.spread) for id in note.holders}
        found = self.table.get_many([*wanted, *sorted(holders - set(wanted))])
        head = found.get(wanted[0])
        if head is None:
            logger.warning("a message about a run that is not there: %s", note.run_id)
            self._take_back(key, item)
            return MessageOutcome.DONE
        self.note_head(head)
        record = self._record(note, item, head, found.get(wanted[-1]) if cause else None, known)
        if record is None or is_over(head) or not self._is_wanted(record, head):
            self._take_back(key, item)
            return MessageOutcome.DONE
        if "stop" in head and (before or {}).get("claims", 0) == 0 and not self.is_last(record, head):
            if record.visit.step != DEADLINE:
                self._park(key, before, item, now)
                self.dispatch(head, self.settle_stop(note.run_id, now), now)
                return MessageOutcome.DONE
        if head["status"] == RunStatus.QUEUED:
            head = self._set_running(head, now)
        if not self.hold(record, head):
            return MessageOutcome.HELD
        loaded = [decode_visit(note.run_id, found[one], self.blobs) for one in holders if one in found]
        return Claim(
            run_of(head, self.blobs), record.visit, tuple(one.visit for one in loaded if one is not None)
        )

    def _record(
        self, note: DueMessage, item: Item, head: Item, cause: Item | None, known: VisitItem | None
    ) -> VisitItem | None:
        """The record of a claimed visit; None when nothing of the run says that there is such a visit."""
        step_of = self.step_of(head["plan"])
        if "clock" in item or known is not None:
            return decode_visit(note.run_id, item, self.blobs, known)
        candidates: Sequence[VisitItem | None]
        if item.get("cause", "") == "":
            candidates = [first_of(head, step_of), deadline_of(head)]
        else:
            before = None if cause is None else decode_visit(note.run_id, cause, self.blobs)
            in_turns = self.plans.header(head["plan"]).sequential
            candidates = (
                [] if before is None else followers(before, step_of, spread_of(head), in_turns=in_turns)
            )
        derived = next((one for one in candidates if one is not None and one.visit.id == note.visit_id), None)
        if derived is None or derived.visit.step != item["step"]:
            logger.warning(
                "a message about a visit that nothing leads to: run %s, visit %s", note.run_id, note.visit_id
            )
            return None
        return decode_visit(note.run_id, item, self.blobs, derived)

    def _is_wanted(self, record: VisitItem, head: Item) -> bool:
        """Whether the run, as it was resumed last, knows of the visit."""
        resumes = head.get("resumes", 0)
        visit = record.visit
        if visit.step == DEADLINE:
            expected = deadline_of(head)
            if expected is None or expected.visit.id != visit.id:
                return False
            if self.plans.header(head["plan"]).finally_step is None:
                return True
            key = keys.visit(visit.run_id, finally_visit_id(resumes), spread_of(head))
            return self.table.get(key) is None
        if visit.step == END or self.is_last(record, head):
            return bool(record.item.get("resumes", 0) == resumes)
        return True

    def _take_back(self, key: keys.ItemKey, item: Item) -> None:
        """Undo a claim that made an item."""
        if item.get("fence", 0) == 1 and "clock" not in item:
            try:
                self.table.write([Delete(key, when=_held_with(1))])
            except ConditionFailed:
                return

    def _park(self, key: keys.ItemKey, before: Item | None, item: Item, now: float) -> None:
        """Take a claim back that came after its run began to stop."""
        was = before or {}
        due_at = now if was.get("status", VisitStatus.READY) == VisitStatus.READY else was["due"]
        back = {name: was.get(name) for name in ("started", "piece", "begun", "worker")}
        sets = {**back, "status": VisitStatus.PARKED.value, "due": due_at, "claims": 0}
        try:
            self.table.update(Update(key, sets, when=_held_with(item["fence"])))
        except ConditionFailed:
            return

    def _set_running(self, head: Item, now: float) -> Item:
        key = keys.ItemKey(head["pk"], head["sk"])
        sets = {"status": RunStatus.RUNNING.value}
        condition: Condition = ("status", "=", RunStatus.QUEUED.value)
        try:
            return self.table.update(Update(key, sets, keep={"started": now}, when=(condition,)))
        except ConditionFailed as refused:
            return refused.items[0] or head


def _held_with(fence: int) -> tuple[Condition, ...]:
    return (("fence", "=", fence), ("status", "=", VisitStatus.RUNNING.value))


def _claiming(
    key: keys.ItemKey, note: DueMessage, before: Item | None, lease: Lease, now: float, *, give_up: bool
) -> Update:
    """The write that claims a visit as it was found, or that has no item yet."""
    was = before or {}
    claims = was.get("claims", 0)
    fence = was.get("fence", 0) + 1
    sets = {
        "status": VisitStatus.RUNNING.value,
        "fence": fence,
        "claims": (max(claims, MAX_CLAIMS) if give_up else claims) + 1,
        "worker": lease.worker,
        "due": now + lease.seconds,
        "started": was.get("started", now),
        "piece": was.get("piece", now),
    }
    begins = "started" not in was and not note.step.startswith("@")
    begun = [[fence, now, lease.worker, was.get("attempt", 1)]] if begins else []
    append = {"begun": begun} if begun else {}
    if before is None:
        made = {"step": note.step, "cause": note.cause or None}
        return Update(
            key, sets | {name: value for name, value in made.items() if value}, append=append, when=(ABSENT,)
        )
    when: tuple[Condition, ...] = (
        ("status", "=", was["status"]),
        ("due", "=", was["due"]),
        ("fence", "absent or =", was.get("fence", 0)),
    )
    return Update(key, sets, append=append, when=when)
