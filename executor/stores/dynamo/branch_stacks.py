"""Turns of branches in sequential mode: the stack of a run, and the visit that begins.

Problem: a worker may die between the outcome of a visit and the begin of the next one. Two processes may also
choose the next one at the same time.

Algorithm: optimistic concurrency control (Kung and Robinson 1981). The counter of the run holds the stack as
one value. A pure function of the stack and the finished visit returns the next stack and the visit that
begins. One transaction writes the outcome, the stack and that visit, under the condition that the version of
the counter is the one that was read. So nothing remains to be done afterwards.

Cost: one read and one transaction of three items for each visit.

Limits: a run in sequential mode has one partition. Its stack grows with the depth of its forks.

The attribute `stack` of the counter is a blob. A counter without it is that of a run with its first visit.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.errors import PayloadLostError
from noetl.executor.model.branch_stack import (
    BranchStack,
    Turn,
    find_last_begun,
    finish_turn,
    first_stack,
    next_turn,
    resume_visit,
)
from noetl.executor.model.events import Event
from noetl.executor.model.run import Branch, Commit, Visit
from noetl.executor.model.visit_transition import enter_step, is_waiting, mark_skipped
from noetl.executor.stores.damage import decoding
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Condition, Put, Update, Write
from noetl.executor.stores.dynamo.run_items import derive_first_visit, era_of, run_id_of, spread_of
from noetl.executor.stores.dynamo.run_snapshot import RunSnapshot
from noetl.executor.stores.dynamo.visit_items import (
    CommitTime,
    VisitItem,
    VisitOrigin,
    counted_pause,
    decode_visit,
    encode_events_item,
    encode_origin,
    encode_outcome,
    encode_unclaimed,
    is_unchanged,
)
from noetl.planner.frozen import frozen, replace


@frozen
class StoredStack:
    """The stack of a run as it was read, and the version of the counter that holds it."""

    stack: BranchStack
    version: int | None

    @property
    def is_unchanged(self) -> Condition:
        """The condition that no other write has changed the counter."""
        return ("version", "absent", None) if self.version is None else ("version", "=", self.version)


@frozen
class TurnWrites:
    """The writes of a turn, and the visit that begins or continues, or None if no branch is left."""

    writes: Sequence[Write]
    begun: VisitItem | None


@decoding()
def decode_stack(context: DynamoContext, head: Item, counter: Item) -> StoredStack:
    """Return the stack of a run in sequential mode, which its counter holds.

    Raises:
        PayloadLostError: it was deleted, so no branch of the run can continue.
    """
    try:
        data = context.blobs.load(counter.get("stack"))
    except PayloadLostError as problem:
        raise PayloadLostError(f"the stack of the branches of the run is lost: {problem}") from problem
    if data is None:
        stack = first_stack(context.step_of(head)(head["first"][1]))
    else:
        stack = BranchStack.from_json(data)
    return StoredStack(stack, counter.get("version"))


def encode_stack(context: DynamoContext, head: Item, stored: StoredStack, stack: BranchStack) -> Update:
    """Return the write that replaces the stack of a run, and counts its branches."""
    run_id = run_id_of(head)
    sets = {"stack": context.blobs.store(run_id, stack.to_json())}
    change = stack.branches - stored.stack.branches
    added = {"version": 1} | ({"live": change} if change else {})
    return Update(keys.counter(run_id, 0), sets, added, when=(stored.is_unchanged,))


def build_finish_writes(
    context: DynamoContext, head: Item, commit: Commit, commit_time: CommitTime
) -> TurnWrites:
    """Return the writes of the turn that follows a finished visit."""
    counter = context.table.get(keys.counter(run_id_of(head), 0))
    stored = decode_stack(context, head, counter or {})
    turn = finish_turn(stored.stack, commit.visit, context.step_of(head))
    update = encode_stack(context, head, stored, turn.stack)
    if commit.failed_branches:
        update = replace(update, add={**update.add, "failed": commit.failed_branches})
    return _turn_writes(context, head, turn, update, commit_time)


def begin_next_visit(context: DynamoContext, snapshot: RunSnapshot, now: float) -> VisitItem | None:
    """Let the branch on top of the stack of a run without an active visit continue.

    Return its visit, or None if no branch is left.

    Raises:
        ConditionFailed: another process has changed the stack since the snapshot.
    """
    head = snapshot.head
    stored = decode_stack(context, head, snapshot.counter)
    begun = [item.visit for item in snapshot.items if context.is_branch_visit(item.visit, head)]
    turn = next_turn(stored.stack, find_last_begun(begun), context.step_of(head))
    update = encode_stack(context, head, stored, turn.stack)
    turn_writes = _turn_writes(context, head, turn, update, CommitTime(now))
    context.table.write(turn_writes.writes)
    return turn_writes.begun


def end_counted_wait(item: VisitItem, visit: Visit) -> tuple[int, dict[str, int]]:
    """Return what a counter must add if a visit continues as `visit`, and the partition of the counter.

    It was counted among the visits that wait. If it still waits, nothing changes.
    """
    pause = None if is_waiting(visit) else counted_pause(item.attributes)
    return (0, {}) if pause is None else pause


def build_reopen_writes(
    context: DynamoContext, head: Item, item: VisitItem, visit: Visit
) -> tuple[Sequence[Write], VisitItem]:
    """Return the writes by which a visit continues as `visit`, and the visit after them.

    The events of its outcome move to an item of their own. The caller writes what `end_counted_wait`
    returns, too.
    """
    blobs, spread = context.blobs, spread_of(head)
    sets = {
        name: value
        for name, value in (encode_outcome(visit, (), blobs) | encode_origin(visit, item.origin)).items()
        if value is not None or name in item.attributes
    }
    outcome_only: tuple[str, ...] = ("at", "next", "numbers", "begins", "waited", "counted")
    outcome_only += () if is_waiting(visit) else ("paused",)
    sets |= {name: None for name in outcome_only if name in item.attributes}
    if is_waiting(visit) and context.announcer.is_indexed(head["queue"], visit.due_at):
        # Its counter may count it as one that waits long, although it is due soon.
        sets["wakes"] = keys.due_shard(visit.run_id)
    elif "wakes" in item.attributes:
        sets["wakes"] = None
    if item.origin.spent or "spent" in item.attributes:
        sets["spent"] = item.attributes.get("spent", list(item.origin.spent))
    writes: list[Write] = [
        Update(keys.visit(visit.run_id, visit.id, spread), sets, when=is_unchanged(item.visit))
    ]
    events = (blobs.load_if_kept(item.attributes.get("told")) or {}).get("h")
    if events:
        events_key = keys.claim_events(visit.run_id, visit.id, item.visit.fence, spread)
        events_item = encode_events_item([Event(*event) for event in events], blobs, visit.run_id)
        writes.append(Put(events_key, events_item, when=()))
    attributes = {**item.attributes, **sets}
    kept = {name: value for name, value in attributes.items() if value is not None}
    return writes, VisitItem(visit, item.origin, kept)


def _turn_writes(
    context: DynamoContext, head: Item, turn: Turn, update: Update, commit_time: CommitTime
) -> TurnWrites:
    """Return the write of the stack with those of the visit that begins or continues."""
    branch, run_id, spread, now = turn.branch, run_id_of(head), spread_of(head), commit_time.now
    if branch is None:
        return TurnWrites([update], None)
    if turn.is_resumed:
        resumed = _read_resumed(context, head, branch)
        skip = (context.blobs.load(head.get("skips")) or {}).get(branch.id)
        before = resumed.visit if skip is None else mark_skipped(resumed.visit, skip, head["resumes"])
        again = resume_visit(before, branch, now)
        # What it carries is of an earlier time. It is not in the queue until it has begun.
        measured = list(commit_time.spent[:4]) or None
        resumed = replace(resumed, attributes={**resumed.attributes, "spent": measured})
        _, counted = end_counted_wait(resumed, again)
        update = replace(update, add={**update.add, **counted})
        writes, begun = build_reopen_writes(context, head, resumed, again)
        return TurnWrites([update, *writes], begun)
    visit = enter_step(branch, run_id, now, turn.number, is_stopping="stop" in head)
    spent = commit_time.spent_before_next
    origin = VisitOrigin(entered_at=now, has_forked=True, parent_clock=branch.clock, spent=spent)
    key, item = keys.visit(run_id, visit.id, spread), encode_unclaimed(visit, origin)
    return TurnWrites(
        [update, Put(key, item)], VisitItem(visit, origin, {**item, "pk": key.pk, "sk": key.sk})
    )


def _read_resumed(context: DynamoContext, head: Item, branch: Branch) -> VisitItem:
    """Return a failed or parked visit that continues."""
    run_id = run_id_of(head)
    item = context.table.get(keys.visit(run_id, branch.id, spread_of(head)))
    # The first visit of a run has no origin in its item before it is finished, or the run changes its plan.
    first = None if era_of(head) else derive_first_visit(head, context.step_of(head))
    visit = decode_visit(run_id, item, context.blobs, first) if item is not None else None
    assert visit is not None
    return visit
