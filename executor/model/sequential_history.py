"""The history of a run in sequential mode, performed once more in another plan.

Problem: in sequential mode, the stack of branches is a part of the state of a run. Another plan may perform
the same branches in another order, or let a join fire earlier.

Algorithm: compliance by replay (Rinderle, Reichert and Dadam 2004). The visits are put through the stack of
the other plan, one after the other. The plan has the state if each turn begins the visit that the run has
made. Then the stack of the replay is the one that a run of this plan would have.

Cost: linear in the visits, times the depth of the forks.

Limits: a run that was resumed or restarted may have its visits in another order, or under other ids. Then
there is no answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from noetl.executor.model.branch_stack import BranchStack, finish_turn, first_stack, is_turn_over
from noetl.executor.model.run import Pointers, Visit
from noetl.executor.model.special_visits import is_branch_visit
from noetl.executor.model.transition import names_after
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Plan


@frozen
class SequentialPlace:
    """The stack of a run whose last visit `visit_id` is being performed, and the names that it has."""

    visit_id: str
    stack: BranchStack
    names: Pointers


def find_place(visits: Iterable[Visit], plan: Plan) -> SequentialPlace | None:
    """Return the place of a run of a plan that has made these visits; None if no run of it makes them so."""
    steps, finally_step = plan.steps, plan.header.finally_step
    made = sorted(
        (visit for visit in visits if is_branch_visit(visit, finally_step)),
        key=lambda visit: (visit.clock, visit.id),
    )
    start = steps[plan.header.start]
    if not made or made[0].step != start.name:
        return None
    stack, names = first_stack(start), dict[str, tuple[int, str]]()
    for visit, following in pairwise(made):
        complete = replace(visit, names=names)
        if not is_turn_over(visit) or not _has_case(complete, plan):
            return None
        turn = finish_turn(stack, complete, steps.__getitem__)
        if turn.branch is None or (turn.branch.step, turn.branch.id) != (following.step, following.id):
            return None
        stack, names = turn.stack, dict(names_after(complete))
    return SequentialPlace(made[-1].id, stack, names)


def _has_case(visit: Visit, plan: Plan) -> bool:
    """Return whether a plan has the case that a visit has taken, with known targets."""
    if visit.step not in plan.steps:
        return False
    cases = plan.steps[visit.step].cases
    return visit.case is None or visit.has_ended_branch or visit.case < len(cases)
