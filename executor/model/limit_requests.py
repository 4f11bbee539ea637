"""The requests for slots at the limits of a plan: their gates, units and places in queues.

Problem: a store that claims a visit makes its requests itself, and stores evaluate no templates. Other
requests are made from the names that a visit can read. Both must name the same gates.

Algorithm: `make_requests` makes every request. Its caller passes a function that evaluates keys. Limits for
which `find_templates` finds none need no such function.

Cost: constant for each limit, without the evaluation of its templates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

from noetl.executor.model.flows import flow_name
from noetl.executor.model.gates import GateKey, SlotRequest, own_gate, own_rate_gate
from noetl.planner.diagnostics.terminal_text import to_printable
from noetl.planner.frozen import frozen
from noetl.planner.limits import Limit
from noetl.planner.plan import Loop

_gate_of = attrgetter("gate")

FindNamed = Callable[[str, str], GateKey]
"""A function that returns the gate of an operator's limit, by the tenant of a run and the name."""


class KeyText(NamedTuple):
    """The value of a key as text, and the same without secrets."""

    value: str
    shown: str


KeyReader = Callable[[str, str], KeyText]
"""A function that evaluates a key, by the name of its place, such as `rate[0].key`, and its template."""


@frozen
class Requester:
    """The run or the visit that requests slots. `step` is that of the visit, or None for a run.

    It requests `width` units of each limit and `rate_units` of each rate, or nothing if that is 0. `rank` is
    its place in queues. It takes only what is free, unless it `waits`. If it `has_begun` its work, no full
    limit leaves it out.
    """

    tenant: str
    playbook: str
    step: str | None = None
    width: int = 1
    rate_units: int = 1
    rank: float = 0.0
    waits: bool = False
    has_begun: bool = False


def find_early_limits(
    concurrency: Sequence[Limit], rate: Sequence[Limit], loop: Loop | None = None
) -> Sequence[Limit]:
    """Return the limits of a playbook or a step whose slots may be taken before it asks for them.

    Several rates agree on one time, and they are asked after the limits. A loop takes units of a rate for its
    items. All of that is done after the claim.
    """
    if rate and (concurrency or len(rate) > 1 or loop is not None):
        return ()
    return concurrency or rate


def find_templates(limits: Sequence[Limit], priority: float | str | None) -> tuple[str, ...]:
    """Return the texts on which requests depend: keys, flows and a priority, which may be templates.

    >>> find_templates([Limit(units=1, key="{{ input.a }}"), Limit(units=2)], 5)
    ('{{ input.a }}',)
    """
    texts = [priority] if isinstance(priority, str) else []
    for limit in limits:
        texts += filter(None, (limit.key, limit.fair))
    return tuple(texts)


def _refuse_key(place: str, _template: str) -> KeyText:
    raise AssertionError(f"`{place}` must be evaluated")


def make_requests(
    requester: Requester, limits: Sequence[Limit], find_named: FindNamed, read_key: KeyReader = _refuse_key
) -> tuple[SlotRequest, ...]:
    """Return the requests at limits and rates, in the order of their gates. Raise what `read_key` raises.

    Without `read_key`, the limits must have no keys and no flows.
    """
    tenant, playbook, step = requester.tenant, requester.playbook, requester.step
    requests = list[SlotRequest]()
    positions = [0, 0]  # The gates of `concurrency` and of `rate` are numbered apart.
    for limit in limits:
        position = positions[limit.is_rate]
        positions[limit.is_rate] += 1
        units = requester.rate_units if limit.is_rate else requester.width
        if not units:
            continue
        place = f"{'rate' if limit.is_rate else 'concurrency'}[{position}]"
        fair = playbook if limit.fair is None else read_key(f"{place}.fair", limit.fair).shown
        key = None
        if limit.use is not None:
            gate, name = find_named(tenant, limit.use), limit.use
        else:
            key = None if limit.key is None else read_key(f"{place}.key", limit.key)
            make_gate = own_rate_gate if limit.is_rate else own_gate
            gate = make_gate(tenant, playbook, step, position, None if key is None else key.value)
            name = playbook if step is None else f"{playbook}.{step}"
        request = SlotRequest(
            gate,
            name,
            limit.units,
            units,
            # Not every store keeps a NUL or half of a surrogate pair.
            None if key is None else to_printable(key.shown),
            queues=requester.waits and (limit.when_full != "skip" or requester.has_begun),
            rank=requester.rank,
            max_queued=None if requester.has_begun else limit.max_queued,
            is_rate=limit.is_rate,
            per=limit.per_seconds,
            max_wait=limit.max_wait_seconds,
            flow=_name_flow(tenant, gate, fair),
            cancels_oldest=limit.when_full == "cancel_oldest",
        )
        requests.append(request)
    return tuple(sorted(requests, key=_gate_of))


def _name_flow(tenant: str, gate: GateKey, fair: str) -> str:
    """Return the name of the flow of a run of a tenant, or of its visits, at a gate.

    At a limit that all tenants share, each tenant is one flow. Otherwise one with many flows would have more
    turns than the others.
    """
    return flow_name(fair if gate.tenant == tenant else tenant)
