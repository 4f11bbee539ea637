"""The requests for slots that go with the claim of a visit: those at limits whose templates read nothing.

Problem: a transaction of its own for the slots of a visit costs more than a small step. The first visit of a
run, and the further visits of a fork, are claimed by a process that has not read them before.

Algorithm: the names and numbers of such limits are those of the plan and the run. So a store that claims a
visit makes these requests itself, in the transaction of the claim. They do not wait. What a gate refuses is
requested again after the claim.

Cost: nothing for a plan without limits.

Limits: an owner whose keys, flows or priority are templates requests after its claim. So does one with rates
of which it needs more than one unit, or with a rate and another limit. A visit requests nothing for itself if
its playbook has limits too: its run comes first.
"""

from __future__ import annotations

from collections.abc import Sequence

from noetl.executor.model.flows import rank_of
from noetl.executor.model.gates import Slot, SlotOwner, SlotRequest
from noetl.executor.model.limit_requests import (
    FindNamed,
    Requester,
    find_early_limits,
    find_templates,
    make_requests,
)
from noetl.executor.model.run import Claim, Visit
from noetl.planner.frozen import frozen, replace
from noetl.planner.plan import Header, Step


@frozen
class ClaimRequests:
    """The requests of one owner with the claim of a visit: the visit itself, or its run."""

    owner: SlotOwner
    requests: tuple[SlotRequest, ...]

    def complete(self, claim: Claim, slots: Sequence[Slot]) -> Claim:
        """Return the claim with the slots that were taken, if they are all that its owner needs."""
        if len(slots) < len(self.requests):
            return claim
        if not self.owner.visit_id:
            return replace(claim, is_admitted=True)
        return replace(claim, slots=tuple(slots))


def find_claim_requests(
    run: Requester, header: Header, step: Step, claimed: Visit, find_named: FindNamed
) -> ClaimRequests | None:
    """Return what is requested with the first claim of a visit, or None if nothing is.

    `run` is its run. `header` and `step` are those of its plan.
    """
    if claimed.fence > 1 or step.is_finally_step:
        return None
    if header.concurrency or header.rate:
        owner, requester, priority = SlotOwner(claimed.run_id), run, header.priority
        limits = find_early_limits(header.concurrency, header.rate)
    else:
        owner = SlotOwner(claimed.run_id, claimed.id)
        requester = replace(run, step=step.name, width=1 if step.loop is None else step.loop.concurrency)
        priority = header.priority if step.priority is None else step.priority
        limits = find_early_limits(step.concurrency, step.rate, step.loop)
    if not limits or find_templates(limits, priority):
        return None
    assert not isinstance(priority, str)
    requester = replace(requester, rank=rank_of(claimed.started_at or 0.0, priority or 0.0))
    return ClaimRequests(owner, make_requests(requester, limits, find_named))
