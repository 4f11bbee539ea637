"""Commits: write the outcome of a claimed visit, or the end of a run.

Problem: a DynamoDB transaction has at most 100 items. An outcome may fork into thousands of branches. A
worker may die between any two requests.

Algorithm: write-ahead of the outcome, then idempotent followups: redo logging (Mohan et al. 1992). The
outcome is one atomic write under the condition of the fence. For a step of a chain it is the item of the
visit alone, else a transaction with the counters of the run. Everything that follows is a function of the
stored outcome; `followups.py` applies it.

Cost: one write for a step of a chain. A fork, an end or an arrival writes a transaction. So does a suspension
or a retry, which also counts the visit among those that wait.

Limits: if other commits change the same counters, the transaction is tried up to MAX_CONFLICTS times.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from noetl.executor.clients.aws_retry import ConditionFailed, pause_seconds
from noetl.executor.errors import FencedError, StoreError, UnknownRunError
from noetl.executor.model.gates import GateKey
from noetl.executor.model.limits import REJECT_UNSTORABLE_OUTPUTS, PayloadLimits
from noetl.executor.model.run import NEVER, Claim, Commit, Run, RunEnding, Visit
from noetl.executor.model.run_transition import finish_run, run_finished
from noetl.executor.model.stored_json import encode_payload
from noetl.executor.model.visit_transition import (
    claim_lost,
    discards_batch_results,
    finish_end,
    is_waiting,
)
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.blobs import Blobs
from noetl.executor.stores.dynamo.branch_writes import BranchWrites, build_branch_writes
from noetl.executor.stores.dynamo.caches import CachedClaim
from noetl.executor.stores.dynamo.carried_times import measure_commit
from noetl.executor.stores.dynamo.claimed_visits import read_origin
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import ConditionCheck, Put, Update, Write
from noetl.executor.stores.dynamo.outbox import write_with_entries
from noetl.executor.stores.dynamo.run_items import append_event, spread_of
from noetl.executor.stores.dynamo.sleeping_runs import can_sleep, sleep_update
from noetl.executor.stores.dynamo.slot_returns import QueuedSuspension, SlotReturns, has_slots
from noetl.executor.stores.dynamo.table import MAX_CONFLICTS
from noetl.executor.stores.dynamo.visit_items import (
    CommitTime,
    VisitItem,
    encode_events_item,
    encode_origin,
    encode_outcome,
    encode_progress,
    is_held,
)
from noetl.planner.frozen import frozen, replace


@frozen
class WrittenOutcome:
    """A visit whose outcome was written, and the head of its run as of the claim.

    In sequential mode, `begun` is the visit that the same transaction has created. At `freed` gates, others
    may wait for units that were given back.
    """

    item: VisitItem
    head: Item
    begun: VisitItem | None = None
    freed: tuple[GateKey, ...] = ()


class _CommittedSlots:
    """The slots that a commit gives back, or those for which it suspends its visit."""

    def __init__(self, context: DynamoContext, commit: Commit) -> None:
        visit = commit.visit
        owner = (context.table, visit.run_id, visit.id)
        self._returns = SlotReturns(*owner) if commit.gives_back else None
        # The finally step waits for its own slots only.
        run_owner = () if commit.is_finally else ("",)
        self._suspension = QueuedSuspension(*owner, *run_owner) if commit.is_queued else None

    def place(self, visit: Visit, now: float) -> Visit:
        """Return the visit, due at once if it is suspended for slots of which none waits any more."""
        is_over = self._suspension is not None and not self._suspension.is_queued
        return replace(visit, due_at=min(visit.due_at, now)) if is_over else visit

    def writes(self, now: float) -> list[Write]:
        """Return the writes of the slots and their gates."""
        returned = [] if self._returns is None else self._returns.writes(now)
        return returned if self._suspension is None else [*returned, *self._suspension.writes()]

    @property
    def freed(self) -> tuple[GateKey, ...]:
        """The gates at which others may wait for units that the last writes give back."""
        return () if self._returns is None else self._returns.freed

    def learn(self, writes: Sequence[Write], refusal: ConditionFailed) -> None:
        """Read the slots again after a refusal."""
        if self._returns is not None:
            self._returns.learn(writes, refusal)
        if self._suspension is not None:
            self._suspension.read_again()


class Commits:
    """The writes of outcomes and of ends of runs. What follows from them is not applied here."""

    def __init__(self, context: DynamoContext, limits: PayloadLimits) -> None:
        self._context = context
        self._limits = limits

    def commit(self, commit: Commit, now: float) -> WrittenOutcome:
        """Write the outcome of a visit, and return what was written.

        Raises:
            FencedError: the claim is lost.
            NotJsonError, PayloadTooLargeError: the outputs cannot be stored. Nothing was written.
        """
        visit = commit.visit
        self._check_outputs(commit)
        claim = self._context.claims.get(visit) or self._read_claim(visit)
        is_finished = visit.finished_at is not None
        outcome = encode_outcome(visit, commit.events if is_finished else (), self._context.blobs)
        outcome["queued"] = commit.is_queued or None
        committed = self._write(commit, claim, outcome, now)
        self._context.claims.remove(visit)
        self._delete_loop_parts(visit, claim)
        return committed

    def finish(self, claim: Claim, ending: RunEnding, now: float) -> tuple[Item, tuple[GateKey, ...]]:
        """Write the end of a run, the answer to its parent, and its entries of the outbox.

        Return the head as it was before, and the gates at which others may wait for the slots of the run.

        Raises:
            FencedError: the claim is lost.
            PayloadTooLargeError: the result cannot be stored. Nothing was written.
        """
        self._limits.measure_result(ending.result, list(ending.errors))
        self._limits.check_result(encode_payload(ending.result), encode_payload(list(ending.errors)))
        head = self._read_head(claim.visit)
        self._context.plan_uses.require_after_end(head["plan"])
        run = finish_run(claim.run, ending, now)
        writes: list[Write] = [
            self._finish_visit(head, claim.visit, now),
            self._finish_head(head, run, now),
        ]
        if run.parent is not None:
            parent = run.parent
            spread = self._context.heads.spread(parent.run_id)
            key = keys.wait(parent.run_id, parent.visit_id, parent.id, spread)
            writes.append(Update(key, {"answer": b"null", "answered": now}))
        try:
            freed = self._write_end(head, claim.visit, writes, ending, now)
        except ConditionFailed:
            raise FencedError(f"the claim of the end of run {run.id} is lost") from None
        self._context.claims.remove(claim.visit)
        self._context.heads.remember(head | {"finished": now})
        return head, freed

    def _write_end(
        self, head: Item, visit: Visit, writes: Sequence[Write], ending: RunEnding, now: float
    ) -> tuple[GateKey, ...]:
        """Write the end of a run with its entries of the outbox, and give back all slots of the run.

        Return the gates at which others may wait for them.

        Raises:
            ConditionFailed: the claim is lost.
        """
        table = self._context.table
        if not has_slots(head):
            write_with_entries(table, writes, ending.outbox)
            return ()
        returns = SlotReturns(table, visit.run_id)
        is_claimed = ConditionCheck(keys.visit(visit.run_id, visit.id, spread_of(head)), is_held(visit.fence))
        freed = set[GateKey]()
        for tries in range(MAX_CONFLICTS):
            freed |= returns.give_back_early(is_claimed, now)
            all_writes = [*writes, *returns.writes(now)]
            try:
                write_with_entries(table, all_writes, ending.outbox)
            except ConditionFailed as refusal:
                if any(refusal.failed[: len(writes)]):
                    raise
                returns.learn(all_writes, refusal)
                time.sleep(pause_seconds(min(tries, 4)))
            else:
                return tuple(sorted(freed | {*returns.freed}))
        raise StoreError(f"Run {visit.run_id} could not be ended: too many concurrent writers.")

    def _finish_visit(self, head: Item, visit: Visit, now: float) -> Update:
        """Return the write that finishes the visit that ends a run, if its claim is held."""
        outcome = encode_outcome(finish_end(visit, now), (), self._context.blobs)
        sets = {name: value for name, value in outcome.items() if value is not None} | {"at": now}
        key = keys.visit(visit.run_id, visit.id, spread_of(head))
        return Update(key, sets, when=is_held(visit.fence))

    def _finish_head(self, head: Item, run: Run, now: float) -> Update:
        """Return the write that gives a run its final status, unless it has ended."""
        blobs = self._context.blobs
        error = blobs.store(run.id, run.error)
        sets = {
            "status": run.status.value,
            "result": blobs.store(run.id, run.result) if run.result != {} else b"{}",
            "errors": blobs.store(run.id, list(run.errors)) if run.errors else None,
            "finished": now,
            "open": None,
            "wakes": None,
            "told": append_event(head, run_finished(run), blobs),
        }
        keep = {} if error is None else {"error": error}
        return Update(keys.head(run.id), sets, keep=keep, when=(("finished", "absent", None),))

    def _check_outputs(self, commit: Commit) -> None:
        """Check that the outputs of a commit can be written as JSON, and are not too large."""
        visit = commit.visit
        outputs = [
            dict(visit.saved) or None,
            visit.result,
            list(visit.failures) or None,
            None if visit.progress is None else encode_progress(visit.progress),
            *(list(part.outcomes) for part in commit.batch_results),
        ]
        with REJECT_UNSTORABLE_OUTPUTS:
            self._limits.measure_outputs(outputs)
            texts = [encode_payload(output) for output in outputs if output is not None]
        self._limits.check_outputs(texts)

    def _read_head(self, visit: Visit) -> Item:
        """Return the head of the run of a claimed visit.

        Raises:
            FencedError: the run was deleted, so the claim was lost before.
        """
        try:
            return self._context.heads.read(visit.run_id)
        except UnknownRunError as problem:
            raise claim_lost(visit) from problem

    def _read_claim(self, visit: Visit) -> CachedClaim:
        """Read what is needed to commit a claim that another process has made."""
        head = self._read_head(visit)
        item = self._context.table.get(keys.visit(visit.run_id, visit.id, spread_of(head)))
        if item is None or item.get("fence") != visit.fence:
            raise claim_lost(visit)
        return CachedClaim(VisitItem(visit, read_origin(self._context, head, item), item), head)

    def _write(self, commit: Commit, claim: CachedClaim, outcome: Item, now: float) -> WrittenOutcome:
        """Write an outcome with everything that must be atomic with it, and return what was written."""
        visit, before = commit.visit, claim.item
        spread = spread_of(claim.head)
        key = keys.visit(visit.run_id, visit.id, spread)
        fixed: list[Write] = [
            *self._loop_part_writes(commit, spread),
            *self._event_writes(commit, spread),
            *_stop_writes(commit, claim.head, self._context.blobs),
        ]
        slots = _CommittedSlots(self._context, commit)
        absorbed: set[str] = set()
        may_sleep = True
        time_of_commit = CommitTime(now, measure_commit(self._context, commit, claim, now))
        outcome |= {"spent": list(time_of_commit.spent) or None}
        for tries in range(MAX_CONFLICTS):
            visit = slots.place(commit.visit, now)
            pause, waits = self._pause_writes(commit, claim, visit.due_at, now)
            sleep = list(self._sleep_writes(commit, claim, visit.due_at, now)) if may_sleep else []
            moves = build_branch_writes(self._context, commit, claim, absorbed, time_of_commit)
            sets = _visit_attributes(commit, claim, outcome | pause, moves, now)
            writes: list[Write] = [
                Update(key, sets, when=is_held(visit.fence)),
                *fixed,
                *waits,
                *sleep,
                *moves.writes,
                *slots.writes(now),
            ]
            try:
                self._context.table.write(writes)
            except ConditionFailed as refusal:
                if refusal.failed[0]:
                    raise claim_lost(visit) from None
                # A visit that exists was created by another branch, so this branch ends there.
                refused = {write.key for write, failed in zip(writes, refusal.failed, strict=True) if failed}
                # A run that stops is not put to sleep.
                may_sleep = may_sleep and not any(write.key in refused for write in sleep)
                absorbed |= {id for id, created in moves.created.items() if created in refused}
                slots.learn(writes, refusal)
                if tries:
                    time.sleep(pause_seconds(min(tries, 4)))
                continue
            item = {name: value for name, value in {**before.attributes, **sets}.items() if value is not None}
            written = VisitItem(visit, before.origin, item | key._asdict())
            return WrittenOutcome(written, claim.head, moves.begun, slots.freed)
        raise StoreError(f"A step of run {visit.run_id} could not be committed: too many concurrent writers.")

    def _pause_writes(
        self, commit: Commit, claim: CachedClaim, due_at: float, now: float
    ) -> tuple[Item, list[Write]]:
        """Return the attributes of a visit that waits until a time, and the write that counts it."""
        visit = commit.visit
        if not is_waiting(visit):
            return {}, []
        home, names = claim.item.origin.home, ["ending" if commit.is_finally else "paused"]
        is_long = self._context.announcer.is_long_wait(claim.head["queue"], due_at, now)
        names += ["long"] if is_long or due_at == NEVER else []
        pause = {"due": due_at, "paused": [home, *names]}
        pause |= {"wakes": keys.due_shard(visit.run_id)} if is_long else {}
        return pause, [Update(keys.counter(visit.run_id, home), add=dict.fromkeys(names, 1))]

    def _sleep_writes(
        self, commit: Commit, claim: CachedClaim, due_at: float, now: float
    ) -> Iterable[Update]:
        """Yield the write that puts a run to sleep, if its only branch waits longer than a message can.

        An answer may arrive soon, so a run that waits only for an answer is left to the sweep.
        """
        visit, head = commit.visit, claim.head
        is_only_branch = not (claim.item.origin.has_forked or commit.is_finally)
        is_long = self._context.announcer.is_long_wait(head["queue"], due_at, now)
        if is_only_branch and is_long and is_waiting(visit) and can_sleep(self._context, head):
            self._context.plan_uses.require(head["plan"])
            yield sleep_update(head)

    def _loop_part_writes(self, commit: Commit, spread: int) -> Iterable[Put]:
        visit = commit.visit
        if visit.progress is None:
            return
        for part in commit.batch_results:
            key = keys.loop_part(visit.run_id, visit.id, part.loop, part.first, spread)
            yield Put(
                key, {"body": self._context.blobs.store(visit.run_id, list(part.outcomes)) or b"[]"}, when=()
            )

    def _delete_loop_parts(self, visit: Visit, claim: CachedClaim) -> None:
        """Delete batch results of loops when the visit is done or starts another round."""
        if not discards_batch_results(visit):
            return
        pk = keys.visit(visit.run_id, visit.id, spread_of(claim.head)).pk
        items = self._context.table.query(pk, f"P#{visit.id}#")
        self._context.table.delete([keys.ItemKey(item["pk"], item["sk"]) for item in items])

    def _event_writes(self, commit: Commit, spread: int) -> Iterable[Put]:
        """Yield the write of the events of a claim that ends in a retry or a suspension."""
        visit = commit.visit
        if visit.finished_at is None and commit.events:
            key = keys.claim_events(visit.run_id, visit.id, visit.fence, spread)
            yield Put(key, encode_events_item(commit.events, self._context.blobs, visit.run_id), when=())


def _visit_attributes(
    commit: Commit, claim: CachedClaim, outcome: Item, moves: BranchWrites, now: float
) -> Item:
    """Return the attributes of the visit's item that a commit changes."""
    visit, before, era = commit.visit, claim.item, claim.head.get("era")
    sets: Item = {**outcome, "awaits": list(commit.awaits) or None}
    if visit.finished_at is not None:
        sets |= encode_origin(visit, before.origin)
        sets |= {
            "at": now,
            "next": moves.followers or None,
            "numbers": list(moves.numbers) or None,
            "waited": commit.may_have_children or None,
            "begins": None if moves.begun is None else moves.begun.visit.id,
            "counted": moves.changes_counters or None,
            "last": commit.is_finally or None,
            "era": era,
        }
    # An attribute that the item does not have need not be removed.
    return {name: value for name, value in sets.items() if value is not None or name in before.attributes}


def _stop_writes(commit: Commit, head: Item, blobs: Blobs) -> Iterable[Update]:
    """Yield the write that lets the run end with the status of the commit."""
    if commit.stop is not None:
        error = blobs.store(commit.visit.run_id, commit.error)
        keep = {"stop": commit.stop.value} | ({} if error is None else {"error": error})
        yield Update(keys.ItemKey(head["pk"], head["sk"]), keep=keep)
