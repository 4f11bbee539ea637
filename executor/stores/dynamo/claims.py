"""Claims: a worker gets the right to execute a visit that is due.

Problem: many workers try to claim a visit, messages arrive twice, early or late, and a run may be stopped at
the same moment.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). A claim is one conditional write of the
visit's item, which creates the item if there is none. It requires status, due time and fence as they were
read, and increases the fence. One batch read then loads the run and the outputs that the step reads. A claim
in a stopping run is excluded as in Dekker's mutual exclusion (Dijkstra 1965): both sides write before they
read. A stop writes the head and then reads the visits. A claim writes the visit and then reads the head. So
at least one of them sees the other, and a claim that finds the run stopping is undone.

Cost: one write and one batch read. A message without a cause is about a visit that has an item, and costs
one more read.

Limits: a process that dies between the write and the read of the head leaves a claim in a stopping run. Its
lease expires, and the next claim executes the visit, as if it had started before the stop.
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
from noetl.executor.model.visit_transition import MAX_CLAIMS
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.commits import encode_events_item
from noetl.executor.stores.dynamo.context import MAX_CONFLICTS, DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    derive_deadline_visit,
    derive_first_visit,
    has_ended,
    run_id_of,
    spread_of,
)
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.visit_items import VisitItem, decode_visit, derive_followers
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.receiver import MessageReceiver
from noetl.planner.frozen import frozen

_FINISHED = (VisitStatus.SUCCEEDED.value, VisitStatus.FAILED.value)

logger = logging.getLogger("noetl.executor")


@frozen
class ClaimRequest:
    """A request to claim the visit of a message.

    `known` is the visit if the caller has just created it. With `give_up`, the claim exceeds the limit of
    claims. With `repeats_followups`, what follows from a finished visit is done again.
    """

    message: DueMessage
    lease: Lease
    now: float
    known: VisitItem | None = None
    give_up: bool = False
    repeats_followups: bool = True


class DynamoClaims(DynamoContext):
    """The part of the DynamoDB store that claims visits."""

    def claim(self, queue: str, lease: Lease, now: float) -> Claim | None:
        if queue == SERVICE_QUEUE and self.receiver is not None:
            return self._claim_received(self.receiver, lease, now)
        for _ in range(MAX_CONFLICTS):
            message = self.memory_queue.take(queue, now)
            if message is None:
                self.memory_queue.replace(queue, self._find_due(queue, now))
                message = self.memory_queue.take(queue, now)
            if message is None:
                return None
            claim = self._claim(ClaimRequest(message, lease, now, repeats_followups=False))
            if isinstance(claim, Claim):
                return claim
        return None

    def next_due(self, queue: str) -> float | None:
        if queue == SERVICE_QUEUE and self.message_queue is not None:
            return None
        return min((message.due_at for message in self._find_due(queue)), default=None)

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        return self._claim(ClaimRequest(DueMessage.decode(body), lease, now, give_up=give_up))

    def claim_item(self, item: VisitItem, head: Item, lease: Lease, now: float) -> Visit | None:
        # The outputs that the step reads are read when it starts.
        message = replace(self.due_message(item, head), holders=())
        claim = self._claim(ClaimRequest(message, lease, now, known=item, repeats_followups=False))
        return claim.visit if isinstance(claim, Claim) else None

    def renew(
        self,
        run_id: str,
        visit_id: str,
        fence: int,
        until: float,
        events: Sequence[Event] = (),
        events_already_written: int = 0,
    ) -> bool:
        writes: list[Write] = [Update(self.visit_key(run_id, visit_id), {"due": until}, when=_is_held(fence))]
        if events:
            key = keys.renewal_events(run_id, visit_id, fence, events_already_written, self.spread(run_id))
            writes.append(Put(key, encode_events_item(events, self.blobs, run_id), when=()))
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
                Update(self.visit_key(run_id, visit_id), {"due": now}, added, when=_is_held(fence))
            )
        except ConditionFailed:
            return
        message = DueMessage(run_id, visit_id, item["step"], now, self.spread(run_id))
        self.send_messages(self.read_head(run_id)["queue"], [message], now)
        if self.receiver is not None:
            self.receiver.finish(run_id, visit_id)
        self.changes.notify()

    def release_dead(self, queue: str, now: float) -> int:
        """Return 0: only a store on the same machine can know that a worker is dead."""
        return 0

    def _claim_received(self, receiver: MessageReceiver, lease: Lease, now: float) -> Claim | None:
        """Claim a visit of a received message. If there is none, one thread waits for messages."""
        while (message := receiver.take()) is not None:
            try:
                claim = self.claim_message(message["Body"], lease, now)
            except MessageError as problem:
                # SQS delivers it again, and moves it to the dead-letter queue after some deliveries.
                logger.warning("a message was left in the queue: %s", problem)
                continue
            if isinstance(claim, Claim):
                receiver.bind(claim.visit, message["ReceiptHandle"])
                return claim
            if claim is MessageOutcome.DONE:
                receiver.delete(message["ReceiptHandle"])
        # New messages are claimed by the next call, with the time of that call.
        self.work.notify(receiver.poll(math.ceil(lease.seconds)))
        return None

    def _find_due(self, queue: str, now: float | None = None) -> list[DueMessage]:
        """Return messages about the active visits of a queue, read from the table, the longest due first.

        With `now`, runs that a dead worker has left half done are repaired.
        """
        ids = sorted(self.known_open_runs(queue) | set(self.open_runs(queue)))
        due: list[tuple[tuple[object, ...], DueMessage]] = []
        for snapshot in self.in_parallel(lambda run_id: read_snapshot(self, run_id), ids):
            if snapshot is None:
                continue
            self.cache_head(snapshot.head)
            repaired = [] if now is None else self.repair(snapshot, now)
            due += [
                ((item.visit.due_at, *item.sort_key), self.due_message(item, snapshot.head))
                for item in [*snapshot.active_items, *repaired]
            ]
        return [message for _, message in sorted(due, key=lambda entry: entry[0])]

    def open_runs(self, queue: str) -> list[str]:
        """Return the ids of the runs of a queue that have not ended, as the index knows them."""
        return [id for ids in self.in_parallel(self._open_runs_of, keys.open_shards(queue)) for id in ids]

    def _open_runs_of(self, shard: str) -> list[str]:
        run_ids: list[str] = []
        request = {"KeyConditionExpression": "#o = :q", "ExpressionAttributeNames": {"#o": "open"}}
        values = {"ExpressionAttributeValues": {":q": {"S": shard}}}
        start: dict[str, object] = {}
        while True:
            page = self.table.query_index("open", **request, **values, **start)
            run_ids += [item["pk"]["S"][2:] for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                return run_ids
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}

    def _claim(self, request: ClaimRequest) -> Claim | MessageOutcome:
        message = request.message
        key = keys.visit(message.run_id, message.visit_id, message.spread)
        before: Item | None = None
        if message.cause is None:
            before = self.table.get(key)
            if before is None:
                logger.warning(
                    "message about unknown visit: run %s, visit %s", message.run_id, message.visit_id
                )
                return MessageOutcome.DONE
        for _ in range(MAX_CONFLICTS):
            if before is not None:
                outcome = self._outcome_without_claim(request, before)
                if outcome is not None:
                    return outcome
            elif message.due_at > request.now:
                return self._send_later(message, message.due_at, request.now)
            try:
                item = self.table.update(_claim_update(key, request, before))
            except ConditionFailed as refusal:
                before = refusal.items[0] or self.table.get(key)
                continue
            return self._complete_claim(request, key, before, item)
        return MessageOutcome.HELD

    def _outcome_without_claim(self, request: ClaimRequest, item: Item) -> MessageOutcome | None:
        """Return why a visit cannot be claimed, or None if it can."""
        message, now = request.message, request.now
        if item["status"] in _FINISHED:
            if request.repeats_followups:
                finished = decode_visit(message.run_id, item, self.blobs)
                if finished is not None:
                    self.apply_followups(finished, now, again=True)
            return MessageOutcome.DONE
        if item["status"] == VisitStatus.PARKED:
            return MessageOutcome.DONE
        if item["due"] <= now:
            return None
        if item["status"] == VisitStatus.RUNNING:
            return MessageOutcome.HELD
        if item["status"] == VisitStatus.WAITING and request.repeats_followups:
            if self.wake_if_answered(message.run_id, message.visit_id, now):
                return None
        return self._send_later(replace(message, cause=None), item["due"], now)

    def _send_later(self, message: DueMessage, due_at: float, now: float) -> MessageOutcome:
        """Send a message again for the time when its visit is due, because its delay is limited."""
        if due_at < NEVER:
            head = self.table.get(keys.head(message.run_id))
            if head is not None and not has_ended(head):
                self.send_messages(head["queue"], [replace(message, due_at=due_at)], now)
        return MessageOutcome.DONE

    def _complete_claim(
        self, request: ClaimRequest, key: keys.ItemKey, before: Item | None, item: Item
    ) -> Claim | MessageOutcome:
        """Return the claim whose item was written, or undo it if the run does not allow it."""
        message, now = request.message, request.now
        needed = [keys.head(message.run_id)]
        needs_cause = "clock" not in item and request.known is None
        cause = item.get("cause", "") if needs_cause else ""
        if cause:
            needed.append(keys.visit(message.run_id, cause, message.spread))
        holders = {keys.visit(message.run_id, id, message.spread) for id in message.holders}
        items = self.table.get_many([*needed, *sorted(holders - set(needed))])
        head = items.get(needed[0])
        if head is None:
            logger.warning("message about unknown run: %s", message.run_id)
            self._undo_creation(key, item)
            return MessageOutcome.DONE
        self.cache_head(head)
        cause_item = items.get(needed[-1]) if cause else None
        claimed = self._claimed_visit(message.visit_id, item, head, cause_item, request.known)
        if claimed is None or has_ended(head) or not self._is_current(claimed, head):
            self._undo_creation(key, item)
            return MessageOutcome.DONE
        is_first_claim = (before or {}).get("claims", 0) == 0
        is_step = claimed.visit.step != DEADLINE and not self.is_final_step(claimed, head)
        if "stop" in head and is_first_claim and is_step:
            self._park(key, before, item, now)
            self.announce(head, self.settle_stop(message.run_id, now), now)
            return MessageOutcome.DONE
        if head["status"] == RunStatus.QUEUED:
            head = self._set_running(head, now)
        if not self.cache_claim(claimed, head):
            return MessageOutcome.HELD
        prefetched = [
            decode_visit(message.run_id, items[holder], self.blobs) for holder in holders if holder in items
        ]
        visits = tuple(holder.visit for holder in prefetched if holder is not None)
        return Claim(decode_run(head, self.blobs), claimed.visit, visits)

    def _claimed_visit(
        self,
        visit_id: str,
        item: Item,
        head: Item,
        cause: Item | None,
        known: VisitItem | None = None,
    ) -> VisitItem | None:
        """Return a claimed visit, or None if nothing in its run leads to such a visit."""
        run_id, step_of = run_id_of(head), self.step_of(head["plan"])
        if "clock" in item or known is not None:
            return decode_visit(run_id, item, self.blobs, known)
        candidates: Sequence[VisitItem | None] = []
        if item.get("cause", "") == "":
            candidates = [derive_first_visit(head, step_of), derive_deadline_visit(head)]
        elif cause is not None:
            decoded = decode_visit(run_id, cause, self.blobs)
            if decoded is not None:
                is_sequential = self.is_sequential(head)
                candidates = derive_followers(decoded, step_of, spread_of(head), is_sequential=is_sequential)
        visits = (visit for visit in candidates if visit is not None)
        derived = next((visit for visit in visits if visit.visit.id == visit_id), None)
        if derived is None or derived.visit.step != item["step"]:
            logger.warning("message about a visit without a cause: run %s, visit %s", run_id, visit_id)
            return None
        return decode_visit(run_id, item, self.blobs, derived)

    def _is_current(self, item: VisitItem, head: Item) -> bool:
        """Return whether a visit belongs to the run since its last resume."""
        resumes = head.get("resumes", 0)
        visit = item.visit
        if visit.step == DEADLINE:
            deadline = derive_deadline_visit(head)
            if deadline is None or deadline.visit.id != visit.id:
                return False
            if self.plans.header(head["plan"]).finally_step is None:
                return True
            key = keys.visit(visit.run_id, finally_visit_id(resumes), spread_of(head))
            return self.table.get(key) is None
        if visit.step == END or self.is_final_step(item, head):
            return bool(item.attributes.get("resumes", 0) == resumes)
        return True

    def _undo_creation(self, key: keys.ItemKey, item: Item) -> None:
        """Delete an item that its claim has created."""
        if item.get("fence", 0) == 1 and "clock" not in item:
            try:
                self.table.write([Delete(key, when=_is_held(1))])
            except ConditionFailed:
                return

    def _park(self, key: keys.ItemKey, before: Item | None, item: Item, now: float) -> None:
        """Undo a claim in a stopping run, and park its visit."""
        earlier = before or {}
        was_ready = earlier.get("status", VisitStatus.READY) == VisitStatus.READY
        due_at = now if was_ready else earlier["due"]
        restored = {name: earlier.get(name) for name in ("started", "piece", "begun", "worker")}
        sets = {**restored, "status": VisitStatus.PARKED.value, "due": due_at, "claims": 0}
        try:
            self.table.update(Update(key, sets, when=_is_held(item["fence"])))
        except ConditionFailed:
            return

    def _set_running(self, head: Item, now: float) -> Item:
        key = keys.ItemKey(head["pk"], head["sk"])
        sets = {"status": RunStatus.RUNNING.value}
        is_queued: Condition = ("status", "=", RunStatus.QUEUED.value)
        try:
            return self.table.update(Update(key, sets, keep={"started": now}, when=(is_queued,)))
        except ConditionFailed as refusal:
            return refusal.items[0] or head


def _is_held(fence: int) -> tuple[Condition, ...]:
    return (("fence", "=", fence), ("status", "=", VisitStatus.RUNNING.value))


def _claim_update(key: keys.ItemKey, request: ClaimRequest, before: Item | None) -> Update:
    """Return the write that claims a visit as it was read, or that creates its item if `before` is None."""
    message, lease, now = request.message, request.lease, request.now
    earlier = before or {}
    claims = earlier.get("claims", 0)
    fence = earlier.get("fence", 0) + 1
    sets = {
        "status": VisitStatus.RUNNING.value,
        "fence": fence,
        "claims": (max(claims, MAX_CLAIMS) if request.give_up else claims) + 1,
        "worker": lease.worker,
        "due": now + lease.seconds,
        "started": earlier.get("started", now),
        "piece": earlier.get("piece", now),
    }
    is_start = "started" not in earlier and not message.step.startswith("@")
    starts = [[fence, now, lease.worker, earlier.get("attempt", 1)]] if is_start else []
    append = {"begun": starts} if starts else {}
    if before is None:
        origin = {"step": message.step, "cause": message.cause or None}
        sets |= {name: value for name, value in origin.items() if value}
        return Update(key, sets, append=append, when=(ABSENT,))
    when: tuple[Condition, ...] = (
        ("status", "=", earlier["status"]),
        ("due", "=", earlier["due"]),
        ("fence", "absent or =", earlier.get("fence", 0)),
    )
    return Update(key, sets, append=append, when=when)
