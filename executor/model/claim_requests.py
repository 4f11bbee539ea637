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

from collections.abc import Callable, Sequence
from operator import attrgetter

from noetl.executor.model.flows import flow_name
from noetl.executor.model.gates import GateKey, Slot, SlotOwner, SlotRequest, own_gate, own_rate_gate
from noetl.executor.model.run import Claim, Visit
from noetl.planner.frozen import frozen, replace
from noetl.planner.limits import Limit
from noetl.planner.plan import Header, Step

_gate_of = attrgetter("gate")

FindNamed = Callable[[str, str], GateKey]
"""A function that returns the gate of an operator's limit, by the tenant of a run and the name."""


@frozen
class LimitPlace:
    """The run or the step of a run that has limits. `step` is None for the run.

    `width` is how many places it requests, and `rank` its place in queues.
    """

    tenant: str
    playbook: str
    step: str | None = None
    width: int = 1
    rank: float = 0.0


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
    place: LimitPlace, header: Header, step: Step, claimed: Visit, find_named: FindNamed
) -> ClaimRequests | None:
    """Return what is requested with the first claim of a visit, or None if nothing is.

    `place` names the run. `header` and `step` are those of its plan.
    """
    if claimed.fence > 1 or step.is_finally_step:
        return None
    if header.concurrency or header.rate:
        limits = find_fixed_limits(header.concurrency, header.rate, header.priority)
        owner = SlotOwner(claimed.run_id)
    else:
        priority = header.priority if step.priority is None else step.priority
        limits = find_fixed_limits(step.concurrency, step.rate, priority)
        if step.loop is not None:
            place = replace(place, width=step.loop.concurrency)
            limits = () if step.rate else limits
        owner, place = SlotOwner(claimed.run_id, claimed.id), replace(place, step=step.name)
    return ClaimRequests(owner, fixed_requests(place, limits, find_named)) if limits else None


def find_fixed_limits(
    concurrency: Sequence[Limit], rate: Sequence[Limit], priority: float | str | None
) -> Sequence[Limit]:
    """Return the limits of a step or a playbook, or none if a template or several rates decide.

    Several rates agree on one time, and they are requested after the limits.
    """
    limits = (*concurrency, *rate)
    if len(limits) > 1 and rate:
        return ()
    reads = any(limit.key or limit.fair for limit in limits) or isinstance(priority, str)
    return () if reads else limits


def fixed_requests(
    place: LimitPlace, limits: Sequence[Limit], find_named: FindNamed
) -> tuple[SlotRequest, ...]:
    """Return the requests at limits that read nothing, in the order of their gates. They do not wait."""
    requests = list[SlotRequest]()
    for position, limit in enumerate(limits):
        if limit.use is None:
            make_key = own_rate_gate if limit.is_rate else own_gate
            gate = make_key(place.tenant, place.playbook, place.step, position, None)
            name = place.playbook if place.step is None else f"{place.playbook}.{place.step}"
        else:
            gate, name = find_named(place.tenant, limit.use), limit.use
        request = SlotRequest(
            gate,
            name,
            limit.units,
            1 if limit.is_rate else place.width,
            queues=False,
            rank=place.rank,
            is_rate=limit.is_rate,
            per=limit.per_seconds,
            flow=name_flow(place.tenant, gate, place.playbook),
        )
        requests.append(request)
    return tuple(sorted(requests, key=_gate_of))


def name_flow(tenant: str, gate: GateKey, fair: str) -> str:
    """Return the name of the flow of a run of a tenant, or of its visits, at a gate.

    At a limit that all tenants share, each tenant is one flow. Otherwise one with many flows would have more
    turns than the others.
    """
    return flow_name(fair if gate.tenant == tenant else tenant)
