"""Branches that wait at joins, as the visits before them have sent them, or as another plan has them.

Problem: an arrival is stored as the visit that has sent it. What it has follows from this visit and the plan.
If the run changes its plan, nothing follows from that visit any more.

Algorithm: a change of the plan stores what each of these branches has, in one value of the item of the join.
The counter then names the branch, with the prefix CARRIED, instead of the visit.

Cost: one value for each join where branches wait when the run changes its plan.

The attribute `came` of a join is a blob: clock, pointers and sender of each carried branch, by its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from noetl.executor.model.run import Branch
from noetl.executor.model.transition import branches_after
from noetl.executor.stores.dynamo.attributes import Item
from noetl.executor.stores.dynamo.context import DynamoContext
from noetl.executor.stores.dynamo.visit_items import StepOf, VisitItem
from noetl.planner.frozen import frozen

CARRIED = "@"
"""Prefix of an entry of a counter that names a branch, and not the visit that has sent it."""


@frozen
class Arrival:
    """A branch that waits at a join, and the id of the visit that has sent it.

    `counts` are the visits of steps on cycles that the branch carries.
    """

    branch: Branch
    sender: str
    counts: Mapping[str, int] = field(default_factory=dict)


def is_carried(entry: str) -> bool:
    """Return whether an entry of a counter names a branch that another plan has carried."""
    return entry.startswith(CARRIED)


def find_arrival(sender: VisitItem, join: str, step_of: StepOf) -> Arrival:
    """Return the branch that a visit has sent to a join."""
    branches = branches_after(sender.visit, step_of(sender.visit.step), step_of)
    branch = next(branch for branch in branches if branch.is_arrival and branch.step == join)
    return Arrival(branch, sender.visit.id, sender.origin.counts)


def encode_carried(context: DynamoContext, run_id: str, arrivals: Sequence[Arrival]) -> bytes | None:
    """Return the attribute `came` of a join where branches wait."""
    carried = {
        arrival.branch.id: [arrival.branch.clock, dict(arrival.branch.names), arrival.sender]
        for arrival in arrivals
    }
    return context.blobs.store(run_id, carried)


def decode_carried(
    context: DynamoContext, join: str, stored: Item, *, is_counted: bool
) -> dict[str, Arrival]:
    """Return the branches that the item of a join holds, by the entries that name them."""
    return {
        f"{CARRIED}{id}": Arrival(
            Branch(
                id,
                join,
                clock,
                {name: (pointer[0], pointer[1]) for name, pointer in names.items()},
                is_arrival=True,
                is_counted=is_counted,
            ),
            sender,
        )
        for id, (clock, names, sender) in (context.blobs.load(stored.get("came")) or {}).items()
    }
