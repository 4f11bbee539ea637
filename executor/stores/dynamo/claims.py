"""Claims: a worker gets the right to execute a visit that is due.

Problem: many workers try to claim a visit, messages arrive twice, early or late, and a run may be stopped at
the same moment.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). A claim is one conditional write of the
visit's item, which creates the item if there is none. It requires status, due time and fence as they were
read, and increases the fence. One batch read then loads the run and the outputs that the step reads. A claim
in a run that stops or is paused is excluded as in Dekker's mutual exclusion (Dijkstra 1965): both sides
write before they read. A stop writes the head and then reads the visits. A claim writes the visit and then
reads the head. So at least one of them sees the other, and a claim that finds the run stopping is undone.

Cost: one write and one batch read. The claim of a visit that waits is a transaction with a counter. A message
without a cause is about a visit that has an item, and costs one more read.

Limits: a process that dies between the write and the read of the head leaves a claim in a stopping run. Its
lease expires, and the next claim executes the visit, as if it had started before the stop.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed
from noetl.executor.errors import ActionError
from noetl.executor.model.read_memory import strict_reads
from noetl.executor.model.run import DEADLINE, NEVER, Branch, Claim, Lease, RunStatus, Visit, VisitStatus
from noetl.executor.model.run_transition import begin_run
from noetl.executor.model.special_visits import finally_visit_id
from noetl.executor.model.visit_states import FINISHED
from noetl.executor.model.visit_transition import MAX_CLAIMS, claim, enter_step, revoke_claim, start_events
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.caches import CachedClaim
from noetl.executor.stores.dynamo.claimed_visits import decode_claimed_visit
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ABSENT, Condition, Delete, Update
from noetl.executor.stores.dynamo.pauses import Pauses
from noetl.executor.stores.dynamo.plan_moves import settle_visit
from noetl.executor.stores.dynamo.run_items import (
    decode_run,
    derive_deadline_visit,
    has_ended,
    spread_of,
    starts_nothing,
    tenant_of,
)
from noetl.executor.stores.dynamo.sleeping_runs import is_asleep, wake_run
from noetl.executor.stores.dynamo.slot_returns import SlotReturns, has_slots, write_returning
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import (
    VisitItem,
    counted_pause,
    decode_lease,
    decode_visit,
    is_held,
)
from noetl.executor.stores.dynamo.wakeups import Wakeups
from noetl.executor.stores.interface import MessageOutcome
from noetl.executor.stores.sqs.due_message import GIVE_UP_DELAY_SECONDS, DueMessage
from noetl.planner.frozen import frozen, replace

logger = logging.getLogger("noetl.executor")


@frozen
class ClaimRequest:
    """A request to claim the visit of a message.

    `known` is the visit if the caller has just created it. With `give_up`, the message was received too
    often: a visit that was not claimed MAX_CLAIMS times is left to a later message. With `is_delivered`, the
    message comes from the external queue. It may be the last one about a suspended visit, so an answer that
    has made no visit due is noticed.
    """

    message: DueMessage
    lease: Lease
    now: float
    known: VisitItem | None = None
    give_up: bool = False
    is_delivered: bool = False

    @property
    def visit_key(self) -> keys.ItemKey:
        """Key of the visit."""
        return keys.visit(self.message.run_id, self.message.visit_id, self.message.spread)


@frozen
class FinishedVisit:
    """The item of a visit that is finished. Only its followups may be missing."""

    run_id: str
    item: Item


@frozen
class ClaimReads:
    """The items that a claim reads: the head of the run, the cause of the visit, and what its step reads.

    `head` is None for an unknown run, and `cause` if it is not needed.
    """

    head: Item | None
    cause: Item | None
    holders: Sequence[Item]


ClaimResult = Claim | FinishedVisit | MessageOutcome
"""A claim, or why there is none. A finished visit needs no claim, so its message is done."""


class Claims:
    """The claims of visits, by messages about them."""

    def __init__(self, context: DynamoContext, pauses: Pauses, wakeups: Wakeups) -> None:
        self._context = context
        self._pauses = pauses
        self._wakeups = wakeups

    def claim(self, request: ClaimRequest) -> ClaimResult:
        """Claim the visit of a message, or return why it cannot be claimed."""
        message, key = request.message, request.visit_key
        before: Item | None = None
        if request.known is not None and request.known.is_written:
            before = request.known.attributes
        elif message.cause is None or request.give_up:
            before = self._context.table.get(key)
            if before is None and message.cause is None:
                logger.warning(
                    "message about unknown visit: run %s, visit %s", message.run_id, message.visit_id
                )
                return MessageOutcome.DONE
        for _ in range(MAX_CONFLICTS):
            if before is not None and "moving" in before:
                if (outcome := self._settle_move(request, before)) is not None:
                    return outcome
                before = self._context.table.get(key)
            if before is not None:
                refusal = self._find_refusal(request, before)
                if refusal is not None:
                    return refusal
            elif message.due_at > request.now:
                return self._send_later(message, message.due_at, request.now, {})
            if request.give_up and (before or {}).get("claims", 0) < MAX_CLAIMS:
                later = request.now + GIVE_UP_DELAY_SECONDS
                return self._send_later(message, later, request.now, {})
            try:
                item = self._write(request, before)
            except ConditionFailed as failure:
                before = failure.items[0] or self._context.table.get(key)
                continue
            return self._complete(request, before, item)
        return MessageOutcome.HELD

    def _settle_move(self, request: ClaimRequest, item: Item) -> MessageOutcome | None:
        """Let a visit that another plan of its run holds be as it is in the plan of the run.

        Return what happens to the message if this is not possible yet.
        """
        head = self._context.table.get(keys.head(request.message.run_id))
        if head is None:
            return MessageOutcome.DONE
        return None if settle_visit(self._context, item, head, request.now) else MessageOutcome.HELD

    def _write(self, request: ClaimRequest, before: Item | None) -> Item:
        """Claim a visit as it was read, and return its item. One that waits is no longer counted as such.

        Raises:
            ConditionFailed: the visit has changed since it was read.
        """
        update, pause = _claim_update(request, before), counted_pause(before)
        if before is None or pause is None:
            return self._context.table.update(update)
        update = replace(update, set={**update.set, "paused": None})
        counter = Update(keys.counter(request.message.run_id, pause[0]), add=pause[1])
        self._context.table.write([update, counter])
        return update.applied_to(before)

    def _find_refusal(self, request: ClaimRequest, item: Item) -> FinishedVisit | MessageOutcome | None:
        """Return why a visit cannot be claimed, or None if it can."""
        message, now, status = request.message, request.now, VisitStatus(item["status"])
        if status in FINISHED:
            return FinishedVisit(message.run_id, item)
        if status is VisitStatus.PARKED:
            return MessageOutcome.DONE
        if item["due"] <= now:
            return None
        if status is VisitStatus.RUNNING:
            return MessageOutcome.HELD
        if status is VisitStatus.WAITING and request.is_delivered:
            if self._wakeups.wake_if_answered(message.run_id, message.visit_id, now):
                return None
        return self._send_later(replace(message, cause=None), item["due"], now, item)

    def _send_later(self, message: DueMessage, due_at: float, now: float, item: Item) -> MessageOutcome:
        """Send a message again for the time when its visit is due, unless the index `due` has the visit.

        `item` is that of the visit, or empty.
        """
        if due_at < NEVER:
            head = self._context.table.get(keys.head(message.run_id))
            if head is not None and not has_ended(head):
                has_row = "wakes" in item or (message.step == DEADLINE and "wakes" in head)
                if has_row and self._context.announcer.is_long_wait(head["queue"], due_at, now):
                    return MessageOutcome.DONE
                later = replace(message, due_at=due_at, tenant=tenant_of(head))
                self._context.announcer.send(head["queue"], [later], now)
        return MessageOutcome.DONE

    def _complete(self, request: ClaimRequest, before: Item | None, item: Item) -> Claim | MessageOutcome:
        """Return the claim that has written `item`, or undo it if the run does not allow it."""
        message, now = request.message, request.now
        reads = self._read(request, item)
        head = reads.head
        if head is None:
            logger.warning("message about unknown run: %s", message.run_id)
            self._undo_creation(request, item)
            return MessageOutcome.DONE
        self._context.heads.remember(head)
        if "damage" in head:
            self._undo_creation(request, item)
            return MessageOutcome.DONE
        claimed = decode_claimed_visit(self._context, head, item, reads.cause, request.known)
        if claimed is None or has_ended(head) or not self._is_current(claimed, head, now):
            self._undo_creation(request, item)
            return MessageOutcome.DONE
        is_first_claim = (before or {}).get("claims", 0) == 0
        if starts_nothing(head) and is_first_claim and self._context.is_branch_visit(claimed.visit, head):
            self._revoke(request, before, item, head)
            self._context.announcer.announce(head, self._pauses.settle(head, now), now)
            return MessageOutcome.DONE
        if head["status"] == RunStatus.QUEUED:
            head = self._begin_run(head, now)
        if is_asleep(head):
            head = wake_run(self._context, head)
        if not self._context.claims.add(CachedClaim(claimed, head)):
            return MessageOutcome.HELD
        run = decode_run(head, self._context.blobs)
        return Claim(run, claimed.visit, self._decode_holders(message.run_id, reads.holders))

    def _decode_holders(self, run_id: str, items: Sequence[Item]) -> tuple[Visit, ...]:
        """Return the visits that the step reads, or none if they do not fit: then the step reads them."""
        try:
            with strict_reads():
                holders = [decode_visit(run_id, item, self._context.blobs) for item in items]
        except ActionError:
            return ()
        return tuple(holder.visit for holder in holders if holder is not None)

    def _read(self, request: ClaimRequest, item: Item) -> ClaimReads:
        """Read the head, the cause if the item does not hold its origin, and what the step reads, at once."""
        message = request.message
        needs_cause = "clock" not in item and request.known is None
        cause_id = item.get("cause", "") if needs_cause else ""
        head_key = keys.head(message.run_id)
        cause_key = keys.visit(message.run_id, cause_id, message.spread) if cause_id else None
        needed = [head_key] if cause_key is None else [head_key, cause_key]
        holder_keys = sorted({keys.visit(message.run_id, id, message.spread) for id in message.holders})
        items = self._context.table.get_many([*needed, *(key for key in holder_keys if key not in needed)])
        return ClaimReads(
            items.get(head_key),
            None if cause_key is None else items.get(cause_key),
            [items[key] for key in holder_keys if key in items],
        )

    def _is_current(self, item: VisitItem, head: Item, now: float) -> bool:
        """Return whether a visit belongs to the run since its last resume. A deadline must have passed."""
        resumes = head.get("resumes", 0)
        visit = item.visit
        if visit.step == DEADLINE:
            deadline = derive_deadline_visit(head)
            if deadline is None or deadline.visit.id != visit.id or deadline.visit.due_at > now:
                return False  # a resume or another plan has given the run more time
            if self._context.finally_step(head) is None:
                return True
            key = keys.visit(visit.run_id, finally_visit_id(resumes), spread_of(head))
            return self._context.table.get(key) is None
        if self._context.is_final_visit(visit, head):
            return bool(item.attributes.get("resumes", 0) == resumes)
        return True

    def _undo_creation(self, request: ClaimRequest, item: Item) -> None:
        """Delete an item that its claim has created."""
        if item.get("fence", 0) == 1 and "clock" not in item:
            with suppress(ConditionFailed):
                self._context.table.write([Delete(request.visit_key, when=is_held(1))])

    def _revoke(self, request: ClaimRequest, before: Item | None, item: Item, head: Item) -> None:
        """Undo a claim in a run that stops or is paused, park its visit, and give back its slots."""
        message = request.message
        claimed = decode_lease(message.run_id, message.visit_id, item)
        visit = revoke_claim(_visit_before(request, before), claimed, request.now)
        sets = {
            "started": visit.started_at,
            "piece": visit.segment_started_at,
            "begun": (before or {}).get("begun"),
            "worker": visit.worker,
            "status": visit.status.value,
            "due": visit.due_at,
            "claims": visit.claims,
        }
        update, table = Update(request.visit_key, sets, when=is_held(visit.fence)), self._context.table
        with suppress(ConditionFailed):
            if not has_slots(head):
                table.update(update)
                return
            returns = SlotReturns(table, message.run_id, message.visit_id)
            if returns.slots or "queued" in item:
                # It asks for its slots again when its run continues.
                update = replace(update, set={**sets, "due": request.now})
            write_returning(table, [update], returns, request.now)

    def _begin_run(self, head: Item, now: float) -> Item:
        """Write that the run is running, unless another worker has begun it, and return its head."""
        run = begin_run(decode_run(head, self._context.blobs), now)
        is_queued: Condition = ("status", "=", RunStatus.QUEUED.value)
        key = keys.ItemKey(head["pk"], head["sk"])
        update = Update(
            key, {"status": run.status.value}, keep={"started": run.started_at}, when=(is_queued,)
        )
        try:
            return self._context.table.update(update)
        except ConditionFailed as refusal:
            return refusal.items[0] or head


def _claim_update(request: ClaimRequest, before: Item | None) -> Update:
    """Return the write that claims a visit as it was read, or that creates its item if `before` is None."""
    message, key = request.message, request.visit_key
    visit = _visit_before(request, before)
    claimed = claim(visit, request.lease, request.now)
    sets = {
        "status": claimed.status.value,
        "fence": claimed.fence,
        "claims": claimed.claims,
        "worker": claimed.worker,
        "due": claimed.due_at,
        "started": claimed.started_at,
        "piece": claimed.segment_started_at,
    }
    starts = [
        [claimed.fence, event.at, claimed.worker, event.attempt] for event in start_events(visit, claimed)
    ]
    append = {"begun": starts} if starts else {}
    if before is None:
        origin = {"step": message.step, "cause": message.cause or None}
        sets |= {name: value for name, value in origin.items() if value}
        return Update(key, sets, append=append, when=(ABSENT,))
    when: tuple[Condition, ...] = (
        ("status", "=", before["status"]),
        ("due", "=", before["due"]),
        ("fence", "absent or =", before.get("fence", 0)),
    )
    sets |= {"wakes": None} if "wakes" in before else {}
    return Update(key, sets, append=append, when=when)


def _visit_before(request: ClaimRequest, before: Item | None) -> Visit:
    """Return the visit before its claim; without an item, a branch has just entered the step."""
    message = request.message
    if before is None:
        branch = Branch(message.visit_id, message.step, clock=0, names={})
        return enter_step(branch, message.run_id, message.due_at)
    return decode_lease(message.run_id, message.visit_id, before)
