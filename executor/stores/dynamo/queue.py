"""The work queue of a DynamoDB store: claims of due visits, their leases, and commits of their outcomes.

With an external queue, messages say which visits of service runs are due. Visits of all other runs are found
in the table: a claim that finds no message in memory reads the open runs of the queue.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import DamagedRunError, MessageError
from noetl.executor.model.events import Event
from noetl.executor.model.gates import GateKey
from noetl.executor.model.run import (
    Claim,
    Commit,
    CommitResult,
    Lease,
    RunEnding,
    Visit,
    VisitStatus,
)
from noetl.executor.model.visit_transition import MAX_AHEAD_SECONDS
from noetl.executor.stores.damage import naming_run, reading_run
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.claims import ClaimRequest, Claims, FinishedVisit
from noetl.executor.stores.dynamo.commits import Commits, WrittenOutcome
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.damaged_runs import set_aside
from noetl.executor.stores.dynamo.expressions import Put, Update, Write
from noetl.executor.stores.dynamo.followups import DueVisits, Followups
from noetl.executor.stores.dynamo.open_runs import list_open_runs
from noetl.executor.stores.dynamo.repairs import Repairs
from noetl.executor.stores.dynamo.run_items import tenant_of
from noetl.executor.stores.dynamo.run_snapshot import read_snapshot
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    decode_lease,
    decode_visit,
    encode_events_item,
    is_held,
)
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import DueMessage
from noetl.executor.stores.sqs.messages import MessageQueue
from noetl.executor.stores.sqs.outbox_message import OutboxMessage
from noetl.executor.stores.sqs.receiver import MessageReceiver
from noetl.executor.stores.sqs.trigger_message import TriggerMessage
from noetl.planner.frozen import replace

logger = logging.getLogger("noetl.executor")


class DynamoQueue:
    """The visits of a DynamoDB store that are due."""

    def __init__(
        self, context: DynamoContext, claims: Claims, commits: Commits, followups: Followups, repairs: Repairs
    ) -> None:
        self._context = context
        self._claims = claims
        self._commits = commits
        self._followups = followups
        self._repairs = repairs
        external = context.announcer.message_queue
        self._receiver = None if external is None else MessageReceiver(external)
        # SQS delivers the messages of the tenants in turn, by their groups.
        self.claims_in_turn: bool = external is None
        self.counts_active = False
        self.takes_slots = False

    @property
    def message_queue(self) -> MessageQueue | None:
        """External queue, or None."""
        return self._context.announcer.message_queue

    def claim(self, queue: str, lease: Lease, now: float, passed_over: Collection[str] = ()) -> Claim | None:
        """Claim a due visit of a queue, of the tenants in turn, or return None if no visit is due.

        Messages of SQS are claimed in the order in which they arrive, whatever `passed_over` is.
        """
        if self._receiver is not None and self._context.announcer.external_queue(queue) is not None:
            return self._claim_received(self._receiver, lease, now)
        memory_queue = self._context.announcer.memory_queue
        for _ in range(MAX_CONFLICTS):
            message = memory_queue.take(queue, now, passed_over)
            if message is None:
                memory_queue.replace(queue, self._find_due(queue, now))
                message = memory_queue.take(queue, now, passed_over)
            if message is None:
                return None
            with reading_run(message.run_id):
                claim = self._claims.claim(ClaimRequest(message, lease, now))
            if isinstance(claim, Claim):
                return claim
        return None

    def claim_message(
        self, body: str, lease: Lease, now: float, *, give_up: bool = False
    ) -> Claim | MessageOutcome:
        """Claim the visit that a message names, or return what is to be done with the message."""
        message = DueMessage.decode(body)
        with reading_run(message.run_id):
            return self._claim_message(message, lease, now, give_up=give_up)

    def _claim_message(
        self, message: DueMessage, lease: Lease, now: float, *, give_up: bool
    ) -> Claim | MessageOutcome:
        result = self._claims.claim(ClaimRequest(message, lease, now, give_up=give_up, is_delivered=True))
        if not isinstance(result, FinishedVisit):
            return result
        finished = decode_visit(result.run_id, result.item, self._context.blobs, with_outputs=False)
        if finished is not None:
            due = self._followups.repeat(finished, now)
            # The worker may have claimed one of them with its commit.
            self._context.announcer.announce(due.head, due.items, now, released=message.released)
        return MessageOutcome.DONE

    def release_given_up(self, body: str, now: float) -> bool:
        """Release the claim of a worker that the message names, and that could not. Return whether it did."""
        message = DueMessage.decode(body)
        run_id, visit_id = message.run_id, message.visit_id
        item = self._context.table.get(keys.visit(run_id, visit_id, message.spread))
        if item is None or item["status"] != VisitStatus.RUNNING:
            return False
        worker = item.get("worker")  # A visit that was released has none.
        if worker not in message.released or item.get("freed") == worker:
            return False
        # An earlier delivery of the message must not release the claim twice.
        self._release(decode_lease(run_id, visit_id, item), now, counts=False, sets={"freed": worker})
        return True

    def count_active(self, queue: str, tenant: str, limit: int) -> int:
        """Raise NotImplementedError: the table has no index of the active visits of a tenant."""
        raise NotImplementedError

    def next_due(self, queue: str, until: float | None = None) -> float | None:
        """Return the due time of the first visit of a queue, or None if the queue is empty."""
        if self._context.announcer.external_queue(queue) is not None:
            return None
        first = min((message.due_at for message in self._find_due(queue)), default=None)
        return None if first is None or (until is not None and first > until) else first

    def renew(
        self, claimed: Visit, until: float, events: Sequence[Event] = (), events_already_written: int = 0
    ) -> bool:
        """Extend a claim until a time, and write events of its work; return False if the claim is lost."""
        context = self._context
        run_id = claimed.run_id
        key = context.heads.visit_key(run_id, claimed.id)
        writes: list[Write] = [Update(key, {"due": until}, when=is_held(claimed.fence))]
        if events:
            spread = context.heads.spread(run_id)
            key = keys.renewal_events(run_id, claimed.id, claimed.fence, events_already_written, spread)
            writes.append(Put(key, encode_events_item(events, context.blobs, run_id), when=()))
        try:
            context.table.write(writes)
        except ConditionFailed:
            return False
        if events:
            context.changes.notify()
        if self._receiver is not None:
            self._receiver.extend(run_id, claimed.id)
        return True

    def release(self, claimed: Visit, now: float, *, counts: bool) -> None:
        """Give up a claim on purpose: the visit is due at once, and a later commit is refused."""
        self._release(claimed, now, counts=counts, sets={})

    def _release(self, claimed: Visit, now: float, *, counts: bool, sets: Mapping[str, Any]) -> None:
        context, run_id = self._context, claimed.run_id
        added = {"fence": 1} if counts else {"fence": 1, "claims": -1}
        key = context.heads.visit_key(run_id, claimed.id)
        try:
            update = Update(key, {"due": now, "worker": None, **sets}, added, when=is_held(claimed.fence))
            item = context.table.update(update)
        except ConditionFailed:
            return
        head = context.heads.read(run_id)
        message = DueMessage(
            run_id, claimed.id, item["step"], now, context.heads.spread(run_id), tenant=tenant_of(head)
        )
        context.announcer.send(head["queue"], [message], now)
        if self._receiver is not None:
            self._receiver.finish(run_id, claimed.id)
        context.changes.notify()

    def release_dead(self, queue: str, now: float) -> int:
        """Return 0: only a store on the same machine can know that a worker is dead."""
        return 0

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> CommitResult:
        """Write the outcome of a visit and all that follows from it, and claim the next visit for a lease."""
        with naming_run(commit.visit.run_id):
            return self._commit(commit, now, claim_for)

    def _commit(self, commit: Commit, now: float, claim_for: Lease | None) -> CommitResult:
        visit = commit.visit
        committed = self._commits.commit(commit, now)
        self._context.changes.notify()
        known_head = committed.head if commit.stop is None else None
        due = self._followups.apply(committed, now, known_head)
        following = self._claim_or_announce(due, committed, now, claim_for)
        if following is None and claim_for is not None and due.items and due.head is known_head:
            # The claim may have failed because the run is stopping, which the known head does not show.
            due = self._followups.settle_stop(visit.run_id, now)
            following = self._claim_or_announce(due, committed, now, claim_for)
        if self._receiver is not None:
            self._receiver.finish(visit.run_id, visit.id, following)
        return CommitResult(following, freed=committed.freed)

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[GateKey, ...]:
        """Set the final status of a run, and answer the wait of its parent."""
        head, freed = self._commits.finish(claim, ending, now)
        self._followups.complete_end(head, now)
        if self._receiver is not None:
            self._receiver.finish(claim.run.id, claim.visit.id)
        self._context.changes.notify()
        self._context.announcer.work.notify(0 if claim.run.parent is None else 1)
        return freed

    def _claim_or_announce(
        self, due: DueVisits, committed: WrittenOutcome, now: float, claim_for: Lease | None
    ) -> Visit | None:
        """Claim the first due visit if there is a lease, and announce the others.

        The committed visit itself is claimed ahead, as of the time when it is due, if that is soon. If the
        run has changed its plan since the claim, its worker has the earlier plan. So nothing is claimed.
        """
        plan_hash = committed.head["plan"]
        claim_for = claim_for if due.head["plan"] == plan_hash else None
        claimed: Visit | None = None
        rest = []
        for item in due.items:
            if item.visit.id == committed.item.visit.id:
                may_claim = self._is_due_soon(item, due.head, now)
            else:
                may_claim = item.visit.due_at <= now
            if claim_for is not None and claimed is None and may_claim:
                message = self._context.announcer.message_about(item, due.head)
                # The outputs that the step reads are read when it starts.
                message = replace(message, holders=())
                as_of = max(item.visit.due_at, now)
                claim = self._claims.claim(ClaimRequest(message, claim_for, as_of, known=item))
                if isinstance(claim, Claim) and claim.run.plan_hash != plan_hash:
                    self._release(claim.visit, now, counts=False, sets={})
                    continue
                if isinstance(claim, Claim):
                    claimed = claim.visit
                    continue
            rest.append(item)
        self._context.announcer.announce(due.head, rest, now)
        return claimed

    def _is_due_soon(self, item: VisitItem, head: Item, now: float) -> bool:
        """Return whether a visit that waits is due before a message about it could arrive.

        SQS delays a message by whole seconds. A visit that waits for an answer is left to the answer.
        """
        visit = item.visit
        if self._context.announcer.external_queue(head["queue"]) is None or "awaits" in item.attributes:
            return False
        is_pause = visit.status is VisitStatus.RETRYING or visit.due_at > now
        return is_pause and visit.due_at - now <= MAX_AHEAD_SECONDS

    def _claim_received(self, receiver: MessageReceiver, lease: Lease, now: float) -> Claim | None:
        """Claim a visit of a received message. If there is none, one thread waits for messages."""
        while (message := receiver.take()) is not None:
            try:
                body = message["Body"]
                if TriggerMessage.decode(body) is not None or OutboxMessage.decode(body) is not None:
                    # The loops of this process read the triggers and the entries that are due.
                    receiver.delete(message["ReceiptHandle"])
                    continue
                claim = self.claim_message(body, lease, now)
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
        self._context.announcer.work.notify(receiver.poll(math.ceil(lease.seconds)))
        return None

    def _find_due(self, queue: str, now: float | None = None) -> list[DueMessage]:
        """Return messages about the active visits of a queue, read from the table, the longest due first.

        With `now`, runs that a dead worker has left half done are repaired.
        """
        context = self._context
        ids = sorted(context.heads.open_runs(queue) | set(list_open_runs(context, queue)))
        due: list[tuple[tuple[object, ...], DueMessage]] = []
        for entries in context.in_parallel(lambda run_id: self._find_due_of_run(run_id, now), ids):
            due += entries
        return [message for _, message in sorted(due, key=lambda entry: entry[0])]

    def _find_due_of_run(self, run_id: str, now: float | None) -> list[tuple[tuple[object, ...], DueMessage]]:
        """Return messages about the active visits of a run with their sort keys. Set a damaged run aside."""
        context = self._context
        try:
            with reading_run(run_id):
                snapshot = read_snapshot(context, run_id)
                if snapshot is None:
                    return []
                context.heads.remember(snapshot.head)
                if "damage" in snapshot.head:
                    return []
                repaired = [] if now is None else self._repairs.repair(snapshot, now)
                return [
                    (
                        (item.visit.due_at, *item.sort_key),
                        context.announcer.message_about(item, snapshot.head),
                    )
                    for item in [*snapshot.active_items, *repaired]
                ]
        except DamagedRunError as error:
            set_aside(context, run_id, error.message)
            return []
