"""The writes by which the branches of a commit move: counters, numbers, and visits at a `join: any`.

Visits that follow in a chain have no item before they are claimed. Several branches may lead to one visit at
a `join: any`, so the first of them creates its item, and the others end there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import field

from noetl.executor.model.branch_stack import is_turn_over
from noetl.executor.model.run import Branch, Commit
from noetl.executor.model.visit_transition import enter_step
from noetl.executor.stores.dynamo import keys
from noetl.executor.stores.dynamo.branch_stacks import build_finish_writes
from noetl.executor.stores.dynamo.caches import CachedClaim
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.expressions import Put, Update, Write
from noetl.executor.stores.dynamo.run_items import CounterDeltas, arrival_joins, spread_of
from noetl.executor.stores.dynamo.visit_items import (
    CommitTime,
    StepOf,
    VisitItem,
    VisitOrigin,
    encode_unclaimed,
    home_of_branch,
    number_visit,
)
from noetl.executor.stores.dynamo.visit_numbers import VisitNumbers
from noetl.planner.frozen import frozen


@frozen
class BranchWrites:
    """The writes by which the branches of a commit move.

    `created` are the keys of visits that another branch may have created, by id. `numbers` are the numbers
    of the following visits in a run that has forked. `followers` is the number of the branches that follow,
    and `changes_counters` is true if joins may fire, or the run may end. In sequential mode, `begun` is the
    visit whose turn it is.
    """

    writes: Sequence[Write]
    created: Mapping[str, keys.ItemKey] = field(default_factory=dict)
    numbers: Sequence[int] = ()
    followers: int = 0
    changes_counters: bool = False
    begun: VisitItem | None = None


def build_branch_writes(
    context: DynamoContext,
    commit: Commit,
    claim: CachedClaim,
    absorbed: AbstractSet[str],
    commit_time: CommitTime,
) -> BranchWrites:
    """Return the writes that move the branches; the branches in `absorbed` find their visit created.

    It reads the numbers that visits of steps on cycles have in a run that has forked.
    """
    if context.is_sequential(claim.head):
        return _build_turn_writes(context, commit, claim, commit_time)
    origin, run_id, branches = claim.item.origin, commit.visit.run_id, commit.branches
    width, spread = len(branches), spread_of(claim.head)
    homes = [home_of_branch(origin.home, index, width, spread) for index in range(width)]
    has_forked = origin.has_forked or width > 1
    entering = [not branch.is_arrival and branch.id not in absorbed for branch in branches]
    numbers = VisitNumbers(context.table, run_id)
    taken = [
        numbers.take(branch, origin, commit.visit.id)
        if branch.is_counted and is_entering and has_forked
        else 0
        for branch, is_entering in zip(branches, entering, strict=True)
    ]
    puts: dict[str, Put] = {}
    for index, branch in enumerate(branches):
        if branch.is_absorbed and entering[index]:
            number, counts = number_visit(branch, origin, taken[index])
            visit = enter_step(branch, run_id, commit_time.now, number)
            visit_origin = VisitOrigin(
                cause=commit.visit.id,
                entered_at=commit_time.now,
                index=index,
                home=homes[index],
                counts=counts,
                has_forked=has_forked,
                parent_clock=commit.visit.clock,
                spent=commit_time.spent_before_next if width == 1 else (),
            )
            puts[branch.id] = Put(
                keys.visit(run_id, branch.id, spread), encode_unclaimed(visit, visit_origin)
            )
    ended = [
        (branch, home)
        for branch, home, is_entering in zip(branches, homes, entering, strict=True)
        if branch.is_absorbed and not is_entering
    ]
    counters = _counter_writes(context, commit, claim, homes, ended)
    created = {id: put.key for id, put in puts.items()}
    writes = [*puts.values(), *numbers.writes(), *counters]
    return BranchWrites(writes, created, taken if any(taken) else [], width, bool(writes))


def _build_turn_writes(
    context: DynamoContext, commit: Commit, claim: CachedClaim, commit_time: CommitTime
) -> BranchWrites:
    """Return the writes of a commit in sequential mode. Only a finished visit passes the turn on."""
    if commit.is_finally or not is_turn_over(commit.visit):
        return BranchWrites([])
    turn = build_finish_writes(context, claim.head, commit, commit_time)
    return BranchWrites(turn.writes, changes_counters=turn.begun is None, begun=turn.begun)


def _counter_writes(
    context: DynamoContext,
    commit: Commit,
    claim: CachedClaim,
    homes: Sequence[int],
    ended: Sequence[tuple[Branch, int]],
) -> list[Write]:
    """Return the writes of the counters; `ended` are branches that end at a visit, with their partitions."""
    step_of = context.step_of(claim.head)
    deltas = _counter_deltas(commit, claim.item.origin, homes, step_of)
    for branch, home in ended:
        regions = step_of(branch.step).regions
        deltas.count_branch(home, regions, -1)
        deltas.leave(home, regions, commit.left_clock)
    writes: list[Write] = []
    for home in deltas.homes():
        added, arrived = deltas.changes_of(home)
        key = keys.counter(commit.visit.run_id, home)
        writes.append(Update(key, {}, {**added, "version": 1}, append=arrived))
    return writes


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
    steps, joining = [branch.step for branch in commit.branches], arrival_joins(commit.branches)
    left = [join for join, delta in commit.counter_changes.items() if delta < 0 and join not in joining]
    deltas.leave(origin.home, left, commit.left_clock)
    for join in joining:
        deltas.add_arrival(homes[steps.index(join)], join, commit.visit.id)
    return deltas
