"""Commits: write the outcome of a visit, and do what follows from it.

Problem: a DynamoDB transaction has at most 100 items. An outcome may fork into thousands of branches, fire
joins, stop child runs and end the run. A worker may die between any two requests.

Algorithm: write-ahead of the outcome, then idempotent followups: redo logging (Mohan et al. 1992). The
outcome is one atomic write under the condition of the fence. For a step of a chain it is the item of the
visit alone, else a transaction with the counters of the run. Everything that follows is a function of the
stored outcome: visits have derived ids, joins fire under the condition of their wave, messages are hints. So
a second try changes nothing and completes the first.

Cost: one write for a step of a chain. A fork, an end or an arrival writes a transaction, and then reads the
counters.

Limits: followups that a dead worker has left undone are completed when the message of the visit is delivered
again, or by the sweep. If other commits change the same counters, the transaction is tried up to
MAX_CONFLICTS times.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import FencedError, NotJsonError, PayloadTooLargeError, StoreError
from noetl.executor.model.events import Event
from noetl.executor.model.run import (
    DEADLINE,
    END,
    NEVER,
    Branch,
    Commit,
    FailureState,
    Lease,
    Visit,
    VisitStatus,
)
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs
from noetl.executor.stores.dynamo.context import MAX_CONFLICTS, CachedClaim, DynamoContext
from noetl.executor.stores.dynamo.expressions import PRESENT, Condition, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import CounterDeltas, arrival_joins, spread_of
from noetl.executor.stores.dynamo.table import DynamoTable
from noetl.executor.stores.dynamo.visit_items import (
    StepOf,
    VisitItem,
    VisitOrigin,
    decode_visit,
    derive_followers,
    encode_event,
    encode_origin,
    encode_outcome,
    encode_unclaimed,
    home_of_branch,
    new_visit,
    number_visit,
)
from noetl.executor.stores.sql.rows import encode_json

MAX_PAYLOAD_BYTES = 64 * 1024 * 1024


class BranchWrites:
    """The writes by which the branches of a commit move.

    `created` are the keys of visits that another branch may have created, by id. `numbers` are the numbers
    of the following visits in a run that has forked.
    """

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.created: dict[str, keys.ItemKey] = {}
        self.numbers: list[int] = []


class VisitNumbers:
    """Numbers for visits of steps on cycles in a run that has forked, each given once.

    A number is taken by a write under the condition that no other commit has taken one since it was read.
    """

    def __init__(self, table: DynamoTable, run_id: str) -> None:
        self._table = table
        self._run_id = run_id
        self._counts: dict[str, tuple[int, int]] = {}

    def take(self, branch: Branch, origin: VisitOrigin) -> int:
        """Return the next number for the step of a branch."""
        if branch.step not in self._counts:
            item = self._table.get(keys.visit_count(self._run_id, branch.step)) or {}
            self._counts[branch.step] = (item.get("visits", 0), 0)
        before, taken = self._counts[branch.step]
        self._counts[branch.step] = (before, taken + 1)
        return int(origin.counts.get(branch.step, 0) + before + taken + 1)

    def writes(self) -> list[Write]:
        """Return the writes that take the numbers."""
        writes: list[Write] = []
        for step, (before, taken) in self._counts.items():
            is_unchanged: Condition = ("visits", "=", before) if before else ("visits", "absent", None)
            key = keys.visit_count(self._run_id, step)
            writes.append(Update(key, {"visits": before + taken}, when=(is_unchanged,)))
        return writes


class DynamoCommits(DynamoContext):
    """The part of the DynamoDB store that commits outcomes."""

    def commit(self, commit: Commit, now: float, claim_for: Lease | None = None) -> Visit | None:
        visit = commit.visit
        check_payload(commit)
        claim = self.cached_claim(visit) or self._read_claim(visit)
        is_finished = visit.finished_at is not None
        outcome = encode_outcome(visit, commit.events if is_finished else (), self.blobs)
        if not is_finished and visit.due_at > now and "waits" not in claim.head:
            self._mark_waiting(claim.head)
        committed = self._write(commit, claim, outcome, now)
        self.forget_claim(visit)
        self._delete_loop_parts(visit, claim)
        self.changes.notify()
        known_head = claim.head if commit.stop is None else None
        following = self.apply_followups(committed, now, claim_for=claim_for, known_head=known_head)
        if self.receiver is not None:
            self.receiver.finish(visit.run_id, visit.id, following)
        return following

    def _read_claim(self, visit: Visit) -> CachedClaim:
        """Read what is needed to commit a claim that another process has made."""
        head = self.read_head(visit.run_id)
        item = self.table.get(keys.visit(visit.run_id, visit.id, spread_of(head)))
        if item is None or item.get("fence") != visit.fence:
            raise _claim_is_lost(visit)
        return CachedClaim(VisitItem(visit, self.origin_of_claim(head, item), item), head)

    def _mark_waiting(self, head: Item) -> None:
        """Mark in the head that the run may be waiting, before a visit is suspended."""
        is_open: tuple[Condition, ...] = (PRESENT, ("finished", "absent", None))
        with suppress(ConditionFailed):
            self.table.update(Update(keys.ItemKey(head["pk"], head["sk"]), {"waits": True}, when=is_open))

    def _write(self, commit: Commit, claim: CachedClaim, outcome: Item, now: float) -> VisitItem:
        """Write an outcome with everything that must be atomic with it, and return the visit."""
        visit, before = commit.visit, claim.item
        spread = spread_of(claim.head)
        key = keys.visit(visit.run_id, visit.id, spread)
        when: tuple[Condition, ...] = (
            ("fence", "=", visit.fence),
            ("status", "=", VisitStatus.RUNNING.value),
        )
        fixed: list[Write] = [
            *self._loop_part_writes(commit, spread),
            *self._event_writes(commit, spread),
            *_stop_writes(commit, claim.head, self.blobs),
        ]
        absorbed: set[str] = set()
        for tries in range(MAX_CONFLICTS):
            moves = self._branch_writes(commit, claim, absorbed, now)
            sets = _visit_attributes(commit, before, outcome, moves, now)
            writes: list[Write] = [Update(key, sets, when=when), *fixed, *moves.writes]
            try:
                self.table.write(writes)
            except ConditionFailed as refusal:
                if refusal.failed[0]:
                    raise _claim_is_lost(visit) from None
                # A visit that exists was created by another branch, so this branch ends there.
                refused = {write.key for write, failed in zip(writes, refusal.failed, strict=True) if failed}
                absorbed |= {id for id, created in moves.created.items() if created in refused}
                if tries:
                    time.sleep(pause_seconds(min(tries, 4)))
                continue
            item = {name: value for name, value in {**before.attributes, **sets}.items() if value is not None}
            return VisitItem(visit, before.origin, item | key._asdict())
        raise StoreError(f"A step of run {visit.run_id} could not be committed: too many concurrent writers.")

    def _branch_writes(
        self, commit: Commit, claim: CachedClaim, absorbed: set[str], now: float
    ) -> BranchWrites:
        """Return the writes that move the branches; the branches in `absorbed` find their visit created."""
        origin, visit = claim.item.origin, commit.visit
        spread, step_of = spread_of(claim.head), self.step_of(claim.head["plan"])
        width = len(commit.branches)
        homes = [home_of_branch(origin.home, index, width, spread) for index in range(width)]
        deltas = _counter_deltas(commit, origin, homes, step_of)
        numbers = VisitNumbers(self.table, visit.run_id)
        due_at = NEVER if self.is_sequential(claim.head) else now
        has_forked = origin.has_forked or width > 1
        moves = BranchWrites()
        for index, (branch, home) in enumerate(zip(commit.branches, homes, strict=True)):
            is_new = not branch.is_arrival and branch.id not in absorbed
            if branch.is_absorbed and not is_new:
                deltas.count_branch(home, step_of(branch.step).regions, -1)
            number = numbers.take(branch, origin) if branch.is_counted and is_new and has_forked else 0
            moves.numbers.append(number)
            if branch.is_absorbed and is_new:
                key = keys.visit(visit.run_id, branch.id, spread)
                visit_number, counts = number_visit(branch, origin, number)
                created_origin = VisitOrigin(
                    visit.id, (), now, index, home, counts, has_forked=has_forked, parent_clock=visit.clock
                )
                created = new_visit(branch, visit.run_id, due_at, visit_number)
                moves.writes.append(Put(key, encode_unclaimed(created, created_origin)))
                moves.created[branch.id] = key
        if not any(moves.numbers):
            moves.numbers = []
        moves.writes += numbers.writes()
        for home in deltas.homes():
            added, arrived = deltas.changes_of(home)
            key = keys.counter(visit.run_id, home)
            moves.writes.append(Update(key, {}, {**added, "version": 1}, append=arrived))
        return moves

    def _loop_part_writes(self, commit: Commit, spread: int) -> Iterable[Put]:
        visit = commit.visit
        if visit.progress is None:
            return
        for part in commit.batch_results:
            key = keys.loop_part(visit.run_id, visit.id, part.loop, part.first, spread)
            yield Put(key, {"body": self.blobs.store(visit.run_id, list(part.outcomes)) or b"[]"}, when=())

    def _delete_loop_parts(self, visit: Visit, claim: CachedClaim) -> None:
        """Delete batch results of loops when the visit is done or starts another round."""
        may_continue = visit.finished_at is None or visit.failure in (FailureState.OPEN, FailureState.ENDED)
        if visit.progress is None or (visit.progress.journal and may_continue):
            return
        pk = keys.visit(visit.run_id, visit.id, spread_of(claim.head)).pk
        items = self.table.query(pk, f"P#{visit.id}#")
        self.table.delete([keys.ItemKey(item["pk"], item["sk"]) for item in items])

    def _event_writes(self, commit: Commit, spread: int) -> Iterable[Put]:
        """Yield the write of the events of a claim that ends in a retry or a suspension."""
        visit = commit.visit
        if visit.finished_at is None and commit.events:
            key = keys.claim_events(visit.run_id, visit.id, visit.fence, spread)
            yield Put(key, encode_events_item(commit.events, self.blobs, visit.run_id), when=())

    def apply_followups(
        self,
        item: VisitItem,
        now: float,
        *,
        again: bool = False,
        claim_for: Lease | None = None,
        known_head: Item | None = None,
    ) -> Visit | None:
        visit = item.visit
        head = self._head_for(item, None if again else known_head)
        if visit.step == END:
            self.answer_parent(head, now)
            self.set_expiry(head, now)
            return None
        due = self._due_after(item, head, now, again=again)
        claimed = self._claim_or_announce(head, due, visit, now, claim_for)
        if claimed is None and claim_for is not None and due and head is known_head:
            # The claim may have failed because the run is stopping, which the known head does not show.
            head = self.read_head(visit.run_id)
            due = self.settle_stop(visit.run_id, now) if "stop" in head else []
            claimed = self._claim_or_announce(head, due, visit, now, claim_for)
        return claimed

    def _due_after(self, item: VisitItem, head: Item, now: float, *, again: bool) -> list[VisitItem]:
        """Apply what follows from an outcome, and return the visits that are due or will be."""
        visit = item.visit
        is_finished = visit.finished_at is not None
        if is_finished and item.attributes.get("waited"):
            self.cancel_child_runs(visit.run_id, visit.id, now)
        due: list[VisitItem] = []
        is_empty = False
        if item.attributes.get("counted"):
            fired, is_empty = self.fire_touched_joins(item, head, now, again=again)
            due += fired
        due += self._followers(item, head) if is_finished else self._suspended(item, now)
        if item.attributes.get("last"):
            return due + (self.end_run(head, now) if is_finished else [])
        if "stop" in head or (visit.step == DEADLINE and is_finished):
            return self.settle_stop(visit.run_id, now)
        if is_finished and self.is_sequential(head):
            due = [waiting for waiting in due if waiting.visit.due_at < NEVER]
            due += self.activate_next_visit(head, item, now)
        if is_finished and is_empty:
            due += self.end_run(head, now)
        return due

    def _head_for(self, item: VisitItem, known_head: Item | None) -> Item:
        """Return the head as of the claim for a step of a chain, and the current head otherwise."""
        visit = item.visit
        has_effects = any(item.attributes.get(name) for name in ("counted", "waited", "last"))
        is_chain_step = visit.finished_at is not None and not has_effects and not visit.step.startswith("@")
        if is_chain_step and known_head is not None:
            return known_head
        return self.read_head(visit.run_id)

    def _claim_or_announce(
        self, head: Item, due: Sequence[VisitItem], committed: Visit, now: float, claim_for: Lease | None
    ) -> Visit | None:
        """Claim the first due visit if there is a lease, and announce the others."""
        claimed: Visit | None = None
        rest: list[VisitItem] = []
        for item in due:
            may_claim = claimed is None and item.visit.id != committed.id and item.visit.due_at <= now
            if claim_for is not None and may_claim:
                claimed = self.claim_item(item, head, claim_for, now)
                if claimed is not None:
                    continue
            rest.append(item)
        self.announce(head, rest, now)
        return claimed

    def _suspended(self, item: VisitItem, now: float) -> list[VisitItem]:
        """Return a suspended visit, unless an answer has made it due already."""
        visit = item.visit
        is_woken = bool(item.attributes.get("awaits")) and self.wake_if_answered(visit.run_id, visit.id, now)
        return [] if is_woken else [item]

    def _followers(self, item: VisitItem, head: Item) -> list[VisitItem]:
        """Return the visits that follow a finished visit; in sequential mode only those at a `join: any`."""
        followers: list[VisitItem] = []
        if not self.is_sequential(head):
            step_of, spread = self.step_of(head["plan"]), spread_of(head)
            followers += derive_followers(item, step_of, spread, is_sequential=False)
        return followers + self._created_at_joins(item, head)

    def _created_at_joins(self, item: VisitItem, head: Item) -> list[VisitItem]:
        """Return the visits at a `join: any` that a commit has created and that no worker has claimed."""
        if not item.attributes.get("next"):
            return []
        step_of = self.step_of(head["plan"])
        visit, spread = item.visit, spread_of(head)
        branches = branches_after(visit, step_of(visit.step), step_of)
        visit_keys = [
            keys.visit(visit.run_id, branch.id, spread) for branch in branches if branch.is_absorbed
        ]
        if not visit_keys:
            return []
        items = self.table.get_many(visit_keys).values()
        created = (decode_visit(visit.run_id, created_item, self.blobs) for created_item in items)
        return [
            other
            for other in created
            if other is not None
            and other.origin.cause == visit.id
            and other.visit.status is VisitStatus.READY
        ]


def _counter_deltas(
    commit: Commit, origin: VisitOrigin, homes: Sequence[int], step_of: StepOf
) -> CounterDeltas:
    """Return how a commit changes the counters, before branches that find their visit created."""
    deltas = CounterDeltas()
    if all(home == origin.home for home in homes):
        deltas.add(origin.home, "live", commit.branches_change)
        for join, delta in commit.counter_changes.items():
            deltas.add(origin.home, f"j#{join}", delta)
    else:
        deltas.count_branch(origin.home, step_of(commit.visit.step).regions, -1)
        for branch, home in zip(commit.branches, homes, strict=True):
            deltas.count_branch(home, step_of(branch.step).regions, 1)
    if commit.failed_branches:
        deltas.add(origin.home, "failed", commit.failed_branches)
    steps = [branch.step for branch in commit.branches]
    for join in arrival_joins(commit.branches):
        deltas.add_arrival(homes[steps.index(join)], join, commit.visit.id)
    return deltas


def _visit_attributes(
    commit: Commit, before: VisitItem, outcome: Item, moves: BranchWrites, now: float
) -> Item:
    """Return the attributes of the visit's item that a commit changes."""
    visit = commit.visit
    sets: Item = {**outcome, "awaits": list(commit.awaits) or None}
    if visit.finished_at is not None:
        sets |= encode_origin(visit, before.origin)
        sets |= {
            "at": now,
            "next": len(commit.branches) or None,
            "numbers": moves.numbers or None,
            "waited": commit.may_have_children or None,
            "counted": bool(moves.writes) or None,
            "last": commit.is_finally or None,
        }
    # An attribute that the item does not have need not be removed.
    return {name: value for name, value in sets.items() if value is not None or name in before.attributes}


def encode_events_item(events: Sequence[Event], blobs: Blobs, run_id: str) -> Item:
    """Return the item of events of a claim; `told` is its stored attribute name."""
    return {"told": blobs.store(run_id, [encode_event(event) for event in events])}


def check_payload(commit: Commit) -> None:
    """Check that the outputs of a commit can be written as JSON, and are not too large.

    Raises:
        NotJsonError: an output cannot be written as JSON.
        PayloadTooLargeError: the outputs exceed MAX_PAYLOAD_BYTES.
    """
    visit = commit.visit
    outputs = [
        dict(visit.saved) or None,
        visit.result,
        None if visit.progress is None else [visit.progress.round, dict(visit.progress.journal)],
        *(list(part.outcomes) for part in commit.batch_results),
    ]
    try:
        length = sum(len(encode_json(output)) for output in outputs if output is not None)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotJsonError(f"an output of the step cannot be written as JSON: {error}") from None
    if length > MAX_PAYLOAD_BYTES:
        raise PayloadTooLargeError(f"the outputs of the step exceed {MAX_PAYLOAD_BYTES:,} bytes of JSON")


def _stop_writes(commit: Commit, head: Item, blobs: Blobs) -> Iterable[Update]:
    """Yield the write that lets the run end with the status of the commit."""
    if commit.stop is not None:
        error = blobs.store(commit.visit.run_id, commit.error)
        keep = {"stop": commit.stop.value} | ({} if error is None else {"error": error})
        yield Update(keys.ItemKey(head["pk"], head["sk"]), keep=keep)


def _claim_is_lost(visit: Visit) -> FencedError:
    return FencedError(f"the claim of step `{visit.step}` is lost")
